//! The metrics of the service, in the Prometheus text format.
//!
//! Each service has its own registry, so that several services in one process do not mix. Labels
//! have few values, fixed in the code: never a key, a bucket, an id or the path of a request.
//!
//! The crate is Prometheus's own `prometheus-client`: it has no global registry, and only counts and
//! encodes. `metrics-exporter-prometheus` supports one recorder in a process, and keeps each
//! observation until a scrape or a cleanup.

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
    store::{Effect, IngestState, LastReconcile, Merged, QueueDepth},
};

/// The media type of what [`Metrics::render`] returns.
///
/// Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The prefix of every metric name.
const PREFIX: &str = "mru";

/// The upper bounds of ingest durations in seconds: from milliseconds to most of an hour.
const INGEST_BUCKETS: [f64; 13] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];

/// The upper bounds of request durations in seconds: most take milliseconds, a notification that
/// waits takes up to 30 s.
const REQUEST_BUCKETS: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// The names and values of `N` labels.
type Labels<const N: usize> = [(&'static str, &'static str); N];

type Counters<const N: usize> = Family<Labels<N>, Total>;
type Histograms<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;

/// A counter that is encoded for the text format: its full name, `_total` included, stands in HELP
/// and TYPE lines too. `prometheus-client` encodes counters for OpenMetrics, which omits `_total`
/// there.
#[derive(Clone, Debug, Default)]
struct Total(Counter);

impl TypedMetric for Total {
    const TYPE: MetricType = MetricType::Counter;
}

impl EncodeMetric for Total {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        // The encoder appends `_total` to counters, and nothing to gauges.
        encoder.encode_gauge(&self.0.get())
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// The metrics of one service.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    ended: Counters<1>,
    durations: Histograms<1>,
    retries: Counters<1>,
    leases_lost: Total,
    takeovers: Total,
    notifications_ignored: Total,
    movies: Counters<1>,
    read_bytes: Total,
    requests: Counters<3>,
    request_durations: Histograms<2>,
    in_flight: Gauge,
    event_streams: Gauge,
    listening: Gauge,
    cache: Counters<1>,
    sign_ins: Counters<1>,
    password_hashes: Total,
    tmdb_requests: Counters<1>,
}

/// How a request for a cacheable answer was served.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CacheResult {
    /// From memory, or with what an equal request computed.
    Hit,
    /// By a query.
    Miss,
    /// The client had the answer.
    NotModified,
}

impl CacheResult {
    const ALL: [Self; 3] = [Self::Hit, Self::Miss, Self::NotModified];

    fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::NotModified => "not_modified",
        }
    }
}

/// How an attempt to sign in, or to change a password, has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SignIn {
    /// The password was right.
    Succeeded,
    /// The password was wrong, or there is no such user.
    Refused,
    /// There were too many wrong passwords before. It was not checked.
    Limited,
}

impl SignIn {
    const ALL: [Self; 3] = [Self::Succeeded, Self::Refused, Self::Limited];

    fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Refused => "refused",
            Self::Limited => "limited",
        }
    }
}

/// How a request to TMDB has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TmdbAnswer {
    /// With an answer.
    Answered,
    /// The token was refused.
    Refused,
    /// There were too many requests.
    Limited,
    /// Without an answer, or with trouble of TMDB.
    Failed,
    /// With an answer that is of no use.
    Unusable,
}

impl TmdbAnswer {
    const ALL: [Self; 5] =
        [Self::Answered, Self::Refused, Self::Limited, Self::Failed, Self::Unusable];

    fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Limited => "limited",
            Self::Failed => "failed",
            Self::Unusable => "unusable",
        }
    }
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
            notifications_ignored: Total::default(),
            movies: Family::default(),
            read_bytes: Total::default(),
            requests: Family::default(),
            request_durations: Family::new_with_constructor(|| Histogram::new(REQUEST_BUCKETS)),
            in_flight: Gauge::default(),
            event_streams: Gauge::default(),
            listening: Gauge::default(),
            cache: Family::default(),
            sign_ins: Family::default(),
            password_hashes: Total::default(),
            tmdb_requests: Family::default(),
        };
        // Series with known labels start at 0: Prometheus does not notice the first increment of a
        // series that starts with it.
        for state in IngestState::all().filter(|state| state.ended()) {
            drop(metrics.ended.get_or_create(&[("state", state.name())]));
        }
        for code in Code::RETRIED {
            drop(metrics.retries.get_or_create(&[("code", code.name())]));
        }
        for result in CacheResult::ALL {
            drop(metrics.cache.get_or_create(&[("result", result.name())]));
        }
        for outcome in SignIn::ALL {
            drop(metrics.sign_ins.get_or_create(&[("outcome", outcome.name())]));
        }
        for answer in TmdbAnswer::ALL {
            drop(metrics.tmdb_requests.get_or_create(&[("outcome", answer.name())]));
        }
        metrics.merged(&Merged::default());
        metrics.register()
    }
}

