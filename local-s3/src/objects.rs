//! Objects: put, read, copy and delete.

use std::ops::Range as Bytes;

use redb::ReadTransaction;
use s3s::{
    S3Error, S3Result, TrailingHeaders,
    dto::{Checksum, CopySource, HeadObjectOutput, Range, StreamingBlob, Tag},
    s3_error,
};

use crate::{
    Store,
    checksums::{Algorithm, set_sums, verify, verify_md5},
    conditions::{ReadConditions, WriteConditions, of_source},
    contents::{Content, Source, retry},
    events::Change,
    index::{Transaction, VERSIONS, encode, internal, source_in},
    records::{Headers, Object, Part, Version},
    versions,
};

/// The most bytes of a body.
const MAX_BODY: u64 = 5 << 30;

/// The most bytes of user metadata: names and values.
const MAX_METADATA: usize = 2048;

/// Returns the headers in the input of an operation that creates an object.
macro_rules! headers_of {
    ($input:expr) => {
        crate::records::Headers {
            cache_control: $input.cache_control.take(),
            content_disposition: $input.content_disposition.take(),
            content_encoding: $input.content_encoding.take(),
            content_language: $input.content_language.take(),
            content_type: $input.content_type.take(),
            expires: $input.expires.take(),
            metadata: $input.metadata.take(),
            storage_class: $input.storage_class.take().map(|class| class.as_str().to_owned()),
            website_redirect_location: $input.website_redirect_location.take(),
            tags: crate::objects::parse_tags($input.tagging.as_deref())?,
            acl: crate::access::check_acl($input.acl.as_ref().map(|acl| acl.as_str()))?,
        }
    };
}
pub(crate) use headers_of;

/// A body that a client sends, and what it says about it.
pub(crate) struct Body {
    pub(crate) stream: Option<StreamingBlob>,
    pub(crate) md5: Option<String>,
    /// The checksums in the headers.
    pub(crate) sums: Checksum,
    /// The checksums that follow the body.
    pub(crate) trailers: Option<TrailingHeaders>,
    /// The algorithms of the checksums that shall follow the body.
    pub(crate) declared: Vec<Algorithm>,
}

impl Body {
    /// Returns the algorithm of a checksum that the client sends.
    pub(crate) fn given(&self) -> Option<Algorithm> {
        Algorithm::all_of(&self.sums).first().or(self.declared.first()).copied()
    }
}

/// An object that is read, or a part of it.
pub(crate) struct Selected {
    pub(crate) version: Version,
    pub(crate) object: Object,
    pub(crate) bytes: Bytes<u64>,
    /// Whether a range or a part is read.
    pub(crate) is_partial: bool,
    part: Option<u16>,
}

/// What to read.
pub(crate) struct Selection {
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) version_id: Option<String>,
    pub(crate) range: Option<Range>,
    pub(crate) part: Option<i32>,
    pub(crate) conditions: ReadConditions,
}

impl Store {
    /// Stores and verifies a body. Computes the checksums of `algorithms`, and adds those that the client
    /// sends.
    pub(crate) async fn receive(
        &self,
        body: Body,
        algorithms: &mut Vec<Algorithm>,
    ) -> S3Result<Content> {
        let _place = self.bodies.acquire().await.map_err(internal)?;
        let stream = body.stream.ok_or_else(|| s3_error!(IncompleteBody))?;
        algorithms.extend(Algorithm::all_of(&body.sums));
        algorithms.extend(&body.declared);
        let content = self.contents.receive(stream, algorithms, MAX_BODY).await?;
        verify_md5(body.md5.as_deref(), content.md5)?;
        verify(&body.sums, &content.sums)?;
        let trailers = body.trailers.and_then(|trailers| trailers.take());
        if !body.declared.is_empty() || trailers.is_some() {
            let trailers = trailers.unwrap_or_default();
            let value = |algorithm: &str| {
                let value = trailers.get(format!("x-amz-checksum-{algorithm}"))?;
                value.to_str().ok().map(str::to_owned)
            };
            let sums = Checksum {
                checksum_crc32: value("crc32"),
                checksum_crc32c: value("crc32c"),
                checksum_crc64nvme: value("crc64nvme"),
                checksum_sha1: value("sha1"),
                checksum_sha256: value("sha256"),
                checksum_type: None,
            };
            if body.declared.iter().any(|algorithm| algorithm.of(&sums).is_none()) {
                return Err(s3_error!(
                    InvalidRequest,
                    "A checksum in x-amz-trailer did not arrive"
                ));
            }
            verify(&sums, &content.sums)?;
        }
        Ok(content)
    }

