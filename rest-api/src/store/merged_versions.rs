//! What each merged version of an object contains: a set of movie ids.
//!
//! A merge leaves a row of `movies` untouched if a newer version has the same content again. So the
//! row cannot tell that an older version, which arrives late, must not change it. The sets can
//! (docs/adr/0001-order-by-assertions.md, docs/adr/0007-movie-sets.md).
//!
//! The place of a version in the order and its set are separate rows: a file that comes again with the
//! same movies moves its old set to its new place. A set that the next version of the same object
//! contains is removed.

use std::collections::{BTreeSet, HashMap};

use deadpool_postgres::Transaction;
use futures_util::{TryStreamExt, pin_mut};
use roaring::RoaringTreemap;
use tokio_postgres::{Row, types::ToSql};

use super::{
    StoreError, VersionPosition,
    sql::{execute, query_one},
};

/// The largest number of ids that are stored as an array, which has an index. More are a bitmap.
const MAX_ARRAY: u64 = 1000;

/// Up to so many later versions are read one by one, or so many for each movie. Beyond that, those that
/// contain the movies are looked up.
const MAX_READ: u64 = 200;
const MAX_READ_PER_MOVIE: u64 = 5;

/// In how many sets movies are replaced at once. A large set takes up to 2 MB.
const REPLACED_SMALL: usize = 1000;
const REPLACED_LARGE: usize = 8;

/// A merged version that is to be recorded.
#[derive(Debug)]
pub(super) struct MergedVersion<'a> {
    pub(super) position: &'a VersionPosition,
    pub(super) movies: RoaringTreemap,
}

/// What the merged versions of an object say about a version that is to be merged.
#[derive(Debug, Default)]
pub(super) struct Neighbors {
    /// Whether a newer version of the object has been merged.
    pub(super) superseded: bool,
    /// The id of the version before it, and its movies.
    before: Option<(i64, RoaringTreemap)>,
}

/// Returns what the merged versions of the same object say about each of these positions.
pub(super) async fn neighbors(
    transaction: &Transaction<'_>,
    positions: &[&VersionPosition],
) -> Result<Vec<Neighbors>, StoreError> {
    let neighbors = "
        /* merged_versions::neighbors */
        select
            exists (
                select
                from merged_versions newer
                where newer.key = v.key and newer.bucket = v.bucket
                    and (newer.ordered_at, newer.sequencer) > (v.ordered_at, v.sequencer)
            ) as superseded,
            before.id, contents.movie_ids, contents.bitmap
        from unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[])
            with ordinality as v (ordered_at, key, bucket, sequencer, nth)
        left join lateral (
            select m.id
            from merged_versions m
            where m.key = v.key and m.bucket = v.bucket
                and (m.ordered_at, m.sequencer) <= (v.ordered_at, v.sequencer)
            order by m.ordered_at desc, m.sequencer desc
            limit 1
        ) before on true
        left join version_movies contents on contents.version_id = before.id
        order by nth";
    let columns = Columns::new(positions.iter().copied());
    let statement = transaction.prepare_cached(neighbors).await?;
    let rows = transaction.query(&statement, &columns.params()).await?;
    let neighbors = rows.iter().map(|row| {
        let id: Option<i64> = row.get("id");
        let before = id.map(|id| movies(row).map(|movies| (id, movies))).transpose()?;
        Ok(Neighbors { superseded: row.get("superseded"), before })
    });
    neighbors.collect()
}

/// Returns whether a version after `position` has been merged, of any object.
pub(super) async fn is_late(
    transaction: &Transaction<'_>,
    position: &VersionPosition,
) -> Result<bool, StoreError> {
    let is_late = "
        /* merged_versions::is_late */
        select exists (
            select
            from merged_versions
            where (ordered_at, key, bucket, sequencer) > ($1, $2, $3, $4)
        )";
    Ok(query_one(transaction, is_late, &position.params()).await?.get(0))
}

