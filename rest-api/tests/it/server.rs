//! The server: connections, slow readers, the listener for probes, ids and headers of responses.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    Response, Service, TOKEN, eventually, free_address,
    movies::{insert_large, numbered_movies},
    notification,
    process::Process,
};

const PAGE_REQUEST: &str = "GET /movies HTTP/1.1\r\nhost: x\r\n\r\n";

/// Whether the server closes a connection within `limit`.
async fn is_closed_within(limit: Duration, connection: &mut TcpStream) -> bool {
    timeout(limit, connection.read_to_end(&mut Vec::new())).await.is_ok()
}

/// Returns a request that stays in flight for half a minute without workers.
fn busy_request() -> String {
    let body = notification::bare("k").to_string();
    format!(
        "POST /notify HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\
         content-type: application/json\r\nprefer: wait=30\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn a_new_connection_replaces_the_one_that_has_been_idle_for_longest() {
    let service = Service::builder().config(|config| config.server.connections = 8).start().await;
    let mut idle = Vec::new();
    for request in ["GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", "", "GET /hea", ""].repeat(2) {
        idle.push(service.connect_and_send(request).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let started = Instant::now();
    assert_eq!(service.get("/healthz").await.status, StatusCode::OK);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    // The first connection was idle for longest: its request was before the other connections.
    assert!(is_closed_within(Duration::from_secs(1), &mut idle[0]).await);
    for connection in &mut idle[1..] {
        assert!(!is_closed_within(Duration::from_millis(50), connection).await);
    }
}

#[tokio::test]
async fn a_connection_in_use_is_not_replaced_and_probes_are_served_meanwhile() {
    let probes = free_address();
    let service = Service::builder()
        .config(|config| {
            config.workers = 0;
            config.server.connections = 4;
            config.probe_listen = Some(probes);
        })
        .start()
        .await;
    let mut busy = Vec::new();
    for _ in 0..4 {
        busy.push(service.connect_and_send(busy_request()).await);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let waiting = http.get(service.url("/healthz")).timeout(Duration::from_secs(1)).send().await;
    assert!(waiting.is_err(), "served beyond the limit: {waiting:?}");

    let probe = async |path: &str| {
        let url = format!("http://{probes}{path}");
        http.get(url).timeout(Duration::from_secs(5)).send().await.unwrap().status()
    };
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(probe(path).await, StatusCode::OK, "{path}");
    }
    for path in ["/", "/movies", "/ingests", "/notify"] {
        assert_eq!(probe(path).await, StatusCode::NOT_FOUND, "{path}");
    }

    for connection in &mut busy {
        assert!(!is_closed_within(Duration::from_millis(50), connection).await);
    }
    busy.pop();
    assert_eq!(service.get("/healthz").await.status, StatusCode::OK);
}

/// Returns the head of an upload of so many bytes.
fn upload_head(length: usize) -> String {
    format!("POST /validate HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n")
}

#[tokio::test]
async fn a_request_that_has_arrived_keeps_its_connection() {
    let service = Service::builder().config(|config| config.server.connections = 2).start().await;
    let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut closed = 0;
    for round in 0..30 {
        let mut first = service.connect_and_send("").await;
        let _second = service.connect_and_send("").await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        // The service, which shares this thread, learns of both at once, of the new connection first.
        let _third = std::net::TcpStream::connect(service.address).unwrap();
        assert_eq!(first.try_write(request).unwrap(), request.len());
        let mut status = [0; 12];
        let read = timeout(Duration::from_secs(5), first.read_exact(&mut status)).await.unwrap();
        match read {
            // On a busy machine the test may be interrupted before it has sent the request.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => closed += 1,
            _ => assert!(read.is_ok() && &status == b"HTTP/1.1 200", "round {round}: {read:?}"),
        }
    }
    assert!(closed <= 3, "{closed} of 30 connections were closed");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let service = Service::start().await;
    let fields = |count: usize, size: usize| {
        let field = |n| format!("x-{n}: {}\r\n", "x".repeat(size));
        let fields: String = (0..count).map(field).collect();
        format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{fields}\r\n")
    };
    for (head, status) in
        [(fields(99, 100), b"200"), (fields(1, 17 << 10), b"431"), (fields(100, 1), b"431")]
    {
        let mut client = service.connect_and_send(head).await;
        let mut response = [0; 12];
        client.read_exact(&mut response).await.unwrap();
        assert_eq!(&response[9..], status);
    }
}

#[tokio::test]
async fn uploads_that_stall_are_replaced() {
    let service = Service::builder().config(|config| config.server.connections = 8).start().await;
    let head = upload_head(1 << 20);
    let mut stalled = Vec::new();
    for _ in 0..12 {
        let upload = timeout(Duration::from_secs(1), service.connect_and_send(format!("{head} ")));
        stalled.push(upload.await.unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let get = service.request(Method::GET, "/healthz").timeout(Duration::from_secs(3)).send();
    assert_eq!(get.await.unwrap().status(), StatusCode::OK);
    // Those that progressed last are still there.
    assert!(is_closed_within(Duration::from_secs(1), &mut stalled[0]).await);
    assert!(!is_closed_within(Duration::from_millis(50), &mut stalled[11]).await);
}

#[tokio::test]
async fn an_upload_that_progresses_is_not_replaced() {
    let service = Service::builder().config(|config| config.server.connections = 4).start().await;
    let body = json!(numbered_movies("A", 0..20_000, "x")).to_string();
    let mut upload = service.connect_and_send(upload_head(body.len())).await;
    let _stalled = service.connect_and_send(format!("{} ", upload_head(1 << 20))).await;
    let mut idle = Vec::new();
    for chunk in body.as_bytes().chunks(32 << 10) {
        upload.write_all(chunk).await.unwrap();
        for _ in 0..4 {
            idle.push(service.connect_and_send("").await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert!(idle.len() > 100);
    let mut status = [0; 12];
    timeout(Duration::from_secs(10), upload.read_exact(&mut status)).await.unwrap().unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
}

/// Starts the service with a limit of file descriptors: an option of the shell's `ulimit`. Returns it
/// with the addresses of its two listeners.
async fn serve_with_descriptors(around: &Service, limit: &str) -> (Process, [SocketAddr; 2]) {
    let addresses = [free_address(), free_address()];
    let process = Process::serve_with_descriptors(around, limit, |environment| {
        environment.insert("MRU_LISTEN", addresses[0].to_string());
        environment.insert("MRU_PROBE_LISTEN", addresses[1].to_string());
    });
    eventually(async || is_healthy(addresses[0]).await && is_healthy(addresses[1]).await).await;
    (process, addresses)
}

async fn is_healthy(address: SocketAddr) -> bool {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(3));
    let response = http.build().unwrap().get(format!("http://{address}/healthz")).send().await;
    response.is_ok_and(|response| response.status() == StatusCode::OK)
}

async fn connect_often(address: SocketAddr) -> Vec<TcpStream> {
    let mut connections = Vec::new();
    for _ in 0..200 {
        connections.push(TcpStream::connect(address).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    connections
}

#[tokio::test]
async fn the_soft_limit_of_file_descriptors_is_raised() {
    let around = Service::start_without_workers().await;
    let (_process, addresses) = serve_with_descriptors(&around, "-S -n 100").await;
    let mut idle = connect_often(addresses[0]).await;
    assert!(is_healthy(addresses[0]).await && is_healthy(addresses[1]).await);
    for connection in &mut idle {
        assert!(!is_closed_within(Duration::from_millis(5), connection).await);
    }
}

#[tokio::test]
async fn without_file_descriptors_the_longest_idle_connection_makes_place() {
    let around = Service::start_without_workers().await;
    let (process, addresses) = serve_with_descriptors(&around, "-n 100").await;
    let _idle = connect_often(addresses[0]).await;
    for address in [addresses[1], addresses[0], addresses[1]] {
        assert!(is_healthy(address).await, "{address} of {addresses:?}");
    }
    let log = process.terminate().await;
    // One of each listener at most.
    let warnings = log.iter().filter(|line| line["level"] == "WARN").count();
    assert!((1..=2).contains(&warnings), "{log:?}");
}

#[tokio::test]
async fn a_client_that_reads_too_slowly_is_disconnected_at_the_deadline() {
    let deadline = Duration::from_secs(3);
    let service = Service::builder()
        .config(|config| config.server.response_deadline = deadline)
        .start()
        .await;
    // More than the buffers of the sockets hold.
    let size = 32 << 20;
    insert_large(&service, 1, size).await;
    let mut client = service.connect_and_send(PAGE_REQUEST).await;
    let started = Instant::now();
    let (mut received, mut buffer) = (0, vec![0; 4 << 10]);
    // Some 200 KB a second, so that the write timeout does not apply. The response begins later than
    // this, by the time of the query.
    while started.elapsed() < deadline * 2 {
        received += client.read(&mut buffer).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut rest = Vec::new();
    let _ = timeout(Duration::from_secs(10), client.read_to_end(&mut rest)).await.unwrap();
    received += rest.len();
    assert!((1..size).contains(&received), "{received} bytes");
    // Meanwhile a client that reads gets all of it.
    assert!(service.get("/movies").await.text.len() > size);
}

#[tokio::test]
async fn a_response_that_finds_no_memory_becomes_503() {
    let service = Service::builder()
        .config(|config| {
            config.server.response_bytes = 1 << 20;
            config.server.waiting_response_bytes = 1 << 20;
        })
        .start()
        .await;
    insert_large(&service, 1, 16 << 20).await;
    let unread = service.connect_and_send(PAGE_REQUEST).await;
    tokio::time::sleep(Duration::from_secs(1)).await;

    let started = Instant::now();
    let refused = service.get("/movies").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{} bytes", refused.text.len());
    assert_eq!(refused.json()["code"], "unavailable");
    assert_eq!(refused.header("retry-after"), "5");
    assert!((1..4).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    // Small responses need no memory.
    assert_eq!(service.get("/healthz").await.status, StatusCode::OK);

    drop(unread);
    eventually(async || service.get("/movies").await.status == StatusCode::OK).await;
    let metrics = service.get("/metrics").await.text;
    let refusals = r#"mru_http_requests_total{route="/movies",method="GET",status="5xx"}"#;
    assert!(metrics.contains(refusals), "{metrics}");
}

#[tokio::test]
async fn ids_paths_and_queries_are_short_in_the_log_and_in_responses() {
    let service = Service::start_without_workers().await;
    let address = free_address();
    let process = Process::serve_logging(&service, |environment| {
        environment.insert("MRU_LISTEN", address.to_string());
    });
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = async |path: &str, id: &str| {
        let request = http.get(format!("http://{address}{path}")).header("x-request-id", id);
        let response = request.send().await.unwrap();
        response.headers()["x-request-id"].to_str().unwrap().to_owned()
    };
    eventually(async || http.get(format!("http://{address}/healthz")).send().await.is_ok()).await;
    let longest = "i".repeat(128);
    assert_eq!(get("/healthz", &longest).await, longest);
    for invalid in ["i".repeat(129), "i".repeat(12_000), "two words".to_owned(), String::new()] {
        let id = get("/healthz", &invalid).await;
        assert_eq!(id.len(), 36, "{id}");
    }
    let path = format!("/{}?{}", "p".repeat(6_000), "q".repeat(6_000));
    get(&path, "long-path").await;
    // Raw bytes, which reqwest would encode or refuse.
    for (id, line) in
        [("raw", "GET /a\u{202e}b"), ("long-method", &format!("{} /", "M".repeat(12_000)))]
    {
        let request = format!(
            "{line} HTTP/1.1\r\nhost: x\r\nx-request-id: {id}\r\nconnection: close\r\n\r\n"
        );
        let mut raw = TcpStream::connect(address).await.unwrap();
        raw.write_all(request.as_bytes()).await.unwrap();
        raw.read_to_end(&mut Vec::new()).await.unwrap();
    }

    let log = process.terminate().await;
    let span = |id: &str| {
        let line = log.iter().find(|line| line["span"]["id"] == id);
        line.unwrap_or_else(|| panic!("{id}: {log:?}"))["span"].clone()
    };
    let long = span("long-path");
    for (name, first) in [("path", '/'), ("query", 'q')] {
        let value = long[name].as_str().unwrap();
        assert_eq!(value.chars().count(), 512, "{value}");
        assert!(value.starts_with(first) && value.ends_with('…'), "{value}");
    }
    assert_eq!(span("raw")["path"], r"/a\u{202e}b");
    assert_eq!(span("long-method")["method"].as_str().unwrap().chars().count(), 512);

    let unknown = service.get(&format!("/movies?{}=1", "n".repeat(12_000))).await;
    assert!(unknown.text.len() < 1000, "{}", unknown.text);
}

#[tokio::test]
async fn every_response_says_that_it_is_not_to_be_sniffed_or_framed() {
    let service = Service::start().await;
    let assert_headers = |response: &Response| {
        assert_eq!(response.header("x-content-type-options"), "nosniff");
        let policy = response.header("content-security-policy");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        // The load balancer adds it on the public host.
        assert_eq!(response.header("strict-transport-security"), "");
    };
    for path in ["/", "/movies", "/healthz", "/metrics", "/schema/movies.json", "/nothing"] {
        assert_headers(&service.get(path).await);
    }
    assert_headers(&service.send(service.request(Method::DELETE, "/movies")).await);
    assert_headers(&service.send(service.request(Method::POST, "/notify")).await);
    let invalid = json!({ "title": "" }).to_string();
    assert_headers(&service.send(service.post("/movies", invalid)).await);
    let home = service.get("/").await;
    assert!(home.header("content-security-policy").starts_with("default-src 'none'"));
}
