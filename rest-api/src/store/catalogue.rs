//! Queries on the catalogue: one statement, composed from the filters that are present.

use chrono::{DateTime, Utc};
use futures_util::{TryStreamExt, pin_mut};
use serde::Serialize;

use super::{
    Store, StoreError,
    catalogue_row::{NAME_SEPARATOR, fold_genre},
    folding::fold,
    reads,
    sql::{ListQuery, query_opt},
};

/// A page ends early, with a link to the next one, when its movies have more than this many bytes.
const MAX_PAGE: usize = 2 << 20;

/// The largest number of prepared statements that are kept for a connection.
const MAX_STATEMENTS: usize = 200;

/// The filters of a query. A movie must match all of them. Text is as the client sent it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Filters {
    /// Substrings of the title.
    pub titles: Vec<String>,
    /// Substrings of the name of any one cast member each.
    pub actors: Vec<String>,
    /// Whole genres.
    pub genres: Vec<String>,
    /// Years.
    pub years: Vec<i64>,
}

/// The order of the movies. Ties go by id, ascending.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Sort {
    /// The order of arrival.
    #[default]
    Id,
    /// By folded title, by code point.
    Title,
    /// By title, descending.
    TitleDown,
    /// By year.
    Year,
    /// By year, descending.
    YearDown,
}

/// Selects one page of the catalogue.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MovieQuery {
    /// Which movies.
    pub filters: Filters,
    /// In which order.
    pub sort: Sort,
    /// The largest number of movies.
    pub limit: i64,
    /// The id of the last movie of the previous page. The title and year of a movie never change, so
    /// its id determines its position in every order.
    pub after: Option<i64>,
}

/// A movie as the catalogue stores it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MovieDocument {
    /// The movie's id.
    pub id: i64,
    /// Its other properties: a JSON object, which is never empty.
    pub json: String,
}

/// The movies of one page.
#[derive(Debug)]
pub struct MoviePage {
    /// In the order of the query.
    pub movies: Vec<MovieDocument>,
    /// Whether more movies follow the last one.
    pub has_more: bool,
}

/// A movie, and where its content comes from.
#[derive(Debug)]
pub struct MovieWithProvenance {
    /// The movie.
    pub movie: MovieDocument,
    /// Where its content comes from.
    pub provenance: Provenance,
}

/// Where the present content of a movie comes from. `ingest` and the object are null if a client
/// posted the movie. All fields are null if the content was stored before migration 2.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the fields are the API's, described there")]
pub struct Provenance {
    pub ingest: Option<i64>,
    pub bucket: Option<String>,
    pub key: Option<String>,
    pub version_id: Option<String>,
    pub record: Option<i64>,
    pub changed_at: Option<DateTime<Utc>>,
}

impl Store {
    /// Returns the movies that match `query`.
    ///
    /// # Errors
    /// If the database is unavailable, or the query takes too long.
    pub async fn movies(&self, query: &MovieQuery) -> Result<MoviePage, StoreError> {
        let mut page = MoviePage { movies: Vec::new(), has_more: false };
        let Some(sql) = page_query(query) else { return Ok(page) };
        let connection = self.reader().await?;
        // Clients compose the statements, in any number of variants.
        if connection.statement_cache.size() > MAX_STATEMENTS {
            connection.statement_cache.clear();
        }
        let statement = connection.prepare_cached(&sql.text).await?;
        let rows = connection.query_raw(&statement, sql.params()).await?;
        pin_mut!(rows);

        let limit = usize::try_from(query.limit).unwrap_or(0);
        let mut size = 0;
        while let Some(row) = rows.try_next().await? {
            if page.movies.len() == limit || size > MAX_PAGE {
                page.has_more = true;
                break;
            }
            let movie = MovieDocument { id: row.get("id"), json: row.get("doc") };
            size += movie.json.len();
            page.movies.push(movie);
        }
        // After a page that ended early, the rest of the rows is not waited for.
        if size <= MAX_PAGE {
            reads::finish(connection);
        }
        Ok(page)
    }

