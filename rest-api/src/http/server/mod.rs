//! The accept loop around warp's routes.
//!
//! - `connections` limits the number of connections, and finds those to close.
//! - `layers` is what each request passes before and after its route.
//! - `responses` limits the memory of responses that clients have not read yet.
//!
//! warp's own server sets no timeouts: a client that sends half a header would hold its connection,
//! and a graceful stop, for ever. Here every wait has a timeout (docs/adr/0005-libraries.md).

mod connections;
mod layers;
mod responses;

use std::{sync::Arc, time::Duration};

use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;
use tracing::{debug, info, warn};
use warp::filters::BoxedFilter;

use crate::{config::ServerLimits, metrics::Metrics, shutdown};
use connections::Places;
use responses::ResponseMemory;

/// How long a connection may be idle, the head of its next request included. A load balancer keeps
/// its connections for 60 s, and responds 502 if the service closes one before.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// The largest head of a request, in bytes. hyper queues as many bytes of a response, too.
const MAX_HEAD: usize = 64 << 10;

/// How long a client may read nothing of a response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long requests in flight may take to end when the service stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(12);

/// Serves `routes` until `stop` turns true. Then requests in flight may end, for a while.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: BoxedFilter<(warp::reply::Response,)>,
    metrics: Arc<Metrics>,
    limits: ServerLimits,
    mut stop: watch::Receiver<bool>,
) {
    let service = layers::layered(routes, metrics, ResponseMemory::new(&limits));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT).max_buf_size(MAX_HEAD);
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Places::new(&limits));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown::requested(&mut stop) => break,
            accepted = accept(&listener) => accepted,
            // Removes connections that have ended from the set.
            Some(_) = connections.join_next() => continue,
        };
        let Some(stream) = accepted else { continue };
        let place = tokio::select! {
            () = shutdown::requested(&mut stop) => break,
            place = Arc::clone(&places).take() => place,
        };
        let service = service_fn({
            let (service, place) = (service.clone(), Arc::clone(&place));
            move |request: Request<Incoming>| {
                let exchange = place.begin_exchange();
                let response = service.clone().oneshot(request);
                async move { response.await.map(|response| exchange.respond(response)) }
            }
        });
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIMEOUT));
        let connection = http.serve_connection(TokioIo::new(Box::pin(stream)), service);
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    debug!(%error, "connection broke");
                },
                reason = place.must_close() => debug!(reason, "connection closed"),
            }
        });
    }
    drop(listener);
    info!("stopping: waiting for requests in flight");
    if timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        warn!("stopping: closing connections that did not end in time");
    }
    connections.shutdown().await;
}

/// Accepts the next connection.
async fn accept(listener: &TcpListener) -> Option<TcpStream> {
    match listener.accept().await {
        Ok((stream, _)) => {
            // A small response must not wait for more data.
            let _ = stream.set_nodelay(true);
            Some(stream)
        }
        Err(error) => {
            // Most likely there are no file descriptors left. Wait for some.
            warn!(%error, "accepting a connection failed, will retry");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}
