//! What the store tells of itself: its queue and its pools.

use deadpool_postgres::Status;

use super::{Store, StoreError};

/// So many ingests of a state are counted at most: a queue longer than this is long, and counting
/// to its end would be a load of its own.
const MAX_COUNT: i64 = 100_000;

/// The ingests that have not ended, of all replicas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueueFigures {
    /// How many wait for a worker, at most 100,000.
    pub queued: i64,
    /// How many a worker has, likewise.
    pub running: i64,
    /// How long ago the service heard of the oldest of those that wait, in seconds; 0 if none does.
    pub oldest_age: f64,
}

impl Store {
    /// Counts the ingests that have not ended. Those that have, be they millions, are not looked at.
    ///
    /// # Errors
    /// If the database is away, or takes longer than a second.
    pub async fn queue(&self) -> Result<QueueFigures, StoreError> {
        // By the index on (state, id): ids rise with the time of arrival.
        let figures = "/* figures::queue */ select \
            (select count(*) from (select from ingests where state = 'queued' \
                order by id limit $1) q) queued, \
            (select count(*) from (select from ingests where state = 'running' \
                order by id limit $1) r) running, \
            coalesce((select extract(epoch from clock_timestamp() - received_at)::float8 \
                from ingests where state = 'queued' order by id limit 1), 0) oldest_age";
        let mut connection = self.writer().await?;
        let transaction = connection.transaction().await?;
        // That index and no other way: with the statistics of another hour the planner would rather
        // read all that wait, or the whole table.
        let careful = "/* figures::careful */ set local statement_timeout = '1s'; \
            set local enable_seqscan = off; set local enable_bitmapscan = off; \
            set local enable_sort = off";
        transaction.batch_execute(careful).await?;
        let row = transaction.query_one(figures, &[&MAX_COUNT]).await?;
        transaction.rollback().await?;
        Ok(QueueFigures {
            queued: row.get("queued"),
            running: row.get("running"),
            oldest_age: row.get("oldest_age"),
        })
    }

    /// The pools of connections, by name.
    pub fn pools(&self) -> [(&'static str, Status); 3] {
        let Self { work, write, read, .. } = self;
        [("workers", work.status()), ("writer", write.status()), ("reader", read.status())]
    }
}
