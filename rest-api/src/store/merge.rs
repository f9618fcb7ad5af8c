//! Merging the movies of one file version into the catalogue.
//!
//! What is new in the file has been staged before. The merge itself is then a handful of statements
//! in one short transaction, together with the ledger entry and the catalogue's revision. Merges run
//! one after the other (the row of `catalogue` is their lock), so that two of them can neither
//! deadlock nor overlook each other.

use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use serde::Serialize;
use tokio_postgres::types::ToSql;

use super::{
    Claim, Staging, Store, StoreError,
    known::Known,
    listen,
    sql::{execute, query_one},
};

/// So many movies into an empty catalogue are a first load: see [`insert`].
const FIRST_LOAD: i64 = 10_000;

/// The assertions of a version are stored so many together, so that no value grows without bound.
const PART: usize = 100_000;

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

impl Store {
    /// Tidies the search indexes after a merge: new entries wait in a pending list that every search
    /// must otherwise read through. Returns whether much has changed.
    ///
    /// # Errors
    /// If the database is away. The catalogue is right all the same.
    pub async fn tidy(&self, merged: &Merged) -> Result<bool, StoreError> {
        let changed = merged.inserted + merged.updated;
        if changed == 0 {
            return Ok(false);
        }
        let connection = self.writer().await?;
        let pending = "/* merge::tidy */ select gin_clean_pending_list(index::regclass) from \
            unnest(array['movies_title_search', 'movies_cast_search', 'movies_genres']) index";
        execute(&connection, pending, &[]).await?;
        let size = "/* merge::size */ select reltuples::bigint from pg_class \
            where oid = 'movies'::regclass";
        let known: i64 = query_one(&connection, size, &[]).await?.get(0);
        let much = changed * 5 > known;
        if much {
            connection.batch_execute("/* merge::analyze */ analyze movies").await?;
        }
        Ok(much)
    }

    /// Marks the pages that everybody may see, so that a file that comes again is compared without
    /// reading them. Takes as long as reading the catalogue.
    ///
    /// # Errors
    /// If the database is away. The catalogue is right all the same.
    pub async fn vacuum(&self) -> Result<(), StoreError> {
        let vacuum = "/* merge::vacuum */ \
            vacuum (index_cleanup off, process_toast off, truncate off) movies";
        Ok(self.worker().await?.batch_execute(vacuum).await?)
    }
}

impl Staging {
    /// Merges what was added, and ends the ingest of `claim` in the same transaction.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker holds the ingest by now, [`StoreError::Moved`] if
    /// what the file was compared with has changed meanwhile. Nothing has changed then.
    pub async fn merge(mut self, place: &Place, claim: &Claim) -> Result<Merged, StoreError> {
        let (known, staged) = (std::mem::take(&mut self.known), self.staged);
        let transaction = self.transaction().await?;
        prepare(&transaction, staged).await?;
        known.verify(&transaction, lock(&transaction).await?).await?;
        let merged = merge(&transaction, &known, staged, place, Some(claim.id)).await?;
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
        let staged = self.staged;
        let transaction = self.transaction().await?;
        transaction.batch_execute("/* merge::patience */ set local lock_timeout = '20s'").await?;
        prepare(&transaction, staged).await?;
        lock(&transaction).await?;
        // Read after the lock was granted, so that it is later than what was merged before.
        let clock = "/* merge::clock */ select clock_timestamp()";
        let ordered_at = query_one(&transaction, clock, &[]).await?.get(0);
        let [key, bucket, sequencer] = [const { String::new() }; 3];
        let place = Place { ordered_at, key, bucket, sequencer };
        let merged = merge(&transaction, &Known::default(), staged, &place, None).await?;
        announce(&transaction, &merged).await?;
        transaction.commit().await?;
        self.give_back().await;
        Ok(merged)
    }
}

/// Leaves of each staged movie the last record (within one file the later wins), and tells the
/// planner what there is. Done before the lock is taken: it concerns nobody else.
async fn prepare(transaction: &Transaction<'_>, staged: i64) -> Result<(), StoreError> {
    // Mostly a small part of the catalogue changes, and is found by the indexes; the planner would
    // read all of the catalogue much sooner than that pays where it is in memory or on SSD.
    let settings = "/* merge::settings */ set local work_mem = '64MB'; \
        set local maintenance_work_mem = '256MB'; set local random_page_cost = 1.1";
    transaction.batch_execute(settings).await?;
    if staged == 0 {
        return Ok(());
    }
    let deduplicate = "/* merge::deduplicate */ delete from staging s using (select identity, \
            max(record) as last from staging group by identity having count(*) > 1) d \
        where s.identity = d.identity and s.record < d.last";
    execute(transaction, deduplicate, &[]).await?;
    transaction.batch_execute("/* merge::statistics */ analyze staging (identity)").await?;
    Ok(())
}

