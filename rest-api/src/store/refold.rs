//! Computes identity and folded text of each movie anew, after the rules of equal text or the Unicode tables
//! behind them have changed. Movies that become one are merged by the order of versions.
//!
//! Meanwhile queries are answered and no file is merged: a trigger refuses merges by other rules
//! (migration 11).

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use chrono::{DateTime, Utc};
use deadpool_postgres::{ClientWrapper, Transaction};
use serde::Deserialize;
use tokio::time::sleep;
use tokio_postgres::{Row, types::ToSql};
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    StoreError,
    catalogue_row::{FoldedText, NAME_SEPARATOR},
    edits,
    folding::FOLDING,
    history, holds, merge, movie_sets,
    search::{self, SearchText, words_of_terms},
    sql::execute,
};

/// How many movies one transaction reads, and how many bytes of documents: it ends after the first group of
/// movies that reaches one of the two.
const MAX_MOVIES: usize = 10_000;
const MAX_BYTES: usize = 16 << 20;

/// How many movies are received at once.
const GROUP: i32 = 500;

/// How often a step is tried that another transaction keeps from ending, and the pause before.
const ATTEMPTS: usize = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// After how many movies progress is logged.
const LOG_AFTER: usize = 100_000;

/// Computes the columns of all movies with [`FOLDING`], unless they were. A run that is interrupted
/// continues where it ended.
pub(super) async fn refold(client: &mut ClientWrapper) -> Result<(), StoreError> {
    let begin = "
        /* refold::refold */
        update catalogue
        set folding = null, next_folding = $1,
            folded_up_to = case when next_folding = $1 then folded_up_to else 0 end
        where folding is distinct from $1";
    if client.execute(begin, &[&FOLDING]).await? == 0 {
        return Ok(());
    }
    let (mut read, mut changed, mut merged) = (0, 0, 0);
    while let Some(step) = step_with_retry(client).await? {
        let is_logged = read / LOG_AFTER < (read + step.read) / LOG_AFTER;
        (read, changed, merged) = (read + step.read, changed + step.changed, merged + step.merged);
        if is_logged {
            info!(read, changed, merged, "computing the folded text of the movies");
        }
    }
    if changed > 0 {
        let vacuum = "
            /* refold::refold */
            vacuum (analyze) movies";
        client.batch_execute(vacuum).await?;
    }
    if read > 0 {
        info!(read, changed, merged, folding = FOLDING, "computed the folded text of all movies");
    }
    Ok(())
}

/// What one transaction did, in movies.
struct Step {
    read: usize,
    changed: usize,
    /// Those that became one with another movie.
    merged: usize,
}

/// Does a step, again if it fails: retention and backups take locks, too.
async fn step_with_retry(client: &mut ClientWrapper) -> Result<Option<Step>, StoreError> {
    for attempt in 1.. {
        match step(client).await {
            Err(StoreError::Unavailable(error)) if attempt < ATTEMPTS && !client.is_closed() => {
                warn!(error, "a step of the migration failed, will retry");
                sleep(PAUSE).await;
            }
            result => return result,
        }
    }
    Ok(None)
}

/// Computes the columns of the next movies. Returns none after the last one.
async fn step(client: &mut ClientWrapper) -> Result<Option<Step>, StoreError> {
    let progress = "
        /* refold::step */
        update catalogue set folded_up_to = $1";
    let finish = "
        /* refold::step */
        update catalogue set folding = next_folding, next_folding = null, folded_up_to = 0";
    let transaction = client.transaction().await?;
    merge::lock(&transaction).await?;
    let (read, last, mut movies) = read_next(&transaction).await?;
    let Some(last) = last else {
        refold_withdrawn(&transaction).await?;
        holds::refold(&transaction).await?;
        execute(&transaction, finish, &[]).await?;
        transaction.commit().await?;
        return Ok(None);
    };
    let changed = movies.len();
    read_twins(&transaction, &mut movies).await?;
    let merged = merge_equal(&transaction, &mut movies).await?;
    write(&transaction, &movies).await?;
    execute(&transaction, progress, &[&last]).await?;
    merge::increment_revision(&transaction, changed > 0).await?;
    transaction.commit().await?;
    Ok(Some(Step { read, changed, merged }))
}

