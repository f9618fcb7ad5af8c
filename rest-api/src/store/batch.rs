//! Merges batches of small files into the catalogue.
//!
//! The movies of a batch are in memory. What the catalogue has of them is read under the merge lock, the
//! files are applied in the order of their versions, and what results is written: one transaction and a
//! few statements, however many files there are. Each file has its own counts, as if it had been merged
//! alone.

use std::collections::{HashMap, HashSet, hash_map::Entry};

use deadpool_postgres::Transaction;
use roaring::RoaringTreemap;
use tokio::try_join;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{
    CatalogueRow, Claim, Merged, Mode, Store, StoreError, VersionPosition,
    counting::{self, Recount},
    listen, merge,
    merged_versions::{self, MergedVersion, RecordedVersion, Removal},
    movie_sets, queue,
    search::{self, SearchText, words_of_terms},
    sql::{execute, query_one},
    staging::check_records,
    withdrawn,
};
use crate::config::MaxWithdraw;

/// A small file that was read and has no violations, or the removal of an object.
#[derive(Debug)]
pub struct SmallFile {
    /// The claim on its ingest.
    pub claim: Claim,
    /// The position of its version.
    pub position: VersionPosition,
    /// Its mode. Of a removal, whether it takes back all that the object says, or only its snapshots.
    pub mode: Mode,
    /// What was removed; none if the object was created.
    pub removal: Option<Removal>,
    /// Its movies in the order of its records.
    pub rows: Vec<CatalogueRow>,
}

impl SmallFile {
    /// Returns the bytes that its movies take, uncompressed.
    pub fn size(&self) -> u64 {
        self.rows.iter().map(CatalogueRow::size).sum()
    }
}

impl Store {
    /// Merges `files` in the order of their versions, and ends their ingests in the same transaction.
    /// Returns the result of each file, in the same order; none if its lease was lost. Nothing of such a
    /// file is merged.
    ///
    /// # Errors
    /// If the database is unavailable or a statement fails. Nothing is changed then.
    pub async fn merge_batch(
        &self,
        files: &[SmallFile],
    ) -> Result<Vec<Option<Merged>>, StoreError> {
        let mut connection = self.worker().await?;
        let transaction = connection.transaction().await?;
        merge::lock(&transaction).await?;
        let claims: Vec<&Claim> = files.iter().map(|file| &file.claim).collect();
        let held = queue::lock_held(&transaction, &claims).await?;
        let held = files.iter().filter(|file| held.contains(&file.claim.id));
        let held: Vec<&SmallFile> = held.collect();
        let parts: Vec<Part> = held
            .iter()
            .map(|file| {
                let SmallFile { claim, position, mode, removal, rows } = file;
                let version = claim.merged_version(position, *mode, *removal);
                Part::new(version, rows, claim.is_approved)
            })
            .collect();
        let BatchMerge { merged, changes_movies: changed, queued } =
            merge(&transaction, &parts, self.max_withdraw).await?;
        let ended: HashMap<i64, Merged> =
            held.iter().zip(merged).map(|(file, merged)| (file.claim.id, merged)).collect();
        queue::complete(&transaction, &ended, self.outbox).await?;
        let ids: Vec<i64> = ended.keys().copied().collect();
        let (revision, ()) = try_join!(
            merge::increment_revision(&transaction, changed),
            listen::announce_ended(&transaction, &ids)
        )?;
        transaction.commit().await?;
        self.learn_own(revision);
        self.hints().announce_ended(ids);
        if queued {
            self.hints().announce_queued();
        }
        ended.values().for_each(|merged| self.add_changes(merged));
        Ok(files.iter().map(|file| ended.get(&file.claim.id).copied()).collect())
    }

