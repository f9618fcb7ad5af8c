//! From S3's event messages to notifications.
//!
//! Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>

use aws_lambda_events::s3::{S3Event, S3EventRecord};
use percent_encoding::percent_decode_str;
use schema::Notification;
use serde_json::Value;

/// What one record of an event asks for.
#[derive(Debug)]
pub enum Received {
    /// A new object: tell the API.
    Created(Box<Notification>),
    /// Nothing, for this reason.
    Ignored {
        /// In words for the log.
        reason: String,
    },
}

/// Why a payload is no S3 event.
#[derive(Debug)]
pub struct EventError(String);

impl std::fmt::Display for EventError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not an S3 event: {}", self.0)
    }
}

impl std::error::Error for EventError {}

/// Reads the payload of an invocation, one result for each of its records: an error for one that
/// lacks bucket or key, or whose key cannot be decoded.
///
/// # Errors
/// If the payload is neither an S3 event nor S3's test message.
pub fn notifications(payload: Value) -> Result<Vec<Result<Received, EventError>>, EventError> {
    // S3 sends this once, when the notification is configured; it has no records.
    if payload["Event"] == "s3:TestEvent" {
        return Ok(vec![Ok(Received::Ignored { reason: "s3:TestEvent".to_owned() })]);
    }
    let event: S3Event =
        serde_json::from_value(payload).map_err(|error| EventError(error.to_string()))?;
    Ok(event.records.into_iter().map(received).collect())
}

fn received(record: S3EventRecord) -> Result<Received, EventError> {
    let name = record.event_name.unwrap_or_default();
    // Events carry the name without the prefix "s3:" that configurations have.
    if !name.trim_start_matches("s3:").starts_with("ObjectCreated:") {
        return Ok(Received::Ignored { reason: format!("event {name}") });
    }
    let object = record.s3.object;
    let bucket = record.s3.bucket.name.ok_or_else(|| EventError("no bucket name".to_owned()))?;
    let key = decode_key(&object.key.ok_or_else(|| EventError("no object key".to_owned()))?)?;
    let notification = Notification {
        bucket: text("bucket name", bucket)?,
        key: text("object key", key)?,
        version_id: object.version_id.map(|id| text("version id", id)).transpose()?,
        etag: object.e_tag.map(|etag| text("etag", etag)).transpose()?,
        sequencer: object.sequencer.map(|sequencer| text("sequencer", sequencer)).transpose()?,
        event_time: Some(record.event_time.into()),
        size: object.size.and_then(|bytes| bytes.try_into().ok()),
    };
    Ok(Received::Created(Box::new(notification)))
}

fn text<T: TryFrom<String, Error = &'static str>>(
    name: &str,
    value: String,
) -> Result<T, EventError> {
    value.try_into().map_err(|expected| EventError(format!("{name}: expected {expected}")))
}

/// Events carry keys as HTML forms do: a plus is a space, everything special percent-encoded.
fn decode_key(encoded: &str) -> Result<String, EventError> {
    let spaced = encoded.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded
        .map(|key| key.into_owned())
        .map_err(|_| EventError(format!("the object key is not UTF-8: {encoded}")))
}
