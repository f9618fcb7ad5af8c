//! Measures what clients notice while others attack: clients that send files which are expensive to
//! check, clients that abandon such requests, uploads that stall, and expensive files in the bucket.
//! The service is a process of its own, so that its memory can be measured.

use std::{
    collections::VecDeque,
    env,
    io::Write,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use local_stack::{
    client,
    postgres::{Postgres, Purpose},
    s3::Endpoint,
};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

use crate::{
    ingest, movies,
    process::{TOKEN, start_service},
    report::percentile,
};

const BUCKET: &str = "bench";

/// The number of concurrent attackers that wait for responses.
const ATTACKERS: usize = 32;

/// The number of concurrent attackers that abandon small requests, and of those that abandon large ones.
const ABANDONING: usize = 4;

/// The number of uploads that stall at once: more than the service has connections.
const STALLED: usize = 1100;

/// How long they attack.
const ATTACK: Duration = Duration::from_secs(30);

/// How many movies are in the catalogue.
const MOVIES: usize = 20_000;

/// The targets: latencies at the 99th percentile, and the peak of the resident memory.
const MAX_MOVIES_P99: Duration = Duration::from_millis(100);
const MAX_HEALTH_P99: Duration = Duration::from_millis(20);
const MAX_MEMORY_MB: u64 = 160;

/// Attacks the service, and prints what other clients notice.
#[expect(clippy::print_stdout, reason = "the figures are the output of the program")]
pub(crate) async fn measure() -> Result<()> {
    // Fails if another part of the process has installed it, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let directory = env::temp_dir().join(format!("mru-bench-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let postgres = Postgres::start(&directory.join("postgres"), Purpose::Test).await?;
    let outcome = run(&postgres, &directory).await;
    postgres.stop().await;
    std::fs::remove_dir_all(&directory)?;
    println!("{}", outcome?);
    Ok(())
}

async fn run(postgres: &Postgres, directory: &Path) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let s3_address = listener.local_addr()?;
    let endpoint = Endpoint::new(&directory.join("s3"))?;
    tokio::spawn(endpoint.serve(listener, std::future::pending()));
    let s3 = client(s3_address);
    s3.create_bucket().bucket(BUCKET).send().await?;

    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(100)).build()?;
    ingest::create_store(postgres, "attack").await?;
    let s3_url = format!("http://{s3_address}");
    let variables = [("MRU_LOG", "warn"), ("MRU_LOG_FORMAT", "text")];
    let service = start_service(postgres, "attack", &s3_url, &variables, Stdio::inherit()).await?;
    let put = async |key: &str, body: Vec<u8>| {
        s3.put_object().bucket(BUCKET).key(key).body(ByteStream::from(body)).send().await
    };
    let notify = async |key: &str, wait: u32| -> Result<Value> {
        let request = http.post(service.url("/notify")).bearer_auth(TOKEN);
        let request = request.header("prefer", format!("wait={wait}"));
        let request = request.json(&json!({ "bucket": BUCKET, "key": key }));
        Ok(request.send().await?.error_for_status()?.json().await?)
    };
    put("movies", movies::synthetic(MOVIES).movies.join("\n").into_bytes()).await?;
    let loaded = notify("movies", 30).await?;
    ensure!(loaded["state"] == "succeeded", "the catalogue was not loaded: {loaded}");

    let files = [gzip(&empty_records())?, gzip(&large_record())?];
    for number in 0..4 {
        let key = format!("attack-{number}");
        put(&key, files[number % files.len()].to_vec()).await?;
        notify(&key, 0).await?;
    }
    let mut attackers = JoinSet::new();
    let end = Instant::now() + ATTACK;
    for number in 0..ATTACKERS {
        let url = service.url("/validate");
        attackers.spawn(attack(http.clone(), url, files[number % files.len()].clone(), end));
    }
    let requests = [
        (validation("content-encoding: gzip\r\n", &files[0]), Duration::from_millis(4)),
        (validation("", &empty_records()), Duration::from_millis(20)),
    ];
    for (request, patience) in requests {
        for _ in 0..ABANDONING {
            attackers.spawn(abandon(service.address, request.clone(), patience, end));
        }
    }
    attackers.spawn(stall(service.address, end));
    let movies = observe(&http, service.url("/movies?actor=ka&genre=drama"), end);
    let health = observe(&http, service.url("/healthz"), end);
    let (movies, health) = tokio::try_join!(movies, health)?;
    let responses: usize = attackers.join_all().await.into_iter().sum();

    let metrics = http.get(service.url("/metrics")).send().await?.text().await?;
    let lost = metrics.lines().find_map(|line| line.strip_prefix("mru_ingest_leases_lost_total "));
    let memory = service.memory_mb()?.1;
    report(&movies, &health, memory, lost.unwrap_or("?"), responses)
}

