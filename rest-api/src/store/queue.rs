//! The ledger as a queue of work.
//!
//! A worker claims an ingest with a lease: a token that the worker must show to change anything, and
//! an expiry that the worker must renew. If it dies or stalls, the lease expires, and another worker
//! claims the ingest and starts over.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use deadpool_postgres::{GenericClient, Transaction};
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use super::{
    Merged, ObservedVersion, Store, StoreError, VersionPosition, listen,
    outbox::Outbox,
    sql::{execute, query_opt},
    version_order::{bounds, padded},
};

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
    /// Whether the lease of another worker on it has expired.
    pub taken_over: bool,
    ordered_at: Option<DateTime<Utc>>,
    sequencer: Option<String>,
    lease_token: Uuid,
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
            taken_over: row.get("taken_over"),
            ordered_at: row.get("ordered_at"),
            sequencer: row.get("sequencer"),
            lease_token,
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
            /* queue::requeue_lost */
            update ingests
            set state = 'queued', attempts = attempts - 1,
                lease_token = null, lease_expires_at = null
            where state = 'running' and lease_token = any($1)";
        execute(connection, requeue, &[&tokens]).await?;
        self.tokens().retain(|token| !tokens.contains(token));
        Ok(())
    }
}

/// How much later than its object was written an event may be.
const MAX_LATENESS: TimeDelta = TimeDelta::minutes(5);

