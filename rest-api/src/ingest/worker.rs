//! The workers: each takes one ingest after another from the queue.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{sync::watch, task::JoinSet, time::sleep};
use tracing::{Instrument, debug, error, info, info_span, warn};

use super::{
    limits::MAX_FILE,
    source::{ObjectStore, SourceError},
    stream::{DecodeError, decode},
    violation::Violations,
};
use crate::{
    config::Retry,
    stopped,
    store::{Claim, Merged, Store, StoreError},
    telemetry::chain,
};

/// How often the queue is looked at when nobody says that it has changed.
const POLL: Duration = Duration::from_secs(1);

/// How the service takes files.
#[derive(Clone)]
pub struct Worker {
    /// Where work and movies are.
    pub store: Store,
    /// Where files are.
    pub objects: ObjectStore,
    /// How faults are retried.
    pub retry: Retry,
    /// How long a claim lasts without word from its holder.
    pub lease: Duration,
}

/// What became of a claimed ingest.
enum Outcome {
    Merged(Merged),
    Rejected(Violations),
    /// The bucket holds newer content under this key.
    Replaced,
}

/// Why an ingest got nowhere.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Claimed again and again by workers that never got as far as to say why they failed.
    #[error("every worker that took the file died or stalled")]
    Worn,
}

impl From<DecodeError<SourceError>> for Failure {
    fn from(error: DecodeError<SourceError>) -> Self {
        match error {
            DecodeError::Read(error) => Self::Source(error),
            DecodeError::Store(error) => Self::Store(error),
        }
    }
}

impl Worker {
    /// Takes ingests until `shutdown` changes. One that is then half done goes back to the queue.
    pub async fn run(self: Arc<Self>, mut shutdown: watch::Receiver<bool>) {
        let mut queued = self.store.hints().queued.subscribe();
        loop {
            queued.borrow_and_update();
            let claimed = tokio::select! {
                biased;
                () = stopped(&mut shutdown) => return,
                claimed = self.store.claim(self.lease) => claimed,
            };
            match claimed {
                Ok(Some(claim)) => {
                    let span = info_span!(
                        "ingest",
                        id = claim.id,
                        request_id = claim.request_id.as_deref(),
                        bucket = claim.bucket,
                        key = claim.key,
                    );
                    let take = Arc::clone(&self).take(claim, shutdown.clone());
                    // In a task of its own: should it panic, the worker lives on, and the lease
                    // runs out as if the whole process had died.
                    if let Err(panic) = tokio::spawn(take.instrument(span)).await {
                        error!(%panic, "the ingest was abandoned");
                    }
                }
                Ok(None) => tokio::select! {
                    () = stopped(&mut shutdown) => return,
                    _ = queued.changed() => {}
                    () = sleep(POLL) => {}
                },
                Err(error) => {
                    warn!(error = chain(&error), "cannot claim work, will try again");
                    sleep(POLL).await;
                }
            }
        }
    }

    async fn take(self: Arc<Self>, claim: Claim, mut shutdown: watch::Receiver<bool>) {
        let claim = &claim;
        info!(attempt = claim.attempts, "claimed");
        let started = Instant::now();
        // In a task of its own, which ends with this one: decoding must not keep it from its turn.
        let mut lease = JoinSet::new();
        lease.spawn(Arc::clone(&self).keep_lease(claim.clone()).in_current_span());
        let result = tokio::select! {
            biased;
            result = self.ingest(claim) => result,
            () = stopped(&mut shutdown) => {
                info!("stopping: back to the queue");
                let requeued = self.store.requeue(claim, Duration::ZERO, false).await;
                return report(requeued);
            }
        };
        drop(lease);
        let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match result {
            Ok(Outcome::Merged(merged)) => {
                let state = if merged.superseded { "superseded" } else { "succeeded" };
                let Merged { inserted, updated, unchanged, .. } = merged;
                info!(state, inserted, updated, unchanged, ms, "ended");
                report(self.store.tidy(&merged).await);
            }
            Ok(Outcome::Rejected(violations)) => self.reject(claim, &violations, ms).await,
            Ok(Outcome::Replaced) => {
                info!(state = "superseded", ms, "ended: the bucket holds newer content");
                report(self.store.supersede(claim).await);
            }
            Err(Failure::Store(StoreError::LeaseLost)) => {
                warn!(ms, "the lease was lost; another worker has the ingest");
            }
            Err(failure) => self.give_up_or_requeue(claim, &failure, ms).await,
        }
    }

