//! The statement of a page of the catalogue.
//!
//! In the order of ids, its form leaves Postgres one plan, which [`super::plan`] has chosen. In other orders Postgres
//! chooses.

use super::{
    MovieQuery, Sort, Years, filters::Filter, folding::FOLDING, plan::Path, reads::Cost,
    sql::ListQuery,
};

/// Begins the query of a page. The revision is the first row, so that it is read in the same snapshot.
fn begin_page() -> ListQuery {
    ListQuery::new(
        "
        /* page::begin_page */
        (select revision as id, tag::text as doc from catalogue)
        union all
        (select id, doc from movies where ",
    )
}

/// Begins the query of a page that uses terms of pairs. The first row has no tag if the terms are of another release,
/// which may have no pairs, or others.
fn begin_page_with_pairs() -> ListQuery {
    let mut sql = ListQuery::new("");
    let folding = sql.bind(FOLDING);
    sql.push(&format!(
        "
        /* page::begin_page_with_pairs */
        (select revision as id, case when folding = {folding} then tag::text else '' end as doc from catalogue)
        union all
        (select id, doc from movies where "
    ));
    sql
}

/// Composes the query of a page, whose plan Postgres chooses. None if no movie can match.
pub(super) fn sorted_page(query: &MovieQuery) -> Option<ListQuery> {
    let mut sql = begin_page();
    sql.push("true");
    query.filters.push_to(&mut sql)?;
    push_order(&mut sql, query.sort, query.after, query.filters.cost());
    let limit = sql.bind(query.limit + 1);
    sql.push(&format!(" limit {limit})"));
    Some(sql)
}

/// Composes the query of a page in the order of ids, which is read on this path.
pub(super) fn page_on(path: &Path, query: &MovieQuery, filters: &[Filter<'_>]) -> ListQuery {
    let uses_pairs = match path {
        Path::Indexes(indexes) => indexes.iter().any(|filter| filters[*filter].pairs().is_some()),
        _ => false,
    };
    let mut sql = if uses_pairs { begin_page_with_pairs() } else { begin_page() };
    let limit = sql.bind(query.limit + 1);
    match path {
        Path::Walk => push_movies(&mut sql, query, filters, &[]),
        Path::Indexes(indexes) => push_movies(&mut sql, query, filters, indexes),
        Path::Year(year) => {
            let year = sql.bind(*year);
            push_movies_of_year(&mut sql, &format!("{year}::int"), query, filters);
        }
        Path::EachYear(years) => {
            let bounds = years.iter().map(|Years(first, last)| (*first as i32, *last as i32));
            let (first, last): (Vec<i32>, Vec<i32>) = bounds.unzip();
            let (first, last) = (sql.bind(first), sql.bind(last));
            sql.push(&format!(
                "id = any(array(
                    select found.id
                    from unnest({first}::int[], {last}::int[]) span (first, last)
                    cross join generate_series(
                        greatest(first, (select coalesce(min(year), 1) from movies)),
                        least(last, (select coalesce(max(year), 0) from movies))
                    ) wanted
                    cross join lateral (select id from movies where "
            ));
            push_movies_of_year(&mut sql, "wanted", query, filters);
            sql.push(&format!(
                " limit {limit}) found order by found.id limit {limit})) order by id"
            ));
        }
    }
    sql.push(&format!(" limit {limit})"));
    sql
}

/// Adds the conditions and the order. Indexes serve the filters with the numbers `indexed`, and no others.
fn push_movies(sql: &mut ListQuery, query: &MovieQuery, filters: &[Filter<'_>], indexed: &[usize]) {
    // No index has the second order, so that those of the filters find the movies.
    let id = if indexed.is_empty() { "id" } else { "id + 0" };
    sql.push("true");
    for (number, filter) in filters.iter().enumerate() {
        sql.push(" and ");
        if indexed.contains(&number) {
            filter.push_to_index(sql);
        } else {
            filter.push_without_index(sql);
        }
    }
    if let Some(after) = query.after {
        let after = sql.bind(after);
        sql.push(&format!(" and {id} > {after}"));
    }
    sql.push(&format!(" order by {id}"));
}

/// Adds the conditions and the order of movies of a year, an SQL expression. The year is written as a range, so it stays
/// part of the order, and only the index of years has that order.
fn push_movies_of_year(
    sql: &mut ListQuery,
    year: &str,
    query: &MovieQuery,
    filters: &[Filter<'_>],
) {
    let after = sql.bind(query.after.unwrap_or(0));
    sql.push(&format!("(year, id) > ({year}, {after}) and year <= {year}"));
    for filter in filters.iter().filter(|filter| !matches!(filter, Filter::Years(_))) {
        sql.push(" and ");
        filter.push_without_index(sql);
    }
    sql.push(" order by year, id");
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
            Filters,
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
                    queries.push(sorted_page(&query).unwrap().text);
                    queries.extend(pages(&query));
                    queries.push(export_query(&query).unwrap().text);
                    let selected = Selected::Filters(&query.filters);
                    queries.push(genres_query(&selected).unwrap().text);
                    queries.push(years_query(&selected).unwrap().text);
                }
            }
        }
        queries
    }

    /// Returns the text of the page query on each path.
    fn pages(query: &MovieQuery) -> Vec<String> {
        let filters = query.filters.each().unwrap();
        let mut paths = vec![Path::Walk, Path::Year(1999), Path::EachYear(vec![Years(1999, 2001)])];
        paths.extend((0..filters.len()).map(|filter| Path::Indexes(vec![filter])));
        paths.iter().map(|path| page_on(path, query, &filters).text).collect()
    }

    #[test]
    fn text_that_no_movie_can_contain_needs_no_query() {
        for filters in [
            Filters { titles: vec!["a\0b".to_owned()], ..Filters::default() },
            Filters { actors: vec![format!("a{NAME_SEPARATOR}b")], ..Filters::default() },
            Filters { years: vec![Years(i64::MAX, i64::MAX)], ..Filters::default() },
        ] {
            assert!(filters.each().is_none(), "{filters:?}");
        }
    }
}
