//! What each request passes before its route, and each response after it.
//!
//! It is one function, not a stack of tower layers: most requests are answered from memory within
//! microseconds, and such a stack took several times as long as the answer (docs/performance.md).

use std::{any::Any, convert::Infallible, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use aws::{
    otlp::{self, SpanKind},
    trace::{TRACEPARENT, Trace, TraceId, TraceParent},
};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use hyper::body::{Body, Incoming};
use tokio::time::Instant;
use tower::Service;
use tracing::{
    Instrument, Level, Span, debug, enabled, error,
    field::{Empty, display},
    info, info_span,
};
use uuid::{Builder, Uuid};
use warp::reply::Response;

use super::{connections::Place, cors::Cors, requests::ReceivedBody, responses::ResponseMemory};
use crate::{
    http::{App, cache, request::Peer, response, routes::RouteLabel},
    metrics::Metrics,
    problem::{Code, Problem},
    telemetry::milliseconds,
    terminal::excerpt,
};

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest request id that is accepted from a client, in bytes.
const MAX_REQUEST_ID: usize = 128;

/// The longest method, path and query in the log, in characters.
const MAX_LOGGED: usize = 512;

/// A read that takes longer is logged at the default level.
const SLOW: Duration = Duration::from_secs(1);

/// Pages of other sites must not frame a response. A route may have a stricter policy.
const FRAME_POLICY: HeaderValue = HeaderValue::from_static("frame-ancestors 'none'");

/// What all requests of one listener pass.
pub(super) struct Layers<S> {
    pub(super) routes: S,
    /// Whose answers in memory are asked before the routes. None if the routes must see each request.
    pub(super) app: Option<Arc<App>>,
    pub(super) exports_spans: bool,
    pub(super) metrics: Arc<Metrics>,
    pub(super) memory: ResponseMemory,
    pub(super) cors: Cors,
}

impl<S> Layers<S>
where
    S: Service<Request<ReceivedBody>, Response = Response, Error = Infallible> + Clone,
{
    /// Serves a request that `peer` has sent to `place`.
    pub(super) async fn serve(
        &self,
        mut request: Request<Incoming>,
        place: &Arc<Place>,
        peer: Peer,
    ) -> http::Response<impl Body<Data = Bytes, Error = warp::Error> + use<S>> {
        let started = Instant::now();
        let in_flight = self.metrics.start_request(request.method(), started.into_std());
        let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        let (exchange, receiving) = place.begin_exchange(request.body().is_end_stream(), started);
        let id = request_id(request.headers());
        let cors = self.cors.headers(request.headers());

        let (mut response, route, span, mut exported) = match self.at_once(&request, started) {
            Some((response, route)) => (response, route, Span::none(), otlp::Span::NONE),
            None => {
                let method = in_flight.method();
                let exported = with_ids(&mut request, &id, method, self.exports_spans);
                request.extensions_mut().insert(peer);
                let span = span(&request);
                let request = request.map(|body| ReceivedBody::new(body, receiving));
                // In a box: the future of a request that needs no route stays small.
                let response = Box::pin(self.route(request)).instrument(span.clone()).await;
                let route = response.extensions().get().copied();
                (response, route.unwrap_or(RouteLabel::NONE), span, exported)
            }
        };
        let reservation = self.memory.admit(&mut response).await;
        let headers = response.headers_mut();
        headers.insert(X_REQUEST_ID, id);
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(FRAME_POLICY);
        // The response to a preflight request has its own.
        if !headers.contains_key(header::ACCESS_CONTROL_ALLOW_METHODS) {
            for (name, value) in cors.iter() {
                headers.append(name.clone(), value.clone());
            }
        }
        describe(&mut exported, in_flight.method(), route, response.status());
        let duration = in_flight.respond(route.0, response.status());
        span.in_scope(|| log(response.status(), duration, changes));
        exchange.respond(response, reservation, started + duration)
    }

    /// Returns the answer that needs no route, if there is one. Where reads are logged they all take the same
    /// way, in a span that says what they are.
    fn at_once(&self, request: &Request<Incoming>, now: Instant) -> Option<(Response, RouteLabel)> {
        let app = self.app.as_ref().filter(|_| !enabled!(Level::DEBUG))?;
        cache::at_once(app, request, now)
    }

    async fn route(&self, mut request: Request<ReceivedBody>) -> Response {
        if let Some(response) = self.cors.preflight(&request) {
            return response;
        }
        // HEAD is served by the route of GET. hyper leaves out the body (RFC 9110, 9.3.2).
        if request.method() == Method::HEAD {
            *request.method_mut() = Method::GET;
        }
        let response = AssertUnwindSafe(self.routes.clone().call(request)).catch_unwind().await;
        let Ok(response) = response.unwrap_or_else(|panic| Ok(panic_response(&*panic)));
        response
    }
}

/// Returns the client's request id if it is one short word, else a new one. It goes into every log line of the
/// request, into the ledger and into the response.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let mut ids = headers.get_all(X_REQUEST_ID).iter();
    if let (Some(id), None) = (ids.next(), ids.next())
        && (1..=MAX_REQUEST_ID).contains(&id.len())
        && id.as_bytes().iter().all(u8::is_ascii_graphic)
    {
        return id.clone();
    }
    // It is to be unique, not secret: a system call for its randomness would take longer than many answers.
    let id = Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes()).into_uuid();
    let mut text = Uuid::encode_buffer();
    let id = id.hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(id).unwrap_or(HeaderValue::from_static(""))
}