/// Sends a file until `end`, again and again. Returns the number of responses.
async fn attack(http: reqwest::Client, url: String, file: Bytes, end: Instant) -> usize {
    let mut responses = 0;
    while Instant::now() < end {
        let request = http.post(&url).header("content-type", "application/json");
        let sent = request.header("content-encoding", "gzip").body(file.clone()).send().await;
        responses += usize::from(sent.is_ok());
        if sent.is_ok_and(|response| response.status().as_u16() == 503) {
            sleep(Duration::from_millis(100)).await;
        }
    }
    responses
}

/// Returns a request of `POST /validate`.
fn validation(headers: &str, body: &[u8]) -> Bytes {
    let length = body.len();
    let head = format!(
        "POST /validate HTTP/1.1\r\nhost: attack\r\n{headers}content-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat().into()
}

/// Sends a request until `end`, again and again, and closes each connection after `patience`. Returns
/// the number of responses: none.
async fn abandon(address: SocketAddr, request: Bytes, patience: Duration, end: Instant) -> usize {
    while Instant::now() < end {
        let client = TcpStream::connect(address).await;
        if let Ok(mut client) = client {
            // Fails if the service refuses the body.
            let _ = client.write_all(&request).await;
            sleep(patience).await;
        }
    }
    0
}

/// Keeps uploads open until `end` that send a byte every 8 s. Opens a hundred a second, instead of those
/// that the service closes. Returns the number of responses: none.
async fn stall(address: SocketAddr, end: Instant) -> usize {
    let request = validation("", &vec![b' '; 1 << 20]);
    let begun = &request[..request.len() - (1 << 20) + 1];
    let mut uploads = VecDeque::new();
    while Instant::now() < end {
        if uploads.len() < STALLED
            && let Ok(mut upload) = TcpStream::connect(address).await
            && upload.write_all(begun).await.is_ok()
        {
            uploads.push_back((Instant::now(), upload));
        }
        while let Some((sent, mut upload)) = uploads.pop_front() {
            if sent.elapsed() < Duration::from_secs(8) {
                uploads.push_front((sent, upload));
                break;
            }
            if upload.write_all(b" ").await.is_ok() {
                uploads.push_back((Instant::now(), upload));
            }
        }
        sleep(Duration::from_millis(10)).await;
    }
    0
}

/// Requests `url` 20 times a second until `end`. Returns the duration of each request.
async fn observe(http: &reqwest::Client, url: String, end: Instant) -> Result<Vec<Duration>> {
    let mut durations = Vec::new();
    while Instant::now() < end {
        let started = Instant::now();
        let response = http.get(&url).send().await?;
        ensure!(response.status().is_success(), "{url}: {}", response.status());
        response.bytes().await?;
        durations.push(started.elapsed());
        sleep(Duration::from_millis(50)).await;
    }
    Ok(durations)
}

/// 8 MiB of records that miss everything: 8 kB as gzip.
fn empty_records() -> Vec<u8> {
    let records = (8 << 20) / 3 - 1;
    format!("[{}{{}}]", "{},".repeat(records - 1)).into_bytes()
}

/// One record with a cast of 1 MiB, of objects instead of names: 1.6 kB as gzip.
fn large_record() -> Vec<u8> {
    let objects = "{},".repeat((1 << 20) / 3 - 40);
    format!("[{{\"title\":\"a\",\"year\":2000,\"cast\":[{objects}{{}}]}}]").into_bytes()
}

fn gzip(file: &[u8]) -> Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(file)?;
    Ok(encoder.finish()?.into())
}

fn report(
    movies: &[Duration],
    health: &[Duration],
    memory_mb: u64,
    leases_lost: &str,
    responses: usize,
) -> Result<String> {
    let mut rows = Vec::new();
    for (name, durations, target) in
        [("GET /movies", movies, MAX_MOVIES_P99), ("GET /healthz", health, MAX_HEALTH_P99)]
    {
        let (p50, p99) = (percentile(durations, 50)?, percentile(durations, 99)?);
        let missed = if p99 > target { " (missed)" } else { "" };
        rows.push(format!("| {name}, p50 / p99 | {p50:.1?} / {p99:.1?}{missed} | {target:?} |"));
    }
    let missed = if memory_mb > MAX_MEMORY_MB { " (missed)" } else { "" };
    rows.push(format!(
        "| peak memory of the service | {memory_mb} MB{missed} | {MAX_MEMORY_MB} MB |"
    ));
    rows.push(format!("| leases lost | {leases_lost} | 0 |"));
    Ok(format!(
        "{ATTACKERS} attackers for {} s, {responses} responses; {} attackers that abandon requests; \
         {STALLED} stalled uploads; 4 files in the bucket:\n\n\
         | what | measured | at most |\n| --- | --: | --: |\n{}",
        ATTACK.as_secs(),
        2 * ABANDONING,
        rows.join("\n")
    ))
}
