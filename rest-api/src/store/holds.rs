//! Holds: movies that files do not change.
//!
//! What files say meanwhile counts nevertheless, as if there were no hold. So a movie that is released becomes what it
//! would be without it (docs/adr/0015-edits-and-holds.md).

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use roaring::RoaringTreemap;
use schemars::JsonSchema;
use serde::Serialize;
use tokio_postgres::types::ToSql;

use super::{
    Store, StoreError, VersionPosition, edits, merge, movie_sets, queue,
    sql::{execute, query_one, query_opt},
    withdrawn::{self, Cause, Reason},
};

/// How many held movies an ingest lists.
const MAX_LISTED: i64 = 1000;

/// A held movie that a file would have changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldMovie {
    /// The ingest of the file.
    pub(super) ingest_id: Option<i64>,
    /// The index of its record; none if the file does not name the movie any more.
    pub(super) record: Option<i64>,
    pub(super) id: i64,
}

/// Whether a movie is held, and what that has changed.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct HoldState {
    /// The number of the movie.
    pub id: i64,
    /// Whether it is held.
    pub held: bool,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_at: Option<DateTime<Utc>>,
    /// By whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_by: Option<String>,
    /// The version that the movie would have followed meanwhile. Its file is read again, if that changes the movie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newer: Option<NewerVersion>,
}

/// A version of an object that is newer than a hold.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct NewerVersion {
    /// Its ingest, as `GET /ingests/{id}` has it.
    pub ingest: Option<i64>,
    /// The bucket of the object.
    pub bucket: String,
    /// The key of the object.
    pub key: String,
    /// The version of the object, in a bucket that keeps versions.
    pub version_id: Option<String>,
    /// When it was written.
    pub ordered_at: DateTime<Utc>,
}

impl Store {
    /// Holds a movie: files do not change it, nor bring it back if it is withdrawn. Returns the hold; none if no movie
    /// ever had this id. A movie that is held already stays so.
    ///
    /// # Errors
    /// If the database is unavailable, or merges take too long. Nothing is changed then.
    pub async fn hold_movie(&self, id: i64, by: &str) -> Result<Option<HoldState>, StoreError> {
        let mut connection = self.writer().await?;
        let transaction = connection.transaction().await?;
        merge::lock_for_request(&transaction).await?;
        let changed = hold(&transaction, id, by).await?;
        let revision = merge::increment_revision(&transaction, changed).await?;
        let state = read(&transaction, id).await?;
        transaction.commit().await?;
        self.learn_own(revision);
        Ok(state)
    }

    /// Releases a movie. It becomes what it would be without the hold: at once, or when the file has been read again
    /// that it follows. Returns its state; none if no movie ever had this id.
    ///
    /// # Errors
    /// If the database is unavailable, or merges take too long. Nothing is changed then.
    pub async fn release_movie(&self, id: i64, by: &str) -> Result<Option<HoldState>, StoreError> {
        let release = "
            /* holds::release_movie */
            delete from holds where movie_id = $1 returning held_at, contradicted";
        let exists = "
            /* holds::release_movie */
            select exists (select from movies where id = $1)
                or exists (select from withdrawn_movies where id = $1)";
        let mut connection = self.writer().await?;
        let transaction = connection.transaction().await?;
        merge::lock_for_request(&transaction).await?;
        let mut state = HoldState { id, held: false, held_at: None, held_by: None, newer: None };
        let Some(hold) = query_opt(&transaction, release, &[&id]).await? else {
            let exists = query_one(&transaction, exists, &[&id]).await?.get(0);
            return Ok(Some(state).filter(|_| exists));
        };
        let mut queued = false;
        if hold.get("contradicted") {
            (state.newer, queued) = follow(&transaction, id, by, hold.get("held_at")).await?;
        }
        let revision = merge::increment_revision(&transaction, true).await?;
        transaction.commit().await?;
        self.learn_own(revision);
        if queued {
            self.hints().announce_queued();
        }
        Ok(Some(state))
    }
}

