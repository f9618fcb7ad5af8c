//! Removes what nothing needs any more: old ingests, versions of objects that do not count, former states of movies,
//! answers to requests that nobody repeats, sessions that are over, and what TMDB said too long ago. The catalogue is
//! the same without them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    Store, StoreError, merge,
    sql::{execute, query_one, query_opt},
};
use crate::telemetry::chain;

/// The delay before the first run of a process.
const FIRST_DELAY: Duration = Duration::from_secs(60);

/// The delay between two runs of one process.
const INTERVAL: Duration = Duration::from_secs(3600);

/// How many rows one statement reads.
const BATCH: i64 = 1000;

/// The pause after each statement, so that others get their turn.
const PAUSE: Duration = Duration::from_millis(10);

/// The key of the advisory lock: an arbitrary number. One process at a time removes.
const LOCK: i64 = 0x6d72_755f_7072_756e;

/// For how long things are kept; for ever if it is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retention {
    /// Ended ingests, in days.
    pub ledger_days: Option<u32>,
    /// Former states of movies, in days.
    pub history_days: Option<u32>,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Removed {
    /// Ended ingests.
    pub ingests: u64,
    /// Merged versions that do not count.
    pub versions: u64,
    /// Former states of movies.
    pub states: u64,
    /// Answers to requests with an idempotency key.
    pub answers: u64,
    /// Sessions that are over.
    pub sessions: u64,
    /// What TMDB said of movies.
    pub details: u64,
}

impl Store {
    /// Removes once an hour, for ever.
    pub(crate) async fn keep_removing(&self, retention: Retention) {
        sleep(FIRST_DELAY).await;
        loop {
            match self.remove_unneeded(retention).await {
                Ok(removed) if removed == Removed::default() => {}
                Ok(Removed { ingests, versions, states, answers, sessions, details }) => {
                    info!(
                        ingests,
                        versions,
                        states,
                        answers,
                        sessions,
                        details,
                        "removed what nothing needs any more"
                    );
                }
                Err(error) => warn!(error = chain(&error), "removing what nothing needs failed"),
            }
            sleep(INTERVAL).await;
        }
    }

    /// Removes ingests and former states of movies that ended before the time that `retention` keeps them, versions that
    /// nothing needs, answers to requests that were sent more than a day ago, sessions that are over, and what TMDB said
    /// longer ago than it is kept. Does nothing while another process does so.
    ///
    /// # Errors
    /// If the database is unavailable. What was removed until then stays so.
    pub async fn remove_unneeded(&self, retention: Retention) -> Result<Removed, StoreError> {
        let connection = self.bulk().await?;
        let lock = "
            /* retention::remove_unneeded */
            select pg_try_advisory_lock($1)";
        if !query_one(&connection, lock, &[&LOCK]).await?.get::<_, bool>(0) {
            return Ok(Removed::default());
        }
        let removed = async {
            let ingests = match retention.ledger_days {
                Some(days) => self.remove_ingests(days).await?,
                None => 0,
            };
            let states = match retention.history_days {
                Some(days) => self.remove_states(days).await?,
                None => 0,
            };
            let versions = self.remove_versions().await?;
            let (answers, sessions) = (self.remove_answers().await?, self.remove_sessions().await?);
            let details = self.remove_details().await?;
            Ok(Removed { ingests, versions, states, answers, sessions, details })
        };
        let removed: Result<_, StoreError> = removed.await;
        let unlock = "
            /* retention::remove_unneeded */
            select pg_advisory_unlock($1)";
        execute(&connection, unlock, &[&LOCK]).await?;
        removed
    }

    /// Removes ingests that ended more than `days` ago and whose results were published. Of each object
    /// the newest version stays, and the newest one that succeeded; none that was gone: temporary names would
    /// stay for good.
    async fn remove_ingests(&self, days: u32) -> Result<u64, StoreError> {
        // Ids rise with the time of arrival, so the walk ends at the first ingest that is young enough.
        let remove = "
            /* retention::remove_ingests */
            with walked as materialized (
                select id, bucket, key, state, ordered_at, received_at, finished_at, result_due_at
                from ingests
                where id > $1
                order by id
                limit $3
            ),
            removed as (
                delete from ingests
                where id in (
                    select old.id
                    from walked old
                    where old.finished_at < now() - make_interval(days => $2)
                        and old.result_due_at is null
                        and (old.state = 'gone' or exists (
                            select
                            from ingests newer
                            where newer.key = old.key and newer.bucket = old.bucket
                                and newer.ordered_at > coalesce(old.ordered_at, '-infinity')
                                and newer.state not in ('superseded', 'gone')
                                and (newer.state = 'succeeded' or old.state <> 'succeeded')
                        ))
                )
                    -- Once more: it may have been queued again meanwhile.
                    and finished_at < now() - make_interval(days => $2) and result_due_at is null
                returning id
            )
            select
                (select max(id) from walked
                    having max(received_at) < now() - make_interval(days => $2)
                        and count(*) = $3) as next,
                (select count(*) from removed) as removed";
        let days = i32::try_from(days).unwrap_or(i32::MAX);
        let (mut next, mut removed) = (Some(0_i64), 0);
        while let Some(after) = next {
            let connection = self.bulk().await?;
            let row = query_one(&connection, remove, &[&after, &days, &BATCH]).await?;
            next = row.get("next");
            removed += row.get::<_, i64>("removed").cast_unsigned();
            sleep(PAUSE).await;
        }
        Ok(removed)
    }

