//! The ledger as a queue of work.
//!
//! An entry is claimed with a lease: a token that its holder must show to change anything, and an
//! expiry that its holder must keep pushing back. A worker that died or stalled loses the lease,
//! and another one starts over.

use std::{
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use deadpool_postgres::{Object, Transaction};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{
    IngestState, Merged, Observed, Place, Store, StoreError, listen,
    sql::{execute, query_opt},
};

/// An ingest that this worker holds.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields are the ledger's")]
pub struct Claim {
    pub id: i64,
    pub bucket: String,
    pub key: String,
    pub version_id: Option<String>,
    pub etag: Option<String>,
    pub size: Option<i64>,
    pub attempts: i32,
    pub request_id: Option<String>,
    pub trace_id: Option<String>,
    /// Whether a worker had it before, and let its lease expire.
    pub taken_over: bool,
    sequencer: Option<String>,
    lease_token: Uuid,
    /// Whether its end makes a result due.
    publishes_result: bool,
}

impl Store {
    /// Takes the ingest that has waited longest, for `lease`; also one whose holder let its lease
    /// expire. None if there is nothing to do.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn claim(&self, lease: Duration) -> Result<Option<Claim>, StoreError> {
        let claim = "/* ingests::claim */ with next as (select id, state = 'running' taken_over \
                from ingests where state = 'queued' and run_after <= now() \
                or state = 'running' and lease_expires_at < now() \
                order by run_after, id limit 1 for update skip locked) \
            update ingests set state = 'running', \
                attempts = attempts + 1, started_at = coalesce(started_at, now()), \
                lease_token = $1, lease_expires_at = now() + make_interval(secs => $2) \
            from next where ingests.id = next.id \
            returning ingests.id, bucket, key, version_id, etag, size, sequencer, attempts, \
                request_id, trace_id, taken_over";
        let connection = self.worker().await?;
        self.give_back(&connection).await?;
        let lease_token = Uuid::new_v4();
        let claimed = query_opt(&connection, claim, &[&lease_token, &lease.as_secs_f64()]).await;
        let row = claimed.inspect_err(|_| self.unanswered().push(lease_token))?;
        Ok(row.map(|row| Claim {
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
            publishes_result: self.publishes_results,
        }))
    }

    /// Puts back what claims have taken whose answer was lost with their connection: nobody works
    /// on it, and without this its lease would have to run out.
    async fn give_back(&self, connection: &Object) -> Result<(), StoreError> {
        let tokens = self.unanswered().clone();
        if tokens.is_empty() {
            return Ok(());
        }
        let give_back = "/* ingests::give_back */ update ingests set state = 'queued', \
            attempts = attempts - 1, lease_token = null, lease_expires_at = null \
            where state = 'running' and lease_token = any($1)";
        execute(connection, give_back, &[&tokens]).await?;
        self.unanswered().retain(|token| !tokens.contains(token));
        Ok(())
    }

    fn unanswered(&self) -> MutexGuard<'_, Vec<Uuid>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pushes the expiry of a lease back.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker holds the ingest by now.
    pub async fn renew(&self, claim: &Claim, lease: Duration) -> Result<(), StoreError> {
        let renew = "/* ingests::renew */ update ingests \
            set lease_expires_at = now() + make_interval(secs => $3) \
            where id = $1 and lease_token = $2";
        let params: [&(dyn ToSql + Sync); 3] =
            [&claim.id, &claim.lease_token, &lease.as_secs_f64()];
        held(execute(&self.worker().await?, renew, &params).await?)
    }

    /// Records what the object store says of the claimed version, where the ledger did not know
    /// it yet. Returns the version's place in the order.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker holds the ingest by now.
    pub async fn observe(&self, claim: &Claim, observed: &Observed) -> Result<Place, StoreError> {
        let observe = "/* ingests::observe */ update ingests set etag = coalesce(etag, $3), \
            size = coalesce(size, $4), ordered_at = coalesce(ordered_at, $5, received_at) \
            where id = $1 and lease_token = $2 returning ordered_at";
        let Observed { etag, last_modified, size, .. } = observed;
        let params: [&(dyn ToSql + Sync); 5] =
            [&claim.id, &claim.lease_token, etag, size, last_modified];
        let row = query_opt(&self.worker().await?, observe, &params).await?;
        Ok(Place {
            ordered_at: row.ok_or(StoreError::LeaseLost)?.get(0),
            key: claim.key.clone(),
            bucket: claim.bucket.clone(),
            sequencer: claim.sequencer.as_deref().map(padded).unwrap_or_default(),
        })
    }

    /// Ends an ingest whose content is at fault. `violations` is a JSON array, `count` how many
    /// there are in all.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker holds the ingest by now.
    pub async fn reject(
        &self,
        claim: &Claim,
        violations: &str,
        count: i64,
    ) -> Result<(), StoreError> {
        let set = "state = 'rejected', violations = $3::text::json, violation_count = $4";
        self.end(claim, set, &[&violations, &count]).await
    }

    /// Ends an ingest of content that the bucket does not hold any more, newer content being there.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker holds the ingest by now.
    pub async fn supersede(&self, claim: &Claim) -> Result<(), StoreError> {
        let set =
            "state = 'superseded', inserted = 0, updated = 0, unchanged = 0, violation_count = 0";
        self.end(claim, set, &[]).await
    }

    /// Ends an ingest that the infrastructure has failed too often. `error` is a problem object.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker holds the ingest by now.
    pub async fn fail(&self, claim: &Claim, error: &str) -> Result<(), StoreError> {
        self.end(claim, "state = 'failed', error = $3::text::json", &[&error]).await
    }

    async fn end(
        &self,
        claim: &Claim,
        set: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<(), StoreError> {
        let end = format!(
            "/* ingests::end */ with ended as (update ingests set {set}, \
                finished_at = clock_timestamp(), lease_token = null, lease_expires_at = null, \
                result_due_at = {} \
                where id = $1 and lease_token = $2 returning id) \
             select pg_notify('{}', '') from ended",
            claim.result_due_at(),
            listen::FINISHED
        );
        let mut params: Vec<&(dyn ToSql + Sync)> = vec![&claim.id, &claim.lease_token];
        params.extend(values);
        held(execute(&self.worker().await?, &end, &params).await?)
    }

    /// Puts a claimed ingest back into the queue, to be claimed again after `delay`. `attempted`
    /// is false where nothing went wrong and the attempt shall not count.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker holds the ingest by now.
    pub async fn requeue(
        &self,
        claim: &Claim,
        delay: Duration,
        attempted: bool,
    ) -> Result<(), StoreError> {
        let requeue = "/* ingests::requeue */ update ingests set state = 'queued', \
            run_after = now() + make_interval(secs => $3), attempts = attempts - $4, \
            lease_token = null, lease_expires_at = null where id = $1 and lease_token = $2";
        let uncounted = i32::from(!attempted);
        let params: [&(dyn ToSql + Sync); 4] =
            [&claim.id, &claim.lease_token, &delay.as_secs_f64(), &uncounted];
        held(execute(&self.worker().await?, requeue, &params).await?)
    }
}

impl Claim {
    /// Ends the ingest within the transaction that merged its movies.
    pub(super) async fn complete(
        &self,
        transaction: &Transaction<'_>,
        merged: &Merged,
    ) -> Result<(), StoreError> {
        let complete = format!(
            "/* ingests::complete */ update ingests set state = $3, inserted = $4, \
            updated = $5, unchanged = $6, violation_count = 0, finished_at = clock_timestamp(), \
            lease_token = null, lease_expires_at = null, result_due_at = {} \
            where id = $1 and lease_token = $2",
            self.result_due_at()
        );
        let state =
            if merged.superseded { IngestState::Superseded } else { IngestState::Succeeded };
        let Merged { inserted, updated, unchanged, .. } = merged;
        let params: [&(dyn ToSql + Sync); 6] =
            [&self.id, &self.lease_token, &state.name(), inserted, updated, unchanged];
        held(execute(transaction, &complete, &params).await?)
    }

    /// What `result_due_at` becomes when the ingest ends.
    fn result_due_at(&self) -> &'static str {
        if self.publishes_result { "clock_timestamp()" } else { "null" }
    }
}

fn held(rows: u64) -> Result<(), StoreError> {
    if rows == 1 { Ok(()) } else { Err(StoreError::LeaseLost) }
}

/// Sequencers are compared as text of one length.
/// Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>
fn padded(sequencer: &str) -> String {
    format!("{sequencer:0<64}")
}