impl Metrics {
    fn register(mut self) -> Self {
        let registry = &mut self.registry;
        let version: Labels<1> = [("version", env!("CARGO_PKG_VERSION"))];
        let build = Family::<_, Gauge>::default();
        build.get_or_create(&version).set(1);
        registry.register("build_info", "Version of the service, always 1", build);
        registry.register(
            "ingests_ended_total",
            "Ingests that this process ended, by state",
            self.ended.clone(),
        );
        registry.register(
            "cache_requests_total",
            "Requests for cacheable answers, by result",
            self.cache.clone(),
        );
        registry.register(
            "sign_ins_total",
            "Passwords that users of the service's own have sent, by outcome",
            self.sign_ins.clone(),
        );
        registry.register(
            "password_hashes_total",
            "Hashes of passwords that this process has begun to compute",
            self.password_hashes.clone(),
        );
        registry.register(
            "tmdb_requests_total",
            "Requests that this process has sent to TMDB, by outcome",
            self.tmdb_requests.clone(),
        );
        registry.register(
            "ingest_duration_seconds",
            "Time from the claim of an ingest to its end, by state",
            self.durations.clone(),
        );
        registry.register(
            "ingest_retries_total",
            "Failed attempts at an ingest that are retried, by error code",
            self.retries.clone(),
        );
        registry.register(
            "ingest_leases_lost_total",
            "Ingests whose lease this process had lost when it wanted to change them",
            self.leases_lost.clone(),
        );
        registry.register(
            "ingest_takeovers_total",
            "Ingests that this process claimed after the lease of another worker had expired",
            self.takeovers.clone(),
        );
        registry.register(
            "notifications_ignored_total",
            "Notifications of keys that are no files",
            self.notifications_ignored.clone(),
        );
        registry.register(
            "movies_merged_total",
            "Movies from files and requests that this process merged, by outcome",
            self.movies.clone(),
        );
        registry.register(
            "ingest_read_bytes_total",
            "Bytes of objects read from the object store, before decompression",
            self.read_bytes.clone(),
        );
        registry.register(
            "http_requests_total",
            "Requests with a response, by route, method and status class",
            self.requests.clone(),
        );
        registry.register(
            "http_request_duration_seconds",
            "Time from the head of a request to the head of its response, by route and method",
            self.request_durations.clone(),
        );
        registry.register(
            "http_requests_in_flight",
            "Requests without a response so far",
            self.in_flight.clone(),
        );
        registry.register(
            "event_streams",
            "Clients that follow the events",
            self.event_streams.clone(),
        );
        registry.register(
            "database_listener_connected",
            "1 while notifications of the database arrive, else 0",
            self.listening.clone(),
        );
        self
    }

    /// Counts an ingest that ended in `state`, `duration` after its claim.
    pub fn ended(&self, state: IngestState, duration: Duration) {
        let state = [("state", state.name())];
        self.ended.get_or_create(&state).0.inc();
        self.durations.get_or_create(&state).observe(duration.as_secs_f64());
    }

    /// Counts a failed attempt at an ingest that is retried.
    pub fn retried(&self, code: Code) {
        self.retries.get_or_create(&[("code", code.name())]).0.inc();
    }

    /// Counts a request to TMDB.
    pub fn tmdb_request(&self, answer: TmdbAnswer) {
        self.tmdb_requests.get_or_create(&[("outcome", answer.name())]).0.inc();
    }

    /// Counts a request for a cacheable answer.
    pub fn cache(&self, result: CacheResult) {
        self.cache.get_or_create(&[("result", result.name())]).0.inc();
    }

    /// Returns the counter of hashes of passwords.
    pub fn password_hashes(&self) -> Counter {
        self.password_hashes.0.clone()
    }

    /// Counts a password that somebody has sent.
    pub fn signed_in(&self, outcome: SignIn) {
        self.sign_ins.get_or_create(&[("outcome", outcome.name())]).0.inc();
    }

    /// Counts an ingest whose lease this process had lost.
    pub fn lease_lost(&self) {
        self.leases_lost.0.inc();
    }

    /// Counts an ingest that was claimed after the lease of another worker had expired.
    pub fn took_over(&self) {
        self.takeovers.0.inc();
    }

    /// Counts a notification of a key that is no file.
    pub fn ignored(&self) {
        self.notifications_ignored.0.inc();
    }

    /// Counts merged movies, by outcome.
    pub fn merged(&self, merged: &Merged) {
        let Merged { inserted, updated, unchanged, withdrawn, restored, held, .. } = *merged;
        for (outcome, movies) in [
            ("inserted", inserted),
            ("updated", updated),
            ("unchanged", unchanged),
            ("withdrawn", withdrawn),
            ("restored", restored),
            ("held", held),
        ] {
            let movies = u64::try_from(movies).unwrap_or_default();
            self.movies.get_or_create(&[("outcome", outcome)]).0.inc_by(movies);
        }
    }