/// Waits until no other merge runs, for as long as the transaction lasts. Returns the catalogue's
/// revision.
async fn lock(transaction: &Transaction<'_>) -> Result<i64, StoreError> {
    let lock = "/* merge::lock */ select revision from catalogue for no key update";
    Ok(query_one(transaction, lock, &[]).await?.get(0))
}

/// Merges the staged rows, each movie once, while the caller holds the lock. There were `staged`
/// rows; of the rest of the file the catalogue had all that is `known`.
async fn merge(
    transaction: &Transaction<'_>,
    known: &Known,
    staged: i64,
    place: &Place,
    ingest_id: Option<i64>,
) -> Result<Merged, StoreError> {
    let Place { ordered_at, key, bucket, sequencer } = place;
    let place: [&(dyn ToSql + Sync); 4] = [ordered_at, key, bucket, sequencer];
    let superseded = "/* merge::superseded */ select exists (select from assertions \
        where key = $2 and bucket = $3 and (ordered_at, sequencer) > ($1, $4))";
    let superseded = query_one(transaction, superseded, &place).await?.get(0);

    let unsent = known.unchanged();
    let repeated = known.repeated().filter(|_| staged == 0);
    if !assert_again(transaction, &place, repeated.unwrap_or_default()).await? {
        for part in unsent.chunks(PART) {
            assert_part(transaction, &place, part).await?;
        }
    }
    let mut asserted = unsent.len() as i64;
    let mut merged = Merged { superseded, unchanged: asserted, ..Merged::default() };
    if staged > 0 {
        let outdated = drop_outdated(transaction, &place).await?;
        merged.updated = update(transaction, ingest_id).await?;
        merged.inserted = insert(transaction, staged, ingest_id).await?;
        let left = assert_staged(transaction, &place).await?;
        merged.unchanged += left + outdated - merged.inserted - merged.updated;
        asserted += left;
    }
    if asserted == 0 {
        // That there is this version is to be known all the same.
        assert_part(transaction, &place, &[]).await?;
    }
    Ok(merged)
}

/// Changes the movies of which the staged rows say something else.
async fn update(transaction: &Transaction<'_>, ingest_id: Option<i64>) -> Result<i64, StoreError> {
    let update = "/* merge::update */ update movies m \
        set cast_lc = s.cast_lc, genres_lc = s.genres_lc, content_hash = s.content_hash, \
            doc = s.doc, ingest_id = $1, record = s.record, changed_at = now() \
        from staging s where m.identity = s.identity and m.content_hash <> s.content_hash";
    Ok(execute(transaction, update, &[&ingest_id]).await?.cast_signed())
}

/// Adds the staged movies that the catalogue lacks.
///
/// A first load goes in without indexes, which are built afterwards: that takes a fraction of the
/// time, and as long as it takes, queries wait (and are told to come back) instead of finding an
/// empty catalogue.
async fn insert(
    transaction: &Transaction<'_>,
    staged: i64,
    ingest_id: Option<i64>,
) -> Result<i64, StoreError> {
    let empty = "/* merge::first_load */ select not exists (select from movies)";
    let first_load =
        staged >= FIRST_LOAD && query_one(transaction, empty, &[]).await?.get::<_, bool>(0);
    let indexes = if first_load { drop_indexes(transaction).await? } else { String::new() };
    let news = if first_load {
        ""
    } else {
        "where not exists (select from movies m where m.identity = s.identity) order by record"
    };
    let insert = format!(
        "/* merge::insert */ insert into movies (identity, title_lc, year, cast_lc, genres_lc, \
            content_hash, doc, ingest_id, record, changed_at) \
        select identity, title_lc, year, cast_lc, genres_lc, content_hash, doc, $1, record, now() \
        from staging s {news}"
    );
    let inserted = execute(transaction, &insert, &[&ingest_id]).await?;
    transaction.batch_execute(&indexes).await?;
    Ok(inserted.cast_signed())
}