/// The statement of [`Store::claim`].
pub(super) const CLAIM: &str = "
    /* queue::claim */
    with next as (
        select id, run_after, state = 'running' as taken_over
        from ingests
        where large = $3 and state in ('queued', 'running') and run_after <= now()
            and run_after >= coalesce($4::timestamptz, '-infinity')
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
        request_id, trace_id, taken_over, ordered_at, ingests.run_after";

/// The statement of [`Store::observe`].
pub(super) const OBSERVE: &str = concat!(
    "
    /* queue::observe */
    with claimed as (
        select id, key, bucket, sequencer, received_at from ingests
        where id = $1 and lease_token = $2
    ),
    bounds as (
        select ",
    bounds!("claimed.key", "claimed.bucket", "claimed.sequencer"),
    ",
            (select max(same.ordered_at) + interval '1 microsecond'
                from ingests same
                where same.key = claimed.key and same.bucket = claimed.bucket
                    and same.ordered_at >= $5 and same.ordered_at < $5 + interval '1 second'
                    and same.state <> 'failed' and same.id <> claimed.id
            ) as after_same_second,
            least(coalesce($5::timestamptz, claimed.received_at), now() + interval '5 minutes')
                as written
        from claimed
    )
    update ingests
    set etag = coalesce(etag, $3), size = coalesce(size, $4),
        ordered_at = case
            when ordered_at is null or $6
                then least(
                    greatest(
                        written,
                        not_before,
                        case when ordered_at is null then after_same_second end
                    ),
                    case when not_after < written + interval '1 second' then not_after end
                )
            else ordered_at
        end
    from bounds
    where id = $1 and lease_token = $2
    returning ordered_at",
);

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
        let params: [&(dyn ToSql + Sync); 5] = [&lease_token, &seconds, &is_large, &start, &limit];
        let statement = connection.prepare_cached(CLAIM).await?;
        let claimed = connection.query(&statement, &params).await;
        let rows = claimed.inspect_err(|_| self.lost_claims.tokens().push(lease_token))?;
        let last = rows.iter().map(|row| row.get("run_after")).max();
        self.cursors.advance(lane, start, last);
        Ok(rows.iter().map(|row| Claim::from_row(row, lease_token)).collect())
    }

    /// Renews leases: they last `lease` from now. Those that were lost, or whose ingests have ended, stay so.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if that is so for all of them.
    pub async fn renew(&self, claims: &[Claim], lease: Duration) -> Result<(), StoreError> {
        let renew = "
            /* queue::renew */
            update ingests
            set lease_expires_at = now() + make_interval(secs => $3)
            from unnest($1::bigint[], $2::uuid[]) as claim (id, lease_token)
            where ingests.id = claim.id and ingests.lease_token = claim.lease_token";
        let (ids, tokens) = ids_and_tokens(claims);
        let connection = self.worker().await?;
        match execute(&connection, renew, &[&ids, &tokens, &lease.as_secs_f64()]).await? {
            0 => Err(StoreError::LeaseLost),
            _ => Ok(()),
        }
    }

    /// Records what the object store reports about the claimed version, where the ledger lacks it.
    /// Returns the position of the version.
    ///
    /// The time of the event does not count if it is more than five minutes later than the time at
    /// which the object was written: the notification may be forged. The position is then that time,
    /// but not before versions of the object with a smaller sequencer.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker has claimed the ingest.
    pub async fn observe(
        &self,
        claim: &Claim,
        observed: &ObservedVersion,
    ) -> Result<VersionPosition, StoreError> {
        let ObservedVersion { etag, last_modified, size, .. } = observed;
        // The time of a multipart upload is when it began.
        let is_multipart = etag.as_ref().is_some_and(|etag| etag.contains('-'));
        let is_too_late = match (claim.ordered_at, last_modified) {
            (Some(ordered_at), Some(written)) => {
                !is_multipart && ordered_at > *written + MAX_LATENESS
            }
            _ => false,
        };
        let is_known = claim.etag.is_some() && claim.size.is_some();
        let ordered_at = match claim.ordered_at {
            Some(ordered_at) if is_known && !is_too_late => ordered_at,
            _ => {
                let params: [&(dyn ToSql + Sync); 6] =
                    [&claim.id, &claim.lease_token, etag, size, last_modified, &is_too_late];
                let row = query_opt(&self.worker().await?, OBSERVE, &params).await?;
                row.ok_or(StoreError::LeaseLost)?.get(0)
            }
        };
        Ok(VersionPosition {
            ordered_at,
            key: claim.key.clone(),
            bucket: claim.bucket.clone(),
            sequencer: claim.sequencer.as_deref().map(padded).unwrap_or_default(),
        })
    }

    /// Ends an ingest whose content is at fault. `violations` is a JSON array of the listed ones,
    /// `count` the number of all.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker has claimed the ingest.
    pub async fn reject(
        &self,
        claim: &Claim,
        violations: &str,
        count: i64,
    ) -> Result<(), StoreError> {
        let reject = "
            /* queue::reject */
            with ended as (
                update ingests
                set state = 'rejected', violations = $5::text::json, violation_count = $6,
                    finished_at = clock_timestamp(), lease_token = null, lease_expires_at = null,
                    result_due_at = case when $4 then clock_timestamp() end
                where id = $1 and lease_token = $2
                returning id
            )
            select pg_notify($3, id::text) from ended";
        self.end(claim, reject, &[&violations, &count]).await
    }

    /// Ends an ingest whose content the bucket does not hold any more, because newer content
    /// replaced it. Nothing of it was stored.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker has claimed the ingest.
    pub async fn supersede(&self, claim: &Claim) -> Result<(), StoreError> {
        let supersede = "
            /* queue::supersede */
            with ended as (
                update ingests
                set state = 'superseded', superseded_reason = 'content_replaced', inserted = 0,
                    updated = 0, unchanged = 0, violation_count = 0,
                    finished_at = clock_timestamp(), lease_token = null, lease_expires_at = null,
                    result_due_at = case when $4 then clock_timestamp() end
                where id = $1 and lease_token = $2
                returning id
            )
            select pg_notify($3, id::text) from ended";
        self.end(claim, supersede, &[]).await
    }

    /// Ends an ingest after the infrastructure failed too often. `error` is a problem object.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker has claimed the ingest.
    pub async fn fail(&self, claim: &Claim, error: &str) -> Result<(), StoreError> {
        let fail = "
            /* queue::fail */
            with ended as (
                update ingests
                set state = 'failed', error = $5::text::json,
                    finished_at = clock_timestamp(), lease_token = null, lease_expires_at = null,
                    result_due_at = case when $4 then clock_timestamp() end
                where id = $1 and lease_token = $2
                returning id
            )
            select pg_notify($3, id::text) from ended";
        self.end(claim, fail, &[&error]).await
    }

    /// Runs a statement that ends an ingest. Its parameters are the id, the lease token, the channel
    /// to notify, whether a result is to be published, and `values`.
    async fn end(
        &self,
        claim: &Claim,
        statement: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<(), StoreError> {
        let publishes = self.outbox.publishes();
        let mut params: Vec<&(dyn ToSql + Sync)> = vec![&listen::ENDED, &publishes];
        params.extend(values);
        execute_with_lease(&self.worker().await?, statement, claim, &params).await?;
        self.hints().announce_ended([claim.id]);
        Ok(())
    }

    /// Requeues a claimed ingest after a failed attempt. It can be claimed again after `delay`.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker has claimed the ingest.
    pub async fn requeue(&self, claim: &Claim, delay: Duration) -> Result<(), StoreError> {
        let requeue = "
            /* queue::requeue */
            update ingests
            set state = 'queued', run_after = now() + make_interval(secs => $3),
                lease_token = null, lease_expires_at = null
            where id = $1 and lease_token = $2";
        let seconds = delay.as_secs_f64();
        execute_with_lease(&self.worker().await?, requeue, claim, &[&seconds]).await
    }

    /// Requeues a claimed ingest of a batch, to be processed alone. The attempt does not count.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker has claimed the ingest.
    pub async fn requeue_alone(&self, claim: &Claim) -> Result<(), StoreError> {
        let requeue = "
            /* queue::requeue_alone */
            update ingests
            set state = 'queued', large = true, run_after = now(), attempts = attempts - 1,
                lease_token = null, lease_expires_at = null
            where id = $1 and lease_token = $2";
        execute_with_lease(&self.worker().await?, requeue, claim, &[]).await?;
        self.hints().announce_queued();
        Ok(())
    }

    /// Requeues a claimed ingest whose attempt does not count, because nothing failed.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker has claimed the ingest.
    pub async fn requeue_uncounted(&self, claim: &Claim) -> Result<(), StoreError> {
        let requeue = "
            /* queue::requeue_uncounted */
            update ingests
            set state = 'queued', run_after = now(), attempts = attempts - 1,
                lease_token = null, lease_expires_at = null
            where id = $1 and lease_token = $2";
        execute_with_lease(&self.worker().await?, requeue, claim, &[]).await
    }
}