    /// Takes the file of `claim` into the catalogue.
    async fn ingest(&self, claim: &Claim) -> Result<Outcome, Failure> {
        if claim.attempts > self.retry.max_attempts {
            return Err(Failure::Worn);
        }
        match self.load(claim, true).await {
            Err(Failure::Store(StoreError::Moved)) => {
                info!("other files changed the same movies meanwhile: reading it once more");
                self.load(claim, false).await
            }
            outcome => outcome,
        }
    }

    /// Reads the object and merges it; whole, or if `compare`, what differs from its last version.
    async fn load(&self, claim: &Claim, compare: bool) -> Result<Outcome, Failure> {
        let Claim { bucket, key, version_id, .. } = claim;
        let object = self.objects.open(bucket, key, version_id.as_deref()).await?;
        if claim.etag.is_some() && claim.etag != object.observed.etag {
            return Ok(Outcome::Replaced);
        }
        let place = self.store.observe(claim, &object.observed).await?;
        debug!(size = object.observed.size, "reading");
        let mut staging = self.store.staging(claim, compare).await?;
        let encoding = object.content_encoding.as_deref();
        let decoded = decode(encoding, MAX_FILE, object.body, Some(&mut staging)).await?;
        if decoded.violations.count() > 0 {
            staging.discard().await;
            return Ok(Outcome::Rejected(decoded.violations));
        }
        Ok(Outcome::Merged(staging.merge(&place, claim).await?))
    }

    /// Renews the lease for as long as the ingest runs.
    ///
    /// Losing it ends nothing here: a worker without lease cannot change anything, and finds out
    /// when it tries.
    async fn keep_lease(self: Arc<Self>, claim: Claim) {
        loop {
            sleep(self.lease / 3).await;
            if let Err(error) = self.store.renew(&claim, self.lease).await {
                warn!(error = chain(&error), "could not renew the lease");
            }
        }
    }

    async fn reject(&self, claim: &Claim, violations: &Violations, ms: u64) {
        let count = i64::try_from(violations.count()).unwrap_or(i64::MAX);
        let first = violations.listed().first();
        let first = first.and_then(|violation| serde_json::to_string(violation).ok());
        info!(state = "rejected", violations = count, first, ms, "ended");
        match serde_json::to_string(violations.listed()) {
            Ok(listed) => report(self.store.reject(claim, &listed, count).await),
            Err(error) => error!(%error, "the violations are no JSON"),
        }
    }

    async fn give_up_or_requeue(&self, claim: &Claim, failure: &Failure, ms: u64) {
        let max_attempts = match failure {
            Failure::Source(SourceError::Gone(_)) => 1,
            Failure::Source(SourceError::Refused(_)) | Failure::Store(StoreError::Statement(_)) => {
                self.retry.max_attempts_refused
            }
            _ => self.retry.max_attempts,
        };
        let reason = chain(failure);
        let attempt = claim.attempts;
        if attempt < max_attempts {
            let delay = backoff(&self.retry, attempt);
            let retry_in_ms = delay.as_millis();
            warn!(
                error = reason,
                attempt, max_attempts, retry_in_ms, ms, "attempt failed, will try again"
            );
            return report(self.store.requeue(claim, delay, true).await);
        }
        error!(state = "failed", error = reason, attempt, ms, "ended");
        let (code, title) = match failure {
            Failure::Source(SourceError::Gone(_)) => ("object_gone", "The object is not there"),
            Failure::Source(SourceError::Refused(_)) => {
                ("object_refused", "The object store does not give the object out")
            }
            Failure::Source(SourceError::Temporary(_)) => {
                ("object_store_unavailable", "The object store was not available")
            }
            Failure::Store(_) => ("database_unavailable", "The database did not take the movies"),
            Failure::Worn => ("worker_died", "The file could not be worked on"),
        };
        // Anybody may read this: the particulars are for the log.
        let detail = match failure {
            Failure::Source(error) => error.code().to_owned(),
            Failure::Store(_) | Failure::Worn => format!("attempt {attempt} failed"),
        };
        let problem =
            json!({ "type": "about:blank", "title": title, "code": code, "detail": detail });
        report(self.store.fail(claim, &problem.to_string()).await);
    }
}

/// The pause before the next attempt: doubling, with up to half of it left to chance, so that many
/// that failed together do not come back together.
fn backoff(retry: &Retry, attempt: i32) -> Duration {
    let doublings = u32::try_from(attempt - 1).unwrap_or(0).min(20);
    let delay = retry.base_delay.saturating_mul(1 << doublings).min(retry.max_delay);
    let chance = f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
    delay.mul_f64(1.0 - chance / 2.0)
}

/// What could not be recorded now will be found by the next worker, when the lease has expired.
fn report(recorded: Result<(), StoreError>) {
    if let Err(error) = recorded {
        warn!(error = chain(&error), "could not record it now");
    }
}
