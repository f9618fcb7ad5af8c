//! `GET /movies` as NDJSON: the whole result.

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::{
    Response, Service, eventually,
    movies::{insert_large, movie, numbered_movies},
};

const NDJSON: &str = "application/x-ndjson";

async fn export(service: &Service, query: &str) -> Response {
    let request = service.request(Method::GET, &format!("/movies?{query}"));
    service.send(request.header("accept", NDJSON)).await
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn an_export_has_all_movies_that_match_in_their_order() {
    let service = Service::start().await;
    let movies = numbered_movies("Movie", 0..3_000, "Drama");
    service.ingest("k", json!(movies).to_string()).await;
    for query in ["", "title=movie+2", "sort=-title", "sort=year&genre=drama", "title=none"] {
        let exported = export(&service, query).await;
        assert_eq!(exported.status, StatusCode::OK, "{query}: {}", exported.text);
        assert_eq!(exported.header("content-type"), NDJSON);
        assert_eq!(exported.header("etag"), "");
        let pages = service.movies(&format!("{query}&limit=1000")).await;
        assert!(lines(&exported.text) == pages, "{query}");
    }
    let lean = export(&service, "fields=title&title=movie+299").await;
    assert_eq!(lines(&lean.text)[0], json!({ "id": 300, "title": "Movie 299" }));
    for refused in ["limit=10", "after=x"] {
        let refused = export(&service, refused).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.text);
    }
}

#[tokio::test]
async fn the_client_chooses_the_media_type() {
    let service = Service::start().await;
    service.ingest("k", json!([movie("A", "x")]).to_string()).await;
    for (accept, is_ndjson) in [
        ("*/*", false),
        ("application/json", false),
        ("application/x-ndjson, application/json;q=0.5", true),
        ("application/x-ndjson;q=0.1, application/json", false),
        ("application/x-ndjson;q=0", false),
        ("text/html, Application/X-NDJSON", true),
    ] {
        let request = service.request(Method::GET, "/movies").header("accept", accept);
        let response = service.send(request).await;
        assert_eq!(response.header("content-type") == NDJSON, is_ndjson, "{accept}");
        assert!(response.header("vary").split(", ").any(|name| name == "accept"), "{accept}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_is_of_one_state_of_the_catalogue() {
    for path in ["/movies", "/movies?q=large"] {
        let service = Service::start().await;
        // More than the buffers of the connections hold.
        insert_large(&service, 300, 100_000).await;
        let request = service.request(Method::GET, path).header("accept", NDJSON);
        let mut body = request.send().await.unwrap().bytes_stream();
        let mut text = body.next().await.unwrap().unwrap().to_vec();
        let changed = numbered_movies("Large", 0..300, "Changed");
        service.ingest("k", json!(changed).to_string()).await;
        while let Some(chunk) = body.next().await {
            text.extend(chunk.unwrap());
        }
        let movies = lines(&String::from_utf8(text).unwrap());
        assert_eq!(movies.len(), 300, "{path}");
        assert!(movies.iter().all(|movie| movie["genres"] == json!(["Drama"])), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_or_reads_nothing_holds_no_statement() {
    let service = Service::start().await;
    insert_large(&service, 300, 100_000).await;
    let sql = service.sql().await;
    let count = async |condition: &str| -> i64 {
        let count = format!(
            "select count(*) from pg_stat_activity
            where datname = current_database() and {condition} and pid <> pg_backend_pid()"
        );
        sql.query_one(&count, &[]).await.unwrap().get(0)
    };
    for (path, statement) in
        [("/movies", "export::export_query"), ("/movies?q=large", "query::new")]
    {
        let running = format!("state = 'active' and query like '%{statement}%'");
        let has_ended = async || {
            let open = "xact_start is not null and backend_type = 'client backend'";
            count(&running).await == 0 && count(open).await == 0
        };
        let request = service.request(Method::GET, path).header("accept", NDJSON);
        let mut body = request.send().await.unwrap().bytes_stream();
        body.next().await.unwrap().unwrap();
        assert_eq!(count(&running).await, 1, "{path}");
        drop(body);
        eventually(has_ended).await;

        // One that reads nothing: the connection ends.
        let head =
            format!("GET {path} HTTP/1.1\r\nhost: {}\r\naccept: {NDJSON}\r\n\r\n", service.address);
        let silent = service.connect_and_send(head).await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(count(&running).await, 1, "{path}");
        eventually(has_ended).await;
        drop(silent);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exports_are_bounded_and_others_go_on() {
    let service = Service::start().await;
    insert_large(&service, 300, 100_000).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        let request = service.request(Method::GET, "/movies").header("accept", NDJSON);
        open.push(request.send().await.unwrap());
    }
    let refused = export(&service, "").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{}", refused.text);
    assert_eq!(service.get("/movies?limit=1").await.status, StatusCode::OK);
}
