//! Small requests and files that would occupy processors and memory for long.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::{join, join_all};
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    Response, Service, eventually,
    files::{gzip, movie},
    notification,
};

/// The largest body of `POST /validate`.
const MAX_BODY: usize = 8 << 20;

/// How long other requests may take meanwhile. It is long, because tests run without optimisation on
/// busy machines: only a service whose threads are occupied exceeds it.
const MAX_LATENCY: Duration = Duration::from_secs(2);

/// Returns 8 MiB of objects without a title, as 8 kB of gzip.
fn empty_objects() -> Vec<u8> {
    let objects = "{},".repeat(MAX_BODY / 3 - 1);
    let file = gzip(format!("[{objects}{{}}]").as_bytes());
    assert!(file.len() < 30_000);
    file
}

async fn validate(service: &Service, body: Vec<u8>) -> Response {
    service.send(service.request(Method::POST, "/validate").body(body)).await
}

/// Requests `paths` one after the other until `done`. Returns the longest time that one took.
async fn longest(service: &Service, paths: [&str; 2], done: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    while !done.load(Ordering::Relaxed) {
        for path in paths {
            let started = Instant::now();
            let response = service.get(path).await;
            assert_eq!(response.status, StatusCode::OK, "{path}: {}", response.text);
            longest = longest.max(started.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    longest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_many_violations_do_not_delay_other_requests() {
    let service = Service::start().await;
    let file = empty_objects();
    let ingested = (0..4).map(async |number| {
        let key = format!("{number}.json.gz");
        service.ingest(&key, file.clone()).await
    });
    let validated = (0..32).map(|_| validate(&service, file.clone()));
    let done = AtomicBool::new(false);
    let attack = async {
        let results = join(join_all(ingested), join_all(validated)).await;
        done.store(true, Ordering::Relaxed);
        results
    };
    let measured = longest(&service, ["/healthz", "/movies"], &done);
    let ((ingests, responses), longest) = join(attack, measured).await;
    eprintln!("a request took {longest:?} at most");
    assert!(longest < MAX_LATENCY, "a request took {longest:?}");
    for ingest in ingests {
        assert_eq!(ingest["state"], "rejected", "{ingest}");
        assert_eq!(ingest["attempts"], 1, "the lease was lost: {ingest}");
    }
    let mut checked = 0;
    for response in responses {
        if response.status == StatusCode::SERVICE_UNAVAILABLE {
            assert_eq!(response.header("retry-after"), "1");
            continue;
        }
        assert_eq!(response.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", response.text);
        let problem = response.json();
        if problem["code"] == "violations" {
            // Two faults of each of 500 records are listed. Then each record counts once.
            assert_eq!(problem["violation_count"], MAX_BODY / 3 + 500);
        } else {
            assert_eq!(problem["code"], "check_too_expensive", "{problem}");
        }
        checked += 1;
    }
    assert!(checked >= 2, "{checked} files were checked");
}

/// Returns a request of `POST /validate`, compressed or not.
fn raw_request(body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("POST /validate HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_checks_delay_nobody() {
    let service = Service::start().await;
    let request = raw_request(&empty_objects());
    for _ in 0..300 {
        let client = service.connect_and_send(&request).await;
        tokio::time::sleep(Duration::from_millis(4)).await;
        drop(client);
    }
    let started = Instant::now();
    let response = validate(&service, movie("A").to_string().into()).await;
    assert_eq!(response.status, StatusCode::OK, "{}", response.text);
    assert!(started.elapsed() < MAX_LATENCY, "{:?}", started.elapsed());
}

#[tokio::test]
async fn few_bodies_wait_for_a_check() {
    let service = Service::start().await;
    let file = empty_objects();
    let validations = join_all((0..100).map(|_| async {
        let started = Instant::now();
        (validate(&service, file.clone()).await.status, started.elapsed())
    }));
    let refused = validations.await.into_iter().filter(|(status, time)| {
        *status == StatusCode::SERVICE_UNAVAILABLE && *time < Duration::from_secs(5)
    });
    assert!(refused.count() >= 50);
}

#[tokio::test]
async fn a_large_bad_record_gets_one_violation() {
    let service = Service::start().await;
    let cast = format!("[{}{{}}]", "{},".repeat(340_000));
    let record = format!(r#"{{"title":"M","year":1931,"cast":{cast}}}"#);
    let started = Instant::now();
    let response = validate(&service, gzip(record.as_bytes())).await;
    assert!(started.elapsed() < MAX_LATENCY, "{:?}", started.elapsed());
    assert_eq!(response.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", response.text);
    let problem = response.json();
    let violation = json!({
        "record": 0, "offset": 0, "pointer": "",
        "expected": "a valid record (beyond 64 KiB only the first fault is described)",
        "found": "invalid type: map, expected a string at line 1 column 33",
    });
    assert_eq!(problem["violations"], json!([violation]));
    assert_eq!(problem["violation_count"], 1);
}

#[tokio::test]
async fn stalled_bodies_shut_nobody_out() {
    let service = Service::start().await;
    let head = "POST /validate HTTP/1.1\r\nhost: x\r\ncontent-length: 8388608\r\n\r\n[";
    let mut clients = Vec::new();
    for _ in 0..32 {
        clients.push(service.connect_and_send(head).await);
    }
    // The service has received all of them after a while.
    for _ in 0..20 {
        let response = validate(&service, movie("A").to_string().into()).await;
        assert_eq!(response.status, StatusCode::OK, "{}", response.text);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn bodies_in_memory_are_bounded_and_further_requests_get_503() {
    let service = Service::start().await;
    let head = format!("POST /validate HTTP/1.1\r\nhost: x\r\ncontent-length: {MAX_BODY}\r\n\r\n");
    let movies = format!("{},", movie("A"));
    let movies = movies.repeat(MAX_BODY / movies.len() - 1);
    let body = format!("[{movies}{}]", movie("A"));
    let body = format!("{}{body}", " ".repeat(MAX_BODY - body.len()));
    let (most, last) = body.split_at(MAX_BODY - 1);
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(service.connect_and_send(format!("{head}{most}")).await);
    }
    // The last of them finds no memory if another request has taken some before all have arrived.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let small = || validate(&service, movie("A").to_string().into());
    eventually(async || {
        let response = small().await;
        assert!(matches!(response.status.as_u16(), 200 | 503), "{}", response.text);
        response.status == StatusCode::SERVICE_UNAVAILABLE && response.header("retry-after") == "1"
    })
    .await;
    assert_eq!(service.get("/movies").await.status, StatusCode::OK, "other routes work");
    for client in &mut clients {
        client.write_all(last.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        client.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
    }
    assert_eq!(small().await.status, StatusCode::OK);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_search_for_faults_takes_bounded_memory() {
    use crate::support::{
        free_address,
        process::{Process, peak_resident_mb},
    };

    /// How much the resident set can grow. One record of 64 KiB takes 16 MB.
    const MAX_GROWTH_MB: u64 = 64;

    let around = Service::start_without_workers().await;
    let address = free_address();
    let process = Process::serve(&around, |environment| {
        environment.insert("MRU_LISTEN", address.to_string());
    });
    eventually(async || {
        let ready = reqwest::get(format!("http://{address}/readyz")).await;
        ready.is_ok_and(|response| response.status() == StatusCode::OK)
    })
    .await;
    let before = peak_resident_mb(process.id());
    // One record of 1 MiB, and one whose faults are searched for, each beside 24 like it.
    let large = format!(r#"{{"title":"M","year":1931,"cast":[{}1]}}"#, "{},".repeat(340_000));
    let small = format!(r#"{{"title":"M","year":1931,"cast":[{}1]}}"#, "1,".repeat(32_000));
    let many = [&large, &small].map(|record| gzip(record.repeat(6).as_bytes()));
    for (number, file) in many.iter().enumerate() {
        around.put(&format!("{number}.json.gz"), file.clone()).await;
    }
    let ingests = (0..2).map(async |number| {
        let notification = notification::bare(&format!("{number}.json.gz"));
        around.notify(&notification).await
    });
    let validations = (0..6).map(|number| {
        let url = format!("http://{address}/validate");
        reqwest::Client::new().post(url).body(many[number % 2].clone()).send()
    });
    let (ingests, validations) = join(join_all(ingests), join_all(validations)).await;
    let peak = peak_resident_mb(process.id());
    eprintln!("resident set {peak} MB at most, {before} MB before");
    for ingest in ingests {
        assert_eq!(ingest["state"], "rejected", "{ingest}");
    }
    for response in validations {
        assert_eq!(response.unwrap().status(), StatusCode::UNPROCESSABLE_ENTITY);
    }
    assert!(peak - before < MAX_GROWTH_MB, "{peak} MB, {before} MB before");
}
