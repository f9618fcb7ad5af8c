//! Processes many small files at once: they are fetched side by side, and merged in one transaction.
//!
//! Each file has its own result. A bad one falls out alone, and a slow one delays no other. If the merge
//! fails, its files are merged one by one. A file whose worker died before goes on alone: if it is what
//! kills workers, it takes no others with it.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use aws::otlp;
use movie_file::Violations;
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tracing::{Instrument, error, info, warn};

use super::{
    attempt::{Attempted, Failure, File, Opened},
    lease,
    worker::{Worker, exported, span},
};
use crate::{
    shutdown,
    store::{CatalogueRow, Claim, SmallFile, StoreError},
    telemetry::chain,
};

/// The largest number of files in a batch.
pub(super) const MAX_BATCH: usize = 64;

/// How many objects are read at once.
const CONCURRENT_READS: usize = 16;

/// Files that were read are merged when their movies take so many bytes.
const MAX_BYTES: u64 = 8 << 20;

/// How long files that were read wait for others.
const PATIENCE: Duration = Duration::from_millis(200);

/// How long a batch waits for its last files. After that they go on alone.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// What reading a small file has resulted in.
enum Read {
    File(Box<SmallFile>),
    /// It has violations.
    Rejected(Violations),
    /// The bucket holds newer content.
    Replaced,
    /// It is to be processed alone, for this reason.
    Alone(&'static str),
}

/// A batch that is being processed.
struct Batch {
    worker: Arc<Worker>,
    started: Instant,
    /// The claims whose ingests have not ended.
    open: Vec<Claim>,
    /// The files that were read and not merged.
    files: Vec<SmallFile>,
    /// The exported spans of the open claims, by the ids of their ingests.
    exported: HashMap<i64, otlp::Span>,
}

impl Worker {
    /// Processes a batch of small files. Requeues those that have not ended when `stop` turns true.
    pub(super) async fn process_batch(
        self: Arc<Self>,
        claims: Vec<Claim>,
        mut stop: watch::Receiver<bool>,
    ) {
        let renewing = lease::renew_until_dropped(&self.store, &claims, self.lease);
        let mut batch = Batch {
            worker: Arc::clone(&self),
            started: Instant::now(),
            open: claims.clone(),
            files: Vec::new(),
            exported: claims.iter().map(|claim| (claim.id, exported(claim))).collect(),
        };
        tokio::select! {
            biased;
            () = batch.process(claims) => {}
            () = shutdown::requested(&mut stop) => {
                for claim in &batch.open {
                    self.requeue_on_shutdown(claim).instrument(span(claim)).await;
                }
            }
        }
        drop(renewing);
    }

    /// Reads a file, in a task of its own.
    async fn read(self: Arc<Self>, claim: Claim) -> (Claim, Result<Read, Failure>) {
        if claim.taken_over {
            self.metrics.took_over();
            return (claim, Ok(Read::Alone("the worker that had it died or stalled")));
        }
        info!(attempt = claim.attempts, "ingest claimed");
        let read = self.read_file(&claim).await;
        (claim, read)
    }

