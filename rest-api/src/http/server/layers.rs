//! What each request passes before its route, and each response after it.

use std::{any::Any, convert::Infallible, sync::Arc, time::Duration};

use aws::trace::{TRACEPARENT, TraceId, TraceParent};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, header};
use http_body_util::Full;
use hyper::body::Body;
use tower::{BoxError, Service, ServiceBuilder};
use tower_http::{
    ServiceBuilderExt,
    body::UnsyncBoxBody,
    catch_panic::CatchPanicLayer,
    cors::{self, AllowOrigin, CorsLayer},
    request_id::MakeRequestUuid,
    trace::TraceLayer,
};
use tracing::{Span, error, field::display, info, info_span};
use warp::filters::BoxedFilter;

use super::{super::metrics::CountRequests, requests::ReceivedBody, responses::ResponseMemory};
use crate::{
    config::CorsOrigins,
    metrics::Metrics,
    problem::{Code, Problem},
    telemetry::milliseconds,
    terminal::excerpt,
};

const REQUEST_ID: &str = "x-request-id";
const X_REQUEST_ID: HeaderName = HeaderName::from_static(REQUEST_ID);

/// For how long a browser may remember what a page may send.
const PREFLIGHT_AGE: Duration = Duration::from_secs(3600);

/// The longest request id that is accepted from a client, in bytes.
const MAX_REQUEST_ID: usize = 128;

/// The longest method, path and query in the log, in characters.
const MAX_LOGGED: usize = 512;

/// Pages of other sites must not frame a response. A route may have a stricter policy.
const FRAME_POLICY: HeaderValue = HeaderValue::from_static("frame-ancestors 'none'");

/// Returns `routes` with all layers.
pub(super) fn layered(
    routes: BoxedFilter<(warp::reply::Response,)>,
    metrics: Arc<Metrics>,
    memory: ResponseMemory,
    cors: CorsLayer,
) -> impl Service<
    Request<ReceivedBody>,
    Response = Response<impl Body<Data = Bytes, Error = impl Into<BoxError>> + Send + Unpin>,
    Error = impl Into<BoxError>,
    Future: Send,
> + Clone
+ Send {
    let service = ServiceBuilder::new()
        .override_response_header(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        )
        .insert_response_header_if_not_present(header::CONTENT_SECURITY_POLICY, FRAME_POLICY)
        .map_request(without_invalid_request_id)
        .set_x_request_id(MakeRequestUuid)
        .map_request(with_trace_id)
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(span)
                .on_request(())
                .on_response(log_response)
                .on_failure(()),
        )
        .propagate_x_request_id()
        .layer(cors)
        .layer(CatchPanicLayer::custom(panic_response))
        .map_request(head_as_get)
        .and_then(move |response| {
            let memory = memory.clone();
            async move { Ok::<_, Infallible>(memory.admit(response).await) }
        })
        .service(warp::service(routes));
    CountRequests::new(service, metrics)
}

/// Lets pages of these origins read, and learn what they need for it.
pub(super) fn cors(origins: &CorsOrigins) -> CorsLayer {
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::HEAD])
        .allow_headers([header::ACCEPT, header::AUTHORIZATION, header::IF_NONE_MATCH])
        .expose_headers([header::LINK, header::ETAG, header::RETRY_AFTER, X_REQUEST_ID])
        .max_age(PREFLIGHT_AGE);
    match origins {
        CorsOrigins::Any => layer.allow_origin(cors::Any),
        CorsOrigins::Listed(origins) => {
            let origins = origins.iter().filter_map(|origin| origin.parse::<HeaderValue>().ok());
            layer.allow_origin(AllowOrigin::list(origins))
        }
    }
}

/// Serves HEAD by the route of GET. hyper leaves out the body of the response (RFC 9110, 9.3.2).
fn head_as_get(mut request: Request<ReceivedBody>) -> Request<ReceivedBody> {
    if request.method() == Method::HEAD {
        *request.method_mut() = Method::GET;
    }
    request
}

/// Removes the client's request id unless it is one short word: it goes into every log line of the
/// request, into the ledger and into the response.
fn without_invalid_request_id(mut request: Request<ReceivedBody>) -> Request<ReceivedBody> {
    let mut ids = request.headers().get_all(REQUEST_ID).iter();
    let is_valid = match (ids.next(), ids.next()) {
        (Some(id), None) => {
            let id = id.as_bytes();
            (1..=MAX_REQUEST_ID).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
        }
        _ => false,
    };
    if !is_valid {
        request.headers_mut().remove(REQUEST_ID);
    }
    request
}

/// Adds the id of the request's trace: the one that the client sent, or a new one.
fn with_trace_id(mut request: Request<ReceivedBody>) -> Request<ReceivedBody> {
    let mut headers = request.headers().get_all(TRACEPARENT).iter();
    let sent = match (headers.next(), headers.next()) {
        (Some(one), None) => one.to_str().ok().and_then(TraceParent::parse),
        _ => None,
    };
    let trace = sent.unwrap_or_else(TraceParent::random);
    request.extensions_mut().insert(trace.trace_id);
    request
}

fn span(request: &Request<ReceivedBody>) -> Span {
    let id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let trace_id = request.extensions().get::<TraceId>().map(display);
    let method = excerpt(request.method().as_str(), MAX_LOGGED);
    let path = excerpt(request.uri().path(), MAX_LOGGED);
    let query = request.uri().query().map(|query| excerpt(query, MAX_LOGGED));
    info_span!("request", id, trace_id, method, path, query)
}

/// The body of a response after the layers.
type LayeredBody = UnsyncBoxBody<Bytes, BoxError>;

fn log_response(response: &Response<LayeredBody>, latency: Duration, _span: &Span) {
    let duration_ms = milliseconds(latency);
    info!(status = response.status().as_u16(), duration_ms, "request served");
}

fn panic_response(panic: Box<dyn Any + Send>) -> Response<Full<Bytes>> {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
    error!(panic = text, "a handler panicked");
    let problem = Problem::new(Code::Internal, "see the service's log, by the header x-request-id");
    let mut response = Response::new(Full::from(problem.to_json()));
    *response.status_mut() = problem.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