    /// Merges the movies of a request, which have the present time as their position.
    ///
    /// # Errors
    /// [`StoreError::OverBudget`] if there are more movies than the budget of a file allows. If the
    /// database is unavailable, or other merges take too long. Nothing is changed then.
    pub async fn merge_request(&self, rows: &[CatalogueRow]) -> Result<Merged, StoreError> {
        check_records(rows.len() as i64, self.budget)?;
        let mut connection = self.writer().await?;
        let transaction = connection.transaction().await?;
        let timeout = "
            /* batch::merge_request */
            set local lock_timeout = '20s'";
        transaction.batch_execute(timeout).await?;
        merge::lock(&transaction).await?;
        // Read under the lock, so that it is later than all requests before.
        let clock = "
            /* batch::merge_request */
            select clock_timestamp()";
        let ordered_at = query_one(&transaction, clock, &[]).await?.get(0);
        let [key, bucket, sequencer] = [const { String::new() }; 3];
        let position = VersionPosition { ordered_at, key, bucket, sequencer };
        let version = MergedVersion {
            position: &position,
            ingest_id: None,
            version_id: None,
            etag: None,
            snapshot: false,
            removal: None,
        };
        let parts = [Part::new(version, rows, false)];
        let BatchMerge { merged, .. } = merge(&transaction, &parts, self.max_withdraw).await?;
        let merged = merged.first().copied().unwrap_or_default();
        let revision = merge::increment_revision(&transaction, merged.changes_movies()).await?;
        transaction.commit().await?;
        self.learn_own(revision);
        self.add_changes(&merged);
        Ok(merged)
    }
}

/// One file of a batch.
struct Part<'a> {
    version: MergedVersion<'a>,
    /// Whether it may withdraw as many movies as it does.
    is_approved: bool,
    /// The last record of each movie, and its index.
    rows: Vec<(i64, &'a CatalogueRow)>,
}

impl<'a> Part<'a> {
    /// Returns a file; within one file the later record of a movie wins.
    fn new(version: MergedVersion<'a>, rows: &'a [CatalogueRow], is_approved: bool) -> Self {
        let mut last: HashMap<Uuid, i64> = HashMap::with_capacity(rows.len());
        last.extend((0..).zip(rows).map(|(record, row)| (row.folded.identity, record)));
        let rows =
            (0..).zip(rows).filter(|(record, row)| last.get(&row.folded.identity) == Some(record));
        Self { version, is_approved, rows: rows.collect() }
    }
}

/// What merging a batch has resulted in.
struct BatchMerge {
    /// Of each file, in the order of the files.
    merged: Vec<Merged>,
    changes_movies: bool,
    /// Whether objects were queued to be read again.
    queued: bool,
}

/// A movie that files of the batch contain.
#[derive(Default)]
struct Movie<'a> {
    /// Its id; none if the catalogue never had it.
    id: Option<i64>,
    /// Whether the catalogue has it, and did not withdraw it.
    is_stored: bool,
    /// The hash of its content so far.
    content_hash: Option<i64>,
    /// The newest version that contains it and that was merged before.
    newest: Option<VersionPosition>,
    /// The row that it gets: the ingest, the index of the record, and the content.
    row: Option<(Option<i64>, i64, &'a CatalogueRow)>,
}

