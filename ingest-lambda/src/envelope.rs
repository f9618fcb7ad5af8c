//! Takes events out of what they come in.
//!
//! S3 invokes the function with an event, or sends it to SNS, SQS or EventBridge, which wrap it. SQS may
//! get it from SNS or from EventBridge. With the raw delivery of SNS, the body of the SQS message is the
//! event itself.

use serde_json::Value;

use crate::event::{EventError, RecordAction, parse_bridged, parse_record};

/// How often an event may be wrapped. SQS of SNS of EventBridge is two times.
const MAX_DEPTH: usize = 4;

/// How many names of properties an error lists.
const MAX_KEYS: usize = 10;

/// The longest excerpt of a text in an error, in characters.
const MAX_EXCERPT: usize = 60;

/// One result for each record: an error if it can never be delivered.
type Records = Vec<Result<RecordAction, EventError>>;

/// What fails or succeeds together: a message of SQS, or the whole payload of another invocation.
#[derive(Debug)]
pub struct Message {
    /// The id of the SQS message; none if the event did not come through SQS.
    pub id: Option<String>,
    /// What to do about each record.
    pub records: Records,
}

/// Parses the payload of an invocation. An envelope that is not known is a record with an error that
/// names it.
pub fn parse_event(mut payload: Value) -> Vec<Message> {
    if !payload["Records"].as_array().is_some_and(|records| records.iter().any(is_sqs_message)) {
        return vec![Message { id: None, records: unwrap(payload, MAX_DEPTH) }];
    }
    let Some(Value::Array(messages)) = payload.get_mut("Records").map(Value::take) else {
        return Vec::new();
    };
    let parse = |message: Value| Message {
        id: message["messageId"].as_str().map(str::to_owned),
        records: unwrap_text("the body of the SQS message", &message["body"], MAX_DEPTH),
    };
    messages.into_iter().map(parse).collect()
}

fn is_sqs_message(record: &Value) -> bool {
    record["eventSource"] == "aws:sqs"
        || record["messageId"].is_string() && record["body"].is_string()
}

/// Returns the records of an event that is wrapped at most `depth` times.
fn unwrap(mut event: Value, depth: usize) -> Records {
    // S3 sends this message once, when the notification is configured. It has no records.
    if event["Event"] == "s3:TestEvent" {
        return vec![Ok(RecordAction::Ignore { event_name: "s3:TestEvent".to_owned() })];
    }
    if event["Records"].is_array() {
        let Some(Value::Array(records)) = event.get_mut("Records").map(Value::take) else {
            return Vec::new();
        };
        // Each record on its own, so that a malformed one does not take the others with it.
        return records.iter().flat_map(|record| unwrap_record(record, depth)).collect();
    }
    if let (Some(kind), true) = (event["Type"].as_str(), event["Message"].is_string()) {
        return match kind {
            "Notification" => unwrap_text("the message of SNS", &event["Message"], depth),
            _ => fault(format!("a message of SNS of the type {}", excerpt(kind))),
        };
    }
    if event["detail-type"].is_string() {
        return match event["source"].as_str() {
            Some("aws.s3") => vec![parse_bridged(&event)],
            source => {
                let source = excerpt(source.unwrap_or_default());
                fault(format!("an event of EventBridge from the source {source}, not aws.s3"))
            }
        };
    }
    fault(format!("the payload is none of S3, SNS, SQS or EventBridge: {}", describe(&event)))
}

fn unwrap_record(record: &Value, depth: usize) -> Records {
    if record["s3"].is_object() {
        return vec![parse_record(record)];
    }
    if record["Sns"].is_object() {
        return unwrap_text("the message of SNS", &record["Sns"]["Message"], depth);
    }
    let source = record["eventSource"].as_str().or(record["EventSource"].as_str());
    let found = match source {
        Some(source) => format!("the event source {}", excerpt(source)),
        None => describe(record),
    };
    fault(format!("a record is none of S3 or SNS: {found}"))
}

/// Returns the records of the event that is the JSON text `text`. `name` is for error texts.
fn unwrap_text(name: &str, text: &Value, depth: usize) -> Records {
    let Some(text) = text.as_str() else { return fault(format!("no message in {name}")) };
    let Some(depth) = depth.checked_sub(1) else { return fault("the event is wrapped too deep") };
    match serde_json::from_str(text) {
        Ok(event) => unwrap(event, depth),
        // The log holds no bodies.
        Err(_) => fault(format!("{name}, of {} bytes, is not JSON", text.len())),
    }
}

fn fault(problem: impl Into<String>) -> Records {
    vec![Err(EventError::new(problem))]
}

/// Describes a value that is not known: its kind, or the names of its properties.
fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "a boolean".to_owned(),
        Value::Number(_) => "a number".to_owned(),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(properties) => {
            let names: Vec<String> =
                properties.keys().take(MAX_KEYS).map(|name| excerpt(name)).collect();
            format!("an object with the keys {}", names.join(", "))
        }
    }
}

/// Quotes the beginning of a text, with its control characters escaped.
fn excerpt(text: &str) -> String {
    let short: String = text.chars().take(MAX_EXCERPT).collect();
    let ellipsis = if short.len() < text.len() { "…" } else { "" };
    format!("{short:?}{ellipsis}")
}
