//! Operations on multipart uploads.

use s3s::{S3Request, dto::*, s3_error};

use super::{Answer, algorithm, answer};
use crate::{
    Store,
    checksums::{set_sums, sums_of},
    conditions::{ReadConditions, WriteConditions, of_source},
    index::{UPLOADS, decode},
    listing::{Encoding, Page, Query},
    multipart::{Expected, UploadPath},
    objects::{Body, headers_of, source_of},
    records::{Upload, format_id, owner, parse_id},
};

impl Store {
    pub(super) async fn create_multipart_upload(
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

    pub(super) async fn upload_part(
        &self,
        mut request: S3Request<UploadPartInput>,
    ) -> Answer<UploadPartOutput> {
        let body = body_of!(request);
        let input = request.input;
        let given = body.given().or(algorithm(input.checksum_algorithm.as_ref())?);
        let path = UploadPath { bucket: input.bucket, key: input.key, id: input.upload_id };
        let part = self.receive_part(path, input.part_number, given, body).await?;
        let mut output = UploadPartOutput { e_tag: Some(part.etag()), ..Default::default() };
        if let Some(sum) = given.and_then(|given| part.sum(given)) {
            set_sums!(output, sum.to_dto());
        }
        answer(output)
    }

    pub(super) async fn upload_part_copy(
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

    pub(super) async fn list_parts(
        &self,
        request: S3Request<ListPartsInput>,
    ) -> Answer<ListPartsOutput> {
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

    pub(super) async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> Answer<ListMultipartUploadsOutput> {
        let input = request.input;
        let mut query =
            Query::new(&input.bucket, &input.prefix, &input.delimiter, input.max_uploads)?;
        let encoding = Encoding::new(input.encoding_type.as_ref())?;
        self.index.bucket(&input.bucket)?;
        let after = input.upload_id_marker.as_deref().and_then(parse_id);
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
            next_upload_id_marker: page.next.as_ref().and_then(|(_, id)| Some(format_id((*id)?))),
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

    pub(super) async fn complete_multipart_upload(
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

    pub(super) async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> Answer<AbortMultipartUploadOutput> {
        let AbortMultipartUploadInput { bucket, key, upload_id, .. } = request.input;
        self.abort_upload(UploadPath { bucket, key, id: upload_id }).await?;
        answer(AbortMultipartUploadOutput::default())
    }
}
