//! What the service counts about itself, in the text format of Prometheus.
//!
//! Each service has a registry of its own, so that several in one process do not mix. Labels have
//! few values, known beforehand: never a key, a bucket, an id or a path as it was sent.
//!
//! The crate is Prometheus's own, `prometheus-client`: no registry but those that one makes, and
//! nothing compiled in beyond counting and writing. `metrics-exporter-prometheus` is made for one
//! recorder in the process, and keeps each observation until somebody scrapes or cleans up.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use deadpool_postgres::Status;
use http::{Method, StatusCode};
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, text::encode_registry},
    metrics::{
        MetricType, TypedMetric,
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::Registry,
};

use crate::{
    problem::Code,
    store::{IngestState, Merged, QueueDepth},
};

/// The media type of what [`Metrics::render`] returns.
///
/// Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Every name begins with this.
const PREFIX: &str = "mru";

/// Upper bounds in seconds: a file takes from some milliseconds to the better part of an hour.
const INGEST_BUCKETS: [f64; 13] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];

/// Upper bounds in seconds: most answers take a few milliseconds, one that waits takes 30 s.
const REQUEST_BUCKETS: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// Names and values of so many labels.
type Labels<const N: usize> = [(&'static str, &'static str); N];

type Counters<const N: usize> = Family<Labels<N>, Total>;
type Histograms<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;

/// A counter as the text format names it: with its whole name, `_total` included, in its
/// description too. `prometheus-client` alone writes OpenMetrics, which leaves it out there.
#[derive(Clone, Debug, Default)]
struct Total(Counter);

impl TypedMetric for Total {
    const TYPE: MetricType = MetricType::Counter;
}

impl EncodeMetric for Total {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        // A gauge's value is written under the name as it is.
        encoder.encode_gauge(&self.0.get())
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// The counters of one service.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    ended: Counters<1>,
    durations: Histograms<1>,
    retries: Counters<1>,
    leases_lost: Total,
    takeovers: Total,
    movies: Counters<1>,
    read_bytes: Total,
    requests: Counters<3>,
    request_durations: Histograms<2>,
    in_flight: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix(PREFIX),
            ended: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(INGEST_BUCKETS)),
            retries: Family::default(),
            leases_lost: Total::default(),
            takeovers: Total::default(),
            movies: Family::default(),
            read_bytes: Total::default(),
            requests: Family::default(),
            request_durations: Family::new_with_constructor(|| Histogram::new(REQUEST_BUCKETS)),
            in_flight: Gauge::default(),
        };
        // Those that are known are there from the start: Prometheus does not see the first step of
        // a series that begins with it.
        for state in IngestState::all().filter(|state| state.ended()) {
            drop(metrics.ended.get_or_create(&[("state", state.name())]));
        }
        for code in Code::RETRIED {
            drop(metrics.retries.get_or_create(&[("code", code.name())]));
        }
        metrics.merged(&Merged::default());
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        let version: Labels<1> = [("version", env!("CARGO_PKG_VERSION"))];
        let build = Family::<_, Gauge>::default();
        build.get_or_create(&version).set(1);
        registry.register("build_info", "The version that runs, always 1", build);
        registry.register(
            "ingests_ended_total",
            "Ingests that this process brought to their end, by state",
            self.ended.clone(),
        );
        registry.register(
            "ingest_duration_seconds",
            "Time from the claim of an ingest to its end, by state",
            self.durations.clone(),
        );
        registry.register(
            "ingest_retries_total",
            "Attempts at an ingest that failed and will be repeated, by code of the error",
            self.retries.clone(),
        );
        registry.register(
            "ingest_leases_lost_total",
            "Ingests that were not held any more when this process came to change them",
            self.leases_lost.clone(),
        );
        registry.register(
            "ingest_takeovers_total",
            "Ingests that this process took over from a worker whose lease had run out",
            self.takeovers.clone(),
        );
        registry.register(
            "movies_merged_total",
            "Movies of files and requests that this process merged, by outcome",
            self.movies.clone(),
        );
        registry.register(
            "ingest_read_bytes_total",
            "Bytes of objects read from the object store, before decompression",
            self.read_bytes.clone(),
        );
        registry.register(
            "http_requests_total",
            "Requests answered, by route, method and class of status",
            self.requests.clone(),
        );
        registry.register(
            "http_request_duration_seconds",
            "Time from the head of a request to the head of its answer, by route and method",
            self.request_durations.clone(),
        );
        registry.register(
            "http_requests_in_flight",
            "Requests that have not been answered yet",
            self.in_flight.clone(),
        );
        self
    }

    /// An ingest has come to its end, `after` its claim.
    pub fn ended(&self, state: IngestState, after: Duration) {
        let state = [("state", state.name())];
        self.ended.get_or_create(&state).0.inc();
        self.durations.get_or_create(&state).observe(after.as_secs_f64());
    }

    /// An attempt at an ingest failed with the error of this code, and will be repeated.
    pub fn retried(&self, code: Code) {
        self.retries.get_or_create(&[("code", code.name())]).0.inc();
    }

    /// The lease of the ingest that was worked on here had been lost.
    pub fn lease_lost(&self) {
        self.leases_lost.0.inc();
    }

    /// An ingest was claimed from a worker whose lease had run out.
    pub fn took_over(&self) {
        self.takeovers.0.inc();
    }

    /// Movies were merged.
    pub fn merged(&self, merged: &Merged) {
        let Merged { inserted, updated, unchanged, .. } = *merged;
        for (outcome, movies) in
            [("inserted", inserted), ("updated", updated), ("unchanged", unchanged)]
        {
            let movies = u64::try_from(movies).unwrap_or_default();
            self.movies.get_or_create(&[("outcome", outcome)]).0.inc_by(movies);
        }
    }

    /// So many bytes came from the object store.
    pub fn read(&self, bytes: usize) {
        self.read_bytes.0.inc_by(u64::try_from(bytes).unwrap_or_default());
    }

    /// Counts a request as in flight.
    pub fn start_request(self: &Arc<Self>, method: &Method) -> InFlightRequest {
        self.in_flight.inc();
        InFlightRequest {
            metrics: Arc::clone(self),
            method: method_label(method),
            since: Instant::now(),
        }
    }

    /// All of it as text, with the figures of the moment. Without `queue`, which only the database
    /// knows, the database counts as down.
    ///
    /// # Errors
    /// None in practice: it is written to memory.
    pub fn render(
        &self,
        queue: Option<QueueDepth>,
        pools: &[(&'static str, Status)],
    ) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        encode_registry(&mut text, &figures(queue, pools))?;
        Ok(text)
    }
}

