//! Search: movies whose title and cast match what was typed, the best matches first.
//!
//! - `words` splits text into words, `terms` is what the index has of a movie.
//! - `dictionary` corrects typing errors.
//! - `tiers` are the ways to match, `condition` the conditions on terms, `query` the statement.
//! - `frequencies` tells how common terms are, for the plans.
//! - `results` has all results, for counts and exports.
//! - `suggest` completes what is being typed.
//!
//! docs/adr/0012-search.md has the reasons and figures.

mod condition;
mod dictionary;
mod frequencies;
mod pairs;
mod query;
mod results;
mod suggest;
mod terms;
mod tiers;
mod words;

use std::pin::pin;

use deadpool_postgres::{GenericClient, Transaction};
use futures_util::TryStreamExt;
use tokio_postgres::IsolationLevel;

use super::{
    Filters, FoundById, MovieDocument, Revision, Store, StoreError,
    reads::{self, Lent, ReadPool},
    sql::{self, ListQuery},
};
pub(super) use dictionary::{add_staged, add_words};
use frequencies::Frequencies;
pub(super) use frequencies::KnownFrequencies;
pub(super) use pairs::Field;
use query::Composer;
pub use query::SearchPosition;
pub(super) use results::Results;
pub use suggest::{Suggestion, SuggestionKind};
pub(super) use terms::{SearchText, words_of_terms};
use tiers::Tier;
pub(super) use tiers::score;

/// A page ends early, with a link to the next one, when its movies have more than this many bytes.
const MAX_PAGE: usize = 2 << 20;

/// The largest number of words of a search. Further ones are ignored.
const MAX_WORDS: usize = 32;

/// Selects one page of the movies that match what was typed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SearchQuery {
    /// The words, as search compares them.
    words: Vec<String>,
    /// What the movies match, too.
    pub filters: Filters,
    /// The largest number of movies.
    pub limit: i64,
    /// Where the previous page ended.
    pub after: Option<SearchPosition>,
}

/// A movie, and how well it matches.
#[derive(Debug)]
pub struct FoundMovie {
    /// The movie.
    pub movie: MovieDocument,
    /// Its rank: smaller is better.
    rank: i32,
    /// Whether movies with the last word only begun are results.
    is_begun: bool,
}

/// The movies of one page.
#[derive(Debug)]
pub struct SearchPage {
    /// The state of the catalogue that the page is of. None if no state can have a movie that matches.
    pub revision: Option<Revision>,
    /// The best match first.
    pub movies: Vec<FoundMovie>,
    /// Whether more movies follow the last one.
    pub has_more: bool,
    /// Whether rows were left that the database may still send.
    is_cut: bool,
}

/// Returns text that is equal for all texts that search takes for the same.
pub fn search_key(text: &str) -> String {
    words::words(text).join(" ")
}

impl SearchQuery {
    /// Returns the query of the movies that match `text` and `filters`.
    pub fn new(text: &str, filters: Filters, limit: i64, after: Option<SearchPosition>) -> Self {
        let mut words = words::words(text);
        words.truncate(MAX_WORDS);
        Self { words, filters, limit, after }
    }

    /// Returns text that is the same for all queries that differ in spelling, order and repetition alone.
    pub fn normalised(&self) -> String {
        let Self { words, filters, limit, after } = self;
        format!("{words:?} {:?} {limit} {after:?}", filters.normalised())
    }
}

impl FoundMovie {
    /// Returns how well the movie matches: at most 1, larger is better.
    pub fn score(&self) -> f64 {
        tiers::score(self.rank)
    }

    /// Returns its position in the order of results.
    pub fn position(&self) -> SearchPosition {
        SearchPosition { rank: self.rank, id: self.movie.id, is_begun: self.is_begun }
    }
}

impl Store {
    /// Returns the movies that match `query`, of the state `at_least` of the catalogue or a newer one.
    ///
    /// # Errors
    /// [`StoreError::CursorGone`] if the last movie of the previous page is gone, and with it its position. If
    /// the database is unavailable, or the search takes too long.
    pub async fn search(
        &self,
        query: &SearchQuery,
        at_least: Revision,
    ) -> Result<SearchPage, StoreError> {
        let mut page = self.read_search(&self.pools.search, query).await?;
        if !self.is_page_recent(page.revision, at_least) {
            page = self.read_search(&self.pools.primary_search, query).await?;
        }
        let has_beginning =
            page.movies.first().is_some_and(|first| first.rank == tiers::TITLE_BEGINS);
        if let Some(last) = query.after
            && last.rank == tiers::TITLE_BEGINS
            && !has_beginning
        {
            // Without the last title its position is unknown.
            let revision = page.revision.unwrap_or(at_least);
            if !matches!(self.movie(last.id, revision).await?.1, FoundById::Movie(_)) {
                return Err(StoreError::CursorGone);
            }
        }
        Ok(page)
    }