/// Locks the ingests of `claims` within the transaction that merges their movies. Returns the ids of
/// those whose lease was not lost.
pub(super) async fn lock_held(
    transaction: &Transaction<'_>,
    claims: &[&Claim],
) -> Result<HashSet<i64>, StoreError> {
    let lock = "
        /* queue::lock_held */
        select ingests.id
        from ingests
        join unnest($1::bigint[], $2::uuid[]) as claim (id, lease_token) using (id, lease_token)
        for no key update of ingests";
    let (ids, tokens) = ids_and_tokens(claims.iter().copied());
    let rows =
        transaction.query(&transaction.prepare_cached(lock).await?, &[&ids, &tokens]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Ends ingests within the transaction that merged their movies. Their rows are locked.
pub(super) async fn complete(
    transaction: &Transaction<'_>,
    merged: &HashMap<i64, Merged>,
    outbox: Outbox,
) -> Result<(), StoreError> {
    let complete = "
        /* queue::complete */
        update ingests
        set state = case when superseded then 'superseded' else 'succeeded' end,
            superseded_reason = case when superseded then 'newer_version_merged' end,
            inserted = result.inserted, updated = result.updated, unchanged = result.unchanged,
            violation_count = 0, finished_at = clock_timestamp(),
            lease_token = null, lease_expires_at = null,
            result_due_at = case when $6 then clock_timestamp() end
        from unnest($1::bigint[], $2::bool[], $3::bigint[], $4::bigint[], $5::bigint[])
            as result (id, superseded, inserted, updated, unchanged)
        where ingests.id = result.id";
    let ids: Vec<i64> = merged.keys().copied().collect();
    let superseded: Vec<bool> = merged.values().map(|merged| merged.superseded).collect();
    let count = |count: fn(&Merged) -> i64| -> Vec<i64> { merged.values().map(count).collect() };
    let (inserted, updated) = (count(|merged| merged.inserted), count(|merged| merged.updated));
    let unchanged = count(|merged| merged.unchanged);
    let params: [&(dyn ToSql + Sync); 6] =
        [&ids, &superseded, &inserted, &updated, &unchanged, &outbox.publishes()];
    execute(transaction, complete, &params).await?;
    Ok(())
}

/// Returns the ids and the lease tokens of `claims`, ordered by id: all statements lock several ingests in
/// this order, so that no two of them wait for each other.
fn ids_and_tokens<'a>(claims: impl IntoIterator<Item = &'a Claim>) -> (Vec<i64>, Vec<Uuid>) {
    let mut claims: Vec<_> =
        claims.into_iter().map(|claim| (claim.id, claim.lease_token)).collect();
    claims.sort_unstable();
    claims.into_iter().unzip()
}

/// Runs a statement that changes the ingest of `claim`. Its parameters are the id, the lease token,
/// and `values`.
///
/// # Errors
/// [`StoreError::LeaseLost`] if it changes no row: another worker has claimed the ingest.
async fn execute_with_lease(
    on: &impl GenericClient,
    statement: &str,
    claim: &Claim,
    values: &[&(dyn ToSql + Sync)],
) -> Result<(), StoreError> {
    let mut params: Vec<&(dyn ToSql + Sync)> = vec![&claim.id, &claim.lease_token];
    params.extend(values);
    match execute(on, statement, &params).await? {
        1 => Ok(()),
        _ => Err(StoreError::LeaseLost),
    }
}
