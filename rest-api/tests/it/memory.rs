//! A large file in bounded memory.
//!
//! The service runs as a process of its own here, and the kernel says how much memory it held at
//! most: `VmHWM` in `/proc/PID/status`, the peak of its resident set. By default the file is small;
//! with a gigabyte, optimised, and figures to read:
//!
//! ```sh
//! MRU_TEST_FILE_MB=1024 cargo test --release -p rest-api --test it memory -- --nocapture
//! ```

#![cfg(target_os = "linux")]

use std::time::Instant;

use fastrand::Rng;
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

/// NDJSON of about `megabytes`, a kilobyte a movie, and how many movies it holds.
fn generate(megabytes: usize) -> (Vec<u8>, u64) {
    let mut random = Rng::with_seed(1);
    let mut word = |length: usize| -> String { (0..length).map(|_| random.lowercase()).collect() };
    let (mut file, mut count) = (Vec::with_capacity(megabytes << 20), 0);
    while file.len() < megabytes << 20 {
        let movie = json!({
            "title": format!("{} {count}", word(12)), "year": 1900 + count % 120,
            "cast": [word(14), word(12), word(16)], "genres": ["Drama", word(4)],
            "href": word(20), "extract": word(700),
        });
        serde_json::to_writer(&mut file, &movie).unwrap();
        file.push(b'\n');
        count += 1;
    }
    (file, count)
}

pub(crate) fn peak_resident_mb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_is_taken_in_bounded_memory() {
    let megabytes = std::env::var("MRU_TEST_FILE_MB").map_or(64, |mb| mb.parse().unwrap());
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

    let (file, count) = generate(megabytes);
    let size = file.len();
    around.put("large.ndjson", file).await;
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
        "{} MB, {count} movies: {seconds:.1} s; resident {peak} MB at most, {at_rest} MB at rest",
        size >> 20
    );
    assert_eq!(
        (&ingest["state"], &ingest["inserted"]),
        (&json!("succeeded"), &json!(count)),
        "{ingest}"
    );
    assert!(
        peak - at_rest < MAX_GROWTH_MB,
        "{at_rest} MB at rest, {peak} MB for {} MB",
        size >> 20
    );
    assert!(peak < MAX_RESIDENT_MB, "{peak} MB for a file of {} MB", size >> 20);
}