    /// Returns whether a page of `revision` need not be read again from the primary database. A page without a
    /// revision may lack the words that a reader has not got yet.
    pub(super) fn is_page_recent(&self, revision: Option<Revision>, at_least: Revision) -> bool {
        revision.map_or(!self.has_read_host, |revision| self.is_recent(revision, at_least))
    }

    async fn read_search(
        &self,
        pool: &ReadPool,
        query: &SearchQuery,
    ) -> Result<SearchPage, StoreError> {
        let mut connection = pool.lend(query.filters.cost()).await?;
        let frequencies = self.frequencies.get(&*connection).await?;
        let transaction = snapshot(&mut connection).await?;
        let page = search(&transaction, query, &frequencies).await?;
        // It ends before the next statement of the connection, and nobody waits for its end.
        drop(transaction);
        // After a page that ended early, the rest of the rows is not waited for.
        if !page.is_cut {
            reads::finish(connection);
        }
        Ok(page)
    }
}

/// Begins a transaction whose statements all read one state of the catalogue.
pub(super) async fn snapshot(connection: &mut Lent) -> Result<Transaction<'_>, StoreError> {
    let builder = connection.build_transaction().read_only(true);
    Ok(builder.isolation_level(IsolationLevel::RepeatableRead).start().await?)
}

/// Reads a page: of the movies that match what was typed (if there are none, with the last word only begun), and of
/// the whole titles and names that may have been meant. If there are none, of the movies with words that may have
/// been meant; and if there are none either, of those that lack a word.
async fn search(
    transaction: &impl GenericClient,
    query: &SearchQuery,
    frequencies: &Frequencies,
) -> Result<SearchPage, StoreError> {
    let mut page = Page::new(query.limit);
    let start = query.after.map_or(tiers::EXACT, |after| after.rank);
    let (words, is_first) = (&query.words, query.after.is_none());
    if words.is_empty() {
        return Ok(page.page);
    }
    let mut known = tiers::exact(words);
    if start < tiers::NAME_BEGUN {
        page.read(transaction, exact_query(query, &known, frequencies)).await?;
    }
    let compose = |known: &[Tier], tiers: &[Tier], missing| {
        compose(query, known, tiers, frequencies, missing)
    };
    page.is_begun = query.after.map_or(page.is_empty(), |after| after.is_begun);
    if page.is_begun {
        let begun = tiers::begun(words);
        if start < tiers::CORRECTED {
            page.read(transaction, compose(&known, &begun, page.missing())).await?;
        }
        known.extend(begun);
    }
    if page.is_full() || words.len() > tiers::MAX_CORRECTED {
        return Ok(page.page);
    }
    let corrections = &dictionary::corrections(transaction, words).await?;
    if start < tiers::WORDS_CORRECTED {
        let corrected = tiers::corrected(words, corrections);
        page.read(transaction, compose(&known, &corrected, page.missing())).await?;
    }
    let is_next = |rank| is_first || start >= rank;
    if page.is_empty() && is_next(tiers::WORDS_CORRECTED) && start < tiers::ONE_MISSING {
        let corrected = tiers::words_corrected(words, corrections);
        page.read(transaction, compose(&known, &corrected, page.missing())).await?;
    }
    if page.is_empty() && is_next(tiers::ONE_MISSING) {
        let incomplete = tiers::one_missing(words, corrections);
        page.read(transaction, compose(&known, &incomplete, page.missing())).await?;
    }
    Ok(page.page)
}

/// Reads the movies that match what was typed with the last word only begun, and not as it was typed.
async fn search_begun(
    transaction: &impl GenericClient,
    query: &SearchQuery,
    frequencies: &Frequencies,
) -> Result<SearchPage, StoreError> {
    let mut page = Page::new(query.limit);
    page.is_begun = true;
    let (known, begun) = (tiers::exact(&query.words), tiers::begun(&query.words));
    page.read(transaction, compose(query, &known, &begun, frequencies, query.limit)).await?;
    Ok(page.page)
}

/// Composes the statement of the movies that match what was typed. None if no movie can match.
fn exact_query(
    query: &SearchQuery,
    exact: &[Tier],
    frequencies: &Frequencies,
) -> Option<ListQuery> {
    let (title, others) = exact.split_at_checked(1)?;
    let mut composer = Composer::new(query, exact.iter(), frequencies, query.limit);
    composer.push_tiers(title)?;
    composer.push_beginnings()?;
    composer.push_tiers(others)?;
    composer.finish()
}

