//! Processes many small files at once: they are fetched side by side, and merged in one transaction.
//!
//! Each file has its own result. A bad one falls out alone. If the merge fails, its files are merged one
//! by one. A file whose worker died before goes on alone: if it is what kills workers, it takes no others
//! with it.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use futures_util::{FutureExt, StreamExt, stream};
use movie_file::Violations;
use tokio::sync::watch;
use tracing::{Instrument, error, info, warn};

use super::{
    attempt::{Attempted, Failure, File},
    lease,
    worker::{Worker, span},
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

/// A batch is merged when its movies reach this number, so that its memory is bounded. A file of more
/// movies than one read gives is not small.
const MAX_MOVIES: usize = 10_000;

/// What reading a small file has resulted in.
enum Read {
    File(Box<SmallFile>),
    /// It has violations.
    Rejected(Violations),
    /// The bucket holds newer content.
    Replaced,
    /// Decompressed it is not small, or it may exceed the budget of a file.
    Large,
}

impl Worker {
    /// Processes a batch of small files. Requeues those that have not ended when `stop` turns true.
    pub(super) async fn process_batch(
        self: Arc<Self>,
        claims: Vec<Claim>,
        mut stop: watch::Receiver<bool>,
    ) {
        let started = Instant::now();
        let renewing = lease::renew_until_dropped(&self.store, &claims, self.lease);
        let mut open = claims.clone();
        tokio::select! {
            biased;
            () = self.process_files(claims, &mut open, started) => {}
            () = shutdown::requested(&mut stop) => {
                for claim in &open {
                    self.requeue_on_shutdown(claim).instrument(span(claim)).await;
                }
            }
        }
        drop(renewing);
    }

    /// Reads and merges the files. Removes those that have ended from `open`.
    async fn process_files(&self, claims: Vec<Claim>, open: &mut Vec<Claim>, started: Instant) {
        let reads = stream::iter(claims).map(|claim| self.read(claim));
        let mut reads = std::pin::pin!(reads.buffer_unordered(CONCURRENT_READS));
        let mut files: Vec<SmallFile> = Vec::new();
        while let Some((claim, read)) = reads.next().await {
            let span = span(&claim);
            let ended = async {
                match read {
                    Some(Ok(Read::File(file))) => {
                        files.push(*file);
                        return false;
                    }
                    Some(Ok(Read::Large)) => {
                        self.requeue_alone(&claim, "it is not small").await;
                    }
                    Some(Ok(Read::Rejected(violations))) => {
                        let result = Ok(Attempted::Rejected(violations));
                        self.record_result(&claim, result, started.elapsed()).await;
                    }
                    Some(Ok(Read::Replaced)) => {
                        let result = Ok(Attempted::Replaced);
                        self.record_result(&claim, result, started.elapsed()).await;
                    }
                    Some(Err(failure)) => {
                        self.record_result(&claim, Err(failure), started.elapsed()).await;
                    }
                    // It panicked, or is to be processed alone.
                    None => {}
                }
                true
            };
            if ended.instrument(span).await {
                open.retain(|open| open.id != claim.id);
            }
            if files.iter().map(|file| file.rows.len()).sum::<usize>() >= MAX_MOVIES {
                self.merge_files(std::mem::take(&mut files), open, started).await;
            }
        }
        if !files.is_empty() {
            self.merge_files(files, open, started).await;
        }
    }

    /// Reads a file. None if nothing is left to do about its ingest.
    async fn read(&self, claim: Claim) -> (Claim, Option<Result<Read, Failure>>) {
        let span = span(&claim);
        let read = async {
            if claim.taken_over {
                self.metrics.took_over();
                self.requeue_alone(&claim, "the worker that had it died or stalled").await;
                return None;
            }
            info!(attempt = claim.attempts, "ingest claimed");
            let read = AssertUnwindSafe(self.read_file(&claim)).catch_unwind().await;
            read.inspect_err(|_| error!("reading a file panicked")).ok()
        };
        let read = read.instrument(span).await;
        (claim, read)
    }

    async fn read_file(&self, claim: &Claim) -> Result<Read, Failure> {
        if claim.attempts > self.retry.max_attempts {
            return Err(Failure::AttemptsExhausted);
        }
        let Some(File { position, mut reader }) = self.open(claim).await? else {
            return Ok(Read::Replaced);
        };
        let mut batches = Vec::new();
        while let Some(rows) = reader.next_batch(CatalogueRow::new).await? {
            batches.push(rows);
            if batches.len() > 1 {
                return Ok(Read::Large);
            }
        }
        let violations = reader.finish().await?.violations;
        if !violations.is_empty() {
            return Ok(Read::Rejected(violations));
        }
        let rows = batches.pop().unwrap_or_default();
        if !self.store.is_within_budget(&rows) {
            return Ok(Read::Large);
        }
        Ok(Read::File(Box::new(SmallFile { claim: claim.clone(), position, rows })))
    }

    /// Merges files in one transaction; one by one if that fails by a statement, so that the file at fault
    /// fails alone.
    async fn merge_files(&self, files: Vec<SmallFile>, open: &mut Vec<Claim>, started: Instant) {
        match self.merge_once(&files, started).await {
            Ok(()) => {}
            Err(StoreError::Statement(error)) if files.len() > 1 => {
                warn!(
                    error = chain(&error),
                    "merging a batch failed: merging its files one by one"
                );
                for file in &files {
                    let file = std::slice::from_ref(file);
                    if let Err(error) = self.merge_once(file, started).await {
                        self.record_failure(file, error, started).await;
                    }
                }
            }
            Err(error) => self.record_failure(&files, error, started).await,
        }
        open.retain(|open| !files.iter().any(|file| file.claim.id == open.id));
    }

    async fn merge_once(&self, files: &[SmallFile], started: Instant) -> Result<(), StoreError> {
        let merged = self.store.merge_batch(files).await?;
        for (file, merged) in files.iter().zip(merged) {
            let result = match merged {
                Some(merged) => Ok(Attempted::Merged(merged)),
                None => Err(StoreError::LeaseLost.into()),
            };
            let record = self.record_result(&file.claim, result, started.elapsed());
            record.instrument(span(&file.claim)).await;
        }
        Ok(())
    }

    /// Records that none of `files` could be merged.
    async fn record_failure(&self, files: &[SmallFile], error: StoreError, started: Instant) {
        let error = Arc::new(error);
        for SmallFile { claim, .. } in files {
            let failure = Failure::Store(Arc::clone(&error));
            let record = self.record_result(claim, Err(failure), started.elapsed());
            record.instrument(span(claim)).await;
        }
    }
}
