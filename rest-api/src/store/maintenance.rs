//! Maintenance of the catalogue after merges. The catalogue is correct without it, but slower.
//!
//! It goes by the amount of change, not by the number of files: many small merges are maintained
//! together.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use deadpool_postgres::Object;
use tokio::{sync::Notify, time::sleep};
use tracing::warn;

use super::{
    Merged, Store, StoreError,
    sql::{execute, query_one},
};
use crate::telemetry::chain;

/// The delay between two maintenances, in which further changes accumulate.
const INTERVAL: Duration = Duration::from_secs(1);

/// A catalogue of at least so many movies has detailed statistics.
const LARGE: i64 = 100_000;

/// The changes that were not maintained yet.
#[derive(Debug, Default)]
pub(super) struct Changes {
    movies: AtomicI64,
    added: Notify,
}

impl Store {
    /// Counts the changes of a merge.
    pub(super) fn add_changes(&self, merged: &Merged) {
        let Merged { inserted, updated, withdrawn, restored, .. } = *merged;
        let changed = inserted + updated + withdrawn + restored;
        if changed > 0 {
            self.changes.movies.fetch_add(changed, Ordering::Relaxed);
            self.changes.added.notify_one();
        }
    }

    /// Maintains the catalogue after the merges of this process, for ever.
    pub(crate) async fn keep_maintaining(&self) {
        loop {
            self.changes.added.notified().await;
            if let Err(error) = self.maintain_now().await {
                warn!(error = chain(&error), "maintenance of the catalogue failed");
            }
            sleep(INTERVAL).await;
        }
    }

    /// Maintains the catalogue after the merges since the last time. Cleans the pending lists of the search
    /// indexes, which every search must read. If much of the catalogue has changed, analyzes and vacuums
    /// it.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn maintain_now(&self) -> Result<(), StoreError> {
        let changed = self.changes.movies.swap(0, Ordering::Relaxed);
        if changed == 0 {
            return Ok(());
        }
        let maintained = self.maintain(changed).await;
        if maintained.is_err() {
            self.changes.movies.fetch_add(changed, Ordering::Relaxed);
        }
        maintained
    }

    /// Maintains the catalogue after so many changes.
    async fn maintain(&self, changed: i64) -> Result<(), StoreError> {
        let connection = self.bulk().await?;
        let clean = "
            /* maintenance::maintain */
            select clean_search_indexes()";
        execute(&connection, clean, &[]).await?;
        let size = "
            /* maintenance::maintain */
            select reltuples::bigint from pg_class where oid = 'movies'::regclass";
        let size: i64 = query_one(&connection, size, &[]).await?.get(0);
        if changed * 5 > size {
            analyze(&connection, size.max(changed)).await?;
            drop(connection);
            self.vacuum().await?;
        }
        Ok(())
    }

    /// Marks the pages of the catalogue as visible to all, so that a file that comes again is
    /// compared by an index alone. It takes as long as reading the catalogue.
    ///
    /// Before Postgres 17 only the owner may do this. Postgres then warns a service with another role, and leaves
    /// the catalogue to its autovacuum.
    async fn vacuum(&self) -> Result<(), StoreError> {
        let vacuum = "
            /* maintenance::vacuum */
            vacuum (index_cleanup off, process_toast off, truncate off) movies";
        Ok(self.bulk().await?.batch_execute(vacuum).await?)
    }
}

/// Updates the planner's statistics of the catalogue, which has about `size` movies.
///
/// Of a large catalogue the planner needs many values to see how rare a word is. For each plan it reads all of them:
/// on a small one that takes longer than most queries.
async fn analyze(connection: &Object, size: i64) -> Result<(), StoreError> {
    let analyze = "
        /* maintenance::analyze */
        select analyze_movies($1)";
    execute(connection, analyze, &[&(size >= LARGE)]).await?;
    Ok(())
}
