//! The S3 operations: those of the file-system backend, with key checks, events and complete
//! listings.

use std::pin::Pin;

use s3s::{S3, S3Request, S3Response, S3Result, dto::*};
use s3s_fs::FileSystem;
use serde_json::Value;
use tokio::sync::mpsc;
use tracing::info;

use super::{
    event::EventBuilder,
    files::{head_bucket, head_object},
    keys, listing,
};

/// The operations on the objects in a directory.
pub(super) struct Operations {
    files: FileSystem,
    event_builder: EventBuilder,
    events: mpsc::UnboundedSender<Value>,
}

impl Operations {
    /// Returns the operations on `files`, which send their events to `events`.
    pub(super) fn new(files: FileSystem, events: mpsc::UnboundedSender<Value>) -> Self {
        Self { files, event_builder: EventBuilder::default(), events }
    }

    /// Sends the event `name` for an object that has just been created.
    async fn send_event(&self, name: &str, bucket: &str, key: &str) -> S3Result<()> {
        let head = head_object(&self.files, bucket, key).await?;
        info!(bucket, key, size = head.content_length, "object created");
        // Without a receiver the stack is stopping. The next start reconciles the bucket.
        let _ = self.events.send(self.event_builder.build(name, bucket, key, &head));
        Ok(())
    }
}

type OperationFuture<'a, T> = Pin<Box<dyn Future<Output = S3Result<S3Response<T>>> + Send + 'a>>;

/// Implements operations by the backend alone.
macro_rules! forward {
    ($($operation:ident: $input:ty => $output:ty;)*) => {$(
        fn $operation<'a, 'b>(
            &'a self,
            request: S3Request<$input>,
        ) -> OperationFuture<'b, $output>
        where
            'a: 'b,
            Self: 'b,
        {
            self.files.$operation(request)
        }
    )*};
}

/// Implements operations by the backend after a check of the object key.
macro_rules! check_key_and_forward {
    ($($operation:ident: $input:ty => $output:ty;)*) => {$(
        fn $operation<'a, 'b>(
            &'a self,
            request: S3Request<$input>,
        ) -> OperationFuture<'b, $output>
        where
            'a: 'b,
            Self: 'b,
        {
            if let Err(error) = keys::check(&request.input.bucket, &request.input.key) {
                return Box::pin(async { Err(error) });
            }
            self.files.$operation(request)
        }
    )*};
}

/// Implements operations that create an object: by the backend after a check of the object key, with
/// an event afterwards.
macro_rules! create_object {
    ($($operation:ident: $input:ty => $output:ty, $event:literal;)*) => {$(
        fn $operation<'a, 'b>(
            &'a self,
            request: S3Request<$input>,
        ) -> OperationFuture<'b, $output>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async move {
                let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
                keys::check(&bucket, &key)?;
                let response = self.files.$operation(request).await?;
                // The backend makes a directory of such a key, and has no object to describe.
                if !key.ends_with('/') {
                    self.send_event($event, &bucket, &key).await?;
                }
                Ok(response)
            })
        }
    )*};
}

impl S3 for Operations {
    create_object! {
        put_object: PutObjectInput => PutObjectOutput, "ObjectCreated:Put";
        copy_object: CopyObjectInput => CopyObjectOutput, "ObjectCreated:Copy";
        complete_multipart_upload: CompleteMultipartUploadInput => CompleteMultipartUploadOutput,
            "ObjectCreated:CompleteMultipartUpload";
    }

    forward! {
        create_bucket: CreateBucketInput => CreateBucketOutput;
        delete_bucket: DeleteBucketInput => DeleteBucketOutput;
        head_bucket: HeadBucketInput => HeadBucketOutput;
        list_buckets: ListBucketsInput => ListBucketsOutput;
        get_bucket_location: GetBucketLocationInput => GetBucketLocationOutput;
        delete_objects: DeleteObjectsInput => DeleteObjectsOutput;
        list_objects: ListObjectsInput => ListObjectsOutput;
    }

    check_key_and_forward! {
        head_object: HeadObjectInput => HeadObjectOutput;
        delete_object: DeleteObjectInput => DeleteObjectOutput;
        create_multipart_upload: CreateMultipartUploadInput => CreateMultipartUploadOutput;
        upload_part: UploadPartInput => UploadPartOutput;
        upload_part_copy: UploadPartCopyInput => UploadPartCopyOutput;
        list_parts: ListPartsInput => ListPartsOutput;
        abort_multipart_upload: AbortMultipartUploadInput => AbortMultipartUploadOutput;
    }

    fn list_objects_v2<'a, 'b>(
        &'a self,
        request: S3Request<ListObjectsV2Input>,
    ) -> OperationFuture<'b, ListObjectsV2Output>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let mut page = self.files.list_objects_v2(request).await?;
            listing::complete(&self.files, &mut page.output).await?;
            Ok(page)
        })
    }

    fn get_object<'a, 'b>(
        &'a self,
        request: S3Request<GetObjectInput>,
    ) -> OperationFuture<'b, GetObjectOutput>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let GetObjectInput { bucket, key, .. } = &request.input;
            keys::check(bucket, key)?;
            // For a missing bucket the backend returns NoSuchKey; HeadBucket returns NoSuchBucket.
            head_bucket(&self.files, bucket).await?;
            self.files.get_object(request).await
        })
    }
}
