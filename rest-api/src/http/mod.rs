//! HTTP: the route table, and what all routes share.
//!
//! A route goes by path, then method, then token, body and parameters, and ends in an answer or a
//! [`Problem`]. No handler rejects: in warp a rejection falls through to the routes behind.

mod health;
mod ingests;
mod metrics;
mod movies;
mod notify;
mod pages;
mod params;
mod request;
mod server;

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use tokio::sync::watch;
use warp::{Filter, Rejection, filters::BoxedFilter, path, reply::Response};

use crate::{
    config::TokenDigest,
    ingest::ObjectStore,
    metrics::Metrics,
    problem::{Code, Problem},
    store::Store,
};
pub(crate) use server::serve;

/// How long a handler may take; the longest is a notification that waits for 30 s.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(45);

/// What handlers work with.
pub(crate) struct App {
    pub(crate) store: Store,
    pub(crate) objects: ObjectStore,
    /// Any of them will do.
    pub(crate) api_tokens: Vec<TokenDigest>,
    pub(crate) metrics: Arc<Metrics>,
    /// True from the moment the service was asked to stop.
    pub(crate) stopping: watch::Receiver<bool>,
}

type Answer = Result<Response, Problem>;

/// Every route of the service.
pub(crate) fn routes(app: Arc<App>) -> BoxedFilter<(Response,)> {
    let r = request::request(app);
    let routes = path::end().and(r.clone()).then(|r| answer("/", pages::home(r))).boxed();
    let routes = routes
        .or(warp::path!("notify").and(r.clone()).then(|r| answer("/notify", notify::notify(r))))
        .unify()
        .boxed()
        .or(warp::path!("ingests").and(r.clone()).then(|r| answer("/ingests", ingests::list(r))))
        .unify()
        .boxed()
        .or(warp::path!("ingests" / String)
            .and(r.clone())
            .then(|id, r| answer("/ingests/{id}", ingests::one(id, r))))
        .unify()
        .boxed()
        .or(warp::path!("ingests" / String / "retry")
            .and(r.clone())
            .then(|id, r| answer("/ingests/{id}/retry", ingests::retry(id, r))))
        .unify()
        .boxed()
        .or(warp::path!("movies")
            .and(r.clone())
            .then(|r| answer("/movies", movies::list_or_create(r))))
        .unify()
        .boxed()
        .or(warp::path!("movies" / String)
            .and(r.clone())
            .then(|id, r| answer("/movies/{id}", movies::one(id, r))))
        .unify()
        .boxed()
        .or(warp::path!("schema" / "movies.json")
            .and(r.clone())
            .then(|r| answer("/schema/movies.json", pages::schema(r))))
        .unify()
        .boxed()
        .or(warp::path!("healthz").and(r.clone()).then(|r| answer("/healthz", health::alive(r))))
        .unify()
        .boxed()
        .or(warp::path!("metrics").and(r.clone()).then(|r| answer("/metrics", metrics::metrics(r))))
        .unify()
        .boxed()
        .or(warp::path!("readyz").and(r).then(|r| answer("/readyz", health::ready(r))))
        .unify()
        .boxed();
    routes.recover(recover).unify().boxed()
}

/// The template of the route that gave an answer, which goes with it, for the metrics.
#[derive(Clone, Copy)]
struct Route(&'static str);

async fn answer(route: &'static str, handler: impl Future<Output = Answer>) -> Response {
    let late = || Problem::unavailable("the answer took too long", Duration::from_secs(5));
    let answered = tokio::time::timeout(HANDLER_TIMEOUT, handler).await;
    let answer = answered.unwrap_or_else(|_| Err(late()));
    let mut response = answer.unwrap_or_else(Problem::into_response);
    response.extensions_mut().insert(Route(route));
    response
}

/// Whatever no route took.
async fn recover(rejection: Rejection) -> Result<Response, Infallible> {
    let problem = if rejection.is_not_found() {
        Problem::new(Code::NotFound, "no such path; / lists those that there are")
    } else {
        Problem::new(Code::Internal, "the request was not understood")
    };
    Ok(problem.into_response())
}

/// An answer with a JSON body.
fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let encoded = serde_json::to_vec(value)
        .map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    Ok(body(status, "application/json", encoded))
}

fn body(status: StatusCode, media_type: &'static str, body: Vec<u8>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// Adds a `Link` to the next page (RFC 8288): the same query, but behind `cursor`.
fn link_next(
    response: &mut Response,
    path: &str,
    query: &str,
    cursor: &str,
) -> Result<(), Problem> {
    let others = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("after="));
    let mut next: Vec<&str> = others.collect();
    let after = format!("after={cursor}");
    next.push(&after);
    let link = format!("<{path}?{}>; rel=\"next\"", next.join("&"));
    let link = HeaderValue::try_from(link)
        .map_err(|_| Problem::new(Code::InvalidParameter, "the query is not percent-encoded"))?;
    response.headers_mut().insert(header::LINK, link);
    Ok(())
}