    /// Counts the movies that a decision has withdrawn.
    pub fn withdrawn(&self, effect: &Effect) {
        if !effect.dry_run {
            let withdrawn = effect.withdrawn.cast_signed();
            self.merged(&Merged { withdrawn, ..Merged::default() });
        }
    }

    /// Counts bytes read from the object store.
    pub fn read(&self, bytes: usize) {
        self.read_bytes.0.inc_by(u64::try_from(bytes).unwrap_or_default());
    }

    /// Sets whether notifications of the database arrive.
    pub fn set_listening(&self, is_listening: bool) {
        self.listening.set(i64::from(is_listening));
    }

    /// Sets the number of clients that follow the events.
    pub fn set_event_streams(&self, number: usize) {
        self.event_streams.set(i64::try_from(number).unwrap_or(i64::MAX));
    }

    /// Counts a request as in flight since `since`, until the returned value is dropped.
    pub fn start_request(self: &Arc<Self>, method: &Method, since: Instant) -> InFlightRequest {
        self.in_flight.inc();
        InFlightRequest { metrics: Arc::clone(self), method: method_label(method), since }
    }

    /// Returns all metrics as text. `queue` and `pools` are read for this scrape. Without `queue`,
    /// which comes from the database, the database is reported as down.
    ///
    /// # Errors
    /// None in practice: the text is written to memory.
    pub fn render(
        &self,
        ledger: Option<(QueueDepth, Option<LastReconcile>)>,
        pools: &[(&'static str, Status)],
    ) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        encode_registry(&mut text, &scrape_gauges(ledger, pools))?;
        Ok(text)
    }
}

/// A request without a response so far. If it is dropped because its client has disconnected, no
/// response is counted.
#[derive(Debug)]
pub struct InFlightRequest {
    metrics: Arc<Metrics>,
    method: &'static str,
    since: Instant,
}

impl InFlightRequest {
    /// Returns the label of its method.
    pub fn method(&self) -> &'static str {
        self.method
    }

    /// Counts the response, under the path of its route. Returns how long it took.
    pub fn respond(self, route: &'static str, status: StatusCode) -> Duration {
        let method = ("method", self.method);
        let (duration, metrics) = (self.since.elapsed(), &self.metrics);
        let labels = [("route", route), method, ("status", status_class(status))];
        metrics.requests.get_or_create(&labels).0.inc();
        let durations = metrics.request_durations.get_or_create(&[("route", route), method]);
        durations.observe(duration.as_secs_f64());
        duration
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

/// Returns the class of a status, such as `2xx`.
fn status_class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}

/// Reads one value of a pool's status.
type PoolValue = fn(&Status) -> usize;

/// Returns the gauges whose values are read for the scrape.
fn scrape_gauges(
    ledger: Option<(QueueDepth, Option<LastReconcile>)>,
    pools: &[(&'static str, Status)],
) -> Registry {
    let mut registry = Registry::with_prefix(PREFIX);
    let up = ConstGauge::new(i64::from(ledger.is_some()));
    registry.register("database_up", "1 if the database responded to this scrape, else 0", up);
    if let Some((QueueDepth { queued, running, oldest_age }, reconcile)) = ledger {
        let ingests = Family::<Labels<1>, Gauge>::default();
        ingests.get_or_create(&[("state", "queued")]).set(queued);
        ingests.get_or_create(&[("state", "running")]).set(running);
        let help = "Ingests that have not ended, by state, at most 100000; every replica reports \
            the same";
        registry.register("ingests", help, ingests);
        let help =
            "Age of the oldest queued ingest, 0 if none is queued; every replica reports the same";
        registry.register("queue_oldest_age_seconds", help, ConstGauge::new(oldest_age));
        if let Some(LastReconcile { age, missing }) = reconcile {
            let help = "Age of the last complete comparison of a bucket with the ledger, the oldest of all buckets; \
                every replica reports the same";
            registry.register("reconcile_age_seconds", help, ConstGauge::new(age));
            let help = "Files that the last comparison did not find in the catalogue, and did not queue; every \
                replica reports the same";
            registry.register("reconcile_missing", help, ConstGauge::new(missing));
        }
    }
    let gauges: [(&str, &str, PoolValue); 4] = [
        ("max_connections", "Largest number of connections of the pool", |pool| pool.max_size),
        ("connections", "Open connections of the pool", |pool| pool.size),
        ("available_connections", "Idle connections of the pool", |pool| pool.available),
        ("waiting", "Tasks that wait for a connection", |pool| pool.waiting),
    ];
    for (name, help, value) in gauges {
        let gauge = Family::<Labels<1>, Gauge>::default();
        for (pool, status) in pools {
            let value = i64::try_from(value(status)).unwrap_or(i64::MAX);
            gauge.get_or_create(&[("pool", pool)]).set(value);
        }
        registry.register(format!("database_pool_{name}"), help, gauge);
    }
    registry
}
