//! Spans for a collector of OpenTelemetry, sent by OTLP over HTTP.
//!
//! Off unless a standard variable names an endpoint ([`init`]). A [`Span`] is then nothing, and costs one load. The
//! SDK reads the other variables itself: sampler, headers, timeout, queue, attributes of the resource.
//!
//! Spans are made here and not by a layer of the log: they say what they are for, whatever the log's filter is,
//! and nothing gets into them that was meant for the log alone. Their trace ids are those of the log.

use std::{
    cell::Cell,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

pub use opentelemetry::trace::SpanKind;
use opentelemetry::{
    Context, Key, KeyValue, Value,
    trace::{
        Span as _, SpanBuilder, SpanContext, SpanId, Status, TraceContextExt, TraceFlags,
        TraceState, Tracer, TracerProvider,
    },
};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{IdGenerator, SdkTracer, SdkTracerProvider, SpanData, SpanExporter},
};
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::trace::{TraceId, TraceParent};

/// The variables that name an endpoint. One of them switches the export on.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// The beginning of the name that the SDK gives to a service without one.
const UNNAMED: &str = "unknown_service";

static EXPORT: OnceLock<Export> = OnceLock::new();

/// The export of this process.
struct Export {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    collector: Collector,
}

/// Starts the export if the environment asks for it. `service` is the name of the service unless the environment
/// has one. A second call changes nothing.
///
/// # Errors
/// If the endpoint is malformed. The SDK ignores other variables that are.
pub fn init(service: &str) -> Result<(), String> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let endpoint = ENDPOINTS.iter().map(|name| variable(name)).find(|value| !value.is_empty());
    let is_disabled = variable("OTEL_SDK_DISABLED").eq_ignore_ascii_case("true")
        || variable("OTEL_TRACES_EXPORTER") == "none";
    let Some(endpoint) = endpoint.filter(|_| !is_disabled) else { return Ok(()) };
    // Fails if the process already has a provider, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_http().build();
    let exporter = exporter.map_err(|error| error.to_string())?;
    let collector = Collector::default();
    let provider = SdkTracerProvider::builder()
        .with_resource(resource(service))
        .with_id_generator(Ids)
        .with_batch_exporter(Reporting { exporter, collector: collector.clone() })
        .build();
    let tracer = provider.tracer("movies-r-us");
    let _already_started = EXPORT.set(Export { provider, tracer, collector });
    info!(collector = host(&endpoint), "spans are exported");
    Ok(())
}

/// Returns host and port of an endpoint, without the credentials that it may have.
fn host(endpoint: &str) -> &str {
    let (_, rest) = endpoint.split_once("://").unwrap_or(("", endpoint));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit('@').next().unwrap_or_default()
}

/// Describes this process as the environment does.
fn resource(service: &str) -> Resource {
    let detected = Resource::builder().build();
    let name = detected.get(&Key::from_static_str("service.name"));
    let is_named = name.is_some_and(|name| !name.as_str().starts_with(UNNAMED));
    let resource = Resource::builder()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if is_named { resource.build() } else { resource.with_service_name(service.to_owned()).build() }
}

/// Waits until the spans that have ended are exported, at most for `limit`. Does not wait for a collector that has
/// not answered before.
pub async fn flush(limit: Duration) {
    let Some(Export { provider, collector, .. }) = EXPORT.get() else { return };
    if collector.is_silent() {
        return;
    }
    // In a thread of its own: the runtime would not end before one of its own threads.
    let (sender, flushed) = oneshot::channel();
    std::thread::spawn(move || sender.send(provider.force_flush()));
    if tokio::time::timeout(limit, flushed).await.is_err() {
        collector.note_failure(&OTelSdkError::Timeout(limit));
    }
}

/// A span that is exported when it is dropped. It is nothing where nothing is exported.
pub struct Span(Option<Box<opentelemetry_sdk::trace::Span>>);

impl Span {
    /// A span that is never exported.
    pub const NONE: Self = Self(None);

    /// Starts a span below `parent`. Without one it is the first of the trace `trace_id`.
    pub fn start(
        kind: SpanKind,
        name: &'static str,
        trace_id: TraceId,
        parent: Option<TraceParent>,
    ) -> Self {
        let Some(Export { tracer, .. }) = EXPORT.get() else { return Self::NONE };
        let builder = SpanBuilder::from_name(name).with_kind(kind);
        let context = match parent {
            Some(parent) => Context::new().with_remote_span_context(parent.into()),
            None => {
                Ids::begin(trace_id);
                Context::new()
            }
        };
        Self(Some(Box::new(tracer.build_with_context(builder, &context))))
    }

