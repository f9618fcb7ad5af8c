//! Compares all versions and delete markers of a bucket with the ledger, and queues those that the ledger lacks.
//!
//! The bucket lists the versions of a key newest first. They are recorded oldest first, as they came; of a key with very
//! many versions the newest [`MAX_AT_ONCE`] first, so that memory stays bounded. The order in which they are recorded
//! decides nothing: each gets a position between its neighbours.

use std::io;

use aws::trace::Trace;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{TryStreamExt, pin_mut};
use schema::{MAX_NOTIFICATIONS, Notification, NotificationEvent};

use super::{
    Difference, Event, Kind, Options, ReconcileError, Summary, Versions, bucket_of,
    comparison::notification, listing_error,
};
use crate::{
    objects::{ListedVersion, ObjectStore},
    store::{
        IngestState, KnownVersion, NULL_VERSION, ObservedVersion, Report, Store, VersionInBucket,
    },
};

/// So many versions of one key are put into their order at once.
const MAX_AT_ONCE: usize = 10_000;

/// The smallest difference of two positions.
const STEP: TimeDelta = TimeDelta::microseconds(1);

/// Compares all versions of the bucket with the ledger, and queues versions as `options` ask for. Calls `report` as
/// [`super::reconcile`] does.
///
/// # Errors
/// See [`ReconcileError`]. After an error it is safe to start again from the beginning.
pub async fn reconcile_versions(
    store: &Store,
    objects: &ObjectStore,
    options: Options,
    mut report: impl FnMut(Event<'_>) -> io::Result<()>,
) -> Result<Summary, ReconcileError> {
    store.ready().await?;
    let mut comparison = Comparison::new(store, objects, options).await?;
    let bucket = comparison.summary.bucket.clone();
    let pages = objects.list_versions(&bucket, &comparison.options.prefix);
    pin_mut!(pages);
    let listing_error = listing_error(&bucket);
    let mut read: Vec<ListedVersion> = Vec::new();
    loop {
        let page = pages.try_next().await.map_err(&listing_error)?;
        let is_end = page.is_none();
        read.extend(page.unwrap_or_default());
        let complete = complete(&read, is_end);
        let part: Vec<ListedVersion> = read.drain(..complete).collect();
        for difference in comparison.compare(&part).await? {
            report(Event::Found(&difference))?;
        }
        report(Event::Progress(&comparison.summary))?;
        if is_end {
            let summary = comparison.finish().await?;
            super::record(store, &summary).await;
            return Ok(summary);
        }
    }
}

/// Returns how many of the entries can be compared: all but those of the last key, of which more may follow, unless
/// they are very many.
fn complete(read: &[ListedVersion], is_end: bool) -> usize {
    let last = read.chunk_by(|a, b| a.key == b.key).next_back().map_or(0, <[_]>::len);
    if is_end || last >= MAX_AT_ONCE { read.len() } else { read.len() - last }
}

/// The state of one comparison.
struct Comparison<'a> {
    store: &'a Store,
    options: Options,
    summary: Summary,
    delete_markers: u64,
    /// By the clock of the ledger.
    started: DateTime<Utc>,
    was_empty: bool,
    /// Whether the bucket keeps versions at present; none if it may not be asked.
    keeps_versions: Option<bool>,
    /// Whether the listing has a version with an id.
    has_ids: bool,
    /// The versions recorded before this began that the ledger has by their ids, and how many of them are listed.
    recorded: u64,
    recorded_and_listed: u64,
    /// The key and the position of the last version that was compared.
    last: Option<(String, DateTime<Utc>)>,
    request_id: String,
}

/// What is to be queued.
enum ToQueue {
    /// A version that the ledger lacks.
    New(Box<Notification>),
    /// An ingest that has failed, or was gone.
    Again(i64),
}

impl<'a> Comparison<'a> {
    async fn new(
        store: &'a Store,
        objects: &ObjectStore,
        options: Options,
    ) -> Result<Self, ReconcileError> {
        let bucket = bucket_of(store, &options).await?;
        let keeps_versions = objects.keeps_versions(&bucket).await;
        let keeps_versions = keeps_versions.map_err(listing_error(&bucket))?;
        let started = store.clock().await?;
        let recorded = store.recorded_versions(&bucket, &options.prefix, started).await?;
        Ok(Self {
            store,
            summary: Summary { bucket, prefix: options.prefix.clone(), ..Summary::default() },
            options,
            delete_markers: 0,
            started,
            was_empty: !store.has_ingests().await?,
            keeps_versions,
            has_ids: false,
            recorded,
            recorded_and_listed: 0,
            last: None,
            request_id: format!("reconcile-{}", uuid::Uuid::new_v4()),
        })
    }

