//! The S3 client: what the service asks of S3, and what S3's errors mean to an ingest.

mod presigned;
mod versions;

use std::pin::Pin;

use aws_sdk_s3::{
    Client,
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
    operation::list_objects_v2::ListObjectsV2Output,
    primitives::{ByteStream, DateTime},
    types::EncodingType,
};
use bytes::Bytes;
use chrono::Utc;
use futures_util::{Stream, TryStreamExt, stream};
use percent_encoding::percent_decode_str;

pub use presigned::{PresignedPut, Upload};
pub use versions::ListedVersion;

use crate::store::{NULL_VERSION, ObservedVersion};

/// The name of the metadata of an object that is its mode: `upsert` or `snapshot`. In a header it has the prefix
/// `x-amz-meta-`.
pub const MODE: &str = "movies-mode";

/// Why an object cannot be read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ObjectError {
    /// The object does not exist (any more). A retry does not help.
    #[error("the object is gone: {0}")]
    Gone(ErrorCause),
    /// No permission, or no such bucket. An operator must change something first.
    #[error("the object store refused: {0}")]
    Refused(ErrorCause),
    /// The object store is unavailable, slow or throttling. A retry may help.
    #[error("the object store is not available: {0}")]
    Temporary(ErrorCause),
}

/// What the object store reported.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ErrorCause {
    /// S3's error code, or a few words. Clients may read it.
    pub code: String,
    /// The details, for the log alone: they may name roles and addresses.
    pub text: String,
}

impl std::fmt::Display for ErrorCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl ObjectError {
    /// Returns the error of a response that S3 itself would not give.
    pub(crate) fn invalid_response(description: &str) -> Self {
        Self::Temporary(ErrorCause { code: description.to_owned(), text: description.to_owned() })
    }

    /// Returns S3's error code, or a few words. Clients may read it.
    pub fn code(&self) -> &str {
        let (Self::Gone(cause) | Self::Refused(cause) | Self::Temporary(cause)) = self;
        &cause.code
    }
}

/// An object, open for reading.
pub struct Object {
    /// What S3 reports about it.
    pub version: ObservedVersion,
    /// Its `Content-Encoding`.
    pub content_encoding: Option<String>,
    /// Its mode, as its metadata has it.
    pub mode: Option<String>,
    /// Its bytes.
    pub body: Pin<Box<dyn Stream<Item = Result<Bytes, ObjectError>> + Send>>,
}

/// What there is of a version of an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Presence {
    /// The version.
    Present,
    /// A delete marker.
    DeleteMarker,
    /// Nothing.
    Absent,
}

/// An object of a listing.
#[derive(Clone, Debug)]
pub struct ListedObject {
    /// Its key.
    pub key: String,
    /// What S3 reports about it. A listing has no version ids.
    pub version: ObservedVersion,
}

/// A client of S3, or of an endpoint that speaks its protocol.
#[derive(Clone, Debug)]
pub struct ObjectStore {
    client: Client,
}

impl ObjectStore {
    /// Returns a store that uses `client`.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Returns what S3 reports about an object: its current version, or the one with `version_id`.
    ///
    /// # Errors
    /// See [`ObjectError`].
    pub async fn head(
        &self,
        bucket: &str,
        key: &str,
        version_id: Option<&str>,
    ) -> Result<ObservedVersion, ObjectError> {
        let request = self.client.head_object().bucket(bucket).key(key);
        let head =
            request.set_version_id(version_id.map(str::to_owned)).send().await.map_err(classify)?;
        Ok(observed_version(head.e_tag, head.version_id, head.last_modified, head.content_length))
    }

    /// Returns what there is of a version of an object.
    ///
    /// # Errors
    /// See [`ObjectError`].
    pub async fn presence(
        &self,
        bucket: &str,
        key: &str,
        version_id: &str,
    ) -> Result<Presence, ObjectError> {
        let request = self.client.head_object().bucket(bucket).key(key).version_id(version_id);
        let Err(error) = request.send().await else { return Ok(Presence::Present) };
        // What S3 answers for a marker.
        // Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/DeleteMarker.html
        if error.raw_response().is_some_and(|response| response.status().as_u16() == 405) {
            return Ok(Presence::DeleteMarker);
        }
        match classify(error) {
            ObjectError::Gone(_) => Ok(Presence::Absent),
            error => Err(error),
        }
    }

