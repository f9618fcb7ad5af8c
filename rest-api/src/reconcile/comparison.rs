//! Joins the listing of a bucket with the ingested objects of the ledger.

use std::collections::VecDeque;

use aws::trace::Trace;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use schema::Notification;

use super::{Difference, Kind, Options, ReconcileError, Summary, bucket_of};
use crate::{
    objects::ListedObject,
    store::{
        IngestState, IngestedObject, LedgerVersion, ObservedVersion, Report, Store, StoreError,
    },
};

/// How many ingests are recorded at once.
const CONCURRENT_INGESTS: usize = 8;

/// How many objects of the ledger are read at once: as many as S3 lists.
const PAGE_SIZE: i64 = 1000;

/// The state of one comparison.
pub(super) struct Comparison<'a> {
    store: &'a Store,
    pub(super) options: Options,
    pub(super) summary: Summary,
    /// By the clock of the ledger. An ingest recorded since then may be newer than the listing.
    started: DateTime<Utc>,
    /// The last key of the listing so far.
    last_listed_key: String,
    ingested: IngestedObjects,
    /// Connects the log lines of all ingests that this comparison queues.
    request_id: String,
}

/// How the listed version of an object relates to the ledger.
enum VersionStatus {
    UpToDate,
    InFlight,
    Rejected,
    Differs(Kind),
}

impl<'a> Comparison<'a> {
    pub(super) async fn new(store: &'a Store, options: Options) -> Result<Self, ReconcileError> {
        let bucket = bucket_of(store, &options).await?;
        let summary = Summary { bucket, prefix: options.prefix.clone(), ..Summary::default() };
        Ok(Self {
            store,
            options,
            summary,
            // Read before the listing begins.
            started: store.clock().await?,
            last_listed_key: String::new(),
            ingested: IngestedObjects::default(),
            request_id: format!("reconcile-{}", uuid::Uuid::new_v4()),
        })
    }

    /// Checks that the listing is ordered by the bytes of its keys, as the join requires.
    pub(super) fn check_order(&mut self, page: &[ListedObject]) -> Result<(), ReconcileError> {
        for listed in page {
            if listed.key <= self.last_listed_key {
                let key = listed.key.clone();
                return Err(ReconcileError::Unordered(key, self.last_listed_key.clone()));
            }
            self.last_listed_key.clone_from(&listed.key);
        }
        Ok(())
    }

    /// Compares a page of the listing with the ledger, and queues what the options ask for. Returns
    /// the differences.
    pub(super) async fn compare_page(
        &mut self,
        page: Vec<ListedObject>,
    ) -> Result<Vec<Difference>, ReconcileError> {
        self.summary.listed += page.len() as u64;
        let mut differences = Vec::new();
        let mut usable = Vec::with_capacity(page.len());
        for listed in page {
            if self.options.ignored_keys.reason(&listed.key, listed.version.size).is_some() {
                self.summary.ignored += 1;
                continue;
            }
            match notification(&self.summary.bucket, &listed.key) {
                Some(notification) => usable.push((notification, listed.version)),
                None => {
                    differences.push((self.count_difference(Kind::Unusable, listed, None), None));
                }
            }
        }
        let objects: Vec<(&str, &ObservedVersion)> =
            usable.iter().map(|(notification, observed)| (&*notification.key, observed)).collect();
        let newest_versions = self.store.newest_versions(&self.summary.bucket, &objects).await?;
        for ((notification, observed), newest) in usable.into_iter().zip(newest_versions) {
            match self.version_status(newest.as_ref(), &observed) {
                VersionStatus::UpToDate => self.summary.up_to_date += 1,
                VersionStatus::InFlight => self.summary.in_flight += 1,
                VersionStatus::Rejected => self.summary.rejected += 1,
                VersionStatus::Differs(kind) => {
                    let key = notification.key.to_string();
                    let listed = ListedObject { key, version: observed.clone() };
                    let ingest = newest.map(|newest| newest.id);
                    let difference = self.count_difference(kind, listed, ingest);
                    let to_queue = self.queues(kind).then_some((notification, observed));
                    differences.push((difference, to_queue));
                }
            }
        }
        self.queue(differences).await
    }

    /// Compares the newest version in the ledger with the listed one.
    ///
    /// The rule is that of [`Store::record`]: there is no difference if that function would find the
    /// newest version of the ledger for `observed`.
    fn version_status(
        &self,
        newest: Option<&LedgerVersion>,
        observed: &ObservedVersion,
    ) -> VersionStatus {
        let Some(newest) = newest else { return VersionStatus::Differs(Kind::Missing) };
        let in_flight = matches!(newest.state, IngestState::Queued | IngestState::Running);
        if newest.is_current || in_flight && !newest.has_etag {
            return match newest.state {
                IngestState::Queued | IngestState::Running => VersionStatus::InFlight,
                IngestState::Rejected => VersionStatus::Rejected,
                IngestState::Failed => VersionStatus::Differs(Kind::Failed),
                IngestState::Succeeded | IngestState::Superseded | IngestState::Blocked => {
                    VersionStatus::UpToDate
                }
                IngestState::Gone => VersionStatus::Differs(Kind::Missing),
            };
        }
        if newest.received_at >= self.started {
            return VersionStatus::InFlight;
        }
        match (newest.ordered_at, observed.last_modified) {
            // `last_modified` has whole seconds.
            (Some(ordered_at), Some(last_modified))
                if ordered_at >= last_modified + TimeDelta::seconds(1) =>
            {
                // An older version is back.
                match newest.listed_state {
                    None => VersionStatus::Differs(Kind::Stale),
                    Some(IngestState::Failed) => VersionStatus::Differs(Kind::Failed),
                    Some(IngestState::Queued | IngestState::Running) => VersionStatus::InFlight,
                    Some(_) => VersionStatus::Differs(Kind::Reverted),
                }
            }
            _ => VersionStatus::Differs(Kind::Stale),
        }
    }

