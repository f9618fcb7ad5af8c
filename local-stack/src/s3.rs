//! A real S3 endpoint on a folder, which tells of every object that is put.
//!
//! The endpoint is s3s with its file system backend. Around it stands what that lacks: an event
//! for each object that has been created, with a sequencer; and a no to keys that would leave the
//! bucket's folder, or that two objects would share.

use std::{
    path::Path,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use chrono::{SecondsFormat, Utc};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use s3s::{
    S3, S3Request, S3Response, S3Result,
    auth::SimpleAuth,
    dto::*,
    s3_error,
    service::{S3Service, S3ServiceBuilder},
};
use s3s_fs::FileSystem;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tracing::{info, warn};

use crate::listing;

/// The credentials that requests must be signed with.
pub const ACCESS_KEY: &str = "local";
/// The secret that goes with [`ACCESS_KEY`].
pub const SECRET_KEY: &str = "localsecret";
/// The region that events name; requests may be signed for any.
pub const REGION: &str = "eu-west-1";

/// The backend keeps an object's metadata in a file named after its bucket and key, in base64;
/// file names end at 255 bytes.
const MAX_BUCKET_AND_KEY: usize = 130;

/// An S3 endpoint that keeps its objects in a folder.
pub struct Endpoint {
    service: S3Service,
}

impl Endpoint {
    /// An endpoint on `folder`. What S3 would send to a Lambda for each new object goes to `events`.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn new(folder: &Path, events: mpsc::UnboundedSender<Value>) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let files = FileSystem::new(folder)
            .map_err(|error| anyhow::anyhow!("{error:?}"))
            .with_context(|| format!("cannot use {}", folder.display()))?;
        let objects = Notifying { files, events, last_sequencer: AtomicU64::new(0) };
        let mut builder = S3ServiceBuilder::new(objects);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        Ok(Self { service: builder.build() })
    }

    /// Serves on `listener` until `shutdown` ends.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let http = auto::Builder::new(TokioExecutor::new());
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let (http, service) = (http.clone(), self.service.clone());
                        connections.spawn(async move {
                            // A client that goes away is no concern of ours.
                            let _ = http.serve_connection(TokioIo::new(stream), service).await;
                        });
                    }
                    Err(error) => {
                        warn!(%error, "the S3 endpoint cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        connections.shutdown().await;
    }
}

/// The file system backend, with events.
struct Notifying {
    files: FileSystem,
    events: mpsc::UnboundedSender<Value>,
    last_sequencer: AtomicU64,
}

impl Notifying {
    /// Tells of the object that has just been created.
    async fn created(&self, event: &str, bucket: &str, key: &str) -> S3Result<()> {
        let head = HeadObjectInput::builder().bucket(bucket.to_owned()).key(key.to_owned()).build();
        let head = head.map_err(|error| s3_error!(error, InternalError))?;
        let head = self.files.head_object(request(head)).await?.output;
        let etag = head.e_tag.map(|etag| etag.value().to_owned());
        info!(bucket, key, size = head.content_length, "object created");
        let now = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        // Who asked, from where, and the ids of the request mean nothing here, but belong to the
        // message's form.
        let event = json!({ "Records": [{
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "awsRegion": REGION,
            "eventTime": now,
            "eventName": event,
            "userIdentity": { "principalId": "local" },
            "requestParameters": { "sourceIPAddress": "127.0.0.1" },
            "responseElements": { "x-amz-request-id": "local", "x-amz-id-2": "local" },
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "movies-r-us",
                "bucket": {
                    "name": bucket,
                    "ownerIdentity": { "principalId": "local" },
                    "arn": format!("arn:aws:s3:::{bucket}"),
                },
                "object": {
                    "key": listing::encoded(key),
                    "size": head.content_length,
                    "eTag": etag,
                    "sequencer": self.sequencer(),
                },
            },
        }] });
        // Nobody listens any more only while all of it is stopping.
        let _ = self.events.send(event);
        Ok(())
    }

    /// Greater than all before it, over restarts too: it goes by the clock.
    fn sequencer(&self) -> String {
        let now = Utc::now().timestamp_nanos_opt().unwrap_or_default().cast_unsigned();
        let next = |last: u64| Some(now.max(last + 1));
        let order = Ordering::Relaxed;
        let last = self.last_sequencer.fetch_update(order, order, next).unwrap_or_default();
        format!("{:016X}", now.max(last + 1))
    }
}

/// A request as from nobody in particular: authentication has taken place.
pub(crate) fn request<T>(input: T) -> S3Request<T> {
    S3Request {
        input,
        method: Default::default(),
        uri: Default::default(),
        headers: Default::default(),
        extensions: Default::default(),
        credentials: None,
        region: None,
        service: None,
        trailing_headers: None,
    }
}

