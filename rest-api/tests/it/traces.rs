//! One trace, from the request that brought an ingest to its end, through the log of the program.

use std::process::Stdio;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
};

use crate::{
    emulator,
    service::{BUCKET, Service, TOKEN, eventually},
    topic::Topic,
};

const MOVIE: &str = r#"{"title":"A","year":2000}"#;
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The program on the database and the bucket of `service`.
struct Program {
    process: Child,
    address: String,
}

impl Program {
    async fn start(service: &Service, topic: &str, workers: &str) -> Self {
        // Free a moment ago.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let rest_api::config::Login::Fixed { user, password } = &service.database.login else {
            panic!("no fixed login");
        };
        let process = Command::new(env!("CARGO_BIN_EXE_rest-api"))
            .arg("serve")
            .env("MRU_DB_HOST", &service.database.host)
            .env("MRU_DB_PORT", service.database.port.to_string())
            .env("MRU_DB_NAME", &service.database.name)
            .env("MRU_DB_USER", user)
            .env("MRU_DB_PASS", password.expose())
            .env("MRU_DB_TLS", "disable")
            .env("MRU_API_TOKEN", TOKEN)
            .env("MRU_LISTEN", &address)
            .env("MRU_WORKERS", workers)
            .env("MRU_LOG", "info")
            .env("MRU_LOG_FORMAT", "json")
            .env("AWS_REGION", "eu-west-1")
            .env("AWS_ENDPOINT_URL_S3", format!("http://{}", service.s3_address))
            .env("AWS_ENDPOINT_URL_SNS", format!("http://{}", emulator::address().await))
            .env("MRU_RESULTS_TOPIC_ARN", topic)
            .env("AWS_ACCESS_KEY_ID", "local")
            .env("AWS_SECRET_ACCESS_KEY", "localsecret")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let program = Self { process, address };
        eventually(async || reqwest::get(program.url("/healthz")).await.is_ok()).await;
        program
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A POST that belongs to the trace of this header; returns the ingest that it is answered with.
    async fn post(&self, path: &str, body: String, traceparent: &str) -> Value {
        let request = reqwest::Client::new().post(self.url(path)).bearer_auth(TOKEN);
        let request = request.header("content-type", "application/json");
        let answer = request.header("traceparent", traceparent).body(body).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
        assert_eq!(answer.headers().get("traceparent"), None);
        answer.json().await.unwrap()
    }

    /// Ends it; returns its log, a line each.
    async fn end(mut self) -> Vec<Value> {
        let id = self.process.id().unwrap().to_string();
        Command::new("kill").args(["-TERM", &id]).status().await.unwrap();
        let mut log = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut log).await.unwrap();
        self.process.wait().await.unwrap();
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The trace of each line that says `message` of the ingest `id`, in order.
fn traces<'log>(log: &'log [Value], message: &str, id: &Value) -> Vec<&'log str> {
    let of = |line: &&Value| {
        line["message"] == message && (line["ingest"] == *id || line["span"]["id"] == *id)
    };
    log.iter().filter(of).map(|line| line["span"]["trace_id"].as_str().unwrap()).collect()
}

fn notification(key: &str) -> String {
    json!({ "bucket": BUCKET, "key": key }).to_string()
}

#[tokio::test]
async fn one_trace_runs_from_the_request_through_takeover_and_retry_to_the_end() {
    let service = Service::start_with(|config| config.workers = 0).await;
    let sql = service.sql().await;
    let topic = Topic::new("traces").await;

    // One program records, and works on nothing.
    let first = Program::start(&service, &topic.arn, "0").await;
    service.put("taken-over", MOVIE).await;
    let taken_over = first.post("/notify", notification("taken-over"), TRACEPARENT).await;
    let retried = first.post("/notify", notification("missing"), TRACEPARENT).await;
    let anew = first.post("/notify", notification("also missing"), "00-malformed-01").await;
    let log = first.end().await;
    for ingest in [&taken_over, &retried] {
        assert_eq!(traces(&log, "recorded", &ingest["id"]), [TRACE]);
    }
    let anew_trace = traces(&log, "recorded", &anew["id"])[0];
    assert!(anew_trace != TRACE && anew_trace.len() == 32, "{anew_trace}");
    for line in log.iter().filter(|line| line["message"] == "answered") {
        assert_eq!(line["span"]["trace_id"].as_str().unwrap().len(), 32, "{line}");
    }

    // As a worker leaves it that was killed.
    let killed = "update ingests set state = 'running', attempts = 1, \
        lease_token = gen_random_uuid(), lease_expires_at = now() where id = $1";
    sql.execute(killed, &[&taken_over["id"].as_i64().unwrap()]).await.unwrap();

    // Another program takes over, and one ingest is retried by a request of another trace.
    let second = Program::start(&service, &topic.arn, "1").await;
    let state = async |ingest: &Value| {
        service.get(&format!("/ingests/{}", ingest["id"])).await.json()["state"].clone()
    };
    eventually(async || state(&taken_over).await == "succeeded").await;
    eventually(async || state(&retried).await == "failed").await;
    eventually(async || state(&anew).await == "failed").await;
    service.put("missing", MOVIE).await;
    let other = "00-ffffffffffffffffffffffffffffffff-ffffffffffffffff-00";
    let retry = format!("/ingests/{}/retry", retried["id"]);
    second.post(&retry, String::new(), other).await;
    eventually(async || state(&retried).await == "succeeded").await;
    let due = "select count(*) from ingests where result_due_at is not null";
    eventually(async || sql.query_one(due, &[]).await.unwrap().get::<_, i64>(0) == 0).await;
    let log = second.end().await;
    for message in ["claimed", "ended"] {
        assert_eq!(traces(&log, message, &taken_over["id"]), [TRACE], "{message}");
        assert_eq!(traces(&log, message, &retried["id"]), [TRACE, TRACE], "{message}");
        assert_eq!(traces(&log, message, &anew["id"]), [anew_trace], "{message}");
    }
    // Each result comes at least once.
    for (ingest, trace) in [(&taken_over, TRACE), (&retried, TRACE), (&anew, anew_trace)] {
        let published = traces(&log, "published the result", &ingest["id"]);
        assert!(!published.is_empty() && published.iter().all(|one| *one == trace), "{ingest}");
    }
}

#[tokio::test]
async fn an_ingest_without_a_trace_is_taken_all_the_same() {
    let service = Service::start().await;
    service.put("k", MOVIE).await;
    // As the release before left it.
    let sql = service.sql().await;
    sql.execute("insert into ingests (bucket, key) values ($1, 'k')", &[&BUCKET]).await.unwrap();
    eventually(async || service.get("/ingests/1").await.json()["state"] == "succeeded").await;

    // Two headers are as good as none.
    let twice = service.post("/notify", notification("other"));
    let twice = twice.header("traceparent", TRACEPARENT).header("traceparent", TRACEPARENT);
    let answer = service.send(twice).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let id = answer.json()["id"].as_i64().unwrap();
    let kept = sql.query_one("select trace_id from ingests where id = $1", &[&id]).await.unwrap();
    let kept: String = kept.get(0);
    assert!(kept != TRACE && kept.len() == 32, "{kept}");
}
