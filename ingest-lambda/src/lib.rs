//! Lambda function that turns S3 events into notifications to the movies-r-us API.
//!
//! The function is invoked with an S3 event, straight or wrapped by SNS, SQS or EventBridge. [`handle`]
//! makes one notification of each record that reports a new or a removed object, and posts all of an
//! invocation in one request. A repeated notification is harmless: the API returns the same ingest.
//!
//! A record fails if it is not valid, or if the response, or the result of its notification, is not 2xx.
//!
//! - **Through SQS** the response names the messages with a failed record. SQS delivers them again, and its
//!   redrive policy parks them in the end, also those that can never be delivered: only the queue can move
//!   a message to another one, together with its deletion.
//! - **Otherwise** one failed record fails the whole invocation. AWS retries it, and finally puts its event
//!   into the failure queue. The error type tells whether a redrive can succeed: it is [`PERMANENT_FAULT`]
//!   if every record that failed can never be delivered.

mod client;
mod config;
mod envelope;
mod event;

pub use client::{ApiClient, ClientError, Notify, NotifyError};
pub use config::{Config, ConfigError, Token};
pub use envelope::{Message, parse_event};
pub use event::{EventError, RecordAction};

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use aws::{
    SecretsManager,
    otlp::{self, SpanKind},
    trace::TraceParent,
};
use aws_lambda_events::sqs::SqsBatchResponse;
use lambda_runtime::{Diagnostic, Error, LambdaEvent, service_fn};
use schema::{MAX_NOTIFICATIONS, Notification};
use serde_json::Value;
use tracing::{Instrument, error, info, info_span, warn};

/// How long an invocation waits for the export of its spans.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves invocations from the Lambda Runtime API until Lambda ends the process.
///
/// # Errors
/// If the API token cannot be read, the Runtime API cannot be reached, or the endpoint of OpenTelemetry is malformed.
pub async fn run(config: Config) -> Result<(), Error> {
    let name = std::env::var("AWS_LAMBDA_FUNCTION_NAME");
    otlp::init(name.as_deref().unwrap_or("ingest-lambda"))?;
    let secrets = SecretsManager::new(&aws::sdk_from_env().await);
    let client = ApiClient::new(&config, secrets).await?;
    let serve = async |event: LambdaEvent<Value>| {
        let result = handle(&client, event).await;
        // Lambda freezes the process after the answer, and may never thaw it.
        otlp::flush(FLUSH_TIMEOUT).await;
        result
    };
    lambda_runtime::run(service_fn(serve)).await
}

/// An invocation has failed. AWS retries it, and finally puts its event into the failure queue.
#[derive(Debug, thiserror::Error)]
pub enum InvocationError {
    /// At least one notification was not delivered, and may be at a later attempt.
    #[error(transparent)]
    Transient(NotifyError),
    /// Every record that failed can never be delivered. The others have been.
    #[error("records that can never be delivered: {count}; the first: {first}")]
    Permanent {
        /// The number of these records.
        count: usize,
        /// Bucket and key of the first of them, and what is wrong with it.
        first: String,
    },
}

/// The error type of [`InvocationError::Permanent`] in the function's response.
/// `scripts/redrive-failures` and the local stack read it.
pub const PERMANENT_FAULT: &str = "PermanentFault";

/// The error type of [`InvocationError::Transient`] in the function's response.
const TRANSIENT_FAILURE: &str = "TransientFailure";

impl From<InvocationError> for Diagnostic {
    fn from(error: InvocationError) -> Self {
        let error_type = match error {
            InvocationError::Transient(_) => TRANSIENT_FAILURE,
            InvocationError::Permanent { .. } => PERMANENT_FAULT,
        };
        Self { error_type: error_type.to_owned(), error_message: error.to_string() }
    }
}

