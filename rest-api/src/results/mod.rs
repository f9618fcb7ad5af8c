//! Publishes the results of ended ingests to an SNS topic, for producers.
//!
//! Each ended ingest is one message (see `message`). The ledger holds which results are due (see
//! [`crate::store`]), so nothing is lost while SNS or the service is unavailable. A message may arrive
//! twice, or before an older one.

mod message;

use std::{sync::Arc, time::Duration};

use aws::otlp::{self, SpanKind};
use aws_sdk_sns::{
    Client,
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
};
use futures_util::future::join_all;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{error, error_span, info, warn};

use crate::{
    config::Retry,
    shutdown,
    store::{DueResult, Store, StoreError},
    telemetry::{chain, milliseconds},
};
use message::{attributes, body, subject};

/// How many results are claimed and published together.
const BATCH_SIZE: usize = 10;

/// How long publishing one message may take, retries of the SDK included.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a result stays claimed. If the process dies, the result is due again after that.
const LEASE: Duration = Duration::from_secs(60);

/// How often the ledger is polled, beside the hints that ingests have ended.
const POLL: Duration = Duration::from_secs(1);

/// The longest delay while SNS is unavailable.
const MAX_DELAY: Duration = Duration::from_secs(60);

/// The first delay after SNS has refused a message. An operator must change something first.
const REFUSED_DELAY: Duration = Duration::from_secs(300);

/// Publishes the results of ingests.
pub(crate) struct Publisher {
    pub(crate) store: Store,
    pub(crate) sns: Client,
    pub(crate) topic_arn: String,
    /// The backoff while SNS is unavailable.
    pub(crate) retry: Retry,
}

/// Why a message was not published.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    /// No permission, no such topic, or a malformed message. A retry alone does not help.
    #[error("SNS refused the message: {0}")]
    Refused(String),
    /// SNS is unavailable, slow or throttling. A retry may help.
    #[error("SNS is not available: {0}")]
    Temporary(String),
}

/// The outcome of one batch of due results.
struct BatchOutcome {
    published: usize,
    /// How many could not be published because SNS is unavailable.
    failed: usize,
    /// Whether the batch had the largest size, so that more results may be due.
    is_full: bool,
}

impl Publisher {
    /// Publishes due results until `stop` turns true. A batch that has begun is finished.
    pub(crate) async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut ended = self.store.hints().ended.subscribe();
        // Batches without a published result since the last one with one.
        let mut failed_batches = 0;
        while !*stop.borrow() {
            ended.borrow_and_update();
            let backoff = self.retry.delay(failed_batches + 1).min(MAX_DELAY);
            // In a task of its own: if it panics, the publisher goes on, and the results are due again when
            // their leases expire.
            let publisher = Arc::clone(&self);
            let published = tokio::spawn(async move { publisher.publish_batch(backoff).await });
            let published = published.await.unwrap_or_else(|panic| {
                error!(%panic, "publishing results panicked");
                Ok(BatchOutcome { published: 0, failed: 1, is_full: false })
            });
            let delay = match published {
                Ok(BatchOutcome { published: 0, failed: 1.., .. }) => {
                    failed_batches += 1;
                    backoff
                }
                Ok(BatchOutcome { is_full: true, .. }) => {
                    failed_batches = 0;
                    continue;
                }
                Ok(BatchOutcome { published, .. }) => {
                    if published > 0 {
                        failed_batches = 0;
                    }
                    POLL
                }
                Err(error) => {
                    let retry_in_ms = milliseconds(POLL);
                    warn!(
                        error = chain(&error),
                        retry_in_ms, "claiming results failed, will retry"
                    );
                    POLL
                }
            };
            tokio::select! {
                biased;
                () = shutdown::requested(&mut stop) => {}
                _ = ended.changed(), if failed_batches == 0 => {}
                () = sleep(delay) => {}
            }
        }
    }

    /// Claims a batch of due results and publishes them. A result that fails now is due again after
    /// `backoff`, or after [`REFUSED_DELAY`] if SNS refused it.
    async fn publish_batch(&self, backoff: Duration) -> Result<BatchOutcome, StoreError> {
        let limit = i64::try_from(BATCH_SIZE).unwrap_or(i64::MAX);
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
                    error!(%error, "SNS refused the result, will retry later");
                    refused.push(result);
                }
                Err(error @ PublishError::Temporary(_)) => {
                    let retry_in_ms = milliseconds(backoff);
                    warn!(%error, retry_in_ms, "cannot publish the result, will retry");
                    failed.push(result);
                }
            }
        }
        self.acknowledge(&published).await;
        self.reschedule(&refused, self.store.postpone_results(&refused, REFUSED_DELAY)).await;
        self.reschedule(&failed, self.store.reschedule_results(&failed, backoff)).await;
        let failed = failed.len();
        let is_full = due.len() == BATCH_SIZE;
        Ok(BatchOutcome { published: published.len(), failed, is_full })
    }

    async fn acknowledge(&self, results: &[&DueResult]) {
        if results.is_empty() {
            return;
        }
        if let Err(error) = self.store.acknowledge_results(results).await {
            // They are due again when their leases expire.
            let (error, results) = (chain(&error), results.len());
            warn!(error, results, "acknowledging results failed, they may be published twice");
        }
    }

    async fn reschedule(
        &self,
        results: &[&DueResult],
        reschedule: impl Future<Output = Result<(), StoreError>>,
    ) {
        if results.is_empty() {
            return;
        }
        if let Err(error) = reschedule.await {
            let (error, results) = (chain(&error), results.len());
            warn!(
                error,
                results, "rescheduling results failed, they are due when the lease expires"
            );
        }
    }

    /// Publishes one result. Returns the message id that SNS assigned.
    async fn publish(&self, result: &DueResult) -> Result<String, PublishError> {
        let DueResult { ingest, trace_id, traceparent, .. } = result;
        let (trace_id, traceparent) = (trace_id.as_deref(), traceparent.as_deref());
        let mut exported = otlp::Span::resume(SpanKind::Producer, "result", trace_id, traceparent);
        exported.set("movies_r_us.ingest.id", || ingest.id);
        exported.set("messaging.system", || "aws_sns");
        let published = self.send(result).await;
        if published.is_err() {
            exported.fail();
        }
        published
    }

    async fn send(&self, result: &DueResult) -> Result<String, PublishError> {
        let ingest = &result.ingest;
        let refused = |error: &dyn std::error::Error| PublishError::Refused(chain(error));
        let message = body(result).map_err(|error| refused(&error))?;
        let mut publish = self.sns.publish().topic_arn(&self.topic_arn);
        publish = publish.subject(subject(ingest)).message(message);
        for (name, value) in attributes(ingest).map_err(|error| refused(&error))? {
            publish = publish.message_attributes(name, value);
        }
        match timeout(PUBLISH_TIMEOUT, publish.send()).await {
            Ok(Ok(published)) => Ok(published.message_id.unwrap_or_default()),
            Ok(Err(error)) => Err(classify(&error)),
            Err(_) => {
                let timeout = format!("no response within {} s", PUBLISH_TIMEOUT.as_secs());
                Err(PublishError::Temporary(timeout))
            }
        }
    }
}

/// Classifies an error of the SDK: SNS refused the message, or it was unavailable.
fn classify<E>(error: &SdkError<E, aws_sdk_sns::config::http::HttpResponse>) -> PublishError
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
    // The SDK renews an expired token of the pod's role.
    let expired = code.contains("Expired");
    if (400..=499).contains(&status) && !throttled && !expired {
        PublishError::Refused(text)
    } else {
        PublishError::Temporary(text)
    }
}