    /// Opens an object for reading: its current version, or the one with `version_id`.
    ///
    /// A response without a length could be cut short unnoticed. S3 always sends a length and an
    /// entity tag, so a response without them is an error.
    ///
    /// # Errors
    /// See [`ObjectError`].
    pub async fn get(
        &self,
        bucket: &str,
        key: &str,
        version_id: Option<&str>,
    ) -> Result<Object, ObjectError> {
        let request = self.client.get_object().bucket(bucket).key(key);
        let object =
            request.set_version_id(version_id.map(str::to_owned)).send().await.map_err(classify)?;
        if object.content_length.is_none() || object.e_tag.is_none() {
            return Err(ObjectError::invalid_response(
                "the response lacks its length or its entity tag",
            ));
        }
        Ok(Object {
            version: observed_version(
                object.e_tag,
                object.version_id,
                object.last_modified,
                object.content_length,
            ),
            content_encoding: object.content_encoding,
            mode: object.metadata.and_then(|mut metadata| metadata.remove(MODE)),
            body: Box::pin(chunks(object.body)),
        })
    }

    /// Lists the current objects whose keys begin with `prefix`, in pages of up to 1,000, ordered by
    /// the bytes of their keys.
    pub fn list(
        &self,
        bucket: &str,
        prefix: &str,
    ) -> impl Stream<Item = Result<Vec<ListedObject>, ObjectError>> + Send + use<> {
        let request = self.client.list_objects_v2().bucket(bucket).prefix(prefix);
        // A key may contain characters that XML cannot.
        let pages = request.encoding_type(EncodingType::Url).into_paginator().send();
        stream::try_unfold(pages, async |mut pages| {
            let page = pages.try_next().await.map_err(classify)?;
            Ok(page.map(|page| (page, pages)))
        })
        .and_then(async |page| listed_objects(page))
    }
}

/// Returns the objects of a page of a listing.
///
/// # Errors
/// If a key is not UTF-8, which S3 does not allow.
fn listed_objects(page: ListObjectsV2Output) -> Result<Vec<ListedObject>, ObjectError> {
    let encoding = page.encoding_type;
    let objects = page.contents.unwrap_or_default().into_iter();
    let objects = objects.map(|object| {
        let key = decode_key(object.key.unwrap_or_default(), encoding.as_ref())?;
        let version = observed_version(object.e_tag, None, object.last_modified, object.size);
        Ok(ListedObject { key, version })
    });
    objects.collect()
}

/// Returns a key of a listing that has this encoding.
///
/// # Errors
/// If it is not UTF-8.
fn decode_key(key: String, encoding: Option<&EncodingType>) -> Result<String, ObjectError> {
    if encoding != Some(&EncodingType::Url) {
        return Ok(key);
    }
    // Encoded as an HTML form is: a plus is a space.
    match percent_decode_str(&key.replace('+', " ")).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => {
            let text = format!("a key of the listing is not UTF-8: {key}");
            let code = "the listing has a malformed key".to_owned();
            Err(ObjectError::Refused(ErrorCause { code, text }))
        }
    }
}

/// Returns the chunks of a body. A body that ends before its announced length is an error.
fn chunks(body: ByteStream) -> impl Stream<Item = Result<Bytes, ObjectError>> + Send {
    stream::unfold(body, |mut body| async move {
        let chunk = body.next().await?;
        let chunk = chunk.map_err(|error| {
            let text = DisplayErrorContext(&error).to_string();
            ObjectError::Temporary(ErrorCause {
                code: "the object's body was cut short".to_owned(),
                text,
            })
        });
        Some((chunk, body))
    })
}

fn observed_version(
    etag: Option<String>,
    version_id: Option<String>,
    last_modified: Option<DateTime>,
    size: Option<i64>,
) -> ObservedVersion {
    ObservedVersion {
        etag: etag.map(|etag| etag.trim_matches('"').to_owned()),
        // An unversioned object in a bucket whose versioning is suspended has the version "null".
        version_id: version_id.filter(|id| id != NULL_VERSION),
        // In whole seconds: some stores report fractions in listings, but not in HEAD and GET.
        last_modified: last_modified
            .and_then(|time| chrono::DateTime::<Utc>::from_timestamp(time.secs(), 0)),
        size,
    }
}

/// Classifies an error of the SDK.
fn classify<E>(error: SdkError<E, aws_sdk_s3::config::http::HttpResponse>) -> ObjectError
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    let code = match error.code() {
        Some(code) => code.to_owned(),
        None if status != 0 => format!("the object store responded {status}"),
        None => "the object store did not respond".to_owned(),
    };
    let text = match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (None, _) if status == 0 => DisplayErrorContext(&error).to_string(),
        _ => code.clone(),
    };
    let cause = ErrorCause { code, text };
    match (status, cause.code.as_str()) {
        (_, "NoSuchKey" | "NoSuchVersion" | "NotFound") | (405, _) => ObjectError::Gone(cause),
        (_, "SlowDown" | "RequestTimeout" | "RequestTimeTooSkewed") => {
            ObjectError::Temporary(cause)
        }
        (300..=499, _) if status != 408 && status != 429 => ObjectError::Refused(cause),
        _ => ObjectError::Temporary(cause),
    }
}
