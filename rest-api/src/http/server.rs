//! The accept loop around warp's routes, and the layers that each request passes.
//!
//! warp's own server sets no timeouts: a client that sends half a header would hold its connection,
//! and a graceful stop, for ever. Here every wait has a timeout (docs/adr/0005-libraries.md).

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
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
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

use super::metrics::CountRequests;
use crate::{
    metrics::Metrics,
    problem::{Code, Problem},
    shutdown,
    telemetry::milliseconds,
};

/// How long a client may take to send the head of its first request.
const FIRST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may be idle, the head of its next request included. A load balancer keeps
/// its connections for 60 s, and responds 502 if the service closes one before.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// The largest head of a request, in bytes.
const MAX_HEAD: usize = 64 << 10;

/// How long a client may read nothing of a response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// The largest number of connections that are served at once. Further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;

/// How long requests in flight may take to end when the service stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(12);

/// Serves `routes` until `stop` turns true. Then requests in flight may end, for a while.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: BoxedFilter<(warp::reply::Response,)>,
    metrics: Arc<Metrics>,
    mut stop: watch::Receiver<bool>,
) {
    let service = ServiceBuilder::new()
        .set_x_request_id(MakeRequestUuid)
        .map_request(with_trace_id)
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(span)
                .on_request(())
                .on_response(log_response),
        )
        .propagate_x_request_id()
        .layer(CatchPanicLayer::custom(panic_response))
        .map_request(head_as_get)
        .service(warp::service(routes));
    let service = CountRequests::new(service, metrics);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT).max_buf_size(MAX_HEAD);
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown::requested(&mut stop) => break,
            accepted = accept(&listener, &permits) => accepted,
            // Removes connections that have ended from the set.
            Some(_) = connections.join_next() => continue,
        };
        let Some((stream, permit)) = accepted else { continue };
        let has_requested = Arc::new(AtomicBool::new(false));
        let service = service.clone().map_request({
            let has_requested = Arc::clone(&has_requested);
            move |request| {
                has_requested.store(true, Ordering::Relaxed);
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
                    debug!(%error, "connection broke");
                },
                () = first_head_timeout(&has_requested) => debug!("connection closed: no request in time"),
            }
            drop(permit);
        });
    }
    drop(listener);
    info!("stopping: waiting for requests in flight");
    if timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        warn!("stopping: closing connections that did not end in time");
    }
    connections.shutdown().await;
}

/// Ends if the head of the first request has not arrived in time.
async fn first_head_timeout(has_requested: &AtomicBool) {
    tokio::time::sleep(FIRST_HEAD_TIMEOUT).await;
    if has_requested.load(Ordering::Relaxed) {
        std::future::pending().await
    }
}

/// Waits for a permit, and accepts the next connection.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            // A small response must not wait for more data.
            let _ = stream.set_nodelay(true);
            Some((stream, permit))
        }
        Err(error) => {
            // Most likely there are no file descriptors left. Wait for some.
            warn!(%error, "accepting a connection failed, will retry");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

/// Serves HEAD by the route of GET. hyper leaves out the body of the response (RFC 9110, 9.3.2).
fn head_as_get(mut request: Request<Incoming>) -> Request<Incoming> {
    if request.method() == Method::HEAD {
        *request.method_mut() = Method::GET;
    }
    request
}

/// Adds the id of the request's trace: the one that the client sent, or a new one.
fn with_trace_id(mut request: Request<Incoming>) -> Request<Incoming> {
    let mut headers = request.headers().get_all(TRACEPARENT).iter();
    let sent = match (headers.next(), headers.next()) {
        (Some(one), None) => one.to_str().ok().and_then(TraceParent::parse),
        _ => None,
    };
    let trace = sent.unwrap_or_else(TraceParent::random);
    request.extensions_mut().insert(trace.trace_id);
    request
}

fn span(request: &Request<Incoming>) -> Span {
    let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok());
    let trace_id = request.extensions().get::<TraceId>().map(display);
    let (method, uri) = (request.method(), request.uri());
    info_span!("request", id, trace_id, %method, path = uri.path(), query = uri.query())
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
