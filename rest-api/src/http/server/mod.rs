//! The accept loop around warp's routes.
//!
//! - `connections` limits the number of connections, and finds those to close.
//! - `cors` says which pages of other origins may read.
//! - `layers` is what each request passes before and after its route.
//! - `requests` reports how the bodies of requests arrive.
//! - `responses` limits the memory of responses that clients have not read yet.
//! - `threads` are the threads that serve connections.
//!
//! warp's own server sets no timeouts: a client that sends half a header would hold its connection,
//! and a graceful stop, for ever. Here every wait has a timeout (docs/adr/0005-libraries.md).

mod connections;
mod cors;
mod layers;
mod requests;
mod responses;
mod threads;

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;
use tracing::{debug, info, warn};
use warp::filters::BoxedFilter;

use super::{App, request::Peer};
use crate::{
    config::{CorsOrigins, ServerLimits},
    metrics::Metrics,
    shutdown,
};
use connections::Places;
use cors::Cors;
use layers::Layers;
use responses::ResponseMemory;
use threads::Threads;

/// The largest head of a request, in bytes. hyper queues as many bytes of a response, too, and keeps a
/// buffer of up to this size for each connection: no other bound counts these.
const MAX_HEAD: usize = 16 << 10;

/// How long a client may read nothing of a response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long requests in flight may take to end when the service stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(12);

/// How long to wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// How often the log says that connections cannot be accepted.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// A socket, and what is served on it.
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    pub(crate) routes: BoxedFilter<(warp::reply::Response,)>,
    /// Whose answers in memory are asked before the routes. None if the routes must see each request.
    pub(crate) app: Option<Arc<App>>,
    /// Whether requests have exported spans. Probes have none: they come every few seconds, and say nothing that the
    /// metrics do not.
    pub(crate) exports_spans: bool,
    pub(crate) limits: ServerLimits,
    /// The origins whose pages may read.
    pub(crate) origins: CorsOrigins,
}

/// Serves both listeners until `stop` turns true. Then requests in flight may end, for a while.
pub(crate) async fn serve(
    main: Listener,
    probes: Option<Listener>,
    metrics: Arc<Metrics>,
    stop: watch::Receiver<bool>,
) {
    raise_descriptor_limit();
    // Without file descriptors the main listener makes place, also for probes.
    let places = Arc::new(Places::new(&main.limits));
    let threads = Threads::start();
    let probing = async {
        if let Some(probes) = probes {
            let own = Arc::new(Places::new(&probes.limits));
            let metrics = Arc::clone(&metrics);
            accept_all(probes, own, &places, &threads, metrics, stop.clone()).await;
        }
    };
    let serving = accept_all(
        main,
        Arc::clone(&places),
        &places,
        &threads,
        Arc::clone(&metrics),
        stop.clone(),
    );
    tokio::join!(serving, probing);
}

/// Raises the soft limit of file descriptors to the hard one. Each connection takes one.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        info!(%error, "the limit of file descriptors could not be raised");
    }
}

/// Serves one listener. If no file descriptor is left, a connection of `replaceable` makes place.
async fn accept_all(
    Listener { socket, routes, app, exports_spans, limits, origins }: Listener,
    places: Arc<Places>,
    replaceable: &Places,
    threads: &Threads,
    metrics: Arc<Metrics>,
    mut stop: watch::Receiver<bool>,
) {
    let layers = Arc::new(Layers {
        routes: warp::service(routes),
        app,
        exports_spans,
        metrics,
        memory: ResponseMemory::new(&limits),
        cors: Cors::new(&origins),
    });
    let mut http = http1::Builder::new();
    // The places have the timeouts.
    http.header_read_timeout(None).max_buf_size(MAX_HEAD);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut warned: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            () = shutdown::requested(&mut stop) => break,
            accepted = socket.accept() => accepted,
            // Removes connections that have ended from the set.
            Some(_) = connections.join_next() => continue,
        };
        let (stream, peer) = match accepted {
            Ok((stream, peer)) => (stream, Peer(peer.ip())),
            Err(error) => {
                // Most likely there are no file descriptors left.
                replaceable.replace_one();
                if warned.is_none_or(|at| at.elapsed() > WARNING_INTERVAL) {
                    warn!(%error, "connections cannot be accepted; idle ones make place");
                    warned = Some(Instant::now());
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // A small response must not wait for more data.
        let _ = stream.set_nodelay(true);
        let stream = stream.into_std();
        let place = tokio::select! {
            () = shutdown::requested(&mut stop) => break,
            place = Arc::clone(&places).take() => place,
        };
        let service = service_fn({
            let (layers, place) = (Arc::clone(&layers), Arc::clone(&place));
            move |request| {
                let (layers, place) = (Arc::clone(&layers), Arc::clone(&place));
                async move { Ok::<_, Infallible>(layers.serve(request, &place, peer).await) }
            }
        });
        let (http, watcher) = (http.clone(), graceful.watcher());
        let serve = async move {
            // It is registered with the runtime of the thread.
            let Ok(stream) = stream.and_then(TcpStream::from_std) else { return };
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(WRITE_TIMEOUT));
            let connection = http.serve_connection(TokioIo::new(Box::pin(stream)), service);
            let connection = watcher.watch(connection);
            tokio::select! {
                // First, so that a request that has arrived is served.
                biased;
                ended = connection => if let Err(error) = ended {
                    debug!(%error, "connection broke");
                },
                reason = place.must_close() => debug!(reason, "connection closed"),
            }
        };
        connections.spawn_on(serve, threads.next());
    }
    drop(socket);
    info!("stopping: waiting for requests in flight");
    if timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        warn!("stopping: closing connections that did not end in time");
    }
    connections.shutdown().await;
}
