//! Joining the listing of a bucket with the ledger.

use std::collections::VecDeque;

use aws::trace::TraceParent;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use schema::Notification;

use super::{Difference, Kind, Options, ReconcileError, Summary};
use crate::{
    objects::ListedObject,
    store::{IngestState, IngestedObject, LedgerVersion, ObservedVersion, Store, StoreError},
};

/// How many ingests are recorded at once.
const RECORDING: usize = 8;

/// How many keys of the ledger are read at once: as many as S3 lists.
const PAGE: i64 = 1000;

/// A comparison under way.
pub(super) struct Run<'a> {
    store: &'a Store,
    pub(super) options: Options,
    pub(super) summary: Summary,
    /// By the clock of the ledger. What was recorded since then may be newer than the listing.
    started: DateTime<Utc>,
    /// The last key of the bucket so far.
    last_listed: String,
    ledger: Ledger,
    /// Ties the log lines of what was queued together.
    request_id: String,
}

/// What becomes of a file.
enum Verdict {
    UpToDate,
    InFlight,
    Rejected,
    Differs(Kind),
}

impl<'a> Run<'a> {
    pub(super) async fn new(store: &'a Store, options: Options) -> Result<Self, ReconcileError> {
        let bucket = match &options.bucket {
            Some(bucket) => bucket.clone(),
            None => match <[String; 1]>::try_from(store.buckets().await?) {
                Ok([only]) => only,
                Err(buckets) => return Err(ReconcileError::NoBucket(buckets.len())),
            },
        };
        let summary = Summary { bucket, prefix: options.prefix.clone(), ..Summary::default() };
        Ok(Self {
            store,
            options,
            summary,
            // Before anything is listed.
            started: store.clock().await?,
            last_listed: String::new(),
            ledger: Ledger::default(),
            request_id: format!("reconcile-{}", uuid::Uuid::new_v4()),
        })
    }

    /// Without order nobody could tell what is not in the bucket.
    pub(super) fn check_order(&mut self, page: &[ListedObject]) -> Result<(), ReconcileError> {
        for listed in page {
            if listed.key <= self.last_listed {
                let key = listed.key.clone();
                return Err(ReconcileError::Unordered(key, self.last_listed.clone()));
            }
            self.last_listed.clone_from(&listed.key);
        }
        Ok(())
    }

    /// Compares a page of the listing, and queues what is to be queued. Returns how it differs from
    /// the ledger.
    pub(super) async fn page(
        &mut self,
        page: Vec<ListedObject>,
    ) -> Result<Vec<Difference>, ReconcileError> {
        self.summary.listed += page.len() as u64;
        let mut differences = Vec::new();
        let mut usable = Vec::with_capacity(page.len());
        for listed in page {
            match notification(&self.summary.bucket, &listed.key) {
                Some(notification) => usable.push((notification, listed.version)),
                None => differences.push((self.found(Kind::Unusable, listed, None), None)),
            }
        }
        let objects: Vec<(&str, &ObservedVersion)> =
            usable.iter().map(|(notification, seen)| (&*notification.key, seen)).collect();
        let known = self.store.newest_versions(&self.summary.bucket, &objects).await?;
        for ((notification, observed), known) in usable.into_iter().zip(known) {
            match self.judge(known.as_ref(), &observed) {
                Verdict::UpToDate => self.summary.up_to_date += 1,
                Verdict::InFlight => self.summary.in_flight += 1,
                Verdict::Rejected => self.summary.rejected += 1,
                Verdict::Differs(kind) => {
                    let key = notification.key.to_string();
                    let listed = ListedObject { key, version: observed.clone() };
                    let difference = self.found(kind, listed, known.map(|known| known.id));
                    let queue = self.is_to_be_queued(kind);
                    differences.push((difference, queue.then_some((notification, observed))));
                }
            }
        }
        self.queue(differences).await
    }

