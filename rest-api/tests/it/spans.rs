//! Spans by OTLP, as far as they concern the program: when they leave, and what a collector that does not answer
//! costs. `local-stack/tests/otlp.rs` has the trace of a file, behind a real collector. The receivers here only keep
//! what arrives.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::Value;
use tokio::net::TcpListener;
use warp::Filter;

use crate::support::{
    Service, TOKEN, eventually, free_address, notification,
    process::{Environment, Process},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const UNSAMPLED_TRACE: &str = "aaf92f3577b34da6a3ce929d0e0e47aa";
const ANONYMOUS_TRACE: &str = "bbf92f3577b34da6a3ce929d0e0e47bb";

/// The name of the exporter's thread. Linux keeps 15 bytes of it.
const THREAD: &str = "OpenTelemetry.T";

type Bodies = Arc<Mutex<Vec<u8>>>;

/// Returns the URL of a receiver, and what it has received.
async fn receiver() -> (String, Bodies) {
    let bodies = Bodies::default();
    let kept = Arc::clone(&bodies);
    #[expect(clippy::disallowed_methods, reason = "the program sends a few spans, over loopback")]
    let traces = warp::path!("v1" / "traces").and(warp::post()).and(warp::body::bytes()).map(
        move |body: bytes::Bytes| {
            kept.lock().unwrap().extend_from_slice(&body);
            ""
        },
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    #[expect(clippy::disallowed_methods, reason = "the program sends a few spans, over loopback")]
    tokio::spawn(warp::serve(traces).incoming(listener).run());
    (url, bodies)
}

fn contains(bodies: &Bodies, bytes: &[u8]) -> bool {
    bodies.lock().unwrap().windows(bytes.len()).any(|window| window == bytes)
}

/// Starts the program with these variables, besides those of a service.
async fn start(service: &Service, variables: &[(&'static str, &str)]) -> (Process, SocketAddr) {
    let address = free_address();
    let process = Process::serve_logging(service, |environment: &mut Environment| {
        environment.insert("MRU_LISTEN", address.to_string());
        environment.insert("MRU_WORKERS", "0".to_owned());
        environment.insert("NO_PROXY", "*".to_owned());
        environment.extend(variables.iter().map(|(name, value)| (*name, (*value).to_owned())));
    });
    let health = format!("http://{address}/healthz");
    eventually(async || reqwest::get(&health).await.is_ok()).await;
    (process, address)
}

/// Sends a notification below the span 00f067aa0ba902b7 of a trace. Returns the id of the ingest.
async fn notify(address: SocketAddr, key: &str, trace: &str, flags: &str) -> i64 {
    let request = reqwest::Client::new().post(format!("http://{address}/notify"));
    let request = request.bearer_auth(TOKEN).header("content-type", "application/json");
    let request = request.header("traceparent", format!("00-{trace}-00f067aa0ba902b7-{flags}"));
    let response = request.body(notification::bare(key).to_string()).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 202);
    response.json::<Value>().await.unwrap()["id"].as_i64().unwrap()
}

/// Returns whether the program has a thread that exports; none where the system does not tell.
fn has_exporter(process: &Process) -> Option<bool> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let threads = fs::read_dir(format!("/proc/{}/task", process.id())).unwrap();
    let names = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")));
    Some(names.flatten().any(|name| name.trim() == THREAD))
}

fn binary(trace: &str) -> Vec<u8> {
    u128::from_str_radix(trace, 16).unwrap().to_be_bytes().to_vec()
}

#[tokio::test]
async fn the_last_spans_leave_when_the_service_stops() {
    let service = Service::start_without_workers().await;
    let (url, bodies) = receiver().await;
    let (process, address) = start(
        &service,
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", &url), ("OTEL_BSP_SCHEDULE_DELAY", "3600000")],
    )
    .await;
    assert_ne!(has_exporter(&process), Some(false));
    let exported = notify(address, "k", TRACE, "01").await;
    let unsampled = notify(address, "unsampled", UNSAMPLED_TRACE, "00").await;
    let missing = format!("http://{address}/movies/1?secret=hunter2");
    reqwest::Client::new().get(missing).bearer_auth("hunter2").send().await.unwrap();
    // Who shows no credentials does not decide what is exported.
    let anonymous = format!("00-{ANONYMOUS_TRACE}-00f067aa0ba902b7-00");
    let request = reqwest::Client::new().get(format!("http://{address}/movies/2"));
    request.header("traceparent", anonymous).send().await.unwrap();
    assert!(bodies.lock().unwrap().is_empty(), "spans left before the service stopped");
    process.terminate().await;

    assert!(contains(&bodies, b"POST /notify"));
    assert!(contains(&bodies, &binary(ANONYMOUS_TRACE)));
    assert!(contains(&bodies, b"GET /movies/{id}"));
    assert!(contains(&bodies, b"movies-r-us"));
    assert!(contains(&bodies, &binary(TRACE)));
    // The caller has decided that this trace is not recorded.
    assert!(!contains(&bodies, &binary(UNSAMPLED_TRACE)));
    for secret in [TOKEN, "hunter2"] {
        assert!(!contains(&bodies, secret.as_bytes()), "{secret} was exported");
    }

    // The ledger keeps the span of the request for the worker.
    let sql = service.sql().await;
    for (id, trace, flags) in [(exported, TRACE, "01"), (unsampled, UNSAMPLED_TRACE, "00")] {
        let kept = sql.query_one("select traceparent from ingests where id = $1", &[&id]).await;
        let kept: String = kept.unwrap().get(0);
        assert!(kept.starts_with(&format!("00-{trace}-")) && kept.ends_with(flags), "{kept}");
        assert!(!kept.contains("00f067aa0ba902b7"), "{kept} is the span of the caller");
    }
}

#[tokio::test]
async fn nothing_is_exported_unless_it_is_asked_for() {
    let service = Service::start_without_workers().await;
    let (url, bodies) = receiver().await;
    for variables in [
        vec![],
        vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
        vec![("OTEL_EXPORTER_OTLP_ENDPOINT", &*url), ("OTEL_SDK_DISABLED", "true")],
        vec![("OTEL_EXPORTER_OTLP_ENDPOINT", &*url), ("OTEL_TRACES_EXPORTER", "none")],
    ] {
        let (process, address) = start(&service, &variables).await;
        let id = notify(address, "k", TRACE, "01").await;
        assert_ne!(has_exporter(&process), Some(true), "{variables:?}");
        process.terminate().await;
        let sql = service.sql().await;
        let kept = sql.query_one("select traceparent from ingests where id = $1", &[&id]).await;
        assert_eq!(kept.unwrap().get::<_, Option<String>>(0), None);
    }
    assert!(bodies.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_collector_that_does_not_answer_costs_one_line() {
    let service = Service::start_without_workers().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    tokio::spawn(async move {
        // It drops each connection.
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let (process, address) = start(
        &service,
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "100"),
            ("OTEL_BSP_SCHEDULE_DELAY", "10"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "4"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1"),
        ],
    )
    .await;
    let mut sent = 0;
    while attempts.load(Ordering::Relaxed) < 10 {
        notify(address, "k", TRACE, "01").await;
        sent += 1;
    }
    let log = process.terminate().await;
    let served = log.iter().filter(|line| line["message"] == "request served").count();
    assert_eq!(served, sent);
    let faults: Vec<_> = log.iter().filter(|line| line["level"] != "INFO").collect();
    assert_eq!(faults.len(), 1, "{faults:?}");
    let message = faults[0]["message"].as_str().unwrap();
    assert!(message.starts_with("spans cannot be exported"), "{message}");
}

#[tokio::test]
async fn a_malformed_endpoint_is_refused() {
    let service = Service::start_without_workers().await;
    let mut environment = crate::support::process::environment(&service);
    environment.insert("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a host".to_owned());
    let mut program = crate::support::process::program("serve");
    program.envs(environment);
    let output = crate::support::process::Output::of(program, &[] as &[&str]).await;
    assert_eq!(output.status, 1);
    assert!(output.stderr.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{}", output.stderr);
}
