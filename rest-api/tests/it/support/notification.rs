//! Notifications, as the Lambda and operators send them.

use serde_json::{Value, json};

use super::BUCKET;

/// Returns a notification with nothing but the bucket and the key.
pub(crate) fn bare(key: &str) -> Value {
    json!({ "bucket": BUCKET, "key": key })
}

/// Returns the notification of an event without an etag. `second` determines its position in the
/// version order.
pub(crate) fn at_second(key: &str, second: u32) -> Value {
    json!({
        "bucket": BUCKET, "key": key, "event_time": format!("2026-01-01T00:00:{second:02}Z"),
        "sequencer": format!("{second:04X}"),
    })
}

/// Returns the notification that the Lambda makes of an event.
pub(crate) fn of_event(event: &Value) -> Value {
    let record = &event["Records"][0];
    let object = &record["s3"]["object"];
    json!({
        "bucket": BUCKET, "key": object["key"], "etag": object["eTag"], "size": object["size"],
        "sequencer": object["sequencer"], "event_time": record["eventTime"],
    })
}
