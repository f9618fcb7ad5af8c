//! An SNS topic for the results of ingests. It implements `Publish` only, and turns each result into
//! a line of text.
//!
//! Source: <https://docs.aws.amazon.com/sns/latest/api/API_Publish.html>. The SDK sends a form and
//! reads XML. Only the local service sends requests, over loopback, to a secret path: signatures are
//! not checked, and messages are not stored.

#![expect(
    clippy::disallowed_methods,
    reason = "only the local service sends requests, over loopback"
)]

use std::collections::HashMap;

use anyhow::Result;
use rest_api::terminal::printable;
use serde::Deserialize;
use tokio::{net::TcpListener, sync::mpsc};
use uuid::Uuid;
use warp::{
    Filter, Reply,
    http::{Response, StatusCode},
};

use crate::{
    local_aws::{ACCOUNT_ID, REGION},
    loopback::{HostCheck, SecretPath},
};

/// The most bytes of a request. A message has at most 256 KiB, and grows when encoded as a form.
const MAX_BODY: u64 = 1 << 20;

/// The most characters of a violation that a line shows.
const MAX_VIOLATION_TEXT: usize = 120;

/// Returns the ARN of the topic.
pub fn topic_arn() -> String {
    format!("arn:aws:sns:{REGION}:{ACCOUNT_ID}:movies-r-us-results")
}

/// The result of an ingest, as a person reads it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IngestResult {
    /// The object key.
    pub key: String,
    /// The final state of the ingest.
    pub state: String,
    /// State, key, counts or error, and location, on one line.
    pub line: String,
}

/// Serves on `listener` below `path`, without end, and sends each published result to `results`.
///
/// # Errors
/// If `listener` has no address.
pub async fn serve(
    listener: TcpListener,
    path: SecretPath,
    results: mpsc::UnboundedSender<IngestResult>,
) -> Result<()> {
    let check = HostCheck::new(listener.local_addr()?);
    let routes = warp::post()
        .and(warp::path::end())
        .and(warp::body::content_length_limit(MAX_BODY))
        .and(warp::body::form())
        .map(move |form: HashMap<String, String>| publish(&form, &results).into_response());
    let routes = check.before(path.before(routes.boxed()));
    warp::serve(routes).incoming(listener).run().await;
    Ok(())
}

/// Sends the result in `form` to `results`. Returns the response to the publisher.
fn publish(
    form: &HashMap<String, String>,
    results: &mpsc::UnboundedSender<IngestResult>,
) -> Response<String> {
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let id = Uuid::new_v4();
    let (status, xml) = match (field("Action"), serde_json::from_str(field("Message"))) {
        ("Publish", _) if field("TopicArn") != topic_arn() => {
            (StatusCode::NOT_FOUND, error("NotFound", "Topic does not exist"))
        }
        ("Publish", Ok(result)) => {
            // Without a receiver the stack is stopping.
            let _ = results.send(IngestResult::of(result));
            let published = format!(
                "<PublishResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\">\
                 <PublishResult><MessageId>{id}</MessageId></PublishResult>\
                 <ResponseMetadata><RequestId>{id}</RequestId></ResponseMetadata></PublishResponse>"
            );
            (StatusCode::OK, published)
        }
        ("Publish", Err(_)) => (
            StatusCode::BAD_REQUEST,
            error("InvalidParameter", "the message is not an ingest result"),
        ),
        _ => (
            StatusCode::BAD_REQUEST,
            error("InvalidAction", "this endpoint implements Publish only"),
        ),
    };
    let mut response = Response::new(xml);
    *response.status_mut() = status;
    response
}

fn error(code: &str, message: &str) -> String {
    format!(
        "<ErrorResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><Error>\
         <Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
    )
}

/// The fields of a published result that a line shows.
#[derive(Deserialize)]
struct Ingest {
    key: String,
    state: String,
    location: String,
    inserted: Option<u64>,
    updated: Option<u64>,
    unchanged: Option<u64>,
    violation_count: Option<u64>,
    violations: Vec<Violation>,
    error: Option<Problem>,
}

#[derive(Deserialize)]
struct Violation {
    record: Option<u64>,
    pointer: String,
    expected: String,
    found: String,
}

#[derive(Deserialize)]
struct Problem {
    title: String,
    detail: String,
}

impl IngestResult {
    fn of(ingest: Ingest) -> Self {
        let details = match (ingest.state.as_str(), &ingest.error) {
            ("rejected", _) => describe_rejection(&ingest),
            ("superseded", _) => "a newer version of the object was ingested first".to_owned(),
            (_, Some(Problem { title, detail })) => format!("{title} ({detail})"),
            _ => {
                let counts = [ingest.inserted, ingest.updated, ingest.unchanged];
                let [inserted, updated, unchanged] = counts.map(Option::unwrap_or_default);
                format!("{inserted} inserted, {updated} updated, {unchanged} unchanged")
            }
        };
        let Ingest { key, state, location, .. } = ingest;
        let line = format!("{state:<10} {key}  {details}  ({location})");
        Self { key, state, line: printable(&line).into_owned() }
    }
}

/// Returns the number of violations and the first of them.
fn describe_rejection(ingest: &Ingest) -> String {
    let count = ingest.violation_count.unwrap_or_default();
    let plural = if count == 1 { "" } else { "s" };
    let first = ingest.violations.first().map_or_else(String::new, |violation| {
        let Violation { record, pointer, expected, found } = violation;
        let location = match record {
            Some(record) if pointer.is_empty() => format!("record {record}"),
            Some(record) => format!("record {record}, {pointer}"),
            None => "the file".to_owned(),
        };
        let text = format!("expected {expected}, found {found}");
        let short: String = text.chars().take(MAX_VIOLATION_TEXT).collect();
        let ellipsis = if short.len() < text.len() { " ..." } else { "" };
        format!(": {location}: {short}{ellipsis}")
    });
    format!("{count} violation{plural}{first}")
}
