//! The operations of S3 behind the trait of s3s.

use base64::{Engine, prelude::BASE64_URL_SAFE};
use redb::ReadableTable;
use s3s::{S3, S3Request, S3Response, S3Result, dto::*, s3_error};

use crate::{
    Store,
    access::check_acl,
    checksums::{Algorithm, Sum, set_sums, sums_of},
    conditions::{ReadConditions, WriteConditions, of_source},
    events::{Change, encode_key},
    index::{BUCKETS, UPLOADS, VERSIONS, decode, encode, internal},
    listing::{Encoding, Page, Query},
    multipart::{Expected, UploadPath},
    objects::{Body, Selected, Selection, headers_of, source_of},
    records::{
        Bucket as BucketRecord, Headers, Object as ObjectRecord, Time, Upload, Version, Versioning,
        check_tags, owner,
    },
    versions,
};

type Answer<T> = S3Result<S3Response<T>>;

fn answer<T>(output: T) -> Answer<T> {
    Ok(S3Response::new(output))
}

/// Returns the conditions in the input of an operation that reads.
macro_rules! read_conditions {
    ($input:expr) => {
        ReadConditions {
            if_match: $input.if_match,
            if_none_match: $input.if_none_match,
            if_modified_since: $input.if_modified_since,
            if_unmodified_since: $input.if_unmodified_since,
        }
    };
}

/// Returns the source of a copy, and the conditions on it.
macro_rules! copy_source {
    ($input:expr) => {
        source_of(
            &$input.copy_source,
            ReadConditions {
                if_match: $input.copy_source_if_match,
                if_none_match: $input.copy_source_if_none_match,
                if_modified_since: $input.copy_source_if_modified_since,
                if_unmodified_since: $input.copy_source_if_unmodified_since,
            },
        )?
    };
}

/// Returns the body of a request, and what the client says about it.
macro_rules! body_of {
    ($request:expr) => {
        Body {
            stream: $request.input.body.take(),
            // s3s takes an empty header for none.
            md5: $request
                .input
                .content_md5
                .take()
                .or($request.headers.get("content-md5").map(|_| String::new())),
            sums: sums_of!($request.input),
            trailers: $request.trailing_headers.take(),
        }
    };
}

/// Returns what to read.
macro_rules! selection {
    ($input:expr) => {
        Selection {
            bucket: $input.bucket,
            key: $input.key,
            version_id: $input.version_id,
            range: $input.range,
            part: $input.part_number,
            conditions: read_conditions!($input),
        }
    };
}

/// Puts the object of a request, and returns the output.
macro_rules! put {
    ($self:expr, $request:expr, $output:ident, $change:expr) => {{
        let body = body_of!($request);
        let mut input = $request.input;
        let algorithm = algorithm(input.checksum_algorithm.as_ref())?;
        let conditions = WriteConditions {
            if_match: input.if_match.take(),
            if_none_match: input.if_none_match.take(),
            ..Default::default()
        };
        let headers = headers_of!(input);
        let place = (input.bucket, input.key);
        let (version, object) =
            $self.put(place, body, headers, algorithm, conditions, $change).await?;
        let mut output = $output {
            e_tag: Some(object.etag()),
            version_id: version.shown_id(),
            ..Default::default()
        };
        if let Some(sum) = &object.sum {
            output.checksum_type = Some(sum.kind());
            set_sums!(output, sum.to_dto());
        }
        answer(output)
    }};
}

#[async_trait::async_trait]
impl S3 for Store {
    async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> Answer<CreateBucketOutput> {
        let CreateBucketInput { bucket: name, acl, .. } = request.input;
        let acl = check_acl(acl.as_ref().map(BucketCannedACL::as_str))?;
        // As in the oldest region of AWS: to create a bucket that exists changes nothing.
        self.add_bucket(&name, Versioning::Never, acl).await?;
        answer(CreateBucketOutput { location: Some(format!("/{name}")) })
    }

    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> Answer<HeadBucketOutput> {
        self.index.bucket(&request.input.bucket)?;
        let bucket_region = Some(self.options.region.clone());
        answer(HeadBucketOutput { bucket_region, ..Default::default() })
    }

