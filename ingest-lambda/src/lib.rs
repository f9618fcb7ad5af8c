//! S3 events in, notifications to the movies-r-us API out.
//!
//! AWS invokes the function asynchronously with an S3 event. [`handle`] posts one notification for
//! each record that tells of a new object. An answer other than 2xx, or none in time, fails the
//! whole invocation; AWS then invokes it again, and in the end parks the event in the failure
//! queue. Posting a notification twice is harmless: the API answers with the same ingest.

mod client;
mod config;
mod event;

pub use client::{ApiClient, ClientError, Notify, NotifyError};
pub use config::{Config, ConfigError, Token};
pub use event::{EventError, Received, notifications};

use aws::{SecretsManager, trace::TraceParent};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use schema::Notification;
use serde_json::Value;
use tracing::{Instrument, error, info, info_span};

/// Serves invocations from the Lambda Runtime API until the environment ends.
///
/// # Errors
/// If the API token cannot be read, or the Runtime API cannot be reached.
pub async fn run(config: Config) -> Result<(), Error> {
    let secrets = SecretsManager::new(&aws::sdk_from_env().await);
    let client = ApiClient::new(&config, secrets).await?;
    lambda_runtime::run(service_fn(|event: LambdaEvent<Value>| handle(&client, event))).await
}

/// Handles one invocation: every record is posted, also when an earlier one failed.
///
/// # Errors
/// If the event is not one of S3's, or any notification was not accepted.
pub async fn handle(client: &impl Notify, event: LambdaEvent<Value>) -> Result<(), Error> {
    let request_id = event.context.request_id;
    // On AWS the trace is that of X-Ray, whether or not it keeps it, and so the invocation's.
    let given = event.context.xray_trace_id.as_deref().and_then(TraceParent::from_xray);
    let mut failure: Option<Error> = None;
    for received in notifications(event.payload)? {
        match received {
            Ok(Received::Ignored { reason }) => info!(reason, "ignored"),
            Ok(Received::Created(notification)) => {
                let trace = given.unwrap_or_else(TraceParent::random);
                let span = info_span!("notification", trace_id = %trace.trace_id);
                let posted = post(client, &notification, &request_id, &trace).instrument(span);
                if let Err(reason) = posted.await {
                    failure = Some(reason.into());
                }
            }
            Err(error) => {
                error!(%error, "a record cannot be read");
                failure = Some(error.into());
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Posts one notification, and logs how that went.
async fn post(
    client: &impl Notify,
    notification: &Notification,
    request_id: &str,
    trace: &TraceParent,
) -> Result<(), NotifyError> {
    let (bucket, key) = (&*notification.bucket, &*notification.key);
    let posted = client.notify(notification, request_id, trace).await;
    match &posted {
        Ok(()) => info!(bucket, key, "notified the API"),
        Err(reason) => {
            let error: &dyn std::error::Error = reason;
            error!(bucket, key, error, "the API did not take the notification");
        }
    }
    posted
}
