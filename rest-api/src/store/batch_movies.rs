//! The movies of a batch of small files: what the catalogue has of them, what the files make of them, and what is
//! written.

use std::collections::{HashMap, hash_map::Entry};

use deadpool_postgres::Transaction;
use roaring::RoaringTreemap;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{
    CatalogueRow, Merged, StoreError, VersionPosition,
    holds::HeldMovie,
    merged_versions::MergedVersion,
    movie_sets,
    search::{self, SearchText, words_of_terms},
    sql::execute,
    withdrawn,
};

/// One file of a batch, or what a client writes.
pub(super) struct Part<'a> {
    pub(super) version: MergedVersion<'a>,
    /// Whether it may withdraw as many movies as it does.
    pub(super) is_approved: bool,
    /// Who writes it, if it is no file.
    edited_by: Option<&'a str>,
    /// Whether it changes held movies, too.
    ignores_holds: bool,
    /// The last record of each movie, and its index.
    pub(super) rows: Vec<(i64, &'a CatalogueRow)>,
}

impl<'a> Part<'a> {
    /// Returns a file; within one file the later record of a movie wins.
    pub(super) fn new(
        version: MergedVersion<'a>,
        rows: &'a [CatalogueRow],
        is_approved: bool,
    ) -> Self {
        let mut last: HashMap<Uuid, i64> = HashMap::with_capacity(rows.len());
        last.extend((0..).zip(rows).map(|(record, row)| (row.folded.identity, record)));
        let rows =
            (0..).zip(rows).filter(|(record, row)| last.get(&row.folded.identity) == Some(record));
        Self { version, is_approved, edited_by: None, ignores_holds: false, rows: rows.collect() }
    }

    /// Returns what a client writes.
    pub(super) fn of_client(
        version: MergedVersion<'a>,
        rows: &'a [CatalogueRow],
        by: &'a str,
    ) -> Self {
        Self { edited_by: Some(by), ..Self::new(version, rows, false) }
    }

    /// Returns the content of edits, which is written whether the movies are held or not.
    pub(super) fn of_edits(
        version: MergedVersion<'a>,
        rows: &'a [CatalogueRow],
        by: &'a str,
    ) -> Self {
        Self { ignores_holds: true, ..Self::of_client(version, rows, by) }
    }
}

/// A movie that files of the batch contain.
#[derive(Default)]
pub(super) struct Movie<'a> {
    /// Its id; none if the catalogue never had it.
    pub(super) id: Option<i64>,
    /// Whether the catalogue has it, and did not withdraw it.
    is_stored: bool,
    /// Whether files do not change it.
    is_held: bool,
    /// The hash of its content so far.
    content_hash: Option<i64>,
    /// The newest version that contains it and that was merged before.
    newest: Option<VersionPosition>,
    /// The row that it gets.
    row: Option<NewRow<'a>>,
}

/// The row that a movie gets.
#[derive(Clone, Copy)]
struct NewRow<'a> {
    ingest_id: Option<i64>,
    /// The index of the record.
    record: i64,
    edited_by: Option<&'a str>,
    content: &'a CatalogueRow,
}

/// Returns what the catalogue has of the movies of `parts`, by identity.
pub(super) async fn read_movies<'a, 'b>(
    transaction: &Transaction<'_>,
    parts: impl Iterator<Item = &'b Part<'a>>,
) -> Result<HashMap<Uuid, Movie<'a>>, StoreError>
where
    'a: 'b,
{
    let known = "
        /* batch_movies::read_movies */
        select movie.*, exists (select from holds h where h.movie_id = movie.id) as is_held
        from (
            select identity, id, content_hash from movies where identity = any($1)
            union all
            select identity, id, null from withdrawn_movies where identity = any($1)
        ) movie";
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
            movie.get_mut().is_held = row.get(3);
        }
    }
    Ok(movies)
}

