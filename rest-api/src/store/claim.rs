//! Claims: how a worker takes ingests from the queue.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use deadpool_postgres::GenericClient;
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use super::{
    Mode, Store, StoreError, VersionPosition,
    folding::FOLDING,
    merged_versions::{MergedVersion, Removal},
    sql::execute,
};

/// The id of versions that S3 keeps without versioning. One follows another under the same id.
pub const NULL_VERSION: &str = "null";

/// Ingests that become claimable are at most so much older than those claimed before; [`FULL_SCAN`]
/// finds the rest.
const SLACK: TimeDelta = TimeDelta::seconds(5);

/// How often a claim scans the queue from its beginning.
const FULL_SCAN: Duration = Duration::from_secs(10);

/// Which ingests a claim is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lane {
    /// Small objects, which are processed in batches.
    Small,
    /// Large objects and those of unknown size, which are processed one by one.
    Large,
}

/// Where in the queue the next claim begins to scan, for each lane.
///
/// The beginning of the index is full of entries of ended ingests until they are vacuumed, which takes
/// for as long as any transaction is older than them. A scan would walk over all of them.
#[derive(Debug, Default)]
pub(super) struct Cursors([Mutex<Option<Cursor>>; 2]);

#[derive(Clone, Copy, Debug)]
struct Cursor {
    /// When the ingests that were claimed last became claimable.
    run_after: DateTime<Utc>,
    /// When the queue was scanned from its beginning.
    scanned: Instant,
}

impl Cursors {
    fn lane(&self, lane: Lane) -> MutexGuard<'_, Option<Cursor>> {
        let [small, large] = &self.0;
        let cursor = if lane == Lane::Small { small } else { large };
        cursor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the time from which the next claim scans; none if it begins at the beginning.
    fn start(&self, lane: Lane) -> Option<DateTime<Utc>> {
        let cursor = (*self.lane(lane))?;
        (cursor.scanned.elapsed() < FULL_SCAN).then(|| cursor.run_after - SLACK)
    }

    /// Records a scan from `start` that found ingests up to `last`.
    fn advance(&self, lane: Lane, start: Option<DateTime<Utc>>, last: Option<DateTime<Utc>>) {
        let mut cursor = self.lane(lane);
        let scanned = match (start, *cursor) {
            (Some(_), Some(cursor)) => cursor.scanned,
            _ => Instant::now(),
        };
        *cursor = match (last, *cursor) {
            (Some(run_after), _) => Some(Cursor { run_after, scanned }),
            (None, Some(cursor)) => Some(Cursor { scanned, ..cursor }),
            (None, None) => None,
        };
    }
}

/// An ingest that a worker has claimed.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the other fields are the ledger's")]
pub struct Claim {
    pub id: i64,
    pub bucket: String,
    pub key: String,
    pub version_id: Option<String>,
    pub etag: Option<String>,
    pub size: Option<i64>,
    /// How often the ingest was claimed, this time included.
    pub attempts: i32,
    pub request_id: Option<String>,
    pub trace_id: Option<String>,
    pub traceparent: Option<String>,
    /// Whether the lease of another worker on it has expired.
    pub taken_over: bool,
    /// Whether the object was removed.
    pub removal: bool,
    /// The mode of the version, if it has been seen before.
    pub mode: Option<Mode>,
    /// Whether it may withdraw any number of movies.
    pub is_approved: bool,
    pub(super) ordered_at: Option<DateTime<Utc>>,
    pub(super) sequencer: Option<String>,
    pub(super) lease_token: Uuid,
}

impl Claim {
    fn from_row(row: &Row, lease_token: Uuid) -> Self {
        Self {
            id: row.get("id"),
            bucket: row.get("bucket"),
            key: row.get("key"),
            version_id: row.get("version_id"),
            etag: row.get("etag"),
            size: row.get("size"),
            attempts: row.get("attempts"),
            request_id: row.get("request_id"),
            trace_id: row.get("trace_id"),
            traceparent: row.get("traceparent"),
            taken_over: row.get("taken_over"),
            removal: row.get("removal"),
            mode: row.get::<_, Option<&str>>("mode").and_then(Mode::from_name),
            is_approved: row.get("is_approved"),
            ordered_at: row.get("ordered_at"),
            sequencer: row.get("sequencer"),
            lease_token,
        }
    }
}