    /// Compares entries of the listing with the ledger, and queues what the options ask for. Returns the differences.
    async fn compare(&mut self, part: &[ListedVersion]) -> Result<Vec<Difference>, ReconcileError> {
        let in_bucket = part.iter().map(|listed| VersionInBucket {
            key: &listed.key,
            observed: &listed.version,
            is_latest: listed.is_latest,
            is_marker: listed.is_marker,
        });
        let in_bucket: Vec<VersionInBucket> = in_bucket.collect();
        let bucket = &self.summary.bucket;
        let known = self.store.known_versions(bucket, &in_bucket, self.started).await?;
        let entries: Vec<_> = part.iter().zip(known).collect();
        let mut differences = Vec::new();
        for of_key in entries.chunk_by(|(a, _), (b, _)| a.key == b.key) {
            let times = of_key.iter().map(|(listed, known)| Times {
                written: listed.version.last_modified.unwrap_or(self.started),
                known: known.and_then(|known| known.ordered_at),
            });
            let key = &of_key[0].0.key;
            let next =
                self.last.take().filter(|(last, _)| last == key).map(|(_, position)| position);
            let positions = positions(&times.collect::<Vec<_>>(), next);
            self.last = positions.last().map(|position| (key.clone(), *position));
            // The oldest first.
            for ((listed, known), position) in of_key.iter().zip(positions).rev() {
                differences.extend(self.compare_one(listed, known.as_ref(), position));
            }
        }
        self.queue(differences).await
    }

    /// Compares one version. Returns the difference, and what is to be queued.
    fn compare_one(
        &mut self,
        listed: &ListedVersion,
        known: Option<&KnownVersion>,
        position: DateTime<Utc>,
    ) -> Option<(Difference, Option<ToQueue>)> {
        let ListedVersion { key, version, is_marker, .. } = listed;
        self.summary.listed += 1;
        self.delete_markers += u64::from(*is_marker);
        self.has_ids |= version.version_id.is_some();
        self.recorded_and_listed += u64::from(known.is_some_and(|known| known.is_recorded));
        if self.options.ignored_keys.reason(key, version.size).is_some() {
            self.summary.ignored += 1;
            return None;
        }
        let ingest = known.and_then(|known| known.ingest);
        let kind = match known.map(|known| known.state) {
            None | Some(IngestState::Gone) => Kind::Missing,
            Some(IngestState::Failed) => Kind::Failed,
            Some(IngestState::Queued | IngestState::Running) => {
                self.summary.in_flight += 1;
                return None;
            }
            Some(IngestState::Rejected) => {
                self.summary.rejected += 1;
                return None;
            }
            Some(IngestState::Succeeded | IngestState::Superseded | IngestState::Blocked) => {
                self.summary.up_to_date += 1;
                return None;
            }
        };
        let (kind, to_queue) = match (ingest, notification(&self.summary.bucket, key)) {
            (Some(ingest), _) => (kind, ToQueue::Again(ingest)),
            (None, Some(empty)) => {
                (kind, ToQueue::New(Box::new(describe(empty, listed, position))))
            }
            (None, None) => return Some((self.difference(Kind::Unusable, listed, None), None)),
        };
        let queues = match kind {
            Kind::Failed => self.options.retry_failed,
            _ => self.options.apply,
        };
        Some((self.difference(kind, listed, ingest), queues.then_some(to_queue)))
    }

    fn difference(
        &mut self,
        kind: Kind,
        listed: &ListedVersion,
        ingest: Option<i64>,
    ) -> Difference {
        self.summary.count(kind);
        let ObservedVersion { version_id, last_modified, size, .. } = listed.version.clone();
        Difference {
            kind,
            key: listed.key.clone(),
            size,
            last_modified,
            version_id,
            removal: listed.is_marker,
            ingest,
            queued: None,
        }
    }

    /// Queues what is to be queued, in this order.
    async fn queue(
        &mut self,
        differences: Vec<(Difference, Option<ToQueue>)>,
    ) -> Result<Vec<Difference>, ReconcileError> {
        let (mut queued, mut new) = (Vec::with_capacity(differences.len()), Vec::new());
        for (index, (mut difference, to_queue)) in differences.into_iter().enumerate() {
            match to_queue {
                Some(ToQueue::New(notification)) => new.push((index, notification)),
                Some(ToQueue::Again(ingest)) => {
                    self.store.retry(ingest).await?;
                    difference.queued = Some(ingest);
                }
                None => {}
            }
            queued.push(difference);
        }
        for batch in new.chunks(MAX_NOTIFICATIONS) {
            let observed = ObservedVersion::default;
            let reports =
                batch.iter().map(|(_, notification)| Report { notification, observed: observed() });
            let reports: Vec<Report> = reports.collect();
            let trace = Some(Trace::random());
            let ingests = self.store.record_all(&reports, &self.request_id, trace).await?;
            for ((index, _), ingest) in batch.iter().zip(ingests) {
                queued[*index].queued = Some(ingest.id);
            }
        }
        let count = queued.iter().filter(|difference| difference.queued.is_some()).count();
        self.summary.queued += count as u64;
        Ok(queued)
    }

