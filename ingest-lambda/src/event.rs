//! Conversion of one object event to a notification: a record of an S3 event, or an event of EventBridge.
//!
//! Only bucket and key are required. MinIO, Ceph and emulators leave out what S3 always sends.
//!
//! Sources:
//! - <https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>
//! - <https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html>

use percent_encoding::percent_decode_str;
use schema::{Notification, NotificationEvent, Timestamp};
use serde_json::Value;

/// What to do about one record of an event.
#[derive(Debug)]
pub enum RecordAction {
    /// Send this notification: an object was created or removed.
    Notify(Box<Notification>),
    /// Do nothing: no object was created or removed.
    Ignore {
        /// The name of the event, such as `ObjectTagging:Put`.
        event_name: String,
    },
}

/// A payload, or one of its records, is not a valid event.
#[derive(Debug, thiserror::Error)]
#[error("invalid S3 event: {problem}")]
pub struct EventError {
    /// The bucket's name, if the record has one.
    pub bucket: Option<String>,
    /// The object key as the record has it, if it has one. It is URL-encoded unless it comes from
    /// EventBridge.
    pub key: Option<String>,
    problem: String,
}

impl EventError {
    /// Returns the error of an event of which no object is known.
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Self { bucket: None, key: None, problem: problem.into() }
    }
}

/// The fields of an object event. They have other names in S3's events than in EventBridge's.
struct Fields<'a> {
    event: &'a Value,
    bucket: &'static str,
    key: &'static str,
    version_id: &'static str,
    etag: &'static str,
    sequencer: &'static str,
    size: &'static str,
    time: &'static str,
}

/// Parses a record of an S3 event.
///
/// # Errors
/// If it has no bucket or key, or a value that [`Notification`] does not allow.
pub(crate) fn parse_record(record: &Value) -> Result<RecordAction, EventError> {
    let fields = Fields {
        event: record,
        bucket: "/s3/bucket/name",
        key: "/s3/object/key",
        version_id: "/s3/object/versionId",
        etag: "/s3/object/eTag",
        sequencer: "/s3/object/sequencer",
        size: "/s3/object/size",
        time: "/eventTime",
    };
    // A record without a name may report a new object. If it does not, the notification does no harm.
    let event_name = fields.text("/eventName").unwrap_or("ObjectCreated:");
    // Event names have the prefix "s3:" in bucket configurations and in MinIO's events.
    let event = match event_name.trim_start_matches("s3:").split_once(':') {
        Some(("ObjectCreated", _)) => NotificationEvent::Created,
        Some(("ObjectRemoved" | "LifecycleExpiration", _)) => NotificationEvent::Removed,
        _ => return Ok(RecordAction::Ignore { event_name: event_name.to_owned() }),
    };
    fields.notify(event, decode_key)
}

/// Parses an event of S3 in EventBridge's form, whose key is not URL-encoded.
///
/// # Errors
/// As [`parse_record`].
pub(crate) fn parse_bridged(event: &Value) -> Result<RecordAction, EventError> {
    let fields = Fields {
        event,
        bucket: "/detail/bucket/name",
        key: "/detail/object/key",
        version_id: "/detail/object/version-id",
        etag: "/detail/object/etag",
        sequencer: "/detail/object/sequencer",
        size: "/detail/object/size",
        time: "/time",
    };
    let event = match fields.text("/detail-type") {
        Some("Object Created") => NotificationEvent::Created,
        // Deleted by a request, or expired by a lifecycle rule; with or without a delete marker.
        Some("Object Deleted") => NotificationEvent::Removed,
        other => {
            let event_name = other.unwrap_or_default().to_owned();
            return Ok(RecordAction::Ignore { event_name });
        }
    };
    fields.notify(event, |key| Ok(key.to_owned()))
}

impl Fields<'_> {
    /// Returns the text at a JSON Pointer, unless it is empty.
    fn text(&self, pointer: &str) -> Option<&str> {
        self.event.pointer(pointer)?.as_str().filter(|text| !text.is_empty())
    }

    /// Returns the notification of the event.
    fn notify(
        &self,
        event: NotificationEvent,
        decode: impl Fn(&str) -> Result<String, String>,
    ) -> Result<RecordAction, EventError> {
        let notification = match event {
            NotificationEvent::Created => self.creation(decode),
            NotificationEvent::Removed => self.removal(decode),
        };
        let notification = notification.map_err(|problem| EventError {
            bucket: self.text(self.bucket).map(str::to_owned),
            key: self.text(self.key).map(str::to_owned),
            problem,
        });
        Ok(RecordAction::Notify(Box::new(notification?)))
    }

    /// Returns the notification of a new object. Its event is left out: an API of an earlier release
    /// refuses the property.
    fn creation(
        &self,
        decode: impl Fn(&str) -> Result<String, String>,
    ) -> Result<Notification, String> {
        let bucket = self.text(self.bucket).ok_or("no bucket name")?;
        let key = decode(self.text(self.key).ok_or("no object key")?)?;
        Ok(Notification {
            bucket: check("bucket name", bucket.to_owned())?,
            key: check("object key", key)?,
            version_id: self.optional("version id", self.version_id)?,
            etag: self.optional("etag", self.etag)?,
            sequencer: self.optional("sequencer", self.sequencer)?,
            event_time: self.text(self.time).map(parse_time).transpose()?,
            size: self
                .event
                .pointer(self.size)
                .and_then(Value::as_i64)
                .and_then(|bytes| bytes.try_into().ok()),
            event: None,
        })
    }

    /// Returns the notification of a removed object. Some events have an etag and a size, of what was removed
    /// or of a delete marker. They are left out.
    fn removal(
        &self,
        decode: impl Fn(&str) -> Result<String, String>,
    ) -> Result<Notification, String> {
        let event = Some(NotificationEvent::Removed);
        Ok(Notification { event, etag: None, size: None, ..self.creation(decode)? })
    }

    fn optional<T>(&self, name: &str, pointer: &str) -> Result<Option<T>, String>
    where
        T: TryFrom<String, Error = &'static str>,
    {
        self.text(pointer).map(|text| check(name, text.to_owned())).transpose()
    }
}

/// Converts `value` to the schema's type. `name` is for the error text.
fn check<T: TryFrom<String, Error = &'static str>>(name: &str, value: String) -> Result<T, String> {
    value.try_into().map_err(|problem| format!("{name}: {problem}"))
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    serde_json::from_value(text.into()).map_err(|error| format!("event time {text:?}: {error}"))
}

/// Decodes an object key. S3 events encode keys like HTML form values: a space becomes a plus, other
/// special characters are percent-encoded.
fn decode_key(encoded: &str) -> Result<String, String> {
    let with_spaces = encoded.replace('+', " ");
    let decoded = percent_decode_str(&with_spaces).decode_utf8();
    decoded.map(|key| key.into_owned()).map_err(|_| "the object key is not UTF-8".to_owned())
}
