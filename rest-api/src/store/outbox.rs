//! The ledger as an outbox: ended ingests whose results are to be published.
//!
//! `result_due_at` is the time at which a result is due. A claim sets it to the end of its lease. A
//! later update applies only if the value is still the same, so an expired claim changes nothing. If
//! a publisher dies, the result is due again after the lease. So each result is published at least
//! once, and rarely twice.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Ingest, Store, StoreError};

/// Whether the end of an ingest schedules its result for publication.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Outbox {
    /// Nothing is published.
    #[default]
    Disabled,
    /// Results are published.
    Enabled,
}

impl Outbox {
    pub(super) fn publishes(self) -> bool {
        self == Self::Enabled
    }
}

/// The result of an ended ingest, claimed for publication.
#[derive(Debug)]
pub struct DueResult {
    /// The ingest, without its violations.
    pub ingest: Ingest,
    /// Its listed violations, a JSON array.
    pub violations: String,
    /// The trace that the ingest belongs to.
    pub trace_id: Option<String>,
    /// The span that the ingest goes below.
    pub traceparent: Option<String>,
    leased_until: DateTime<Utc>,
}

impl Store {
    /// Returns the same store with this outbox.
    #[must_use]
    pub fn with_outbox(mut self, outbox: Outbox) -> Self {
        self.outbox = outbox;
        self
    }

    /// Claims up to `limit` results that are due, the oldest first, for `lease`.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn claim_results(
        &self,
        limit: i64,
        lease: Duration,
    ) -> Result<Vec<DueResult>, StoreError> {
        // An ingest that was queued again is skipped. It is due again when it has ended.
        let claim = "
            /* outbox::claim_results */
            update ingests
            set result_due_at = now() + make_interval(secs => $2)
            where id = any(array(
                select id
                from ingests
                where result_due_at <= now() and finished_at is not null
                order by result_due_at
                limit $1
                for update skip locked
            ))
            returning id, bucket, key, version_id, etag, size, removal, mode, state,
                superseded_reason, attempts, received_at, started_at, finished_at, inserted, updated,
                unchanged, withdrawn, restored, held, undone_at, undone_by, approved_at, approved_by,
                violation_count, error::text,
                coalesce(violations::text, '[]') as violations, trace_id, traceparent,
                result_due_at";
        let connection = self.worker().await?;
        let rows = connection.query(claim, &[&limit, &lease.as_secs_f64()]).await?;
        Ok(rows
            .iter()
            .map(|row| DueResult {
                ingest: Ingest::from_row(row),
                violations: row.get("violations"),
                trace_id: row.get("trace_id"),
                traceparent: row.get("traceparent"),
                leased_until: row.get("result_due_at"),
            })
            .collect())
    }

    /// Ends the leases of published results.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn acknowledge_results(&self, results: &[&DueResult]) -> Result<(), StoreError> {
        self.reschedule(results, None).await
    }

    /// Ends the leases of results that could not be published. They are due again after `delay`.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn reschedule_results(
        &self,
        results: &[&DueResult],
        delay: Duration,
    ) -> Result<(), StoreError> {
        self.reschedule(results, Some(delay.as_secs_f64())).await
    }

    /// Ends the leases of results that were refused. They are due again after as long as they have been
    /// tried, at least `first` and at most a day: results that are refused for good take ever less of the
    /// publisher's time.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn postpone_results(
        &self,
        results: &[&DueResult],
        first: Duration,
    ) -> Result<(), StoreError> {
        let postpone = "
            /* outbox::postpone_results */
            update ingests
            set result_due_at = now() + greatest(make_interval(secs => $3),
                least(now() - finished_at, interval '1 day'))
            from unnest($1::bigint[], $2::timestamptz[]) as claimed (id, leased_until)
            where ingests.id = claimed.id and ingests.result_due_at = claimed.leased_until";
        let (ids, leases) = ids_and_leases(results);
        let connection = self.worker().await?;
        connection.execute(postpone, &[&ids, &leases, &first.as_secs_f64()]).await?;
        Ok(())
    }

    /// Makes results due in `seconds`, or never. A result whose ingest has ended once more since it
    /// was claimed stays due.
    async fn reschedule(
        &self,
        results: &[&DueResult],
        seconds: Option<f64>,
    ) -> Result<(), StoreError> {
        // Null seconds make a null time.
        let reschedule = "
            /* outbox::reschedule */
            update ingests
            set result_due_at = now() + make_interval(secs => $3)
            from unnest($1::bigint[], $2::timestamptz[]) as claimed (id, leased_until)
            where ingests.id = claimed.id and ingests.result_due_at = claimed.leased_until";
        let (ids, leases) = ids_and_leases(results);
        self.worker().await?.execute(reschedule, &[&ids, &leases, &seconds]).await?;
        Ok(())
    }
}

fn ids_and_leases(results: &[&DueResult]) -> (Vec<i64>, Vec<DateTime<Utc>>) {
    results.iter().map(|result| (result.ingest.id, result.leased_until)).unzip()
}
