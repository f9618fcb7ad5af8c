//! The workers. Some process one large file after another, others batches of small ones, so that neither
//! kind waits for the other.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aws::otlp::{self, SpanKind};
use movie_file::DecodePool;
use tokio::{sync::watch, time::sleep};
use tracing::{Instrument, Span, error, error_span, info, warn};

use super::{batch::MAX_BATCH, lease};
use crate::{
    config::{Retry, SnapshotPrefixes},
    metrics::Metrics,
    objects::ObjectStore,
    shutdown,
    store::{Claim, Lane, Store},
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
    /// The objects that are snapshots, whatever their metadata lack.
    pub snapshot_prefixes: SnapshotPrefixes,
    /// What the worker counts.
    pub metrics: Arc<Metrics>,
}

impl Worker {
    /// Processes ingests of `lane` until `stop` turns true: large ones one after another, small ones in
    /// batches. Unfinished ones are requeued then.
    pub async fn run(self: Arc<Self>, lane: Lane, mut stop: watch::Receiver<bool>) {
        let limit = if lane == Lane::Small { MAX_BATCH } else { 1 };
        tokio::select! {
            () = shutdown::requested(&mut stop) => return,
            () = self.store.wait_until_migrated() => {}
        }
        let mut queued = self.store.hints().queued.subscribe();
        loop {
            queued.borrow_and_update();
            let claimed = tokio::select! {
                biased;
                () = shutdown::requested(&mut stop) => return,
                claimed = self.store.claim(lane, limit, self.lease) => claimed,
            };
            match claimed {
                Ok(claims) if claims.is_empty() => tokio::select! {
                    () = shutdown::requested(&mut stop) => return,
                    _ = queued.changed() => {}
                    () = sleep(POLL) => {}
                },
                Ok(claims) => self.process_in_task(lane, claims, &stop).await,
                Err(error) => {
                    warn!(error = chain(&error), "claiming an ingest failed, will retry");
                    sleep(POLL).await;
                }
            }
        }
    }

    /// Processes ingests in a task of its own. If it panics, the worker goes on, and the leases expire as
    /// if the process had died.
    async fn process_in_task(
        self: &Arc<Self>,
        lane: Lane,
        claims: Vec<Claim>,
        stop: &watch::Receiver<bool>,
    ) {
        let (worker, stop) = (Arc::clone(self), stop.clone());
        let processed = tokio::spawn(async move {
            if lane == Lane::Small {
                return worker.process_batch(claims, stop).await;
            }
            for claim in claims {
                let span = span(&claim);
                Arc::clone(&worker).process(claim, stop.clone()).instrument(span).await;
            }
        });
        if let Err(panic) = processed.await {
            error!(%panic, "processing an ingest panicked");
        }
    }

    async fn process(self: Arc<Self>, claim: Claim, mut stop: watch::Receiver<bool>) {
        info!(attempt = claim.attempts, taken_over = claim.taken_over, "ingest claimed");
        if claim.taken_over {
            self.metrics.took_over();
        }
        let (started, exported) = (Instant::now(), exported(&claim));
        let renewing =
            lease::renew_until_dropped(&self.store, std::slice::from_ref(&claim), self.lease);
        let result = tokio::select! {
            biased;
            result = self.attempt(&claim) => result,
            () = shutdown::requested(&mut stop) => {
                drop(renewing);
                return self.requeue_on_shutdown(&claim).await;
            }
        };
        drop(renewing);
        self.record_result(&claim, result, started.elapsed(), exported).await;
    }
}

/// Returns the span of the log lines about an ingest.
pub(super) fn span(claim: &Claim) -> Span {
    error_span!(
        "ingest",
        id = claim.id,
        request_id = claim.request_id.as_deref(),
        trace_id = claim.trace_id.as_deref().map(tracing::field::display),
        bucket = claim.bucket,
        key = claim.key,
    )
}

/// Starts the exported span of an attempt.
pub(super) fn exported(claim: &Claim) -> otlp::Span {
    let Claim { trace_id, traceparent, .. } = claim;
    let (trace_id, traceparent) = (trace_id.as_deref(), traceparent.as_deref());
    let mut exported = otlp::Span::resume(SpanKind::Consumer, "ingest", trace_id, traceparent);
    exported.set("movies_r_us.ingest.id", || claim.id);
    exported.set("movies_r_us.ingest.attempt", || i64::from(claim.attempts));
    exported.set("aws.s3.bucket", || claim.bucket.clone());
    exported.set("aws.s3.key", || claim.key.clone());
    exported
}
