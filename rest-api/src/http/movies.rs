//! `/movies`: the catalogue.

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::{Stream, stream};
use http::StatusCode;
use movie_file::{DecodePool, Limits, Reader};
use serde_json::value::RawValue;

use super::{
    cache::{self, Fresh},
    export, params,
    query::{self, FilterParser},
    request::Request,
    response::{Answer, json},
};
use crate::{
    problem::Problem,
    store::{CatalogueRow, MovieDocument, MovieQuery, SearchQuery, Sort},
};

/// The largest body of `POST /movies`, in bytes, also after decompression. A larger file goes
/// through the bucket.
pub(super) const MAX_BODY: usize = 8 << 20;

/// The media types of movies in a request.
pub(super) const MEDIA_TYPES: [&str; 2] = ["application/json", "application/x-ndjson"];

/// The orders of movies, and their names in queries.
const SORTS: [(&str, Sort); 5] = [
    ("id", Sort::Id),
    ("title", Sort::Title),
    ("-title", Sort::TitleDown),
    ("year", Sort::Year),
    ("-year", Sort::YearDown),
];

/// A query of `GET /movies`.
struct ListRequest {
    query: Query,
    /// The properties of each movie; all if it is none.
    fields: Option<Vec<&'static str>>,
    /// A parameter that selects a page, if there is one.
    paged: Option<&'static str>,
}

/// Which movies, and in which order.
enum Query {
    /// In the order of a property.
    Sorted(MovieQuery),
    /// The best match first.
    Search(SearchQuery),
}

/// `GET /movies`: a page of the movies that match.
pub(super) async fn list(request: Request) -> Answer {
    let store = &request.app.store;
    let ListRequest { query, fields, paged } = parse(&request.query)?;
    if request.prefers(export::MEDIA_TYPE, "application/json") {
        if let Some(name) = paged {
            return Err(Problem::parameter(name, "not with NDJSON, which is the whole result"));
        }
        return match query {
            Query::Sorted(query) => export::respond(store.export(&query), fields).await,
            Query::Search(query) => export::respond(store.export_search(&query), fields).await,
        };
    }
    match query {
        Query::Sorted(query) => sorted(&request, query, fields).await,
        Query::Search(query) => search(&request, query, fields).await,
    }
}

/// Answers with a page of movies in the order of a property.
async fn sorted(request: &Request, query: MovieQuery, fields: Option<Vec<&'static str>>) -> Answer {
    let normalised = MovieQuery { filters: query.filters.normalised(), ..query.clone() };
    let resource = format!("movies {normalised:?} {fields:?}");
    let page = async |at_least| {
        let page = request.app.store.movies(&query, at_least).await?;
        let last = page.movies.last().filter(|_| page.has_more);
        let next = last.map(|last| params::cursor(sort_name(query.sort), last.id));
        let movies = page.movies.iter().map(|movie| (movie, None));
        let json = movies_json(movies, fields.as_deref())?.into_bytes();
        Ok(Fresh { revision: page.revision, json, next, tag: None })
    };
    cache::answer(request, resource, page).await
}

/// Answers with a page of movies, the best match first.
async fn search(
    request: &Request,
    query: SearchQuery,
    fields: Option<Vec<&'static str>>,
) -> Answer {
    let resource = format!("search {} {fields:?}", query.normalised());
    let page = async |at_least| {
        let page = request.app.store.search(&query, at_least).await?;
        let last = page.movies.last().filter(|_| page.has_more);
        let next = last.map(|last| query::search_cursor(last.position()));
        let movies = page.movies.iter().map(|found| (&found.movie, Some(found.score())));
        let json = movies_json(movies, fields.as_deref())?.into_bytes();
        let revision = page.revision.unwrap_or(at_least);
        Ok(Fresh { revision, json, next, tag: None })
    };
    cache::answer(request, resource, page).await
}

/// Returns the names of the orders.
pub(super) fn sort_names() -> impl Iterator<Item = (&'static str, Sort)> {
    SORTS.into_iter()
}

fn sort_name(sort: Sort) -> &'static str {
    SORTS.iter().find(|(_, known)| *known == sort).map_or("", |(name, _)| name)
}

