//! The movies that each merged version of an object contains, as sets of ids.
//!
//! A merge leaves a row of `movies` untouched if a newer version has the same content again. So the
//! row cannot tell that an older version, which arrives late, must not change it. The sets can
//! (docs/adr/0001-order-by-assertions.md, docs/adr/0007-movie-sets.md). They also tell which movies no version
//! contains any more.

use std::collections::{BTreeSet, HashMap};

use deadpool_postgres::Transaction;
use futures_util::{TryStreamExt, pin_mut};
use roaring::RoaringTreemap;
use tokio_postgres::{Row, types::ToSql};

use super::{
    StoreError, VersionPosition, edits,
    sql::{execute, query_one},
};

/// The largest number of ids that are stored as an array, which has an index. More are a bitmap.
pub(super) const MAX_ARRAY: u64 = 1000;

/// Up to so many later versions are read one by one, or so many for each movie. Beyond that, those that
/// contain the movies are looked up.
const MAX_READ: u64 = 200;
const MAX_READ_PER_MOVIE: u64 = 5;

/// In how many sets movies are replaced at once. A large set takes up to 2 MB.
const REPLACED_SMALL: usize = 1000;
const REPLACED_LARGE: usize = 8;

/// A version that counts.
#[derive(Clone, Debug)]
pub(super) struct CountingVersion {
    /// The number of its row. None: it is the edit of one movie.
    pub(super) id: Option<i64>,
    pub(super) position: VersionPosition,
}

/// Returns whether a version after `position` counts, of any object, or an edit.
pub(super) async fn is_late(
    transaction: &Transaction<'_>,
    position: &VersionPosition,
) -> Result<bool, StoreError> {
    let is_late = "
        /* movie_sets::is_late */
        select exists (
            select
            from merged_versions
            where counts and (ordered_at, key, bucket, sequencer) > ($1, $2, $3, $4)
        ) or exists (select from edits where ordered_at > $1)";
    Ok(query_one(transaction, is_late, &position.params()).await?.get(0))
}

/// Calls `visit` with each counting version after `position` that may contain one of the movies `ids`, and
/// with its movies. The newest edit of a movie is such a version of this movie alone.
pub(super) async fn visit_later(
    transaction: &Transaction<'_>,
    position: &VersionPosition,
    ids: &RoaringTreemap,
    mut visit: impl FnMut(CountingVersion, RoaringTreemap),
) -> Result<(), StoreError> {
    let count = "
        /* movie_sets::visit_later */
        select count(*)
        from (
            select
            from merged_versions
            where counts and (ordered_at, key, bucket, sequencer) > ($1, $2, $3, $4)
            order by ordered_at, key, bucket, sequencer
            limit $5
        ) later";
    // The order keeps the planner on the index, also if its statistics do not know the newest rows.
    let all = "
        /* movie_sets::visit_later */
        with later as materialized (
            select id, ordered_at, key, bucket, sequencer, coalesce(set_id, id) as set_id
            from merged_versions
            where counts and (ordered_at, key, bucket, sequencer) > ($1, $2, $3, $4)
            order by ordered_at, key, bucket, sequencer
        )
        select later.id, ordered_at, key, bucket, sequencer, movie_ids, bitmap
        from later join version_movies on version_id = later.set_id";
    let large = "
        /* movie_sets::visit_later */
        select v.id, v.ordered_at, v.key, v.bucket, v.sequencer, m.movie_ids, m.bitmap
        from version_movies m
        join merged_versions v on coalesce(v.set_id, v.id) = m.version_id and v.counts
        where m.bitmap is not null
            and (v.ordered_at, v.key, v.bucket, v.sequencer) > ($1, $2, $3, $4)";
    let small = "
        /* movie_sets::visit_later */
        with containing as materialized (
            select version_id, movie_ids from version_movies where movie_ids && $5
        )
        select v.id, v.ordered_at, v.key, v.bucket, v.sequencer, c.movie_ids, null::bytea as bitmap
        from containing c
        join merged_versions v on coalesce(v.set_id, v.id) = c.version_id and v.counts
        where (v.ordered_at, v.key, v.bucket, v.sequencer) > ($1, $2, $3, $4)";
    let [ordered_at, key, bucket, sequencer] = position.params();
    let max_read = (ids.len() * MAX_READ_PER_MOVIE).max(MAX_READ).cast_signed();
    let limit = max_read + 1;
    let params: [&(dyn ToSql + Sync); 5] = [ordered_at, key, bucket, sequencer, &limit];
    if ids.is_empty() {
        return Ok(());
    }
    for (id, position) in edits::after(transaction, position, ids).await? {
        visit(CountingVersion { id: None, position }, RoaringTreemap::from([id]));
    }
    let later: i64 = query_one(transaction, count, &params).await?.get(0);
    if later == 0 {
        return Ok(());
    }
    let mut visit_rows = async |statement: &str, params: &[&(dyn ToSql + Sync)]| {
        let statement = transaction.prepare_cached(statement).await?;
        let rows = transaction.query_raw(&statement, params.iter().copied()).await?;
        pin_mut!(rows);
        while let Some(row) = rows.try_next().await? {
            let [key, bucket, sequencer] = [2, 3, 4].map(|column| row.get(column));
            let position = VersionPosition { ordered_at: row.get(1), key, bucket, sequencer };
            visit(CountingVersion { id: Some(row.get(0)), position }, movies(&row)?);
        }
        Ok::<(), StoreError>(())
    };
    if later <= max_read {
        return visit_rows(all, &position.params()).await;
    }
    let ids: Vec<i64> = ids.iter().map(u64::cast_signed).collect();
    visit_rows(large, &position.params()).await?;
    for ids in ids.chunks(MAX_ARRAY as usize) {
        visit_rows(small, &[ordered_at, key, bucket, sequencer, &ids]).await?;
    }
    Ok(())
}