/// Merges `parts`. The caller holds the merge lock.
async fn merge(
    transaction: &Transaction<'_>,
    parts: &[Part<'_>],
    max_withdraw: MaxWithdraw,
) -> Result<BatchMerge, StoreError> {
    let mut in_order: Vec<(usize, &Part)> = parts.iter().enumerate().collect();
    in_order.sort_by_key(|(_, part)| part.version.position);
    let versions: Vec<MergedVersion> = in_order.iter().map(|(_, part)| part.version).collect();
    let recorded = merged_versions::record(transaction, &versions).await?;
    let with_snapshots = with_snapshots(&versions, &recorded);
    let recount = recount(transaction, &with_snapshots, &recorded).await?;
    let counting: HashSet<usize> = in_order
        .iter()
        .zip(&recorded)
        .filter(|(_, recorded)| recount.counts(recorded.id, recorded.counts))
        .map(|((index, _), _)| *index)
        .collect();
    let merging = || in_order.iter().filter(|(index, _)| counting.contains(index));

    let mut movies = read_movies(transaction, merging().map(|(_, part)| *part)).await?;
    if let Some((_, first)) = merging().next() {
        read_newest(transaction, first.version.position, &mut movies).await?;
    }
    let mut merged = vec![Merged::default(); parts.len()];
    let mut new_movies = Vec::new();
    for (index, part) in merging() {
        merged[*index] = apply(part, &mut movies, &mut new_movies);
    }
    write_movies(transaction, &mut movies, &new_movies).await?;

    let numbers: HashSet<i64> = recorded.iter().map(|recorded| recorded.id).collect();
    let approved = in_order
        .iter()
        .zip(&recorded)
        .filter(|((_, part), recorded)| part.is_approved || recorded.is_approved);
    let approved = approved.filter_map(|((_, part), _)| part.version.ingest_id).collect();
    let mut sets = Vec::with_capacity(counting.len());
    let id = |row: &CatalogueRow| movies.get(&row.folded.identity)?.id.map(i64::cast_unsigned);
    for ((index, part), recorded) in in_order.iter().zip(recorded) {
        let counts = counting.contains(index);
        merged[*index].superseded =
            recorded.superseded || !counts && part.version.removal.is_none();
        merged[*index].mode = Some(part.version.mode(&recorded));
        merged[*index].is_deletion = part.version.removal == Some(Removal::Version);
        if counts {
            let movies = part.rows.iter().filter_map(|(_, row)| id(row)).collect();
            sets.push((&part.version, recorded, movies));
        }
    }
    merged_versions::write_sets(transaction, sets).await?;
    let settled = counting::settle(transaction, recount, &numbers, &approved, max_withdraw).await?;
    for (merged, part) in merged.iter_mut().zip(parts) {
        let withdrawn = part.version.ingest_id.and_then(|ingest| settled.withdrawn.get(&ingest));
        merged.withdrawn = withdrawn.copied().unwrap_or_default();
    }
    let (keys, buckets) = keys_and_buckets(&with_snapshots);
    let queued = !keys.is_empty() && queue::retry_blocked(transaction, &keys, &buckets).await?;
    let changes_movies = settled.total > 0 || merged.iter().any(Merged::changes_movies);
    Ok(BatchMerge { merged, changes_movies, queued: queued || settled.queued })
}

/// Returns the positions of the versions whose objects have snapshots.
fn with_snapshots<'a>(
    versions: &[MergedVersion<'a>],
    recorded: &[RecordedVersion],
) -> Vec<&'a VersionPosition> {
    let object = |version: &MergedVersion<'a>| (&version.position.key, &version.position.bucket);
    let with = versions.iter().zip(recorded).filter(|(_, recorded)| recorded.has_snapshots);
    let with: HashSet<_> = with.map(|(version, _)| object(version)).collect();
    let found = versions.iter().filter(|version| with.contains(&object(version)));
    found.map(|version| version.position).collect()
}

fn keys_and_buckets<'a>(positions: &[&'a VersionPosition]) -> (Vec<&'a str>, Vec<&'a str>) {
    positions.iter().map(|position| (&*position.key, &*position.bucket)).unzip()
}

/// Decides which versions of the objects at these positions count.
async fn recount(
    transaction: &Transaction<'_>,
    with_snapshots: &[&VersionPosition],
    recorded: &[RecordedVersion],
) -> Result<Recount, StoreError> {
    if with_snapshots.is_empty() {
        return Ok(Recount::default());
    }
    let (keys, buckets) = keys_and_buckets(with_snapshots);
    let new = recorded.iter().filter(|recorded| !recorded.is_known);
    let new: Vec<i64> = new.map(|recorded| recorded.id).collect();
    counting::recount(transaction, &keys, &buckets, &new).await
}

