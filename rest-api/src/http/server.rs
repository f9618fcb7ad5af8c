//! The accept loop around warp's routes.
//!
//! warp's own server sets no timeouts: a client that sends half a header would hold its connection,
//! and a graceful stop, for ever. Here every wait has an end.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aws::trace::{TRACEPARENT, TraceId, TraceParent};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_io_timeout::TimeoutStream;
use tower::{BoxError, ServiceBuilder, ServiceExt};
use tower_http::{
    ServiceBuilderExt, body::UnsyncBoxBody, catch_panic::CatchPanicLayer,
    request_id::MakeRequestUuid, trace::TraceLayer,
};
use tracing::{Span, debug, error, field::display, info, info_span, warn};
use warp::filters::BoxedFilter;

use super::metrics::Counted;
use crate::{
    metrics::Metrics,
    problem::{Code, Problem},
    stopped,
};

/// How long a client may take to send the head of its first request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may wait for its next request, and that one's head may take. A load
/// balancer keeps its connections for 60 s, and answers 502 when it finds one closed under it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// The head of a request may be this large, in bytes.
const MAX_HEAD: usize = 64 << 10;

/// How long a client may leave an answer unread, so that no more of it can be sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// So many connections are served at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;

/// How long requests under way may take to end when the service stops.
const DRAIN: Duration = Duration::from_secs(12);

/// Serves `routes` until `stop` turns true, then lets requests under way end for a while.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: BoxedFilter<(warp::reply::Response,)>,
    metrics: Arc<Metrics>,
    mut stop: watch::Receiver<bool>,
) {
    let service = ServiceBuilder::new()
        .set_x_request_id(MakeRequestUuid)
        .map_request(traced)
        .layer(TraceLayer::new_for_http().make_span_with(span).on_request(()).on_response(ended))
        .propagate_x_request_id()
        .layer(CatchPanicLayer::custom(panicked))
        .map_request(head_as_get)
        .service(warp::service(routes));
    let service = Counted::new(service, metrics);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT).max_buf_size(MAX_HEAD);
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut stop) => break,
            accepted = accept(&listener, &places) => accepted,
            // Keeps the set from growing with connections that have ended.
            Some(_) = connections.join_next() => continue,
        };
        let Some((stream, place)) = accepted else { continue };
        let asked = Arc::new(AtomicBool::new(false));
        let service = service.clone().map_request({
            let asked = Arc::clone(&asked);
            move |request| {
                asked.store(true, Ordering::Relaxed);
                request
            }
        });
        let service = TowerToHyperService::new(service);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIMEOUT));
        let connection = http.serve_connection(TokioIo::new(Box::pin(stream)), service);
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    debug!(%error, "a connection broke");
                },
                () = never_asked(&asked) => debug!("a connection without a request"),
            }
            drop(place);
        });
    }
    drop(listener);
    info!("stopping: waiting for requests under way");
    if timeout(DRAIN, graceful.shutdown()).await.is_err() {
        warn!("stopping: closing connections that did not end in time");
    }
    connections.shutdown().await;
}

/// Ends if the first request has not come in time.
async fn never_asked(asked: &AtomicBool) {
    tokio::time::sleep(HEAD_TIMEOUT).await;
    if asked.load(Ordering::Relaxed) {
        std::future::pending().await
    }
}

/// The next connection, once there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(tokio::net::TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            // Small answers should not wait for more to send.
            let _ = stream.set_nodelay(true);
            Some((stream, place))
        }
        Err(error) => {
            // Out of file descriptors, most likely: wait for some to come free.
            warn!(%error, "cannot accept a connection");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

/// HEAD is answered as GET is, its body then left out by hyper (RFC 9110, 9.3.2).
fn head_as_get(mut request: Request<Incoming>) -> Request<Incoming> {
    if request.method() == Method::HEAD {
        *request.method_mut() = Method::GET;
    }
    request
}

/// Gives the request the id of its trace: the one that the client says, or one that begins here.
fn traced(mut request: Request<Incoming>) -> Request<Incoming> {
    let mut said = request.headers().get_all(TRACEPARENT).iter();
    let said = match (said.next(), said.next()) {
        (Some(one), None) => one.to_str().ok().and_then(TraceParent::parse),
        _ => None,
    };
    let trace = said.unwrap_or_else(TraceParent::random);
    request.extensions_mut().insert(trace.trace_id);
    request
}

fn span(request: &Request<Incoming>) -> Span {
    let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok());
    let trace_id = request.extensions().get::<TraceId>().map(display);
    let (method, uri) = (request.method(), request.uri());
    info_span!("request", id, trace_id, %method, path = uri.path(), query = uri.query())
}

/// What the layers make of warp's body.
type LayeredBody = UnsyncBoxBody<Bytes, BoxError>;

fn ended(response: &Response<LayeredBody>, latency: Duration, _span: &Span) {
    let ms = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
    info!(status = response.status().as_u16(), ms, "answered");
}

fn panicked(panic: Box<dyn Any + Send>) -> Response<Full<Bytes>> {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
    error!(panic = text, "a handler panicked");
    let problem = Problem::new(Code::Internal, "the log knows more, by the header x-request-id");
    let (parts, json) = problem.into_parts();
    let mut response = Response::from_parts(parts, Full::from(json));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
