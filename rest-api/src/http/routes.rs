//! The route table, and the filter that warp serves it with.

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderValue, Method};
use tracing::error;
use warp::{Filter, Rejection, filters::BoxedFilter, reply::Response};

use super::{
    App, counts, docs, health, ingests, metrics, movies, notify,
    openapi::{Describe, operations as about},
    pages,
    request::{self, Request},
    response::{self, Answer},
    suggest, validate,
};
use crate::problem::{Code, Problem};
use Access::{ApiToken, Public};

/// Every route of the service. HEAD is served by the GET route of its path, OPTIONS and 405 by the
/// methods of a path.
#[rustfmt::skip] // one row a line
pub(super) static ROUTES: [Route; 19] = [
    //   path                       who may call  largest body       description           handler
    get( "/",                       Public,                          about::home,          |r| pages::home(r).boxed()),
    get( "/docs",                   Public,                          about::docs,          |r| docs::page(r).boxed()),
    get( "/docs/{file}",            Public,                          about::docs_file,     |r| docs::file(r).boxed()),
    get( "/genres",                 Public,                          about::count_genres,  |r| counts::genres(r).boxed()),
    get( "/healthz",                Public,                          about::alive,         |r| health::alive(r).boxed()),
    get( "/ingests",                Public,                          about::list_ingests,  |r| ingests::list(r).boxed()),
    get( "/ingests/{id}",           Public,                          about::read_ingest,   |r| ingests::read(r).boxed()),
    post("/ingests/{id}/retry",     ApiToken,     0,                 about::retry_ingest,  |r| ingests::retry(r).boxed()),
    get( "/metrics",                Public,                          about::metrics,       |r| metrics::metrics(r).boxed()),
    get( "/movies",                 Public,                          about::list_movies,   |r| movies::list(r).boxed()),
    post("/movies",                 ApiToken,     movies::MAX_BODY,  about::create_movies, |r| movies::create(r).boxed()),
    get( "/movies/{id}",            Public,                          about::read_movie,    |r| movies::read(r).boxed()),
    post("/notify",                 ApiToken,     notify::MAX_BODY,  about::notify,        |r| notify::notify(r).boxed()),
    get( "/openapi.json",           Public,                          about::openapi,       |r| pages::openapi(r).boxed()),
    get( "/readyz",                 Public,                          about::ready,         |r| health::ready(r).boxed()),
    get( "/schema/movies.json",     Public,                          about::read_schema,   |r| pages::schema(r).boxed()),
    get( "/suggest",                Public,                          about::suggest,       |r| suggest::suggest(r).boxed()),
    post("/validate",               Public,       movies::MAX_BODY,  about::validate_file, |r| validate::validate(r).boxed()),
    get( "/years",                  Public,                          about::count_years,   |r| counts::years(r).boxed()),
];

/// The routes of the listener for probes.
const PROBES: [&str; 3] = ["/healthz", "/metrics", "/readyz"];

/// How long a handler may take. The longest is a notification that waits for 30 s.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(45);

/// One row of the table.
pub(super) struct Route {
    pub(super) method: Method,
    /// The path, and the label of the route in the metrics. A segment in braces matches any text.
    pub(super) path: &'static str,
    pub(super) access: Access,
    /// The largest body that the handler reads, in bytes.
    pub(super) max_body: usize,
    /// What the OpenAPI document says.
    pub(super) describe: Describe,
    handler: Handler,
}

type Handler = fn(Request) -> BoxFuture<'static, Answer>;

/// Who may call a route.
#[derive(Clone, Copy)]
pub(super) enum Access {
    /// Everybody.
    Public,
    /// Whoever sends the API token.
    ApiToken,
}