    /// Removes the versions that do not count and never will: neither they can be undone or redone any more, nor a newer
    /// version that contains their movies or silences them, because the ledger has forgotten both.
    async fn remove_versions(&self) -> Result<u64, StoreError> {
        let silent = "
            /* retention::remove_versions */
            with walked as materialized (
                select id, key, bucket, ordered_at, sequencer, ingest_id, covered_by
                from merged_versions
                where not counts and id > $1
                order by id
                limit $2
            )
            select
                (select max(id) from walked having count(*) = $2) as next,
                array(
                    select v.id
                    from walked v
                    where not exists (select from ingests where ingests.id = v.ingest_id)
                        and exists (
                            select
                            from merged_versions newer
                            where newer.key = v.key and newer.bucket = v.bucket
                                and (newer.id = v.covered_by or newer.snapshot and not newer.undone
                                    and (newer.ordered_at, newer.sequencer)
                                        > (v.ordered_at, v.sequencer))
                                and not exists (
                                    select from ingests where ingests.id = newer.ingest_id)
                        )
                ) as ids";
        let (mut next, mut removed) = (Some(0_i64), 0);
        while let Some(after) = next {
            let row = query_one(&self.bulk().await?, silent, &[&after, &BATCH]).await?;
            next = row.get("next");
            let ids: Vec<i64> = row.get("ids");
            if !ids.is_empty() {
                removed += self.remove(&ids).await?;
            }
            sleep(PAUSE).await;
        }
        Ok(removed)
    }

    /// Removes versions, and the sets that no version refers to any more.
    async fn remove(&self, ids: &[i64]) -> Result<u64, StoreError> {
        let remove = "
            /* retention::remove */
            delete from merged_versions where id = any($1) returning coalesce(set_id, id)";
        let remove_sets = "
            /* retention::remove */
            delete from version_movies m
            where m.version_id = any($1) and not exists (
                select from merged_versions v where coalesce(v.set_id, v.id) = m.version_id)";
        let mut connection = self.bulk().await?;
        let transaction = connection.transaction().await?;
        // A merge may be about to share one of these sets.
        merge::lock(&transaction).await?;
        let removed = transaction.query(remove, &[&ids]).await?;
        let sets: Vec<i64> = removed.iter().map(|row| row.get(0)).collect();
        execute(&transaction, remove_sets, &[&sets]).await?;
        transaction.commit().await?;
        Ok(removed.len() as u64)
    }

    /// Removes the states of movies that ended more than `days` ago.
    async fn remove_states(&self, days: u32) -> Result<u64, StoreError> {
        // First it is noted that they are not known any more, so that no state seems to be the first of its movie.
        let note = "
            /* retention::remove_states */
            update catalogue
            set history_since = greatest(history_since, now() - make_interval(days => $1))
            where exists (
                select
                from (select ended_at from movie_history order by id limit 1) oldest
                where ended_at < now() - make_interval(days => $1)
            )
            returning history_since";
        // Ids rise with the time, so the walk ends at the first state that is young enough.
        let remove = "
            /* retention::remove_states */
            with walked as materialized (
                select id, ended_at from movie_history where id > $1 order by id limit $3
            ),
            removed as (
                delete from movie_history h
                using walked w
                where h.id = w.id and w.ended_at < $2
                returning h.id
            )
            select max(id) as last, count(*) as removed from removed";
        let days = i32::try_from(days).unwrap_or(i32::MAX);
        let noted = query_opt(&self.bulk().await?, note, &[&days]).await?;
        let Some(since) = noted.map(|row| row.get::<_, DateTime<Utc>>(0)) else { return Ok(0) };
        let (mut after, mut removed) = (0_i64, 0);
        loop {
            let row = query_one(&self.bulk().await?, remove, &[&after, &since, &BATCH]).await?;
            let count = row.get::<_, i64>("removed");
            removed += count.cast_unsigned();
            after = row.get::<_, Option<i64>>("last").unwrap_or(after);
            if count < BATCH {
                return Ok(removed);
            }
            sleep(PAUSE).await;
        }
    }

    /// Removes the answers to requests that were sent more than a day ago.
    async fn remove_answers(&self) -> Result<u64, StoreError> {
        let remove = "
            /* retention::remove_answers */
            delete from idempotency_keys
            where ctid = any(array(
                select ctid
                from idempotency_keys
                where created_at < now() - interval '24 hours'
                order by created_at
                limit $1
            ))";
        self.remove_in_batches(remove).await
    }

    /// Removes what TMDB said of movies longer ago than it is kept.
    async fn remove_details(&self) -> Result<u64, StoreError> {
        let remove = "
            /* retention::remove_details */
            delete from movie_details
            where movie_id = any(array(
                select movie_id
                from movie_details
                where keep_until <= now()
                order by keep_until
                limit $1
            )) and keep_until <= now()";
        self.remove_in_batches(remove).await
    }

    /// Runs a statement that removes so many rows at most, until fewer are left. Returns how many were removed.
    async fn remove_in_batches(&self, remove: &str) -> Result<u64, StoreError> {
        let mut removed = 0;
        loop {
            let count = execute(&self.bulk().await?, remove, &[&BATCH]).await?;
            removed += count;
            if count < BATCH.cast_unsigned() {
                return Ok(removed);
            }
            sleep(PAUSE).await;
        }
    }
}