impl Claim {
    /// Returns the version of this claim at `position`.
    pub(super) fn merged_version<'a>(
        &'a self,
        position: &'a VersionPosition,
        mode: Mode,
        removal: Option<Removal>,
    ) -> MergedVersion<'a> {
        MergedVersion {
            position,
            ingest_id: Some(self.id),
            version_id: self.version_id.as_deref().filter(|id| *id != NULL_VERSION),
            etag: self.etag.as_deref(),
            snapshot: mode == Mode::Snapshot && removal.is_none(),
            removal,
        }
    }
}

/// The lease tokens of claims whose response was lost with their connection. Such a claim may have
/// succeeded, and no worker knows of it.
#[derive(Debug, Default)]
pub(super) struct LostClaims(Mutex<Vec<Uuid>>);

impl LostClaims {
    fn tokens(&self) -> MutexGuard<'_, Vec<Uuid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requeues the ingests of lost claims. Otherwise their leases would have to expire.
    async fn requeue_lost(&self, connection: &impl GenericClient) -> Result<(), StoreError> {
        let tokens = self.tokens().clone();
        if tokens.is_empty() {
            return Ok(());
        }
        let requeue = "
            /* claim::requeue_lost */
            update ingests
            set state = 'queued', attempts = attempts - 1,
                lease_token = null, lease_expires_at = null
            where state = 'running' and lease_token = any($1)";
        execute(connection, requeue, &[&tokens]).await?;
        self.tokens().retain(|token| !tokens.contains(token));
        Ok(())
    }
}

/// The statement of [`Store::claim`].
pub(super) const CLAIM: &str = "
    /* claim::claim */
    with next as (
        select id, run_after, state = 'running' as taken_over
        from ingests
        where large = $3 and state in ('queued', 'running') and run_after <= now()
            and run_after >= coalesce($4::timestamptz, '-infinity')
            -- Otherwise the merge would be refused.
            and exists (select from catalogue where folding = $6)
            and (state = 'queued'
                or state = 'running' and lease_expires_at < now())
        order by run_after, id
        limit $5
        for update skip locked
    )
    update ingests
    set state = 'running', attempts = attempts + 1,
        started_at = coalesce(started_at, now()),
        lease_token = $1, lease_expires_at = now() + make_interval(secs => $2)
    from next
    where ingests.id = next.id
    returning ingests.id, bucket, key, version_id, etag, size, sequencer, attempts,
        request_id, trace_id, traceparent, taken_over, ordered_at, ingests.run_after, removal, mode,
        approved_at is not null as is_approved";

impl Store {
    /// Claims up to `limit` ingests of `lane` for `lease`, those first that have waited longest. Their
    /// former leases may have expired.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn claim(
        &self,
        lane: Lane,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<Claim>, StoreError> {
        let connection = self.worker().await?;
        self.lost_claims.requeue_lost(&connection).await?;
        let lease_token = Uuid::new_v4();
        let start = self.cursors.start(lane);
        let (seconds, is_large) = (lease.as_secs_f64(), lane == Lane::Large);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let params: [&(dyn ToSql + Sync); 6] =
            [&lease_token, &seconds, &is_large, &start, &limit, &FOLDING];
        let statement = connection.prepare_cached(CLAIM).await?;
        let claimed = connection.query(&statement, &params).await;
        let rows = claimed.inspect_err(|_| self.lost_claims.tokens().push(lease_token))?;
        let last = rows.iter().map(|row| row.get("run_after")).max();
        self.cursors.advance(lane, start, last);
        Ok(rows.iter().map(|row| Claim::from_row(row, lease_token)).collect())
    }
}
