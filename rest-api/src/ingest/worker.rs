//! The workers: each takes one ingest after another from the queue.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::TryStreamExt;
use serde_json::json;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{Instrument, debug, error, error_span, info, warn};

use super::{
    failure::Failure,
    limits::MAX_FILE,
    source::{ObjectStore, SourceError},
    stream::decode,
    violation::Violations,
};
use crate::{
    config::Retry,
    metrics::Metrics,
    stopped,
    store::{Claim, IngestState, Merged, Store, StoreError},
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
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
}

/// What became of a claimed ingest.
enum Outcome {
    Merged(Merged),
    Rejected(Violations),
    /// The bucket holds newer content under this key.
    Replaced,
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
                    let span = error_span!(
                        "ingest",
                        id = claim.id,
                        request_id = claim.request_id.as_deref(),
                        trace_id = claim.trace_id.as_deref().map(display),
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
        info!(attempt = claim.attempts, taken_over = claim.taken_over, "claimed");
        if claim.taken_over {
            self.metrics.took_over();
        }
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
                self.recorded(requeued);
                return;
            }
        };
        drop(lease);
        let took = started.elapsed();
        let ms = milliseconds(took);
        match result {
            Ok(Outcome::Merged(merged)) => {
                let state = if merged.superseded {
                    IngestState::Superseded
                } else {
                    IngestState::Succeeded
                };
                let Merged { inserted, updated, unchanged, .. } = merged;
                info!(state = state.name(), inserted, updated, unchanged, ms, "ended");
                self.metrics.merged(&merged);
                self.metrics.ended(state, took);
                self.tidy(&merged).await;
            }
            Ok(Outcome::Rejected(violations)) => self.reject(claim, &violations, took).await,
            Ok(Outcome::Replaced) => {
                info!(state = "superseded", ms, "ended: the bucket holds newer content");
                if self.record(|| self.store.supersede(claim)).await {
                    self.metrics.ended(IngestState::Superseded, took);
                }
            }
            Err(Failure::Store(StoreError::LeaseLost)) => {
                warn!(ms, "the lease was lost; another worker has the ingest");
                self.metrics.lease_lost();
            }
            Err(failure) => self.give_up_or_requeue(claim, &failure, took).await,
        }
    }

    /// Makes the catalogue fast again after a merge; right it is already.
    async fn tidy(&self, merged: &Merged) {
        let tidied = match self.store.tidy(merged).await {
            Ok(true) => self.store.vacuum().await,
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = tidied {
            warn!(error = chain(&error), "could not tidy the catalogue now");
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
        // The same content, of another length: somebody on the way has cut it, or will.
        if claim.etag.is_some() && claim.size.is_some() && claim.size != object.observed.size {
            return Err(SourceError::unlike_s3("the answer is not as long as the object").into());
        }
        let place = self.store.observe(claim, &object.observed).await?;
        debug!(size = object.observed.size, "reading");
        let mut staging = self.store.staging(claim, compare).await?;
        let encoding = object.content_encoding.as_deref();
        let body = object.body.inspect_ok(|chunk| self.metrics.read(chunk.len()));
        let decoded = decode(encoding, MAX_FILE, body, Some(&mut staging)).await?;
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

    async fn reject(&self, claim: &Claim, violations: &Violations, took: Duration) {
        let count = i64::try_from(violations.count()).unwrap_or(i64::MAX);
        let first = violations.listed().first();
        let first = first.and_then(|violation| serde_json::to_string(violation).ok());
        info!(state = "rejected", violations = count, first, ms = milliseconds(took), "ended");
        match serde_json::to_string(violations.listed()) {
            Ok(listed) => {
                if self.record(|| self.store.reject(claim, &listed, count)).await {
                    self.metrics.ended(IngestState::Rejected, took);
                }
            }
            Err(error) => error!(%error, "the violations are no JSON"),
        }
    }

    async fn give_up_or_requeue(&self, claim: &Claim, failure: &Failure, took: Duration) {
        let max_attempts = match failure {
            Failure::Source(SourceError::Gone(_)) => 1,
            Failure::Source(SourceError::Refused(_)) | Failure::Store(StoreError::Statement(_)) => {
                self.retry.max_attempts_refused
            }
            _ => self.retry.max_attempts,
        };
        let reason = chain(failure);
        let (attempt, ms) = (claim.attempts, milliseconds(took));
        let (code, title) = failure.code_and_title();
        if attempt < max_attempts {
            let delay = self.retry.delay(attempt);
            let retry_in_ms = delay.as_millis();
            warn!(
                error = reason,
                attempt, max_attempts, retry_in_ms, ms, "attempt failed, will try again"
            );
            if self.record(|| self.store.requeue(claim, delay, true)).await {
                self.metrics.retried(code);
            }
            return;
        }
        error!(state = "failed", error = reason, attempt, ms, "ended");
        // Anybody may read this: the particulars are for the log.
        let detail = match failure {
            Failure::Source(error) => error.code().to_owned(),
            Failure::Store(_) | Failure::Worn => format!("attempt {attempt} failed"),
        };
        let problem =
            json!({ "type": "about:blank", "title": title, "code": code, "detail": detail });
        let problem = problem.to_string();
        if self.record(|| self.store.fail(claim, &problem)).await {
            self.metrics.ended(IngestState::Failed, took);
        }
    }

    /// Records what became of an ingest; when the database is away, as soon as it is back. Others
    /// would find the ingest only when the lease has run out, and so it is tried that long. Returns
    /// whether the ledger has it.
    async fn record<F>(&self, record: impl Fn() -> F) -> bool
    where
        F: Future<Output = Result<(), StoreError>>,
    {
        let recorded = async {
            loop {
                match record().await {
                    Err(error @ StoreError::Unavailable(_)) => {
                        warn!(error = chain(&error), "cannot record it now, will try again");
                        sleep(POLL).await;
                    }
                    recorded => return self.recorded(recorded),
                }
            }
        };
        timeout(self.lease, recorded).await.unwrap_or_else(|_| {
            warn!("could not record it before the lease ran out");
            false
        })
    }

    /// Whether the ledger has it. What could not be recorded now will be found by the next worker,
    /// when the lease has expired.
    fn recorded(&self, recorded: Result<(), StoreError>) -> bool {
        if let Err(error) = &recorded {
            warn!(error = chain(error), "could not record it now");
            if matches!(error, StoreError::LeaseLost) {
                self.metrics.lease_lost();
            }
        }
        recorded.is_ok()
    }
}

fn milliseconds(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}
