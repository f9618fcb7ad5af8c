//! Queries on the catalogue: one statement, composed from the filters that are present.

use futures_util::{TryStreamExt, pin_mut};

use super::{
    Filters, FoundById, Revision, Store, StoreError,
    page::{page_on, sorted_page},
    plan::Plan,
    reads::{self, Cost, Lent},
    sql::{self, ListQuery},
};

/// A page ends early, with a link to the next one, when its movies have more than this many bytes.
pub(super) const MAX_PAGE: usize = 2 << 20;

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
    /// its id determines its position in every order, as long as it exists.
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
    /// The state of the catalogue that the page is of.
    pub revision: Revision,
    /// In the order of the query.
    pub movies: Vec<MovieDocument>,
    /// Whether more movies follow the last one.
    pub has_more: bool,
}

/// The statement of a page.
pub struct PageStatement {
    /// The statement.
    pub sql: ListQuery,
    /// What it reads.
    cost: Cost,
    /// Whether Postgres plans it.
    is_planned: bool,
}

impl Store {
    /// Returns the movies that match `query`, of the state `at_least` of the catalogue or a newer one.
    ///
    /// # Errors
    /// [`StoreError::CursorGone`] if the last movie of the previous page is gone, and with it its position. If
    /// the database is unavailable, or the query takes too long.
    pub async fn movies(
        &self,
        query: &MovieQuery,
        at_least: Revision,
    ) -> Result<MoviePage, StoreError> {
        let none = || MoviePage { revision: at_least, movies: Vec::new(), has_more: false };
        let Some(statement) = self.page_statement(query, at_least) else { return Ok(none()) };
        let mut page = self.page(&statement, query.limit, at_least).await?;
        // The terms are of another release.
        if page.is_none()
            && let Some(planned) = planned(query)
        {
            page = self.page(&planned, query.limit, at_least).await?;
        }
        let page = page.unwrap_or_else(none);
        if let (true, Some(last)) = (page.movies.is_empty(), query.after)
            && query.sort != Sort::Id
            && !matches!(self.movie(last, page.revision).await?.1, FoundById::Movie(_))
        {
            return Err(StoreError::CursorGone);
        }
        Ok(page)
    }

    /// Composes the statement of a page of the catalogue, which is in the state `at`. None if no movie can match.
    pub fn page_statement(&self, query: &MovieQuery, at: Revision) -> Option<PageStatement> {
        let filters = query.filters.each()?;
        if query.sort != Sort::Id {
            return planned(query);
        }
        let plan = if filters.is_empty() {
            Plan::WALK
        } else if let Some(sample) = self.sample(at) {
            Plan::choose(query, &filters, &sample)
        } else {
            return planned(query);
        };
        let sql = page_on(&plan.path, query, &filters);
        Some(PageStatement { sql, cost: plan.cost(), is_planned: false })
    }

    /// Reads a page. None if its statement uses terms that are of another release.
    async fn page(
        &self,
        statement: &PageStatement,
        limit: i64,
        at_least: Revision,
    ) -> Result<Option<MoviePage>, StoreError> {
        let PageStatement { sql, cost, is_planned } = statement;
        let pool = if *is_planned { &self.pools.planned } else { &self.pools.reader };
        let page = read_page(pool.lend(*cost).await?, sql, limit).await?;
        if page.as_ref().is_none_or(|page| self.is_recent(page.revision, at_least)) {
            return Ok(page);
        }
        read_page(self.primary_reader(*cost).await?, sql, limit).await
    }

    /// Returns whether what was read at `revision` need not be read again from the primary database, which
    /// has the state `at_least` or a newer one.
    pub(super) fn is_recent(&self, revision: Revision, at_least: Revision) -> bool {
        !self.has_read_host || revision.number >= at_least.number
    }
}

/// Composes the statement of a page that Postgres plans. None if no movie can match.
fn planned(query: &MovieQuery) -> Option<PageStatement> {
    let (sql, cost) = (sorted_page(query)?, query.filters.cost());
    Some(PageStatement { sql, cost, is_planned: true })
}

/// Reads a page of at most `limit` movies. None if its statement uses terms that are of another release.
async fn read_page(
    connection: Lent,
    sql: &ListQuery,
    limit: i64,
) -> Result<Option<MoviePage>, StoreError> {
    let rows = sql::query_raw(&*connection, sql).await?;
    pin_mut!(rows);
    let first = rows.try_next().await?;
    let Some(revision) = first.as_ref().and_then(Revision::of_first_row) else { return Ok(None) };
    let mut page = MoviePage { revision, movies: Vec::new(), has_more: false };
    let limit = usize::try_from(limit).unwrap_or(0);
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
    Ok(Some(page))
}
