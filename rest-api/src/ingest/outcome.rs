//! Records the result of an attempt in the ledger, the log and the metrics.

use std::time::Duration;

use aws::otlp;
use movie_file::Violations;
use schema::Fault;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use super::{
    attempt::{Attempted, Failure},
    worker::{POLL, Worker},
};
use crate::{
    objects::{ErrorCause, ObjectError},
    problem::{Code, Problem},
    store::{Claim, IngestState, Merged, Mode, StoreError},
    telemetry::{chain, milliseconds},
};

/// How often an object is looked for that is not there.
const MAX_ATTEMPTS_GONE: i32 = 2;

impl Failure {
    /// Returns the fault of the file, if the file is what is wrong.
    fn fault_of_file(&self) -> Option<Fault> {
        self.store()?.fault_of_file()
    }
}

impl Worker {
    /// Records what an attempt that took `duration` resulted in. Ends its exported span.
    pub(super) async fn record_result(
        &self,
        claim: &Claim,
        result: Result<Attempted, Failure>,
        duration: Duration,
        mut exported: otlp::Span,
    ) {
        match result {
            Ok(Attempted::Merged(merged)) => self.after_merge(&merged, duration),
            Ok(Attempted::Rejected(violations)) => self.reject(claim, &violations, duration).await,
            Ok(Attempted::Replaced) => self.supersede(claim, duration).await,
            Err(failure) if matches!(failure.store(), Some(StoreError::LeaseLost)) => {
                let duration_ms = milliseconds(duration);
                warn!(duration_ms, "lease lost: another worker has claimed the ingest");
                self.metrics.lease_lost();
            }
            Err(failure)
                if matches!(failure.store(), Some(StoreError::TooManyWithdrawn { .. })) =>
            {
                self.block(claim, &failure, duration).await;
            }
            Err(failure) => match failure.fault_of_file() {
                Some(fault) => self.reject(claim, &Violations::of_file(fault), duration).await,
                None => match &failure {
                    Failure::Object(ObjectError::Gone(cause)) => {
                        self.requeue_or_give_up(claim, cause, duration).await;
                    }
                    _ => {
                        exported.set("error.type", || failure.code().name());
                        exported.fail();
                        self.requeue_or_fail(claim, &failure, duration).await;
                    }
                },
            },
        }
    }

    /// The merge has ended the ingest in its own transaction.
    fn after_merge(&self, merged: &Merged, duration: Duration) {
        let Merged {
            inserted,
            updated,
            unchanged,
            withdrawn,
            restored,
            held,
            superseded,
            mode,
            ..
        } = *merged;
        let duration_ms = milliseconds(duration);
        let mode = mode.map(Mode::name);
        let (state, message) = if superseded {
            (IngestState::Superseded, "ingest superseded")
        } else {
            (IngestState::Succeeded, "ingest succeeded")
        };
        info!(
            inserted,
            updated, unchanged, withdrawn, restored, held, mode, duration_ms, "{message}"
        );
        self.metrics.merged(merged);
        self.metrics.ended(state, duration);
    }

    async fn reject(&self, claim: &Claim, violations: &Violations, duration: Duration) {
        let count = i64::try_from(violations.count()).unwrap_or(i64::MAX);
        let first = violations.listed().first();
        let first_violation = first.and_then(|violation| serde_json::to_string(violation).ok());
        let duration_ms = milliseconds(duration);
        info!(violations = count, first_violation, duration_ms, "ingest rejected");
        match serde_json::to_string(violations.listed()) {
            Ok(listed) => {
                if self.record_with_retry(|| self.store.reject(claim, &listed, count)).await {
                    self.metrics.ended(IngestState::Rejected, duration);
                }
            }
            Err(error) => error!(%error, "the violations cannot be written as JSON"),
        }
    }

    async fn supersede(&self, claim: &Claim, duration: Duration) {
        let duration_ms = milliseconds(duration);
        info!(duration_ms, "ingest superseded: the bucket holds newer content");
        if self.record_with_retry(|| self.store.supersede(claim)).await {
            self.metrics.ended(IngestState::Superseded, duration);
        }
    }

    /// Ends an ingest whose snapshot withdraws too many movies. Nothing of it was stored.
    async fn block(&self, claim: &Claim, failure: &Failure, duration: Duration) {
        let Some(StoreError::TooManyWithdrawn { withdrawn, named, movies, .. }) = failure.store()
        else {
            return;
        };
        let duration_ms = milliseconds(duration);
        warn!(withdrawn, named, duration_ms, "ingest blocked: it waits for an approval");
        let detail = format!(
            "this snapshot would withdraw {withdrawn} of the {named} movies that its object named; \
             put a complete file, or approve this one: POST /ingests/{}/approve",
            claim.id
        );
        let problem = Problem::new(Code::TooManyWithdrawn, detail).with_movies(movies);
        let problem = problem.to_json();
        let problem = String::from_utf8_lossy(&problem);
        if self.record_with_retry(|| self.store.block(claim, &problem)).await {
            self.metrics.ended(IngestState::Blocked, duration);
        }
    }

