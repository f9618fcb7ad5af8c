//! Listings of objects and versions.

use base64::{Engine, prelude::BASE64_URL_SAFE};
use s3s::{S3Request, S3Result, dto::*, s3_error};

use super::{Answer, answer};
use crate::{
    Store,
    index::{VERSIONS, decode},
    listing::{Encoding, Page, Query},
    records::{Object as ObjectRecord, Time, Version, owner},
    versions,
};

impl Store {
    pub(super) async fn list_objects(
        &self,
        request: S3Request<ListObjectsInput>,
    ) -> Answer<ListObjectsOutput> {
        let input = request.input;
        let mut query = Query::new(&input.bucket, &input.prefix, &input.delimiter, input.max_keys)?
            .first_rows();
        query.after = input.marker.clone().map(|marker| (marker, None));
        let encoding = Encoding::new(input.encoding_type.as_ref())?;
        let page = self.list(&query)?;
        let next = page.next.as_ref().filter(|_| query.delimiter.is_some());
        answer(ListObjectsOutput {
            is_truncated: Some(page.next.is_some()),
            next_marker: next.and_then(|(key, _)| encoding.name(key)),
            marker: encoding.name(input.marker.unwrap_or_default()),
            max_keys: Some(input.max_keys.unwrap_or(1000)),
            name: Some(input.bucket),
            // Clients do not decode this one.
            prefix: Some(query.prefix),
            delimiter: query.delimiter.and_then(|delimiter| encoding.name(delimiter)),
            encoding_type: input.encoding_type,
            common_prefixes: encoding.prefixes(page.prefixes),
            contents: Some(self.shown_objects(page.items, &encoding, true)),
            request_charged: None,
        })
    }

    pub(super) async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> Answer<ListObjectsV2Output> {
        let input = request.input;
        let mut query = Query::new(&input.bucket, &input.prefix, &input.delimiter, input.max_keys)?
            .first_rows();
        let after = match &input.continuation_token {
            Some(token) => Some(parse_token(token)?),
            None => input.start_after.clone(),
        };
        query.after = after.map(|key| (key, None));
        let encoding = Encoding::new(input.encoding_type.as_ref())?;
        let page = self.list(&query)?;
        let owned = input.fetch_owner == Some(true);
        answer(ListObjectsV2Output {
            key_count: i32::try_from(page.items.len() + page.prefixes.len()).ok(),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.map(|(key, _)| token(&key)),
            continuation_token: input.continuation_token,
            start_after: input.start_after.and_then(|key| encoding.name(key)),
            max_keys: Some(input.max_keys.unwrap_or(1000)),
            name: Some(input.bucket),
            prefix: encoding.name(query.prefix),
            delimiter: query.delimiter.and_then(|delimiter| encoding.name(delimiter)),
            encoding_type: input.encoding_type,
            common_prefixes: encoding.prefixes(page.prefixes),
            contents: Some(self.shown_objects(page.items, &encoding, owned)),
            request_charged: None,
        })
    }

    pub(super) async fn list_object_versions(
        &self,
        request: S3Request<ListObjectVersionsInput>,
    ) -> Answer<ListObjectVersionsOutput> {
        let input = request.input;
        let mut query = Query::new(&input.bucket, &input.prefix, &input.delimiter, input.max_keys)?;
        let encoding = Encoding::new(input.encoding_type.as_ref())?;
        self.index.bucket(&input.bucket)?;
        let table = self.index.table(VERSIONS)?;
        let marker = input.key_marker.clone().filter(|marker| !marker.is_empty());
        query.after = match (marker, input.version_id_marker.as_deref().filter(|id| !id.is_empty()))
        {
            (Some(key), Some(id)) => {
                let place = versions::place(&table, &input.bucket, &key, id)?;
                Some((key, Some(place)))
            }
            (key, _) => key.map(|key| (key, None)),
        };
        let page: Page<Version> = query.page(&table, |record| decode(record).map(Some))?;
        let has_place = page.next.as_ref().is_some_and(|(_, place)| place.is_some());
        let last = page.items.last().filter(|_| has_place).map(|(_, version)| version.id());
        let (mut shown, mut markers) = (Vec::new(), Vec::new());
        for (key, version) in page.items {
            let newest = versions::newest(&table, &input.bucket, &key)?;
            let is_latest = Some(newest.is_some_and(|newest| newest.sequence == version.sequence));
            let (id, modified) = (Some(version.id()), Some(version.modified.to_dto()));
            let (key, owner) = (encoding.name(key), Some(owner(&self.options.owner)));
            match version.object {
                Some(object) => shown.push(ObjectVersion {
                    key,
                    is_latest,
                    owner,
                    version_id: id,
                    last_modified: modified,
                    e_tag: Some(object.etag()),
                    size: i64::try_from(object.size).ok(),
                    storage_class: Some(object.headers.class().into()),
                    ..Default::default()
                }),
                None => markers.push(DeleteMarkerEntry {
                    key,
                    is_latest,
                    owner,
                    version_id: id,
                    last_modified: modified,
                }),
            }
        }
        answer(ListObjectVersionsOutput {
            next_version_id_marker: last,
            is_truncated: Some(page.next.is_some()),
            next_key_marker: page.next.and_then(|(key, _)| encoding.name(key)),
            key_marker: encoding.name(input.key_marker.unwrap_or_default()),
            version_id_marker: Some(input.version_id_marker.unwrap_or_default()),
            max_keys: Some(input.max_keys.unwrap_or(1000)),
            name: Some(input.bucket),
            prefix: encoding.name(query.prefix),
            delimiter: query.delimiter.and_then(|delimiter| encoding.name(delimiter)),
            encoding_type: input.encoding_type,
            common_prefixes: encoding.prefixes(page.prefixes),
            versions: Some(shown),
            delete_markers: Some(markers),
            request_charged: None,
        })
    }

    /// Lists the objects that are not hidden by a delete marker.
    fn list(&self, query: &Query) -> S3Result<Page<(Time, ObjectRecord)>> {
        self.index.bucket(&query.bucket)?;
        query.page(&self.index.table(VERSIONS)?, |record| {
            let version: Version = decode(record)?;
            Ok(version.object.map(|object| (version.modified, object)))
        })
    }

    fn shown_objects(
        &self,
        objects: Vec<(String, (Time, ObjectRecord))>,
        encoding: &Encoding,
        with_owner: bool,
    ) -> Vec<Object> {
        let show = |(key, (modified, object)): (String, (Time, ObjectRecord))| Object {
            key: encoding.name(key),
            last_modified: Some(modified.to_dto()),
            e_tag: Some(object.etag()),
            size: i64::try_from(object.size).ok(),
            storage_class: Some(object.headers.class().into()),
            owner: with_owner.then(|| owner(&self.options.owner)),
            ..Default::default()
        };
        objects.into_iter().map(show).collect()
    }
}

/// Returns a continuation token: the last key, so that it can be any text.
fn token(key: &str) -> String {
    BASE64_URL_SAFE.encode(key)
}

fn parse_token(token: &str) -> S3Result<String> {
    let key = BASE64_URL_SAFE.decode(token).ok().and_then(|key| String::from_utf8(key).ok());
    key.ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))
}
