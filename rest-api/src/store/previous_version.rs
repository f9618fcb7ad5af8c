//! What the catalogue already has of the previous version of an object.
//!
//! Producers put the same file again and again with few changes. Reading 32 bytes for each of its
//! movies, and staging only what differs, costs a small part of staging everything.

use std::array;

use deadpool_postgres::Transaction;
use uuid::Uuid;

use super::{CatalogueRow, StoreError, movie_sets, sql::query_one};

/// The largest number of movies that are compared, which takes 70 MB. Of a larger file everything is
/// staged.
const MAX_MOVIES: u64 = 1 << 20;

/// How many movies one statement reads.
const BATCH: usize = 1 << 15;

/// The movies of the newest merged version of an object, as the catalogue has them.
#[derive(Debug, Default)]
pub(super) struct PreviousVersion {
    /// The catalogue's revision when they were read.
    revision: i64,
    /// Ordered by id, as a rule.
    movies: Vec<PreviousMovie>,
    /// The index of the movie that is expected next.
    next: usize,
    /// The indexes of all movies, ordered by identity; empty until they are needed.
    by_identity: Vec<u32>,
}

#[derive(Debug)]
struct PreviousMovie {
    identity: Uuid,
    id: i64,
    content_hash: i64,
    comparison: Comparison,
}

impl PreviousMovie {
    /// Unpacks identity, id and content hash, as Postgres sends them.
    fn unpack(packed: &[u8; 32]) -> Self {
        let number = |from: usize| i64::from_be_bytes(array::from_fn(|byte| packed[from + byte]));
        Self {
            identity: Uuid::from_bytes(array::from_fn(|byte| packed[byte])),
            id: number(16),
            content_hash: number(24),
            comparison: Comparison::NotInFile,
        }
    }
}

/// How the new version compares with the catalogue, for one movie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Comparison {
    /// No record of the file names the movie so far.
    NotInFile,
    /// All records so far have the content of the catalogue.
    Unchanged,
    /// A record had other content. So later records of the movie count, too.
    Changed,
}

impl PreviousVersion {
    /// Reads what the catalogue has of the newest merged version of the object.
    pub(super) async fn read(
        transaction: &Transaction<'_>,
        bucket: &str,
        key: &str,
    ) -> Result<Self, StoreError> {
        let snapshot = "
            /* previous_version::read */
            set transaction isolation level repeatable read";
        transaction.batch_execute(snapshot).await?;
        let newest = "
            /* previous_version::read */
            select contents.movie_ids, contents.bitmap, (select revision from catalogue)
            from (select) one
            left join lateral (
                select coalesce(set_id, id) as set_id
                from merged_versions
                where key = $1 and bucket = $2 and set_known
                order by ordered_at desc, sequencer desc
                limit 1
            ) newest on true
            left join version_movies contents on contents.version_id = newest.set_id";
        let newest = query_one(transaction, newest, &[&key, &bucket]).await?;
        let mut previous = Self { revision: newest.get(2), ..Self::default() };
        let ids = movie_sets::movies(&newest)?;
        if ids.len() > MAX_MOVIES {
            return Ok(previous);
        }
        let ids: Vec<i64> = ids.iter().map(u64::cast_signed).collect();
        previous.movies.reserve_exact(ids.len());
        for ids in ids.chunks(BATCH) {
            previous.read_movies(transaction, ids).await?;
        }
        Ok(previous)
    }

    /// Reads the movies with these ids, which are in ascending order.
    ///
    /// It reads ranges of ids without a gap, because movies of one file have neighbouring ids; and
    /// packed into one value, which is cheaper than rows.
    async fn read_movies(
        &mut self,
        transaction: &Transaction<'_>,
        ids: &[i64],
    ) -> Result<(), StoreError> {
        let ranges = ids.chunk_by(|one, next| one + 1 == *next);
        let (first, last): (Vec<i64>, Vec<i64>) =
            ranges.filter_map(|range| Some((*range.first()?, *range.last()?))).unzip();
        let movies = "
            /* previous_version::read_movies */
            select coalesce(string_agg(
                uuid_send(m.identity) || int8send(m.id) || int8send(m.content_hash), ''), '')
            from unnest($1::bigint[], $2::bigint[]) as range (first, last)
            join movies m on m.id between range.first and range.last";
        let movies = query_one(transaction, movies, &[&first, &last]).await?;
        let (movies, _) = movies.get::<_, &[u8]>(0).as_chunks();
        self.movies.extend(movies.iter().map(PreviousMovie::unpack));
        Ok(())
    }

    /// Compares a row of the file with the catalogue. Returns whether the catalogue has it already,
    /// so that it need not be staged.
    ///
    /// Within one file the later record wins. So after a record with other content was staged, all
    /// later records of the same movie are staged, too.
    pub(super) fn is_unchanged(&mut self, row: &CatalogueRow) -> bool {
        let Some(movie) = self.find(row.folded.identity) else { return false };
        if movie.comparison != Comparison::Changed {
            let same = movie.content_hash == row.content_hash;
            movie.comparison = if same { Comparison::Unchanged } else { Comparison::Changed };
        }
        movie.comparison == Comparison::Unchanged
    }

    /// Finds a movie by its identity.
    ///
    /// Most files have their movies in the same order as before, which is the order of their ids.
    /// Only if the next movie is not the expected one, it is searched for.
    fn find(&mut self, identity: Uuid) -> Option<&mut PreviousMovie> {
        let Self { movies, by_identity, next, .. } = self;
        let mut index = *next;
        if movies.get(index).is_none_or(|movie| movie.identity != identity) {
            let identity_of = |index: &u32| movies.get(*index as usize).map(|movie| movie.identity);
            if by_identity.is_empty() {
                by_identity.extend((0..).take(movies.len()));
                by_identity.sort_by_cached_key(identity_of);
            }
            let found = by_identity.binary_search_by_key(&Some(identity), identity_of).ok()?;
            index = *by_identity.get(found)? as usize;
        }
        *next = index + 1;
        movies.get_mut(index)
    }

    /// Returns the ids of the movies that the file has and that were not staged.
    pub(super) fn unchanged_ids(&self) -> impl Iterator<Item = u64> {
        self.unchanged().map(|movie| movie.id.cast_unsigned())
    }

    /// Checks that no movie that was not staged has changed or is gone since it was read. The caller holds the
    /// catalogue's lock, and `revision` is the present one.
    ///
    /// # Errors
    /// [`StoreError::CatalogueChanged`] if one has.
    pub(super) async fn verify(
        &self,
        transaction: &Transaction<'_>,
        revision: i64,
    ) -> Result<(), StoreError> {
        if revision == self.revision {
            return Ok(());
        }
        let verify = "
            /* previous_version::verify */
            select exists (
                select
                from unnest($1::bigint[], $2::bigint[]) as previous (id, content_hash)
                left join movies m using (id)
                where m.content_hash is distinct from previous.content_hash
            )";
        for movies in self.movies.chunks(BATCH) {
            let unchanged = movies.iter().filter(|movie| movie.comparison == Comparison::Unchanged);
            let (ids, hashes): (Vec<i64>, Vec<i64>) =
                unchanged.map(|movie| (movie.id, movie.content_hash)).unzip();
            if ids.is_empty() {
                continue;
            }
            if query_one(transaction, verify, &[&ids, &hashes]).await?.get(0) {
                return Err(StoreError::CatalogueChanged);
            }
        }
        Ok(())
    }

    fn unchanged(&self) -> impl Iterator<Item = &PreviousMovie> {
        self.movies.iter().filter(|movie| movie.comparison == Comparison::Unchanged)
    }
}