/// A movie with its columns by the new rules.
#[derive(Clone, Debug)]
struct Movie {
    id: i64,
    changed_at: Option<DateTime<Utc>>,
    record: Option<i64>,
    folded: FoldedText,
    search: SearchText,
}

/// The properties of a movie that its columns are computed from.
#[derive(Deserialize)]
struct Texts {
    title: String,
    year: i64,
    href: Option<String>,
    #[serde(default)]
    cast: Vec<String>,
    #[serde(default)]
    genres: Vec<String>,
}

impl Movie {
    /// Returns the movie of a row.
    ///
    /// # Errors
    /// If its document is malformed.
    fn new(row: &Row) -> Result<Self, StoreError> {
        let id = row.get("id");
        let malformed = |error| StoreError::Setup(format!("movie {id} is malformed: {error}"));
        let Texts { title, year, href, cast, genres } =
            serde_json::from_str(row.get("doc")).map_err(malformed)?;
        let [cast, genres] = [&cast, &genres].map(|names| names.iter().map(String::as_str));
        let folded = FoldedText::new(&title, year, href.as_deref(), cast, genres);
        let year = i32::try_from(year).unwrap_or_default();
        let search = SearchText::new(&folded.title_lc, year, &folded.cast_lc);
        let (changed_at, record) = (row.get("changed_at"), row.get("record"));
        Ok(Self { id, changed_at, record, folded, search })
    }

    /// Returns whether the columns of `row` are those by the new rules.
    fn is_stored(&self, row: &Row) -> bool {
        let FoldedText { identity, title_lc, cast_lc, genres_lc } = &self.folded;
        *identity == row.get::<_, Uuid>("identity")
            && title_lc == row.get::<_, &str>("title_lc")
            && cast_lc == row.get::<_, &str>("cast_lc")
            && *genres_lc == row.get::<_, Vec<&str>>("genres_lc")
            && self.search.title_key == row.get::<_, &str>("title_key")
            && self.search.terms == row.get::<_, &str>("terms")
    }
}

/// Reads the next movies. Returns their number, the last id, and those whose columns change.
async fn read_next(
    transaction: &Transaction<'_>,
) -> Result<(usize, Option<i64>, Vec<Movie>), StoreError> {
    let next = "
        /* refold::read_next */
        select id, identity, title_lc, cast_lc, genres_lc, title_key,
            array_to_string(tsvector_to_array(terms), ' ') as terms, record, changed_at, doc
        from movies
        where id > (select folded_up_to from catalogue)
        order by id";
    let portal = transaction.bind(&transaction.prepare_cached(next).await?, &[]).await?;
    let (mut read, mut last, mut changed, mut size) = (0, None, Vec::new(), 0);
    while read < MAX_MOVIES && size < MAX_BYTES {
        let rows = transaction.query_portal(&portal, GROUP).await?;
        if rows.is_empty() {
            break;
        }
        for row in &rows {
            let movie = Movie::new(row)?;
            (read, last) = (read + 1, Some(movie.id));
            size += row.get::<_, &str>("doc").len();
            if !movie.is_stored(row) {
                changed.push(movie);
            }
        }
    }
    Ok((read, last, changed))
}

/// Adds the movies that have the new identity of one of `movies` already.
async fn read_twins(
    transaction: &Transaction<'_>,
    movies: &mut Vec<Movie>,
) -> Result<(), StoreError> {
    let twins = "
        /* refold::read_twins */
        select id, changed_at, record, doc from movies where identity = any($1) and id <> all($2)";
    let ids: Vec<i64> = movies.iter().map(|movie| movie.id).collect();
    let identities: Vec<Uuid> = movies.iter().map(|movie| movie.folded.identity).collect();
    for row in transaction.query(twins, &[&identities, &ids]).await? {
        movies.push(Movie::new(&row)?);
    }
    Ok(())
}