    /// Looks for an object that is not there once more, after a pause: its producer may be replacing it.
    async fn requeue_or_give_up(&self, claim: &Claim, cause: &ErrorCause, duration: Duration) {
        let (attempt, duration_ms) = (claim.attempts, milliseconds(duration));
        if attempt < MAX_ATTEMPTS_GONE {
            let retry_in_ms = milliseconds(self.retry.gone_delay);
            info!(%cause, attempt, retry_in_ms, duration_ms, "object gone, will look again");
            if self.record_with_retry(|| self.store.requeue(claim, self.retry.gone_delay)).await {
                self.metrics.retried(Code::ObjectGone);
            }
            return;
        }
        info!(%cause, attempt, duration_ms, "ingest gone");
        let problem = Problem::new(Code::ObjectGone, cause.code.clone()).to_json();
        let problem = String::from_utf8_lossy(&problem);
        if self.record_with_retry(|| self.store.gone(claim, &problem)).await {
            self.metrics.ended(IngestState::Gone, duration);
        }
    }

    async fn requeue_or_fail(&self, claim: &Claim, failure: &Failure, duration: Duration) {
        let max_attempts = match (failure, failure.store()) {
            (_, Some(StoreError::Full(_))) => 1,
            (Failure::Object(ObjectError::Refused(_)), _) | (_, Some(StoreError::Statement(_))) => {
                self.retry.max_attempts_refused
            }
            _ => self.retry.max_attempts,
        };
        let error = chain(failure);
        let attempt = claim.attempts;
        let duration_ms = milliseconds(duration);
        if attempt < max_attempts {
            let delay = self.retry.delay(attempt);
            let retry_in_ms = milliseconds(delay);
            warn!(
                error,
                attempt, max_attempts, retry_in_ms, duration_ms, "attempt failed, will retry"
            );
            if self.record_with_retry(|| self.store.requeue(claim, delay)).await {
                self.metrics.retried(failure.code());
            }
            return;
        }
        error!(error, attempt, duration_ms, "ingest failed");
        // Clients may read the problem. The details are for the log.
        let detail = match failure {
            Failure::Object(error) => error.code().to_owned(),
            Failure::Store(_) | Failure::AttemptsExhausted => format!("attempt {attempt} failed"),
        };
        let problem = Problem::new(failure.code(), detail).to_json();
        let problem = String::from_utf8_lossy(&problem);
        if self.record_with_retry(|| self.store.fail(claim, &problem)).await {
            self.metrics.ended(IngestState::Failed, duration);
        }
    }

    /// Puts a claimed ingest back into the queue because the service stops. The attempt does not
    /// count.
    pub(super) async fn requeue_on_shutdown(&self, claim: &Claim) {
        info!("stopping: requeueing the ingest");
        let requeued = self.store.requeue_uncounted(claim).await;
        self.report(&requeued);
    }

    /// Runs `update` until the database takes the result, for as long as the lease may last: after
    /// that another worker claims the ingest. Returns whether the ledger has the result.
    async fn record_with_retry<F>(&self, update: impl Fn() -> F) -> bool
    where
        F: Future<Output = Result<(), StoreError>>,
    {
        let recorded = async {
            loop {
                match update().await {
                    Err(error @ (StoreError::Unavailable(_) | StoreError::Full(_))) => {
                        warn!(error = chain(&error), "recording the result failed, will retry");
                        sleep(POLL).await;
                    }
                    recorded => {
                        self.report(&recorded);
                        return recorded.is_ok();
                    }
                }
            }
        };
        timeout(self.lease, recorded).await.unwrap_or_else(|_| {
            warn!("the result was not recorded before the lease expired");
            false
        })
    }

    /// Puts an ingest of a batch back into the queue, to be processed alone. The attempt does not count.
    pub(super) async fn requeue_alone(&self, claim: &Claim, reason: &str) {
        info!(reason, "requeueing the ingest, to be processed alone");
        let requeued = self.store.requeue_alone(claim).await;
        self.report(&requeued);
    }

    /// Logs and counts a result that could not be recorded. Another worker claims the ingest after the
    /// lease has expired.
    fn report(&self, recorded: &Result<(), StoreError>) {
        let Err(error) = recorded else { return };
        warn!(error = chain(error), "the result could not be recorded");
        if matches!(error, StoreError::LeaseLost) {
            self.metrics.lease_lost();
        }
    }
}
