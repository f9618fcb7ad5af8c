//! As much of SNS as the service uses: `Publish`, whose messages become lines for a person.
//!
//! Source: <https://docs.aws.amazon.com/sns/latest/api/API_Publish.html>. The SDK sends a form and
//! reads XML; only our own service calls, over loopback, so that nothing is signed or stored.

#![expect(
    clippy::disallowed_methods,
    reason = "warp's shortcuts do here: only our own service calls, over loopback"
)]

use std::collections::HashMap;

use serde::Deserialize;
use tokio::{net::TcpListener, sync::mpsc};
use uuid::Uuid;
use warp::{
    Filter,
    http::{Response, StatusCode},
};

use crate::s3::REGION;

/// More than SNS takes, once encoded as a form.
const MAX_BODY: u64 = 1 << 20;

/// What a line shows of a violation's own words.
const MAX_SHOWN: usize = 120;

/// The topic that results go to.
pub fn topic_arn() -> String {
    format!("arn:aws:sns:{REGION}:000000000000:movies-r-us-results")
}

/// One result, as a person reads it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Told {
    /// Whose.
    pub key: String,
    /// The state in which its ingest ended.
    pub state: String,
    /// All of it on one line.
    pub line: String,
}

/// Serves on `listener`, for ever, and sends what is published to `results`.
pub async fn serve(listener: TcpListener, results: mpsc::UnboundedSender<Told>) {
    let publish = warp::post()
        .and(warp::path::end())
        .and(warp::body::content_length_limit(MAX_BODY))
        .and(warp::body::form())
        .map(move |form: HashMap<String, String>| answer(&form, &results));
    warp::serve(publish).incoming(listener).run().await;
}

fn answer(
    form: &HashMap<String, String>,
    results: &mpsc::UnboundedSender<Told>,
) -> Response<String> {
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let id = Uuid::new_v4();
    let (status, xml) = match (field("Action"), serde_json::from_str(field("Message"))) {
        ("Publish", _) if field("TopicArn") != topic_arn() => {
            (StatusCode::NOT_FOUND, error("NotFound", "Topic does not exist"))
        }
        ("Publish", Ok(result)) => {
            // Nobody listens any more only while all of it is stopping.
            let _ = results.send(told(result));
            let published = format!(
                "<PublishResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\">\
                 <PublishResult><MessageId>{id}</MessageId></PublishResult>\
                 <ResponseMetadata><RequestId>{id}</RequestId></ResponseMetadata></PublishResponse>"
            );
            (StatusCode::OK, published)
        }
        ("Publish", Err(_)) => {
            (StatusCode::BAD_REQUEST, error("InvalidParameter", "the message is no result"))
        }
        _ => (StatusCode::BAD_REQUEST, error("InvalidAction", "only Publish is known here")),
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

/// What a line needs of a published ingest.
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

fn told(ingest: Ingest) -> Told {
    let outcome = match (ingest.state.as_str(), &ingest.error) {
        ("rejected", _) => rejection(&ingest),
        ("superseded", _) => "a newer version of the file was there first".to_owned(),
        (_, Some(Problem { title, detail })) => format!("{title} ({detail})"),
        _ => {
            let [inserted, updated, unchanged] =
                [ingest.inserted, ingest.updated, ingest.unchanged].map(Option::unwrap_or_default);
            format!("{inserted} inserted, {updated} updated, {unchanged} unchanged")
        }
    };
    let line = format!("{:<10} {}  {}  ({})", ingest.state, ingest.key, outcome, ingest.location);
    // Neither a key nor what a file holds shall move the cursor.
    let line = line.replace(char::is_control, "\u{fffd}");
    Told { key: ingest.key, state: ingest.state, line }
}

/// How many violations, and the first of them.
fn rejection(ingest: &Ingest) -> String {
    let count = ingest.violation_count.unwrap_or_default();
    let plural = if count == 1 { "" } else { "s" };
    let first = ingest.violations.first().map_or_else(String::new, |violation| {
        let Violation { record, pointer, expected, found } = violation;
        let place = match record {
            Some(record) if pointer.is_empty() => format!("record {record}"),
            Some(record) => format!("record {record}, {pointer}"),
            None => "the file".to_owned(),
        };
        let says = format!("expected {expected}, found {found}");
        let short: String = says.chars().take(MAX_SHOWN).collect();
        let dots = if short.len() < says.len() { " ..." } else { "" };
        format!(": {place}: {short}{dots}")
    });
    format!("{count} violation{plural}{first}")
}
