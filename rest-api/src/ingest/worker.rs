//! The workers: each processes one ingest after another from the queue.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use movie_file::DecodePool;
use tokio::{sync::watch, time::sleep};
use tracing::{Instrument, error, error_span, info, warn};

use super::lease;
use crate::{
    config::Retry,
    metrics::Metrics,
    objects::ObjectStore,
    shutdown,
    store::{Claim, Store},
    telemetry::chain,
};

/// How often an idle worker polls the queue, in addition to the hints it receives.
pub(super) const POLL: Duration = Duration::from_secs(1);

/// What a worker works with.
#[derive(Clone)]
pub struct Worker {
    /// The queue and the catalogue.
    pub store: Store,
    /// The files.
    pub objects: ObjectStore,
    /// The threads that decode the files.
    pub decode_pool: DecodePool,
    /// How faults are retried.
    pub retry: Retry,
    /// How long a claim lasts unless its lease is renewed.
    pub lease: Duration,
    /// What the worker counts.
    pub metrics: Arc<Metrics>,
}

impl Worker {
    /// Processes ingests until `stop` turns true. An unfinished one is requeued then.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut queued = self.store.hints().queued.subscribe();
        loop {
            queued.borrow_and_update();
            let claimed = tokio::select! {
                biased;
                () = shutdown::requested(&mut stop) => return,
                claimed = self.store.claim(self.lease) => claimed,
            };
            match claimed {
                Ok(Some(claim)) => self.process_in_task(claim, &stop).await,
                Ok(None) => tokio::select! {
                    () = shutdown::requested(&mut stop) => return,
                    _ = queued.changed() => {}
                    () = sleep(POLL) => {}
                },
                Err(error) => {
                    warn!(error = chain(&error), "claiming an ingest failed, will retry");
                    sleep(POLL).await;
                }
            }
        }
    }

    /// Processes an ingest in a task of its own. If it panics, the worker goes on, and the lease
    /// expires as if the process had died.
    async fn process_in_task(self: &Arc<Self>, claim: Claim, stop: &watch::Receiver<bool>) {
        let span = error_span!(
            "ingest",
            id = claim.id,
            request_id = claim.request_id.as_deref(),
            trace_id = claim.trace_id.as_deref().map(tracing::field::display),
            bucket = claim.bucket,
            key = claim.key,
        );
        let process = Arc::clone(self).process(claim, stop.clone());
        if let Err(panic) = tokio::spawn(process.instrument(span)).await {
            error!(%panic, "processing an ingest panicked");
        }
    }

    async fn process(self: Arc<Self>, claim: Claim, mut stop: watch::Receiver<bool>) {
        info!(attempt = claim.attempts, taken_over = claim.taken_over, "ingest claimed");
        if claim.taken_over {
            self.metrics.took_over();
        }
        let started = Instant::now();
        let renewing = lease::renew_until_dropped(&self.store, &claim, self.lease);
        let result = tokio::select! {
            biased;
            result = self.attempt(&claim) => result,
            () = shutdown::requested(&mut stop) => {
                drop(renewing);
                return self.requeue_on_shutdown(&claim).await;
            }
        };
        drop(renewing);
        self.record_result(&claim, result, started.elapsed()).await;
    }
}