    /// Puts an object. `algorithm` is the name of the checksum that it shall have.
    pub(crate) async fn put(
        &self,
        (bucket, key): (String, String),
        body: Body,
        headers: Headers,
        algorithm: Option<Algorithm>,
        conditions: WriteConditions,
        change: Change,
    ) -> S3Result<(Version, Object)> {
        self.index.bucket(&bucket)?;
        check(&key, &headers)?;
        let algorithm = body.given().or(algorithm).unwrap_or(Algorithm::Crc64nvme);
        let content = self.receive(body, &mut vec![algorithm]).await?;
        let object = Object::whole(&content, algorithm, headers);
        self.publish((bucket, key), object, content, conditions, change).await
    }

    /// Makes an object visible.
    async fn publish(
        &self,
        (bucket, key): (String, String),
        object: Object,
        content: Content,
        conditions: WriteConditions,
        change: Change,
    ) -> S3Result<(Version, Object)> {
        let put = move |transaction: &Transaction| {
            transaction.bucket(&bucket)?;
            let newest = versions::newest(&transaction.table(VERSIONS)?, &bucket, &key)?;
            conditions.check(newest.as_ref())?;
            let version = versions::put(transaction, &bucket, &key, Some(object.clone()), change)?;
            content.keep(transaction)?;
            tracing::info!(bucket, key, size = object.size, "object created");
            Ok((version, object.clone()))
        };
        self.index.write(put).await
    }

    /// Finds what to read.
    pub(crate) fn select(&self, selection: &Selection) -> S3Result<Selected> {
        self.select_in(&self.index.read()?, selection)
    }

    /// Finds what to read, and where its bytes are: both at the same moment.
    pub(crate) fn locate(&self, selection: &Selection) -> S3Result<(Selected, Source)> {
        let view = self.index.read()?;
        let selected = self.select_in(&view, selection)?;
        let source = source_in(&view, selected.object.content.clone(), selected.bytes.clone())?;
        Ok((selected, source))
    }

    fn select_in(&self, view: &ReadTransaction, selection: &Selection) -> S3Result<Selected> {
        let Selection { bucket, key, version_id, range, part, conditions } = selection;
        self.index.bucket(bucket)?;
        let table = view.open_table(VERSIONS).map_err(internal)?;
        let (version, object) = versions::object(&table, bucket, key, version_id.as_deref())?;
        conditions.check(&object, version.modified)?;
        let part = part.map(u16::try_from).transpose().map_err(|_| no_such_part())?;
        let bytes = match (range, part) {
            (Some(_), Some(_)) => {
                return Err(s3_error!(
                    InvalidRequest,
                    "Cannot specify both Range header and partNumber"
                ));
            }
            (Some(range), None) => range.check(object.size)?,
            (None, Some(number)) => part_range(&object, number).ok_or_else(no_such_part)?,
            (None, None) => 0..object.size,
        };
        let is_partial = range.is_some() || part.is_some();
        Ok(Selected { version, object, bytes, is_partial, part })
    }

    /// Copies an object. `is_replaced` tells that the client sent all headers anew.
    pub(crate) async fn copy(
        &self,
        (bucket, key): (String, String),
        source: &Selection,
        (headers, is_replaced): (Headers, bool),
        algorithm: Option<Algorithm>,
    ) -> S3Result<(Version, Object, Version)> {
        self.index.bucket(&bucket)?;
        let Selected { object, .. } = self.select(source).map_err(of_source)?;
        check(&key, &headers)?;
        let is_itself = (&bucket, &key) == (&source.bucket, &source.key);
        let is_changed = is_replaced || source.version_id.is_some() || headers != object.headers;
        if is_itself && !is_changed {
            return Err(s3_error!(
                InvalidRequest,
                "This copy request is illegal because it is trying to copy an object to itself without \
                 changing the object's metadata, storage class, website redirect location or \
                 encryption attributes."
            ));
        }
        let own = object.sum.as_ref().map(|sum| sum.algorithm);
        let algorithm = algorithm.or(own).unwrap_or(Algorithm::Crc64nvme);
        let (Selected { version, .. }, content) = self.copy_content(source, &[algorithm]).await?;
        let object = Object::whole(&content, algorithm, headers);
        let conditions = WriteConditions::default();
        let (new, object) =
            self.publish((bucket, key), object, content, conditions, Change::Copy).await?;
        Ok((new, object, version))
    }

    /// Copies the bytes that a copy reads.
    pub(crate) async fn copy_content(
        &self,
        source: &Selection,
        algorithms: &[Algorithm],
    ) -> S3Result<(Selected, Content)> {
        retry(|| async {
            let (selected, source) = self.locate(source).map_err(of_source)?;
            Ok((selected, self.contents.copy(vec![source], algorithms).await?))
        })
        .await
    }

    /// Returns an object and its version.
    pub(crate) fn object(
        &self,
        bucket: &str,
        key: &str,
        id: Option<&str>,
    ) -> S3Result<(Version, Object)> {
        self.index.bucket(bucket)?;
        versions::object(&self.index.table(VERSIONS)?, bucket, key, id)
    }