fn parse(query: &str) -> Result<ListRequest, Problem> {
    let known = [&query::FILTERS[..], &["q", "limit", "after", "sort", "fields"]].concat();
    let (mut sort, mut limit, mut text) = (None, params::DEFAULT_LIMIT, None);
    let (mut after, mut fields, mut paged) = (None, None, None);
    let mut filters = FilterParser::default();
    for (name, value) in params::parse(query, &known)? {
        if matches!(name, "limit" | "after") {
            paged = Some(name);
        }
        match name {
            "q" => query::set_text(&mut text, value)?,
            "limit" => limit = params::limit(&value)?,
            "after" => after = Some(value),
            "fields" => query::fields(name, &value, fields.get_or_insert_default())?,
            "sort" => {
                let known = SORTS.iter().find(|(known, _)| *known == value);
                let problem = || Problem::parameter(name, "title, -title, year, -year or id");
                sort = Some(known.ok_or_else(problem)?.1);
            }
            filter => filters.add(filter, value)?,
        }
    }
    let filters = filters.filters;
    let query = if let Some(text) = text {
        if sort.is_some() {
            return Err(Problem::parameter("sort", "not with q: the best match is first"));
        }
        let after = after.map(|cursor| query::parse_search_cursor(&cursor)).transpose()?;
        Query::Search(SearchQuery::new(&text, filters, limit, after))
    } else {
        let sort = sort.unwrap_or_default();
        let after = after.map(|cursor| params::parse_cursor(&cursor, sort_name(sort)));
        Query::Sorted(MovieQuery { filters, sort, limit, after: after.transpose()? })
    };
    Ok(ListRequest { query, fields, paged })
}

/// Returns movies, each with its score if it has one, as a JSON array: each with these properties, or all.
/// Without a choice the stored documents are copied as they are, which is faster than parsing them.
///
/// # Errors
/// If a stored document is malformed.
fn movies_json<'a>(
    movies: impl Iterator<Item = (&'a MovieDocument, Option<f64>)> + Clone,
    fields: Option<&[&'static str]>,
) -> Result<String, Problem> {
    let size: usize = movies.clone().map(|(movie, _)| movie.json.len() + 40).sum();
    let mut json = String::with_capacity(size + 2);
    json.push('[');
    for (number, (movie, score)) in movies.enumerate() {
        if number > 0 {
            json.push(',');
        }
        push_selected(&mut json, movie, score, fields)?;
    }
    json.push(']');
    Ok(json)
}

/// Appends a movie with these properties, or all, and its score if it has one.
///
/// # Errors
/// If the stored document is malformed.
pub(super) fn push_selected(
    json: &mut String,
    movie: &MovieDocument,
    score: Option<f64>,
    fields: Option<&[&'static str]>,
) -> Result<(), Problem> {
    match fields {
        Some(fields) => push_fields(json, movie, fields)?,
        None => push_movie(json, movie),
    }
    if let Some(score) = score {
        // The last property, in front of the closing brace.
        json.pop();
        json.push_str(&format!(",\"score\":{score}}}"));
    }
    Ok(())
}

/// Appends a movie with some of its properties.
///
/// # Errors
/// If the stored document is malformed.
fn push_fields(json: &mut String, movie: &MovieDocument, fields: &[&str]) -> Result<(), Problem> {
    let properties: HashMap<&str, &RawValue> =
        serde_json::from_str(&movie.json).map_err(|error| Problem::internal(&error))?;
    json.push_str("{\"id\":");
    json.push_str(&movie.id.to_string());
    for field in fields {
        if let Some(value) = properties.get(field) {
            json.push_str(&format!(",\"{field}\":{value}"));
        }
    }
    json.push('}');
    Ok(())
}

/// Appends a movie with its id as the first property: `{"title": ...}` becomes
/// `{"id": 1, "title": ...}`.
pub(super) fn push_movie(json: &mut String, movie: &MovieDocument) {
    json.push_str("{\"id\":");
    json.push_str(&movie.id.to_string());
    json.push(',');
    json.push_str(movie.json.strip_prefix('{').unwrap_or(&movie.json));
}

/// `POST /movies`: validates and merges the movies of the body as those of a file.
pub(super) async fn create(mut request: Request) -> Answer {
    request.require_unbound()?;
    request.require_media_type(&MEDIA_TYPES)?;
    params::none(&request.query)?;
    let encoding = request.content_encoding();
    let whole = request.body().await?;
    let rows = read_rows(encoding.as_deref(), whole, &request.app.decode_pool).await?;
    let merged = request.app.store.post_movies(&rows, &request.caller()?.name).await?;
    request.app.metrics.merged(&merged);
    json(StatusCode::CREATED, &merged)
}

/// Returns a reader of a whole body.
fn body_reader(
    encoding: Option<&str>,
    body: Bytes,
    pool: &DecodePool,
) -> Reader<impl Stream<Item = Result<Bytes, Problem>> + Unpin> {
    let chunks = stream::iter([Ok(body)]);
    Reader::new(encoding, Limits::with_max_file(MAX_BODY as u64), chunks, pool)
}

/// Returns the movies of a body, if it has no violations.
pub(super) async fn read_rows(
    encoding: Option<&str>,
    body: Bytes,
    pool: &DecodePool,
) -> Result<Vec<CatalogueRow>, Problem> {
    let mut reader = body_reader(encoding, body, pool);
    let mut rows = Vec::new();
    while let Some(batch) = reader.next_batch(CatalogueRow::new).await? {
        rows.extend(batch);
    }
    let violations = reader.finish().await?.violations;
    if !violations.is_empty() {
        return Err(Problem::violations(violations.listed(), violations.count()));
    }
    Ok(rows)
}