    async fn list_buckets(
        &self,
        request: S3Request<ListBucketsInput>,
    ) -> Answer<ListBucketsOutput> {
        let ListBucketsInput { prefix, continuation_token, max_buckets, .. } = request.input;
        let table = self.index.table(BUCKETS)?;
        let after = continuation_token.as_deref().unwrap_or_default();
        let max = max_buckets.and_then(|max| usize::try_from(max).ok()).unwrap_or(10_000);
        let mut buckets = Vec::new();
        let mut next = None;
        // Nobody else owns a bucket.
        let max = if request.credentials.is_some() { max } else { 0 };
        for row in table.range(after..).map_err(internal)? {
            let (name, record) = row.map_err(internal)?;
            let name = name.value().to_owned();
            if name == after || prefix.as_ref().is_some_and(|prefix| !name.starts_with(prefix)) {
                continue;
            }
            if buckets.len() == max {
                next = buckets.last().and_then(|last: &Bucket| last.name.clone());
                break;
            }
            let record: BucketRecord = decode(record.value())?;
            let creation_date = Some(record.created.to_dto());
            buckets.push(Bucket { name: Some(name), creation_date, ..Default::default() });
        }
        let owner = Some(owner(&self.options.owner));
        answer(ListBucketsOutput {
            buckets: Some(buckets),
            owner,
            prefix,
            continuation_token: next,
        })
    }