/// Returns what the catalogue has of the movies of `parts`, by identity.
async fn read_movies<'a, 'b>(
    transaction: &Transaction<'_>,
    parts: impl Iterator<Item = &'b Part<'a>>,
) -> Result<HashMap<Uuid, Movie<'a>>, StoreError>
where
    'a: 'b,
{
    let known = "
        /* batch::read_movies */
        select identity, id, content_hash from movies where identity = any($1)
        union all
        select identity, id, null from withdrawn_movies where identity = any($1)";
    let rows = parts.flat_map(|part| &part.rows);
    let mut movies: HashMap<Uuid, Movie> =
        rows.map(|(_, row)| (row.folded.identity, Movie::default())).collect();
    let identities: Vec<Uuid> = movies.keys().copied().collect();
    let statement = transaction.prepare_cached(known).await?;
    for row in transaction.query(&statement, &[&identities]).await? {
        if let Entry::Occupied(mut movie) = movies.entry(row.get(0)) {
            movie.get_mut().id = row.get(1);
            movie.get_mut().content_hash = row.get(2);
            movie.get_mut().is_stored = movie.get().content_hash.is_some();
        }
    }
    Ok(movies)
}

/// Reads which versions after `position` contain the movies that the catalogue has.
async fn read_newest(
    transaction: &Transaction<'_>,
    position: &VersionPosition,
    movies: &mut HashMap<Uuid, Movie<'_>>,
) -> Result<(), StoreError> {
    let mut by_id: HashMap<u64, &mut Movie> =
        movies.values_mut().filter_map(|movie| Some((movie.id?.cast_unsigned(), movie))).collect();
    let ids: RoaringTreemap = by_id.keys().copied().collect();
    let visit = |version: movie_sets::CountingVersion, contents: RoaringTreemap| {
        let position = version.position;
        for id in contents & &ids {
            if let Some(movie) = by_id.get_mut(&id)
                && movie.newest.as_ref().is_none_or(|newest| *newest < position)
            {
                movie.newest = Some(position.clone());
            }
        }
    };
    movie_sets::visit_later(transaction, position, &ids, visit).await
}

/// Applies one file to the movies. Appends to `new_movies` those that the catalogue lacks or has withdrawn.
fn apply<'a>(
    part: &Part<'a>,
    movies: &mut HashMap<Uuid, Movie<'a>>,
    new_movies: &mut Vec<Uuid>,
) -> Merged {
    let mut merged = Merged::default();
    for (record, row) in &part.rows {
        let Some(movie) = movies.get_mut(&row.folded.identity) else { continue };
        let is_outdated =
            movie.newest.as_ref().is_some_and(|newest| newest > part.version.position);
        if is_outdated || movie.content_hash == Some(row.content_hash) {
            merged.unchanged += 1;
            continue;
        }
        if movie.content_hash.is_none() {
            *if movie.id.is_some() { &mut merged.restored } else { &mut merged.inserted } += 1;
            new_movies.push(row.folded.identity);
        } else {
            merged.updated += 1;
        }
        movie.content_hash = Some(row.content_hash);
        movie.row = Some((part.version.ingest_id, *record, row));
    }
    merged
}