/// Makes a movie what versions and edits say. Returns the version that it follows, if that is newer than `held_at`, and
/// whether its object was queued to be read again.
async fn follow(
    transaction: &Transaction<'_>,
    id: i64,
    by: &str,
    held_at: DateTime<Utc>,
) -> Result<(Option<NewerVersion>, bool), StoreError> {
    let version = "
        /* holds::follow */
        select ingest_id, bucket, key, version_id, ordered_at from merged_versions where id = $1";
    let ids = RoaringTreemap::from([id.cast_unsigned()]);
    let newest = movie_sets::newest_of_each(transaction, &ids).await?;
    let Some(newest) = newest.into_values().next() else {
        let cause = Cause { reason: Reason::Released, ingest_id: None, by: Some(by) };
        withdrawn::withdraw(transaction, &ids, cause).await?;
        return Ok((None, false));
    };
    let Some(version_row) = newest.id else {
        edits::restore(transaction, &ids).await?;
        return Ok((None, false));
    };
    queue::read_again(transaction, &[version_row]).await?;
    let row = query_one(transaction, version, &[&version_row]).await?;
    let newer = NewerVersion {
        ingest: row.get("ingest_id"),
        bucket: row.get("bucket"),
        key: row.get("key"),
        version_id: row.get("version_id"),
        ordered_at: row.get("ordered_at"),
    };
    let is_newer = newest.position > VersionPosition::of_edit(held_at);
    Ok((Some(newer).filter(|_| is_newer), true))
}

/// Holds a movie. Returns whether it was not held before. The caller holds the merge lock.
pub(super) async fn hold(
    transaction: &Transaction<'_>,
    id: i64,
    by: &str,
) -> Result<bool, StoreError> {
    let hold = "
        /* holds::hold */
        insert into holds (movie_id, identity, held_at, held_by)
        select id, identity, clock_timestamp(), $2
        from (
            select id, identity from movies where id = $1
            union all
            select id, identity from withdrawn_movies where id = $1
        ) movie
        on conflict (movie_id) do nothing";
    Ok(execute(transaction, hold, &[&id, &by]).await? == 1)
}

/// Returns the hold of a movie; none if no movie ever had this id.
async fn read(transaction: &Transaction<'_>, id: i64) -> Result<Option<HoldState>, StoreError> {
    let read = "
        /* holds::read */
        select held_at, held_by from holds where movie_id = $1";
    let state = query_opt(transaction, read, &[&id]).await?;
    Ok(state.map(|row| HoldState {
        id,
        held: true,
        held_at: row.get("held_at"),
        held_by: row.get("held_by"),
        newer: None,
    }))
}

/// Whether any movie is held.
pub(super) async fn exist(transaction: &Transaction<'_>) -> Result<bool, StoreError> {
    let exist = "
        /* holds::exist */
        select exists (select from holds)";
    Ok(query_one(transaction, exist, &[]).await?.get(0))
}

/// Returns which of these movies are held, after it was noted that these might be others without their holds.
pub(super) async fn contradict(
    transaction: &Transaction<'_>,
    ids: &RoaringTreemap,
) -> Result<RoaringTreemap, StoreError> {
    let contradict = "
        /* holds::contradict */
        update holds set contradicted = true where movie_id = any($1) returning movie_id";
    if ids.is_empty() || !exist(transaction).await? {
        return Ok(RoaringTreemap::new());
    }
    let ids: Vec<i64> = ids.iter().map(u64::cast_signed).collect();
    let statement = transaction.prepare_cached(contradict).await?;
    let rows = transaction.query(&statement, &[&ids]).await?;
    Ok(rows.iter().map(|row| row.get::<_, i64>(0).cast_unsigned()).collect())
}

