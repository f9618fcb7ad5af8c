//! Conversion of S3 event messages to notifications.
//!
//! Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>

use aws_lambda_events::s3::{S3Event, S3EventRecord};
use percent_encoding::percent_decode_str;
use schema::Notification;
use serde_json::Value;

/// What to do about one record of an S3 event.
#[derive(Debug)]
pub enum RecordAction {
    /// Send this notification: an object was created.
    Notify(Box<Notification>),
    /// Do nothing: the record does not report a new object.
    Ignore {
        /// The name of the event, such as `ObjectRemoved:Delete`.
        event_name: String,
    },
}

/// A payload, or one of its records, is not a valid S3 event.
#[derive(Debug)]
pub struct EventError(String);

impl std::fmt::Display for EventError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "invalid S3 event: {}", self.0)
    }
}

impl std::error::Error for EventError {}

/// Parses the payload of an invocation. Returns one result for each of its records: an error if the
/// record has no bucket or key, or a value that [`Notification`] does not allow.
///
/// # Errors
/// If the payload is neither an S3 event nor S3's test message.
pub fn parse_event(payload: Value) -> Result<Vec<Result<RecordAction, EventError>>, EventError> {
    // S3 sends this message once, when the notification is configured. It has no records.
    if payload["Event"] == "s3:TestEvent" {
        return Ok(vec![Ok(RecordAction::Ignore { event_name: "s3:TestEvent".to_owned() })]);
    }
    let event: S3Event =
        serde_json::from_value(payload).map_err(|error| EventError(error.to_string()))?;
    Ok(event.records.into_iter().map(parse_record).collect())
}

fn parse_record(record: S3EventRecord) -> Result<RecordAction, EventError> {
    let event_name = record.event_name.unwrap_or_default();
    // Event names have the prefix "s3:" in bucket configurations, but not in events.
    if !event_name.trim_start_matches("s3:").starts_with("ObjectCreated:") {
        return Ok(RecordAction::Ignore { event_name });
    }
    let object = record.s3.object;
    let bucket = record.s3.bucket.name.ok_or_else(|| EventError("no bucket name".to_owned()))?;
    let key = decode_key(&object.key.ok_or_else(|| EventError("no object key".to_owned()))?)?;
    let notification = Notification {
        bucket: check("bucket name", bucket)?,
        key: check("object key", key)?,
        version_id: object.version_id.map(|id| check("version id", id)).transpose()?,
        etag: object.e_tag.map(|etag| check("etag", etag)).transpose()?,
        sequencer: object.sequencer.map(|sequencer| check("sequencer", sequencer)).transpose()?,
        event_time: Some(record.event_time.into()),
        size: object.size.and_then(|bytes| bytes.try_into().ok()),
    };
    Ok(RecordAction::Notify(Box::new(notification)))
}

/// Converts `value` to the schema's type. `name` is for the error text.
fn check<T: TryFrom<String, Error = &'static str>>(
    name: &str,
    value: String,
) -> Result<T, EventError> {
    value.try_into().map_err(|problem| EventError(format!("{name}: {problem}")))
}

/// Decodes an object key. S3 events encode keys like HTML form values: a space becomes a plus, other
/// special characters are percent-encoded.
fn decode_key(encoded: &str) -> Result<String, EventError> {
    let with_spaces = encoded.replace('+', " ");
    let decoded = percent_decode_str(&with_spaces).decode_utf8();
    decoded
        .map(|key| key.into_owned())
        .map_err(|_| EventError(format!("the object key is not UTF-8: {encoded}")))
}
