//! Tells producers what became of their files, by a topic of SNS.
//!
//! One message for each ingest that has ended, with attributes that a subscription can filter by:
//! its `state`, its `bucket`, and its `prefix`, which is the key up to and including the last `/`
//! (`/` alone where the key has none: SNS takes no empty value).
//!
//! The ledger says what is to be published (see [`crate::store`]), so that nothing is lost while
//! SNS is away or we are. A message may come twice, and before an older one.

use std::time::Duration;

use aws_sdk_sns::{
    Client,
    error::{BuildError, DisplayErrorContext, ProvideErrorMetadata, SdkError},
    types::MessageAttributeValue,
};
use futures_util::future::join_all;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{error, error_span, info, warn};

use crate::{
    config::Retry,
    shutdown,
    store::{DueResult, Ingest, Store, StoreError},
    telemetry::chain,
};

/// How many results are published at once.
const BATCH: usize = 10;

/// How long one message may take, with the SDK's own retries.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(15);

/// After this long a result is due again that somebody took and then died.
const LEASE: Duration = Duration::from_secs(60);

/// How often the ledger is looked at when nobody says that an ingest has ended.
const POLL: Duration = Duration::from_secs(1);

/// The longest pause while SNS is away.
const MAX_DELAY: Duration = Duration::from_secs(60);

/// When a message is tried again that SNS refused: somebody must change something first.
const REFUSED_DELAY: Duration = Duration::from_secs(300);

/// What SNS takes is 256 KiB, and so do most that subscribe, the envelope included in which SNS
/// quotes the body as a JSON string. The rest is for the envelope and the attributes.
const MAX_QUOTED_BODY: usize = 240 << 10;

/// SNS: "less than 100 characters long".
const MAX_SUBJECT: usize = 99;

/// Publishes the results of ingests.
pub(crate) struct Publisher {
    pub(crate) store: Store,
    pub(crate) sns: Client,
    pub(crate) topic_arn: String,
    /// How the pauses grow while SNS is away.
    pub(crate) retry: Retry,
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    /// No permission, no such topic, a malformed message.
    #[error("SNS refused the message: {0}")]
    Refused(String),
    /// SNS is away, slow or throttling.
    #[error("SNS is not available: {0}")]
    Temporary(String),
}

/// What became of the results that were due.
struct Round {
    published: usize,
    failed: usize,
    /// Whether there may be more of them.
    full: bool,
}

