//! Traces: the spans of one put, as a collector of OpenTelemetry passes them on.
//!
//! The collector is Rotel, whose program comes in a package of PyPI. It parses what the programs send, and sends what
//! it has parsed to this test.

#![expect(clippy::unwrap_used, reason = "a test's way to fail")]
#![expect(clippy::disallowed_methods, reason = "only the collector sends requests, over loopback")]

#[path = "../../rest-api/tests/it/support/python.rs"]
mod python;

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use aws_sdk_s3::primitives::ByteStream;
use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{ResourceSpans, Span, span::SpanKind},
};
use prost::Message;
use serde_json::json;
use warp::Filter;

const KEY: &str = "traced.json";

/// A temporary directory, deleted when dropped.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process, killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A span, and the name of the service that it comes from.
#[derive(Clone, Debug)]
struct Exported {
    service: String,
    span: Span,
}

type Spans = Arc<Mutex<Vec<Exported>>>;

fn text(attributes: &[KeyValue], name: &str) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.key == name)?;
    match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{name}: {other:?}"),
    }
}

/// Decodes what the collector sends, which is compressed.
fn decode(body: &[u8]) -> Vec<Exported> {
    let mut decompressed = Vec::new();
    GzDecoder::new(body).read_to_end(&mut decompressed).unwrap();
    let request = ExportTraceServiceRequest::decode(&*decompressed).unwrap();
    let of_resource = |resource: ResourceSpans| {
        let service = text(&resource.resource.unwrap().attributes, "service.name").unwrap();
        let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.map(move |span| Exported { service: service.clone(), span }).collect::<Vec<_>>()
    };
    request.resource_spans.into_iter().flat_map(of_resource).collect()
}

