//! The HTTP API: errors, limits, timeouts, authorisation, shutdown.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    BUCKET, Response, Service, TOKEN, eventually,
    files::chunked,
    movies::{MOVIE, insert_large, movie},
    notification,
};

fn assert_problem(response: &Response, status: StatusCode, code: &str) {
    assert_eq!(response.status, status, "{}", response.text);
    assert_eq!(response.header("content-type"), "application/problem+json");
    let problem = response.json();
    assert_eq!(problem["code"], code, "{problem}");
    assert_eq!(problem["status"], status.as_u16());
    assert!(!response.header("x-request-id").is_empty());
}

#[tokio::test]
async fn an_invalid_parameter_is_named() {
    let service = Service::start().await;
    for (path, named) in [
        ("/movies?titel=x", "titel"),
        ("/movies?year=MCM", "year"),
        ("/movies?year=1999.5", "year"),
        ("/movies?limit=0", "limit"),
        ("/movies?limit=1001", "limit"),
        ("/movies?limit=x", "limit"),
        ("/movies?sort=cast", "sort"),
        ("/movies?after=x", "after"),
        ("/movies?sort=title&after=eWVhcjo4Mg", "after"),
        ("/movies?title=%ff", "title"),
        (&format!("/movies?title={}", "%C3%A9".repeat(257)), "title"),
        (&format!("/movies?actor={}", "a".repeat(257)), "actor"),
        (&format!("/movies?genre={}", "a".repeat(257)), "genre"),
        ("/movies?title=a&title=night&actor=a.b&actor=%25", "actor"),
        ("/movies?title=ab&title=%E6%97%A5&title=x", "title"),
        ("/movies?offset=10", "offset"),
        ("/ingests?state=lost", "state"),
        ("/ingests?after=eWVhcjo4Mg", "after"),
        ("/ingests?key=%00", "key"),
        ("/ingests/1?x=1", "x"),
        ("/healthz?x=1", "x"),
    ] {
        let response = service.get(path).await;
        assert_problem(&response, StatusCode::BAD_REQUEST, "invalid_parameter");
        let detail = response.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(&format!("\"{named}\"")), "{path}: {detail}");
    }
    for path in [
        format!("/movies?title={}", "%C3%A9".repeat(256)),
        "/movies?title=a&actor=b&title=night&actor=1er".to_owned(),
    ] {
        assert_eq!(service.get(&path).await.status, StatusCode::OK, "{path}");
    }
    let unindexed = service.get("/movies?title=a&title=b&actor=c").await.json();
    let detail = unindexed["detail"].as_str().unwrap();
    assert!(
        detail.contains("at most 2 filters of title and actor may lack three letters"),
        "{detail}"
    );
    let many = format!("/movies?{}", "title=x&".repeat(33));
    assert_problem(&service.get(&many).await, StatusCode::BAD_REQUEST, "invalid_parameter");
}