/// Returns the newest counting version that contains each of the movies `ids`.
pub(super) async fn newest_of_each(
    transaction: &Transaction<'_>,
    ids: &RoaringTreemap,
) -> Result<HashMap<u64, CountingVersion>, StoreError> {
    let mut newest: HashMap<u64, CountingVersion> = HashMap::new();
    if ids.is_empty() {
        return Ok(newest);
    }
    let visit = |version: CountingVersion, movies: RoaringTreemap| {
        for id in movies & ids {
            let newest = newest.entry(id).or_insert_with(|| version.clone());
            if newest.position < version.position {
                newest.clone_from(&version);
            }
        }
    };
    visit_later(transaction, &VersionPosition::first(), ids, visit).await?;
    Ok(newest)
}

/// Replaces movies in all sets by others: `replaced` has the new id of each.
pub(super) async fn replace(
    transaction: &Transaction<'_>,
    replaced: &HashMap<u64, u64>,
) -> Result<(), StoreError> {
    let small = "
        /* movie_sets::replace */
        select version_id from version_movies where movie_ids && $1";
    let large = "
        /* movie_sets::replace */
        select version_id from version_movies where bitmap is not null";
    let ids: Vec<i64> = replaced.keys().copied().map(u64::cast_signed).collect();
    let mut versions = BTreeSet::new();
    for ids in ids.chunks(MAX_ARRAY as usize) {
        let rows = transaction.query(small, &[&ids]).await?;
        versions.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
    }
    let small: Vec<i64> = versions.into_iter().collect();
    let large: Vec<i64> =
        transaction.query(large, &[]).await?.iter().map(|row| row.get(0)).collect();
    for versions in small.chunks(REPLACED_SMALL).chain(large.chunks(REPLACED_LARGE)) {
        replace_in(transaction, versions, replaced).await?;
    }
    Ok(())
}

/// Replaces movies in the sets of these versions.
async fn replace_in(
    transaction: &Transaction<'_>,
    versions: &[i64],
    replaced: &HashMap<u64, u64>,
) -> Result<(), StoreError> {
    let read = "
        /* movie_sets::replace_in */
        select version_id, movie_ids, bitmap from version_movies where version_id = any($1)";
    let write = "
        /* movie_sets::replace_in */
        update version_movies m
        set movie_ids = v.movie_ids::bigint[], bitmap = v.bitmap
        from unnest($1::bigint[], $2::text[], $3::bytea[]) as v (version_id, movie_ids, bitmap)
        where m.version_id = v.version_id";
    let old: RoaringTreemap = replaced.keys().copied().collect();
    let (mut ids, mut arrays, mut bitmaps) = (Vec::new(), Vec::new(), Vec::new());
    for row in transaction.query(read, &[&versions]).await? {
        let mut movies = movies(&row)?;
        let found = &movies & &old;
        if !found.is_empty() {
            movies -= &found;
            movies.extend(found.iter().filter_map(|id| replaced.get(&id)));
            let (array, bitmap) = stored(&movies);
            ids.push(row.get::<_, i64>("version_id"));
            arrays.push(array);
            bitmaps.push(bitmap);
        }
    }
    if !ids.is_empty() {
        execute(transaction, write, &[&ids, &arrays, &bitmaps]).await?;
    }
    Ok(())
}

/// Returns the set of the columns `movie_ids` and `bitmap`.
///
/// # Errors
/// If the bitmap is malformed.
pub(super) fn movies(row: &Row) -> Result<RoaringTreemap, StoreError> {
    if let Some(bitmap) = row.get::<_, Option<&[u8]>>("bitmap") {
        let malformed = |error| StoreError::Setup(format!("a set of movies is malformed: {error}"));
        return RoaringTreemap::deserialize_from(bitmap).map_err(malformed);
    }
    let ids: Option<Vec<i64>> = row.get("movie_ids");
    Ok(ids.unwrap_or_default().into_iter().map(i64::cast_unsigned).collect())
}

/// Returns a set as it is stored: the text of an array, or a bitmap; neither if it is empty.
pub(super) fn stored(movies: &RoaringTreemap) -> (Option<String>, Option<Vec<u8>>) {
    match movies.len() {
        0 => (None, None),
        1..=MAX_ARRAY => {
            let ids: Vec<String> = movies.iter().map(|id| id.to_string()).collect();
            (Some(format!("{{{}}}", ids.join(","))), None)
        }
        _ => {
            let mut bitmap = Vec::with_capacity(movies.serialized_size());
            // Writing to memory does not fail.
            let _ = movies.serialize_into(&mut bitmap);
            (None, Some(bitmap))
        }
    }
}