/// Calls `visit` with each version after `position` that may contain one of the movies `ids`, and with
/// its movies.
pub(super) async fn visit_later(
    transaction: &Transaction<'_>,
    position: &VersionPosition,
    ids: &RoaringTreemap,
    mut visit: impl FnMut(VersionPosition, RoaringTreemap),
) -> Result<(), StoreError> {
    let count = "
        /* merged_versions::visit_later */
        select count(*)
        from (
            select
            from merged_versions
            where (ordered_at, key, bucket, sequencer) > ($1, $2, $3, $4)
            order by ordered_at, key, bucket, sequencer
            limit $5
        ) later";
    // The order keeps the planner on the index, also if its statistics do not know the newest rows.
    let all = "
        /* merged_versions::visit_later */
        with later as materialized (
            select id, ordered_at, key, bucket, sequencer
            from merged_versions
            where (ordered_at, key, bucket, sequencer) > ($1, $2, $3, $4)
            order by ordered_at, key, bucket, sequencer
        )
        select ordered_at, key, bucket, sequencer, movie_ids, bitmap
        from later join version_movies on version_id = later.id";
    let large = "
        /* merged_versions::visit_later */
        select v.ordered_at, v.key, v.bucket, v.sequencer, m.movie_ids, m.bitmap
        from version_movies m join merged_versions v on v.id = m.version_id
        where m.bitmap is not null
            and (v.ordered_at, v.key, v.bucket, v.sequencer) > ($1, $2, $3, $4)";
    let small = "
        /* merged_versions::visit_later */
        with containing as materialized (
            select version_id, movie_ids from version_movies where movie_ids && $5
        )
        select v.ordered_at, v.key, v.bucket, v.sequencer, c.movie_ids, null::bytea as bitmap
        from containing c join merged_versions v on v.id = c.version_id
        where (v.ordered_at, v.key, v.bucket, v.sequencer) > ($1, $2, $3, $4)";
    let [ordered_at, key, bucket, sequencer] = position.params();
    let max_read = (ids.len() * MAX_READ_PER_MOVIE).max(MAX_READ).cast_signed();
    let limit = max_read + 1;
    let params: [&(dyn ToSql + Sync); 5] = [ordered_at, key, bucket, sequencer, &limit];
    let later: i64 = query_one(transaction, count, &params).await?.get(0);
    if later == 0 || ids.is_empty() {
        return Ok(());
    }
    let mut visit_rows = async |statement: &str, params: &[&(dyn ToSql + Sync)]| {
        let statement = transaction.prepare_cached(statement).await?;
        let rows = transaction.query_raw(&statement, params.iter().copied()).await?;
        pin_mut!(rows);
        while let Some(row) = rows.try_next().await? {
            let [key, bucket, sequencer] = [1, 2, 3].map(|column| row.get(column));
            let position = VersionPosition { ordered_at: row.get(0), key, bucket, sequencer };
            visit(position, movies(&row)?);
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

/// Records merged versions. Each comes with what [`neighbors`] said about it, and the versions of one
/// object are in their order.
pub(super) async fn insert(
    transaction: &Transaction<'_>,
    versions: Vec<(MergedVersion<'_>, Neighbors)>,
) -> Result<(), StoreError> {
    let mut changes = Changes::default();
    let mut last: HashMap<(&str, &str), Last> = HashMap::new();
    for (version, neighbors) in versions {
        let object = (&*version.position.bucket, &*version.position.key);
        let before =
            neighbors.before.map(|(id, movies)| Last { id: Some(id), position: None, movies });
        let before = last.remove(&object).or(before);
        last.insert(object, changes.follow(before, version));
    }
    last.into_values().for_each(|last| changes.keep(last));
    changes.write(transaction).await
}

/// The last version of an object so far.
struct Last<'a> {
    /// The id of its set, if the database has it.
    id: Option<i64>,
    /// Its new place; none if it stays where it is.
    position: Option<&'a VersionPosition>,
    movies: RoaringTreemap,
}

/// What recording merged versions changes.
#[derive(Debug, Default)]
struct Changes<'a> {
    /// Versions whose sets move to a newer place: ids and places.
    moved: Vec<(i64, &'a VersionPosition)>,
    /// Versions whose movies a newer one contains.
    covered: Vec<i64>,
    inserted: Vec<MergedVersion<'a>>,
}

impl<'a> Changes<'a> {
    /// Returns the last version of an object after `version`, which comes after `before`.
    fn follow(&mut self, before: Option<Last<'a>>, version: MergedVersion<'a>) -> Last<'a> {
        let MergedVersion { position, movies } = version;
        let position = Some(position);
        match before {
            Some(before) if before.movies == movies => Last { position, ..before },
            Some(before) if before.movies.is_subset(&movies) => {
                self.covered.extend(before.id);
                Last { id: None, position, movies }
            }
            before => {
                before.into_iter().for_each(|before| self.keep(before));
                Last { id: None, position, movies }
            }
        }
    }

    fn keep(&mut self, Last { id, position, movies }: Last<'a>) {
        match (id, position) {
            (Some(id), Some(position)) => self.moved.push((id, position)),
            (None, Some(position)) => self.inserted.push(MergedVersion { position, movies }),
            (_, None) => {}
        }
    }

    async fn write(self, transaction: &Transaction<'_>) -> Result<(), StoreError> {
        let move_to = "
            /* merged_versions::write */
            update merged_versions m
            set ordered_at = v.ordered_at, sequencer = v.sequencer
            from unnest($1::bigint[], $2::timestamptz[], $3::text[])
                as v (id, ordered_at, sequencer)
            where m.id = v.id";
        let remove = "
            /* merged_versions::write */
            with removed as (delete from merged_versions where id = any($1))
            delete from version_movies where version_id = any($1)";
        let insert = "
            /* merged_versions::write */
            with numbered as materialized (
                select nextval(pg_get_serial_sequence('merged_versions', 'id')) as id, v.*
                from unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[],
                    $6::bytea[]) as v (ordered_at, key, bucket, sequencer, movie_ids, bitmap)
            ),
            inserted as (
                insert into merged_versions (id, ordered_at, key, bucket, sequencer)
                overriding system value
                select id, ordered_at, key, bucket, sequencer from numbered
            )
            insert into version_movies (version_id, movie_ids, bitmap)
            select id, movie_ids::bigint[], bitmap
            from numbered
            where num_nonnulls(movie_ids, bitmap) = 1";
        if !self.moved.is_empty() {
            let ids: Vec<i64> = self.moved.iter().map(|(id, _)| *id).collect();
            let columns = Columns::new(self.moved.iter().map(|(_, position)| *position));
            let params: [&(dyn ToSql + Sync); 3] = [&ids, &columns.ordered_at, &columns.sequencer];
            execute(transaction, move_to, &params).await?;
        }
        if !self.covered.is_empty() {
            execute(transaction, remove, &[&self.covered]).await?;
        }
        if !self.inserted.is_empty() {
            let columns = Columns::new(self.inserted.iter().map(|version| version.position));
            let sets: Vec<_> =
                self.inserted.iter().map(|version| stored(&version.movies)).collect();
            let (arrays, bitmaps): (Vec<_>, Vec<_>) = sets.into_iter().unzip();
            let [ordered_at, key, bucket, sequencer] = columns.params();
            let params = [ordered_at, key, bucket, sequencer, &arrays, &bitmaps];
            execute(transaction, insert, &params).await?;
        }
        Ok(())
    }
}

/// Replaces movies in all sets by others: `replaced` has the new id of each.
pub(super) async fn replace(
    transaction: &Transaction<'_>,
    replaced: &HashMap<u64, u64>,
) -> Result<(), StoreError> {
    let small = "
        /* merged_versions::replace */
        select version_id from version_movies where movie_ids && $1";
    let large = "
        /* merged_versions::replace */
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
        /* merged_versions::replace_in */
        select version_id, movie_ids, bitmap from version_movies where version_id = any($1)";
    let write = "
        /* merged_versions::replace_in */
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

/// Positions as arrays, one for each column.
struct Columns<'a> {
    ordered_at: Vec<chrono::DateTime<chrono::Utc>>,
    key: Vec<&'a str>,
    bucket: Vec<&'a str>,
    sequencer: Vec<&'a str>,
}

impl<'a> Columns<'a> {
    fn new(positions: impl Iterator<Item = &'a VersionPosition> + Clone) -> Self {
        Self {
            ordered_at: positions.clone().map(|position| position.ordered_at).collect(),
            key: positions.clone().map(|position| &*position.key).collect(),
            bucket: positions.clone().map(|position| &*position.bucket).collect(),
            sequencer: positions.map(|position| &*position.sequencer).collect(),
        }
    }

    fn params(&self) -> [&(dyn ToSql + Sync); 4] {
        [&self.ordered_at, &self.key, &self.bucket, &self.sequencer]
    }
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