    /// Starts a span below the one that the ledger has kept for an ingest. Without one, the span is the first of
    /// the trace that the ingest belongs to.
    pub fn resume(
        kind: SpanKind,
        name: &'static str,
        trace_id: Option<&str>,
        traceparent: Option<&str>,
    ) -> Self {
        if EXPORT.get().is_none() {
            return Self::NONE;
        }
        let parent = traceparent.and_then(TraceParent::parse);
        let trace_id = trace_id.and_then(TraceId::parse).unwrap_or_else(TraceId::random);
        Self::start(kind, name, trace_id, parent)
    }

    /// Returns what continues the trace below this span; none if nothing is exported.
    pub fn traceparent(&self) -> Option<TraceParent> {
        self.0.as_ref().map(|span| span.span_context().into())
    }

    /// Adds an attribute. `value` is computed only if the span will be exported.
    pub fn set<V: Into<Value>>(&mut self, name: &'static str, value: impl FnOnce() -> V) {
        if let Some(span) = self.recording() {
            span.set_attribute(KeyValue::new(name, value()));
        }
    }

    /// Gives the span another name.
    pub fn rename(&mut self, name: impl FnOnce() -> String) {
        if let Some(span) = self.recording() {
            span.update_name(name());
        }
    }

    /// Marks what the span stands for as failed.
    pub fn fail(&mut self) {
        if let Some(span) = self.recording() {
            span.set_status(Status::error(""));
        }
    }

    /// Returns the span if the sampler has chosen it.
    fn recording(&mut self) -> Option<&mut opentelemetry_sdk::trace::Span> {
        self.0.as_deref_mut().filter(|span| span.is_recording())
    }
}

impl From<TraceParent> for SpanContext {
    fn from(parent: TraceParent) -> Self {
        let TraceParent { trace_id: TraceId(trace_id), parent_id, sampled } = parent;
        let flags = TraceFlags::default().with_sampled(sampled);
        let (trace_id, span_id) = (trace_id.into(), parent_id.into());
        Self::new(trace_id, span_id, flags, true, TraceState::NONE)
    }
}

impl From<&SpanContext> for TraceParent {
    fn from(span: &SpanContext) -> Self {
        Self {
            trace_id: TraceId(u128::from_be_bytes(span.trace_id().to_bytes())),
            parent_id: u64::from_be_bytes(span.span_id().to_bytes()),
            sampled: span.is_sampled(),
        }
    }
}

/// Gives a trace the id that the log has.
#[derive(Debug)]
struct Ids;

thread_local! {
    /// The trace that the next span without a parent begins.
    static NEXT_TRACE: Cell<Option<TraceId>> = const { Cell::new(None) };
}

impl Ids {
    fn begin(trace_id: TraceId) {
        NEXT_TRACE.set(Some(trace_id));
    }
}

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> opentelemetry::TraceId {
        NEXT_TRACE.take().unwrap_or_else(TraceId::random).0.into()
    }

    fn new_span_id(&self) -> SpanId {
        fastrand::u64(1..).into()
    }
}

/// Whether the collector has failed to answer.
#[derive(Clone, Debug, Default)]
struct Collector(Arc<AtomicBool>);

impl Collector {
    fn is_silent(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Logs the first of several failures.
    fn note_failure(&self, error: &OTelSdkError) {
        if !self.0.swap(true, Ordering::Relaxed) {
            warn!(%error, "spans cannot be exported, and are lost until the collector answers");
        }
    }

    fn note_answer(&self) {
        if self.0.swap(false, Ordering::Relaxed) {
            info!("spans are exported again");
        }
    }
}

/// An exporter that logs when it begins to fail, and when it ends.
#[derive(Debug)]
struct Reporting {
    exporter: opentelemetry_otlp::SpanExporter,
    collector: Collector,
}

impl SpanExporter for Reporting {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exported = self.exporter.export(batch).await;
        match &exported {
            Ok(()) => self.collector.note_answer(),
            Err(error) => self.collector.note_failure(error),
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn the_host_of_an_endpoint_has_no_credentials() {
        for endpoint in
            ["http://c:4318", "http://user:pass@c:4318/v1/traces", "http://c:4318?key=k"]
        {
            assert_eq!(host(endpoint), "c:4318", "{endpoint}");
        }
    }
}
