//! Merges the movies of one large file into the catalogue.
//!
//! The new and changed movies of the file have been staged before. The merge itself is a handful of
//! statements in one short transaction, together with the ledger and the catalogue's revision.
//! Merges run one after another: the row of `catalogue` is their lock. So two of them can neither
//! deadlock nor miss each other's changes. Small files are merged by `batch`.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::Transaction;
use futures_util::{TryStreamExt, pin_mut};
use roaring::RoaringTreemap;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Claim, Mode, Revision, Staging, Store, StoreError, VersionPosition,
    counting::{self, Recount, Settled},
    holds::{self, HeldMovie},
    listen::{self, REVISION},
    merged_versions::{self, MergedVersion},
    movie_sets,
    previous_version::PreviousVersion,
    queue, search,
    sql::{execute, query_one},
    staging::deduplicate,
    withdrawn,
};
use crate::config::MaxWithdraw;

/// A merge of at least this many movies into an empty catalogue is a first load: see [`insert`].
const FIRST_LOAD: i64 = 10_000;

/// How many ids are packed into one value.
const PACKED: i64 = 1 << 16;

/// How many ids one parameter has at most.
const MAX_PARAMETER: usize = 100_000;

/// The result of a merge, in movies.
#[derive(Clone, Copy, Debug, Default, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Merged {
    /// Movies that were new.
    pub inserted: i64,
    /// Movies whose content changed.
    pub updated: i64,
    /// Movies whose rows were left untouched.
    pub unchanged: i64,
    /// Movies that had been withdrawn and are back.
    #[serde(skip_serializing_if = "is_zero")]
    pub restored: i64,
    /// Movies that stay as they are, because they are held.
    #[serde(skip_serializing_if = "is_zero")]
    pub held: i64,
    /// Movies that no version contains any more.
    #[serde(skip)]
    pub withdrawn: i64,
    /// The mode of the version; none if a client posted the movies.
    #[serde(skip)]
    pub mode: Option<Mode>,
    /// Whether not the object was removed, but one version of it.
    #[serde(skip)]
    pub is_deletion: bool,
    /// Whether a newer version of the same object had already been merged.
    #[serde(skip)]
    pub superseded: bool,
}

impl Merged {
    /// Whether the merge changed the catalogue.
    pub fn changes_movies(&self) -> bool {
        self.inserted + self.updated + self.restored + self.withdrawn > 0
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &i64) -> bool {
    *count == 0
}

impl Store {
    /// Merges the staged rows, and ends the ingest of `claim` in the same transaction.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker has claimed the ingest.
    /// [`StoreError::CatalogueChanged`] if movies that were compared have changed since. Nothing is
    /// changed then.
    pub async fn merge_staged(
        &self,
        mut staging: Staging,
        position: &VersionPosition,
        mode: Mode,
        claim: &Claim,
    ) -> Result<Merged, StoreError> {
        let previous = std::mem::take(&mut staging.previous);
        let staged = staging.staged;
        let transaction = staging.transaction().await?;
        prepare(&transaction, staged).await?;
        let revision = lock(&transaction).await?;
        if queue::lock_held(&transaction, &[claim]).await?.is_empty() {
            return Err(StoreError::LeaseLost);
        }
        previous.verify(&transaction, revision).await?;
        let file = StagedFile {
            version: claim.merged_version(position, mode, None),
            is_approved: claim.is_approved,
            previous: &previous,
            staged,
        };
        let (merged, settled) = merge(&transaction, &file, self.max_withdraw).await?;
        queue::complete(&transaction, &HashMap::from([(claim.id, merged)]), self.outbox).await?;
        let changed = merged.changes_movies() || settled.changes_movies();
        let revision = increment_revision(&transaction, changed).await?;
        listen::announce_ended(&transaction, &[claim.id]).await?;
        transaction.commit().await?;
        self.learn_own(revision);
        staging.release().await;
        self.hints().announce_ended([claim.id]);
        if settled.queued {
            self.hints().announce_queued();
        }
        self.add_changes(&merged);
        Ok(merged)
    }
}

/// A file whose new and changed movies are staged.
struct StagedFile<'a> {
    version: MergedVersion<'a>,
    /// Whether it may withdraw as many movies as it does.
    is_approved: bool,
    /// Its other movies are unchanged since this version.
    previous: &'a PreviousVersion,
    /// The number of staged rows, duplicates included.
    staged: i64,
}

/// Takes the lock as [`lock`] does, for a request: it waits 20 s for other merges at most.
pub(super) async fn lock_for_request(transaction: &Transaction<'_>) -> Result<i64, StoreError> {
    let timeout = "
        /* merge::lock_for_request */
        set local lock_timeout = '20s'";
    transaction.batch_execute(timeout).await?;
    lock(transaction).await
}

