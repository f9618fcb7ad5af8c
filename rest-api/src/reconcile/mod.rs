//! Compares a bucket with the ledger, and queues the files that the ledger lacks.
//!
//! It finds files for which no notification arrived. It also loads an existing bucket, and rebuilds
//! the catalogue in an empty database.
//!
//! Bucket and ledger are both read in the order of their keys, page by page, and joined: memory does
//! not grow with either. Nothing is locked. A file that is put, ingested or deleted while the
//! comparison runs may be left to the next comparison, and is never reported wrongly. Files are queued
//! through [`Store::record`], so repeating a comparison queues nothing twice.

mod comparison;
mod print;
mod versions;

use std::io;

use chrono::{DateTime, Utc};
use futures_util::{TryStreamExt, pin_mut};
use serde::Serialize;
use tracing::warn;

pub use print::Printer;
pub use versions::reconcile_versions;

use crate::{
    config::IgnoredKeys,
    objects::{ObjectError, ObjectStore},
    store::{Store, StoreError},
    telemetry::chain,
};
use comparison::Comparison;

/// What to compare, and what to queue.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The bucket; by default the only one in the ledger.
    pub bucket: Option<String>,
    /// Only keys that begin with this prefix are compared.
    pub prefix: String,
    /// Whether to queue missing and stale files.
    pub apply: bool,
    /// Whether to queue failed files, too.
    pub retry_failed: bool,
    /// The keys that are no files.
    pub ignored_keys: IgnoredKeys,
}

/// How a file differs between the bucket and the ledger.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The ledger has no version of it.
    Missing,
    /// The bucket holds a newer version than the newest of the ledger.
    Stale,
    /// The ledger has this version, and its ingest failed on the infrastructure.
    Failed,
    /// It was ingested, and the bucket no longer holds it. Its movies stay.
    Vanished,
    /// The bucket holds an older version than the newest of the ledger, which was deleted. The movies
    /// of the newer version stay.
    Reverted,
    /// Its key is not allowed in a notification.
    Unusable,
}

/// A file that differs between the bucket and the ledger.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// How it differs.
    pub kind: Kind,
    /// Its key.
    pub key: String,
    /// Its size in the bucket, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    /// When it was written, according to the bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<DateTime<Utc>>,
    /// Which version it is, if all versions are compared and the bucket keeps them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// Whether it is a delete marker: the removal of the object.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub removal: bool,
    /// The id of its newest ingest before this comparison.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingest: Option<i64>,
    /// The id of the ingest that this comparison queued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued: Option<i64>,
}

/// The result of a comparison, in numbers of files.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the kinds are documented above")]
pub struct Summary {
    pub bucket: String,
    pub prefix: String,
    /// Listed in the bucket.
    pub listed: u64,
    /// In the bucket, and ingested.
    pub up_to_date: u64,
    /// Queued or running, or recorded since the comparison began.
    pub in_flight: u64,
    /// In the bucket, and rejected. The producer must correct it.
    pub rejected: u64,
    pub missing: u64,
    pub stale: u64,
    pub failed: u64,
    pub vanished: u64,
    pub reverted: u64,
    pub unusable: u64,
    /// In the bucket, with a key that is no file.
    pub ignored: u64,
    /// Missing, stale and failed files that were queued.
    pub queued: u64,
    /// More, if all versions were compared. The numbers above are those of versions and delete markers then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub versions: Option<Versions>,
}

/// What a comparison of all versions found besides.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Versions {
    /// How many of those listed are delete markers.
    pub delete_markers: u64,
    /// Whether the bucket does not keep versions: what its files said before, and which were removed, cannot be known.
    pub incomplete: bool,
    /// Whether versions are replayed, and the database has no decisions of people.
    pub lacks_decisions: bool,
}

impl Summary {
    /// Returns how many missing, stale and failed files were not queued.
    pub fn not_queued(&self) -> u64 {
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

/// What a comparison reports while it runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// A difference. If the options ask to queue it, it is queued already.
    Found(&'a Difference),
    /// The result so far, after each page of the listing.
    Progress(&'a Summary),
}

/// Why a comparison failed. Files that it queued stay queued.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// No bucket is given, and the ledger has none or more than one.
    #[error(
        "no bucket is given; name it with --bucket: the ledger knows {}",
        if *.0 == 0 { "none yet" } else { "more than one" }
    )]
    NoBucket(usize),
    /// The bucket cannot be listed.
    #[error("the bucket {bucket} cannot be listed")]
    Listing {
        /// The bucket.
        bucket: String,
        /// The error of the object store.
        #[source]
        error: ObjectError,
    },
    /// The listing is not ordered by the bytes of its keys, so missing keys cannot be found.
    #[error("the bucket lists {0:?} after {1:?}, which is not the order of their bytes")]
    Unordered(String, String),
    /// The ledger cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The report cannot be written.
    #[error("cannot write what was found")]
    Report(#[from] io::Error),
}

/// Compares the bucket with the ledger, and queues files as `options` ask for; workers of the service
/// ingest them. Calls `report` with each difference, and with the progress.
///
/// # Errors
/// See [`ReconcileError`]. After an error it is safe to start a new comparison from the beginning.
pub async fn reconcile(
    store: &Store,
    objects: &ObjectStore,
    options: Options,
    mut report: impl FnMut(Event<'_>) -> io::Result<()>,
) -> Result<Summary, ReconcileError> {
    store.ready().await?;
    let mut comparison = Comparison::new(store, options).await?;
    let bucket = comparison.summary.bucket.clone();
    let pages = objects.list(&bucket, &comparison.options.prefix);
    pin_mut!(pages);
    let listing_error = listing_error(&bucket);
    while let Some(page) = pages.try_next().await.map_err(&listing_error)? {
        comparison.check_order(&page)?;
        for listed in &page {
            while let Some(difference) = comparison.next_vanished(Some(&listed.key)).await? {
                report(Event::Found(&difference))?;
            }
        }
        for difference in comparison.compare_page(page).await? {
            report(Event::Found(&difference))?;
        }
        report(Event::Progress(&comparison.summary))?;
    }
    // The ledger may have keys after the last one of the bucket.
    while let Some(difference) = comparison.next_vanished(None).await? {
        report(Event::Found(&difference))?;
    }
    record(store, &comparison.summary).await;
    Ok(comparison.summary)
}

/// Records a comparison of a whole bucket, for metrics.
async fn record(store: &Store, summary: &Summary) {
    if !summary.prefix.is_empty() {
        return;
    }
    if let Err(error) = store.record_reconcile(&summary.bucket, summary.not_queued()).await {
        warn!(error = chain(&error), "the comparison is not recorded for the metrics");
    }
}

/// Returns the bucket to compare.
async fn bucket_of(store: &Store, options: &Options) -> Result<String, ReconcileError> {
    if let Some(bucket) = &options.bucket {
        return Ok(bucket.clone());
    }
    match <[String; 1]>::try_from(store.buckets().await?) {
        Ok([only]) => Ok(only),
        Err(buckets) => Err(ReconcileError::NoBucket(buckets.len())),
    }
}

/// Returns what makes errors of the listing.
fn listing_error(bucket: &str) -> impl Fn(ObjectError) -> ReconcileError {
    move |error| ReconcileError::Listing { bucket: bucket.to_owned(), error }
}
