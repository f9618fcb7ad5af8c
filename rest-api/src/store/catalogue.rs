//! Queries on the catalogue: one statement, composed from the filters present.

use futures_util::{TryStreamExt, pin_mut};

use super::{
    Store, StoreError,
    row::{NAME_SEPARATOR, fold, fold_genre},
    sql::Sql,
};

/// A page ends early, with a link to the next one, when its movies take this many bytes: those of a
/// film's worth of text each are few, but nothing forbids them.
const MAX_PAGE: usize = 16 << 20;

/// So many prepared statements are kept for a connection.
const MAX_STATEMENTS: usize = 200;

/// What a movie must match; every filter must. Text is as the client gave it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Filters {
    /// Parts of the title.
    pub titles: Vec<String>,
    /// Parts of the name of one cast member each.
    pub actors: Vec<String>,
    /// Whole genres.
    pub genres: Vec<String>,
    /// Years.
    pub years: Vec<i64>,
}

/// The order of the answer; ties go by id, upwards.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Sort {
    /// The order of arrival.
    #[default]
    Id,
    /// By lowered title, by code point.
    Title,
    /// The same downwards.
    TitleDown,
    /// By year.
    Year,
    /// The same downwards.
    YearDown,
}

/// One page of the catalogue.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MovieQuery {
    /// What movies to give.
    pub filters: Filters,
    /// In which order.
    pub sort: Sort,
    /// How many at most.
    pub limit: i64,
    /// The id of the last movie of the page before. A movie's title and year are part of its
    /// identity and never change, so that its id tells its place in every order.
    pub after: Option<i64>,
}

/// The movies of one page.
#[derive(Debug)]
pub struct MoviePage {
    /// A JSON array.
    pub json: String,
    /// The id of the last one, if there are more behind it.
    pub next: Option<i64>,
}

impl Store {
    /// The movies that match `query`.
    ///
    /// # Errors
    /// If the database is away, or the query takes too long.
    pub async fn movies(&self, query: &MovieQuery) -> Result<MoviePage, StoreError> {
        let Some(sql) = page_statement(query) else {
            return Ok(MoviePage { json: "[]".to_owned(), next: None });
        };
        let connection = self.reader().await?;
        // Clients compose the statements, and could compose any number of them.
        if connection.statement_cache.size() > MAX_STATEMENTS {
            connection.statement_cache.clear();
        }
        let statement = connection.prepare_cached(&sql.text).await?;
        let rows = connection.query_raw(&statement, sql.params()).await?;
        pin_mut!(rows);

        let mut page = MoviePage { json: "[".to_owned(), next: None };
        let (mut count, mut last) = (0, None);
        while let Some(row) = rows.try_next().await? {
            if count == query.limit || page.json.len() > MAX_PAGE {
                page.next = last;
                break;
            }
            if count > 0 {
                page.json.push(',');
            }
            last = Some(row.get(0));
            push_movie(&mut page.json, row.get(0), row.get(1));
            count += 1;
        }
        page.json.push(']');
        Ok(page)
    }

    /// The movie with this id and the provenance of its content, as JSON.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn movie(&self, id: i64) -> Result<Option<String>, StoreError> {
        let connection = self.reader().await?;
        let one = "/* catalogue::movie */ select m.id, m.doc, row_to_json(provenance)::text \
            from movies m left join ingests i on i.id = m.ingest_id \
            cross join lateral (select i.id as ingest, i.bucket, i.key, i.version_id, m.record, \
                m.changed_at) provenance where m.id = $1";
        let statement = connection.prepare_cached(one).await?;
        let row = connection.query_opt(&statement, &[&id]).await?;
        Ok(row.map(|row| {
            let mut json = String::new();
            push_movie(&mut json, row.get(0), row.get(1));
            json.truncate(json.len() - 1);
            json.push_str(",\"provenance\":");
            json.push_str(row.get(2));
            json.push('}');
            json
        }))
    }
}

/// Writes a stored document with its id in front: `{"title":...}` as `{"id":1,"title":...}`.
fn push_movie(json: &mut String, id: i64, doc: &str) {
    json.push_str("{\"id\":");
    json.push_str(&id.to_string());
    json.push(',');
    json.push_str(doc.strip_prefix('{').unwrap_or(doc));
}

/// None if no movie can match.
fn page_statement(query: &MovieQuery) -> Option<Sql> {
    let mut sql = Sql::new("/* catalogue::movies */ select id, doc from movies where true");
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
    for year in &query.filters.years {
        let year = sql.bind(i32::try_from(*year).ok()?);
        sql.push(&format!(" and year = {year}"));
    }
    push_order(&mut sql, query);
    let limit = sql.bind(query.limit + 1);
    sql.push(&format!(" limit {limit}"));
    Some(sql)
}

/// Text that the database takes: it refuses U+0000, which no stored text holds.
fn searchable(text: String) -> Option<String> {
    if text.contains('\0') { None } else { Some(text) }
}

fn push_contains(sql: &mut Sql, column: &str, part: &str) -> Option<()> {
    let folded = searchable(fold(part))?;
    let escaped = folded.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_");
    let pattern = sql.bind(format!("%{escaped}%"));
    // Without three letters in a row there is no trigram to look up, and the index would be read
    // from end to end: hide the column from it.
    let hidden = if has_trigram(&folded) { "" } else { " || ''" };
    sql.push(&format!(" and {column}{hidden} like {pattern}"));
    Some(())
}

fn has_trigram(text: &str) -> bool {
    let mut run = 0;
    text.chars().any(|c| {
        run = if c.is_alphanumeric() { run + 1 } else { 0 };
        run >= 3
    })
}

/// Where the page begins and how it is ordered. Ties go upwards in both directions, which no row
/// comparison says: downwards, the first condition is for the index, the second is exact.
fn push_order(sql: &mut Sql, query: &MovieQuery) {
    let after = query.after.map(|id| sql.bind(id));
    let after = after.as_deref();
    let last =
        |expression: &str, id: &str| format!("(select {expression} from movies where id = {id})");
    // The whole title behind its indexed prefix, so that the order is exact.
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
