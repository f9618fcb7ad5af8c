//! The route table, and the filter that warp serves it with.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderValue, Method, header};
use tracing::error;
use warp::{Filter, filters::BoxedFilter, reply::Response};

use super::{
    App, accounts, counts, details, docs, edits, events, health, history, ingests, metrics, movie,
    movies, notify,
    openapi::{Describe, operations as about},
    page, pages,
    request::{self, Request},
    response::{self, Answer, NO_STORE},
    sessions, suggest, uploads, users, validate,
};
use crate::{
    accounts::{Role, Roles as RoleSet},
    problem::{Code, Problem},
};
use Access::{Ledger, Public, Roles, SignedIn, Unchecked};

/// Who may call what changes movies and ingests. The table in README.md says the same.
const NOTIFY: Access = Roles(&[Role::Service]);
const PRODUCE: Access = Roles(&[Role::Producer, Role::Editor, Role::Service]);
const EDIT: Access = Roles(&[Role::Editor]);
const ADMINISTER: Access = Roles(&[Role::Admin]);
const DECIDE: Access = Roles(&[Role::Editor, Role::Service]);

/// Every route of the service. HEAD is served by the GET route of its path, OPTIONS and 405 by the
/// methods of a path.
#[rustfmt::skip] // one row a line
pub(super) static ROUTES: [Route; 42] = [
    //   path                       who may call  largest body       description           handler
    get( "/",                       Public,                          about::home,          |r| page::home(r).boxed()),
    get( "/.well-known/jwks.json",  Unchecked,                       about::read_keys,     |r| accounts::keys(r).boxed()),
    post("/auth/login",             Unchecked,    sessions::MAX_BODY, about::login,        |r| sessions::login(r).boxed()),
    post("/auth/logout",            Unchecked,    sessions::MAX_BODY, about::logout,       |r| sessions::logout(r).boxed()),
    get( "/auth/me",                SignedIn,                        about::read_me,       |r| accounts::me(r).boxed()),
    post("/auth/password",          SignedIn,     sessions::MAX_BODY, about::change_password, |r| sessions::change_password(r).boxed()),
    post("/auth/refresh",           Unchecked,    sessions::MAX_BODY, about::refresh,      |r| sessions::refresh(r).boxed()),
    get( "/docs",                   Public,                          about::docs,          |r| docs::page(r).boxed()),
    get( "/docs/{file}",            Public,                          about::docs_file,     |r| docs::file(r).boxed()),
    get( "/events",                 Public,                          about::follow_events, |r| events::follow(r).boxed()),
    get( "/genres",                 Public,                          about::count_genres,  |r| counts::genres(r).boxed()),
    get( "/healthz",                Unchecked,                       about::alive,         |r| health::alive(r).boxed()),
    get( "/ingests",                Ledger,                          about::list_ingests,  |r| ingests::list(r).boxed()),
    get( "/ingests/{id}",           Ledger,                          about::read_ingest,   |r| ingests::read(r).boxed()),
    post("/ingests/{id}/approve",   DECIDE,       0,                 about::approve_ingest, |r| ingests::approve(r).boxed()),
    post("/ingests/{id}/redo",      DECIDE,       0,                 about::redo_ingest,    |r| ingests::redo(r).boxed()),
    post("/ingests/{id}/retry",     PRODUCE,      0,                 about::retry_ingest,  |r| ingests::retry(r).boxed()),
    post("/ingests/{id}/undo",      DECIDE,       0,                 about::undo_ingest,    |r| ingests::undo(r).boxed()),
    get( "/metrics",                Unchecked,                       about::metrics,       |r| metrics::metrics(r).boxed()),
    get( "/movies",                 Public,                          about::list_movies,   |r| movies::list(r).boxed()),
    post("/movies",                 PRODUCE,      movies::MAX_BODY,  about::create_movies, |r| movies::create(r).boxed()),
    get( "/movies/{id}",            Public,                          about::read_movie,    |r| movie::read(r).boxed()),
    put( "/movies/{id}",            EDIT,         edits::MAX_BODY,   about::replace_movie, |r| edits::replace(r).boxed()),
    patch("/movies/{id}",           EDIT,         edits::MAX_BODY,   about::patch_movie,   |r| edits::patch(r).boxed()),
    delete("/movies/{id}",          EDIT,                            about::delete_movie,  |r| edits::delete(r).boxed()),
    get( "/movies/{id}/details",    Public,                          about::read_details,  |r| details::read(r).boxed()),
    get( "/movies/{id}/history",    Ledger,                          about::list_changes,  |r| history::list(r).boxed()),
    put( "/movies/{id}/hold",       EDIT,         0,                 about::hold_movie,    |r| edits::hold(r).boxed()),
    delete("/movies/{id}/hold",     EDIT,                            about::release_movie, |r| edits::release(r).boxed()),
    post("/notify",                 NOTIFY,       notify::MAX_BODY,  about::notify,        |r| notify::notify(r).boxed()),
    get( "/openapi.json",           Public,                          about::openapi,       |r| pages::openapi(r).boxed()),
    get( "/page/{version}/{file}",  Public,                          about::page_file,      |r| page::file(r).boxed()),
    get( "/readyz",                 Unchecked,                       about::ready,         |r| health::ready(r).boxed()),
    get( "/schema/movies.json",     Public,                          about::read_schema,   |r| pages::schema(r).boxed()),
    get( "/suggest",                Public,                          about::suggest,       |r| suggest::suggest(r).boxed()),
    post("/uploads",                PRODUCE,      uploads::MAX_BODY, about::create_upload, |r| uploads::create(r).boxed()),
    get( "/users",                  ADMINISTER,                      about::list_users,    |r| users::list(r).boxed()),
    post("/users",                  ADMINISTER,   users::MAX_BODY,   about::create_user,   |r| users::create(r).boxed()),
    get( "/users/{id}",             ADMINISTER,                      about::read_user,     |r| users::read(r).boxed()),
    patch("/users/{id}",            ADMINISTER,   users::MAX_BODY,   about::change_user,   |r| users::change(r).boxed()),
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
    /// Everybody, and a token is not looked at: for probes, and for what gives out tokens, so that a client with
    /// an old one gets a new one.
    Unchecked,
    /// Everybody. A token that is sent must hold.
    Public,
    /// Whoever has a role, or everybody if the ledger is public.
    Ledger,
    /// Whoever has a token that holds, whatever the roles.
    SignedIn,
    /// Whoever has one of these roles.
    Roles(&'static [Role]),
}

impl Access {
    /// Returns the roles that a caller needs one of; none if it needs no role. `public_ledger` tells whether the
    /// ledger is public.
    pub(super) fn roles(self, public_ledger: bool) -> Option<RoleSet> {
        match self {
            Unchecked | Public | SignedIn => None,
            Ledger if public_ledger => None,
            Ledger => Some(Role::all().collect()),
            Roles(allowed) => Some(RoleSet::of(allowed)),
        }
    }

    /// Finds out who sends a request, and whether the caller may.
    ///
    /// # Errors
    /// If the token does not hold, or the caller lacks the role.
    async fn admit(self, request: &mut Request) -> Result<(), Problem> {
        if matches!(self, Unchecked) {
            return Ok(());
        }
        request.authenticate().await?;
        if matches!(self, SignedIn) {
            request.caller()?;
        }
        let public_ledger = request.app.access.accounts.has_public_ledger();
        let Some(allowed) = self.roles(public_ledger) else { return Ok(()) };
        let roles = request.caller()?.roles;
        if roles.contains_any(allowed) {
            return Ok(());
        }
        let has = if roles.is_empty() { "no role".to_owned() } else { roles.to_string() };
        let detail = format!("this needs one of the roles {allowed}, and you have {has}");
        Err(Problem::forbidden(detail))
    }
}

/// The path of the route that served a response. It goes with the response, for the metrics.
#[derive(Clone, Copy)]
pub(super) struct RouteLabel(pub(super) &'static str);

impl RouteLabel {
    /// The label of a request that no route matches.
    pub(super) const NONE: Self = Self("none");
}

const fn get(path: &'static str, access: Access, describe: Describe, handler: Handler) -> Route {
    Route { method: Method::GET, path, access, max_body: 0, describe, handler }
}

const fn delete(path: &'static str, access: Access, describe: Describe, handler: Handler) -> Route {
    Route { method: Method::DELETE, path, access, max_body: 0, describe, handler }
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

const fn put(
    path: &'static str,
    access: Access,
    max_body: usize,
    describe: Describe,
    handler: Handler,
) -> Route {
    Route { method: Method::PUT, path, access, max_body, describe, handler }
}

const fn patch(
    path: &'static str,
    access: Access,
    max_body: usize,
    describe: Describe,
    handler: Handler,
) -> Route {
    Route { method: Method::PATCH, path, access, max_body, describe, handler }
}

/// Returns the filter that serves the table.
pub(crate) fn routes(app: Arc<App>) -> BoxedFilter<(Response,)> {
    request::request(app).then(|request| serve(request, |_| true)).boxed()
}

/// Returns the filter that serves the probes only.
pub(crate) fn probe_routes(app: Arc<App>) -> BoxedFilter<(Response,)> {
    request::request(app).then(|request| serve(request, |path| PROBES.contains(&path))).boxed()
}

/// Serves a request by the routes whose paths `is_served` accepts. A route is looked up by its path: in a chain
/// of filters each one would box the request anew.
async fn serve(request: Request, is_served: fn(&str) -> bool) -> Response {
    let path = Arc::clone(&request.path);
    let routes = || {
        let served = ROUTES.iter().filter(|route| is_served(route.path));
        served.filter(|route| route.values(&path).is_some())
    };
    let Some(first) = routes().next() else {
        let problem = Problem::new(Code::NotFound, "no such path; /docs lists the paths");
        return response::problem(&problem);
    };
    let response = match routes().find(|route| route.method == request.method) {
        Some(route) => route.run(request).await,
        None if request.method == Method::OPTIONS => Ok(response::no_content(allow(routes()))),
        None => Err(Problem::method_not_allowed(allow(routes()))),
    };
    let mut response = response.unwrap_or_else(|problem| {
        if let Some(error) = problem.cause() {
            error!(error, "request failed");
        }
        response::problem(&problem)
    });
    response.extensions_mut().insert(RouteLabel(first.path));
    response
}

impl Route {
    /// Returns the values of the segments in braces, if this is the route of `path`. A slash at the end of
    /// `path` changes nothing.
    fn values(&self, path: &str) -> Option<Vec<String>> {
        let mut names = self.path.strip_suffix('/').unwrap_or(self.path).split('/');
        let mut segments = path.strip_suffix('/').unwrap_or(path).split('/');
        let mut values = Vec::new();
        loop {
            match (names.next(), segments.next()) {
                (None, None) => return Some(values),
                (Some(name), Some(value)) if name.starts_with('{') && !value.is_empty() => {
                    values.push(value.to_owned());
                }
                (name, segment) if name == segment => {}
                _ => return None,
            }
        }
    }

    async fn run(&self, request: Request) -> Answer {
        let values = self.values(&request.path).unwrap_or_default();
        let mut request = request.with_route(RouteLabel(self.path), values, self.max_body);
        self.access.admit(&mut request).await?;
        let late = || Problem::unavailable("the request took too long", Duration::from_secs(5));
        let answered = tokio::time::timeout(HANDLER_TIMEOUT, (self.handler)(request)).await;
        let mut response = answered.unwrap_or_else(|_| Err(late()))?;
        // What is not for everybody is kept by nobody.
        if !matches!(self.access, Unchecked | Public) {
            response.headers_mut().entry(header::CACHE_CONTROL).or_insert(NO_STORE);
        }
        Ok(response)
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
