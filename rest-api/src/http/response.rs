//! Builds responses.

use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use schema::Fault;
use serde::Serialize;
use warp::reply::Response;

use crate::problem::Problem;

/// What a URI reference in a header must not contain, besides characters that are not ASCII.
const NOT_IN_LINK: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>');

/// The `Cache-Control` of what no cache keeps.
pub(super) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// What a handler returns.
pub(super) type Answer = Result<Response, Problem>;

/// How long a response may take, if that is not what the listener allows. It goes with the response.
#[derive(Clone, Copy)]
pub(super) struct ResponseDeadline(pub(super) Duration);

/// Returns a response with a body of this media type.
pub(super) fn body(status: StatusCode, media_type: &'static str, body: Vec<u8>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// Returns a response with `value` as its JSON body.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let encoded = serde_json::to_vec(value).map_err(|error| Problem::internal(&error))?;
    Ok(body(status, "application/json", encoded))
}

/// Returns a response to a client that has the answer already, with these `headers`.
pub(super) fn not_modified(headers: [(HeaderName, HeaderValue); 3]) -> Response {
    let mut response = empty(StatusCode::NOT_MODIFIED);
    response.headers_mut().extend(headers);
    response
}

/// Returns a response without a body.
pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Vec::new().into());
    *response.status_mut() = status;
    response
}

/// Returns a response to OPTIONS.
pub(super) fn no_content(allow: HeaderValue) -> Response {
    let mut response = empty(StatusCode::NO_CONTENT);
    response.headers_mut().insert(header::ALLOW, allow);
    response
}

/// Returns the response of a problem.
pub(super) fn problem(problem: &Problem) -> Response {
    let mut response = body(problem.status(), "application/problem+json", problem.to_json());
    let headers = response.headers_mut();
    headers.extend(problem.header().map(|(name, value)| (name.clone(), value.clone())));
    // Caches may keep some errors, such as 404 and 410, for a time of their own choice.
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    response
}

/// Returns the value of a field of a body, or the violation of its rule. The value itself is not shown: it may be a
/// password.
pub(super) fn field<T>(name: &str, value: Result<T, &'static str>) -> Result<T, Problem> {
    value.map_err(|expected| {
        Problem::violations(&[Fault::new(&[name], expected, "something else")], 1)
    })
}

/// Returns the header `Link` to the next page (RFC 8288): the same query after `cursor`.
///
/// # Errors
/// None in practice: the link is ASCII.
pub(super) fn link_next(path: &str, query: &str, cursor: &str) -> Result<HeaderValue, Problem> {
    let others = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("after="));
    let mut next: Vec<&str> = others.collect();
    let after = format!("after={cursor}");
    next.push(&after);
    // Whatever bytes the client sent: a header that is not ASCII is read in different ways.
    let query = next.join("&");
    let query = utf8_percent_encode(&query, NOT_IN_LINK);
    HeaderValue::try_from(format!("<{path}?{query}>; rel=\"next\""))
        .map_err(|error| Problem::internal(&error))
}
