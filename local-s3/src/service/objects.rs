//! Operations on objects.

use s3s::{S3ErrorCode, S3Request, S3Response, S3Result, dto::*, s3_error};

use super::{Answer, algorithm, answer};
use crate::{
    Store,
    access::check_acl,
    checksums::{Sum, set_sums, sums_of},
    conditions::{ReadConditions, WriteConditions, of_source},
    contents::retry,
    events::{Change, encode_key},
    index::{Transaction, internal},
    objects::{Body, Selected, Selection, headers_of, source_of},
    records::{Headers, check_tags, owner},
    versions,
};

impl Store {
    pub(super) async fn get_object_acl(
        &self,
        request: S3Request<GetObjectAclInput>,
    ) -> Answer<GetObjectAclOutput> {
        let GetObjectAclInput { bucket, key, version_id, .. } = request.input;
        let (_, object) = self.object(&bucket, &key, version_id.as_deref())?;
        let acl = object.headers.acl.as_deref();
        let (owner, grants) = (Some(owner(&self.options.owner)), Some(self.grants(acl)));
        answer(GetObjectAclOutput { owner, grants, request_charged: None })
    }

    pub(super) async fn put_object_acl(
        &self,
        request: S3Request<PutObjectAclInput>,
    ) -> Answer<PutObjectAclOutput> {
        let PutObjectAclInput { bucket, key, version_id, acl, .. } = request.input;
        let acl = check_acl(acl.as_ref().map(ObjectCannedACL::as_str))?;
        let change = move |headers: &mut Headers| headers.acl = acl.clone().or(headers.acl.take());
        self.change_headers((bucket, key), version_id, change).await?;
        answer(PutObjectAclOutput::default())
    }

    pub(super) async fn put_object(
        &self,
        mut request: S3Request<PutObjectInput>,
    ) -> Answer<PutObjectOutput> {
        let names_length = ["content-length", "x-amz-decoded-content-length"];
        if !names_length.iter().any(|name| request.headers.contains_key(*name)) {
            return Err(s3_error!(MissingContentLength));
        }
        put!(self, request, PutObjectOutput, Change::Put)
    }

    pub(super) async fn post_object(
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

    pub(super) async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> Answer<HeadObjectOutput> {
        let input = request.input;
        let with_sums = input.checksum_mode.is_some();
        answer(self.select(&selection!(input))?.describe(with_sums))
    }

    pub(super) async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> Answer<GetObjectOutput> {
        let input = request.input;
        let with_sums = input.checksum_mode.is_some();
        let selection = selection!(input);
        let (selected, body) = retry(|| self.open_object(&selection)).await?;
        let head = selected.describe(with_sums);
        let tag_count =
            i32::try_from(selected.object.headers.tags.len()).ok().filter(|count| *count > 0);
        let sums = sums_of!(head);
        let mut output = GetObjectOutput {
            body: Some(body),
            accept_ranges: head.accept_ranges,
            cache_control: head.cache_control,
            checksum_type: head.checksum_type,
            content_disposition: head.content_disposition,
            content_encoding: head.content_encoding,
            content_language: head.content_language,
            content_length: head.content_length,
            content_range: head.content_range,
            content_type: head.content_type,
            e_tag: head.e_tag,
            expires: head.expires,
            last_modified: head.last_modified,
            metadata: head.metadata,
            parts_count: head.parts_count,
            storage_class: head.storage_class,
            tag_count,
            version_id: head.version_id,
            website_redirect_location: head.website_redirect_location,
            ..Default::default()
        };
        set_sums!(output, sums);
        answer(output)
    }

    pub(super) async fn get_object_attributes(
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

    pub(super) async fn copy_object(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> Answer<CopyObjectOutput> {
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

    pub(super) async fn delete_object(
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
        let delete = move |transaction: &Transaction| {
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

    pub(super) async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> Answer<DeleteObjectsOutput> {
        let DeleteObjectsInput { bucket, delete: Delete { objects, quiet }, .. } = request.input;
        if objects.is_empty() || objects.len() > 1000 {
            return Err(s3_error!(MalformedXML, "A request deletes between 1 and 1000 objects"));
        }
        let delete = move |transaction: &Transaction| {
            transaction.bucket(&bucket)?;
            let (mut deleted, mut errors) = (Vec::new(), Vec::new());
            for ObjectIdentifier { key, version_id, e_tag, last_modified_time, size } in
                objects.clone()
            {
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
                    Err(error) if *error.code() == S3ErrorCode::InternalError => {
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

    pub(super) async fn get_object_tagging(
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

    pub(super) async fn put_object_tagging(
        &self,
        request: S3Request<PutObjectTaggingInput>,
    ) -> Answer<PutObjectTaggingOutput> {
        let PutObjectTaggingInput { bucket, key, version_id, tagging, .. } = request.input;
        check_tags(&tagging.tag_set)?;
        let change = move |headers: &mut Headers| headers.tags.clone_from(&tagging.tag_set);
        let version = self.change_headers((bucket, key), version_id, change).await?;
        answer(PutObjectTaggingOutput { version_id: version.shown_id() })
    }

    pub(super) async fn delete_object_tagging(
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

    /// Finds what to read, and opens it.
    async fn open_object(&self, selection: &Selection) -> S3Result<(Selected, StreamingBlob)> {
        let (selected, source) = self.locate(selection)?;
        Ok((selected, self.contents.read(source).await?))
    }
}
