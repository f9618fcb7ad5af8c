//! What the benchmarks read from the ledger, and the settings of its database.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};
use tokio::time::sleep;
use tokio_postgres::Client as Sql;

use crate::report::{median, text};

/// The delay between two queries of the ledger. The queries take time of the machine.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The longest time in which nothing may change.
const STALL: Duration = Duration::from_secs(120);

/// How many commits are timed.
const COMMITS: usize = 100;

/// Checks that commits are flushed to disk. Returns the settings as text, with the time of a commit.
///
/// # Errors
/// If a setting is off.
pub(crate) async fn durability(sql: &Sql) -> Result<String> {
    let mut settings = Vec::new();
    for name in ["fsync", "synchronous_commit", "full_page_writes"] {
        let value: String = sql.query_one(&format!("show {name}"), &[]).await?.get(0);
        ensure!(value == "on", "{name} is {value}: the figures would say nothing about production");
        settings.push(format!("{name} {value}"));
    }
    sql.batch_execute("create table commits (number int)").await?;
    let insert = sql.prepare("insert into commits values (1)").await?;
    let mut times = Vec::new();
    for _ in 0..COMMITS {
        let started = Instant::now();
        sql.execute(&insert, &[]).await?;
        times.push(started.elapsed());
    }
    sql.batch_execute("drop table commits").await?;
    let commit = text(median(times));
    Ok(format!("Postgres: {}; a commit of one row takes {commit}.", settings.join(", ")))
}

/// How many ingests have not ended.
pub(crate) struct Pending {
    pub(crate) queued: i64,
    pub(crate) running: i64,
}

/// Reads the number of ingests that have not ended. It reads no other ones.
pub(crate) async fn pending(sql: &Sql) -> Result<Pending> {
    let query = "select count(*) filter (where state = 'queued'), \
            count(*) filter (where state = 'running') \
        from ingests \
        where state in ('queued', 'running')";
    let row = sql.query_one(query, &[]).await?;
    Ok(Pending { queued: row.get(0), running: row.get(1) })
}

/// Waits until the ledger has `count` ingests and all have ended. Calls `observe` again and again
/// meanwhile.
///
/// # Errors
/// If the numbers do not change for two minutes.
pub(crate) async fn settle(
    sql: &Sql,
    count: usize,
    mut observe: impl FnMut(&Pending) -> Result<()>,
) -> Result<()> {
    let (mut last, mut changed_at) = ((0, 0), Instant::now());
    loop {
        let pending = pending(sql).await?;
        observe(&pending)?;
        let all: i64 = match pending {
            Pending { queued: 0, running: 0 } => {
                sql.query_one("select count(*) from ingests", &[]).await?.get(0)
            }
            _ => 0,
        };
        if all == count as i64 {
            return Ok(());
        }
        let now = (all, pending.queued);
        if now != last {
            (last, changed_at) = (now, Instant::now());
        }
        let Pending { queued, running } = pending;
        ensure!(changed_at.elapsed() < STALL, "stalled: {queued} queued, {running} running");
        sleep(POLL_INTERVAL).await;
    }
}

/// One ended ingest.
pub(crate) struct Ended {
    pub(crate) key: String,
    pub(crate) received_at: SystemTime,
    /// When it was first claimed; when it ended, if nobody claimed it.
    pub(crate) started_at: SystemTime,
    pub(crate) finished_at: SystemTime,
}

/// Reads the ended ingests whose ids are greater than `after`, by key and in the order of their
/// sequencers.
pub(crate) async fn ended(sql: &Sql, after: i64) -> Result<Vec<Ended>> {
    let query = "select key, received_at, coalesce(started_at, finished_at), finished_at \
        from ingests \
        where id > $1 and finished_at is not null \
        order by key, sequencer";
    let rows = sql.query(query, &[&after]).await?;
    let ended = rows.iter().map(|row| Ended {
        key: row.get(0),
        received_at: row.get(1),
        started_at: row.get(2),
        finished_at: row.get(3),
    });
    Ok(ended.collect())
}

/// Returns the time from the earliest of `from` to the last end.
pub(crate) fn span(ended: &[Ended], from: impl Fn(&Ended) -> SystemTime) -> Duration {
    let first = ended.iter().map(from).min();
    let last = ended.iter().map(|ended| ended.finished_at).max();
    let span = first.zip(last).and_then(|(first, last)| last.duration_since(first).ok());
    span.unwrap_or_default()
}

/// Returns the number of ingests in each state, as text.
pub(crate) async fn count_states(sql: &Sql) -> Result<String> {
    let query = "select string_agg(count || ' ' || state, ', ' order by count desc) \
        from (select state, count(*) from ingests group by state) states";
    Ok(sql.query_one(query, &[]).await?.get(0))
}
