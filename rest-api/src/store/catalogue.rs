//! Queries on the catalogue: one statement, composed from the filters that are present.

use futures_util::{TryStreamExt, pin_mut};

use super::{
    Filters, FoundById, Revision, Store, StoreError,
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
        let Some(sql) = page_query(query) else {
            return Ok(MoviePage { revision: at_least, movies: Vec::new(), has_more: false });
        };
        let cost = query.filters.cost();
        let mut page = read_page(self.reader(cost).await?, &sql, query.limit).await?;
        if !self.is_recent(page.revision, at_least) {
            page = read_page(self.primary_reader(cost).await?, &sql, query.limit).await?;
        }
        if let (true, Some(last)) = (page.movies.is_empty(), query.after)
            && query.sort != Sort::Id
            && !matches!(self.movie(last, page.revision).await?.1, FoundById::Movie(_))
        {
            return Err(StoreError::CursorGone);
        }
        Ok(page)
    }

    /// Returns whether what was read at `revision` need not be read again from the primary database, which
    /// has the state `at_least` or a newer one.
    pub(super) fn is_recent(&self, revision: Revision, at_least: Revision) -> bool {
        !self.has_read_host || revision.number >= at_least.number
    }
}

/// Reads a page of at most `limit` movies.
async fn read_page(connection: Lent, sql: &ListQuery, limit: i64) -> Result<MoviePage, StoreError> {
    let mut page = MoviePage { revision: Revision::default(), movies: Vec::new(), has_more: false };
    let rows = sql::query_raw(&*connection, sql).await?;
    pin_mut!(rows);
    if let Some(row) = rows.try_next().await? {
        page.revision = Revision::of_first_row(&row);
    }
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
    Ok(page)
}

/// Composes the query of a page. None if no movie can match.
pub fn page_query(query: &MovieQuery) -> Option<ListQuery> {
    // The revision is the first row, so that it is read in the same snapshot.
    let mut sql = ListQuery::new(
        "
        /* catalogue::page_query */
        (select revision as id, tag::text as doc from catalogue)
        union all
        (select id, doc from movies where true",
    );
    query.filters.push_to(&mut sql)?;
    push_order(&mut sql, query.sort, query.after, query.filters.cost());
    let limit = sql.bind(query.limit + 1);
    sql.push(&format!(" limit {limit})"));
    Some(sql)
}

/// Adds the start of the page and its order. Ties ascend in both directions, which a comparison of
/// rows cannot express. So a descending start has two conditions: one for the index, and an exact one.
///
/// Of a scan the order must not come from an index: the planner does not know how rare a match is, and a walk along
/// an index in the order of another column takes ten times as long as a scan if it does not end early.
pub(super) fn push_order(sql: &mut ListQuery, sort: Sort, after: Option<i64>, cost: Cost) {
    let after = after.map(|id| sql.bind(id));
    let after = after.as_deref();
    let last =
        |expression: &str, id: &str| format!("(select {expression} from movies where id = {id})");
    // The index has a prefix of the title. The whole title after it makes the order exact.
    let prefix = "left(title_lc, 256)";
    let (start, order) = match sort {
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
    let order = match (cost, sort) {
        (Cost::Index, _) | (_, Sort::Id) => order,
        (Cost::Scan, Sort::Year) => "year + 0, id".to_owned(),
        (Cost::Scan, Sort::YearDown) => "year + 0 desc, id".to_owned(),
        (Cost::Scan, Sort::Title) => "title_lc || '', id".to_owned(),
        (Cost::Scan, Sort::TitleDown) => "title_lc || '' desc, id".to_owned(),
    };
    if let Some(start) = start {
        sql.push(&format!(" and {start}"));
    }
    sql.push(&format!(" order by {order}"));
}

#[cfg(test)]
pub(super) mod tests {
    use super::{
        super::{
            Years,
            catalogue_row::NAME_SEPARATOR,
            counts::{Selected, genres_query, years_query},
            export::export_query,
        },
        *,
    };

    /// Returns the text of the page query for each order, with each filter, without and with a start.
    pub(in crate::store) fn composed_queries() -> Vec<String> {
        let text = |text: &str| vec![text.to_owned(); 2];
        let filters = [
            Filters::default(),
            Filters { titles: text("night"), ..Filters::default() },
            Filters { titles: text("a"), ..Filters::default() },
            Filters { actors: text("ann"), ..Filters::default() },
            Filters { genres: text("drama"), ..Filters::default() },
            Filters { years: vec![Years(1999, 1999), Years(2001, 2010)], ..Filters::default() },
        ];
        let sorts = [Sort::Id, Sort::Title, Sort::TitleDown, Sort::Year, Sort::YearDown];
        let mut queries = Vec::new();
        for filters in filters {
            for sort in sorts {
                for after in [None, Some(1)] {
                    let query = MovieQuery { filters: filters.clone(), sort, limit: 10, after };
                    queries.push(page_query(&query).unwrap().text);
                    queries.push(export_query(&query).unwrap().text);
                    let selected = Selected::Filters(&query.filters);
                    queries.push(genres_query(&selected).unwrap().text);
                    queries.push(years_query(&selected).unwrap().text);
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
            Filters { years: vec![Years(i64::MAX, i64::MAX)], ..Filters::default() },
        ] {
            let query = MovieQuery { filters, sort: Sort::Id, limit: 10, after: None };
            assert!(page_query(&query).is_none(), "{query:?}");
        }
    }
}
