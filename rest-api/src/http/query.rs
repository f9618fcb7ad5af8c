//! The parameters of queries on the catalogue: filters, fields.

use super::params;
use crate::{
    problem::Problem,
    store::{Filters, SearchPosition, Years, is_indexable},
};

/// How many filters of `title` and `actor` may lack three letters or digits in a row. No index serves
/// them: each is compared with every movie that the other filters leave. With 200,000 synthetic movies
/// the first took 0.3 s and each further one 0.03 s, on a busy machine with two cores.
const MAX_UNINDEXED: usize = 2;

/// The parameters that are filters.
pub(super) const FILTERS: [&str; 4] = ["title", "year", "genre", "actor"];

/// The properties of a movie in an answer, in the order in which a movie has them.
pub(super) const FIELDS: [&str; 10] = [
    "id",
    "cast",
    "extract",
    "genres",
    "href",
    "thumbnail",
    "thumbnail_height",
    "thumbnail_width",
    "title",
    "year",
];

/// Filters under construction.
#[derive(Default)]
pub(super) struct FilterParser {
    pub(super) filters: Filters,
    unindexed: usize,
}

impl FilterParser {
    /// Adds the filter of a parameter.
    ///
    /// # Errors
    /// If its value is malformed, or there are too many filters that no index serves.
    pub(super) fn add(&mut self, name: &str, value: String) -> Result<(), Problem> {
        if matches!(name, "title" | "actor") && !is_indexable(&value) {
            self.unindexed += 1;
        }
        if self.unindexed > MAX_UNINDEXED {
            let problem = format!(
                "at most {MAX_UNINDEXED} filters of title and actor may lack three letters or \
                 digits in a row; use longer text"
            );
            return Err(Problem::parameter(name, &problem));
        }
        let filters = &mut self.filters;
        match name {
            "title" => filters.titles.push(params::text(name, value)?),
            "actor" => filters.actors.push(params::text(name, value)?),
            "genre" => filters.genres.push(params::text(name, value)?),
            _ => filters.years.push(years(name, &value)?),
        }
        Ok(())
    }
}

/// Parses a query of filters and, if it has one, a text to search for.
///
/// # Errors
/// If a parameter is unknown or malformed.
pub(super) fn filters_and_text(query: &str) -> Result<(Filters, Option<String>), Problem> {
    let (mut parser, mut text) = (FilterParser::default(), None);
    for (name, value) in params::parse(query, &[&FILTERS[..], &["q"]].concat())? {
        match name {
            "q" => set_text(&mut text, value)?,
            filter => parser.add(filter, value)?,
        }
    }
    Ok((parser.filters, text))
}

/// Takes the text of the parameter `q`.
///
/// # Errors
/// If it is too long, or there is one already.
pub(super) fn set_text(text: &mut Option<String>, value: String) -> Result<(), Problem> {
    if text.is_some() {
        return Err(Problem::parameter("q", "once"));
    }
    *text = Some(params::text("q", value)?);
    Ok(())
}

/// The orders of search results in cursors: without and with movies whose last word is only begun.
const SEARCH_ORDERS: [&str; 2] = ["score", "begun"];

/// Returns the cursor after a search result.
pub(super) fn search_cursor(position: SearchPosition) -> String {
    let order = SEARCH_ORDERS[usize::from(position.is_begun)];
    params::cursor(&format!("{order}:{}", position.rank), position.id)
}

/// Parses a cursor of [`search_cursor`].
///
/// # Errors
/// If it is malformed, or belongs to another order.
pub(super) fn parse_search_cursor(cursor: &str) -> Result<SearchPosition, Problem> {
    let parse = |order, is_begun| {
        let (rank, id) = params::parse_ranked_cursor(cursor, order)?;
        Ok(SearchPosition { rank, id, is_begun })
    };
    parse(SEARCH_ORDERS[0], false).or_else(|_: Problem| parse(SEARCH_ORDERS[1], true))
}

/// Parses a year, or a range of years with at least one end.
fn years(name: &str, value: &str) -> Result<Years, Problem> {
    let problem =
        || Problem::parameter(name, "a number like 1999, or a range: 1990..1999, 2000.. or ..1950");
    let year = |text: &str| text.parse::<i64>().map_err(|_| problem());
    let years = match value.split_once("..") {
        None => Years(year(value)?, year(value)?),
        Some(("", "")) => return Err(problem()),
        Some(("", last)) => Years(i64::MIN, year(last)?),
        Some((first, "")) => Years(year(first)?, i64::MAX),
        Some((first, last)) => Years(year(first)?, year(last)?),
    };
    if years.0 > years.1 {
        return Err(Problem::parameter(name, "the first year of a range comes first: 1990..1999"));
    }
    Ok(years)
}

/// Adds the properties that a parameter `fields` names. They stay in the order of a movie; `id` is always one.
///
/// # Errors
/// If one is unknown.
pub(super) fn fields(
    name: &str,
    value: &str,
    chosen: &mut Vec<&'static str>,
) -> Result<(), Problem> {
    let mut named = vec!["id"];
    for field in value.split(',').map(str::trim).filter(|field| !field.is_empty()) {
        let known = FIELDS.iter().find(|known| **known == field);
        let problem = || {
            Problem::parameter(name, &format!("some of {}, separated by commas", FIELDS.join(",")))
        };
        named.push(*known.ok_or_else(problem)?);
    }
    let is_chosen = |field: &&str| chosen.contains(field) || named.contains(field);
    *chosen = FIELDS.into_iter().filter(is_chosen).collect();
    Ok(())
}
