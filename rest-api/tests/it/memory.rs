//! A large file in bounded memory.
//!
//! The service runs as a process of its own here, and the kernel says how much memory it held at
//! most: `VmHWM` in `/proc/PID/status`, the peak of its resident set. By default the file is small;
//! with a gigabyte, optimised, and figures to read:
//!
//! ```sh
//! MRU_TEST_FILE_MB=1024 cargo test --release -p rest-api --test it memory -- --nocapture
//! ```
//!
//! `MRU_TEST_GZIP=1` compresses the file, `MRU_TEST_MOVIE_BYTES` (1000) says how large a movie is.

#![cfg(target_os = "linux")]

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    time::Instant,
};

use fastrand::Rng;
use flate2::{Compression, write::GzEncoder};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    process::Process,
    service::{BUCKET, Service, eventually},
};

/// What the service may hold at most, whatever the size of the file; and how much more than at
/// rest. The default file is larger than that.
const MAX_RESIDENT_MB: u64 = 150;
const MAX_GROWTH_MB: u64 = 40;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Writes NDJSON of about `megabytes`; returns how many movies it holds.
fn generate(megabytes: usize, mut file: impl Write) -> u64 {
    let mut random = Rng::with_seed(1);
    let extract = setting("MRU_TEST_MOVIE_BYTES", 1000) - 300;
    let word = |random: &mut Rng, length: usize| -> String {
        (0..length).map(|_| random.lowercase()).collect()
    };
    // Text that compresses about as well as prose.
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

/// The same at `path`, compressed or not.
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

pub(crate) fn peak_resident_mb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_is_taken_in_bounded_memory() {
    let megabytes = setting("MRU_TEST_FILE_MB", 64);
    let around = Service::start_with(|config| config.workers = 0).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let process = Process::serve(&around, |environment| {
        environment.insert("MRU_LISTEN", format!("127.0.0.1:{port}"));
    });
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    eventually(async || {
        reqwest::get(url("/readyz")).await.is_ok_and(|r| r.status() == StatusCode::OK)
    })
    .await;
    let at_rest = peak_resident_mb(process.id());

    // Into the endpoint's own folder: no body that is sent need be as large.
    let path = around.object_path("large.ndjson");
    let count = generate_at(&path, megabytes);
    let size = std::fs::metadata(&path).unwrap().len();
    let started = Instant::now();
    let notification = json!({ "bucket": BUCKET, "key": "large.ndjson" }).to_string();
    let recorded = around.send(around.post("/notify", notification)).await.json();
    let ingest = loop {
        let ingest: Value = around.get(&format!("/ingests/{}", recorded["id"])).await.json();
        if ingest["finished_at"].is_string() {
            break ingest;
        }
        assert!(started.elapsed().as_secs() < 3600, "{ingest}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    let (seconds, peak) = (started.elapsed().as_secs_f64(), peak_resident_mb(process.id()));
    drop(process);
    eprintln!(
        "{megabytes} MB ({} MB in the bucket), {count} movies: {seconds:.1} s; resident {peak} MB at \
         most, {at_rest} MB at rest",
        size >> 20
    );
    assert_eq!(
        (&ingest["state"], &ingest["inserted"]),
        (&json!("succeeded"), &json!(count)),
        "{ingest}"
    );
    assert!(peak - at_rest < MAX_GROWTH_MB, "{at_rest} MB at rest, {peak} MB for {megabytes} MB");
    assert!(peak < MAX_RESIDENT_MB, "{peak} MB for a file of {megabytes} MB");
}
