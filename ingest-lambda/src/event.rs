//! Conversion of S3 event messages to notifications.
//!
//! Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>

use aws_lambda_events::s3::S3EventRecord;
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
#[derive(Debug, thiserror::Error)]
#[error("invalid S3 event: {problem}")]
pub struct EventError {
    /// The bucket's name, if the record has one.
    pub bucket: Option<String>,
    /// The object key as the record has it, URL-encoded, if it has one.
    pub key: Option<String>,
    problem: String,
}

/// Parses the payload of an invocation. Returns one result for each of its records: an error if the
/// record is malformed, has no bucket or key, or a value that [`Notification`] does not allow.
///
/// # Errors
/// If the payload is neither an S3 event nor S3's test message.
pub fn parse_event(
    mut payload: Value,
) -> Result<Vec<Result<RecordAction, EventError>>, EventError> {
    // S3 sends this message once, when the notification is configured. It has no records.
    if payload["Event"] == "s3:TestEvent" {
        return Ok(vec![Ok(RecordAction::Ignore { event_name: "s3:TestEvent".to_owned() })]);
    }
    match payload.get_mut("Records").map(Value::take) {
        // Each record on its own, so that a malformed one does not take the others with it.
        Some(Value::Array(records)) => Ok(records.into_iter().map(parse_record).collect()),
        _ => {
            let problem = "the payload has no list \"Records\"".to_owned();
            Err(EventError { bucket: None, key: None, problem })
        }
    }
}

fn parse_record(record: Value) -> Result<RecordAction, EventError> {
    let text = |pointer| record.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let (bucket, key) = (text("/s3/bucket/name"), text("/s3/object/key"));
    let action = serde_json::from_value(record).map_err(|error| error.to_string());
    action.and_then(action_of).map_err(|problem| EventError { bucket, key, problem })
}

/// Returns what to do about `record`, or what is wrong with it.
fn action_of(record: S3EventRecord) -> Result<RecordAction, String> {
    let event_name = record.event_name.unwrap_or_default();
    // Event names have the prefix "s3:" in bucket configurations, but not in events.
    if !event_name.trim_start_matches("s3:").starts_with("ObjectCreated:") {
        return Ok(RecordAction::Ignore { event_name });
    }
    let object = record.s3.object;
    let bucket = record.s3.bucket.name.ok_or("no bucket name")?;
    let key = decode_key(&object.key.ok_or("no object key")?)?;
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
fn check<T: TryFrom<String, Error = &'static str>>(name: &str, value: String) -> Result<T, String> {
    value.try_into().map_err(|problem| format!("{name}: {problem}"))
}

/// Decodes an object key. S3 events encode keys like HTML form values: a space becomes a plus, other
/// special characters are percent-encoded.
fn decode_key(encoded: &str) -> Result<String, String> {
    let with_spaces = encoded.replace('+', " ");
    let decoded = percent_decode_str(&with_spaces).decode_utf8();
    decoded.map(|key| key.into_owned()).map_err(|_| "the object key is not UTF-8".to_owned())
}