/// Adds the request id, and the request's trace: the one that the client sent, or a new one. Returns the request's
/// span in it, called `method` until its route is known.
fn with_ids<B>(
    request: &mut Request<B>,
    id: &HeaderValue,
    method: &'static str,
    is_exported: bool,
) -> otlp::Span {
    request.headers_mut().insert(X_REQUEST_ID, id.clone());
    let mut headers = request.headers().get_all(TRACEPARENT).iter();
    let sent = match (headers.next(), headers.next()) {
        (Some(one), None) => one.to_str().ok().and_then(TraceParent::parse),
        _ => None,
    };
    let id = sent.map_or_else(TraceId::random, |sent| sent.trace_id);
    // Who shows no credentials does not decide what is exported.
    let parent = sent.filter(|_| request.headers().contains_key(header::AUTHORIZATION));
    let exported = match is_exported {
        true => otlp::Span::start(SpanKind::Server, method, id, parent),
        false => otlp::Span::NONE,
    };
    request.extensions_mut().insert(Trace { id, span: exported.traceparent() });
    exported
}

/// Completes the exported span of a request.
fn describe(
    exported: &mut otlp::Span,
    method: &'static str,
    RouteLabel(route): RouteLabel,
    status: StatusCode,
) {
    exported.rename(|| format!("{method} {route}"));
    exported.set("http.request.method", || method);
    exported.set("http.route", || route);
    exported.set("http.response.status_code", || i64::from(status.as_u16()));
    if status.is_server_error() {
        exported.fail();
    }
}

fn span<B>(request: &Request<B>) -> Span {
    let id = request.headers().get(X_REQUEST_ID).and_then(|id| id.to_str().ok());
    let trace_id = request.extensions().get::<Trace>().map(|trace| display(trace.id));
    let method = excerpt(request.method().as_str(), MAX_LOGGED);
    let path = excerpt(request.uri().path(), MAX_LOGGED);
    let query = request.uri().query().map(|query| excerpt(query, MAX_LOGGED));
    info_span!("request", id, trace_id, method, path, query, caller = Empty)
}

/// Logs a response: at the default level what operators look for, which is changes, faults and slow reads. The
/// metrics count all of them.
fn log(status: StatusCode, duration: Duration, changes: bool) {
    let (code, duration_ms) = (status.as_u16(), milliseconds(duration));
    if changes || duration >= SLOW || status.is_client_error() || status.is_server_error() {
        info!(status = code, duration_ms, "request served");
    } else {
        debug!(status = code, duration_ms, "request served");
    }
}

fn panic_response(panic: &(dyn Any + Send)) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
    error!(panic = text, "a handler panicked");
    let problem = Problem::new(Code::Internal, "see the service's log, by the header x-request-id");
    let mut response = response::problem(&problem);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
