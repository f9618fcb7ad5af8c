//! The whole stack, as `cargo run` starts it: from a put by an S3 client to a response of the API.

#![expect(clippy::unwrap_used, reason = "a test's way to fail")]

use std::{
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, ToSocketAddrs},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use aws_sdk_s3::{Client, primitives::ByteStream};
use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::StreamExt;
use local_stack::client;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const BUCKET: &str = "movies-r-us";
const TOKEN: &str = "a-token-that-no-log-may-show";

/// Log messages of the function.
const NOTIFIED: &str = " notified the API ";

/// Log messages of the service.
const RECORDED: &str = " ingest recorded ";
const CLAIMED: &str = " ingest claimed ";
const ENDED: &str = " ingest succeeded ";
const RESPONDED: &str = " request served ";

/// A running stack.
struct Stack {
    process: Child,
    api: SocketAddr,
    /// How somebody signs in.
    sign_in: String,
    s3: Client,
    s3_address: SocketAddr,
    /// The URL of the dead letters.
    dead_letters: String,
    postgres_socket: PathBuf,
    /// The lines that it prints after the welcome.
    printed: mpsc::Receiver<String>,
    log: Option<thread::JoinHandle<String>>,
}

/// A temporary directory, deleted when dropped.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mru-stack-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Stack {
    /// Starts the program, and waits until it has printed its addresses.
    fn start(directory: &Path, options: &[&str]) -> Self {
        Self::start_in(Path::new("."), directory, options)
    }

    /// The same in a working directory.
    fn start_in(working: &Path, directory: &Path, options: &[&str]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut process = Command::new(env!("CARGO_BIN_EXE_local-stack"))
            .args(["--api", "127.0.0.1:0", "--s3", "127.0.0.1:0", "--data-dir"])
            .arg(directory)
            .args(options)
            .current_dir(working)
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
        // Reads to the end even if the test does not: the program must not block on a full pipe.
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
                    panic!("the stack did not print {label:?}; it logged:\n{log}");
                };
                if let Some(rest) = line.trim().strip_prefix(label) {
                    return rest.trim().to_owned();
                }
            }
        };
        let address = |url: &str| url.split('/').nth(2).unwrap().parse::<SocketAddr>().unwrap();
        let api = address(&after("API"));
        let sign_in = after("Sign in as");
        let s3_address = address(&after("S3 endpoint"));
        let s3 = client(s3_address);
        let dead_letters = after("Dead letters");
        let psql = after("Postgres");
        let postgres_socket = PathBuf::from(psql.split(' ').nth(2).unwrap());
        Self {
            process,
            api,
            sign_in,
            s3,
            s3_address,
            dead_letters,
            postgres_socket,
            printed: welcome,
            log,
        }
    }

    async fn get(&self, path: &str) -> Value {
        reqwest::get(format!("http://{}{path}", self.api)).await.unwrap().json().await.unwrap()
    }

    async fn put(&self, key: &str, body: impl Into<Vec<u8>>) {
        let put = self.s3.put_object().bucket(BUCKET).key(key);
        put.body(ByteStream::from(body.into())).send().await.unwrap();
    }

    /// Waits until the state of the newest ingest of `key` satisfies `is_expected`.
    async fn ingest(&self, key: &str, is_expected: impl Fn(&str) -> bool) -> Value {
        let url = reqwest::Url::parse_with_params(
            &format!("http://{}/ingests", self.api),
            [("key", key)],
        );
        let url = url.unwrap();
        let started = Instant::now();
        loop {
            let ingests: Value = reqwest::get(url.clone()).await.unwrap().json().await.unwrap();
            let newest = &ingests[0];
            if newest["state"].as_str().is_some_and(&is_expected) {
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

    /// Waits until the program and its Postgres have exited. Returns whether the program succeeded,
    /// and its log.
    fn wait(mut self) -> (bool, String) {
        let status = self.process.wait().unwrap();
        let started = Instant::now();
        // The guard removes the socket's directory when Postgres has exited.
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

fn is_final(state: &str) -> bool {
    !matches!(state, "queued" | "running")
}

#[tokio::test]
async fn objects_with_any_key_are_ingested_and_the_log_contains_no_secret() {
    let directory = Directory::new("put");
    let stack = Stack::start(&directory.0, &[]);
    let sample = stack.ingest("sample/movies.json", is_final).await;
    assert_eq!(sample["state"], "succeeded", "{sample}");
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
        // Keys are text, and no paths.
        "../escape.json",
        "a//b.json",
        "a/./b.json",
        "/a.json",
        "a",
        "a/b",
    ];
    for (number, key) in keys.iter().enumerate() {
        let movie = json!({ "title": format!("Movie {number} of the keys"), "year": 2026 });
        stack.put(key, movie.to_string()).await;
    }
    for key in keys {
        let ingest = stack.ingest(key, is_final).await;
        assert_eq!((&ingest["state"], &ingest["key"]), (&json!("succeeded"), &json!(key)));
        assert_eq!(ingest["bucket"], BUCKET);
    }
    assert_eq!(stack.get("/movies?title=of+the+keys").await.as_array().unwrap().len(), keys.len());

    let notify = reqwest::Client::new().post(format!("http://{}/notify", stack.api));
    let notify = notify.bearer_auth(TOKEN).header("content-type", "application/json");
    let other_bucket = json!({ "bucket": "another-bucket", "key": "k" }).to_string();
    assert_eq!(notify.body(other_bucket).send().await.unwrap().status().as_u16(), 422);

    let secret_path = stack.dead_letters.split('/').nth(3).unwrap().to_owned();
    assert_eq!(secret_path.len(), 32, "{secret_path}");
    stack.signal("-INT");
    let (succeeded, log) = stack.wait();
    assert!(succeeded, "{log}");
    for message in [" object created ", NOTIFIED, RECORDED, CLAIMED, ENDED, RESPONDED] {
        assert!(log.contains(message.trim()), "the log lacks {message:?}");
    }
    check_trace(&log, keys[0]);
    for secret in [TOKEN, "localsecret", &secret_path] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "the log contains {secret:?}");
    }
}

/// Checks that function and service log the same trace id for `key`.
fn check_trace(log: &str, key: &str) {
    let lines = |message: &str| -> Vec<&str> {
        let is_of_key = |line: &&str| line.contains(message) && line.contains(key);
        log.lines().filter(is_of_key).collect()
    };
    let notified = lines(NOTIFIED);
    assert_eq!(notified.len(), 1, "{notified:?}");
    let (_, trace) = notified[0].split_once("trace_id=").unwrap();
    let trace = &trace[..32];
    assert!(trace.bytes().all(|byte| byte.is_ascii_hexdigit()), "{}", notified[0]);
    for message in [RECORDED, CLAIMED, ENDED] {
        let found = lines(message);
        assert_eq!(found.len(), 1, "{message:?}: {found:?}");
        assert!(found[0].contains(&format!("trace_id={trace}")), "{trace}: {}", found[0]);
    }
    let responses = log.lines().filter(|line| line.contains(RESPONDED) && line.contains(trace));
    assert_eq!(responses.count(), 1, "responses to the notification of {key}");
}

#[tokio::test]
async fn results_are_printed_except_that_of_the_sample() {
    let directory = Directory::new("printed");
    let stack = Stack::start(&directory.0, &[]);
    let good = json!({ "title": "Good", "year": 2026 });
    stack.put("my/good.json", good.to_string()).await;
    stack.ingest("my/good.json", is_final).await;
    let bad = json!([good, { "title": "Bad", "year": 2026, "genre": ["Drama"] }]);
    stack.put("my/bad.json", bad.to_string()).await;
    let mut before = Vec::new();
    let line = loop {
        let line = stack.printed.recv_timeout(Duration::from_secs(60)).unwrap();
        if line.starts_with("rejected") {
            break line;
        }
        before.push(line);
    };
    let expected = "rejected   my/bad.json  1 violation: record 1, /genre: expected a property that the \
                schema knows (did you mean \"genres\"?), found the unknown property \"genre\"  \
                (/ingests/3)";
    assert_eq!(line, expected);
    let good = "succeeded  my/good.json  1 inserted, 0 updated, 0 unchanged  (/ingests/2)";
    assert!(before.iter().any(|line| line == good), "{before:#?}");
    assert!(!before.iter().any(|line| line.contains("sample/")), "{before:#?}");
}

#[tokio::test]
async fn multipart_uploads_and_copies_send_events() {
    let directory = Directory::new("multipart");
    let stack = Stack::start(&directory.0, &["--no-sample"]);
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
    let ingest = stack.ingest(key, is_final).await;
    assert_eq!(ingest["inserted"], 3000, "{ingest}");

    let copy = stack
        .s3
        .copy_object()
        .bucket(bucket)
        .key("copy.json")
        .copy_source(format!("{bucket}/{key}"));
    copy.send().await.unwrap();
    assert_eq!(stack.ingest("copy.json", is_final).await["unchanged"], 3000);
}

#[tokio::test]
async fn an_ingest_of_a_killed_stack_is_finished_after_a_restart() {
    let directory = Directory::new("killed");
    let stack = Stack::start(&directory.0, &["--no-sample"]);
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
    let (succeeded, _) = stack.wait();
    assert!(!succeeded);
    assert_eq!(before["state"], "running", "it was killed during the ingest");

    let stack = Stack::start(&directory.0, &["--no-sample"]);
    let ingest = stack.ingest("large.ndjson", is_final).await;
    assert_eq!(ingest["state"], "succeeded", "{ingest}");
    assert_eq!(ingest["inserted"], count);
    assert_eq!(ingest["attempts"], 2);
    let movies = stack.get("/movies?title=movie+5999").await;
    assert_eq!(movies.as_array().unwrap().len(), 11, "5999, and 59990 to 59999");
    assert_eq!(stack.get("/ingests").await.as_array().unwrap().len(), 1);
    stack.signal("-INT");
    assert!(stack.wait().0);
}

/// Returns the content of the object with this number: a file of movies.
fn numbered(number: usize) -> Vec<u8> {
    // Two of them need two parts. Of the others some are in files, most in the index.
    let movies = match number % 100 {
        30 => 2700,
        number if number % 3 == 1 => 20,
        _ => 1,
    };
    let extract = "x".repeat(2000);
    let lines = (0..movies).map(|movie| {
        json!({ "title": format!("{number} {movie}"), "year": 2000, "extract": extract })
            .to_string()
    });
    lines.collect::<Vec<_>>().join("\n").into_bytes()
}

/// Puts the object with this number; each tenth in parts. Returns whether the endpoint said that it has it.
async fn put_numbered(s3: &Client, key: &str, number: usize) -> bool {
    let body = numbered(number);
    if !number.is_multiple_of(10) {
        let put = s3.put_object().bucket(BUCKET).key(key).body(ByteStream::from(body));
        return put.send().await.is_ok();
    }
    let Ok(upload) = s3.create_multipart_upload().bucket(BUCKET).key(key).send().await else {
        return false;
    };
    let id = upload.upload_id().unwrap();
    let mut parts = Vec::new();
    for (number, part) in (1..).zip(body.chunks(5 << 20)) {
        let upload = s3.upload_part().bucket(BUCKET).key(key).upload_id(id).part_number(number);
        let Ok(part) = upload.body(ByteStream::from(part.to_vec())).send().await else {
            return false;
        };
        let completed = aws_sdk_s3::types::CompletedPart::builder().part_number(number);
        parts.push(completed.set_e_tag(part.e_tag).build());
    }
    let parts =
        aws_sdk_s3::types::CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let complete = s3.complete_multipart_upload().bucket(BUCKET).key(key).upload_id(id);
    complete.multipart_upload(parts).send().await.is_ok()
}

/// Returns how many objects, and parts of unfinished uploads, are too large for the index.
async fn large_contents(s3: &Client) -> usize {
    let versions = s3.list_object_versions().bucket(BUCKET).send().await.unwrap();
    assert_eq!(versions.is_truncated(), Some(false));
    let mut sizes: Vec<_> = versions.versions().iter().map(|version| version.size()).collect();
    let uploads = s3.list_multipart_uploads().bucket(BUCKET).send().await.unwrap();
    for upload in uploads.uploads() {
        let parts = s3.list_parts().bucket(BUCKET).key(upload.key().unwrap());
        let parts = parts.upload_id(upload.upload_id().unwrap()).send().await.unwrap();
        sizes.extend(parts.parts().iter().map(|part| part.size()));
    }
    sizes.into_iter().flatten().filter(|size| *size > 16 << 10).count()
}

#[tokio::test]
async fn puts_of_a_killed_stack_are_whole_or_absent_and_ingested_once() {
    let directory = Directory::new("puts");
    for round in 0..3 {
        let stack = Stack::start(&directory.0, &["--no-sample"]);
        let key = |number: usize| format!("{round}/{number}.ndjson");
        let config = stack.s3.config().to_builder();
        let once = aws_sdk_s3::config::retry::RetryConfig::disabled();
        let s3 = Client::from_conf(config.retry_config(once).build());
        let puts = futures_util::stream::iter(0..200).map(|number| {
            let (s3, key) = (&s3, key(number));
            async move { put_numbered(s3, &key, number).await }
        });
        let puts = puts.buffered(16).collect::<Vec<bool>>();
        // At random: up to the time that all puts take.
        let ms = uuid::Uuid::new_v4().as_u128() % 1500;
        let kill = async {
            tokio::time::sleep(Duration::from_millis(u64::try_from(ms).unwrap())).await;
            stack.signal("-KILL");
        };
        let (acknowledged, ()) = tokio::join!(puts, kill);
        assert!(!stack.wait().0);

        let stack = Stack::start(&directory.0, &["--no-sample"]);
        let mut whole = 0;
        for (number, acknowledged) in acknowledged.into_iter().enumerate() {
            let key = key(number);
            let object = stack.s3.get_object().bucket(BUCKET).key(&key).send().await;
            let Ok(object) = object else {
                assert!(!acknowledged, "{key} is lost");
                assert_eq!(stack.get(&format!("/ingests?key={key}")).await, json!([]));
                continue;
            };
            whole += 1;
            let body = object.body.collect().await.unwrap().to_vec();
            assert!(body == numbered(number), "{key} is not whole");
            assert_eq!(stack.ingest(&key, is_final).await["state"], "succeeded", "{key}");
            let ingests = stack.get(&format!("/ingests?key={key}")).await;
            assert_eq!(ingests.as_array().unwrap().len(), 1, "{ingests}");
        }
        eprintln!("killed after {ms} ms: {whole} of 200 objects are whole, and ingested once");
        let contents = std::fs::read_dir(directory.0.join("s3/_contents")).unwrap().count();
        assert_eq!(contents, large_contents(&stack.s3).await, "each file is needed");
        stack.signal("-INT");
        assert!(stack.wait().0);
    }
}

#[tokio::test]
async fn an_object_whose_event_was_lost_in_a_crash_is_ingested_after_a_restart() {
    let directory = Directory::new("lost");
    // A stack that is killed between a put and the delivery of its event leaves this.
    std::fs::create_dir_all(directory.0.join("s3").join(BUCKET)).unwrap();
    std::fs::write(directory.0.join("lock"), "").unwrap();
    std::fs::write(
        directory.0.join("s3").join(BUCKET).join("lost.json"),
        r#"{"title":"Lost","year":2026}"#,
    )
    .unwrap();
    // The data directory may be relative, as the default is.
    let (parent, name) = (directory.0.parent().unwrap(), directory.0.file_name().unwrap());
    let stack = Stack::start_in(parent, Path::new(name), &["--no-sample"]);
    assert_eq!(stack.ingest("lost.json", is_final).await["state"], "succeeded");
}

#[tokio::test]
async fn postgres_does_not_outlive_a_stack_that_is_killed_while_it_starts() {
    let directory = Directory::new("at-once");
    for ms in [0, 200, 400, 600, 800, 1000, 1200] {
        let mut process = Command::new(env!("CARGO_BIN_EXE_local-stack"))
            .args(["--no-sample", "--api", "127.0.0.1:0", "--s3", "127.0.0.1:0", "--data-dir"])
            .arg(&directory.0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(ms));
        process.kill().unwrap();
        process.wait().unwrap();
    }
    // No Postgres still uses the data, and no interrupted start has damaged it.
    let stack = Stack::start(&directory.0, &["--no-sample"]);
    assert_eq!(stack.get("/movies").await, json!([]));
    stack.signal("-INT");
    assert!(stack.wait().0);
}

#[tokio::test]
async fn two_stacks_do_not_share_a_data_directory() {
    let directory = Directory::new("shared");
    let _first = Stack::start(&directory.0, &["--no-sample"]);
    let second = Command::new(env!("CARGO_BIN_EXE_local-stack"))
        .args(["--api", "127.0.0.1:0", "--s3", "127.0.0.1:0", "--data-dir"])
        .arg(&directory.0)
        .output()
        .unwrap();
    assert!(!second.status.success());
    let error = String::from_utf8_lossy(&second.stderr);
    assert!(error.contains("--data-dir"), "{error}");
}

#[test]
fn the_stack_and_its_function_refuse_a_variable_that_they_do_not_know() {
    let directory = Directory::new("unknown");
    for command in [None, Some("lambda")] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_local-stack"));
        program.env("MRU_ADMIN_PASS", "hunter2").arg("--data-dir").arg(&directory.0);
        let output = program.args(command).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        let expected = "MRU_ADMIN_PASS (did you mean MRU_ADMIN_PASSWORD?)";
        assert!(!output.status.success() && error.contains(expected), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    assert_eq!(std::fs::read_dir(&directory.0).unwrap().count(), 0);
}

#[tokio::test]
async fn web_pages_reach_no_listener() {
    let directory = Directory::new("pages");
    let stack = Stack::start(&directory.0, &["--no-sample"]);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let (api, s3) = (stack.api.port(), stack.s3_address.port());
    let status = async |url: &str, headers: &[(&str, &str)]| {
        let request = headers
            .iter()
            .fold(http.get(url), |request, (name, value)| request.header(*name, *value));
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let movies = format!("http://127.0.0.1:{api}/movies");
    let object = format!("http://127.0.0.1:{s3}/{BUCKET}/my.json");
    for (url, error) in [
        (&movies, "foreign_site"),
        (&stack.dead_letters, "foreign_site"),
        (&object, "<Code>AccessDenied</Code>"),
    ] {
        let port = reqwest::Url::parse(url).unwrap().port().unwrap();
        let rebound = format!("evil.example:{port}");
        let other_port = format!("http://localhost:{}", port ^ 1);
        for headers in [
            vec![("host", rebound.as_str())],
            vec![("origin", "http://evil.example")],
            vec![("origin", "null")],
            vec![("origin", other_port.as_str())],
            vec![("sec-fetch-site", "cross-site"), ("sec-fetch-dest", "image")],
        ] {
            let (status, body) = status(url, &headers).await;
            assert_eq!(status, 403, "{url} {headers:?}: {body}");
            assert!(body.contains(error), "{url} {headers:?}: {body}");
            assert!(body.contains("the header "), "{url} {headers:?}: {body}");
        }
    }
    // With a token that the page may guess, too.
    let movie = json!({ "title": "Forged", "year": 2026 });
    let post = http.post(&movies).bearer_auth(TOKEN).json(&movie);
    let post = post.header("origin", "http://evil.example").send().await.unwrap();
    assert_eq!(post.status(), 403);
    assert_eq!(stack.get("/movies").await, json!([]));

    for (host, origin) in [
        (format!("127.0.0.1:{api}"), None),
        (format!("localhost:{api}"), Some(format!("http://localhost:{api}"))),
        (format!("[::1]:{api}"), Some(format!("http://[::1]:{api}"))),
    ] {
        let mut headers = vec![("host", host.as_str())];
        headers.extend(origin.as_deref().map(|origin| ("origin", origin)));
        assert_eq!(status(&movies, &headers).await.0, 200, "{headers:?}");
    }
    assert_eq!(status(&stack.dead_letters, &[]).await, (200, "[]".to_owned()));

    // An S3 client that addresses the bucket as a virtual host.
    let config = aws_sdk_s3::config::Builder::from(&local_stack::sdk(stack.s3_address));
    let config = config.endpoint_url(format!("http://localhost:{s3}")).force_path_style(false);
    let client = Client::from_conf(config.build());
    let put = client.put_object().bucket(BUCKET).key("virtual.json");
    // The name below localhost must be resolved: the system may not.
    if (format!("{BUCKET}.localhost"), s3).to_socket_addrs().is_ok() {
        put.body(ByteStream::from(movie.to_string().into_bytes())).send().await.unwrap();
        assert_eq!(stack.ingest("virtual.json", is_final).await["state"], "succeeded");
    }
    let virtual_host = format!("{BUCKET}.localhost:{s3}");
    let url = format!("http://127.0.0.1:{s3}/missing.json");
    let (status, body) = status(&url, &[("host", &virtual_host)]).await;
    assert_ne!(status, 400, "{body}");
    assert!(!body.contains("the header Host"), "{body}");
}

/// Returns the paths below `directory` that another account can reach and read.
fn readable_by_others(directory: &Path) -> Vec<PathBuf> {
    let metadata = std::fs::metadata(directory).unwrap();
    let mut found = Vec::new();
    if metadata.mode() & 0o007 != 0 || metadata.mode() & 0o060 != 0 {
        found.push(directory.to_owned());
    }
    // Others cannot enter: what is below is out of reach.
    let is_closed = metadata.is_file() || metadata.mode() & 0o011 == 0;
    if !is_closed {
        for entry in std::fs::read_dir(directory).unwrap() {
            found.extend(readable_by_others(&entry.unwrap().path()));
        }
    }
    found
}

#[tokio::test]
async fn data_and_log_are_readable_by_their_owner_alone() {
    let directory = Directory::new("private");
    // As an earlier version left it.
    std::fs::write(directory.0.join("lock"), "").unwrap();
    std::fs::write(directory.0.join("postgres.log"), "").unwrap();
    std::fs::create_dir(directory.0.join("s3")).unwrap();
    let stack = Stack::start(&directory.0, &["--no-sample"]);
    stack.put("my.json", json!({ "title": "My Movie", "year": 2026 }).to_string()).await;
    stack.ingest("my.json", is_final).await;
    assert_eq!(readable_by_others(&directory.0), Vec::<PathBuf>::new());
    let mode = |path: &str| std::fs::metadata(directory.0.join(path)).unwrap().mode() & 0o777;
    // Root's Postgres runs as another account, which enters the directory by its group.
    let is_root = std::fs::metadata(&directory.0).unwrap().uid() == 0;
    assert_eq!(mode("."), if is_root { 0o710 } else { 0o700 });
    assert_eq!((mode("s3"), mode("postgres"), mode("postgres.log")), (0o700, 0o700, 0o600));
}

#[tokio::test]
async fn the_first_start_prints_the_password_of_the_admin_once() {
    let directory = Directory::new("admin");
    let stack = Stack::start(&directory.0, &["--no-sample"]);
    let (_, password) = stack.sign_in.split_once("admin, password ").unwrap();
    let password = password.split(',').next().unwrap().to_owned();
    assert_eq!(password.len(), 32, "{}", stack.sign_in);
    let login = async |stack: &Stack| {
        let login = reqwest::Client::new().post(format!("http://{}/auth/login", stack.api));
        let body = json!({ "name": "admin", "password": password }).to_string();
        let response = login.header("content-type", "application/json").body(body).send().await;
        response.unwrap().error_for_status().unwrap().json::<Value>().await.unwrap()
    };
    let access = login(&stack).await["access_token"].as_str().unwrap().to_owned();
    let me = reqwest::Client::new().get(format!("http://{}/auth/me", stack.api));
    let me: Value = me.bearer_auth(&access).send().await.unwrap().json().await.unwrap();
    assert_eq!(
        (&me["name"], &me["roles"]),
        (&json!("admin"), &json!(["producer", "editor", "admin"]))
    );
    stack.signal("-INT");
    let (succeeded, log) = stack.wait();
    assert!(succeeded && !log.contains(&password) && !log.contains(&access), "{log}");

    let stack = Stack::start(&directory.0, &["--no-sample"]);
    assert!(!stack.sign_in.contains(&password), "{}", stack.sign_in);
    login(&stack).await;
}

#[tokio::test]
async fn an_open_directory_of_something_else_is_not_used() {
    let directory = Directory::new("open");
    std::fs::write(directory.0.join("thesis.txt"), "").unwrap();
    let refused = Command::new(env!("CARGO_BIN_EXE_local-stack"))
        .args(["--api", "127.0.0.1:0", "--s3", "127.0.0.1:0", "--data-dir"])
        .arg(&directory.0)
        .output()
        .unwrap();
    assert!(!refused.status.success());
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(error.contains("holds files of something else"), "{error}");
}

#[tokio::test]
async fn the_page_of_the_api_uploads_a_file_to_the_bucket() {
    let directory = Directory::new("uploads");
    let stack = Stack::start(&directory.0, &["--no-sample"]);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let body = json!({ "title": "From a page", "year": 2026 }).to_string();
    let wanted = json!({
        "key": "page/a.json",
        "size": body.len(),
        "content_type": "application/json",
        "checksum_sha256": BASE64_STANDARD.encode(Sha256::digest(&body)),
    });
    let ask = http.post(format!("http://{}/uploads", stack.api)).bearer_auth(TOKEN).json(&wanted);
    let signed: Value = ask.send().await.unwrap().error_for_status().unwrap().json().await.unwrap();
    let url = signed["url"].as_str().unwrap();

    // As a browser does it: it asks first.
    let port = stack.api.port();
    let preflight = async |origin: &str, method: &str| {
        let request = http.request(reqwest::Method::OPTIONS, url).header("origin", origin);
        let request = request.header("access-control-request-method", method);
        let names = "content-type,x-amz-checksum-sha256";
        let request = request.header("access-control-request-headers", names);
        request.header("sec-fetch-site", "same-site").send().await.unwrap()
    };
    let send = async |origin: &str| {
        let mut request = http.put(url).header("origin", origin).body(body.clone());
        for (name, value) in signed["headers"].as_object().unwrap() {
            request = request.header(name, value.as_str().unwrap());
        }
        request.header("sec-fetch-site", "same-site").send().await.unwrap()
    };
    for origin in ["http://evil.example", "null", &format!("http://localhost:{}", port ^ 1)] {
        assert_eq!(preflight(origin, "PUT").await.status(), 403, "{origin}");
        let refused = send(origin).await;
        assert_eq!(refused.status(), 403, "{origin}");
        assert!(!refused.headers().contains_key("access-control-allow-origin"), "{origin}");
    }
    assert_eq!(preflight(&format!("http://localhost:{port}"), "DELETE").await.status(), 403);
    for host in ["localhost", "127.0.0.1"] {
        let origin = format!("http://{host}:{port}");
        let asked = preflight(&origin, "PUT").await;
        assert_eq!(asked.status(), 200);
        let header = |name: &str| asked.headers()[name].to_str().unwrap();
        assert_eq!(header("access-control-allow-origin"), origin);
        assert_eq!(header("access-control-allow-methods"), "PUT");
        assert!(header("access-control-allow-headers").contains("x-amz-checksum-sha256"));
        let sent = send(&origin).await;
        assert_eq!(sent.status(), 200);
        assert_eq!(sent.headers()["access-control-allow-origin"], origin);
        assert_eq!(sent.headers()["access-control-expose-headers"], "etag");
        assert!(sent.headers().contains_key("etag"));
        // Before the next put: an event that is delivered after that of a newer put is superseded.
        assert_eq!(stack.ingest("page/a.json", is_final).await["state"], "succeeded");
    }
}
