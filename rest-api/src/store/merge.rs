//! Merges the movies of one object version into the catalogue.
//!
//! The new and changed movies of the file have been staged before. The merge itself is a handful of
//! statements in one short transaction, together with the ledger and the catalogue's revision.
//! Merges run one after another: the row of `catalogue` is their lock. So two of them can neither
//! deadlock nor miss each other's changes.

use deadpool_postgres::Transaction;
use serde::Serialize;

use super::{
    Claim, Staging, StoreError, VersionPosition, assertions, listen,
    previous_version::PreviousVersion,
    queue,
    sql::{execute, query_one},
    staging::deduplicate,
};

/// A merge of at least this many movies into an empty catalogue is a first load: see [`insert`].
const FIRST_LOAD: i64 = 10_000;

/// The result of a merge, in movies.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Merged {
    /// Movies that were new.
    pub inserted: i64,
    /// Movies whose content changed.
    pub updated: i64,
    /// Movies whose rows were left untouched.
    pub unchanged: i64,
    /// Whether a newer version of the same object had already been merged.
    #[serde(skip)]
    pub superseded: bool,
}

impl Staging {
    /// Merges the staged rows, and ends the ingest of `claim` in the same transaction.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker has claimed the ingest.
    /// [`StoreError::CatalogueChanged`] if movies that were compared have changed since. Nothing is
    /// changed then.
    pub async fn merge_ingest(
        mut self,
        position: &VersionPosition,
        claim: &Claim,
    ) -> Result<Merged, StoreError> {
        let previous = std::mem::take(&mut self.previous);
        let (staged, outbox) = (self.staged, self.outbox);
        let transaction = self.transaction().await?;
        prepare(&transaction, staged).await?;
        let revision = lock(&transaction).await?;
        previous.verify(&transaction, revision).await?;
        let merged = merge(&transaction, &previous, staged, position, Some(claim.id)).await?;
        queue::complete(&transaction, claim, &merged, outbox).await?;
        announce(&transaction, &merged).await?;
        transaction.commit().await?;
        self.truncate().await;
        Ok(merged)
    }

    /// Merges the staged rows of a request, which have the present time as their position.
    ///
    /// # Errors
    /// If the database is unavailable, or other merges take too long. Nothing is changed then.
    pub async fn merge_request(mut self) -> Result<Merged, StoreError> {
        let staged = self.staged;
        let transaction = self.transaction().await?;
        let timeout = "
            /* merge::merge_request */
            set local lock_timeout = '20s'";
        transaction.batch_execute(timeout).await?;
        prepare(&transaction, staged).await?;
        lock(&transaction).await?;
        // Read under the lock, so that it is later than all merges before.
        let clock = "
            /* merge::merge_request */
            select clock_timestamp()";
        let ordered_at = query_one(&transaction, clock, &[]).await?.get(0);
        let [key, bucket, sequencer] = [const { String::new() }; 3];
        let position = VersionPosition { ordered_at, key, bucket, sequencer };
        let previous = PreviousVersion::default();
        let merged = merge(&transaction, &previous, staged, &position, None).await?;
        announce(&transaction, &merged).await?;
        transaction.commit().await?;
        self.truncate().await;
        Ok(merged)
    }
}

/// Deduplicates the staged rows: within one file the later record wins. Updates the planner's
/// statistics. It runs before the lock is taken, because it concerns this merge alone.
async fn prepare(transaction: &Transaction<'_>, staged: i64) -> Result<(), StoreError> {
    // Most merges change a small part of the catalogue, and find it by the indexes. With its default
    // cost of random reads, the planner would read the whole catalogue much too early.
    let settings = "
        /* merge::prepare */
        select set_config('work_mem', '64MB', true),
            set_config('maintenance_work_mem', '256MB', true),
            set_config('random_page_cost', '1.1', true)";
    query_one(transaction, settings, &[]).await?;
    if staged == 0 {
        return Ok(());
    }
    deduplicate(transaction).await?;
    let analyze = "
        /* merge::prepare */
        analyze staging (identity)";
    transaction.batch_execute(analyze).await?;
    Ok(())
}

/// Waits until no other merge runs, and keeps others waiting until the transaction ends. Returns
/// the catalogue's revision.
async fn lock(transaction: &Transaction<'_>) -> Result<i64, StoreError> {
    let lock = "
        /* merge::lock */
        select revision from catalogue for no key update";
    Ok(query_one(transaction, lock, &[]).await?.get(0))
}