    /// Completes the summary when all is compared.
    async fn finish(mut self) -> Result<Summary, ReconcileError> {
        let Summary { listed, queued, .. } = self.summary;
        let incomplete = self.keeps_versions == Some(false) || listed > 0 && !self.has_ids;
        let replays = self.options.apply && (self.was_empty || queued > 0);
        let lacks_decisions = replays && !self.store.has_decisions().await?;
        let delete_markers = self.delete_markers;
        self.summary.vanished = self.recorded.saturating_sub(self.recorded_and_listed);
        self.summary.versions = Some(Versions { delete_markers, incomplete, lacks_decisions });
        Ok(self.summary)
    }
}

/// What is known about the time of a version.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// When it was written, according to the bucket.
    written: DateTime<Utc>,
    /// Its position, if the ledger has it.
    known: Option<DateTime<Utc>>,
}

/// Returns the positions of versions of one key, the newest first. `next` is the position of the version after them.
///
/// The times that the bucket reports have whole seconds, and that of a multipart upload is when it began. So a
/// version comes at its time, but after the one before it, and before the next one that has a position.
fn positions(versions: &[Times], next: Option<DateTime<Utc>>) -> Vec<DateTime<Utc>> {
    let mut positions = Vec::with_capacity(versions.len());
    let mut before = None;
    for Times { written, known } in versions.iter().rev() {
        let after = before.map_or(*written, |before| (*written).max(before + STEP));
        let position = known.unwrap_or(after);
        positions.push(position);
        before = Some(position);
    }
    positions.reverse();
    let mut next = next;
    for (position, Times { known, .. }) in positions.iter_mut().zip(versions) {
        if let Some(next) = next
            && known.is_none()
        {
            *position = (*position).min(next - STEP);
        }
        next = Some(*position);
    }
    positions
}

/// Completes the notification of a version that comes at this position.
fn describe(empty: Notification, listed: &ListedVersion, position: DateTime<Utc>) -> Notification {
    let ObservedVersion { etag, version_id, size, .. } = listed.version.clone();
    // By its key alone, the newest version would be read.
    let is_hidden = !listed.is_marker && !listed.is_latest;
    let version_id = version_id.or_else(|| is_hidden.then(|| NULL_VERSION.to_owned()));
    Notification {
        version_id: version_id.and_then(|id| id.try_into().ok()),
        etag: etag.and_then(|etag| etag.try_into().ok()),
        size: size.and_then(|size| size.try_into().ok()),
        event_time: Some(position.into()),
        event: listed.is_marker.then_some(NotificationEvent::Removed),
        ..empty
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the positions in microseconds. The versions are given oldest first: the second in which each was
    /// written, and the microsecond of its position in the ledger.
    fn in_micros(versions: &[(i64, Option<i64>)], next: Option<i64>) -> Vec<i64> {
        let time = |micros| DateTime::from_timestamp_micros(micros).unwrap_or_default();
        let times = versions.iter().rev().map(|(second, known)| Times {
            written: time(second * 1_000_000),
            known: known.map(time),
        });
        let positions = positions(&times.collect::<Vec<_>>(), next.map(time));
        positions.iter().rev().map(DateTime::timestamp_micros).collect()
    }

    #[test]
    fn a_version_comes_at_its_time_but_between_its_neighbours() {
        let cases = [
            // Of the same second.
            (vec![(1, None), (1, None), (2, None), (2, None)], vec![0, 1, 1_000_000, 1_000_001]),
            // A multipart upload that began before the version before it was written.
            (vec![(5, None), (3, None), (6, None)], vec![4_000_000, 4_000_001, 5_000_000]),
            // Between versions that the ledger has.
            (
                vec![(1, Some(1_200_000)), (1, None), (1, Some(1_200_003)), (1, None)],
                vec![200_000, 200_001, 200_003, 200_004],
            ),
            (vec![(1, None), (1, None), (1, Some(1_000_000))], vec![-2, -1, 0]),
        ];
        for (versions, expected) in cases {
            let expected: Vec<i64> = expected.iter().map(|micros| micros + 1_000_000).collect();
            assert_eq!(in_micros(&versions, None), expected, "{versions:?}");
        }
    }

    #[test]
    fn very_many_versions_of_a_key_are_compared_in_parts() {
        let written = [(1, None), (1, None), (2, None)];
        assert_eq!(in_micros(&written, Some(2_000_001)), [1_000_000, 1_000_001, 2_000_000]);
        assert_eq!(in_micros(&written, Some(2_000_000)), [1_000_000, 1_000_001, 1_999_999]);
        assert_eq!(in_micros(&written, Some(1_000_000)), [999_997, 999_998, 999_999]);
        let listed = |key: &str| ListedVersion {
            key: key.to_owned(),
            version: ObservedVersion::default(),
            is_latest: false,
            is_marker: false,
        };
        let read = |keys: &[(&str, usize)]| -> Vec<ListedVersion> {
            keys.iter().flat_map(|(key, count)| vec![listed(key); *count]).collect()
        };
        assert_eq!(complete(&read(&[("a", 2), ("b", 3)]), false), 2);
        assert_eq!(complete(&read(&[("a", 2), ("b", 3)]), true), 5);
        assert_eq!(complete(&read(&[("a", 2), ("b", MAX_AT_ONCE)]), false), MAX_AT_ONCE + 2);
        assert_eq!(complete(&[], false), 0);
    }
}
