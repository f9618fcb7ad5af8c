//! The index: which buckets, versions, uploads and parts exist, and where their contents are.
//!
//! It is one redb file. Keys are plain text, compared by their bytes. Records are JSON.
//!
//! One thread writes. It takes all changes that wait, applies them in one transaction, and commits
//! once, so that many concurrent puts share one sync of the disk. A change checks everything before it
//! writes anything: if it fails, the others of its transaction are committed.

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use redb::{
    Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{oneshot, watch};
use tracing::error;

use crate::{
    OpenError,
    contents::{Contents, Source},
    records::Bucket,
};

/// Bucket, object key, and the place among the rows of the key.
pub(crate) type RowKey = (&'static str, &'static [u8], u64);

/// Buckets by name.
pub(crate) const BUCKETS: TableDefinition<&str, &[u8]> = TableDefinition::new("buckets");
/// Versions of objects. The place is the inverted sequence number, so the newest version is the first.
pub(crate) const VERSIONS: TableDefinition<RowKey, &[u8]> = TableDefinition::new("versions");
/// Multipart uploads. The place is the sequence number.
pub(crate) const UPLOADS: TableDefinition<RowKey, &[u8]> = TableDefinition::new("uploads");
/// Parts by the sequence number of the upload and the part number.
pub(crate) const PARTS: TableDefinition<(u64, u16), &[u8]> = TableDefinition::new("parts");
/// Small contents by id.
pub(crate) const SMALL: TableDefinition<&str, &[u8]> = TableDefinition::new("small");
/// Events that nobody has acknowledged, by sequence number.
pub(crate) const OUTBOX: TableDefinition<u64, &[u8]> = TableDefinition::new("outbox");
/// The last sequence number, under the empty name.
const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");

/// Whether a content stays.
pub(crate) type Kept = Arc<AtomicBool>;

/// How many bytes of the index are kept in memory at most.
const CACHE_SIZE: usize = 32 << 20;

/// How many changes share a transaction at most.
const MAX_GROUP: usize = 256;

/// How long a change that can wait waits for one that cannot.
const PATIENCE: Duration = Duration::from_millis(100);

/// A change that waits for the thread that writes.
trait Job: Send {
    /// Applies the change. It may be applied again, in another transaction. Returns `false` if the transaction
    /// must be aborted.
    fn apply(&mut self, transaction: &Transaction) -> bool;
    /// Sends the result of the change.
    fn reply(self: Box<Self>, is_committed: bool);
    /// Whether it is in no hurry.
    fn can_wait(&self) -> bool;
}

/// A change, its last outcome, and who waits for it.
struct Pending<T, F> {
    change: F,
    outcome: Option<S3Result<T>>,
    sender: oneshot::Sender<S3Result<T>>,
    can_wait: bool,
}

impl<T: Send, F: FnMut(&Transaction) -> S3Result<T> + Send> Job for Pending<T, F> {
    fn apply(&mut self, transaction: &Transaction) -> bool {
        let outcome = self.outcome.insert((self.change)(transaction));
        !matches!(outcome, Err(error) if *error.code() == S3ErrorCode::InternalError)
    }

    fn reply(self: Box<Self>, is_committed: bool) {
        let lost = || Err(s3_error!(InternalError, "the index could not be written"));
        let outcome = self.outcome.filter(|outcome| is_committed || outcome.is_err());
        let _ = self.sender.send(outcome.unwrap_or_else(lost));
    }

    fn can_wait(&self) -> bool {
        self.can_wait
    }
}

/// The index of a store.
#[derive(Clone)]
pub(crate) struct Index {
    database: Arc<Database>,
    jobs: mpsc::Sender<Box<dyn Job>>,
    /// Changes with every commit.
    commits: watch::Receiver<u64>,
}

/// A write transaction.
pub(crate) struct Transaction {
    inner: WriteTransaction,
    region: Arc<str>,
    last_sequence: Cell<u64>,
    removed: RefCell<Vec<String>>,
    kept: RefCell<Vec<Kept>>,
}

impl Index {
    /// Opens the index in `file`, or creates it, and starts the thread that writes.
    ///
    /// # Errors
    /// If the file is not an index, or another process uses it.
    pub(crate) fn open(file: &Path, contents: Contents, region: &str) -> Result<Self, OpenError> {
        let database = Database::builder().set_cache_size(CACHE_SIZE).create(file);
        let database = database.map_err(OpenError::index)?;
        let first = database.begin_write().map_err(OpenError::index)?;
        create_tables(&first).map_err(OpenError::index)?;
        first.commit().map_err(OpenError::index)?;
        let database = Arc::new(database);
        let (jobs, queue) = mpsc::channel();
        let (committed, commits) = watch::channel(0);
        let region = Arc::from(region);
        let writer = Writer { database: Arc::clone(&database), contents, region, committed };
        thread::Builder::new()
            .name("local-s3-index".to_owned())
            .spawn(move || writer.run(&queue))?;
        Ok(Self { database, jobs, commits })
    }

    /// Runs `change` in a transaction. Returns its result when the transaction is on the disk. If the
    /// transaction is aborted, because of another change perhaps, `change` runs again in one of its own.
    ///
    /// # Errors
    /// Those of `change`, which must not have written anything then.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        change: impl FnMut(&Transaction) -> S3Result<T> + Send + 'static,
    ) -> S3Result<T> {
        self.write_when(false, change).await
    }

    /// The same for a change that is in no hurry: it shares the sync of another change.
    pub(crate) async fn write_later<T: Send + 'static>(
        &self,
        change: impl FnMut(&Transaction) -> S3Result<T> + Send + 'static,
    ) -> S3Result<T> {
        self.write_when(true, change).await
    }

    async fn write_when<T: Send + 'static>(
        &self,
        can_wait: bool,
        change: impl FnMut(&Transaction) -> S3Result<T> + Send + 'static,
    ) -> S3Result<T> {
        let (sender, result) = oneshot::channel();
        self.jobs
            .send(Box::new(Pending { change, outcome: None, sender, can_wait }))
            .map_err(|_| s3_error!(InternalError, "the store is closed"))?;
        result.await.map_err(internal)?
    }

    /// Begins to read: a view of the index as it is now.
    pub(crate) fn read(&self) -> S3Result<ReadTransaction> {
        self.database.begin_read().map_err(internal)
    }

    /// Returns the table as it is now.
    pub(crate) fn table<K: redb::Key, V: redb::Value>(
        &self,
        table: TableDefinition<'_, K, V>,
    ) -> S3Result<ReadOnlyTable<K, V>> {
        self.read()?.open_table(table).map_err(internal)
    }

    /// # Errors
    /// If there is no such bucket.
    pub(crate) fn bucket(&self, name: &str) -> S3Result<Bucket> {
        bucket_in(&self.table(BUCKETS)?, name)
    }

    /// Returns where to read a range of a content.
    pub(crate) fn source(&self, id: String, range: Range<u64>) -> S3Result<Source> {
        source_in(&self.read()?, id, range)
    }

    /// Returns what changes with every commit.
    pub(crate) fn commits(&self) -> watch::Receiver<u64> {
        self.commits.clone()
    }
}

