//! The depth of the queue, for metrics.

use super::{Store, StoreError, reads, sql::query_one};

/// The largest number of ingests of a state that is counted. Counting a longer queue to its end
/// would be a load of its own.
const MAX_COUNT: i64 = 100_000;

/// The ingests that have not ended, of all replicas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueueDepth {
    /// How many are queued, at most 100,000.
    pub queued: i64,
    /// How many are running, at most 100,000.
    pub running: i64,
    /// The age of the oldest queued ingest in seconds; 0 if none is queued.
    pub oldest_age: f64,
}

impl Store {
    /// Counts the ingests that have not ended. It reads none of those that have.
    ///
    /// # Errors
    /// If the database is unavailable, or takes too long.
    pub async fn queue_depth(&self) -> Result<QueueDepth, StoreError> {
        // Only a plain scan of the index on (state, id) reads no more rows than it counts. The sessions
        // of this pool plan no other one. Ids rise with the time of arrival.
        let depth = "
            /* queue_depth::queue_depth */
            select
                (select count(*) from (
                    select from ingests where state = 'queued' order by id limit $1) queued
                ) as queued,
                (select count(*) from (
                    select from ingests where state = 'running' order by id limit $1) running
                ) as running,
                coalesce((
                    select extract(epoch from clock_timestamp() - received_at)::float8
                    from ingests
                    where state = 'queued'
                    order by id
                    limit 1
                ), 0) as oldest_age";
        let connection = self.ledger_reader().await?;
        let row = query_one(&*connection, depth, &[&MAX_COUNT]).await;
        reads::finish(connection);
        let row = row?;
        Ok(QueueDepth {
            queued: row.get("queued"),
            running: row.get("running"),
            oldest_age: row.get("oldest_age"),
        })
    }
}
