//! Trace ids in the log: one trace from the notification of an ingest to the publication of its
//! result.

use std::net::SocketAddr;

use reqwest::StatusCode;
use serde_json::Value;

use crate::support::{
    BUCKET, Service, TOKEN, emulator, eventually, free_address, movies::MOVIE, notification,
    process::Process, topic::Topic,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The program on the database and the bucket of a service.
struct Program {
    process: Process,
    address: SocketAddr,
}

impl Program {
    async fn start(service: &Service, topic: &str, workers: &str) -> Self {
        let (address, emulator) = (free_address(), emulator::address().await);
        let process = Process::serve_logging(service, |environment| {
            environment.insert("MRU_LISTEN", address.to_string());
            environment.insert("MRU_WORKERS", workers.to_owned());
            environment.insert("MRU_RESULTS_TOPIC_ARN", topic.to_owned());
            environment.insert("AWS_ENDPOINT_URL_SNS", format!("http://{emulator}"));
        });
        let health = format!("http://{address}/healthz");
        eventually(async || reqwest::get(&health).await.is_ok()).await;
        Self { process, address }
    }

    /// Sends a POST with this trace. Returns the ingest in the response.
    async fn post(&self, path: &str, body: String, traceparent: &str) -> Value {
        let url = format!("http://{}{path}", self.address);
        let request = reqwest::Client::new().post(url).bearer_auth(TOKEN);
        let request = request.header("content-type", "application/json");
        let response = request.header("traceparent", traceparent).body(body).send().await.unwrap();
        assert!(response.status().is_success(), "{}", response.status());
        assert_eq!(response.headers().get("traceparent"), None);
        response.json().await.unwrap()
    }

    async fn notify(&self, key: &str, traceparent: &str) -> Value {
        self.post("/notify", notification::bare(key).to_string(), traceparent).await
    }
}

/// Returns the trace id of each line with `message` about the ingest `id`, in order.
fn traces<'log>(log: &'log [Value], message: &str, id: &Value) -> Vec<&'log str> {
    let matches = |line: &&Value| {
        line["message"] == message && (line["ingest"] == *id || line["span"]["id"] == *id)
    };
    log.iter().filter(matches).map(|line| line["span"]["trace_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_ingest_keeps_its_trace_through_takeover_and_retry() {
    let service = Service::start_without_workers().await;
    let sql = service.sql().await;
    let topic = Topic::new("traces").await;

    // The first program records ingests, and has no workers.
    let first = Program::start(&service, &topic.arn, "0").await;
    service.put("taken-over", MOVIE).await;
    let taken_over = first.notify("taken-over", TRACEPARENT).await;
    let retried = first.notify("missing", TRACEPARENT).await;
    let generated = first.notify("also missing", "00-malformed-01").await;
    let log = first.process.terminate().await;
    for ingest in [&taken_over, &retried] {
        assert_eq!(traces(&log, "ingest recorded", &ingest["id"]), [TRACE]);
    }
    let generated_trace = traces(&log, "ingest recorded", &generated["id"])[0];
    assert!(generated_trace != TRACE && generated_trace.len() == 32, "{generated_trace}");
    for line in log.iter().filter(|line| line["message"] == "request served") {
        assert_eq!(line["span"]["trace_id"].as_str().unwrap().len(), 32, "{line}");
    }

    // The row that a killed worker leaves.
    let killed = "update ingests set state = 'running', attempts = 1, \
        lease_token = gen_random_uuid(), lease_expires_at = now() where id = $1";
    sql.execute(killed, &[&taken_over["id"].as_i64().unwrap()]).await.unwrap();

    // The second program takes over. A request with another trace retries one ingest.
    let second = Program::start(&service, &topic.arn, "1").await;
    service.reaches(&taken_over["id"], "succeeded").await;
    service.reaches(&retried["id"], "gone").await;
    service.reaches(&generated["id"], "gone").await;
    service.put("missing", MOVIE).await;
    let other = "00-ffffffffffffffffffffffffffffffff-ffffffffffffffff-00";
    let retry = format!("/ingests/{}/retry", retried["id"]);
    second.post(&retry, String::new(), other).await;
    service.reaches(&retried["id"], "succeeded").await;
    let due = "select count(*) from ingests where result_due_at is not null";
    eventually(async || sql.query_one(due, &[]).await.unwrap().get::<_, i64>(0) == 0).await;
    let log = second.process.terminate().await;
    for (message, ingest, expected) in [
        ("ingest claimed", &taken_over, vec![TRACE]),
        ("ingest succeeded", &taken_over, vec![TRACE]),
        ("ingest claimed", &retried, vec![TRACE; 3]),
        ("ingest gone", &retried, vec![TRACE]),
        ("ingest succeeded", &retried, vec![TRACE]),
        ("ingest claimed", &generated, vec![generated_trace; 2]),
        ("ingest gone", &generated, vec![generated_trace]),
    ] {
        assert_eq!(traces(&log, message, &ingest["id"]), expected, "{message}: {ingest}");
    }
    // Each result is published at least once.
    for (ingest, trace) in [(&taken_over, TRACE), (&retried, TRACE), (&generated, generated_trace)]
    {
        let published = traces(&log, "published the result", &ingest["id"]);
        assert!(!published.is_empty() && published.iter().all(|one| *one == trace), "{ingest}");
    }
}

#[tokio::test]
async fn an_ingest_without_a_trace_is_processed() {
    let service = Service::start().await;
    service.put("k", MOVIE).await;
    // The row that the previous release writes.
    let sql = service.sql().await;
    sql.execute("insert into ingests (bucket, key) values ($1, 'k')", &[&BUCKET]).await.unwrap();
    service.reaches(1, "succeeded").await;

    // Two headers are ignored.
    let twice = service.post("/notify", notification::bare("other").to_string());
    let twice = twice.header("traceparent", TRACEPARENT).header("traceparent", TRACEPARENT);
    let response = service.send(twice).await;
    assert_eq!(response.status, StatusCode::ACCEPTED);
    let id = response.json()["id"].as_i64().unwrap();
    let kept = sql.query_one("select trace_id from ingests where id = $1", &[&id]).await.unwrap();
    let kept: String = kept.get(0);
    assert!(kept != TRACE && kept.len() == 32, "{kept}");
}
