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
    problem::{Code, Problem},
    store::{CatalogueRow, MovieDocument, MovieQuery, MovieWithProvenance, Sort},
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
    query: MovieQuery,
    /// The properties of each movie; all if it is none.
    fields: Option<Vec<&'static str>>,
    /// A parameter that selects a page, if there is one.
    paged: Option<&'static str>,
}

/// `GET /movies`: a page of the movies that match.
pub(super) async fn list(request: Request) -> Answer {
    let app = &request.app;
    let ListRequest { query, fields, paged } = parse(&request.query)?;
    if request.prefers(export::MEDIA_TYPE, "application/json") {
        if let Some(name) = paged {
            return Err(Problem::parameter(name, "not with NDJSON, which is the whole result"));
        }
        return export::respond(app, &query, fields).await;
    }
    let normalised = MovieQuery { filters: query.filters.normalised(), ..query.clone() };
    let resource = format!("movies {normalised:?} {fields:?}");
    let page = async |at_least| {
        let page = app.store.movies(&query, at_least).await?;
        let last = page.movies.last().filter(|_| page.has_more);
        let next = last.map(|last| params::cursor(sort_name(query.sort), last.id));
        let json = movies_json(&page.movies, fields.as_deref())?.into_bytes();
        Ok(Fresh { revision: page.revision, json, next })
    };
    cache::answer(&request, resource, page).await
}

fn sort_name(sort: Sort) -> &'static str {
    SORTS.iter().find(|(_, known)| *known == sort).map_or("", |(name, _)| name)
}

fn parse(query: &str) -> Result<ListRequest, Problem> {
    let known = [&query::FILTERS[..], &["limit", "after", "sort", "fields"]].concat();
    let (mut sort, mut limit) = (Sort::default(), params::DEFAULT_LIMIT);
    let (mut after, mut fields, mut paged) = (None, None, None);
    let mut filters = FilterParser::default();
    for (name, value) in params::parse(query, &known)? {
        if matches!(name, "limit" | "after") {
            paged = Some(name);
        }
        match name {
            "limit" => limit = params::limit(&value)?,
            "after" => after = Some(value),
            "fields" => fields = Some(query::fields(name, &value)?),
            "sort" => {
                let known = SORTS.iter().find(|(known, _)| *known == value);
                let problem = || Problem::parameter(name, "title, -title, year, -year or id");
                sort = known.ok_or_else(problem)?.1;
            }
            filter => filters.add(filter, value)?,
        }
    }
    let after = after.map(|cursor| params::parse_cursor(&cursor, sort_name(sort))).transpose()?;
    let query = MovieQuery { filters: filters.filters, sort, limit, after };
    Ok(ListRequest { query, fields, paged })
}

/// Returns movies as a JSON array, each with these properties, or all. Without a choice the stored
/// documents are copied as they are, which is faster than parsing them.
///
/// # Errors
/// If a stored document is malformed.
fn movies_json(
    movies: &[MovieDocument],
    fields: Option<&[&'static str]>,
) -> Result<String, Problem> {
    let size: usize = movies.iter().map(|movie| movie.json.len() + 24).sum();
    let mut json = String::with_capacity(size + 2);
    json.push('[');
    for (number, movie) in movies.iter().enumerate() {
        if number > 0 {
            json.push(',');
        }
        push_selected(&mut json, movie, fields)?;
    }
    json.push(']');
    Ok(json)
}

/// Appends a movie with these properties, or all, and a line feed.
///
/// # Errors
/// If the stored document is malformed.
pub(super) fn push_line(
    json: &mut String,
    movie: &MovieDocument,
    fields: Option<&[&'static str]>,
) -> Result<(), Problem> {
    push_selected(json, movie, fields)?;
    json.push('\n');
    Ok(())
}

/// Appends a movie with these properties, or all.
fn push_selected(
    json: &mut String,
    movie: &MovieDocument,
    fields: Option<&[&'static str]>,
) -> Result<(), Problem> {
    match fields {
        Some(fields) => push_fields(json, movie, fields)?,
        None => push_movie(json, movie),
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
fn push_movie(json: &mut String, movie: &MovieDocument) {
    json.push_str("{\"id\":");
    json.push_str(&movie.id.to_string());
    json.push(',');
    json.push_str(movie.json.strip_prefix('{').unwrap_or(&movie.json));
}

/// `GET /movies/{id}`: one movie with the provenance of its content.
pub(super) async fn read(request: Request) -> Answer {
    params::none(&request.query)?;
    let app = &request.app;
    let missing = || Problem::new(Code::NotFound, "no such movie; GET /movies lists them");
    let id = request.id().ok_or_else(missing)?;
    let movie = async |at_least| {
        let (revision, movie) = app.store.movie(id, at_least).await?;
        let json = movie_json(&movie.ok_or_else(missing)?)?.into_bytes();
        Ok(Fresh { revision, json, next: None })
    };
    cache::answer(&request, format!("movie {id}"), movie).await
}

fn movie_json(found: &MovieWithProvenance) -> Result<String, Problem> {
    let provenance = serde_json::to_string(&found.provenance);
    let provenance = provenance.map_err(|error| Problem::internal(&error))?;
    let mut json = String::new();
    push_movie(&mut json, &found.movie);
    // The last property, in front of the closing brace.
    json.pop();
    json.push_str(&format!(",\"provenance\":{provenance}}}"));
    Ok(json)
}

/// `POST /movies`: validates and merges the movies of the body as those of a file.
pub(super) async fn create(mut request: Request) -> Answer {
    request.require_media_type(&MEDIA_TYPES)?;
    params::none(&request.query)?;
    let encoding = request.content_encoding();
    let whole = request.body().await?;
    let rows = read_rows(encoding.as_deref(), whole, &request.app.decode_pool).await?;
    let merged = request.app.store.merge_request(&rows).await?;
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
async fn read_rows(
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
