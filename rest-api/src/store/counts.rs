//! How many movies have each genre and each year.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use super::{
    Filters, Revision, SearchQuery, Store, StoreError,
    catalogue_row::fold_genre,
    reads::{self, Cost, Lent, ReadPool},
    search::{self, Results},
    sql::{self, ListQuery},
};

/// The largest number of genres that are counted.
const MAX_GENRES: i64 = 1000;

/// How many movies have a genre.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq, Serialize)]
pub struct GenreCount {
    /// The genre, as the movie has it that was inserted last.
    pub genre: String,
    /// How many movies have it, in any case.
    pub count: i64,
}

/// How many movies have a year.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq, Serialize)]
pub struct YearCount {
    /// The year.
    pub year: i32,
    /// How many movies have it.
    pub count: i64,
}

impl Store {
    /// Returns the most common genres of the movies that match the filters and, if there is one, the text that is
    /// searched for, with the state of the catalogue that they are of: `at_least` or a newer one.
    ///
    /// # Errors
    /// If the database is unavailable, or the query takes too long.
    pub async fn genres(
        &self,
        filters: &Filters,
        text: Option<&str>,
        at_least: Revision,
    ) -> Result<(Revision, Vec<GenreCount>), StoreError> {
        let (revision, rows) = self.counts(genres_query, filters, text, at_least).await?;
        let count = |row: &Row| {
            let folded: Option<&str> = row.get("genre");
            let genre = spelling(folded?, row.get("doc"));
            Some(GenreCount { genre, count: row.get("count") })
        };
        Ok((revision, rows.iter().filter_map(count).collect()))
    }

    /// Returns the years of the movies that match the filters and, if there is one, the text that is searched for,
    /// upwards, with the state of the catalogue that they are of: `at_least` or a newer one.
    ///
    /// # Errors
    /// If the database is unavailable, or the query takes too long.
    pub async fn years(
        &self,
        filters: &Filters,
        text: Option<&str>,
        at_least: Revision,
    ) -> Result<(Revision, Vec<YearCount>), StoreError> {
        let (revision, rows) = self.counts(years_query, filters, text, at_least).await?;
        let count = |row: &Row| {
            let year: Option<i32> = row.get("year");
            Some(YearCount { year: year?, count: row.get("count") })
        };
        Ok((revision, rows.iter().filter_map(count).collect()))
    }

    /// Counts the movies that match by the statement that `compose` returns.
    async fn counts(
        &self,
        compose: fn(&Selected<'_>) -> Option<ListQuery>,
        filters: &Filters,
        text: Option<&str>,
        at_least: Revision,
    ) -> Result<(Revision, Vec<Row>), StoreError> {
        if let Some(text) = text {
            let query = SearchQuery::new(text, filters.clone(), 1, None);
            let (mut revision, mut rows) =
                self.count_results(&self.pools.search, compose, &query).await?;
            if !self.is_page_recent(revision, at_least) {
                let pool = &self.pools.primary_search;
                (revision, rows) = self.count_results(pool, compose, &query).await?;
            }
            return Ok((revision.unwrap_or(at_least), rows));
        }
        let Some(sql) = compose(&Selected::Filters(filters)) else {
            return Ok((at_least, Vec::new()));
        };
        let mut rows = read(self.pools.planned.lend(Cost::Scan).await?, &sql).await?;
        let revision = |rows: &[Row]| rows.first().map(Revision::new).unwrap_or_default();
        if !self.is_recent(revision(&rows), at_least) {
            rows = read(self.primary_reader(Cost::Scan).await?, &sql).await?;
        }
        Ok((revision(&rows), rows))
    }

    /// Counts the results of a search, with the state of the catalogue that they are of. None if no state can
    /// have results.
    async fn count_results(
        &self,
        pool: &ReadPool,
        compose: fn(&Selected<'_>) -> Option<ListQuery>,
        query: &SearchQuery,
    ) -> Result<(Option<Revision>, Vec<Row>), StoreError> {
        let mut connection = pool.lend(Cost::Scan).await?;
        let transaction = search::snapshot(&mut connection).await?;
        let (revision, results) = Results::decide(&transaction, query, &self.frequencies).await?;
        let rows = match results.and_then(|results| compose(&Selected::Results(&results))) {
            Some(sql) => sql::query(&transaction, &sql).await?,
            None => Vec::new(),
        };
        // It ends before the next statement of the connection, and nobody waits for its end.
        drop(transaction);
        reads::finish(connection);
        Ok((revision, rows))
    }
}

/// The movies that are counted.
pub(super) enum Selected<'a> {
    /// Those that match filters.
    Filters(&'a Filters),
    /// The results of a search.
    Results(&'a Results),
}

impl Selected<'_> {
    /// Adds the conditions to a query on `movies`. Returns none if no movie can match.
    fn push_to(&self, sql: &mut ListQuery) -> Option<()> {
        match self {
            Self::Filters(filters) => filters.push_to(sql),
            Self::Results(results) => results.push_to(sql),
        }
    }
}

/// Composes the query of the genres. None if no movie can match.
pub(super) fn genres_query(selected: &Selected<'_>) -> Option<ListQuery> {
    let mut sql = ListQuery::new(
        "
        /* counts::genres_query */
        with counted as (
            select genre, sum(count)::bigint as count, max(newest) as newest
            from (
                select genres_lc, count(*) as count, max(id) as newest from movies where true",
    );
    selected.push_to(&mut sql)?;
    let limit = sql.bind(MAX_GENRES);
    // Many movies have the same genres: these are counted before they are taken apart.
    sql.push(&format!(
        " group by genres_lc
            ) alike, unnest(genres_lc) as genre
            group by genre
            order by sum(count) desc, genre
            limit {limit}
        )
        select c.revision, c.tag, g.genre, g.count, m.doc
        from catalogue c left join counted g on true left join movies m on m.id = g.newest
        order by g.count desc, g.genre"
    ));
    Some(sql)
}

/// Composes the query of the years. None if no movie can match.
pub(super) fn years_query(selected: &Selected<'_>) -> Option<ListQuery> {
    let mut sql = ListQuery::new(
        "
        /* counts::years_query */
        with counted as (
            select year, count(*) as count from movies where true",
    );
    selected.push_to(&mut sql)?;
    sql.push(
        " group by year
        )
        select c.revision, c.tag, y.year, y.count
        from catalogue c left join counted y on true
        order by y.year",
    );
    Some(sql)
}

async fn read(connection: Lent, sql: &ListQuery) -> Result<Vec<Row>, StoreError> {
    let rows = sql::query(&*connection, sql).await?;
    reads::finish(connection);
    Ok(rows)
}

/// Returns a folded genre as the movie `doc` has it.
fn spelling(folded: &str, doc: &str) -> String {
    #[derive(Deserialize)]
    struct Genres {
        genres: Vec<String>,
    }
    let movie: Option<Genres> = serde_json::from_str(doc).ok();
    let mut genres = movie.into_iter().flat_map(|movie| movie.genres);
    genres.find(|genre| fold_genre(genre) == folded).unwrap_or_else(|| folded.to_owned())
}