/// # Errors
/// If the backend would put `key` outside the bucket, or where another key is.
fn check_key(bucket: &str, key: &str) -> S3Result<()> {
    let key_without_end = key.strip_suffix('/').unwrap_or(key);
    if key_without_end.split('/').any(|part| matches!(part, "" | "." | "..")) {
        let says = "this endpoint keeps objects as files: no empty part, no . and .. in a key";
        return Err(s3_error!(InvalidArgument, "{says}"));
    }
    if bucket.len() + key.len() > MAX_BUCKET_AND_KEY {
        let says = "this endpoint keeps objects as files: bucket and key within 130 bytes";
        return Err(s3_error!(KeyTooLongError, "{says}"));
    }
    Ok(())
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = S3Result<S3Response<T>>> + Send + 'a>>;

/// Operations that go to the backend as they are.
macro_rules! pass_on {
    ($($operation:ident: $input:ty => $output:ty;)*) => {$(
        fn $operation<'a, 'b>(&'a self, request: S3Request<$input>) -> Answer<'b, $output>
        where
            'a: 'b,
            Self: 'b,
        {
            self.files.$operation(request)
        }
    )*};
}

/// Operations on one object, whose key must be one that the backend can keep.
macro_rules! checked {
    ($($operation:ident: $input:ty => $output:ty;)*) => {$(
        fn $operation<'a, 'b>(&'a self, request: S3Request<$input>) -> Answer<'b, $output>
        where
            'a: 'b,
            Self: 'b,
        {
            if let Err(refusal) = check_key(&request.input.bucket, &request.input.key) {
                return Box::pin(async { Err(refusal) });
            }
            self.files.$operation(request)
        }
    )*};
}

/// Operations that create an object, and tell of it.
macro_rules! notify {
    ($($operation:ident: $input:ty => $output:ty, $event:literal;)*) => {$(
        fn $operation<'a, 'b>(&'a self, request: S3Request<$input>) -> Answer<'b, $output>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async move {
                let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
                check_key(&bucket, &key)?;
                let response = self.files.$operation(request).await?;
                // A folder is no object to the backend.
                if !key.ends_with('/') {
                    self.created($event, &bucket, &key).await?;
                }
                Ok(response)
            })
        }
    )*};
}

impl S3 for Notifying {
    notify! {
        put_object: PutObjectInput => PutObjectOutput, "ObjectCreated:Put";
        copy_object: CopyObjectInput => CopyObjectOutput, "ObjectCreated:Copy";
        complete_multipart_upload: CompleteMultipartUploadInput => CompleteMultipartUploadOutput,
            "ObjectCreated:CompleteMultipartUpload";
    }

    pass_on! {
        create_bucket: CreateBucketInput => CreateBucketOutput;
        delete_bucket: DeleteBucketInput => DeleteBucketOutput;
        head_bucket: HeadBucketInput => HeadBucketOutput;
        list_buckets: ListBucketsInput => ListBucketsOutput;
        get_bucket_location: GetBucketLocationInput => GetBucketLocationOutput;
        delete_objects: DeleteObjectsInput => DeleteObjectsOutput;
        list_objects: ListObjectsInput => ListObjectsOutput;
    }

    checked! {
        head_object: HeadObjectInput => HeadObjectOutput;
        delete_object: DeleteObjectInput => DeleteObjectOutput;
        create_multipart_upload: CreateMultipartUploadInput => CreateMultipartUploadOutput;
        upload_part: UploadPartInput => UploadPartOutput;
        upload_part_copy: UploadPartCopyInput => UploadPartCopyOutput;
        list_parts: ListPartsInput => ListPartsOutput;
        abort_multipart_upload: AbortMultipartUploadInput => AbortMultipartUploadOutput;
    }

    /// See [`listing::complete`].
    fn list_objects_v2<'a, 'b>(
        &'a self,
        list: S3Request<ListObjectsV2Input>,
    ) -> Answer<'b, ListObjectsV2Output>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let mut page = self.files.list_objects_v2(list).await?;
            listing::complete(&self.files, &mut page.output).await?;
            Ok(page)
        })
    }

    /// The backend says that the key is missing where the bucket is.
    fn get_object<'a, 'b>(&'a self, get: S3Request<GetObjectInput>) -> Answer<'b, GetObjectOutput>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            check_key(&get.input.bucket, &get.input.key)?;
            let bucket = HeadBucketInput::builder().bucket(get.input.bucket.clone()).build();
            let bucket = bucket.map_err(|error| s3_error!(error, InternalError))?;
            self.files.head_bucket(request(bucket)).await?;
            self.files.get_object(get).await
        })
    }
}