/// Returns the address of a server that keeps the spans that it gets.
async fn start_backend() -> (SocketAddr, Spans) {
    let spans = Spans::default();
    let kept = Arc::clone(&spans);
    let traces = warp::path!("v1" / "traces").and(warp::post()).and(warp::body::bytes());
    let traces = traces.map(move |body: warp::hyper::body::Bytes| {
        kept.lock().unwrap().extend(decode(&body));
        warp::reply::with_header("", "content-type", "application/x-protobuf")
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(warp::serve(traces).incoming(listener).run());
    (address, spans)
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Fetches a collector. Returns none if it cannot run: it needs the shared library of Python, which not every machine
/// has.
async fn fetch_collector() -> Option<PathBuf> {
    let program = python::packages("rotel").await.join("rotel/rotel-agent");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let version = Command::new(&program).arg("--version").output().unwrap();
    if version.status.success() {
        return Some(program);
    }
    eprintln!(
        "SKIPPED: TRACES ARE NOT TESTED, because the collector does not start: {}",
        String::from_utf8_lossy(&version.stderr)
    );
    None
}

/// Starts the collector `program`, which sends what it gets to `backend`. Returns its address.
async fn start_collector(
    program: &Path,
    directory: &Path,
    backend: SocketAddr,
) -> (Process, String) {
    let address = free_address();
    let mut collector = Command::new(program);
    collector.args(["start", "--otlp-http-endpoint", &address]);
    collector.args(["--otlp-grpc-endpoint", &free_address(), "--batch-timeout", "50ms"]);
    collector.args(["--exporter", "otlp", "--otlp-exporter-protocol", "http"]);
    collector.args(["--otlp-exporter-endpoint", &format!("http://{backend}")]);
    collector.arg("--pid-file").arg(directory.join("collector.pid"));
    collector.arg("--log-file").arg(directory.join("collector.log"));
    let collector = Process(collector.env_clear().stdin(Stdio::null()).spawn().unwrap());
    let started = Instant::now();
    while tokio::net::TcpStream::connect(&address).await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(60), "the collector does not listen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (collector, address)
}

/// Runs the stack while one file is put and ingested, and until the function has sent its span. Returns its log.
async fn put_one_file(directory: &Path, endpoint: &str, spans: &Spans) -> String {
    let mut stack = Command::new(env!("CARGO_BIN_EXE_local-stack"));
    stack.args(["--api", "127.0.0.1:0", "--s3", "127.0.0.1:0", "--no-sample", "--data-dir"]);
    stack.arg(directory.join("stack")).env("MRU_API_TOKEN", "a-token-for-tests");
    stack.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).env("NO_PROXY", "*");
    // Nothing is exported by time: the function exports before it answers, the service when it stops.
    stack.env("OTEL_BSP_SCHEDULE_DELAY", "3600000");
    let mut stack = Process(stack.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let mut stderr = stack.0.stderr.take().unwrap();
    let log = thread::spawn(move || {
        let mut log = String::new();
        stderr.read_to_string(&mut log).unwrap();
        log
    });
    let mut printed = BufReader::new(stack.0.stdout.take().unwrap()).lines();
    let mut address = |label: &str| -> SocketAddr {
        let line = printed.find(|line| line.as_ref().unwrap().trim().starts_with(label));
        let line = line.unwrap().unwrap();
        line.split('/').nth(2).unwrap().trim().parse().unwrap()
    };
    let (api, s3) = (address("API"), address("S3 endpoint"));
    let movie = json!({ "title": "Traced", "year": 2026 }).to_string();
    let put = local_stack::client(s3).put_object().bucket("movies-r-us").key(KEY);
    put.body(ByteStream::from(movie.into_bytes())).send().await.unwrap();
    // The line of the result is the last thing that the put causes in the service.
    let result = tokio::task::spawn_blocking(move || {
        printed.map(Result::unwrap).find(|line| line.contains(KEY))
    });
    assert!(result.await.unwrap().is_some());
    let found = reqwest::get(format!("http://{api}/movies?title=traced")).await.unwrap();
    assert_eq!(found.status().as_u16(), 200);

    // The function answers when its span has been sent. The stack does not wait for it when it stops.
    let of_function = || spans.lock().unwrap().iter().any(|it| it.span.name == "notify");
    wait_until(of_function).await;

    let id = stack.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    // The backend runs on this thread.
    let stopped = tokio::task::spawn_blocking(move || stack.0.wait().unwrap());
    assert!(stopped.await.unwrap().success());
    log.join().unwrap()
}

#[tokio::test]
async fn one_put_is_one_trace_of_function_and_service() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let directory = std::env::temp_dir().join(format!("mru-otlp-{}", std::process::id()));
    let directory = Directory(directory);
    fs::create_dir_all(&directory.0).unwrap();
    let Some(program) = fetch_collector().await else { return };
    let (backend, spans) = start_backend().await;
    let (_collector, collector) = start_collector(&program, &directory.0, backend).await;

    let log = put_one_file(&directory.0, &format!("http://{collector}"), &spans).await;
    let notified = log.lines().find(|line| line.contains("notified the API")).unwrap();
    let (_, trace_id) = notified.split_once("trace_id=").unwrap();
    let trace_id = trace_id[..32].to_owned();

    let of_trace = || -> Vec<Exported> {
        let spans = spans.lock().unwrap().clone();
        spans.into_iter().filter(|it| hex(&it.span.trace_id) == trace_id).collect()
    };
    wait_until(|| of_trace().len() >= 4).await;
    let spans = of_trace();
    assert_eq!(spans.len(), 4, "{spans:?}");
    let spans: HashMap<String, Exported> =
        spans.into_iter().map(|it| (it.span.name.clone(), it)).collect();
    // Name, service, kind, and the name of the parent.
    for (name, service, kind, parent) in [
        ("notify", "ingest-lambda", SpanKind::Client, None),
        ("POST /notify", "movies-r-us", SpanKind::Server, Some("notify")),
        ("ingest", "movies-r-us", SpanKind::Consumer, Some("POST /notify")),
        ("result", "movies-r-us", SpanKind::Producer, Some("POST /notify")),
    ] {
        let Exported { service: of, span } = &spans[name];
        assert_eq!((&**of, span.kind()), (service, kind), "{name}");
        let parent = parent.map_or(Vec::new(), |parent| spans[parent].span.span_id.clone());
        assert_eq!(span.parent_span_id, parent, "{name}");
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano, "{span:?}");
    }
    let attribute = |name: &str, attribute| text(&spans[name].span.attributes, attribute);
    for (name, expected, value) in [
        ("POST /notify", "http.request.method", "POST"),
        ("POST /notify", "http.route", "/notify"),
        ("POST /notify", "http.response.status_code", "202"),
        ("ingest", "aws.s3.key", KEY),
        ("ingest", "movies_r_us.ingest.attempt", "1"),
    ] {
        assert_eq!(attribute(name, expected).as_deref(), Some(value), "{name}: {expected}");
    }
    for message in ["ingest recorded", "ingest claimed", "ingest succeeded"] {
        let line = log.lines().find(|line| line.contains(message)).unwrap();
        assert!(line.contains(&trace_id), "{line}");
    }
}

/// Waits until `is_reached`, at most for a minute.
async fn wait_until(is_reached: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_reached() && started.elapsed() < Duration::from_secs(60) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
