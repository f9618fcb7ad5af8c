//! The ledger as a queue of work: leases, and the ends of ingests.
//!
//! A worker claims an ingest with a lease: a token that the worker must show to change anything, and
//! an expiry that the worker must renew. If it dies or stalls, the lease expires, and another worker
//! claims the ingest and starts over.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use deadpool_postgres::{GenericClient, Transaction};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{
    Claim, IngestState, Merged, Mode, Store, StoreError, listen, outbox::Outbox, sql::execute,
};

impl Store {
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
                set state = coalesce(ended_as, 'superseded'),
                    superseded_reason = case when ended_as is null then 'content_replaced'
                        else superseded_reason end,
                    inserted = coalesce(inserted, 0), updated = coalesce(updated, 0),
                    unchanged = coalesce(unchanged, 0), ended_as = null, violation_count = 0,
                    finished_at = clock_timestamp(), lease_token = null, lease_expires_at = null,
                    result_due_at = case when ended_as is not null then result_due_at
                        when $4 then clock_timestamp() end
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
        self.end_with_error(claim, IngestState::Failed, error).await
    }

    /// Ends an ingest whose snapshot withdraws more movies than it may without an approval. `error` is a problem
    /// object.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker has claimed the ingest.
    pub async fn block(&self, claim: &Claim, error: &str) -> Result<(), StoreError> {
        self.end_with_error(claim, IngestState::Blocked, error).await
    }

    /// Ends an ingest whose object is not there. `error` is a problem object.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker has claimed the ingest.
    pub async fn gone(&self, claim: &Claim, error: &str) -> Result<(), StoreError> {
        self.end_with_error(claim, IngestState::Gone, error).await
    }

    async fn end_with_error(
        &self,
        claim: &Claim,
        state: IngestState,
        error: &str,
    ) -> Result<(), StoreError> {
        let end = "
            /* queue::end_with_error */
            with ended as (
                update ingests
                set state = $5, error = $6::text::json, ended_as = null,
                    mode = case when $5 = 'blocked' then 'snapshot' else mode end,
                    finished_at = clock_timestamp(), lease_token = null, lease_expires_at = null,
                    result_due_at = case when $4 then clock_timestamp() end
                where id = $1 and lease_token = $2
                returning id
            )
            select pg_notify($3, id::text) from ended";
        self.end(claim, end, &[&state.name(), &error]).await
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
        set state = coalesce(ended_as, case when superseded then 'superseded' else 'succeeded' end),
            superseded_reason = case when ended_as is not null then superseded_reason
                when superseded then 'newer_version_merged' end,
            inserted = case when ended_as is null then result.inserted else ingests.inserted end,
            updated = case when ended_as is null then result.updated else ingests.updated end,
            unchanged = case when ended_as is null then result.unchanged else ingests.unchanged end,
            withdrawn = case when ended_as is null then result.withdrawn else ingests.withdrawn end,
            restored = case when ended_as is null then result.restored else ingests.restored end,
            held = case when ended_as is null then result.held else ingests.held end,
            ended_as = null, mode = result.mode, deletion = result.deletion, violation_count = 0,
            undone_at = coalesce(undone_at, (
                select now() from merged_versions v where v.ingest_id = ingests.id and v.undone)), finished_at = clock_timestamp(),
            lease_token = null, lease_expires_at = null,
            result_due_at = case when ended_as is not null then result_due_at
                when $6 then clock_timestamp() end
        from unnest($1::bigint[], $2::bool[], $3::bigint[], $4::bigint[], $5::bigint[], $7::bigint[],
            $8::bigint[], $9::text[], $10::bool[], $11::bigint[])
            as result (id, superseded, inserted, updated, unchanged, withdrawn, restored, mode,
            deletion, held)
        where ingests.id = result.id";
    let ids: Vec<i64> = merged.keys().copied().collect();
    let superseded: Vec<bool> = merged.values().map(|merged| merged.superseded).collect();
    let count = |count: fn(&Merged) -> i64| -> Vec<i64> { merged.values().map(count).collect() };
    let (inserted, updated) = (count(|merged| merged.inserted), count(|merged| merged.updated));
    let unchanged = count(|merged| merged.unchanged);
    let (withdrawn, restored) = (count(|merged| merged.withdrawn), count(|merged| merged.restored));
    let held = count(|merged| merged.held);
    let modes: Vec<_> = merged.values().map(|merged| merged.mode.map(Mode::name)).collect();
    let deletions: Vec<bool> = merged.values().map(|merged| merged.is_deletion).collect();
    let params: [&(dyn ToSql + Sync); 11] = [
        &ids,
        &superseded,
        &inserted,
        &updated,
        &unchanged,
        &outbox.publishes(),
        &withdrawn,
        &restored,
        &modes,
        &deletions,
        &held,
    ];
    execute(transaction, complete, &params).await?;
    Ok(())
}

/// Queues the objects of merged versions, which have these numbers, to be read again. An ingest keeps how it has ended
/// before. Versions whose ingests are gone from the ledger get new ones, if it is known what to read.
pub(super) async fn read_again(
    transaction: &Transaction<'_>,
    versions: &[i64],
) -> Result<(), StoreError> {
    let again = "
        /* queue::read_again */
        with known as materialized (
            select i.id
            from merged_versions v join ingests i on i.id = v.ingest_id
            where v.id = any($1)
            order by i.id
            for no key update of i
        )
        update ingests i
        set state = 'queued', attempts = 0, run_after = now(), finished_at = null, error = null,
            ended_as = coalesce(ended_as, case when inserted is not null then state end)
        from known
        where i.id = known.id and i.state not in ('queued', 'running')";
    // A statement of its own: it sees what retention has removed meanwhile.
    let missing = "
        /* queue::read_again */
        with missing as (
            select v.*, nextval(pg_get_serial_sequence('ingests', 'id')) as new_id
            from merged_versions v
            where v.id = any($1) and coalesce(v.version_id, v.etag) is not null
                and not exists (select from ingests i where i.id = v.ingest_id)
        ),
        inserted as (
            insert into ingests (id, bucket, key, version_id, etag, sequencer, ordered_at, mode)
            overriding system value
            select new_id, bucket, key, version_id, etag, nullif(sequencer, ''), ordered_at,
                case when snapshot then 'snapshot' else 'upsert' end
            from missing
        )
        update merged_versions v set ingest_id = new_id from missing where missing.id = v.id";
    execute(transaction, again, &[&versions]).await?;
    execute(transaction, missing, &[&versions]).await?;
    Ok(())
}

/// Queues the blocked snapshots of objects again, of which another version was merged: they may withdraw less now.
pub(super) async fn retry_blocked(
    transaction: &Transaction<'_>,
    keys: &[&str],
    buckets: &[&str],
) -> Result<bool, StoreError> {
    let retry = "
        /* queue::retry_blocked */
        with blocked as materialized (
            select i.id
            from unnest($1::text[], $2::text[]) as object (key, bucket)
            join ingests i on i.key = object.key and i.bucket = object.bucket and i.state = 'blocked'
            order by i.id
            for no key update of i
        )
        update ingests i
        set state = 'queued', attempts = 0, run_after = now(), finished_at = null, error = null
        from blocked
        where i.id = blocked.id";
    Ok(execute(transaction, retry, &[&keys, &buckets]).await? > 0)
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
