//! Removes what nothing needs any more: old ingests, and versions of objects that do not count. The catalogue is
//! the same without them.

use std::time::Duration;

use futures_util::{TryStreamExt, pin_mut};
use roaring::RoaringTreemap;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    Store, StoreError, merge, movie_sets,
    sql::{execute, query_one},
};
use crate::telemetry::chain;

/// The delay before the first run of a process.
const FIRST_DELAY: Duration = Duration::from_secs(60);

/// The delay between two runs of one process.
const INTERVAL: Duration = Duration::from_secs(3600);

/// How many rows one statement reads.
const BATCH: i64 = 1000;

/// How many versions one statement removes.
const MAX_REMOVED: usize = 10_000;

/// The pause after each statement, so that others get their turn.
const PAUSE: Duration = Duration::from_millis(10);

/// The key of the advisory lock: an arbitrary number. One process at a time removes.
const LOCK: i64 = 0x6d72_755f_7072_756e;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Removed {
    /// Ended ingests.
    pub ingests: u64,
    /// Merged versions that do not count, or whose movies newer requests contain.
    pub versions: u64,
}

impl Store {
    /// Removes once an hour, for ever.
    pub(crate) async fn keep_removing(&self, ledger_days: Option<u32>) {
        sleep(FIRST_DELAY).await;
        loop {
            match self.remove_unneeded(ledger_days).await {
                Ok(Removed { ingests: 0, versions: 0 }) => {}
                Ok(Removed { ingests, versions }) => {
                    info!(ingests, versions, "removed what nothing needs any more");
                }
                Err(error) => warn!(error = chain(&error), "removing old ingests failed"),
            }
            sleep(INTERVAL).await;
        }
    }

    /// Removes ingests that ended more than `ledger_days` ago, if that is set, and versions that nothing
    /// needs. Does nothing while another process does so.
    ///
    /// # Errors
    /// If the database is unavailable. What was removed until then stays so.
    pub async fn remove_unneeded(&self, ledger_days: Option<u32>) -> Result<Removed, StoreError> {
        let connection = self.bulk().await?;
        let lock = "
            /* retention::remove_unneeded */
            select pg_try_advisory_lock($1)";
        if !query_one(&connection, lock, &[&LOCK]).await?.get::<_, bool>(0) {
            return Ok(Removed::default());
        }
        let removed = async {
            let ingests = match ledger_days {
                Some(days) => self.remove_ingests(days).await?,
                None => 0,
            };
            Ok(Removed { ingests, versions: self.remove_versions().await? })
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
        let (mut next, mut removed) = (Some(0_i64), self.remove_covered_requests().await?);
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

    /// Removes the versions that requests have merged and whose movies newer ones contain.
    async fn remove_covered_requests(&self) -> Result<u64, StoreError> {
        let versions = "
            /* retention::remove_covered_requests */
            select v.id, m.movie_ids, m.bitmap
            from merged_versions v
            left join version_movies m on m.version_id = coalesce(v.set_id, v.id)
            where v.key = '' and v.bucket = ''
            order by v.ordered_at desc, v.sequencer desc";
        let mut covered: Vec<i64> = Vec::new();
        {
            let connection = self.bulk().await?;
            let statement = connection.prepare_cached(versions).await?;
            let no_params: [&str; 0] = [];
            let rows = connection.query_raw(&statement, no_params).await?;
            pin_mut!(rows);
            let mut newer: Option<RoaringTreemap> = None;
            while let Some(row) = rows.try_next().await? {
                let movies = movie_sets::movies(&row)?;
                match &mut newer {
                    Some(newer) if movies.is_subset(newer) => covered.push(row.get("id")),
                    Some(newer) => *newer |= movies,
                    None => newer = Some(movies),
                }
            }
        }
        let mut removed = 0;
        for ids in covered.chunks(MAX_REMOVED) {
            removed += self.remove(ids).await?;
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
}
