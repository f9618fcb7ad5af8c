//! Lambda function that turns S3 events into notifications to the movies-r-us API.
//!
//! AWS invokes the function asynchronously with an S3 event. [`handle`] makes one notification of each
//! record that reports a new object, and posts all of an event in one request. A status other than 2xx
//! of the response or of one notification in it, or no response in time, fails the whole invocation. AWS then retries the invocation, and finally puts the event into the failure
//! queue. A repeated notification is harmless: the API returns the same ingest.
//!
//! The error type tells whether a redrive can succeed: it is [`PERMANENT_FAULT`] if every record that
//! failed can never be delivered.

mod client;
mod config;
mod event;

pub use client::{ApiClient, ClientError, Notify, NotifyError};
pub use config::{Config, ConfigError, Token};
pub use event::{EventError, RecordAction, parse_event};

use std::{collections::BTreeMap, time::Instant};

use aws::{SecretsManager, trace::TraceParent};
use lambda_runtime::{Diagnostic, Error, LambdaEvent, service_fn};
use schema::{MAX_NOTIFICATIONS, Notification};
use serde_json::Value;
use tracing::{Instrument, error, info, info_span};

/// Serves invocations from the Lambda Runtime API until Lambda ends the process.
///
/// # Errors
/// If the API token cannot be read, or the Runtime API cannot be reached.
pub async fn run(config: Config) -> Result<(), Error> {
    let secrets = SecretsManager::new(&aws::sdk_from_env().await);
    let client = ApiClient::new(&config, secrets).await?;
    lambda_runtime::run(service_fn(|event: LambdaEvent<Value>| handle(&client, event))).await
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

/// Handles one invocation. It handles every record, even after one has failed.
///
/// # Errors
/// If the payload is not an S3 event, or any record is invalid or its notification not accepted.
/// Every failure is logged with bucket and key. A transient one decides the error: another attempt
/// is worth it then.
pub async fn handle(
    client: &impl Notify,
    event: LambdaEvent<Value>,
) -> Result<(), InvocationError> {
    let request_id = event.context.request_id;
    // On AWS every invocation has an X-Ray trace id, whether or not X-Ray samples the trace. All
    // notifications of the invocation share it.
    let xray_trace = event.context.xray_trace_id.as_deref().and_then(TraceParent::from_xray);
    let trace = xray_trace.unwrap_or_else(TraceParent::random);
    let mut notifications = Vec::new();
    // By the index of the record, so that the first one is the first of the event.
    let mut indexes = Vec::new();
    let mut permanent = BTreeMap::new();
    let actions = parse_event(event.payload).unwrap_or_else(|error| vec![Err(error)]);
    for (index, action) in actions.into_iter().enumerate() {
        match action {
            Ok(RecordAction::Ignore { event_name }) => {
                info!(event_name, "S3 event ignored, it does not report a new object");
            }
            Ok(RecordAction::Notify(notification)) => {
                notifications.push(*notification);
                indexes.push(index);
            }
            Err(error) => {
                let (bucket, key) = (error.bucket.as_deref(), error.key.as_deref());
                error!(bucket, key, %error, "S3 event record can never be delivered");
                permanent.insert(index, describe(bucket, key, &error));
            }
        }
    }
    let span = info_span!("notification", trace_id = %trace.trace_id);
    let results = notify(client, &notifications, &request_id, &trace).instrument(span).await;
    let mut transient = None;
    for ((notification, index), result) in notifications.iter().zip(indexes).zip(results) {
        match result {
            Ok(()) => {}
            Err(error) if error.is_permanent() => {
                let (bucket, key) = (&*notification.bucket, &*notification.key);
                permanent.insert(index, describe(Some(bucket), Some(key), &error));
            }
            Err(error) => transient = Some(error),
        }
    }
    let count = permanent.len();
    match (transient, permanent.into_values().next()) {
        (Some(error), _) => Err(InvocationError::Transient(error)),
        (None, None) => Ok(()),
        (None, Some(first)) => Err(InvocationError::Permanent { count, first }),
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