    async fn delete_bucket(
        &self,
        request: S3Request<DeleteBucketInput>,
    ) -> Answer<DeleteBucketOutput> {
        let name = request.input.bucket;
        let delete = move |transaction: &crate::index::Transaction| {
            transaction.bucket(&name)?;
            for table in [VERSIONS, UPLOADS] {
                let table = transaction.table(table)?;
                let mut rows =
                    table.range((name.as_str(), [].as_slice(), 0)..).map_err(internal)?;
                let row = rows.next().transpose().map_err(internal)?;
                if row.is_some_and(|(key, _)| key.value().0 == name) {
                    return Err(s3_error!(
                        BucketNotEmpty,
                        "The bucket you tried to delete is not empty"
                    ));
                }
            }
            transaction.table(BUCKETS)?.remove(name.as_str()).map_err(internal)?;
            Ok(())
        };
        self.index.write(delete).await?;
        answer(DeleteBucketOutput::default())
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> Answer<GetBucketLocationOutput> {
        self.index.bucket(&request.input.bucket)?;
        let region = Some(self.options.region.clone()).filter(|region| region != "us-east-1");
        answer(GetBucketLocationOutput { location_constraint: region.map(Into::into) })
    }

    async fn get_bucket_versioning(
        &self,
        request: S3Request<GetBucketVersioningInput>,
    ) -> Answer<GetBucketVersioningOutput> {
        let status = match self.index.bucket(&request.input.bucket)?.versioning {
            Versioning::Never => None,
            Versioning::Enabled => Some(BucketVersioningStatus::ENABLED),
            Versioning::Suspended => Some(BucketVersioningStatus::SUSPENDED),
        };
        let status = status.map(BucketVersioningStatus::from_static);
        answer(GetBucketVersioningOutput { status, mfa_delete: None })
    }

    async fn put_bucket_versioning(
        &self,
        request: S3Request<PutBucketVersioningInput>,
    ) -> Answer<PutBucketVersioningOutput> {
        let PutBucketVersioningInput { bucket, versioning_configuration, .. } = request.input;
        let status = versioning_configuration.status.as_ref().map(BucketVersioningStatus::as_str);
        let versioning = match status {
            Some(BucketVersioningStatus::ENABLED) => Versioning::Enabled,
            Some(BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
            _ => return Err(s3_error!(MalformedXML, "The status is Enabled or Suspended")),
        };
        self.change_bucket(bucket, move |bucket| bucket.versioning = versioning).await?;
        answer(PutBucketVersioningOutput::default())
    }

    async fn get_bucket_acl(
        &self,
        request: S3Request<GetBucketAclInput>,
    ) -> Answer<GetBucketAclOutput> {
        let acl = self.index.bucket(&request.input.bucket)?.acl;
        let (owner, grants) = (Some(owner(&self.options.owner)), Some(self.grants(acl.as_deref())));
        answer(GetBucketAclOutput { owner, grants })
    }

    async fn put_bucket_acl(
        &self,
        request: S3Request<PutBucketAclInput>,
    ) -> Answer<PutBucketAclOutput> {
        let PutBucketAclInput { bucket, acl, .. } = request.input;
        let acl = check_acl(acl.as_ref().map(BucketCannedACL::as_str))?;
        self.change_bucket(bucket, move |bucket| bucket.acl = acl.or(bucket.acl.take())).await?;
        answer(PutBucketAclOutput::default())
    }

    async fn get_object_acl(
        &self,
        request: S3Request<GetObjectAclInput>,
    ) -> Answer<GetObjectAclOutput> {
        let GetObjectAclInput { bucket, key, version_id, .. } = request.input;
        let (_, object) = self.object(&bucket, &key, version_id.as_deref())?;
        let acl = object.headers.acl.as_deref();
        let (owner, grants) = (Some(owner(&self.options.owner)), Some(self.grants(acl)));
        answer(GetObjectAclOutput { owner, grants, request_charged: None })
    }

    async fn put_object_acl(
        &self,
        request: S3Request<PutObjectAclInput>,
    ) -> Answer<PutObjectAclOutput> {
        let PutObjectAclInput { bucket, key, version_id, acl, .. } = request.input;
        let acl = check_acl(acl.as_ref().map(ObjectCannedACL::as_str))?;
        let change = move |headers: &mut Headers| headers.acl = acl.or(headers.acl.take());
        self.change_headers((bucket, key), version_id, change).await?;
        answer(PutObjectAclOutput::default())
    }

    async fn put_object(&self, mut request: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
        let names_length = ["content-length", "x-amz-decoded-content-length"];
        if !names_length.iter().any(|name| request.headers.contains_key(*name)) {
            return Err(s3_error!(MissingContentLength));
        }
        put!(self, request, PutObjectOutput, Change::Put)
    }

    async fn post_object(
        &self,
        mut request: S3Request<PostObjectInput>,
    ) -> Answer<PostObjectOutput> {
        let input = &request.input;
        let redirect = input.success_action_redirect.clone();
        let (bucket, key) = (encode_key(&input.bucket), encode_key(&input.key));
        let mut response: S3Response<PostObjectOutput> =
            put!(self, request, PostObjectOutput, Change::Post)?;
        // s3s leaves out the quotes of the entity tag.
        if let (Some(redirect), Some(etag)) = (redirect, &response.output.e_tag) {
            let joint = if redirect.contains('?') { '&' } else { '?' };
            let etag = etag.value();
            let target = format!("{redirect}{joint}bucket={bucket}&key={key}&etag=%22{etag}%22");
            response.headers.insert(http::header::LOCATION, target.parse().map_err(internal)?);
        }
        Ok(response)
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
        let input = request.input;
        let with_sums = input.checksum_mode.is_some();
        answer(self.select(&selection!(input))?.describe(with_sums))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
        let input = request.input;
        let with_sums = input.checksum_mode.is_some();
        let selected = self.select(&selection!(input))?;
        let head = selected.describe(with_sums);
        let tag_count =
            i32::try_from(selected.object.headers.tags.len()).ok().filter(|count| *count > 0);
        let Selected { object, bytes, .. } = selected;
        let mut output = GetObjectOutput {
            body: Some(self.contents.read(object.content, bytes).await?),
            accept_ranges: head.accept_ranges.clone(),
            cache_control: head.cache_control.clone(),
            checksum_type: head.checksum_type.clone(),
            content_disposition: head.content_disposition.clone(),
            content_encoding: head.content_encoding.clone(),
            content_language: head.content_language.clone(),
            content_length: head.content_length,
            content_range: head.content_range.clone(),
            content_type: head.content_type.clone(),
            e_tag: head.e_tag.clone(),
            expires: head.expires.clone(),
            last_modified: head.last_modified.clone(),
            metadata: head.metadata.clone(),
            parts_count: head.parts_count,
            storage_class: head.storage_class.clone(),
            tag_count,
            version_id: head.version_id.clone(),
            website_redirect_location: head.website_redirect_location.clone(),
            ..Default::default()
        };
        set_sums!(output, sums_of!(head));
        answer(output)
    }

    async fn get_object_attributes(
        &self,
        request: S3Request<GetObjectAttributesInput>,
    ) -> Answer<GetObjectAttributesOutput> {
        let input = request.input;
        let (version, object) =
            self.object(&input.bucket, &input.key, input.version_id.as_deref())?;
        let wants =
            |name: &str| input.object_attributes.iter().any(|wanted| wanted.as_str() == name);
        let parts = (wants("ObjectParts") && !object.parts.is_empty()).then(|| {
            let after = input.part_number_marker.unwrap_or(0);
            let max = input.max_parts.unwrap_or(1000).clamp(0, 1000);
            let algorithm = object.sum.as_ref().map(|sum| sum.algorithm);
            // The parts of an object are numbered anew, without gaps.
            let parts = (1..).zip(&object.parts).filter(|(number, _)| *number > after);
            let shown: Vec<_> = parts
                .take(max.try_into().unwrap_or(0))
                .map(|(number, part)| {
                    let mut shown = ObjectPart::default();
                    (shown.part_number, shown.size) = (Some(number), i64::try_from(part.size).ok());
                    if let Some(sum) = algorithm.and_then(|algorithm| part.sum(algorithm)) {
                        set_sums!(shown, sum.to_dto());
                    }
                    shown
                })
                .collect();
            let last = shown.last().and_then(|part| part.part_number).unwrap_or(after);
            let total = i32::try_from(object.parts.len()).unwrap_or(i32::MAX);
            GetObjectAttributesParts {
                is_truncated: Some(last < total),
                max_parts: Some(max),
                next_part_number_marker: Some(last),
                part_number_marker: Some(after),
                parts: Some(shown),
                total_parts_count: Some(total),
            }
        });
        answer(GetObjectAttributesOutput {
            checksum: object.sum.as_ref().filter(|_| wants("Checksum")).map(Sum::to_bare_dto),
            e_tag: wants("ETag").then(|| object.etag()),
            last_modified: Some(version.modified.to_dto()),
            object_parts: parts,
            object_size: i64::try_from(object.size).ok().filter(|_| wants("ObjectSize")),
            storage_class: wants("StorageClass").then(|| object.headers.class().into()),
            version_id: version.shown_id(),
            ..Default::default()
        })
    }

    async fn copy_object(&self, request: S3Request<CopyObjectInput>) -> Answer<CopyObjectOutput> {
        let mut input = request.input;
        let source = copy_source!(input);
        let replaces = |directive: Option<&str>| directive == Some("REPLACE");
        let replaces_metadata =
            replaces(input.metadata_directive.as_ref().map(MetadataDirective::as_str));
        let replaces_tags =
            replaces(input.tagging_directive.as_ref().map(TaggingDirective::as_str));
        let old = self.select(&source).map_err(of_source)?.object;
        let new = headers_of!(input);
        let mut headers = if replaces_metadata { new.clone() } else { old.headers.clone() };
        headers.tags = if replaces_tags { new.tags } else { old.headers.tags };
        headers.storage_class = new.storage_class;
        headers.acl = new.acl;
        headers.website_redirect_location = new.website_redirect_location;
        let algorithm = algorithm(input.checksum_algorithm.as_ref())?;
        let place = (input.bucket, input.key);
        let (version, object, from) =
            self.copy(place, &source, (headers, replaces_metadata), algorithm).await?;
        let mut result = CopyObjectResult {
            e_tag: Some(object.etag()),
            last_modified: Some(version.modified.to_dto()),
            ..Default::default()
        };
        if let Some(sum) = &object.sum {
            result.checksum_type = Some(sum.kind());
            set_sums!(result, sum.to_dto());
        }
        answer(CopyObjectOutput {
            copy_object_result: Some(result),
            copy_source_version_id: from.shown_id(),
            version_id: version.shown_id(),
            ..Default::default()
        })
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> Answer<DeleteObjectOutput> {
        let input = request.input;
        let conditions = WriteConditions {
            if_match: input.if_match,
            if_size: input.if_match_size,
            if_modified_at: input.if_match_last_modified_time,
            ..Default::default()
        };
        let delete = move |transaction: &crate::index::Transaction| {
            let id = input.version_id.as_deref();
            versions::delete(transaction, (&input.bucket, &input.key), id, &conditions)
        };
        let deletion = self.index.write(delete).await?;
        answer(DeleteObjectOutput {
            delete_marker: deletion.is_marker.then_some(true),
            version_id: deletion.version_id,
            request_charged: None,
        })
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> Answer<DeleteObjectsOutput> {
        let DeleteObjectsInput { bucket, delete: Delete { objects, quiet }, .. } = request.input;
        if objects.is_empty() || objects.len() > 1000 {
            return Err(s3_error!(MalformedXML, "A request deletes between 1 and 1000 objects"));
        }
        let delete = move |transaction: &crate::index::Transaction| {
            transaction.bucket(&bucket)?;
            let (mut deleted, mut errors) = (Vec::new(), Vec::new());
            for ObjectIdentifier { key, version_id, e_tag, last_modified_time, size } in objects {
                let conditions = WriteConditions {
                    if_match: e_tag.map(ETagCondition::ETag),
                    if_size: size,
                    if_modified_at: last_modified_time,
                    ..Default::default()
                };
                let id = version_id.as_deref();
                match versions::delete(transaction, (&bucket, &key), id, &conditions) {
                    Ok(deletion) => deleted.push(DeletedObject {
                        key: Some(key),
                        delete_marker: deletion.is_marker.then_some(true),
                        delete_marker_version_id: deletion
                            .version_id
                            .filter(|_| deletion.is_marker),
                        version_id,
                    }),
                    Err(error) if *error.code() == s3s::S3ErrorCode::InternalError => {
                        return Err(error);
                    }
                    Err(error) => errors.push(Error {
                        code: Some(error.code().as_str().to_owned()),
                        key: Some(key),
                        message: error.message().map(str::to_owned),
                        version_id,
                    }),
                }
            }
            Ok((deleted, errors))
        };
        let (deleted, errors) = self.index.write(delete).await?;
        let deleted = Some(deleted).filter(|_| quiet != Some(true));
        answer(DeleteObjectsOutput { deleted, errors: Some(errors), request_charged: None })
    }

    async fn list_objects(
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

    async fn list_objects_v2(
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

    async fn list_object_versions(
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
                let marker = versions::find(&table, &input.bucket, &key, Some(id))?;
                Some((key, marker.map(|marker| !marker.sequence)))
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

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> Answer<CreateMultipartUploadOutput> {
        let mut input = request.input;
        let headers = headers_of!(input);
        let algorithm = algorithm(input.checksum_algorithm.as_ref())?;
        let composite =
            input.checksum_type.as_ref().map(|kind| kind.as_str() == ChecksumType::COMPOSITE);
        let place = (input.bucket.clone(), input.key.clone());
        let upload = self.begin_upload(place, headers, algorithm, composite).await?;
        answer(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(upload.id()),
            checksum_type: input.checksum_algorithm.as_ref().map(|_| upload.kind()),
            checksum_algorithm: input.checksum_algorithm,
            ..Default::default()
        })
    }

    async fn upload_part(
        &self,
        mut request: S3Request<UploadPartInput>,
    ) -> Answer<UploadPartOutput> {
        let body = body_of!(request);
        let input = request.input;
        let given = Algorithm::all_of(&body.sums).first().copied();
        let given = given.or(algorithm(input.checksum_algorithm.as_ref())?);
        let path = UploadPath { bucket: input.bucket, key: input.key, id: input.upload_id };
        let part = self.receive_part(path, input.part_number, given, body).await?;
        let mut output = UploadPartOutput { e_tag: Some(part.etag()), ..Default::default() };
        if let Some(sum) = given.and_then(|given| part.sum(given)) {
            set_sums!(output, sum.to_dto());
        }
        answer(output)
    }

    async fn upload_part_copy(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> Answer<UploadPartCopyOutput> {
        let input = request.input;
        let mut source = copy_source!(input);
        let wrong = || {
            s3_error!(InvalidArgument, "The x-amz-copy-source-range value must be bytes=first-last")
        };
        if let Some(range) = &input.copy_source_range {
            let range = Range::parse(range).map_err(|_| wrong())?;
            let Range::Int { last: Some(last), .. } = range else { return Err(wrong()) };
            let size = self.select(&source).map_err(of_source)?.object.size;
            if last >= size {
                return Err(s3_error!(InvalidRange, "The range ends after the source"));
            }
            source.range = Some(range);
        }
        let path = UploadPath { bucket: input.bucket, key: input.key, id: input.upload_id };
        let (part, from) = self.copy_part(path, input.part_number, &source).await?;
        let result = CopyPartResult {
            e_tag: Some(part.etag()),
            last_modified: Some(part.modified.to_dto()),
            ..Default::default()
        };
        answer(UploadPartCopyOutput {
            copy_part_result: Some(result),
            copy_source_version_id: from.shown_id(),
            ..Default::default()
        })
    }

    async fn list_parts(&self, request: S3Request<ListPartsInput>) -> Answer<ListPartsOutput> {
        let ListPartsInput { bucket, key, upload_id, max_parts, part_number_marker, .. } =
            request.input;
        let path = UploadPath { bucket, key, id: upload_id };
        let upload = self.upload(&path)?;
        let after = part_number_marker.unwrap_or(0);
        let max = max_parts.unwrap_or(1000).clamp(0, 1000);
        let mut parts = self.parts(&upload)?;
        parts.retain(|part| i32::from(part.number) > after);
        let is_truncated = parts.len() > usize::try_from(max).unwrap_or(0);
        parts.truncate(usize::try_from(max).unwrap_or(0));
        let shown = parts.iter().map(|part| {
            let mut shown = Part {
                e_tag: Some(part.etag()),
                last_modified: Some(part.modified.to_dto()),
                part_number: Some(part.number.into()),
                size: i64::try_from(part.size).ok(),
                ..Default::default()
            };
            if let Some(sum) = part.sum(upload.algorithm).filter(|_| upload.is_named) {
                set_sums!(shown, sum.to_dto());
            }
            shown
        });
        let owner = Some(owner(&self.options.owner));
        answer(ListPartsOutput {
            bucket: Some(path.bucket),
            key: Some(path.key),
            upload_id: Some(path.id),
            parts: Some(shown.collect()),
            is_truncated: Some(is_truncated),
            max_parts: Some(max),
            part_number_marker: Some(after),
            next_part_number_marker: parts.last().map(|part| part.number.into()),
            storage_class: Some(upload.headers.class().into()),
            initiator: owner
                .clone()
                .map(|Owner { display_name, id }| Initiator { display_name, id }),
            owner,
            checksum_algorithm: upload.is_named.then(|| upload.algorithm.name().to_owned().into()),
            checksum_type: upload.is_named.then(|| upload.kind()),
            ..Default::default()
        })
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> Answer<ListMultipartUploadsOutput> {
        let input = request.input;
        let mut query =
            Query::new(&input.bucket, &input.prefix, &input.delimiter, input.max_uploads)?;
        let encoding = Encoding::new(input.encoding_type.as_ref())?;
        self.index.bucket(&input.bucket)?;
        let after = input.upload_id_marker.as_deref().and_then(crate::records::parse_id);
        query.after = input.key_marker.clone().map(|key| (key, after));
        let table = self.index.table(UPLOADS)?;
        let page: Page<Upload> = query.page(&table, |record| decode(record).map(Some))?;
        let owner = Some(owner(&self.options.owner));
        let shown = page.items.into_iter().map(|(key, upload)| MultipartUpload {
            key: encoding.name(key),
            upload_id: Some(upload.id()),
            initiated: Some(upload.initiated.to_dto()),
            storage_class: Some(upload.headers.class().into()),
            initiator: owner
                .clone()
                .map(|Owner { display_name, id }| Initiator { display_name, id }),
            owner: owner.clone(),
            ..Default::default()
        });
        answer(ListMultipartUploadsOutput {
            uploads: Some(shown.collect()),
            is_truncated: Some(page.next.is_some()),
            next_upload_id_marker: page
                .next
                .as_ref()
                .and_then(|(_, id)| Some(crate::records::format_id((*id)?))),
            next_key_marker: page.next.and_then(|(key, _)| encoding.name(key)),
            key_marker: encoding.name(input.key_marker.unwrap_or_default()),
            upload_id_marker: Some(input.upload_id_marker.unwrap_or_default()),
            max_uploads: Some(input.max_uploads.unwrap_or(1000)),
            bucket: Some(input.bucket),
            prefix: encoding.name(query.prefix),
            delimiter: query.delimiter.and_then(|delimiter| encoding.name(delimiter)),
            encoding_type: input.encoding_type,
            common_prefixes: encoding.prefixes(page.prefixes),
            request_charged: None,
        })
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> Answer<CompleteMultipartUploadOutput> {
        let input = request.input;
        let expected = Expected {
            size: input.mpu_object_size,
            sums: sums_of!(input),
            conditions: WriteConditions {
                if_match: input.if_match,
                if_none_match: input.if_none_match,
                ..Default::default()
            },
        };
        let named = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let (bucket, key) = (input.bucket, input.key);
        let path = UploadPath { bucket: bucket.clone(), key: key.clone(), id: input.upload_id };
        let (version, object) = self.complete_upload(path, &named, expected).await?;
        let mut output = CompleteMultipartUploadOutput {
            location: Some(format!("/{bucket}/{key}")),
            bucket: Some(bucket),
            key: Some(key),
            e_tag: Some(object.etag()),
            version_id: version.shown_id(),
            ..Default::default()
        };
        if let Some(sum) = &object.sum {
            output.checksum_type = Some(sum.kind());
            set_sums!(output, sum.to_dto());
        }
        answer(output)
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> Answer<AbortMultipartUploadOutput> {
        let AbortMultipartUploadInput { bucket, key, upload_id, .. } = request.input;
        self.abort_upload(UploadPath { bucket, key, id: upload_id }).await?;
        answer(AbortMultipartUploadOutput::default())
    }

    async fn get_object_tagging(
        &self,
        request: S3Request<GetObjectTaggingInput>,
    ) -> Answer<GetObjectTaggingOutput> {
        let GetObjectTaggingInput { bucket, key, version_id, .. } = request.input;
        let (version, object) = self.object(&bucket, &key, version_id.as_deref())?;
        answer(GetObjectTaggingOutput {
            tag_set: object.headers.tags,
            version_id: version.shown_id(),
        })
    }

    async fn put_object_tagging(
        &self,
        request: S3Request<PutObjectTaggingInput>,
    ) -> Answer<PutObjectTaggingOutput> {
        let PutObjectTaggingInput { bucket, key, version_id, tagging, .. } = request.input;
        check_tags(&tagging.tag_set)?;
        let change = move |headers: &mut Headers| headers.tags = tagging.tag_set;
        let version = self.change_headers((bucket, key), version_id, change).await?;
        answer(PutObjectTaggingOutput { version_id: version.shown_id() })
    }

    async fn delete_object_tagging(
        &self,
        request: S3Request<DeleteObjectTaggingInput>,
    ) -> Answer<DeleteObjectTaggingOutput> {
        let DeleteObjectTaggingInput { bucket, key, version_id, .. } = request.input;
        let change = |headers: &mut Headers| headers.tags.clear();
        let version = self.change_headers((bucket, key), version_id, change).await?;
        let version_id = version.shown_id();
        let mut response = S3Response::new(DeleteObjectTaggingOutput { version_id });
        response.status = Some(http::StatusCode::NO_CONTENT);
        Ok(response)
    }
}

impl Store {
    async fn change_bucket(
        &self,
        name: String,
        change: impl FnOnce(&mut BucketRecord) + Send + 'static,
    ) -> S3Result<()> {
        let put = move |transaction: &crate::index::Transaction| {
            let mut bucket = transaction.bucket(&name)?;
            change(&mut bucket);
            let record = encode(&bucket)?;
            let mut buckets = transaction.table(BUCKETS)?;
            buckets.insert(name.as_str(), record.as_slice()).map_err(internal)?;
            Ok(())
        };
        self.index.write(put).await
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

fn algorithm(named: Option<&ChecksumAlgorithm>) -> S3Result<Option<Algorithm>> {
    named.map(|named| Algorithm::parse(named.as_str())).transpose()
}

/// Returns a continuation token: the last key, so that it can be any text.
fn token(key: &str) -> String {
    BASE64_URL_SAFE.encode(key)
}

fn parse_token(token: &str) -> S3Result<String> {
    let key = BASE64_URL_SAFE.decode(token).ok().and_then(|key| String::from_utf8(key).ok());
    key.ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))
}