/// The path of the route that served a response. It goes with the response, for the metrics.
#[derive(Clone, Copy)]
pub(super) struct RouteLabel(pub(super) &'static str);

const fn get(path: &'static str, access: Access, describe: Describe, handler: Handler) -> Route {
    Route { method: Method::GET, path, access, max_body: 0, describe, handler }
}

const fn post(
    path: &'static str,
    access: Access,
    max_body: usize,
    describe: Describe,
    handler: Handler,
) -> Route {
    Route { method: Method::POST, path, access, max_body, describe, handler }
}

/// Returns the filter that serves the table.
pub(crate) fn routes(app: Arc<App>) -> BoxedFilter<(Response,)> {
    let mut paths: Vec<&'static str> = ROUTES.iter().map(|route| route.path).collect();
    paths.dedup();
    serve_paths(app, paths)
}

/// Returns the filter that serves the probes only.
pub(crate) fn probe_routes(app: Arc<App>) -> BoxedFilter<(Response,)> {
    serve_paths(app, PROBES)
}

fn serve_paths(
    app: Arc<App>,
    paths: impl IntoIterator<Item = &'static str>,
) -> BoxedFilter<(Response,)> {
    let request = request::request(app);
    let none = warp::any().and_then(async || Err::<Response, _>(warp::reject::not_found()));
    let routes = paths.into_iter().fold(none.boxed(), |routes, path| {
        let route = matches(path).and(request.clone());
        let route = route.then(move |parameters, request| serve(path, parameters, request));
        routes.or(route).unify().boxed()
    });
    routes.recover(recover).unify().boxed()
}

/// Returns a filter that matches a path, and extracts the values of its segments in braces.
fn matches(path: &'static str) -> BoxedFilter<(Vec<String>,)> {
    let start = warp::any().map(Vec::new).boxed();
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    let filter = segments.fold(start, |filter, segment| {
        if !segment.starts_with('{') {
            return filter.and(warp::path(segment)).boxed();
        }
        let append = |mut values: Vec<String>, value| {
            values.push(value);
            values
        };
        filter.and(warp::path::param::<String>()).map(append).boxed()
    });
    filter.and(warp::path::end()).boxed()
}

/// Serves a request to `path`.
async fn serve(path: &'static str, parameters: Vec<String>, request: Request) -> Response {
    let routes = ROUTES.iter().filter(|route| route.path == path);
    let response = match routes.clone().find(|route| route.method == request.method) {
        Some(route) => route.run(request.with_route(parameters, route.max_body)).await,
        None if request.method == Method::OPTIONS => Ok(response::no_content(allow(routes))),
        None => Err(Problem::method_not_allowed(allow(routes))),
    };
    let mut response = response.unwrap_or_else(|problem| {
        if let Some(error) = problem.cause() {
            error!(error, "request failed");
        }
        response::problem(&problem)
    });
    response.extensions_mut().insert(RouteLabel(path));
    response
}

impl Route {
    async fn run(&self, request: Request) -> Answer {
        match self.access {
            Public => {}
            ApiToken => request.require_api_token()?,
        }
        let late = || Problem::unavailable("the request took too long", Duration::from_secs(5));
        let answered = tokio::time::timeout(HANDLER_TIMEOUT, (self.handler)(request)).await;
        answered.unwrap_or_else(|_| Err(late()))
    }
}

/// Returns the value of `Allow` for the routes of one path.
fn allow(routes: impl Iterator<Item = &'static Route>) -> HeaderValue {
    let mut methods = Vec::new();
    for route in routes {
        methods.push(route.method.as_str());
        if route.method == Method::GET {
            methods.push("HEAD");
        }
    }
    HeaderValue::try_from(methods.join(", ")).unwrap_or(HeaderValue::from_static(""))
}

/// Responds to a request that no route matches.
async fn recover(rejection: Rejection) -> Result<Response, Infallible> {
    let problem = if rejection.is_not_found() {
        Problem::new(Code::NotFound, "no such path; / lists the paths")
    } else {
        Problem::new(Code::Internal, "the request could not be read")
    };
    Ok(response::problem(&problem))
}