/// Deduplicates the staged rows: within one file the later record wins. Updates the planner's
/// statistics. It runs before the lock is taken, because it concerns this merge alone.
async fn prepare(transaction: &Transaction<'_>, staged: i64) -> Result<(), StoreError> {
    let settings = "
        /* merge::prepare */
        select set_config('work_mem', '64MB', true),
            set_config('maintenance_work_mem', '256MB', true)";
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
///
/// From here on the commit waits until it is durable. Other commits of workers do not: what they lose in
/// a crash is done once more.
pub(super) async fn lock(transaction: &Transaction<'_>) -> Result<i64, StoreError> {
    let lock = "
        /* merge::lock */
        select revision, set_config('synchronous_commit', 'on', true)
        from catalogue
        for no key update";
    Ok(query_one(transaction, lock, &[]).await?.get(0))
}

/// Merges the staged rows while the caller holds the lock. Returns also what became of the movies that it silenced.
async fn merge(
    transaction: &Transaction<'_>,
    file: &StagedFile<'_>,
    max_withdraw: MaxWithdraw,
) -> Result<(Merged, Settled), StoreError> {
    let StagedFile { version, is_approved, .. } = file;
    let recorded = merged_versions::record(transaction, &[*version]).await?.pop();
    let recorded = recorded.ok_or_else(|| StoreError::Setup("no version was recorded".into()))?;
    let recount = if recorded.has_snapshots {
        let VersionPosition { key, bucket, .. } = version.position;
        let new = if recorded.is_known { Vec::new() } else { vec![recorded.id] };
        counting::recount(transaction, &[key], &[bucket], &new).await?
    } else {
        Recount::default()
    };
    let (id, has_snapshots) = (recorded.id, recorded.has_snapshots);
    let is_approved = *is_approved || recorded.is_approved;
    let mut merged = Merged { mode: Some(version.mode(&recorded)), ..Merged::default() };
    let mut held = Vec::new();
    if recount.counts(id, recorded.counts) {
        merged.superseded = recorded.superseded;
        let movies = write_movies(transaction, file, &mut merged, &mut held).await?;
        merged_versions::write_sets(transaction, vec![(version, recorded, movies)]).await?;
    } else {
        merged.superseded = true;
    }
    let approved = version.ingest_id.filter(|_| is_approved).into_iter().collect();
    let versions = HashSet::from([id]);
    let mut settled =
        counting::settle(transaction, recount, &versions, &approved, max_withdraw).await?;
    merged.withdrawn = settled.total;
    held.extend(&settled.held);
    merged.held = held.len() as i64;
    holds::report(transaction, &held).await?;
    if has_snapshots {
        let VersionPosition { key, bucket, .. } = version.position;
        settled.queued |= queue::retry_blocked(transaction, &[key], &[bucket]).await?;
    }
    Ok((merged, settled))
}

/// Writes the movies of a version that counts. Returns the ids of all its movies.
async fn write_movies(
    transaction: &Transaction<'_>,
    file: &StagedFile<'_>,
    merged: &mut Merged,
    held: &mut Vec<HeldMovie>,
) -> Result<RoaringTreemap, StoreError> {
    let StagedFile { version, previous, staged, .. } = file;
    let mut movies: RoaringTreemap = previous.unchanged_ids().collect();
    merged.unchanged = movies.len().cast_signed();
    if *staged > 0 {
        let mut untouched = remove_outdated(transaction, version.position).await?;
        let (all_held, differing) = holds::remove_staged(transaction, version.ingest_id).await?;
        untouched |= all_held;
        *held = differing;
        merged.updated = update(transaction, version.ingest_id).await?;
        let inserted = insert(transaction, *staged, version.ingest_id).await?;
        merged.restored = restore(transaction).await?;
        merged.inserted = inserted - merged.restored;
        search::add_staged(transaction).await?;
        let current = staged_ids(transaction).await? | untouched;
        merged.unchanged +=
            current.len().cast_signed() - inserted - merged.updated - held.len() as i64;
        movies |= current;
    }
    Ok(movies)
}

/// Returns the ids of the staged movies that the catalogue has or has withdrawn.
async fn staged_ids(transaction: &Transaction<'_>) -> Result<RoaringTreemap, StoreError> {
    // Packed into few values, which is cheaper than rows.
    let ids = "
        /* merge::staged_ids */
        select string_agg(int8send(id), '')
        from (
            select id, row_number() over () / $1 as batch
            from (
                select m.id from staging s join movies m using (identity)
                union all
                select w.id from staging s join withdrawn_movies w using (identity)
            ) known
        ) ids
        group by batch";
    let statement = transaction.prepare_cached(ids).await?;
    let rows = transaction.query_raw(&statement, [PACKED]).await?;
    pin_mut!(rows);
    let mut ids = RoaringTreemap::new();
    while let Some(row) = rows.try_next().await? {
        let (packed, _) = row.get::<_, &[u8]>(0).as_chunks();
        ids.extend(packed.iter().map(|id| u64::from_be_bytes(*id)));
    }
    Ok(ids)
}

/// Removes from the staged rows the movies that a newer version contains. Returns their ids.
async fn remove_outdated(
    transaction: &Transaction<'_>,
    position: &VersionPosition,
) -> Result<RoaringTreemap, StoreError> {
    let mut outdated = RoaringTreemap::new();
    if !movie_sets::is_late(transaction, position).await? {
        return Ok(outdated);
    }
    let known = staged_ids(transaction).await?;
    let visit = |_, movies: RoaringTreemap| outdated |= movies & &known;
    movie_sets::visit_later(transaction, position, &known, visit).await?;
    let remove = "
        /* merge::remove_outdated */
        delete from staging s
        using (
            select identity from movies where id = any($1)
            union all
            select identity from withdrawn_movies where id = any($1)
        ) m
        where m.identity = s.identity";
    let ids: Vec<i64> = outdated.iter().map(u64::cast_signed).collect();
    for ids in ids.chunks(MAX_PARAMETER) {
        execute(transaction, remove, &[&ids]).await?;
    }
    Ok(outdated)
}

/// Updates the movies whose staged content differs. Returns their number.
async fn update(transaction: &Transaction<'_>, ingest_id: Option<i64>) -> Result<i64, StoreError> {
    let update = "
        /* merge::update */
        update movies m
        set cast_lc = s.cast_lc, genres_lc = s.genres_lc, content_hash = s.content_hash,
            doc = s.doc, terms = array_to_tsvector(string_to_array(s.terms, ' ')),
            ingest_id = $1, record = s.record, edited_by = null, changed_at = now()
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
        select not exists (select from movies) and not exists (select from withdrawn_movies)";
    if staged >= FIRST_LOAD && query_one(transaction, is_empty, &[]).await?.get(0) {
        return first_load(transaction, ingest_id).await;
    }
    let insert = "
        /* merge::insert */
        insert into movies (id, identity, title_lc, year, cast_lc, genres_lc, content_hash, doc,
            title_key, terms, ingest_id, record, changed_at)
        overriding system value
        select coalesce(withdrawn, nextval(pg_get_serial_sequence('movies', 'id'))), identity,
            title_lc, year, cast_lc, genres_lc, content_hash, doc, title_key,
            array_to_tsvector(string_to_array(terms, ' ')), $1, record, now()
        from (
            select s.*, (select id from withdrawn_movies w where w.identity = s.identity) as withdrawn
            from staging s
            where not exists (select from movies m where m.identity = s.identity)
            order by record
        ) s";
    Ok(execute(transaction, insert, &[&ingest_id]).await?.cast_signed())
}

/// Forgets the staged movies that were withdrawn before. Returns their number.
async fn restore(transaction: &Transaction<'_>) -> Result<i64, StoreError> {
    let restored = "
        /* merge::restore */
        delete from withdrawn_movies w using staging s where s.identity = w.identity";
    if !withdrawn::exist(transaction).await? {
        return Ok(0);
    }
    Ok(execute(transaction, restored, &[]).await?.cast_signed())
}

/// Inserts the staged movies into the empty catalogue. Returns their number.
async fn first_load(
    transaction: &Transaction<'_>,
    ingest_id: Option<i64>,
) -> Result<i64, StoreError> {
    let drop = "
        /* merge::first_load */
        select drop_indexes('movies')";
    let insert = "
        /* merge::first_load */
        insert into movies (identity, title_lc, year, cast_lc, genres_lc, content_hash, doc,
            title_key, terms, ingest_id, record, changed_at)
        select identity, title_lc, year, cast_lc, genres_lc, content_hash, doc, title_key,
            array_to_tsvector(string_to_array(terms, ' ')), $1, record, now()
        from staging";
    let create = "
        /* merge::first_load */
        select create_indexes('movies')";
    execute(transaction, drop, &[]).await?;
    let inserted = execute(transaction, insert, &[&ingest_id]).await?;
    execute(transaction, create, &[]).await?;
    Ok(inserted.cast_signed())
}

/// Increments the catalogue's revision, if anything `changed`, and tells all processes when the transaction
/// commits. Returns the new revision.
pub(super) async fn increment_revision(
    transaction: &Transaction<'_>,
    changed: bool,
) -> Result<Option<Revision>, StoreError> {
    if !changed {
        return Ok(None);
    }
    let increment = "
        /* merge::increment_revision */
        with changed as (
            update catalogue
            set revision = revision + 1, tag = hashtextextended(gen_random_uuid()::text, 0)
            returning revision, tag
        )
        select revision, tag, pg_notify($1, revision || ' ' || tag) from changed";
    let row = query_one(transaction, increment, &[&REVISION]).await?;
    Ok(Some(Revision::new(&row)))
}