/// Merges the staged rows while the caller holds the lock. `staged` is the number of staged rows,
/// duplicates included. The other movies of the file are unchanged since its `previous` version.
async fn merge(
    transaction: &Transaction<'_>,
    previous: &PreviousVersion,
    staged: i64,
    position: &VersionPosition,
    ingest_id: Option<i64>,
) -> Result<Merged, StoreError> {
    let superseded = assertions::is_superseded(transaction, position).await?;
    let unchanged = previous.unchanged_ids();
    let repeated = if staged == 0 { previous.repeated_assertions() } else { &[] };
    if !assertions::move_to(transaction, position, repeated).await? {
        assertions::insert(transaction, position, &unchanged).await?;
    }
    let mut asserted = unchanged.len() as i64;
    let mut merged = Merged { superseded, unchanged: asserted, ..Merged::default() };
    if staged > 0 {
        let outdated = assertions::remove_outdated(transaction, position).await?;
        merged.updated = update(transaction, ingest_id).await?;
        merged.inserted = insert(transaction, staged, ingest_id).await?;
        let current = assertions::insert_staged(transaction, position).await?;
        merged.unchanged += current + outdated - merged.inserted - merged.updated;
        asserted += current;
    }
    if asserted == 0 {
        assertions::insert_empty(transaction, position).await?;
    }
    Ok(merged)
}

/// Updates the movies whose staged content differs. Returns their number.
async fn update(transaction: &Transaction<'_>, ingest_id: Option<i64>) -> Result<i64, StoreError> {
    let update = "
        /* merge::update */
        update movies m
        set cast_lc = s.cast_lc, genres_lc = s.genres_lc, content_hash = s.content_hash,
            doc = s.doc, ingest_id = $1, record = s.record, changed_at = now()
        from staging s
        where m.identity = s.identity and m.content_hash <> s.content_hash";
    Ok(execute(transaction, update, &[&ingest_id]).await?.cast_signed())
}

/// Inserts the staged movies that the catalogue lacks. Returns their number.
///
/// A first load drops the indexes and builds them afterwards, which takes a fraction of the time.
/// Meanwhile queries wait, and are asked to retry, instead of finding an empty catalogue.
async fn insert(
    transaction: &Transaction<'_>,
    staged: i64,
    ingest_id: Option<i64>,
) -> Result<i64, StoreError> {
    let is_empty = "
        /* merge::insert */
        select not exists (select from movies)";
    if staged >= FIRST_LOAD && query_one(transaction, is_empty, &[]).await?.get(0) {
        return first_load(transaction, ingest_id).await;
    }
    let insert = "
        /* merge::insert */
        insert into movies (identity, title_lc, year, cast_lc, genres_lc, content_hash, doc,
            ingest_id, record, changed_at)
        select identity, title_lc, year, cast_lc, genres_lc, content_hash, doc, $1, record, now()
        from staging s
        where not exists (select from movies m where m.identity = s.identity)
        order by record";
    Ok(execute(transaction, insert, &[&ingest_id]).await?.cast_signed())
}

/// Inserts the staged movies into the empty catalogue. Returns their number.
async fn first_load(
    transaction: &Transaction<'_>,
    ingest_id: Option<i64>,
) -> Result<i64, StoreError> {
    let create_indexes = drop_indexes(transaction).await?;
    let insert = "
        /* merge::first_load */
        insert into movies (identity, title_lc, year, cast_lc, genres_lc, content_hash, doc,
            ingest_id, record, changed_at)
        select identity, title_lc, year, cast_lc, genres_lc, content_hash, doc, $1, record, now()
        from staging";
    let inserted = execute(transaction, insert, &[&ingest_id]).await?;
    transaction.batch_execute(&create_indexes).await?;
    Ok(inserted.cast_signed())
}

/// Drops all indexes of the movies but the primary key. Returns the statements that create them.
async fn drop_indexes(transaction: &Transaction<'_>) -> Result<String, StoreError> {
    let indexes = "
        /* merge::drop_indexes */
        select string_agg('drop index ' || indexrelid::regclass, '; '),
            string_agg(pg_get_indexdef(indexrelid), '; ')
        from pg_index
        where indrelid = 'movies'::regclass and not indisprimary";
    let indexes = query_one(transaction, indexes, &[]).await?;
    transaction.batch_execute(indexes.get(0)).await?;
    Ok(indexes.get(1))
}

/// Increments the catalogue's revision if anything changed, and wakes up the processes that wait for
/// the ingest.
async fn announce(transaction: &Transaction<'_>, merged: &Merged) -> Result<(), StoreError> {
    if merged.inserted + merged.updated > 0 {
        let increment = "
            /* merge::announce */
            update catalogue set revision = revision + 1";
        execute(transaction, increment, &[]).await?;
    }
    listen::announce(transaction, listen::FINISHED).await
}