impl Publisher {
    /// Publishes what is due until `shutdown` changes; what is on its way then is finished.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut finished = self.store.hints().finished.subscribe();
        // Rounds in which nothing was taken, since the last in which something was.
        let mut failures = 0;
        while !*stop.borrow() {
            finished.borrow_and_update();
            let delay = self.retry.delay(failures + 1).min(MAX_DELAY);
            let pause = match self.round(delay).await {
                Ok(Round { published: 0, failed: 1.., .. }) => {
                    failures += 1;
                    delay
                }
                Ok(Round { full: true, .. }) => {
                    failures = 0;
                    continue;
                }
                Ok(Round { published, .. }) => {
                    if published > 0 {
                        failures = 0;
                    }
                    POLL
                }
                Err(error) => {
                    warn!(error = chain(&error), "cannot look for results, will try again");
                    POLL
                }
            };
            tokio::select! {
                biased;
                () = shutdown::requested(&mut stop) => {}
                _ = finished.changed(), if failures == 0 => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Publishes some of what is due. What cannot be published now is due again after `delay`.
    async fn round(&self, delay: Duration) -> Result<Round, StoreError> {
        let limit = i64::try_from(BATCH).unwrap_or(i64::MAX);
        let due = self.store.claim_results(limit, LEASE).await?;
        let outcomes = join_all(due.iter().map(|result| self.publish(result))).await;
        let (mut published, mut refused, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for (result, outcome) in due.iter().zip(outcomes) {
            let (id, trace_id) = (result.ingest.id, result.trace_id.as_deref());
            let _span = error_span!("result", id, trace_id = trace_id.map(display)).entered();
            match outcome {
                Ok(message_id) => {
                    let state = result.ingest.state.name();
                    info!(state, message_id, "published the result");
                    published.push(result);
                }
                Err(error @ PublishError::Refused(_)) => {
                    let retry_in_s = REFUSED_DELAY.as_secs();
                    error!(%error, retry_in_s, "cannot publish the result, will try again");
                    refused.push(result);
                }
                Err(error @ PublishError::Temporary(_)) => {
                    let retry_in_ms = delay.as_millis();
                    warn!(%error, retry_in_ms, "cannot publish the result, will try again");
                    failed.push(result);
                }
            }
        }
        self.acknowledge(&published).await;
        self.reschedule(&refused, REFUSED_DELAY).await;
        self.reschedule(&failed, delay).await;
        let failed = refused.len() + failed.len();
        Ok(Round { published: published.len(), failed, full: due.len() == BATCH })
    }

    async fn acknowledge(&self, results: &[&DueResult]) {
        if results.is_empty() {
            return;
        }
        if let Err(error) = self.store.acknowledge_results(results).await {
            // They are due again when their leases have expired.
            let (error, results) = (chain(&error), results.len());
            warn!(error, results, "acknowledging results failed, they may be published twice");
        }
    }

    async fn reschedule(&self, results: &[&DueResult], delay: Duration) {
        if results.is_empty() {
            return;
        }
        if let Err(error) = self.store.reschedule_results(results, delay).await {
            let (error, results) = (chain(&error), results.len());
            warn!(
                error,
                results, "rescheduling results failed, they are due when the lease expires"
            );
        }
    }

    /// Publishes one result. Returns SNS's id of the message.
    async fn publish(&self, result: &DueResult) -> Result<String, PublishError> {
        let ingest = &result.ingest;
        let refused = |error: &dyn std::error::Error| PublishError::Refused(chain(error));
        let message = body(result).map_err(|error| refused(&error))?;
        let mut publish = self.sns.publish().topic_arn(&self.topic_arn);
        publish = publish.subject(subject(ingest)).message(message);
        for (name, value) in attributes(ingest) {
            let value = attribute(value).map_err(|error| refused(&error))?;
            publish = publish.message_attributes(name, value);
        }
        match timeout(PUBLISH_TIMEOUT, publish.send()).await {
            Ok(Ok(published)) => Ok(published.message_id.unwrap_or_default()),
            Ok(Err(error)) => Err(fault(&error)),
            Err(_) => {
                let late = format!("no answer within {} s", PUBLISH_TIMEOUT.as_secs());
                Err(PublishError::Temporary(late))
            }
        }
    }
}

/// What an error of the SDK means.
fn fault<E>(error: &SdkError<E, aws_sdk_sns::config::http::HttpResponse>) -> PublishError
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    let code = error.code().unwrap_or_default();
    let text = match error.message() {
        Some(message) => format!("{code}: {message}"),
        None => DisplayErrorContext(error).to_string(),
    };
    let throttled = code.contains("Throttl") || matches!(status, 408 | 429);
    // A token of the pod's role that has just run out will be renewed.
    let expired = code.contains("Expired");
    if (400..=499).contains(&status) && !throttled && !expired {
        PublishError::Refused(text)
    } else {
        PublishError::Temporary(text)
    }
}

/// What a subscription can filter by.
fn attributes(ingest: &Ingest) -> [(&'static str, String); 3] {
    let prefix = ingest.key.rfind('/').map_or("/", |end| &ingest.key[..=end]);
    [
        ("state", ingest.state.name().to_owned()),
        ("bucket", takeable(&ingest.bucket)),
        ("prefix", takeable(prefix)),
    ]
}

fn attribute(value: String) -> Result<MessageAttributeValue, BuildError> {
    MessageAttributeValue::builder().data_type("String").string_value(value).build()
}

/// The text without the characters that a message must not hold, those that XML 1.0 does not know.
fn takeable(text: &str) -> String {
    let unknown = |c: char| match c {
        '\t' | '\n' | '\r' => false,
        _ => matches!(c, '\0'..'\u{20}' | '\u{fffe}' | '\u{ffff}'),
    };
    text.replace(unknown, "\u{fffd}")
}

/// The subject of a mail: the state and the key, as far as they go.
fn subject(ingest: &Ingest) -> String {
    let subject = format!("{}: {}", ingest.state.name(), ingest.key);
    // Older limits allow ASCII alone.
    let plain = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    subject.chars().take(MAX_SUBJECT).map(plain).collect()
}

/// The body of a message: the ingest as `GET /ingests/{id}` shows it, with the first violations
/// that find room, and that path as `location`.
fn body(result: &DueResult) -> Result<String, serde_json::Error> {
    #[derive(Serialize)]
    struct Body<'a> {
        location: String,
        #[serde(flatten)]
        ingest: &'a Ingest,
        violations: &'a [&'a RawValue],
    }

    let violations = escaped(&result.violations);
    let violations: Vec<&RawValue> = serde_json::from_str(&violations)?;
    let body = |violations: &[&RawValue]| {
        let location = format!("/ingests/{}", result.ingest.id);
        serde_json::to_string(&Body { location, ingest: &result.ingest, violations })
    };
    let mut room = MAX_QUOTED_BODY.saturating_sub(quoted(&escaped(&body(&[])?)));
    let fitting = violations.iter().take_while(|violation| {
        let after = room.checked_sub(quoted(violation.get()) + 1);
        room = after.unwrap_or(0);
        after.is_some()
    });
    Ok(escaped(&body(&violations[..fitting.count()])?))
}

/// The same JSON without the characters that [`takeable`] replaces: the others of them JSON escapes
/// anyway.
fn escaped(json: &str) -> String {
    json.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff")
}

/// The length in bytes of JSON that is quoted as a string of JSON.
fn quoted(json: &str) -> usize {
    json.len() + json.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count()
}
