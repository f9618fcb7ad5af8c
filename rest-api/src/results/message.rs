//! The SNS message of a result: subject, attributes and body.
//!
//! Subscriptions can filter by the attributes: the `state` of the ingest, its `bucket`, and its
//! `prefix`. The prefix is the key up to and including its last `/`; it is `/` alone if the key has
//! none, because SNS accepts no empty value.

use aws_sdk_sns::{error::BuildError, types::MessageAttributeValue};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::store::{DueResult, Ingest};

/// The largest body, in bytes as a quoted JSON string.
///
/// SNS and most of its subscribers accept 256 KiB. SNS wraps the message in an envelope that quotes
/// the body as a JSON string. The rest is left to the envelope and the attributes.
const MAX_QUOTED_BODY: usize = 240 << 10;

/// SNS: "less than 100 characters long".
const MAX_SUBJECT: usize = 99;

/// Returns the attributes of a message, by name.
///
/// # Errors
/// None in practice: all attributes have a type.
pub(super) fn attributes(
    ingest: &Ingest,
) -> Result<[(&'static str, MessageAttributeValue); 3], BuildError> {
    let prefix = ingest.key.rfind('/').map_or("/", |end| &ingest.key[..=end]);
    Ok([
        ("state", attribute(ingest.state.name().to_owned())?),
        ("bucket", attribute(replace_invalid_characters(&ingest.bucket))?),
        ("prefix", attribute(replace_invalid_characters(prefix))?),
    ])
}

fn attribute(value: String) -> Result<MessageAttributeValue, BuildError> {
    MessageAttributeValue::builder().data_type("String").string_value(value).build()
}

/// Returns `text` with U+FFFD for each character that SNS does not accept: those that XML 1.0
/// excludes.
fn replace_invalid_characters(text: &str) -> String {
    let is_invalid = |c: char| match c {
        '\t' | '\n' | '\r' => false,
        _ => matches!(c, '\0'..'\u{20}' | '\u{fffe}' | '\u{ffff}'),
    };
    text.replace(is_invalid, "\u{fffd}")
}

/// Returns the subject, which becomes that of a mail: the state and the key, cut to the largest
/// length.
pub(super) fn subject(ingest: &Ingest) -> String {
    let subject = format!("{}: {}", ingest.state.name(), ingest.key);
    // Older limits of SNS allow ASCII only.
    let to_ascii = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    subject.chars().take(MAX_SUBJECT).map(to_ascii).collect()
}

/// Returns the body: the ingest as in `GET /ingests/{id}`, with that path as `location`, and with as
/// many of the first violations as fit.
///
/// # Errors
/// If the ledger's violations or error are not JSON.
pub(super) fn body(result: &DueResult) -> Result<String, serde_json::Error> {
    #[derive(Serialize)]
    struct Body<'a> {
        location: String,
        #[serde(flatten)]
        ingest: &'a Ingest,
        violations: &'a [&'a RawValue],
    }

    let violations = escape_invalid_characters(&result.violations);
    let violations: Vec<&RawValue> = serde_json::from_str(&violations)?;
    let body = |violations: &[&RawValue]| {
        let location = format!("/ingests/{}", result.ingest.id);
        serde_json::to_string(&Body { location, ingest: &result.ingest, violations })
    };
    let without_violations = escape_invalid_characters(&body(&[])?);
    let mut bytes_left = MAX_QUOTED_BODY.saturating_sub(quoted_length(&without_violations));
    let fitting = violations.iter().take_while(|violation| {
        let with_comma = quoted_length(violation.get()) + 1;
        let left = bytes_left.checked_sub(with_comma);
        bytes_left = left.unwrap_or(0);
        left.is_some()
    });
    Ok(escape_invalid_characters(&body(&violations[..fitting.count()])?))
}

/// Returns equivalent JSON without the characters that [`replace_invalid_characters`] replaces. JSON
/// text has the control characters escaped already.
fn escape_invalid_characters(json: &str) -> String {
    json.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff")
}

/// Returns the length in bytes of JSON text when it is quoted as a JSON string, without the quotes
/// around it.
fn quoted_length(json: &str) -> usize {
    json.len() + json.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count()
}
