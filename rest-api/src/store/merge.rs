//! Merging the movies of one file version into the catalogue.
//!
//! Rows go to a temporary table first, in pieces, while the file is still being read. The merge
//! itself is then a handful of statements in one short transaction, together with the ledger
//! entry and the catalogue's revision. Merges run one after the other (the row of `catalogue` is
//! their lock), so that two of them can neither deadlock nor overlook each other.

use chrono::{DateTime, Utc};
use deadpool_postgres::{Object, Transaction};
use futures_util::pin_mut;
use serde::Serialize;
use tokio_postgres::{
    binary_copy::BinaryCopyInWriter,
    types::{ToSql, Type},
};

use super::{CatalogueRow, Claim, Store, StoreError, listen};

/// A file version's place in the order of all versions: by time, ties by key, bucket and
/// sequencer. For each movie the version with the greatest place wins.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// When the version was written.
    pub ordered_at: DateTime<Utc>,
    /// Its object key.
    pub key: String,
    /// Its bucket.
    pub bucket: String,
    /// Its sequencer, padded on the right; empty if unknown.
    pub sequencer: String,
}

/// What a merge did, in movies.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Merged {
    /// New ones.
    pub inserted: i64,
    /// Those whose content differed.
    pub updated: i64,
    /// Those whose rows were left untouched.
    pub unchanged: i64,
    /// Whether a newer version of the same object had been merged before.
    #[serde(skip)]
    pub superseded: bool,
}

/// Rows on their way into the catalogue, in a temporary table of one connection.
#[derive(Debug)]
pub struct Staging {
    /// None only once the connection has been given back.
    connection: Option<Object>,
    staged: i64,
}

/// Whoever abandons a staging half way leaves its connection in a state that nobody should meet.
impl Drop for Staging {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(Object::take(connection));
        }
    }
}

impl Store {
    /// An empty staging table for a worker.
    ///
    /// # Errors
    /// If no connection can be had in time.
    pub async fn staging(&self) -> Result<Staging, StoreError> {
        Staging::on(self.worker().await?).await
    }

    /// An empty staging table for a request.
    ///
    /// # Errors
    /// If no connection can be had in time.
    pub async fn staging_for_request(&self) -> Result<Staging, StoreError> {
        Staging::on(self.writer().await?).await
    }

    /// Tidies the search indexes after a merge that changed much: new entries wait in a pending
    /// list that every search must otherwise read through.
    ///
    /// # Errors
    /// If the database is away. The catalogue is right all the same.
    pub async fn tidy(&self, merged: &Merged) -> Result<(), StoreError> {
        let changed = merged.inserted + merged.updated;
        if changed == 0 {
            return Ok(());
        }
        let connection = self.writer().await?;
        let pending = "/* merge::tidy */ select gin_clean_pending_list(index::regclass) from \
            unnest(array['movies_title_search', 'movies_cast_search', 'movies_genres']) index";
        connection.execute(pending, &[]).await?;
        let size = "/* merge::size */ select reltuples::bigint from pg_class \
            where oid = 'movies'::regclass";
        let known: i64 = connection.query_one(size, &[]).await?.get(0);
        if changed * 5 > known {
            connection.batch_execute("/* merge::analyze */ analyze movies").await?;
        }
        Ok(())
    }
}

impl Staging {
    async fn on(connection: Object) -> Result<Self, StoreError> {
        connection
            .batch_execute(
                r#"/* merge::staging */
                set client_min_messages = warning;
                create temporary table if not exists staging (
                    ordinal bigint, identity uuid, title_lc text collate "C", year int,
                    cast_lc text collate "C", genres_lc text[] collate "C", content_hash bigint,
                    doc text);
                truncate staging"#,
            )
            .await?;
        Ok(Staging { connection: Some(connection), staged: 0 })
    }