/// Returns where to read a range of a content that `view` has.
pub(crate) fn source_in(view: &ReadTransaction, id: String, range: Range<u64>) -> S3Result<Source> {
    let table = view.open_table(SMALL).map_err(internal)?;
    let Some(small) = table.get(id.as_str()).map_err(internal)? else {
        return Ok(Source::Content(id, range));
    };
    let bounds = (usize::try_from(range.start), usize::try_from(range.end));
    let (Ok(start), Ok(end)) = bounds else { return Err(internal("the range is too large")) };
    let bytes = small.value().get(start..end).map(Bytes::copy_from_slice);
    bytes.map(Source::Memory).ok_or_else(|| internal("the content is too short"))
}

impl Transaction {
    /// Opens a table. It must be dropped before it is opened again.
    pub(crate) fn table<K: redb::Key, V: redb::Value>(
        &self,
        table: TableDefinition<'_, K, V>,
    ) -> S3Result<redb::Table<'_, K, V>> {
        self.inner.open_table(table).map_err(internal)
    }

    /// # Errors
    /// If there is no such bucket.
    pub(crate) fn bucket(&self, name: &str) -> S3Result<Bucket> {
        bucket_in(&self.table(BUCKETS)?, name)
    }

    /// Returns a number greater than all before it. It is at least the time in nanoseconds, so that
    /// this holds even if the index is lost.
    pub(crate) fn next_sequence(&self) -> u64 {
        let next = now_ns().max(self.last_sequence.get() + 1);
        self.last_sequence.set(next);
        next
    }

    /// Returns the region of the events.
    pub(crate) fn region(&self) -> &str {
        &self.region
    }

    /// Notes a content that stays when the transaction is committed.
    pub(crate) fn keep(&self, kept: Kept) {
        self.kept.borrow_mut().push(kept);
    }

    /// Removes a content: a file after the commit.
    pub(crate) fn remove_content(&self, id: String) -> S3Result<()> {
        if self.table(SMALL)?.remove(id.as_str()).map_err(internal)?.is_none() {
            self.removed.borrow_mut().push(id);
        }
        Ok(())
    }
}