    async fn read_file(&self, claim: &Claim) -> Result<Read, Failure> {
        if claim.attempts > self.retry.max_attempts {
            return Err(Failure::AttemptsExhausted);
        }
        if claim.removal {
            return Ok(Read::File(Box::new(self.removal(claim).await?)));
        }
        let File { claim, position, mode, mut reader } = match self.open(claim).await? {
            Opened::File(file) => *file,
            Opened::Rejected(violations) => return Ok(Read::Rejected(violations)),
            Opened::Replaced => return Ok(Read::Replaced),
        };
        let rows = reader.next_batch(CatalogueRow::new).await?.unwrap_or_default();
        if reader.next_batch(CatalogueRow::new).await?.is_some()
            || !self.store.is_within_budget(&rows)
        {
            return Ok(Read::Alone("it is not small"));
        }
        let violations = reader.finish().await?.violations;
        if !violations.is_empty() {
            return Ok(Read::Rejected(violations));
        }
        let removal = None;
        Ok(Read::File(Box::new(SmallFile { claim, position, mode, removal, rows })))
    }
}

impl Batch {
    /// Reads and merges the files of `claims`.
    async fn process(&mut self, claims: Vec<Claim>) {
        let mut waiting = claims.into_iter();
        let mut reads = JoinSet::new();
        loop {
            while reads.len() < CONCURRENT_READS
                && let Some(claim) = waiting.next()
            {
                let span = span(&claim);
                reads.spawn(Arc::clone(&self.worker).read(claim).instrument(span));
            }
            let patience = if self.files.is_empty() { MAX_WAIT } else { PATIENCE };
            match timeout(patience, reads.join_next()).await {
                Ok(Some(Ok((claim, read)))) => {
                    let span = span(&claim);
                    self.after_read(claim, read).instrument(span).await;
                }
                // The lease of its ingest expires, as if the process had died.
                Ok(Some(Err(panic))) => error!(%panic, "reading a file panicked"),
                Ok(None) => break,
                Err(_) if !self.files.is_empty() => self.merge().await,
                // The last files are slow.
                Err(_) if waiting.len() == 0 => break,
                Err(_) => {}
            }
            if self.files.iter().map(SmallFile::size).sum::<u64>() >= MAX_BYTES {
                self.merge().await;
            }
        }
        self.merge().await;
        if !reads.is_empty() {
            reads.shutdown().await;
            for claim in std::mem::take(&mut self.open) {
                let requeue = self.worker.requeue_alone(&claim, "its object is slow to read");
                requeue.instrument(span(&claim)).await;
            }
        }
    }

    async fn after_read(&mut self, claim: Claim, read: Result<Read, Failure>) {
        let result = match read {
            Ok(Read::File(file)) => return self.files.push(*file),
            Ok(Read::Alone(reason)) => {
                self.worker.requeue_alone(&claim, reason).await;
                return self.end(&claim);
            }
            Ok(Read::Rejected(violations)) => Ok(Attempted::Rejected(violations)),
            Ok(Read::Replaced) => Ok(Attempted::Replaced),
            Err(failure) => Err(failure),
        };
        self.record_result(&claim, result).await;
        self.end(&claim);
    }

    async fn record_result(&mut self, claim: &Claim, result: Result<Attempted, Failure>) {
        let exported = self.exported.remove(&claim.id).unwrap_or(otlp::Span::NONE);
        self.worker.record_result(claim, result, self.started.elapsed(), exported).await;
    }

    fn end(&mut self, claim: &Claim) {
        self.open.retain(|open| open.id != claim.id);
        self.exported.remove(&claim.id);
    }

    /// Merges the files that were read, in one transaction; one by one if that fails by a statement, so
    /// that the file at fault fails alone.
    async fn merge(&mut self) {
        let files = std::mem::take(&mut self.files);
        if files.is_empty() {
            return;
        }
        match self.merge_together(&files).await {
            Ok(()) => {}
            Err(error @ (StoreError::Statement(_) | StoreError::TooManyWithdrawn { .. }))
                if files.len() > 1 =>
            {
                warn!(
                    error = chain(&error),
                    "merging a batch failed: merging its files one by one"
                );
                for file in &files {
                    let file = std::slice::from_ref(file);
                    if let Err(error) = self.merge_together(file).await {
                        self.record_failure(file, error).await;
                    }
                }
            }
            Err(error) => self.record_failure(&files, error).await,
        }
        for file in &files {
            self.end(&file.claim);
        }
    }

    async fn merge_together(&mut self, files: &[SmallFile]) -> Result<(), StoreError> {
        let merged = self.worker.store.merge_batch(files).await?;
        for (file, merged) in files.iter().zip(merged) {
            let result = match merged {
                Some(merged) => Ok(Attempted::Merged(merged)),
                None => Err(StoreError::LeaseLost.into()),
            };
            self.record_result(&file.claim, result).instrument(span(&file.claim)).await;
        }
        Ok(())
    }

    /// Records that none of `files` could be merged. If it happens again, each goes on alone: one of them
    /// may be what the database cannot take.
    async fn record_failure(&mut self, files: &[SmallFile], error: StoreError) {
        let error = Arc::new(error);
        for SmallFile { claim, .. } in files {
            let record = async {
                if files.len() > 1 && claim.attempts > 1 {
                    return self.worker.requeue_alone(claim, "its batch failed again").await;
                }
                let failure = Failure::Store(Arc::clone(&error));
                self.record_result(claim, Err(failure)).await;
            };
            record.instrument(span(claim)).await;
        }
    }
}
