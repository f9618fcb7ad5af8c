//! The operations of S3 behind the trait of s3s. Each is a method of [`Store`] in the module of its kind.

use std::pin::Pin;

use s3s::{S3, S3Request, S3Response, S3Result, dto::*};

use crate::{Store, checksums::Algorithm};

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
            declared: crate::checksums::Algorithm::declared(&$request.headers)?,
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

mod buckets;
mod listings;
mod objects;
mod uploads;

type AnswerFuture<'a, T> = Pin<Box<dyn Future<Output = Answer<T>> + Send + 'a>>;

/// Implements operations by the methods of the same name.
macro_rules! operations {
    ($($operation:ident: $input:ty => $output:ty;)*) => {$(
        fn $operation<'a, 'b>(&'a self, request: S3Request<$input>) -> AnswerFuture<'b, $output>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(Store::$operation(self, request))
        }
    )*};
}

impl S3 for Store {
    operations! {
        create_bucket: CreateBucketInput => CreateBucketOutput;
        head_bucket: HeadBucketInput => HeadBucketOutput;
        list_buckets: ListBucketsInput => ListBucketsOutput;
        delete_bucket: DeleteBucketInput => DeleteBucketOutput;
        get_bucket_location: GetBucketLocationInput => GetBucketLocationOutput;
        get_bucket_versioning: GetBucketVersioningInput => GetBucketVersioningOutput;
        put_bucket_versioning: PutBucketVersioningInput => PutBucketVersioningOutput;
        get_bucket_acl: GetBucketAclInput => GetBucketAclOutput;
        put_bucket_acl: PutBucketAclInput => PutBucketAclOutput;
        get_object_acl: GetObjectAclInput => GetObjectAclOutput;
        put_object_acl: PutObjectAclInput => PutObjectAclOutput;
        put_object: PutObjectInput => PutObjectOutput;
        post_object: PostObjectInput => PostObjectOutput;
        head_object: HeadObjectInput => HeadObjectOutput;
        get_object: GetObjectInput => GetObjectOutput;
        get_object_attributes: GetObjectAttributesInput => GetObjectAttributesOutput;
        copy_object: CopyObjectInput => CopyObjectOutput;
        delete_object: DeleteObjectInput => DeleteObjectOutput;
        delete_objects: DeleteObjectsInput => DeleteObjectsOutput;
        list_objects: ListObjectsInput => ListObjectsOutput;
        list_objects_v2: ListObjectsV2Input => ListObjectsV2Output;
        list_object_versions: ListObjectVersionsInput => ListObjectVersionsOutput;
        create_multipart_upload: CreateMultipartUploadInput => CreateMultipartUploadOutput;
        upload_part: UploadPartInput => UploadPartOutput;
        upload_part_copy: UploadPartCopyInput => UploadPartCopyOutput;
        list_parts: ListPartsInput => ListPartsOutput;
        list_multipart_uploads: ListMultipartUploadsInput => ListMultipartUploadsOutput;
        complete_multipart_upload: CompleteMultipartUploadInput => CompleteMultipartUploadOutput;
        abort_multipart_upload: AbortMultipartUploadInput => AbortMultipartUploadOutput;
        get_object_tagging: GetObjectTaggingInput => GetObjectTaggingOutput;
        put_object_tagging: PutObjectTaggingInput => PutObjectTaggingOutput;
        delete_object_tagging: DeleteObjectTaggingInput => DeleteObjectTaggingOutput;
    }
}

fn algorithm(named: Option<&ChecksumAlgorithm>) -> S3Result<Option<Algorithm>> {
    named.map(|named| Algorithm::parse(named.as_str())).transpose()
}