    /// Returns whether the options ask to queue objects with this kind of difference.
    fn queues(&self, kind: Kind) -> bool {
        match kind {
            Kind::Missing | Kind::Stale => self.options.apply,
            Kind::Failed => self.options.retry_failed,
            Kind::Vanished | Kind::Reverted | Kind::Unusable => false,
        }
    }

    /// Records an ingest for each difference that has a notification, as `POST /notify` would.
    async fn queue(
        &mut self,
        differences: Vec<(Difference, Option<(Notification, ObservedVersion)>)>,
    ) -> Result<Vec<Difference>, ReconcileError> {
        let (store, request_id) = (self.store, &self.request_id);
        let recorded = stream::iter(differences).map(async |(mut difference, to_queue)| {
            if let Some((notification, observed)) = to_queue {
                let trace = Some(Trace::random());
                let report = Report { notification: &notification, observed };
                let ingest = store.record(&report, request_id, trace).await?;
                difference.queued = Some(ingest.id);
            }
            Ok::<_, StoreError>(difference)
        });
        let recorded: Vec<Difference> = recorded.buffered(CONCURRENT_INGESTS).try_collect().await?;
        let queued = recorded.iter().filter(|difference| difference.queued.is_some());
        self.summary.queued += queued.count() as u64;
        Ok(recorded)
    }

    /// Returns the next ingested object that is not in the bucket: of those before `listed_key`, the
    /// next key of the listing; of all remaining ones if there is none.
    pub(super) async fn next_vanished(
        &mut self,
        listed_key: Option<&str>,
    ) -> Result<Option<Difference>, ReconcileError> {
        let Self { store, summary, started, ingested, .. } = self;
        while let Some(object) = ingested.next_up_to(listed_key, store, summary, *started).await? {
            if listed_key != Some(&object.key) {
                let version = ObservedVersion::default();
                let vanished = ListedObject { key: object.key, version };
                let ingest = Some(object.ingest_id);
                return Ok(Some(self.count_difference(Kind::Vanished, vanished, ingest)));
            }
        }
        Ok(None)
    }

    /// Counts a difference in the summary, and returns it.
    fn count_difference(
        &mut self,
        kind: Kind,
        object: ListedObject,
        ingest: Option<i64>,
    ) -> Difference {
        self.summary.count(kind);
        let ListedObject { key, version: ObservedVersion { last_modified, size, .. } } = object;
        let (version_id, removal, queued) = (None, false, None);
        Difference { kind, key, size, last_modified, version_id, removal, ingest, queued }
    }
}

/// Returns a notification of an object; none if a notification must not have this key or bucket.
pub(super) fn notification(bucket: &str, key: &str) -> Option<Notification> {
    Some(Notification {
        bucket: bucket.to_owned().try_into().ok()?,
        key: key.to_owned().try_into().ok()?,
        version_id: None,
        etag: None,
        sequencer: None,
        event_time: None,
        size: None,
        event: None,
    })
}

/// The objects with a succeeded ingest, read from the ledger page by page in the order of their keys.
#[derive(Default)]
struct IngestedObjects {
    page: VecDeque<IngestedObject>,
    /// The last key that was read from the ledger.
    last_key: Option<String>,
    is_exhausted: bool,
}

impl IngestedObjects {
    /// Returns and removes the next object if its key has the prefix of `summary` and is not after
    /// `end`. Ingests recorded at `before` or later do not count.
    async fn next_up_to(
        &mut self,
        end: Option<&str>,
        store: &Store,
        Summary { bucket, prefix, .. }: &Summary,
        before: DateTime<Utc>,
    ) -> Result<Option<IngestedObject>, StoreError> {
        if self.page.is_empty() && !self.is_exhausted {
            let after = self.last_key.as_deref();
            let page = store.ingested_objects(bucket, prefix, after, before, PAGE_SIZE).await?;
            self.page = page.into();
            self.is_exhausted = self.page.is_empty();
            self.last_key = self.page.back().map(|object| object.key.clone());
        }
        // The order is that of bytes, and reading begins at the prefix. So the first key without the
        // prefix ends the keys with it.
        Ok(self.page.pop_front_if(|object| {
            object.key.starts_with(prefix.as_str()) && end.is_none_or(|end| *object.key <= *end)
        }))
    }
}