/// Notes that these movies might be others without their holds, and lists them in the ingests of the files.
pub(super) async fn report(
    transaction: &Transaction<'_>,
    held: &[HeldMovie],
) -> Result<(), StoreError> {
    let report = "
        /* holds::report */
        with held as materialized (
            select held.*, coalesce(m.doc, w.doc)::json as doc,
                row_number() over (partition by held.ingest_id order by held.record, held.id) as nth
            from unnest($1::bigint[], $2::bigint[], $3::bigint[]) as held (ingest_id, record, id)
            left join movies m on m.id = held.id
            left join withdrawn_movies w on w.id = held.id
        ),
        contradicted as (
            update holds set contradicted = true where movie_id = any($3)
        ),
        listed as (
            select ingest_id, json_agg(json_strip_nulls(json_build_object('id', id, 'record', record,
                'title', doc -> 'title', 'year', doc -> 'year', 'href', doc -> 'href')) order by nth) as movies
            from held
            where nth <= $4
            group by ingest_id
        )
        update ingests i
        set held_movies = listed.movies
        from listed
        where i.id = listed.ingest_id and i.ended_as is null";
    if held.is_empty() {
        return Ok(());
    }
    let ingests: Vec<_> = held.iter().map(|movie| movie.ingest_id).collect();
    let records: Vec<_> = held.iter().map(|movie| movie.record).collect();
    let ids: Vec<i64> = held.iter().map(|movie| movie.id).collect();
    let params: [&(dyn ToSql + Sync); 4] = [&ingests, &records, &ids, &MAX_LISTED];
    execute(transaction, report, &params).await?;
    Ok(())
}

/// Removes the held movies from the staged rows. Returns the ids of all of them, and those whose content differs.
pub(super) async fn remove_staged(
    transaction: &Transaction<'_>,
    ingest_id: Option<i64>,
) -> Result<(RoaringTreemap, Vec<HeldMovie>), StoreError> {
    let remove = "
        /* holds::remove_staged */
        with removed as (
            delete from staging s
            using holds h
            where h.identity = s.identity
            returning h.movie_id, s.record, s.content_hash
        )
        select r.movie_id, r.record, m.content_hash is distinct from r.content_hash as differs
        from removed r left join movies m on m.id = r.movie_id";
    if !exist(transaction).await? {
        return Ok((RoaringTreemap::new(), Vec::new()));
    }
    let statement = transaction.prepare_cached(remove).await?;
    let rows = transaction.query(&statement, &[]).await?;
    let all = rows.iter().map(|row| row.get::<_, i64>("movie_id").cast_unsigned()).collect();
    let differing = rows.iter().filter(|row| row.get("differs")).map(|row| HeldMovie {
        ingest_id,
        record: row.get("record"),
        id: row.get("movie_id"),
    });
    Ok((all, differing.collect()))
}

/// Gives the holds of movies to others: `replaced` has the new id of each. A movie that is held already stays so.
pub(super) async fn replace(
    transaction: &Transaction<'_>,
    replaced: &HashMap<u64, u64>,
) -> Result<(), StoreError> {
    let replace = "
        /* holds::replace */
        with moved as (
            delete from holds h
            using unnest($1::bigint[], $2::bigint[]) as replaced (old, new)
            where h.movie_id = replaced.old
            returning replaced.new, h.*
        )
        insert into holds (movie_id, identity, held_at, held_by, contradicted)
        select distinct on (new) new, identity, held_at, held_by, true
        from moved
        order by new, held_at
        on conflict (movie_id) do update set contradicted = true";
    let (old, new): (Vec<i64>, Vec<i64>) =
        replaced.iter().map(|(old, new)| (old.cast_signed(), new.cast_signed())).unzip();
    execute(transaction, replace, &[&old, &new]).await?;
    Ok(())
}

/// Takes over the identities of the held movies, which have been computed anew.
pub(super) async fn refold(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    let refold = "
        /* holds::refold */
        update holds h
        set identity = movie.identity
        from (
            select id, identity from movies union all select id, identity from withdrawn_movies
        ) movie
        where movie.id = h.movie_id and h.identity <> movie.identity";
    execute(transaction, refold, &[]).await?;
    Ok(())
}
