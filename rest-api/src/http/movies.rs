//! `/movies`: the catalogue.

use bytes::Bytes;
use futures_util::{Stream, stream};
use http::StatusCode;
use movie_file::{DecodePool, Limits, Reader};

use super::{
    in_time, params,
    request::Request,
    response::{Answer, body, json, link_next},
};
use crate::{
    problem::{Code, Problem},
    store::{CatalogueRow, MovieDocument, MovieQuery, MovieWithProvenance, Sort, is_indexable},
};

/// The largest body of `POST /movies`, in bytes, also after decompression. A larger file goes
/// through the bucket.
pub(super) const MAX_BODY: usize = 8 << 20;

/// The media types of movies in a request.
pub(super) const MEDIA_TYPES: [&str; 2] = ["application/json", "application/x-ndjson"];

/// How many filters of `title` and `actor` may lack three letters or digits in a row. No index serves
/// them: each is compared with every movie that the other filters leave. With 200,000 synthetic movies
/// the first took 0.3 s and each further one 0.03 s, on a busy machine with two cores.
const MAX_UNINDEXED: usize = 2;

/// The orders of movies, and their names in queries.
const SORTS: [(&str, Sort); 5] = [
    ("id", Sort::Id),
    ("title", Sort::Title),
    ("-title", Sort::TitleDown),
    ("year", Sort::Year),
    ("-year", Sort::YearDown),
];

/// `GET /movies`: a page of the movies that match.
pub(super) async fn list(request: Request) -> Answer {
    let query = parse(&request.query)?;
    let page = in_time(request.app.store.movies(&query)).await?;
    let json = movies_json(&page.movies);
    let mut response = body(StatusCode::OK, "application/json", json.into());
    if let Some(last) = page.movies.last().filter(|_| page.has_more) {
        let cursor = params::cursor(sort_name(query.sort), last.id);
        link_next(&mut response, "/movies", &request.query, &cursor)?;
    }
    Ok(response)
}

fn sort_name(sort: Sort) -> &'static str {
    SORTS.iter().find(|(_, known)| *known == sort).map_or("", |(name, _)| name)
}

fn parse(query: &str) -> Result<MovieQuery, Problem> {
    let known = ["title", "year", "genre", "actor", "limit", "after", "sort"];
    let mut parsed = MovieQuery {
        filters: Default::default(),
        sort: Sort::default(),
        limit: params::DEFAULT_LIMIT,
        after: None,
    };
    let mut after = None;
    let mut unindexed = 0;
    for (name, value) in params::parse(query, &known)? {
        if matches!(name, "title" | "actor") && !is_indexable(&value) {
            unindexed += 1;
        }
        if unindexed > MAX_UNINDEXED {
            let problem = format!(
                "at most {MAX_UNINDEXED} filters of title and actor may lack three letters or \
                 digits in a row; use longer text"
            );
            return Err(Problem::parameter(name, &problem));
        }
        match name {
            "title" => parsed.filters.titles.push(params::text(name, value)?),
            "actor" => parsed.filters.actors.push(params::text(name, value)?),
            "genre" => parsed.filters.genres.push(params::text(name, value)?),
            "year" => {
                let year =
                    value.parse().map_err(|_| Problem::parameter(name, "a number like 1999"));
                parsed.filters.years.push(year?);
            }
            "limit" => parsed.limit = params::limit(&value)?,
            "after" => after = Some(value),
            "sort" => {
                let sort = SORTS.iter().find(|(known, _)| *known == value);
                let problem = || Problem::parameter(name, "title, -title, year, -year or id");
                parsed.sort = sort.ok_or_else(problem)?.1;
            }
            // `params::parse` returns known names only.
            _ => {}
        }
    }
    if let Some(cursor) = after {
        parsed.after = Some(params::parse_cursor(&cursor, sort_name(parsed.sort))?);
    }
    Ok(parsed)
}

/// Returns movies as a JSON array. The stored documents are copied as they are, which is faster than
/// parsing them.
fn movies_json(movies: &[MovieDocument]) -> String {
    let size: usize = movies.iter().map(|movie| movie.json.len() + 24).sum();
    let mut json = String::with_capacity(size + 2);
    json.push('[');
    for (number, movie) in movies.iter().enumerate() {
        if number > 0 {
            json.push(',');
        }
        push_movie(&mut json, movie);
    }
    json.push(']');
    json
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
    let movie = match request.id() {
        Some(id) => in_time(request.app.store.movie(id)).await?,
        None => None,
    };
    let missing = || Problem::new(Code::NotFound, "no such movie; GET /movies lists them");
    let MovieWithProvenance { movie, provenance } = movie.ok_or_else(missing)?;
    let provenance =
        serde_json::to_string(&provenance).map_err(|error| Problem::internal(&error))?;
    let mut json = String::new();
    push_movie(&mut json, &movie);
    // The last property, in front of the closing brace.
    json.pop();
    json.push_str(&format!(",\"provenance\":{provenance}}}"));
    Ok(body(StatusCode::OK, "application/json", json.into()))
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