/// Drops every index of the movies but the primary key; returns the statements that build them.
async fn drop_indexes(transaction: &Transaction<'_>) -> Result<String, StoreError> {
    let indexes = "/* merge::indexes */ select \
            string_agg('drop index ' || indexrelid::regclass, '; '), \
            string_agg(pg_get_indexdef(indexrelid), '; ') \
        from pg_index where indrelid = 'movies'::regclass and not indisprimary";
    let indexes = query_one(transaction, indexes, &[]).await?;
    transaction.batch_execute(indexes.get(0)).await?;
    Ok(indexes.get(1))
}

/// Takes from the staged rows those movies of which a newer version has spoken already. Returns
/// how many there were.
async fn drop_outdated(
    transaction: &Transaction<'_>,
    place: &[&(dyn ToSql + Sync); 4],
) -> Result<i64, StoreError> {
    let late = "/* merge::late */ select exists (select from assertions \
        where (ordered_at, key, bucket, sequencer) > ($1, $2, $3, $4))";
    if !query_one(transaction, late, place).await?.get::<_, bool>(0) {
        return Ok(0);
    }
    let outdated = "/* merge::drop_outdated */ delete from staging s using movies m \
        where m.identity = s.identity and m.id in (select unnest(movie_ids) from assertions \
        where (ordered_at, key, bucket, sequencer) > ($1, $2, $3, $4))";
    Ok(execute(transaction, outdated, place).await?.cast_signed())
}

/// Records that this version, no older one, holds just those movies which another did, whose
/// assertions these are: that one then has nothing to say that this one does not. Returns whether
/// that could be.
async fn assert_again(
    transaction: &Transaction<'_>,
    place: &[&(dyn ToSql + Sync); 4],
    assertions: &[i64],
) -> Result<bool, StoreError> {
    if assertions.is_empty() {
        return Ok(false);
    }
    let update = "/* merge::assert_again */ update assertions set ordered_at = $1, sequencer = $4 \
        where key = $2 and bucket = $3 and (ordered_at, sequencer) <= ($1, $4) and id = any($5)";
    let [ordered_at, key, bucket, sequencer] = *place;
    let params = [ordered_at, key, bucket, sequencer, &assertions];
    Ok(execute(transaction, update, &params).await? > 0)
}

/// Records that this version holds these movies.
async fn assert_part(
    transaction: &Transaction<'_>,
    place: &[&(dyn ToSql + Sync); 4],
    movie_ids: &[i64],
) -> Result<(), StoreError> {
    let insert = "/* merge::assert_part */ insert into assertions \
        (ordered_at, key, bucket, sequencer, movie_ids) values ($1, $2, $3, $4, $5)";
    let [ordered_at, key, bucket, sequencer] = *place;
    execute(transaction, insert, &[ordered_at, key, bucket, sequencer, &movie_ids]).await?;
    Ok(())
}

/// Records that this version holds the staged movies. Returns how many there are.
async fn assert_staged(
    transaction: &Transaction<'_>,
    place: &[&(dyn ToSql + Sync); 4],
) -> Result<i64, StoreError> {
    let insert = "/* merge::assert_staged */ with ids as ( \
            select m.id, row_number() over (order by m.id) / $5 as part \
            from staging s join movies m using (identity)), \
        recorded as (insert into assertions (ordered_at, key, bucket, sequencer, movie_ids) \
            select $1, $2, $3, $4, array_agg(id order by id) from ids group by part) \
        select count(*) from ids";
    let [ordered_at, key, bucket, sequencer] = *place;
    let params = [ordered_at, key, bucket, sequencer, &(PART as i64)];
    Ok(query_one(transaction, insert, &params).await?.get(0))
}

/// Bumps the catalogue's revision if anything changed, and tells who waits for the ingest.
async fn announce(transaction: &Transaction<'_>, merged: &Merged) -> Result<(), StoreError> {
    if merged.inserted + merged.updated > 0 {
        let bump = "/* merge::bump */ update catalogue set revision = revision + 1";
        execute(transaction, bump, &[]).await?;
    }
    let finished = "/* merge::announce */ select pg_notify($1, '')";
    execute(transaction, finished, &[&listen::FINISHED]).await?;
    Ok(())
}
