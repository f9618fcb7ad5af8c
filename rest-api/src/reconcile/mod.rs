//! Comparing a bucket with the ledger, and queueing what the ledger lacks.
//!
//! This is the net under the notifications: it finds what no event has told of. It is also how a
//! bucket that was there before is loaded, and how the catalogue is built again from nothing.
//!
//! Bucket and ledger are both read in the order of their keys, a page at a time, and joined as they
//! come: memory does not grow with either. Nothing is locked meanwhile. What is put, taken or
//! deleted while the comparison runs may be left to the next one, and is never reported wrongly;
//! what is queued goes through [`Store::record`], so that repeating it changes nothing.

mod join;
mod print;

use std::io;

use chrono::{DateTime, Utc};
use futures_util::{TryStreamExt, pin_mut};
use serde::Serialize;

pub use print::Printer;

use crate::{
    objects::{ObjectError, ObjectStore},
    store::{Store, StoreError},
};
use join::Run;

/// What to compare, and what to do then.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The bucket; by default the only one that the ledger knows.
    pub bucket: Option<String>,
    /// Keys that begin with this alone.
    pub prefix: String,
    /// Whether to queue what is missing or stale.
    pub apply: bool,
    /// Whether to queue what has failed, too.
    pub retry_failed: bool,
}

/// In what a file of the bucket and the ledger differ.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The ledger has no version of it.
    Missing,
    /// The bucket holds a newer version than the newest of the ledger.
    Stale,
    /// The ledger has this version, but the infrastructure has kept it from being taken.
    Failed,
    /// The ledger has taken it, and the bucket does not hold it any more. Its movies stay.
    Vanished,
    /// The bucket holds an older version than the newest of the ledger: that one was deleted. The
    /// movies of the newer one stay.
    Reverted,
    /// Its key is none that a notification may have.
    Unusable,
}

/// A file of which bucket and ledger differ.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// In what.
    pub kind: Kind,
    /// Its key.
    pub key: String,
    /// Its size in the bucket, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    /// When it was written, as the bucket has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<DateTime<Utc>>,
    /// The newest ingest of it, so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingest: Option<i64>,
    /// The ingest as which it was queued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued: Option<i64>,
}

/// What was found, in files.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the kinds are documented above")]
pub struct Summary {
    pub bucket: String,
    pub prefix: String,
    /// In the bucket.
    pub listed: u64,
    /// In the bucket, and taken.
    pub up_to_date: u64,
    /// Queued or running, before this comparison or since it began.
    pub in_flight: u64,
    /// In the bucket, and rejected: its producer has to mend it.
    pub rejected: u64,
    pub missing: u64,
    pub stale: u64,
    pub failed: u64,
    pub vanished: u64,
    pub reverted: u64,
    pub unusable: u64,
    /// How many of the missing, stale and failed were queued.
    pub queued: u64,
}

impl Summary {
    /// How many files could still be queued.
    pub fn left(&self) -> u64 {
        (self.missing + self.stale + self.failed).saturating_sub(self.queued)
    }

    fn count(&mut self, kind: Kind) {
        *match kind {
            Kind::Missing => &mut self.missing,
            Kind::Stale => &mut self.stale,
            Kind::Failed => &mut self.failed,
            Kind::Vanished => &mut self.vanished,
            Kind::Reverted => &mut self.reverted,
            Kind::Unusable => &mut self.unusable,
        } += 1;
    }
}

/// What a comparison tells while it runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// A difference, queued already if it is to be.
    Found(&'a Difference),
    /// What was found so far: told after each page of the bucket.
    Progress(&'a Summary),
}

/// Why a comparison did not come to its end. What it queued stays queued.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Nobody says which bucket.
    #[error(
        "which bucket? Name it with --bucket or MRU_BUCKET: the ledger knows {}",
        if *.0 == 0 { "none yet" } else { "more than one" }
    )]
    NoBucket(usize),
    /// The bucket cannot be listed.
    #[error("the bucket {bucket} cannot be listed")]
    Source {
        /// Which one.
        bucket: String,
        /// Why.
        #[source]
        error: ObjectError,
    },
    /// The keys come in no order, so that nobody can tell what is not among them.
    #[error("the bucket lists {0:?} after {1:?}, not in the order of their bytes")]
    Unordered(String, String),
    /// The ledger cannot be read, or not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was found cannot be told.
    #[error("cannot write what was found")]
    Report(#[from] io::Error),
}

/// Compares the bucket with the ledger; with `apply`, queues what the ledger lacks, for the workers
/// of the service to take. Tells `report` of each difference, and of its progress.
///
/// # Errors
/// See [`ReconcileError`]. It is safe to run again, and need not begin where it ended.
pub async fn reconcile(
    store: &Store,
    objects: &ObjectStore,
    options: Options,
    mut report: impl FnMut(Event<'_>) -> io::Result<()>,
) -> Result<Summary, ReconcileError> {
    store.ready().await?;
    let mut run = Run::new(store, options).await?;
    let pages = objects.list(&run.summary.bucket, &run.options.prefix);
    pin_mut!(pages);
    let unlisted = |bucket: &str| {
        let bucket = bucket.to_owned();
        |error| ReconcileError::Source { bucket, error }
    };
    while let Some(page) = pages.try_next().await.map_err(unlisted(&run.summary.bucket))? {
        run.check_order(&page)?;
        for listed in &page {
            while let Some(difference) = run.next_vanished(Some(&listed.key)).await? {
                report(Event::Found(&difference))?;
            }
        }
        for difference in run.page(page).await? {
            report(Event::Found(&difference))?;
        }
        report(Event::Progress(&run.summary))?;
    }
    // The ledger may go on after the last key of the bucket.
    while let Some(difference) = run.next_vanished(None).await? {
        report(Event::Found(&difference))?;
    }
    Ok(run.summary)
}