/// Writes the rows of the movies that get one. Sets the ids of the new ones.
async fn write_movies(
    transaction: &Transaction<'_>,
    movies: &mut HashMap<Uuid, Movie<'_>>,
    new_movies: &[Uuid],
) -> Result<(), StoreError> {
    let update = "
        /* batch::write_movies */
        update movies m
        set cast_lc = r.cast_lc, genres_lc = string_to_array(r.genres_lc, chr(31)),
            content_hash = r.content_hash, doc = r.doc,
            terms = array_to_tsvector(string_to_array(r.terms, ' ')), ingest_id = r.ingest_id,
            record = r.record, changed_at = now()
        from unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[],
            $7::bigint[], $8::bigint[])
            as r (id, cast_lc, genres_lc, content_hash, doc, terms, ingest_id, record)
        where m.id = r.id";
    let insert = "
        /* batch::write_movies */
        insert into movies (id, identity, title_lc, year, cast_lc, genres_lc, content_hash, doc,
            title_key, terms, ingest_id, record, changed_at)
        overriding system value
        select coalesce(id, nextval(pg_get_serial_sequence('movies', 'id'))), identity, title_lc, year,
            cast_lc, string_to_array(genres_lc, chr(31)), content_hash, doc, title_key,
            array_to_tsvector(string_to_array(terms, ' ')), ingest_id, record, now()
        from (
            select *
            from unnest($1::uuid[], $2::text[], $3::int[], $4::text[], $5::text[], $6::bigint[],
                $7::text[], $8::text[], $9::text[], $10::bigint[], $11::bigint[], $12::bigint[])
                with ordinality as r (identity, title_lc, year, cast_lc, genres_lc, content_hash, doc,
                title_key, terms, ingest_id, record, id, nth)
            order by nth
        ) r
        returning identity, id";
    let changed = movies.values().filter(|movie| movie.is_stored && movie.row.is_some());
    let ids: Vec<i64> = changed.clone().filter_map(|movie| movie.id).collect();
    if !ids.is_empty() {
        let rows = Rows::new(changed);
        let params: [&(dyn ToSql + Sync); 8] = [
            &ids,
            &rows.cast_lc,
            &rows.genres_lc,
            &rows.content_hash,
            &rows.doc,
            &rows.terms,
            &rows.ingest_id,
            &rows.record,
        ];
        execute(transaction, update, &params).await?;
        search::add_words(transaction, &words_of_terms(&rows.terms)).await?;
    }
    if !new_movies.is_empty() {
        let new = || new_movies.iter().filter_map(|identity| movies.get(identity));
        let rows = Rows::new(new());
        let ids: Vec<Option<i64>> = new().map(|movie| movie.id).collect();
        let restored: Vec<i64> = ids.iter().copied().flatten().collect();
        let params: [&(dyn ToSql + Sync); 12] = [
            &rows.identity,
            &rows.title_lc,
            &rows.year,
            &rows.cast_lc,
            &rows.genres_lc,
            &rows.content_hash,
            &rows.doc,
            &rows.title_key,
            &rows.terms,
            &rows.ingest_id,
            &rows.record,
            &ids,
        ];
        let statement = transaction.prepare_cached(insert).await?;
        for row in transaction.query(&statement, &params).await? {
            if let Entry::Occupied(mut movie) = movies.entry(row.get(0)) {
                movie.get_mut().id = row.get(1);
            }
        }
        if !restored.is_empty() {
            withdrawn::restored(transaction, &restored).await?;
        }
        search::add_words(transaction, &words_of_terms(&rows.terms)).await?;
    }
    Ok(())
}

/// Rows of movies as arrays, one for each column.
#[derive(Default)]
struct Rows<'a> {
    identity: Vec<Uuid>,
    title_lc: Vec<&'a str>,
    year: Vec<i32>,
    cast_lc: Vec<&'a str>,
    /// The genres of each movie, joined by the separator of names.
    genres_lc: Vec<String>,
    content_hash: Vec<i64>,
    doc: Vec<&'a str>,
    title_key: Vec<String>,
    terms: Vec<String>,
    ingest_id: Vec<Option<i64>>,
    record: Vec<i64>,
}

impl<'a> Rows<'a> {
    fn new<'b>(movies: impl Iterator<Item = &'b Movie<'a>>) -> Self
    where
        'a: 'b,
    {
        let mut rows = Self::default();
        for (ingest_id, record, row) in movies.filter_map(|movie| movie.row) {
            rows.identity.push(row.folded.identity);
            rows.title_lc.push(&row.folded.title_lc);
            rows.year.push(row.year);
            rows.cast_lc.push(&row.folded.cast_lc);
            rows.genres_lc.push(row.folded.joined_genres());
            rows.content_hash.push(row.content_hash);
            rows.doc.push(&row.doc);
            let search = SearchText::new(&row.folded.title_lc, row.year, &row.folded.cast_lc);
            rows.title_key.push(search.title_key);
            rows.terms.push(search.terms);
            rows.ingest_id.push(ingest_id);
            rows.record.push(record);
        }
        rows
    }
}
