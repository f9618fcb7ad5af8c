//! Objects in S3, and what its errors mean to an ingest.

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

use crate::store::Observed;

/// Why an object could not be read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SourceError {
    /// There is no such object (any more): asking again will not help.
    #[error("the object is gone: {0}")]
    Gone(Cause),
    /// No permission, no such bucket: somebody must change something first.
    #[error("the object store refused: {0}")]
    Refused(Cause),
    /// The store is away, slow or throttling: worth another try.
    #[error("the object store is not available: {0}")]
    Temporary(Cause),
}

/// What the store said, or what was said instead.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cause {
    /// S3's error code, or a few words: fit for anybody.
    pub code: String,
    /// The particulars, which may name roles and addresses.
    pub text: String,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl SourceError {
    /// What came was not what S3 would say.
    pub(super) fn unlike_s3(words: &str) -> Self {
        Self::Temporary(Cause { code: words.to_owned(), text: words.to_owned() })
    }

    /// S3's error code, or a few words: fit for anybody.
    pub fn code(&self) -> &str {
        let (Self::Gone(cause) | Self::Refused(cause) | Self::Temporary(cause)) = self;
        &cause.code
    }
}

/// An object, open for reading.
pub struct Object {
    /// What the store says of it.
    pub observed: Observed,
    /// Its `Content-Encoding`.
    pub content_encoding: Option<String>,
    /// Its bytes.
    pub body: Pin<Box<dyn Stream<Item = Result<Bytes, SourceError>> + Send>>,
}

/// An object as a listing has it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// What the store says of it; a listing tells no versions.
    pub observed: Observed,
}

/// Where files are.
#[derive(Clone, Debug)]
pub struct ObjectStore {
    client: Client,
}

impl ObjectStore {
    /// A store behind this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// What the store says of an object's current version, or of the one named.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub async fn look(
        &self,
        bucket: &str,
        key: &str,
        version_id: Option<&str>,
    ) -> Result<Observed, SourceError> {
        let request = self.client.head_object().bucket(bucket).key(key);
        let head =
            request.set_version_id(version_id.map(str::to_owned)).send().await.map_err(fault)?;
        Ok(observed(head.e_tag, head.version_id, head.last_modified, head.content_length))
    }

    /// Opens an object for reading: the version named, or the current one.
    ///
    /// An answer that does not announce its length could break off unnoticed, and is none of S3's;
    /// nor is one without an entity tag.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub async fn open(
        &self,
        bucket: &str,
        key: &str,
        version_id: Option<&str>,
    ) -> Result<Object, SourceError> {
        let request = self.client.get_object().bucket(bucket).key(key);
        let object =
            request.set_version_id(version_id.map(str::to_owned)).send().await.map_err(fault)?;
        if object.content_length.is_none() || object.e_tag.is_none() {
            return Err(SourceError::unlike_s3("the answer lacks its length or its entity tag"));
        }
        Ok(Object {
            observed: observed(
                object.e_tag,
                object.version_id,
                object.last_modified,
                object.content_length,
            ),
            content_encoding: object.content_encoding,
            body: Box::pin(chunks(object.body)),
        })
    }

    /// The current objects whose keys begin with `prefix`, in pages of up to 1,000; S3 lists them
    /// in the order of their keys' bytes.
    pub fn list(
        &self,
        bucket: &str,
        prefix: &str,
    ) -> impl Stream<Item = Result<Vec<Listed>, SourceError>> + Send + use<> {
        let request = self.client.list_objects_v2().bucket(bucket).prefix(prefix);
        // A key may hold what XML cannot.
        let pages = request.encoding_type(EncodingType::Url).into_paginator().send();
        stream::try_unfold(pages, async |mut pages| {
            let page = pages.try_next().await.map_err(fault)?;
            Ok(page.map(|page| (page, pages)))
        })
        .and_then(async |page| listed(page))
    }
}

/// # Errors
/// If a key is not UTF-8, which S3 does not admit.
fn listed(page: ListObjectsV2Output) -> Result<Vec<Listed>, SourceError> {
    let encoded = page.encoding_type == Some(EncodingType::Url);
    let objects = page.contents.unwrap_or_default().into_iter();
    let objects = objects.map(|object| {
        let mut key = object.key.unwrap_or_default();
        if encoded {
            // As in forms: a plus is a space.
            let spaced = key.replace('+', " ");
            key = match percent_decode_str(&spaced).decode_utf8() {
                Ok(decoded) => decoded.into_owned(),
                Err(_) => {
                    let text = format!("a key of the listing is not UTF-8: {key}");
                    let code = "the store lists what is no key".to_owned();
                    return Err(SourceError::Refused(Cause { code, text }));
                }
            };
        }
        let observed = observed(object.e_tag, None, object.last_modified, object.size);
        Ok(Listed { key, observed })
    });
    objects.collect()
}

/// The body's chunks. A body that ends before its announced length is an error of the stream.
fn chunks(body: ByteStream) -> impl Stream<Item = Result<Bytes, SourceError>> + Send {
    stream::unfold(body, |mut body| async move {
        let chunk = body.next().await?;
        let chunk = chunk.map_err(|error| {
            let text = DisplayErrorContext(&error).to_string();
            SourceError::Temporary(Cause { code: "the object's body broke off".to_owned(), text })
        });
        Some((chunk, body))
    })
}

fn observed(
    etag: Option<String>,
    version_id: Option<String>,
    last_modified: Option<DateTime>,
    size: Option<i64>,
) -> Observed {
    Observed {
        etag: etag.map(|etag| etag.trim_matches('"').to_owned()),
        // An unversioned object in a bucket that once was versioned has the version "null".
        version_id: version_id.filter(|id| id != "null"),
        // Whole seconds, even where a store's listings have more than the answers to HEAD and GET.
        last_modified: last_modified
            .and_then(|time| chrono::DateTime::<Utc>::from_timestamp(time.secs(), 0)),
        size,
    }
}

/// What an error of the SDK means.
fn fault<E>(error: SdkError<E, aws_sdk_s3::config::http::HttpResponse>) -> SourceError
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    let code = match error.code() {
        Some(code) => code.to_owned(),
        None if status != 0 => format!("the store answered {status}"),
        None => "the store did not answer".to_owned(),
    };
    let text = match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (None, _) if status == 0 => DisplayErrorContext(&error).to_string(),
        _ => code.clone(),
    };
    let cause = Cause { code, text };
    match (status, cause.code.as_str()) {
        (_, "NoSuchKey" | "NoSuchVersion" | "NotFound") | (405, _) => SourceError::Gone(cause),
        (_, "SlowDown" | "RequestTimeout" | "RequestTimeTooSkewed") => {
            SourceError::Temporary(cause)
        }
        (300..=499, _) if status != 408 && status != 429 => SourceError::Refused(cause),
        _ => SourceError::Temporary(cause),
    }
}