    /// Changes the headers of a version. Returns the version.
    pub(crate) async fn change_headers(
        &self,
        (bucket, key): (String, String),
        id: Option<String>,
        change: impl Fn(&mut Headers) + Send + 'static,
    ) -> S3Result<Version> {
        let put = move |transaction: &Transaction| {
            transaction.bucket(&bucket)?;
            let mut table = transaction.table(VERSIONS)?;
            let (version, mut object) = versions::object(&table, &bucket, &key, id.as_deref())?;
            change(&mut object.headers);
            let record = encode(&Version { object: Some(object), ..version.clone() })?;
            let place = (bucket.as_str(), key.as_bytes(), !version.sequence);
            table.insert(place, record.as_slice()).map_err(internal)?;
            Ok(version)
        };
        self.index.write(put).await
    }
}

impl Selected {
    /// Describes the object for HEAD and GET. GET adds the content.
    pub(crate) fn describe(&self, with_sums: bool) -> HeadObjectOutput {
        let Object { size, headers, sum, parts, .. } = self.object.clone();
        let range = (self.is_partial && size > 0).then(|| {
            format!("bytes {}-{}/{size}", self.bytes.start, self.bytes.end.saturating_sub(1))
        });
        let class = headers.unusual_class().map(|class| class.to_owned().into());
        let mut output = HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: i64::try_from(self.bytes.end - self.bytes.start).ok(),
            content_range: range,
            content_type: headers.content_type.or_else(|| Some("binary/octet-stream".to_owned())),
            cache_control: headers.cache_control,
            content_disposition: headers.content_disposition,
            content_encoding: headers.content_encoding,
            content_language: headers.content_language,
            expires: headers.expires,
            e_tag: Some(self.object.etag()),
            last_modified: Some(self.version.modified.to_dto()),
            metadata: headers.metadata,
            parts_count: self
                .part
                .filter(|_| !parts.is_empty())
                .and(i32::try_from(parts.len()).ok()),
            storage_class: class,
            version_id: self.version.shown_id(),
            website_redirect_location: headers.website_redirect_location,
            ..Default::default()
        };
        // A range has no checksum of its own.
        let part = self.part.and_then(|number| parts.get(usize::from(number).checked_sub(1)?));
        let of_part = |part: &Part| part.sums.first().cloned();
        let sum = if self.is_partial { part.and_then(of_part) } else { sum };
        if let Some(sum) = sum.filter(|_| with_sums) {
            output.checksum_type = Some(sum.kind());
            set_sums!(output, sum.to_dto());
        }
        output
    }
}

/// Returns the source of a copy.
///
/// # Errors
/// If it names an access point.
pub(crate) fn source_of(source: &CopySource, conditions: ReadConditions) -> S3Result<Selection> {
    let CopySource::Bucket { bucket, key, version_id } = source else {
        return Err(s3_error!(NotImplemented, "access points are not supported"));
    };
    let version_id = version_id.as_deref().map(str::to_owned);
    let (bucket, key) = (bucket.to_string(), key.to_string());
    Ok(Selection { bucket, key, version_id, range: None, part: None, conditions })
}

/// Checks what S3 limits.
pub(crate) fn check(key: &str, headers: &Headers) -> S3Result<()> {
    if key.is_empty() {
        return Err(s3_error!(InvalidArgument, "An object key cannot be empty"));
    }
    if key.len() > 1024 {
        return Err(s3_error!(KeyTooLongError, "Your key is too long"));
    }
    let metadata = headers.metadata.iter().flatten();
    if metadata.map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_METADATA {
        return Err(s3_error!(MetadataTooLarge));
    }
    crate::records::check_tags(&headers.tags)
}

/// Parses tags as the header `x-amz-tagging` has them: as a query string.
pub(crate) fn parse_tags(tagging: Option<&str>) -> S3Result<Vec<Tag>> {
    let decode = |text: &str| {
        let spaced = text.replace('+', " ");
        let decoded = percent_encoding::percent_decode_str(&spaced).decode_utf8();
        decoded.map(|text| Some(text.into_owned())).map_err(|_| s3_error!(InvalidTag))
    };
    let pairs = tagging.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.map(|(key, value)| Ok(Tag { key: decode(key)?, value: decode(value)? })).collect()
}

/// Returns the bytes of a part. An object that was put as a whole is its only part.
fn part_range(object: &Object, number: u16) -> Option<Bytes<u64>> {
    if object.parts.is_empty() {
        return (number == 1).then_some(0..object.size);
    }
    let index = usize::from(number.checked_sub(1)?);
    let part = object.parts.get(index)?;
    let start = object.parts[..index].iter().map(|part: &Part| part.size).sum();
    Some(start..start + part.size)
}

fn no_such_part() -> S3Error {
    s3_error!(InvalidPart, "The requested part number is not satisfiable")
}