#[tokio::test]
async fn unknown_paths_get_404_and_unknown_methods_get_405_with_allow() {
    let service = Service::start().await;
    for path in
        ["/nothing", "/movies/1", "/movies/x", "/ingests/1", "/ingests/-", "/movies/1/cast", "//"]
    {
        assert_problem(&service.get(path).await, StatusCode::NOT_FOUND, "not_found");
    }
    for (path, allow) in [
        ("/", "GET, HEAD"),
        ("/movies", "GET, HEAD, POST"),
        ("/ingests", "GET, HEAD"),
        ("/ingests/1", "GET, HEAD"),
        ("/notify", "POST"),
        ("/validate", "POST"),
        ("/schema/movies.json", "GET, HEAD"),
        ("/healthz", "GET, HEAD"),
        ("/readyz", "GET, HEAD"),
    ] {
        let response = service.send(service.request(Method::DELETE, path)).await;
        assert_problem(&response, StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed");
        assert_eq!(response.header("allow"), allow, "{path}");
    }
    assert_eq!(service.get("/notify").await.header("allow"), "POST");
    let response = service.send(service.post("/movies/1", "{}")).await;
    assert_eq!(response.header("allow"), "GET, HEAD, PUT, PATCH, DELETE");
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let service = Service::start().await;
    for path in ["/", "/movies", "/healthz", "/schema/movies.json"] {
        let get = service.get(path).await;
        let head = service.send(service.request(Method::HEAD, path)).await;
        assert_eq!(head.status, StatusCode::OK);
        assert_eq!(head.header("content-length"), get.text.len().to_string(), "{path}");
        assert_eq!(head.text, "");
    }
}

#[tokio::test]
async fn the_home_page_links_to_every_page_and_the_schema_is_served() {
    let service = Service::start().await;
    let home = service.get("/").await;
    assert!(home.header("content-type").starts_with("text/html"));
    // Without JavaScript.
    for path in ["/movies", "/ingests", "/schema/movies.json", "/healthz", "/readyz"] {
        assert!(home.text.contains(&format!("href=\"{path}\"")), "{path}");
        assert_eq!(service.get(path).await.status, StatusCode::OK, "{path}");
    }
    let schema = service.get("/schema/movies.json").await;
    assert_eq!(schema.text, schema::SCHEMA);
    assert_eq!(service.get("/readyz").await.json()["status"], "ready");
}

#[tokio::test]
async fn writes_without_the_token_get_401() {
    let service = Service::start().await;
    let body = notification::bare("k").to_string();
    for path in ["/notify", "/movies"] {
        let request = || service.request(Method::POST, path).body(body.clone());
        for (request, is_wrong) in [
            (request(), false),
            (request().bearer_auth("wrong"), true),
            (request().bearer_auth(""), true),
            (request().basic_auth("user", Some(TOKEN)), false),
            (request().header("authorization", TOKEN), false),
        ] {
            let response = service.send(request.header("content-type", "application/json")).await;
            assert_problem(&response, StatusCode::UNAUTHORIZED, "unauthorized");
            let challenge = response.header("www-authenticate");
            assert!(challenge.starts_with("Bearer realm=\"movies-r-us\""), "{challenge}");
            assert_eq!(challenge.contains("error=\"invalid_token\""), is_wrong, "{challenge}");
        }
    }
    assert_eq!(service.get("/ingests").await.json(), json!([]));
}

#[tokio::test]
async fn an_invalid_notification_is_refused_with_a_reason() {
    let service = Service::start().await;
    for (body, status, code) in [
        ("", StatusCode::BAD_REQUEST, "malformed_json"),
        ("{", StatusCode::BAD_REQUEST, "malformed_json"),
        ("bucket=b&key=k", StatusCode::BAD_REQUEST, "malformed_json"),
        ("[]", StatusCode::UNPROCESSABLE_ENTITY, "violations"),
        ("{}", StatusCode::UNPROCESSABLE_ENTITY, "violations"),
        (r#"{"bucket":"b"}"#, StatusCode::UNPROCESSABLE_ENTITY, "violations"),
        (r#"{"bucket":"b","key":""}"#, StatusCode::UNPROCESSABLE_ENTITY, "violations"),
        (r#"{"bucket":"b","key":7}"#, StatusCode::UNPROCESSABLE_ENTITY, "violations"),
        (r#"{"bucket":"b","key":"k\u0000"}"#, StatusCode::UNPROCESSABLE_ENTITY, "violations"),
        (
            r#"{"bucket":"b","key":"k","event_time":"now"}"#,
            StatusCode::UNPROCESSABLE_ENTITY,
            "violations",
        ),
        (r#"{"bucket":"b","key":"k","keys":"k"}"#, StatusCode::UNPROCESSABLE_ENTITY, "violations"),
        (
            r#"{"bucket":"b","bucket":"c","key":"k"}"#,
            StatusCode::UNPROCESSABLE_ENTITY,
            "violations",
        ),
    ] {
        let response = service.send(service.post("/notify", body)).await;
        assert_problem(&response, status, code);
    }
    let wrong_type = service.request(Method::POST, "/notify").bearer_auth(TOKEN);
    let wrong_type = wrong_type.header("content-type", "text/plain").body("{}");
    let response = service.send(wrong_type).await;
    assert_problem(&response, StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type");
    assert_eq!(
        service.get("/ingests").await.json(),
        json!([]),
        "an invalid notification was recorded"
    );
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_with_and_without_a_content_length() {
    let service = Service::start().await;
    let large = vec![b' '; 9 << 20];
    let response = service.send(service.post("/movies", large.clone())).await;
    assert_problem(&response, StatusCode::PAYLOAD_TOO_LARGE, "body_too_large");
    for path in ["/movies", "/notify"] {
        let response = service.send(service.post(path, chunked(&large))).await;
        assert_problem(&response, StatusCode::PAYLOAD_TOO_LARGE, "body_too_large");
    }
}

#[tokio::test]
async fn posted_movies_are_merged_into_the_catalogue() {
    let service = Service::start().await;
    let post = async |body: Value| service.send(service.post("/movies", body.to_string())).await;
    let heat = json!({ "title": "Heat", "year": 1995 });
    let ronin = json!({ "title": "Ronin", "year": 1998, "cast": ["Robert De Niro"] });
    let response = post(heat.clone()).await;
    assert_eq!(response.status, StatusCode::CREATED, "{}", response.text);
    assert_eq!(response.json(), json!({ "inserted": 1, "updated": 0, "unchanged": 0 }));
    let response = post(json!([heat, ronin])).await;
    assert_eq!(response.json(), json!({ "inserted": 1, "updated": 0, "unchanged": 1 }));
    assert_eq!(post(json!([])).await.status, StatusCode::CREATED);

    let response = post(json!([heat, { "title": "", "yaer": 1 }])).await;
    assert_problem(&response, StatusCode::UNPROCESSABLE_ENTITY, "violations");
    let problem = response.json();
    assert_eq!(problem["violation_count"], 3);
    assert_eq!(problem["violations"][0]["record"], 1);

    let found = service.movies("actor=de+niro").await;
    let id = &found[0]["id"];
    let mut one = service.get(&format!("/movies/{id}")).await.json();
    assert!(one.as_object_mut().unwrap().remove("provenance").unwrap().is_object());
    assert_eq!(one.as_object_mut().unwrap().remove("held").unwrap(), false);
    assert_eq!(one, found[0]);

    // A posted movie is newer than a file that was put before, and older than one put later.
    let old = json!({ "bucket": BUCKET, "key": "old", "event_time": "2020-01-01T00:00:00Z", "sequencer": "1" });
    service
        .put("old", json!({ "title": "Heat", "year": 1995, "genres": ["Old"] }).to_string())
        .await;
    assert_eq!(service.notify(&old).await["unchanged"], 1);
    assert_eq!(service.movies("genre=old").await.len(), 0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let new = json!({ "title": "Heat", "year": 1995, "genres": ["New"] });
    assert_eq!(service.ingest("new", new.to_string()).await["updated"], 1);
}

#[tokio::test]
async fn a_notification_waits_as_long_as_prefer_says() {
    let service = Service::start_without_workers().await;
    let body = notification::bare("k").to_string();
    let started = Instant::now();
    let response =
        service.send(service.post("/notify", body.clone()).header("prefer", "wait=1")).await;
    assert_eq!(response.status, StatusCode::ACCEPTED);
    assert_eq!(response.header("preference-applied"), "wait=1");
    assert!((1..10).contains(&started.elapsed().as_secs()));
    for ignored in ["wait=soon", "return=minimal"] {
        let response =
            service.send(service.post("/notify", body.clone()).header("prefer", ignored)).await;
        assert_eq!(response.status, StatusCode::ACCEPTED);
    }
}

#[tokio::test]
async fn the_list_of_ingests_starts_with_the_newest_and_can_be_filtered() {
    let service = Service::start().await;
    for key in ["a", "b", "c"] {
        service.ingest(key, MOVIE).await;
    }
    service.ingest("d", "?").await;
    let keys = async |path: &str| -> Vec<String> {
        let list = service.get(path).await.json();
        list.as_array()
            .unwrap()
            .iter()
            .map(|ingest| ingest["key"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(keys("/ingests").await, ["d", "c", "b", "a"]);
    assert_eq!(keys("/ingests?state=rejected").await, ["d"]);
    assert_eq!(keys("/ingests?key=b").await, ["b"]);
    assert_eq!(keys("/ingests?bucket=other").await, [""; 0]);
    let first = service.get("/ingests?limit=3").await;
    let next = first.header("link").split_once('>').unwrap().0.trim_start_matches('<').to_owned();
    assert_eq!(keys(&next).await, ["a"]);
}

#[tokio::test]
async fn a_connection_with_an_incomplete_request_is_closed() {
    let service = Service::start().await;
    let head = format!(
        "POST /notify HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 99\r\n\r\n{{"
    );
    let mut waiting = Vec::new();
    for half in ["GET /movies HTT", "GET /movies HTTP/1.1\r\nhost:", "", &head] {
        waiting.push((half.to_owned(), service.connect_and_send(half).await));
    }
    let started = Instant::now();
    for (half, mut client) in waiting {
        let mut response = Vec::new();
        let closed = timeout(Duration::from_secs(15), client.read_to_end(&mut response)).await;
        assert!(closed.is_ok(), "still open after 15 s: {half:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
async fn an_idle_connection_stays_open_longer_than_a_load_balancer_keeps_it() {
    let service = Service::start().await;
    let mut client = TcpStream::connect(service.address).await.unwrap();
    let mut response = vec![0; 64 << 10];
    for idle_seconds in [0, 62] {
        tokio::time::sleep(Duration::from_secs(idle_seconds)).await;
        client.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let length = client.read(&mut response).await.unwrap();
        assert!(response[..length].starts_with(b"HTTP/1.1 200"), "after {idle_seconds} s");
    }
}

#[tokio::test]
async fn a_connection_whose_client_does_not_read_is_closed() {
    let service = Service::start().await;
    insert_large(&service, 1, 16 << 20).await;
    let mut client = service.connect_and_send("GET /movies HTTP/1.1\r\nhost: x\r\n\r\n").await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    // The socket buffers have the beginning of the response; the service has dropped the rest.
    let mut received = Vec::new();
    let ended = timeout(Duration::from_secs(5), client.read_to_end(&mut received)).await;
    assert!(ended.is_ok(), "still open after {} bytes", received.len());
    assert!(received.len() < 16_000_000, "{} bytes", received.len());
}

#[tokio::test]
async fn the_service_stops_although_clients_neither_send_nor_read() {
    let mut service = Service::start().await;
    let movies: Vec<Value> = (0..1000)
        .map(|n| json!({ "title": format!("{n}"), "year": 2000, "extract": "x".repeat(5000) }))
        .collect();
    service.ingest("k", json!(movies).to_string()).await;
    let mut stuck = Vec::new();
    for request in [
        "",
        "GET /movies HTTP/1.1\r\nhost:",
        "POST /movies HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n",
        // Requests five megabytes and never reads them.
        "GET /movies?limit=1000 HTTP/1.1\r\nhost: x\r\n\r\n",
    ] {
        stuck.push(service.connect_and_send(request).await);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let took = service.stop().await;
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert!(TcpStream::connect(service.address).await.is_err());
}

#[tokio::test]
async fn requests_in_flight_get_a_response_before_the_service_stops() {
    let mut service = Service::start_without_workers().await;
    let body = notification::bare("k").to_string();
    let request = service.post("/notify", body).header("prefer", "wait=30");
    let waiting = tokio::spawn(async move { request.send().await.unwrap().status() });
    eventually(async || service.get("/ingests/1").await.status == StatusCode::OK).await;
    let took = service.stop().await;
    assert_eq!(waiting.await.unwrap(), StatusCode::ACCEPTED);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn the_service_is_not_ready_before_the_database_is_migrated() {
    let service = Service::start().await;
    let sql = service.sql().await;
    for statement in ["delete from refinery_schema_history", "drop table refinery_schema_history"] {
        sql.batch_execute(statement).await.unwrap();
        let response = service.get("/readyz").await;
        assert_problem(&response, StatusCode::SERVICE_UNAVAILABLE, "unavailable");
        assert!(!response.header("retry-after").is_empty());
    }
    assert_eq!(service.get("/healthz").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_link_is_ascii_whatever_the_client_has_sent() {
    let service = Service::start().await;
    let movies = json!([movie("Río 1", "x"), movie("Río 2", "x"), movie("Río 3", "x")]);
    service.send(service.post("/movies", movies.to_string())).await;
    let mut query = "title=Río&limit=1".to_owned();
    let mut found = 0;
    loop {
        // As it is, not percent-encoded.
        let request =
            format!("GET /movies?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let mut stream = service.connect_and_send(request).await;
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await.unwrap();
        let response = String::from_utf8(response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.is_ascii(), "{head}");
        found += body.matches("\"title\"").count();
        let Some(link) = head.lines().find_map(|line| line.strip_prefix("link: </movies?")) else {
            break;
        };
        query = link.split('>').next().unwrap().to_owned();
    }
    assert_eq!(found, 3);
}