    /// Returns the movie with this id, and the provenance of its content.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn movie(&self, id: i64) -> Result<Option<MovieWithProvenance>, StoreError> {
        let movie = "
            /* catalogue::movie */
            select m.id, m.doc, i.id as ingest, i.bucket, i.key, i.version_id, m.record, m.changed_at
            from movies m left join ingests i on i.id = m.ingest_id
            where m.id = $1";
        let connection = self.reader().await?;
        let row = query_opt(&*connection, movie, &[&id]).await?;
        reads::finish(connection);
        Ok(row.map(|row| MovieWithProvenance {
            movie: MovieDocument { id: row.get("id"), json: row.get("doc") },
            provenance: Provenance {
                ingest: row.get("ingest"),
                bucket: row.get("bucket"),
                key: row.get("key"),
                version_id: row.get("version_id"),
                record: row.get("record"),
                changed_at: row.get("changed_at"),
            },
        }))
    }
}

/// Composes the query of a page. None if no movie can match.
fn page_query(query: &MovieQuery) -> Option<ListQuery> {
    let mut sql = ListQuery::new(
        "
        /* catalogue::page_query */
        select id, doc from movies where true",
    );
    for title in &query.filters.titles {
        push_contains(&mut sql, "title_lc", title)?;
    }
    for actor in &query.filters.actors {
        if actor.contains(NAME_SEPARATOR) {
            return None;
        }
        push_contains(&mut sql, "cast_lc", actor)?;
    }
    for genre in &query.filters.genres {
        let genre = sql.bind(vec![searchable(fold_genre(genre))?]);
        sql.push(&format!(" and genres_lc @> {genre}"));
    }
    if !query.filters.years.is_empty() {
        let years = query.filters.years.iter().filter_map(|year| i32::try_from(*year).ok());
        let years = years.collect::<Vec<i32>>();
        if years.is_empty() {
            return None;
        }
        let years = sql.bind(years);
        sql.push(&format!(" and year = any({years})"));
    }
    push_order(&mut sql, query);
    let limit = sql.bind(query.limit + 1);
    sql.push(&format!(" limit {limit}"));
    Some(sql)
}

/// Returns text that the database accepts. It refuses U+0000, which no stored text contains.
fn searchable(text: String) -> Option<String> {
    if text.contains('\0') { None } else { Some(text) }
}

/// Adds the filter that `column` contains `part`. Returns none if no stored text can match.
fn push_contains(sql: &mut ListQuery, column: &str, part: &str) -> Option<()> {
    let folded = searchable(fold(part))?;
    let escaped = folded.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_");
    let pattern = sql.bind(format!("%{escaped}%"));
    // Without three letters in a row there is no trigram to look up, and Postgres would read the
    // whole index. The appended `|| ''` keeps the planner from that.
    let no_index = if has_trigram(&folded) { "" } else { " || ''" };
    sql.push(&format!(" and {column}{no_index} like {pattern}"));
    Some(())
}

/// Whether an index can find `text` in titles or names: it has three characters in a row that pg_trgm
/// counts.
pub fn is_indexable(text: &str) -> bool {
    has_trigram(&fold(text))
}

/// Whether `text` has three letters or ASCII digits in a row.
fn has_trigram(text: &str) -> bool {
    let mut run = 0;
    text.chars().any(|c| {
        run = if c.is_ascii_digit() || is_common_letter(c) { run + 1 } else { 0 };
        run >= 3
    })
}