    /// Adds `rows`, in the order in which they stand in the file.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn add(&mut self, rows: &[CatalogueRow]) -> Result<(), StoreError> {
        const COLUMNS: [Type; 8] = [
            Type::INT8,
            Type::UUID,
            Type::TEXT,
            Type::INT4,
            Type::TEXT,
            Type::TEXT_ARRAY,
            Type::INT8,
            Type::TEXT,
        ];
        let mut ordinal = self.staged;
        let copy = "/* merge::stage */ copy staging from stdin (format binary)";
        let sink = self.client()?.copy_in(copy).await?;
        let writer = BinaryCopyInWriter::new(sink, &COLUMNS);
        pin_mut!(writer);
        for row in rows {
            let CatalogueRow { identity, title_lc, year, cast_lc, genres_lc, content_hash, doc } =
                row;
            writer
                .as_mut()
                .write(&[&ordinal, identity, title_lc, year, cast_lc, genres_lc, content_hash, doc])
                .await?;
            ordinal += 1;
        }
        writer.finish().await?;
        self.staged = ordinal;
        Ok(())
    }

    /// Merges what was added, and ends the ingest of `claim` in the same transaction.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker holds the ingest by now; nothing has changed then.
    pub async fn merge(mut self, place: &Place, claim: &Claim) -> Result<Merged, StoreError> {
        let transaction = self.transaction().await?;
        deduplicate(&transaction).await?;
        lock(&transaction).await?;
        let merged = merge(&transaction, place).await?;
        claim.complete(&transaction, &merged).await?;
        announce(&transaction, &merged).await?;
        transaction.commit().await?;
        self.give_back().await;
        Ok(merged)
    }

    /// Merges what was added as of now: movies that came by HTTP, not in a file.
    ///
    /// # Errors
    /// If the database is away, or other merges take too long; nothing has changed then.
    pub async fn merge_now(mut self) -> Result<Merged, StoreError> {
        let transaction = self.transaction().await?;
        transaction.batch_execute("/* merge::patience */ set local lock_timeout = '20s'").await?;
        deduplicate(&transaction).await?;
        lock(&transaction).await?;
        // Read after the lock was granted, so that it is later than what was merged before.
        let clock = "/* merge::clock */ select clock_timestamp()";
        let ordered_at = transaction.query_one(clock, &[]).await?.get(0);
        let [key, bucket, sequencer] = [const { String::new() }; 3];
        let merged = merge(&transaction, &Place { ordered_at, key, bucket, sequencer }).await?;
        announce(&transaction, &merged).await?;
        transaction.commit().await?;
        self.give_back().await;
        Ok(merged)
    }

    /// Drops what was added.
    pub async fn discard(self) {
        self.give_back().await;
    }

    async fn give_back(mut self) {
        let truncate = "/* merge::truncate */ truncate staging";
        if let Some(connection) = self.connection.take() {
            // On failure the connection is broken, and the pool will find out.
            let _ = connection.batch_execute(truncate).await;
        }
    }

    fn client(&self) -> Result<&Object, StoreError> {
        self.connection.as_ref().ok_or(StoreError::Setup("staging was given back".to_owned()))
    }

    async fn transaction(&mut self) -> Result<Transaction<'_>, StoreError> {
        let gone = StoreError::Setup("staging was given back".to_owned());
        Ok(self.connection.as_mut().ok_or(gone)?.transaction().await?)
    }
}

/// Waits until no other merge runs, for as long as the transaction lasts.
async fn lock(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    let lock = "/* merge::lock */ select revision from catalogue for no key update";
    transaction.query_one(lock, &[]).await?;
    Ok(())
}