/// What the writing thread owns.
struct Writer {
    database: Arc<Database>,
    contents: Contents,
    region: Arc<str>,
    committed: watch::Sender<u64>,
}

impl Writer {
    fn run(self, queue: &mpsc::Receiver<Box<dyn Job>>) {
        while let Ok(first) = queue.recv() {
            let mut jobs = vec![first];
            while jobs.iter().all(|job| job.can_wait()) && jobs.len() < MAX_GROUP {
                let Ok(job) = queue.recv_timeout(PATIENCE) else { break };
                jobs.push(job);
            }
            jobs.extend(queue.try_iter().take(MAX_GROUP - jobs.len()));
            let mut failed = self.finish(jobs).err().unwrap_or_default();
            if failed.len() > 1 {
                // One change must not fail the others.
                let alone = failed.into_iter().filter_map(|job| self.finish(vec![job]).err());
                failed = alone.flatten().collect();
            }
            for job in failed {
                job.reply(false);
            }
            self.committed.send_modify(|count| *count += 1);
        }
    }

    /// Applies `jobs` in one transaction, and replies to them. Returns them if the transaction failed.
    fn finish(&self, mut jobs: Vec<Box<dyn Job>>) -> Result<(), Vec<Box<dyn Job>>> {
        match self.apply(&mut jobs) {
            Ok(removed) => {
                for job in jobs {
                    job.reply(true);
                }
                for id in removed {
                    self.contents.remove(&id);
                }
                Ok(())
            }
            Err(error) => {
                error!(%error, jobs = jobs.len(), "a transaction of the index failed");
                Err(jobs)
            }
        }
    }

    /// Applies `jobs` in one transaction. Returns the contents to remove.
    fn apply(&self, jobs: &mut [Box<dyn Job>]) -> S3Result<Vec<String>> {
        let inner = self.database.begin_write().map_err(internal)?;
        let counters = inner.open_table(COUNTERS).map_err(internal)?;
        let last = counters.get("").map_err(internal)?.map_or(0, |last| last.value());
        drop(counters);
        let transaction = Transaction {
            inner,
            region: Arc::clone(&self.region),
            last_sequence: Cell::new(last),
            removed: RefCell::default(),
            kept: RefCell::default(),
        };
        let mut is_sound = true;
        for job in jobs {
            is_sound &= job.apply(&transaction);
        }
        let Transaction { inner, last_sequence, removed, kept, .. } = transaction;
        if !is_sound {
            // A change may have been written in part.
            inner.abort().map_err(internal)?;
            return Err(s3_error!(InternalError, "a change could not be applied"));
        }
        let mut counters = inner.open_table(COUNTERS).map_err(internal)?;
        counters.insert("", last_sequence.get()).map_err(internal)?;
        drop(counters);
        // The names of new contents must be on the disk before anything refers to them.
        self.contents.sync().map_err(internal)?;
        // A commit that fails may be on the disk all the same, so its contents stay until the next start.
        for kept in kept.into_inner() {
            kept.store(true, Ordering::Relaxed);
        }
        inner.commit().map_err(internal)?;
        Ok(removed.into_inner())
    }
}

fn create_tables(transaction: &WriteTransaction) -> Result<(), redb::TableError> {
    transaction.open_table(BUCKETS)?;
    transaction.open_table(VERSIONS)?;
    transaction.open_table(UPLOADS)?;
    transaction.open_table(PARTS)?;
    transaction.open_table(SMALL)?;
    transaction.open_table(OUTBOX)?;
    transaction.open_table(COUNTERS)?;
    Ok(())
}

fn bucket_in(
    buckets: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> S3Result<Bucket> {
    let row = buckets.get(name).map_err(internal)?;
    decode(
        row.ok_or_else(|| s3_error!(NoSuchBucket, "The specified bucket does not exist"))?.value(),
    )
}

/// Returns an error that is no fault of the client.
pub(crate) fn internal(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> S3Error {
    S3Error::with_source(S3ErrorCode::InternalError, error.into())
}

/// Decodes a record.
pub(crate) fn decode<T: DeserializeOwned>(record: &[u8]) -> S3Result<T> {
    serde_json::from_slice(record).map_err(internal)
}

/// Encodes a record.
pub(crate) fn encode(record: &impl Serialize) -> S3Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(internal)
}

/// Returns the nanoseconds since 1970.
pub(crate) fn now_ns() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}