    /// The rule is that of [`Store::record`]: what it would take for the newest version that it
    /// knows is no difference.
    fn judge(&self, known: Option<&LedgerVersion>, observed: &ObservedVersion) -> Verdict {
        let Some(known) = known else { return Verdict::Differs(Kind::Missing) };
        let in_flight = matches!(known.state, IngestState::Queued | IngestState::Running);
        if known.is_current || in_flight && !known.has_etag {
            return match known.state {
                IngestState::Queued | IngestState::Running => Verdict::InFlight,
                IngestState::Rejected => Verdict::Rejected,
                IngestState::Failed => Verdict::Differs(Kind::Failed),
                IngestState::Succeeded | IngestState::Superseded => Verdict::UpToDate,
            };
        }
        if known.received_at >= self.started {
            return Verdict::InFlight;
        }
        match (known.ordered_at, observed.last_modified) {
            // The store's time has whole seconds.
            (Some(known), Some(written)) if known >= written + TimeDelta::seconds(1) => {
                Verdict::Differs(Kind::Reverted)
            }
            _ => Verdict::Differs(Kind::Stale),
        }
    }

    fn is_to_be_queued(&self, kind: Kind) -> bool {
        match kind {
            Kind::Missing | Kind::Stale => self.options.apply,
            Kind::Failed => self.options.retry_failed,
            Kind::Vanished | Kind::Reverted | Kind::Unusable => false,
        }
    }

    /// Records what comes with a notification, as if that had come by HTTP.
    async fn queue(
        &mut self,
        differences: Vec<(Difference, Option<(Notification, ObservedVersion)>)>,
    ) -> Result<Vec<Difference>, ReconcileError> {
        let (store, request_id) = (self.store, &self.request_id);
        let recorded = stream::iter(differences).map(async |(mut difference, queue)| {
            if let Some((notification, observed)) = queue {
                let trace = Some(TraceParent::random().trace_id);
                let ingest = store.record(&notification, &observed, request_id, trace).await?;
                difference.queued = Some(ingest.id);
            }
            Ok::<_, StoreError>(difference)
        });
        let recorded: Vec<Difference> = recorded.buffered(RECORDING).try_collect().await?;
        let queued = recorded.iter().filter(|difference| difference.queued.is_some());
        self.summary.queued += queued.count() as u64;
        Ok(recorded)
    }

    /// The next file that was taken and is not in the bucket, among those before the key `listed`;
    /// among all of the rest if there is none.
    pub(super) async fn next_vanished(
        &mut self,
        listed: Option<&str>,
    ) -> Result<Option<Difference>, ReconcileError> {
        let Self { store, summary, started, ledger, .. } = self;
        while let Some(taken) = ledger.next_until(store, summary, *started, listed).await? {
            if listed != Some(&taken.key) {
                let version = ObservedVersion::default();
                let listed = ListedObject { key: taken.key, version };
                return Ok(Some(self.found(Kind::Vanished, listed, Some(taken.ingest_id))));
            }
        }
        Ok(None)
    }

    fn found(&mut self, kind: Kind, listed: ListedObject, ingest: Option<i64>) -> Difference {
        self.summary.count(kind);
        let ListedObject { key, version: ObservedVersion { last_modified, size, .. } } = listed;
        Difference { kind, key, size, last_modified, ingest, queued: None }
    }
}

/// None if a notification must not have this key, or this bucket.
fn notification(bucket: &str, key: &str) -> Option<Notification> {
    Some(Notification {
        bucket: bucket.to_owned().try_into().ok()?,
        key: key.to_owned().try_into().ok()?,
        version_id: None,
        etag: None,
        sequencer: None,
        event_time: None,
        size: None,
    })
}

/// What the ledger has taken, in the order of keys.
#[derive(Default)]
struct Ledger {
    page: VecDeque<IngestedObject>,
    /// The last key that was read.
    last: Option<String>,
    ended: bool,
}

impl Ledger {
    /// The next file, if its key is not after `until`.
    async fn next_until(
        &mut self,
        store: &Store,
        Summary { bucket, prefix, .. }: &Summary,
        before: DateTime<Utc>,
        until: Option<&str>,
    ) -> Result<Option<IngestedObject>, StoreError> {
        if self.page.is_empty() && !self.ended {
            let after = self.last.as_deref();
            self.page = store.ingested_objects(bucket, prefix, after, before, PAGE).await?.into();
            self.ended = self.page.is_empty();
            self.last = self.page.back().map(|taken| taken.key.clone());
        }
        let reached = |taken: &mut IngestedObject| until.is_none_or(|until| *taken.key <= *until);
        // Keys with the prefix come first: the order is that of bytes.
        let within = |taken: &mut IngestedObject| taken.key.starts_with(prefix.as_str());
        Ok(self.page.pop_front_if(|taken| within(taken) && reached(taken)))
    }
}