/// Composes the statement of up to `limit` movies of some tiers, whose ranks follow those of the known ones. None if
/// no movie can match.
fn compose(
    query: &SearchQuery,
    known: &[Tier],
    tiers: &[Tier],
    frequencies: &Frequencies,
    limit: i64,
) -> Option<ListQuery> {
    let mut composer = Composer::new(query, known.iter().chain(tiers), frequencies, limit);
    composer.push_tiers(tiers)?;
    composer.finish()
}

/// A page that is being read.
struct Page {
    page: SearchPage,
    limit: usize,
    /// Whether movies with the last word only begun are results.
    is_begun: bool,
    /// The size of its movies, in bytes.
    size: usize,
}

impl Page {
    fn new(limit: i64) -> Self {
        let page =
            SearchPage { revision: None, movies: Vec::new(), has_more: false, is_cut: false };
        Self { page, limit: usize::try_from(limit).unwrap_or_default(), is_begun: false, size: 0 }
    }

    fn is_full(&self) -> bool {
        self.page.has_more
    }

    fn is_empty(&self) -> bool {
        self.page.movies.is_empty()
    }

    /// Returns how many movies are missing.
    fn missing(&self) -> i64 {
        self.limit.saturating_sub(self.page.movies.len()).try_into().unwrap_or(i64::MAX)
    }

    /// Appends the movies of a statement.
    async fn read(
        &mut self,
        transaction: &impl GenericClient,
        sql: Option<ListQuery>,
    ) -> Result<(), StoreError> {
        let Some(sql) = sql else { return Ok(()) };
        let mut rows = pin!(sql::query_raw(transaction, &sql).await?);
        if let Some(row) = rows.try_next().await? {
            self.page.revision = Revision::of_first_row(&row);
        }
        while let Some(row) = rows.try_next().await? {
            if self.page.movies.len() == self.limit || self.size > MAX_PAGE {
                self.page.has_more = true;
                self.page.is_cut = self.size > MAX_PAGE;
                break;
            }
            let movie = MovieDocument { id: row.get("id"), json: row.get("doc") };
            self.size += movie.json.len();
            let is_begun = self.is_begun;
            self.page.movies.push(FoundMovie { movie, rank: row.get("rank"), is_begun });
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::{dictionary::Correction, results::NO_LIMIT, *};
    use crate::store::counts::{Selected, genres_query, years_query};

    /// Returns the texts of statements of searches: of each stage, with and without a start, of few movies and of
    /// many, of a page and of all results.
    pub(in crate::store) fn composed_queries() -> Vec<String> {
        let correction = |word: &str| vec![Correction { edits: 1, word: word.to_owned() }];
        let mut queries = Vec::new();
        let after = |rank| Some(SearchPosition { rank, id: 1, is_begun: true });
        for (text, corrections) in [
            ("star", vec![correction("tsar")]),
            ("the star wars", vec![Vec::new(), correction("tsar"), correction("war")]),
        ] {
            let filters = Filters { titles: vec!["night".to_owned()], ..Filters::default() };
            let starts = [None, after(0), after(10), after(20), after(60), after(70), after(111)];
            for (frequencies, after) in [Frequencies::default(), Frequencies::all_common()]
                .iter()
                .flat_map(|frequencies| starts.map(|after| (frequencies, after)))
            {
                let query = SearchQuery::new(text, filters.clone(), 10, after);
                let words = &query.words;
                let exact = tiers::exact(words);
                queries.extend(exact_query(&query, &exact, frequencies));
                for tiers in [
                    tiers::begun(words),
                    tiers::corrected(words, &corrections),
                    tiers::words_corrected(words, &corrections),
                    tiers::one_missing(words, &corrections),
                ] {
                    queries.extend(compose(&query, &exact, &tiers, frequencies, 10));
                }
            }
            for frequencies in [Frequencies::default(), Frequencies::all_common()] {
                let query = SearchQuery::new(text, filters.clone(), NO_LIMIT, None);
                let (exact, begun) = (tiers::exact(&query.words), tiers::begun(&query.words));
                let further = vec![begun, tiers::words_corrected(&query.words, &corrections)];
                let frequencies = Arc::new(frequencies);
                let results = Results { query, frequencies, exact, further };
                queries.extend(results.statements());
                let selected = Selected::Results(&results);
                queries.extend(genres_query(&selected));
                queries.extend(years_query(&selected));
            }
        }
        queries.into_iter().map(|query| query.text).collect()
    }
}
