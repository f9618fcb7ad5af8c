//! What the catalogue holds already of a file that comes again.
//!
//! Producers put the same file again and again with few changes. Reading 32 bytes for each of its
//! movies, and sending only what differs, is many times cheaper than sending everything.

use std::array;

use deadpool_postgres::Transaction;
use uuid::Uuid;

use super::{CatalogueRow, StoreError, sql::query_one};

/// So many movies of a file are known at most, which takes 70 MB; a larger one is sent whole.
const MAX_KNOWN: i64 = 1 << 20;

/// So many movies are read at once.
const AT_ONCE: usize = 1 << 15;

/// The movies of the newest version of an object that was merged, as the catalogue has them.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The catalogue's revision when they were read.
    revision: i64,
    /// The assertions of that version.
    assertions: Vec<i64>,
    /// As a rule in the order of their ids.
    movies: Vec<KnownMovie>,
    /// The index of the movie that is expected next.
    next: usize,
    /// The indexes of all movies, by identity; empty until they are needed.
    by_identity: Vec<u32>,
}

#[derive(Debug)]
struct KnownMovie {
    identity: Uuid,
    id: i64,
    content_hash: i64,
    said: Said,
}

impl KnownMovie {
    /// Identity, id and content hash, as Postgres sends them.
    fn unpack(packed: &[u8; 32]) -> Self {
        let number = |from: usize| i64::from_be_bytes(array::from_fn(|byte| packed[from + byte]));
        Self {
            identity: Uuid::from_bytes(array::from_fn(|byte| packed[byte])),
            id: number(16),
            content_hash: number(24),
            said: Said::Nothing,
        }
    }
}

/// What the file says of a movie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Said {
    Nothing,
    /// What the catalogue has.
    Same,
    /// At some point something else, so that the rest of what it says of it counts too.
    Other,
}

impl Known {
    /// Reads what the catalogue has of the newest version of the object that was merged.
    pub(super) async fn read(
        transaction: &Transaction<'_>,
        bucket: &str,
        key: &str,
    ) -> Result<Self, StoreError> {
        // One snapshot for the revision and the movies.
        let settings = "/* known::settings */ set transaction isolation level repeatable read";
        transaction.batch_execute(settings).await?;
        let newest = "/* known::newest */ with newest as (select ordered_at, sequencer \
                from assertions where key = $1 and bucket = $2 \
                order by ordered_at desc, sequencer desc limit 1) \
            select array_agg(id), coalesce(sum(cardinality(movie_ids)), 0)::bigint, \
                (select revision from catalogue) \
            from assertions join newest using (ordered_at, sequencer) \
            where key = $1 and bucket = $2";
        let newest = query_one(transaction, newest, &[&key, &bucket]).await?;
        let (assertions, count): (Option<Vec<i64>>, i64) = (newest.get(0), newest.get(1));
        let mut known = Self { revision: newest.get(2), ..Self::default() };
        let Some(assertions) = assertions.filter(|_| (1..=MAX_KNOWN).contains(&count)) else {
            return Ok(known);
        };
        let mut ids: Vec<i64> = Vec::with_capacity(usize::try_from(count).unwrap_or_default());
        for part in &assertions {
            let part_ids = "/* known::ids */ select movie_ids from assertions where id = $1";
            let row = query_one(transaction, part_ids, &[part]).await?;
            ids.extend(row.get::<_, Vec<i64>>(0));
        }
        ids.sort_unstable();
        ids.dedup();
        known.assertions = assertions;
        known.movies.reserve_exact(ids.len());
        for ids in ids.chunks(AT_ONCE) {
            known.read_movies(transaction, ids).await?;
        }
        Ok(known)
    }

    /// Reads the movies with these ids, which stand upwards: along the runs of ids without a gap,
    /// for movies that came together lie together; and packed, which is cheaper than rows.
    async fn read_movies(
        &mut self,
        transaction: &Transaction<'_>,
        ids: &[i64],
    ) -> Result<(), StoreError> {
        let runs = ids.chunk_by(|one, next| one + 1 == *next);
        let (first, last): (Vec<i64>, Vec<i64>) =
            runs.filter_map(|run| Some((*run.first()?, *run.last()?))).unzip();
        let movies = "/* known::movies */ select coalesce(string_agg( \
                uuid_send(m.identity) || int8send(m.id) || int8send(m.content_hash), ''), '') \
            from unnest($1::bigint[], $2::bigint[]) run (first, last) \
            join movies m on m.id between run.first and run.last";
        let movies = query_one(transaction, movies, &[&first, &last]).await?;
        let (movies, _) = movies.get::<_, &[u8]>(0).as_chunks();
        self.movies.extend(movies.iter().map(KnownMovie::unpack));
        Ok(())
    }

    /// Whether the catalogue has `row` as it is, so that it need not be sent.
    ///
    /// Within one file the later record wins: once a movie was sent with other content, what the
    /// file says of it later must be sent as well.
    pub(super) fn has(&mut self, row: &CatalogueRow) -> bool {
        let Some(movie) = self.find(row.identity) else { return false };
        if movie.said != Said::Other {
            let same = movie.content_hash == row.content_hash;
            movie.said = if same { Said::Same } else { Said::Other };
        }
        movie.said == Said::Same
    }

    /// A file that comes again mostly has its movies in the order in which they came before, which
    /// is that of their ids. Where it has not, they are searched for.
    fn find(&mut self, identity: Uuid) -> Option<&mut KnownMovie> {
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

    /// The ids of the movies that were not sent.
    pub(super) fn unchanged(&self) -> Vec<i64> {
        self.same().map(|movie| movie.id).collect()
    }

    /// The assertions of the version before, if the file says again everything that it said.
    pub(super) fn repeated(&self) -> Option<&[i64]> {
        let all = !self.movies.is_empty() && self.same().count() == self.movies.len();
        all.then_some(&self.assertions)
    }

    /// Fails if a movie that was not sent has been changed since it was read. The caller holds the
    /// catalogue's lock, and has found it at `revision`.
    pub(super) async fn verify(
        &self,
        transaction: &Transaction<'_>,
        revision: i64,
    ) -> Result<(), StoreError> {
        if revision == self.revision || self.same().next().is_none() {
            return Ok(());
        }
        let verify = "/* known::verify */ select exists (select \
            from unnest($1::bigint[], $2::bigint[]) known (id, content_hash) \
            join movies m using (id) where m.content_hash <> known.content_hash)";
        for movies in self.movies.chunks(AT_ONCE) {
            let same = movies.iter().filter(|movie| movie.said == Said::Same);
            let (ids, hashes): (Vec<i64>, Vec<i64>) =
                same.map(|movie| (movie.id, movie.content_hash)).unzip();
            if query_one(transaction, verify, &[&ids, &hashes]).await?.get(0) {
                return Err(StoreError::Moved);
            }
        }
        Ok(())
    }

    fn same(&self) -> impl Iterator<Item = &KnownMovie> {
        self.movies.iter().filter(|movie| movie.said == Said::Same)
    }
}