/// Reads which versions after `position` contain the movies that the catalogue has.
pub(super) async fn read_newest(
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

/// Applies one file to the movies. Appends to `new_movies` those that the catalogue lacks or has withdrawn, and to
/// `held` those that it does not change because they are held.
pub(super) fn apply<'a>(
    part: &Part<'a>,
    movies: &mut HashMap<Uuid, Movie<'a>>,
    new_movies: &mut Vec<Uuid>,
    held: &mut Vec<HeldMovie>,
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
        if let (true, Some(id)) = (movie.is_held && !part.ignores_holds, movie.id) {
            let (ingest_id, record) = (part.version.ingest_id, Some(*record));
            held.push(HeldMovie { ingest_id, record, id });
            merged.held += 1;
            continue;
        }
        if movie.content_hash.is_none() {
            *if movie.id.is_some() { &mut merged.restored } else { &mut merged.inserted } += 1;
            new_movies.push(row.folded.identity);
        } else {
            merged.updated += 1;
        }
        movie.content_hash = Some(row.content_hash);
        let ingest_id = part.version.ingest_id;
        let edited_by = part.edited_by;
        movie.row = Some(NewRow { ingest_id, record: *record, edited_by, content: row });
    }
    merged
}

/// Writes the rows of the movies that get one. Sets the ids of the new ones.
pub(super) async fn write_movies(
    transaction: &Transaction<'_>,
    movies: &mut HashMap<Uuid, Movie<'_>>,
    new_movies: &[Uuid],
) -> Result<(), StoreError> {
    let update = "
        /* batch_movies::write_movies */
        update movies m
        set cast_lc = r.cast_lc, genres_lc = string_to_array(r.genres_lc, chr(31)),
            content_hash = r.content_hash, doc = r.doc,
            terms = array_to_tsvector(string_to_array(r.terms, ' ')), ingest_id = r.ingest_id,
            record = r.record, edited_by = r.edited_by, changed_at = now()
        from unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[],
            $7::bigint[], $8::bigint[], $9::text[])
            as r (id, cast_lc, genres_lc, content_hash, doc, terms, ingest_id, record, edited_by)
        where m.id = r.id";
    let insert = "
        /* batch_movies::write_movies */
        insert into movies (id, identity, title_lc, year, cast_lc, genres_lc, content_hash, doc,
            title_key, terms, ingest_id, record, edited_by, changed_at)
        overriding system value
        select coalesce(id, nextval(pg_get_serial_sequence('movies', 'id'))), identity, title_lc, year,
            cast_lc, string_to_array(genres_lc, chr(31)), content_hash, doc, title_key,
            array_to_tsvector(string_to_array(terms, ' ')), ingest_id, record, edited_by, now()
        from (
            select *
            from unnest($1::uuid[], $2::text[], $3::int[], $4::text[], $5::text[], $6::bigint[],
                $7::text[], $8::text[], $9::text[], $10::bigint[], $11::bigint[], $12::bigint[],
                $13::text[])
                with ordinality as r (identity, title_lc, year, cast_lc, genres_lc, content_hash, doc,
                title_key, terms, ingest_id, record, id, edited_by, nth)
            order by nth
        ) r
        returning identity, id";
    let changed = movies.values().filter(|movie| movie.is_stored && movie.row.is_some());
    let ids: Vec<i64> = changed.clone().filter_map(|movie| movie.id).collect();
    if !ids.is_empty() {
        let rows = Rows::new(changed);
        let params: [&(dyn ToSql + Sync); 9] = [
            &ids,
            &rows.cast_lc,
            &rows.genres_lc,
            &rows.content_hash,
            &rows.doc,
            &rows.terms,
            &rows.ingest_id,
            &rows.record,
            &rows.edited_by,
        ];
        execute(transaction, update, &params).await?;
        search::add_words(transaction, &words_of_terms(&rows.terms)).await?;
    }
    if !new_movies.is_empty() {
        let new = || new_movies.iter().filter_map(|identity| movies.get(identity));
        let rows = Rows::new(new());
        let ids: Vec<Option<i64>> = new().map(|movie| movie.id).collect();
        let restored: Vec<i64> = ids.iter().copied().flatten().collect();
        let params: [&(dyn ToSql + Sync); 13] = [
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
            &rows.edited_by,
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
    edited_by: Vec<Option<&'a str>>,
}

impl<'a> Rows<'a> {
    fn new<'b>(movies: impl Iterator<Item = &'b Movie<'a>>) -> Self
    where
        'a: 'b,
    {
        let mut rows = Self::default();
        for new in movies.filter_map(|movie| movie.row) {
            let row = new.content;
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
            rows.ingest_id.push(new.ingest_id);
            rows.record.push(new.record);
            rows.edited_by.push(new.edited_by);
        }
        rows
    }
}
