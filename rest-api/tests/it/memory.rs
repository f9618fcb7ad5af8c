//! Peak memory while a large file is ingested, and while clients read no responses.
//!
//! The service runs as a process of its own. The kernel reports the peak of its resident set:
//! `VmHWM` in `/proc/PID/status`. By default the file is small. With a gigabyte, an optimised build,
//! and printed figures:
//!
//! ```sh
//! MRU_TEST_FILE_MB=1024 cargo test --release -p rest-api --test it memory -- --nocapture
//! ```
//!
//! `MRU_TEST_GZIP=1` compresses the file. `MRU_TEST_MOVIE_BYTES` (1000) is the size of a movie.

#![cfg(target_os = "linux")]

use std::{
    fs::File,
    io::{BufWriter, Write},
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use fastrand::Rng;
use flate2::{Compression, write::GzEncoder};
use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{
    Service, eventually, free_address,
    movies::insert_large,
    notification,
    process::{Process, peak_resident_mb},
};

/// The largest resident set of the service, whatever the size of the file.
const MAX_RESIDENT_MB: u64 = 150;

/// How much the resident set can grow during an ingest. The default file is larger.
const MAX_GROWTH_MB: u64 = 40;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Writes NDJSON of about this size. Returns the number of movies.
fn generate(megabytes: usize, mut file: impl Write) -> u64 {
    let mut random = Rng::with_seed(1);
    let extract = setting("MRU_TEST_MOVIE_BYTES", 1000) - 300;
    let word = |random: &mut Rng, length: usize| -> String {
        (0..length).map(|_| random.lowercase()).collect()
    };
    // Compresses about as well as prose.
    let words: Vec<String> = (0..200).map(|_| word(&mut random, 7)).collect();
    let (mut size, mut count) = (0, 0);
    while size < megabytes << 20 {
        let mut text = String::new();
        while text.len() < extract {
            text.push_str(&words[random.usize(0..words.len())]);
            text.push(' ');
        }
        let movie = json!({
            "title": format!("{} {count}", word(&mut random, 12)), "year": 1900 + count % 120,
            "cast": [word(&mut random, 14), word(&mut random, 12), word(&mut random, 16)],
            "genres": ["Drama", word(&mut random, 4)],
            "href": word(&mut random, 20), "extract": text,
        });
        let line = format!("{movie}\n");
        file.write_all(line.as_bytes()).unwrap();
        size += line.len();
        count += 1;
    }
    file.flush().unwrap();
    count
}

/// Writes the file at `path`, compressed or not. Returns the number of movies.
fn generate_at(path: &Path, megabytes: usize) -> u64 {
    let file = BufWriter::new(File::create(path).unwrap());
    if setting("MRU_TEST_GZIP", 0) == 0 {
        return generate(megabytes, file);
    }
    let mut encoder = GzEncoder::new(file, Compression::fast());
    let count = generate(megabytes, &mut encoder);
    encoder.finish().unwrap().flush().unwrap();
    count
}

/// Starts the service as a process, and waits until it is ready. Returns its address, too.
async fn serve(around: &Service) -> (Process, SocketAddr) {
    let address = free_address();
    let process = Process::serve(around, |environment| {
        environment.insert("MRU_LISTEN", address.to_string());
    });
    let ready = format!("http://{address}/readyz");
    eventually(async || {
        reqwest::get(&ready).await.is_ok_and(|response| response.status() == StatusCode::OK)
    })
    .await;
    (process, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_is_ingested_in_bounded_memory() {
    let megabytes = setting("MRU_TEST_FILE_MB", 64);
    let around = Service::start_without_workers().await;
    let (process, _) = serve(&around).await;
    let before = peak_resident_mb(process.id());

    let path = around.scratch_path("large.ndjson");
    let count = generate_at(&path, megabytes);
    let size = std::fs::metadata(&path).unwrap().len();
    around.put_file("large.ndjson", &path).await;
    let started = Instant::now();
    let notification = notification::bare("large.ndjson").to_string();
    let recorded = around.send(around.post("/notify", notification)).await.json();
    let ingest = loop {
        let ingest = around.get_ingest(&recorded["id"]).await;
        if ingest["finished_at"].is_string() {
            break ingest;
        }
        assert!(started.elapsed().as_secs() < 3600, "{ingest}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let (seconds, peak) = (started.elapsed().as_secs_f64(), peak_resident_mb(process.id()));
    drop(process);
    eprintln!(
        "{megabytes} MB ({} MB in the bucket), {count} movies: {seconds:.1} s; resident set {peak} MB at \
         most, {before} MB before",
        size >> 20
    );
    assert_eq!(
        (&ingest["state"], &ingest["inserted"]),
        (&json!("succeeded"), &json!(count)),
        "{ingest}"
    );
    assert!(
        peak - before < MAX_GROWTH_MB,
        "{peak} MB for a file of {megabytes} MB, {before} MB before"
    );
    assert!(peak < MAX_RESIDENT_MB, "{peak} MB for a file of {megabytes} MB");
}

/// How much the resident set can grow while clients read no responses: the bodies under way and those
/// that wait, and the pages that are being built.
const MAX_RESPONSES_MB: u64 = 80;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_large_pages_take_bounded_memory() {
    let around = Service::start_without_workers().await;
    insert_large(&around, 24, 1 << 20).await;
    let (process, address) = serve(&around).await;
    let before = peak_resident_mb(process.id());

    let mut unread = Vec::new();
    for _ in 0..12 {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET /movies?limit=1000 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        unread.push(client);
    }
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        let page = reqwest::get(format!("http://{address}/movies?limit=1")).await.unwrap();
        assert_eq!(page.status(), StatusCode::OK);
        assert!(page.bytes().await.unwrap().len() > 1 << 20);
    }
    let peak = peak_resident_mb(process.id());
    drop(process);
    eprintln!("resident set {peak} MB at most, {before} MB before");
    assert!(peak - before < MAX_RESPONSES_MB, "{peak} MB, {before} MB before");
}

/// The largest resident set of the service, whatever clients do, beside its cache of 64 MiB. The chart's limit
/// is 384 MiB.
const MAX_RESIDENT_UNDER_ATTACK_MB: u64 = 160;
const MAX_CACHE_MB: u64 = 96;

/// The size of an unfinished head, in bytes. A head of 16 KiB is refused.
const HEAD: usize = 15 << 10;

/// The largest body of `POST /validate`.
const MAX_BODY: usize = 8 << 20;

/// Returns a request of `POST /validate` with 8 MiB of objects that miss everything.
fn expensive_validation() -> Vec<u8> {
    let body = format!("[{}{{}}]", "{},".repeat(MAX_BODY / 3 - 1));
    let head = "POST /validate HTTP/1.1\r\nhost: x\r\ncontent-length:";
    format!("{head} {}\r\n\r\n{body}", body.len()).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_bodies_take_bounded_memory() {
    let around = Service::start_without_workers().await;
    let (process, address) = serve(&around).await;
    let request = expensive_validation();
    for _ in 0..10 {
        let abandoned = (0..6).map(async |_| {
            let mut client = TcpStream::connect(address).await.unwrap();
            // Fails if the service refuses the body.
            let _ = client.write_all(&request).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        });
        join_all(abandoned).await;
    }
    let peak = peak_resident_mb(process.id());
    eprintln!("resident set {peak} MB at most");
    assert!(peak < MAX_RESIDENT_UNDER_ATTACK_MB, "{peak} MB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_bounds_together_fit_into_the_memory_of_a_pod() {
    let around = Service::start_without_workers().await;
    insert_large(&around, 24, 1 << 20).await;
    let (process, address) = serve(&around).await;
    let path = around.scratch_path("large.ndjson");
    generate_at(&path, 16);
    around.put_file("large.ndjson", &path).await;
    let notification = notification::bare("large.ndjson").to_string();
    let recorded = around.send(around.post("/notify", notification)).await.json();

    // Different answers of 2 MiB, which fill the cache.
    for year in 2001..2061 {
        let url = format!("http://{address}/movies?limit=2&year=2000..{year}");
        assert_eq!(reqwest::get(url).await.unwrap().status(), StatusCode::OK);
    }
    let mut clients = Vec::new();
    let mut send = async |bytes: &[u8]| {
        let mut client = TcpStream::connect(address).await.unwrap();
        let _ = client.write_all(bytes).await;
        clients.push(client);
    };
    for _ in 0..40 {
        send(b"GET /movies?limit=1000 HTTP/1.1\r\nhost: x\r\n\r\n").await;
    }
    let validation = expensive_validation();
    for _ in 0..8 {
        send(&validation[..validation.len() - 1]).await;
    }
    let head = format!("GET / HTTP/1.1\r\nhost: x\r\nx-padding: {}", "x".repeat(HEAD));
    for _ in 0..960 {
        send(head.as_bytes()).await;
    }
    for _ in 0..8 {
        send(&validation).await;
    }
    around.reaches(&recorded["id"], "succeeded").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let peak = peak_resident_mb(process.id());
    eprintln!("resident set {peak} MB at most");
    assert!(peak < MAX_RESIDENT_UNDER_ATTACK_MB + MAX_CACHE_MB, "{peak} MB");
}