/// Merges the movies that have one identity: the first id remains, with the content of the newest version.
/// Returns the number of those that are gone.
async fn merge_equal(
    transaction: &Transaction<'_>,
    movies: &mut Vec<Movie>,
) -> Result<usize, StoreError> {
    let copy = "
        /* refold::merge_equal */
        update movies m
        set content_hash = w.content_hash, doc = w.doc, ingest_id = w.ingest_id,
            record = w.record, edited_by = w.edited_by, changed_at = w.changed_at
        from unnest($1::bigint[], $2::bigint[]) as g (remaining, winner)
        join movies w on w.id = g.winner
        where m.id = g.remaining";
    let remove = "
        /* refold::merge_equal */
        delete from movies where id = any($1)";
    let mut groups: BTreeMap<Uuid, Vec<Movie>> = BTreeMap::new();
    for movie in movies.drain(..) {
        groups.entry(movie.folded.identity).or_default().push(movie);
    }
    let equal = groups.values().filter(|group| group.len() > 1).flatten();
    let equal = equal.map(|movie| movie.id.cast_unsigned()).collect();
    let newest = movie_sets::newest_of_each(transaction, &equal).await?;
    let newest = |movie: &Movie| Some(&newest.get(&movie.id.cast_unsigned())?.position);
    let (mut remaining, mut winners, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    let mut replaced = HashMap::new();
    for group in groups.into_values() {
        // Of two movies of one version the later record wins. It is known if both changed at the same time.
        let order = |movie: &&Movie| (newest(movie), movie.changed_at, movie.record, movie.id);
        let Some(winner) = group.iter().max_by_key(order) else { continue };
        let first = group.iter().map(|movie| movie.id).min().unwrap_or(winner.id);
        if winner.id != first {
            remaining.push(first);
            winners.push(winner.id);
        }
        for movie in group.iter().filter(|movie| movie.id != first) {
            gone.push(movie.id);
            replaced.insert(movie.id.cast_unsigned(), first.cast_unsigned());
        }
        movies.push(Movie { id: first, ..winner.clone() });
    }
    if !gone.is_empty() {
        execute(transaction, copy, &[&remaining, &winners]).await?;
        execute(transaction, remove, &[&gone]).await?;
        replace(transaction, &replaced).await?;
    }
    Ok(gone.len())
}

/// Writes the columns of `movies`.
async fn write(transaction: &Transaction<'_>, movies: &[Movie]) -> Result<(), StoreError> {
    let write = "
        /* refold::write */
        update movies m
        set identity = r.identity, title_lc = r.title_lc, cast_lc = r.cast_lc,
            genres_lc = string_to_array(r.genres_lc, $6), title_key = r.title_key,
            terms = array_to_tsvector(string_to_array(r.terms, ' '))
        from unnest($1::bigint[], $2::uuid[], $3::text[], $4::text[], $5::text[], $7::text[],
            $8::text[]) as r (id, identity, title_lc, cast_lc, genres_lc, title_key, terms)
        where m.id = r.id";
    let make_room = "
        /* refold::write */
        update movies m
        set identity = gen_random_uuid()
        from unnest($1::bigint[], $2::uuid[]) as r (id, identity)
        where m.identity = r.identity and m.id <> r.id";
    if movies.is_empty() {
        return Ok(());
    }
    let folded = || movies.iter().map(|movie| &movie.folded);
    let ids: Vec<i64> = movies.iter().map(|movie| movie.id).collect();
    let identities: Vec<Uuid> = folded().map(|folded| folded.identity).collect();
    let titles: Vec<&str> = folded().map(|folded| &*folded.title_lc).collect();
    let casts: Vec<&str> = folded().map(|folded| &*folded.cast_lc).collect();
    let genres: Vec<String> = folded().map(FoldedText::joined_genres).collect();
    let separator = NAME_SEPARATOR.to_string();
    let search = movies.iter().map(|movie| &movie.search);
    let keys: Vec<&str> = search.clone().map(|search| &*search.title_key).collect();
    let terms: Vec<&str> = search.map(|search| &*search.terms).collect();
    let params: [&(dyn ToSql + Sync); 8] =
        [&ids, &identities, &titles, &casts, &genres, &separator, &keys, &terms];
    // Two movies may exchange their identities. The index is checked for each row.
    execute(transaction, make_room, &[&ids, &identities]).await?;
    execute(transaction, write, &params).await?;
    search::add_words(transaction, &words_of_terms(&terms)).await
}

/// Computes the identities of withdrawn movies. One that has become equal to another movie gives way to that one:
/// to the movie of the catalogue, or to the first withdrawn one.
async fn refold_withdrawn(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    let all = "
        /* refold::refold_withdrawn */
        select id, identity, doc from withdrawn_movies order by id";
    let live = "
        /* refold::refold_withdrawn */
        select identity, id from movies where identity = any($1)";
    let remove = "
        /* refold::refold_withdrawn */
        delete from withdrawn_movies where id = any($1)";
    // Two movies may exchange their identities. The index is checked for each row.
    let make_room = "
        /* refold::refold_withdrawn */
        update withdrawn_movies set identity = gen_random_uuid() where id = any($1)";
    let write = "
        /* refold::refold_withdrawn */
        update withdrawn_movies w
        set identity = r.identity
        from unnest($1::bigint[], $2::uuid[]) as r (id, identity)
        where w.id = r.id";
    let mut first: BTreeMap<Uuid, i64> = BTreeMap::new();
    let mut replaced = HashMap::new();
    let (mut ids, mut identities) = (Vec::new(), Vec::new());
    for row in transaction.query(all, &[]).await? {
        let id: i64 = row.get("id");
        let malformed =
            |error| StoreError::Setup(format!("withdrawn movie {id} is malformed: {error}"));
        let Texts { title, year, href, .. } =
            serde_json::from_str(row.get("doc")).map_err(malformed)?;
        let none = std::iter::empty;
        let folded = FoldedText::new(&title, year, href.as_deref(), none(), none());
        if let Some(first) = first.get(&folded.identity) {
            replaced.insert(id.cast_unsigned(), first.cast_unsigned());
            continue;
        }
        first.insert(folded.identity, id);
        if folded.identity != row.get::<_, Uuid>("identity") {
            ids.push(id);
            identities.push(folded.identity);
        }
    }
    let all: Vec<Uuid> = first.keys().copied().collect();
    for row in transaction.query(live, &[&all]).await? {
        if let Some(id) = first.get(&row.get::<_, Uuid>(0)) {
            let (id, live) = (id.cast_unsigned(), row.get::<_, i64>(1).cast_unsigned());
            replaced.values_mut().filter(|by| **by == id).for_each(|by| *by = live);
            replaced.insert(id, live);
        }
    }
    let gone: Vec<i64> = replaced.keys().map(|id| id.cast_signed()).collect();
    execute(transaction, remove, &[&gone]).await?;
    execute(transaction, make_room, &[&ids]).await?;
    execute(transaction, write, &[&ids, &identities]).await?;
    replace(transaction, &replaced).await
}

/// Replaces movies by others in what versions contain and people have written: `replaced` has the new id of each. What
/// they were is forgotten.
async fn replace(
    transaction: &Transaction<'_>,
    replaced: &HashMap<u64, u64>,
) -> Result<(), StoreError> {
    history::forget(transaction, replaced.keys()).await?;
    movie_sets::replace(transaction, replaced).await?;
    edits::replace(transaction, replaced).await?;
    holds::replace(transaction, replaced).await
}
