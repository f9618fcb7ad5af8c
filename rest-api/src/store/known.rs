//! What the catalogue holds already of a file that comes again.
//!
//! Producers put the same file again and again with few changes. Reading 32 bytes for each of its
//! movies, and sending only what differs, is many times cheaper than sending everything.

use deadpool_postgres::Transaction;
use futures_util::{TryStreamExt, pin_mut};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{CatalogueRow, StoreError};

/// So many movies of a file are known at most, which takes 40 MB; a larger one is sent whole.
const MAX_KNOWN: i64 = 1 << 20;

/// The movies of the newest version of an object that was merged, as the catalogue has them.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The catalogue's revision when they were read.
    revision: i64,
    /// By identity.
    movies: Vec<KnownMovie>,
}

#[derive(Debug)]
struct KnownMovie {
    identity: Uuid,
    id: i64,
    content_hash: i64,
    said: Said,
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
        // One snapshot for the revision and the movies. Without the second setting the planner,
        // which cannot know how many ids there are, would look up each.
        let settings = "/* known::settings */ set transaction isolation level repeatable read; \
            set local enable_nestloop = off; set local work_mem = '64MB'";
        transaction.batch_execute(settings).await?;
        let newest = "/* known::newest */ with newest as (select ordered_at, sequencer \
                from assertions where key = $1 and bucket = $2 \
                order by ordered_at desc, sequencer desc limit 1) \
            select array_agg(id), coalesce(sum(cardinality(movie_ids)), 0)::bigint, \
                (select revision from catalogue) \
            from assertions join newest using (ordered_at, sequencer) \
            where key = $1 and bucket = $2";
        let newest = transaction.query_one(newest, &[&key, &bucket]).await?;
        let (parts, count): (Option<Vec<i64>>, i64) = (newest.get(0), newest.get(1));
        let mut known = Self { revision: newest.get(2), movies: Vec::new() };
        let Some(parts) = parts.filter(|_| (1..=MAX_KNOWN).contains(&count)) else {
            return Ok(known);
        };
        known.movies.reserve_exact(usize::try_from(count).unwrap_or_default());
        let movies = "/* known::movies */ select m.identity, m.id, m.content_hash \
            from (select unnest(movie_ids) as id from assertions where id = any($1)) said \
            join movies m using (id)";
        let params: [&(dyn ToSql + Sync); 1] = [&parts];
        let rows = transaction.query_raw(movies, params).await?;
        pin_mut!(rows);
        while let Some(row) = rows.try_next().await? {
            let (identity, id, content_hash) = (row.get(0), row.get(1), row.get(2));
            known.movies.push(KnownMovie { identity, id, content_hash, said: Said::Nothing });
        }
        known.movies.sort_unstable_by_key(|movie| movie.identity);
        Ok(known)
    }

    /// Whether the catalogue has `row` as it is, so that it need not be sent.
    ///
    /// Within one file the later record wins: once a movie was sent with other content, what the
    /// file says of it later must be sent as well.
    pub(super) fn has(&mut self, row: &CatalogueRow) -> bool {
        let found = self.movies.binary_search_by_key(&row.identity, |movie| movie.identity);
        let Some(movie) = found.ok().and_then(|index| self.movies.get_mut(index)) else {
            return false;
        };
        if movie.said != Said::Other {
            let same = movie.content_hash == row.content_hash;
            movie.said = if same { Said::Same } else { Said::Other };
        }
        movie.said == Said::Same
    }

    /// The ids of the movies that were not sent, upwards.
    pub(super) fn unchanged(&self) -> Vec<i64> {
        let mut ids: Vec<i64> = self.same().map(|movie| movie.id).collect();
        ids.sort_unstable();
        ids
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
        let (ids, hashes): (Vec<i64>, Vec<i64>) =
            self.same().map(|movie| (movie.id, movie.content_hash)).unzip();
        let changed = transaction.query_one(verify, &[&ids, &hashes]).await?.get(0);
        if changed { Err(StoreError::Moved) } else { Ok(()) }
    }

    fn same(&self) -> impl Iterator<Item = &KnownMovie> {
        self.movies.iter().filter(|movie| movie.said == Said::Same)
    }
}
