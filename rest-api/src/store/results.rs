//! The ledger as an outbox: ended ingests whose results are still to be published.
//!
//! `result_due_at` says when. Whoever takes a result pushes it back by a lease, and must show that
//! very time to change it again: should it die, the result is due once more when the lease is over.
//! So each is published at least once, and seldom twice.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Ingest, Store, StoreError};

/// An ended ingest, for this caller to publish.
#[derive(Debug)]
pub struct DueResult {
    /// The ingest, without its violations.
    pub ingest: Ingest,
    /// These, a JSON array.
    pub violations: String,
    /// The trace that the ingest belongs to.
    pub trace_id: Option<String>,
    leased_until: DateTime<Utc>,
}

impl Store {
    /// The same store, in which the ingests that end from now on are due for publication.
    #[must_use]
    pub fn publishing_results(mut self) -> Self {
        self.publishes_results = true;
        self
    }

    /// Takes up to `limit` results that are due, the oldest first, for `lease`.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn claim_results(
        &self,
        limit: i64,
        lease: Duration,
    ) -> Result<Vec<DueResult>, StoreError> {
        let columns = Ingest::COLUMNS;
        // One that was queued anew in the meantime is published when it has ended again.
        let claim = format!(
            "/* results::claim */ update ingests \
                set result_due_at = now() + make_interval(secs => $2) \
             where id = any(array(select id from ingests \
                where result_due_at <= now() and finished_at is not null \
                order by result_due_at limit $1 for update skip locked)) \
             returning {columns}, coalesce(violations::text, '[]') violations, trace_id, \
                result_due_at"
        );
        let connection = self.worker().await?;
        let rows = connection.query(&claim, &[&limit, &lease.as_secs_f64()]).await?;
        Ok(rows
            .iter()
            .map(|row| DueResult {
                ingest: Ingest::from_row(row),
                violations: row.get("violations"),
                trace_id: row.get("trace_id"),
                leased_until: row.get("result_due_at"),
            })
            .collect())
    }

    /// Ends the leases of `results`: they have been published, or are due again after `again_in`.
    ///
    /// One whose ingest has ended once more since it was taken stays due for that.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn settle_results(
        &self,
        results: &[&DueResult],
        again_in: Option<Duration>,
    ) -> Result<(), StoreError> {
        let settle = "/* results::settle */ update ingests \
                set result_due_at = now() + make_interval(secs => $3) \
            from unnest($1::bigint[], $2::timestamptz[]) as taken (id, leased_until) \
            where ingests.id = taken.id and ingests.result_due_at = taken.leased_until";
        let ids: Vec<i64> = results.iter().map(|result| result.ingest.id).collect();
        let leases: Vec<DateTime<Utc>> = results.iter().map(|result| result.leased_until).collect();
        // Null seconds make a null time.
        let again_in = again_in.map(|delay| delay.as_secs_f64());
        self.worker().await?.execute(settle, &[&ids, &leases, &again_in]).await?;
        Ok(())
    }
}
