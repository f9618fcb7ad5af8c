//! The catalogue.

use futures_util::stream;
use http::{Method, StatusCode, header};
use std::convert::Infallible;
use tracing::warn;

use super::{Answer, body, json, link_next, params, request::Request};
use crate::{
    ingest::{DecodeError, decode},
    problem::{Code, Problem},
    store::{MovieQuery, Sort},
    telemetry::chain,
};

/// The largest body of a `POST /movies`, decompressed too; more goes through the bucket.
const MAX_BODY: usize = 8 << 20;

/// `/movies`, by method.
pub(super) async fn list_or_create(request: Request) -> Answer {
    match request.method {
        Method::GET => list(request).await,
        Method::POST => create(request).await,
        _ => Err(Problem::method_not_allowed("GET, HEAD, POST")),
    }
}

/// `GET /movies`: one page of those that match.
async fn list(request: Request) -> Answer {
    let query = parse(&request.query)?;
    let page = request.app.store.movies(&query).await?;
    let mut response = body(StatusCode::OK, "application/json", page.json.into());
    if let Some(last) = page.next {
        let cursor = params::cursor(sort_name(query.sort), last);
        link_next(&mut response, "/movies", &request.query, &cursor)?;
    }
    Ok(response)
}

/// The orders, and how clients name them.
const SORTS: [(&str, Sort); 5] = [
    ("id", Sort::Id),
    ("title", Sort::Title),
    ("-title", Sort::TitleDown),
    ("year", Sort::Year),
    ("-year", Sort::YearDown),
];

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
    for (name, value) in params::parse(query, &known)? {
        match name {
            "title" => parsed.filters.titles.push(value),
            "actor" => parsed.filters.actors.push(value),
            "genre" => parsed.filters.genres.push(value),
            "year" => {
                let year =
                    value.parse().map_err(|_| Problem::parameter(name, "a number like 1999"));
                parsed.filters.years.push(year?);
            }
            "limit" => parsed.limit = params::limit(&value)?,
            "after" => after = Some(value),
            _ => {
                let sort = SORTS.iter().find(|(known, _)| *known == value);
                let problem = || Problem::parameter(name, "title, -title, year, -year or id");
                parsed.sort = sort.ok_or_else(problem)?.1;
            }
        }
    }
    if let Some(cursor) = after {
        parsed.after = Some(params::parse_cursor(&cursor, sort_name(parsed.sort))?);
    }
    Ok(parsed)
}

/// `GET /movies/{id}`.
pub(super) async fn one(id: String, request: Request) -> Answer {
    request.get()?;
    params::parse(&request.query, &[])?;
    let movie = match id.parse() {
        Ok(id) => request.app.store.movie(id).await?,
        Err(_) => None,
    };
    let missing = || Problem::new(Code::NotFound, "no such movie; GET /movies lists them");
    Ok(body(StatusCode::OK, "application/json", movie.ok_or_else(missing)?.into()))
}

/// `POST /movies`: validated and merged as a file is.
async fn create(mut request: Request) -> Answer {
    request.authorized()?;
    request.media_type(&["application/json", "application/x-ndjson"])?;
    params::parse(&request.query, &[])?;
    let whole = request.body(MAX_BODY).await?;
    let encoding = request.headers.get(header::CONTENT_ENCODING);
    let encoding = encoding.and_then(|encoding| encoding.to_str().ok());
    let mut staging = request.app.store.staging_for_request().await?;
    let chunks = stream::iter([Ok::<_, Infallible>(whole)]);
    let violations = match decode(encoding, MAX_BODY as u64, chunks, &mut staging).await {
        Ok(violations) => violations,
        Err(DecodeError::Store(error)) => return Err(error.into()),
    };
    if violations.count() > 0 {
        staging.discard().await;
        return Err(Problem::violations(&violations.listed(), violations.count()));
    }
    let merged = staging.merge_now().await?;
    request.app.metrics.merged(&merged);
    // Stored is stored, whatever becomes of this.
    if let Err(error) = request.app.store.tidy(&merged).await {
        warn!(error = chain(&error), "could not tidy the indexes now");
    }
    json(StatusCode::CREATED, &merged)
}