/// Handles one invocation. It handles every record, even after one has failed. Returns the failed messages
/// if they came through SQS, which deletes the others. Lambda reads the response if the event source mapping has
/// the function response type `ReportBatchItemFailures`.
///
/// # Errors
/// If a record that did not come through SQS is invalid or its notification not accepted. Every failure is
/// logged with bucket and key. A transient one decides the error: another attempt is worth it then.
pub async fn handle(
    client: &impl Notify,
    event: LambdaEvent<Value>,
) -> Result<Option<SqsBatchResponse>, InvocationError> {
    let request_id = event.context.request_id;
    // On AWS every invocation has an X-Ray trace id, whether or not X-Ray samples the trace. All
    // notifications of the invocation share it.
    let xray_trace = event.context.xray_trace_id.as_deref().and_then(TraceParent::from_xray);
    let trace = xray_trace.unwrap_or_else(TraceParent::random);
    // X-Ray has no span of an invocation that it does not sample, which is every one unless tracing is active.
    let parent = xray_trace.filter(TraceParent::is_sampled);
    let mut exported = otlp::Span::start(SpanKind::Client, "notify", trace.trace_id, parent);
    exported.set("faas.invocation_id", || request_id.clone());
    let trace = exported.traceparent().unwrap_or(trace);
    let (mut notifications, mut origins) = (Vec::new(), Vec::new());
    let mut failures = Failures::default();
    let messages = parse_event(event.payload);
    let ids: Vec<Option<String>> = messages.iter().map(|message| message.id.clone()).collect();
    let records =
        messages.into_iter().enumerate().flat_map(|(message, Message { records, .. })| {
            records.into_iter().map(move |record| (message, record))
        });
    for (record, (message, action)) in records.enumerate() {
        match action {
            Ok(RecordAction::Ignore { event_name }) => {
                info!(event_name, "S3 event ignored, it reports no new or removed object");
            }
            Ok(RecordAction::Notify(notification)) => {
                notifications.push(*notification);
                origins.push((record, message));
            }
            Err(error) => {
                let (bucket, key) = (error.bucket.as_deref(), error.key.as_deref());
                error!(bucket, key, %error, "S3 event record can never be delivered");
                failures.add_permanent(
                    record,
                    ids[message].as_deref(),
                    describe(bucket, key, &error),
                );
            }
        }
    }
    let span = info_span!("notification", trace_id = %trace.trace_id);
    let results = notify(client, &notifications, &request_id, &trace).instrument(span).await;
    for ((notification, (record, message)), result) in
        notifications.iter().zip(origins).zip(results)
    {
        let id = ids[message].as_deref();
        match result {
            Ok(()) => {}
            Err(error) if error.is_permanent() => {
                let (bucket, key) = (&*notification.bucket, &*notification.key);
                failures.add_permanent(record, id, describe(Some(bucket), Some(key), &error));
            }
            Err(error) => failures.add_transient(id, error),
        }
    }
    if !failures.is_empty() {
        exported.fail();
    }
    failures.result(&ids)
}

/// The failed records of an invocation.
#[derive(Default)]
struct Failures {
    /// The ids of the SQS messages with a failed record.
    messages: BTreeSet<String>,
    /// The last transient failure of a record that did not come through SQS.
    transient: Option<NotifyError>,
    /// What is wrong with the other records, by their index, so that the first one is the first of the
    /// event.
    permanent: BTreeMap<usize, String>,
}

impl Failures {
    fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.transient.is_none() && self.permanent.is_empty()
    }

    fn add_permanent(&mut self, record: usize, message: Option<&str>, description: String) {
        match message {
            Some(id) => drop(self.messages.insert(id.to_owned())),
            None => drop(self.permanent.insert(record, description)),
        }
    }

    fn add_transient(&mut self, message: Option<&str>, error: NotifyError) {
        match message {
            Some(id) => drop(self.messages.insert(id.to_owned())),
            None => self.transient = Some(error),
        }
    }

    /// Returns the result of the invocation, whose messages have these ids.
    fn result(self, ids: &[Option<String>]) -> Result<Option<SqsBatchResponse>, InvocationError> {
        let count = self.permanent.len();
        match (self.transient, self.permanent.into_values().next()) {
            (Some(error), _) => return Err(InvocationError::Transient(error)),
            (None, Some(first)) => return Err(InvocationError::Permanent { count, first }),
            (None, None) => {}
        }
        if ids.iter().all(Option::is_none) {
            return Ok(None);
        }
        let mut response = SqsBatchResponse::default();
        for id in ids.iter().flatten().filter(|id| self.messages.contains(*id)) {
            warn!(message_id = id, "the SQS message has failed, and is reported to its queue");
            response.add_failure(id);
        }
        Ok(Some(response))
    }
}

/// Returns the text that an operator finds the object by. `Debug` escapes control characters.
fn describe(bucket: Option<&str>, key: Option<&str>, error: &dyn std::error::Error) -> String {
    format!("bucket {:?}, key {:?}: {error}", bucket.unwrap_or_default(), key.unwrap_or_default())
}

/// Sends notifications, and logs and returns the result of each, in order.
async fn notify(
    client: &impl Notify,
    notifications: &[Notification],
    request_id: &str,
    trace: &TraceParent,
) -> Vec<Result<(), NotifyError>> {
    let mut results = Vec::with_capacity(notifications.len());
    for notifications in notifications.chunks(MAX_NOTIFICATIONS) {
        let started = Instant::now();
        let sent = client.notify(notifications, request_id, trace).await;
        let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        for (notification, result) in notifications.iter().zip(&sent) {
            log_result(notification, result, duration_ms);
        }
        results.extend(sent);
    }
    results
}

/// Logs the result of one notification. `duration_ms` is the duration of the request that carried it.
fn log_result(notification: &Notification, result: &Result<(), NotifyError>, duration_ms: u64) {
    let (bucket, key) = (&*notification.bucket, &*notification.key);
    match result {
        Ok(()) => info!(bucket, key, duration_ms, "notified the API"),
        Err(error) => {
            let permanent = error.is_permanent();
            let problem = error.problem().map(tracing::field::display);
            let error = with_causes(error);
            error!(bucket, key, error, problem, permanent, duration_ms, "notification failed");
        }
    }
}

/// Returns the texts of `error` and its sources. The JSON log format omits the sources.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
