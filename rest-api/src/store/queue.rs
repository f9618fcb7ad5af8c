//! The ledger as a queue of work.
//!
//! A worker claims an ingest with a lease: a token that the worker must show to change anything, and
//! an expiry that the worker must renew. If it dies or stalls, the lease expires, and another worker
//! claims the ingest and starts over.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use deadpool_postgres::{GenericClient, Transaction};
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use super::{
    IngestState, Merged, ObservedVersion, Store, StoreError, VersionPosition, listen,
    outbox::Outbox,
    sql::{execute, query_opt},
    version_order::padded,
};

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

impl Store {
    /// Claims the ingest that has waited longest, for `lease`. It may be one whose lease has
    /// expired. None if the queue is empty.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn claim(&self, lease: Duration) -> Result<Option<Claim>, StoreError> {
        let claim = "
            /* queue::claim */
            with next as (
                select id, state = 'running' as taken_over
                from ingests
                where state = 'queued' and run_after <= now()
                    or state = 'running' and lease_expires_at < now()
                order by run_after, id
                limit 1
                for update skip locked
            )
            update ingests
            set state = 'running', attempts = attempts + 1,
                started_at = coalesce(started_at, now()),
                lease_token = $1, lease_expires_at = now() + make_interval(secs => $2)
            from next
            where ingests.id = next.id
            returning ingests.id, bucket, key, version_id, etag, size, sequencer, attempts,
                request_id, trace_id, taken_over";
        let connection = self.worker().await?;
        self.lost_claims.requeue_lost(&connection).await?;
        let lease_token = Uuid::new_v4();
        let claimed = query_opt(&connection, claim, &[&lease_token, &lease.as_secs_f64()]).await;
        let row = claimed.inspect_err(|_| self.lost_claims.tokens().push(lease_token))?;
        Ok(row.map(|row| Claim::from_row(&row, lease_token)))
    }

    /// Renews a lease: it lasts `lease` from now.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker has claimed the ingest.
    pub async fn renew(&self, claim: &Claim, lease: Duration) -> Result<(), StoreError> {
        let renew = "
            /* queue::renew */
            update ingests
            set lease_expires_at = now() + make_interval(secs => $3)
            where id = $1 and lease_token = $2";
        let seconds = lease.as_secs_f64();
        execute_with_lease(&self.worker().await?, renew, claim, &[&seconds]).await
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
        let observe = "
            /* queue::observe */
            update ingests
            set etag = coalesce(etag, $3), size = coalesce(size, $4),
                ordered_at = case
                    when ordered_at is null and $5::timestamptz is null then received_at
                    when ordered_at is null then least($5, now() + interval '5 minutes')
                    when ordered_at > $5::timestamptz + interval '5 minutes'
                        then greatest($5, (
                            select max(older.ordered_at)
                            from ingests older
                            where older.bucket = ingests.bucket and older.key = ingests.key
                                and rpad(older.sequencer, 64, '0')
                                    < rpad(ingests.sequencer, 64, '0')
                                and older.state <> 'failed'
                        ))
                    else ordered_at
                end
            where id = $1 and lease_token = $2
            returning ordered_at";
        let ObservedVersion { etag, last_modified, size, .. } = observed;
        let params: [&(dyn ToSql + Sync); 5] =
            [&claim.id, &claim.lease_token, etag, size, last_modified];
        let row = query_opt(&self.worker().await?, observe, &params).await?;
        Ok(VersionPosition {
            ordered_at: row.ok_or(StoreError::LeaseLost)?.get(0),
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
            select pg_notify($3, '') from ended";
        self.end(claim, reject, &[&violations, &count]).await
    }

    /// Ends an ingest whose content the bucket does not hold any more, because newer content
    /// replaced it.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker has claimed the ingest.
    pub async fn supersede(&self, claim: &Claim) -> Result<(), StoreError> {
        let supersede = "
            /* queue::supersede */
            with ended as (
                update ingests
                set state = 'superseded', inserted = 0, updated = 0, unchanged = 0,
                    violation_count = 0,
                    finished_at = clock_timestamp(), lease_token = null, lease_expires_at = null,
                    result_due_at = case when $4 then clock_timestamp() end
                where id = $1 and lease_token = $2
                returning id
            )
            select pg_notify($3, '') from ended";
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
            select pg_notify($3, '') from ended";
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
        let mut params: Vec<&(dyn ToSql + Sync)> = vec![&listen::FINISHED, &publishes];
        params.extend(values);
        execute_with_lease(&self.worker().await?, statement, claim, &params).await
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

/// Ends the ingest of `claim` within the transaction that merged its movies.
pub(super) async fn complete(
    transaction: &Transaction<'_>,
    claim: &Claim,
    merged: &Merged,
    outbox: Outbox,
) -> Result<(), StoreError> {
    let complete = "
        /* queue::complete */
        update ingests
        set state = $3, inserted = $4, updated = $5, unchanged = $6, violation_count = 0,
            finished_at = clock_timestamp(), lease_token = null, lease_expires_at = null,
            result_due_at = case when $7 then clock_timestamp() end
        where id = $1 and lease_token = $2";
    let state = if merged.superseded { IngestState::Superseded } else { IngestState::Succeeded };
    let Merged { inserted, updated, unchanged, .. } = merged;
    let params: [&(dyn ToSql + Sync); 5] =
        [&state.name(), inserted, updated, unchanged, &outbox.publishes()];
    execute_with_lease(transaction, complete, claim, &params).await
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