/// A request without a response so far. If it is dropped, because its client has gone, no response is
/// counted.
#[derive(Debug)]
pub struct InFlightRequest {
    metrics: Arc<Metrics>,
    method: &'static str,
    since: Instant,
}

impl InFlightRequest {
    /// Counts the response of this route.
    pub fn respond(self, route: &'static str, status: StatusCode) {
        let method = ("method", self.method);
        let (seconds, metrics) = (self.since.elapsed().as_secs_f64(), &self.metrics);
        let labels = [("route", route), method, ("status", class(status))];
        metrics.requests.get_or_create(&labels).0.inc();
        metrics.request_durations.get_or_create(&[("route", route), method]).observe(seconds);
    }
}

impl Drop for InFlightRequest {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
    }
}

/// Returns the label of a method. Clients can invent methods, so the others share one.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}

type PoolFigure = fn(&Status) -> usize;

/// What is asked for at the moment of the scrape, rather than counted before it.
fn figures(queue: Option<QueueDepth>, pools: &[(&'static str, Status)]) -> Registry {
    let mut registry = Registry::with_prefix(PREFIX);
    let up = ConstGauge::new(i64::from(queue.is_some()));
    registry.register("database_up", "Whether the database answered this scrape", up);
    if let Some(QueueDepth { queued, running, oldest_age }) = queue {
        let ingests = Family::<Labels<1>, Gauge>::default();
        ingests.get_or_create(&[("state", "queued")]).set(queued);
        ingests.get_or_create(&[("state", "running")]).set(running);
        let help = "Ingests that have not ended, by state, at most 100000; each replica says the \
            same of all";
        registry.register("ingests", help, ingests);
        let help = "Age of the oldest queued ingest, 0 if none is; each replica says the same";
        registry.register("queue_oldest_age_seconds", help, ConstGauge::new(oldest_age));
    }
    let gauges: [(&str, &str, PoolFigure); 4] = [
        ("max_connections", "Connections that the pool may have", |pool| pool.max_size),
        ("connections", "Connections that the pool has", |pool| pool.size),
        ("available_connections", "Connections that nobody uses", |pool| pool.available),
        ("waiting", "Tasks that wait for a connection", |pool| pool.waiting),
    ];
    for (name, help, of) in gauges {
        let gauge = Family::<Labels<1>, Gauge>::default();
        for (pool, status) in pools {
            let figure = i64::try_from(of(status)).unwrap_or(i64::MAX);
            gauge.get_or_create(&[("pool", pool)]).set(figure);
        }
        registry.register(format!("database_pool_{name}"), help, gauge);
    }
    registry
}