/// Whether `c` is a letter for pg_trgm, too. Which letters that knows depends on the Unicode version of
/// the database's locale. So these are the ranges to which no letters have been added for long.
fn is_common_letter(c: char) -> bool {
    let is_common = matches!(c,
        'A'..='\u{2ff}' // Latin
        | '\u{370}'..='\u{7ff}' // Greek, Cyrillic, Armenian, Hebrew, Arabic
        | '\u{900}'..='\u{bff}' // Devanagari to Tamil
        | '\u{e00}'..='\u{e7f}' // Thai
        | '\u{10d0}'..='\u{11ff}' // Georgian, Hangul
        | '\u{1e00}'..='\u{1fff}' // Latin, Greek
        | '\u{3040}'..='\u{30ff}' // Hiragana, Katakana
        | '\u{4e00}'..='\u{9fcc}' // Chinese characters
        | '\u{ac00}'..='\u{d7a3}' // Hangul
    );
    is_common && c.is_alphabetic()
}

/// Adds the start of the page and its order. Ties ascend in both directions, which a comparison of
/// rows cannot express. So a descending start has two conditions: one for the index, and an exact one.
fn push_order(sql: &mut ListQuery, query: &MovieQuery) {
    let after = query.after.map(|id| sql.bind(id));
    let after = after.as_deref();
    let last =
        |expression: &str, id: &str| format!("(select {expression} from movies where id = {id})");
    // The index has a prefix of the title. The whole title after it makes the order exact.
    let prefix = "left(title_lc, 256)";
    let (start, order) = match query.sort {
        Sort::Id => (after.map(|id| format!("id > {id}")), "id".to_owned()),
        Sort::Year => (
            after.map(|id| format!("(year, id) > ({}, {id})", last("year", id))),
            "year, id".to_owned(),
        ),
        Sort::Title => (
            after.map(|id| {
                let (prefix_of_last, title) = (last(prefix, id), last("title_lc", id));
                format!("({prefix}, title_lc, id) > ({prefix_of_last}, {title}, {id})")
            }),
            format!("{prefix}, title_lc, id"),
        ),
        Sort::YearDown => (
            after.map(|id| {
                let year = last("year", id);
                format!("year <= {year} and (year < {year} or id > {id})")
            }),
            "year desc, id".to_owned(),
        ),
        Sort::TitleDown => (
            after.map(|id| {
                let (prefix_of_last, title) = (last(prefix, id), last("title_lc", id));
                format!(
                    "{prefix} <= {prefix_of_last} and \
                     (title_lc < {title} or title_lc = {title} and id > {id})"
                )
            }),
            format!("{prefix} desc, title_lc desc, id"),
        ),
    };
    if let Some(start) = start {
        sql.push(&format!(" and {start}"));
    }
    sql.push(&format!(" order by {order}"));
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns the text of the page query for each order, with each filter, without and with a start.
    pub(in crate::store) fn composed_queries() -> Vec<String> {
        let text = |text: &str| vec![text.to_owned(); 2];
        let filters = [
            Filters::default(),
            Filters { titles: text("night"), ..Filters::default() },
            Filters { titles: text("a"), ..Filters::default() },
            Filters { actors: text("ann"), ..Filters::default() },
            Filters { genres: text("drama"), ..Filters::default() },
            Filters { years: vec![1999, 2000], ..Filters::default() },
        ];
        let sorts = [Sort::Id, Sort::Title, Sort::TitleDown, Sort::Year, Sort::YearDown];
        let mut queries = Vec::new();
        for filters in filters {
            for sort in sorts {
                for after in [None, Some(1)] {
                    let query = MovieQuery { filters: filters.clone(), sort, limit: 10, after };
                    queries.push(page_query(&query).unwrap().text);
                }
            }
        }
        queries
    }

    #[test]
    fn text_that_no_movie_can_contain_needs_no_query() {
        for filters in [
            Filters { titles: vec!["a\0b".to_owned()], ..Filters::default() },
            Filters { actors: vec![format!("a{NAME_SEPARATOR}b")], ..Filters::default() },
            Filters { years: vec![i64::MAX], ..Filters::default() },
        ] {
            let query = MovieQuery { filters, sort: Sort::Id, limit: 10, after: None };
            assert!(page_query(&query).is_none(), "{query:?}");
        }
    }
}