/// Merges the staged rows, each movie once, while the caller holds the lock.
async fn merge(transaction: &Transaction<'_>, place: &Place) -> Result<Merged, StoreError> {
    let Place { ordered_at, key, bucket, sequencer } = place;
    let place: [&(dyn ToSql + Sync); 4] = [ordered_at, key, bucket, sequencer];

    let outdated = drop_outdated(transaction, &place).await?;
    let superseded = "/* merge::superseded */ select exists (select from assertions \
        where (ordered_at, key, bucket, sequencer) > ($1, $2, $3, $4) and key = $2 and bucket = $3)";
    let superseded = transaction.query_one(superseded, &place).await?.get(0);

    let update = "/* merge::update */ update movies m \
        set cast_lc = s.cast_lc, genres_lc = s.genres_lc, content_hash = s.content_hash, doc = s.doc \
        from staging s where m.identity = s.identity and m.content_hash <> s.content_hash";
    let updated = transaction.execute(update, &[]).await?;
    let insert = "/* merge::insert */ insert into movies \
        (identity, title_lc, year, cast_lc, genres_lc, content_hash, doc) \
        select identity, title_lc, year, cast_lc, genres_lc, content_hash, doc from staging s \
        where not exists (select from movies m where m.identity = s.identity) order by ordinal";
    let inserted = transaction.execute(insert, &[]).await?;
    let staged = assert_movies(transaction, &place).await?;

    let [inserted, updated] = [inserted, updated].map(|rows| rows.cast_signed());
    Ok(Merged { inserted, updated, unchanged: staged + outdated - inserted - updated, superseded })
}

/// Within one file the later record wins. Done before the lock is taken: it concerns nobody else.
async fn deduplicate(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    let deduplicate = "/* merge::deduplicate */ delete from staging s using (select ctid, \
            row_number() over (partition by identity order by ordinal desc) as nth from staging) d \
        where s.ctid = d.ctid and d.nth > 1";
    transaction.execute(deduplicate, &[]).await?;
    Ok(())
}

/// Takes from the staged rows those movies of which a newer version has spoken already. Returns
/// how many there were.
async fn drop_outdated(
    transaction: &Transaction<'_>,
    place: &[&(dyn ToSql + Sync)],
) -> Result<i64, StoreError> {
    let late = "/* merge::late */ select exists (select from assertions \
        where (ordered_at, key, bucket, sequencer) > ($1, $2, $3, $4))";
    if !transaction.query_one(late, place).await?.get::<_, bool>(0) {
        return Ok(0);
    }
    let outdated = "/* merge::drop_outdated */ delete from staging s using movies m \
        where m.identity = s.identity and m.id in (select unnest(movie_ids) from assertions \
        where (ordered_at, key, bucket, sequencer) > ($1, $2, $3, $4))";
    Ok(transaction.execute(outdated, place).await?.cast_signed())
}

/// Records that this version holds the staged movies. Returns how many there are.
async fn assert_movies(
    transaction: &Transaction<'_>,
    place: &[&(dyn ToSql + Sync)],
) -> Result<i64, StoreError> {
    // In parts, so that no value grows without bound; one part, empty, for a file without movies.
    let assert = "/* merge::assert */ with ids as (
            select m.id, row_number() over (order by m.id) / 100000 as part
            from staging s join movies m using (identity)),
        parts as (select array_agg(id order by id) as movie_ids from ids group by part
            union all select '{}' where not exists (select from ids)),
        recorded as (insert into assertions (ordered_at, key, bucket, sequencer, movie_ids)
            select $1, $2, $3, $4, movie_ids from parts)
        select count(*) from ids";
    Ok(transaction.query_one(assert, place).await?.get(0))
}

/// Bumps the catalogue's revision if anything changed, and tells who waits for the ingest.
async fn announce(transaction: &Transaction<'_>, merged: &Merged) -> Result<(), StoreError> {
    if merged.inserted + merged.updated > 0 {
        let bump = "/* merge::bump */ update catalogue set revision = revision + 1";
        transaction.execute(bump, &[]).await?;
    }
    let finished = "/* merge::announce */ select pg_notify($1, '')";
    transaction.execute(finished, &[&listen::FINISHED]).await?;
    Ok(())
}
