//! The whole stack, as `cargo run` starts it: from a put by an S3 client to an answer of the API.

#![expect(clippy::unwrap_used, reason = "a test's way to fail")]

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use aws_sdk_s3::{Client, primitives::ByteStream};
use local_stack::client;
use serde_json::{Value, json};

const BUCKET: &str = "movies-r-us";
const TOKEN: &str = "a-token-that-no-log-may-show";

/// A running stack.
struct Stack {
    process: Child,
    api: SocketAddr,
    s3: Client,
    postgres_socket: PathBuf,
    log: Option<thread::JoinHandle<String>>,
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mru-stack-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Stack {
    /// Starts the program, and waits until it says that it runs.
    fn start(folder: &Path, options: &[&str]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut process = Command::new(env!("CARGO_BIN_EXE_local-stack"))
            .args(["--api", "127.0.0.1:0", "--s3", "127.0.0.1:0", "--data-dir"])
            .arg(folder)
            .args(options)
            .env("MRU_API_TOKEN", TOKEN)
            .env("MRU_LOG", "debug")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = process.stderr.take().unwrap();
        let log = thread::spawn(move || {
            let mut log = Vec::new();
            stderr.read_to_end(&mut log).unwrap();
            String::from_utf8_lossy(&log).into_owned()
        });
        let (lines, welcome) = mpsc::channel();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        // To its end, read by us or not: a closed pipe would end the program.
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        });
        let mut log = Some(log);
        let mut after = |label: &str| -> String {
            loop {
                let Ok(line) = welcome.recv_timeout(Duration::from_secs(300)) else {
                    let _ = process.kill();
                    let log = log.take().unwrap().join().unwrap();
                    panic!("the stack did not say {label:?}:\n{log}");
                };
                if let Some(rest) = line.trim().strip_prefix(label) {
                    return rest.trim().to_owned();
                }
            }
        };
        let address = |url: &str| url.split('/').nth(2).unwrap().parse::<SocketAddr>().unwrap();
        let api = address(&after("API"));
        let s3 = client(address(&after("S3 endpoint")));
        let psql = after("Postgres");
        let postgres_socket = PathBuf::from(psql.split(' ').nth(2).unwrap());
        Self { process, api, s3, postgres_socket, log }
    }

    async fn get(&self, path: &str) -> Value {
        reqwest::get(format!("http://{}{path}", self.api)).await.unwrap().json().await.unwrap()
    }

    async fn put(&self, key: &str, body: impl Into<Vec<u8>>) {
        let put = self.s3.put_object().bucket(BUCKET).key(key);
        put.body(ByteStream::from(body.into())).send().await.unwrap();
    }

    /// The newest ingest of `key`, once `done` says so.
    async fn ingest(&self, key: &str, done: impl Fn(&str) -> bool) -> Value {
        let url = reqwest::Url::parse_with_params(
            &format!("http://{}/ingests", self.api),
            [("key", key)],
        );
        let url = url.unwrap();
        let started = Instant::now();
        loop {
            let ingests: Value = reqwest::get(url.clone()).await.unwrap().json().await.unwrap();
            let newest = &ingests[0];
            if newest["state"].as_str().is_some_and(&done) {
                return newest.clone();
            }
            assert!(started.elapsed() < Duration::from_secs(300), "{key}: {ingests}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn signal(&self, signal: &str) {
        let kill = Command::new("kill").args([signal, &self.process.id().to_string()]).status();
        assert!(kill.unwrap().success());
    }

    /// Waits for the program's end and for that of its Postgres; returns what it logged.
    fn wait(mut self) -> (bool, String) {
        let status = self.process.wait().unwrap();
        let started = Instant::now();
        // The guard removes the socket's folder when Postgres has ended.
        while self.postgres_socket.exists() {
            assert!(started.elapsed() < Duration::from_secs(60), "Postgres outlives its stack");
            thread::sleep(Duration::from_millis(20));
        }
        (status.success(), self.log.take().unwrap().join().unwrap())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(log) = self.log.take().filter(|_| thread::panicking()) {
            eprintln!("{}", log.join().unwrap_or_default());
        }
        for _ in 0..500 {
            if !self.postgres_socket.exists() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn ended(state: &str) -> bool {
    !matches!(state, "queued" | "running")
}

#[tokio::test]
async fn from_put_to_query_with_any_key_and_no_secret_in_the_log() {
    let folder = Folder::new("put");
    let stack = Stack::start(&folder.0, &[]);
    let sample = stack.ingest("sample/movies.json", ended).await;
    assert_eq!(sample["state"], "succeeded", "the sample came through the bucket: {sample}");
    assert!(sample["inserted"].as_i64().unwrap() > 4000);

    let keys = [
        "plain.json",
        "with space.json",
        "plus+plus.json",
        "percent%20%.json",
        "ümlaut-日本.json",
        "(parentheses) [brackets].json",
        "this&that=these;those.json",
        "a/deeply/nested/prefix/file.json",
        "quotes'\"!*~,@$:?#.json",
    ];
    for (number, key) in keys.iter().enumerate() {
        let movie = json!({ "title": format!("Movie {number} of the keys"), "year": 2026 });
        stack.put(key, movie.to_string()).await;
    }
    for key in keys {
        let ingest = stack.ingest(key, ended).await;
        assert_eq!((&ingest["state"], &ingest["key"]), (&json!("succeeded"), &json!(key)));
        assert_eq!(ingest["bucket"], BUCKET);
    }
    assert_eq!(stack.get("/movies?title=of+the+keys").await.as_array().unwrap().len(), keys.len());
    for refused in ["../escape.json", "a//b.json", "a/./b.json", "/a.json"] {
        let put =
            stack.s3.put_object().bucket(BUCKET).key(refused).body(ByteStream::from_static(b"{}"));
        assert!(put.send().await.is_err(), "{refused}");
    }

    let (ok, log) = {
        stack.signal("-INT");
        stack.wait()
    };
    assert!(ok, "a clean end: {log}");
    for told in ["object created", "notified the API", "recorded", "claimed", "ended", "answered"] {
        assert!(log.contains(told), "the log tells that an object was {told:?}");
    }
    follow_the_trace(&log, keys[0]);
    for secret in [TOKEN, "localsecret"] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "the log shows {secret:?}");
    }
}

/// The function's line about `key` names a trace; so do those of the service, to the end.
fn follow_the_trace(log: &str, key: &str) {
    let lines = |told: &str| -> Vec<&str> {
        let of_key = |line: &&str| line.contains(told) && line.contains(key);
        log.lines().filter(of_key).collect()
    };
    let notified = lines(" notified the API ");
    assert_eq!(notified.len(), 1, "{notified:?}");
    let (_, trace) = notified[0].split_once("trace_id=").unwrap();
    let trace = &trace[..32];
    assert!(trace.bytes().all(|byte| byte.is_ascii_hexdigit()), "{}", notified[0]);
    for told in [" recorded ", " claimed ", " ended "] {
        let told = lines(told);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains(&format!("trace_id={trace}")), "{trace}: {}", told[0]);
    }
    let answered = log.lines().filter(|line| line.contains(" answered ") && line.contains(trace));
    assert_eq!(answered.count(), 1, "the request that told of {key}");
}

#[tokio::test]
async fn multipart_uploads_and_copies_are_events_too() {
    let folder = Folder::new("multipart");
    let stack = Stack::start(&folder.0, &["--no-sample"]);
    assert_eq!(stack.get("/movies").await, json!([]));
    let (bucket, key) = (BUCKET, "large.json");
    let upload = stack.s3.create_multipart_upload().bucket(bucket).key(key).send().await.unwrap();
    let id = upload.upload_id().unwrap();
    let movies: Vec<Value> = (0..3000)
        .map(|n| json!({ "title": format!("{n}"), "year": 2000, "extract": "x".repeat(2000) }))
        .collect();
    let body = json!(movies).to_string().into_bytes();
    let mut parts = Vec::new();
    for (number, part) in (1..).zip(body.chunks(5 << 20)) {
        let body = ByteStream::from(part.to_vec());
        let upload =
            stack.s3.upload_part().bucket(bucket).key(key).upload_id(id).part_number(number);
        let uploaded = upload.body(body).send().await.unwrap();
        let part = aws_sdk_s3::types::CompletedPart::builder().part_number(number);
        parts.push(part.set_e_tag(uploaded.e_tag).build());
    }
    let parts =
        aws_sdk_s3::types::CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let complete = stack.s3.complete_multipart_upload().bucket(bucket).key(key).upload_id(id);
    complete.multipart_upload(parts).send().await.unwrap();
    let ingest = stack.ingest(key, ended).await;
    assert_eq!(ingest["inserted"], 3000, "{ingest}");

    let copy = stack
        .s3
        .copy_object()
        .bucket(bucket)
        .key("copy.json")
        .copy_source(format!("{bucket}/{key}"));
    copy.send().await.unwrap();
    assert_eq!(stack.ingest("copy.json", ended).await["unchanged"], 3000);
}

#[tokio::test]
async fn a_stack_that_is_killed_finishes_its_ingest_when_started_again() {
    let folder = Folder::new("killed");
    let stack = Stack::start(&folder.0, &["--no-sample"]);
    let count = 60_000;
    let lines: Vec<String> = (0..count)
        .map(|n| {
            json!({ "title": format!("Movie {n}"), "year": 1950 + n % 70, "cast": ["Ann Actor"] })
                .to_string()
        })
        .collect();
    stack.put("large.ndjson", lines.join("\n")).await;
    stack.ingest("large.ndjson", |state| state == "running").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = stack.ingest("large.ndjson", |_| true).await;
    stack.signal("-KILL");
    let (ok, _) = stack.wait();
    assert!(!ok);
    assert_eq!(before["state"], "running", "it was killed in the middle");

    let stack = Stack::start(&folder.0, &["--no-sample"]);
    let ingest = stack.ingest("large.ndjson", ended).await;
    assert_eq!(ingest["state"], "succeeded", "{ingest}");
    assert_eq!(ingest["inserted"], count);
    assert_eq!(ingest["attempts"], 2);
    let ten = stack.get("/movies?title=movie+5999").await;
    assert_eq!(ten.as_array().unwrap().len(), 11, "5999, and 59990 to 59999");
    assert_eq!(stack.get("/ingests").await.as_array().unwrap().len(), 1);
    stack.signal("-INT");
    assert!(stack.wait().0);
}

#[tokio::test]
async fn an_object_whose_event_was_lost_in_a_crash_is_told_of_at_the_next_start() {
    let folder = Folder::new("lost");
    // As a stack leaves it that was killed between the put and the event's delivery.
    std::fs::create_dir_all(folder.0.join("s3").join(BUCKET)).unwrap();
    std::fs::write(
        folder.0.join("s3").join(BUCKET).join("lost.json"),
        r#"{"title":"Lost","year":2026}"#,
    )
    .unwrap();
    let stack = Stack::start(&folder.0, &["--no-sample"]);
    assert_eq!(stack.ingest("lost.json", ended).await["state"], "succeeded");
}

#[tokio::test]
async fn postgres_does_not_outlive_a_stack_that_is_killed_at_once() {
    let folder = Folder::new("at-once");
    for ms in [0, 200, 400, 600, 800, 1000, 1200] {
        let mut process = Command::new(env!("CARGO_BIN_EXE_local-stack"))
            .args(["--no-sample", "--api", "127.0.0.1:0", "--s3", "127.0.0.1:0", "--data-dir"])
            .arg(&folder.0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(ms));
        process.kill().unwrap();
        process.wait().unwrap();
    }
    // None is left that holds the data, and none of the starts has damaged it.
    let stack = Stack::start(&folder.0, &["--no-sample"]);
    assert_eq!(stack.get("/movies").await, json!([]));
    stack.signal("-INT");
    assert!(stack.wait().0);
}

#[tokio::test]
async fn two_stacks_do_not_share_a_folder() {
    let folder = Folder::new("shared");
    let _first = Stack::start(&folder.0, &["--no-sample"]);
    let second = Command::new(env!("CARGO_BIN_EXE_local-stack"))
        .args(["--api", "127.0.0.1:0", "--s3", "127.0.0.1:0", "--data-dir"])
        .arg(&folder.0)
        .output()
        .unwrap();
    assert!(!second.status.success());
    let says = String::from_utf8_lossy(&second.stderr);
    assert!(says.contains("--data-dir"), "{says}");
}
