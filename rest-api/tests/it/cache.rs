//! Cached answers, entity tags, compression, and what pages of other origins may read.

use std::{io::Read, time::Duration};

use flate2::read::GzDecoder;
use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{
    Response, Service,
    movies::{movie, numbered_movies},
    postgres::postgres,
    proxy::{Proxy, Upstream},
};

/// Sends GET with further headers.
async fn get(service: &Service, path: &str, headers: &[(&str, &str)]) -> Response {
    let request = service.request(Method::GET, path);
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    service.send(request).await
}

/// Returns how many requests for cacheable answers had this result.
async fn count(service: &Service, result: &str) -> u64 {
    let metrics = service.get("/metrics").await.text;
    let series = format!("mru_cache_requests_total{{result=\"{result}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&series));
    line.unwrap().parse().unwrap()
}

async fn post(service: &Service, title: &str, genre: &str) {
    let posted = service.post("/movies", movie(title, genre).to_string());
    assert_eq!(service.send(posted).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_client_that_has_the_answer_gets_304_until_the_catalogue_changes() {
    let service = Service::start().await;
    post(&service, "A", "x").await;
    for path in ["/movies", "/movies?title=a&limit=1", "/genres", "/years", "/movies/1"] {
        let first = service.get(path).await;
        assert_eq!(first.status, StatusCode::OK, "{path}");
        let etag = first.header("etag").to_owned();
        assert!(etag.starts_with('"') && etag.len() > 10, "{path}: {etag}");
        assert_eq!(first.header("cache-control"), "public, no-cache", "{path}");
        assert!(first.header("vary").contains("accept-encoding"), "{path}");
        for sent in [etag.clone(), format!("\"other\", W/{etag}")] {
            let unchanged = get(&service, path, &[("if-none-match", &sent)]).await;
            assert_eq!(unchanged.status, StatusCode::NOT_MODIFIED, "{path}: {sent}");
            assert_eq!((unchanged.header("etag"), &*unchanged.text), (&*etag, ""), "{path}");
        }
        let head = service.send(service.request(Method::HEAD, path)).await;
        assert_eq!((head.status, head.header("etag")), (StatusCode::OK, &*etag), "{path}");

        post(&service, "A", path).await;
        let changed = get(&service, path, &[("if-none-match", &etag)]).await;
        assert_eq!(changed.status, StatusCode::OK, "{path}: {}", changed.text);
        assert_ne!(changed.header("etag"), etag, "{path}");
    }
    let missing = service.get("/movies/999").await;
    assert_eq!((missing.status, missing.header("etag")), (StatusCode::NOT_FOUND, ""));
}

#[tokio::test]
async fn equal_queries_share_an_answer_whatever_their_spelling() {
    let service = Service::start().await;
    let titles = ["Café", "Café 2"].map(|title| movie(title, "Drama"));
    service.ingest("k", json!(titles).to_string()).await;
    let queries = [
        "/movies?title=caf%C3%A9&genre=drama&limit=1",
        "/movies?limit=1&genre=DRAMA&title=CAFE%CC%81&year=",
        "/movies?genre=Drama&genre=drama&title=Caf%C3%A9&limit=1",
    ];
    for query in queries {
        let response = service.get(query).await;
        assert_eq!(response.json()[0]["title"], "Café");
        let link = response.header("link").to_owned();
        let own = query.split_once('?').unwrap().1;
        let own = own.split('&').find(|pair| pair.starts_with("title")).unwrap();
        assert!(link.contains(own), "the link has another client's spelling: {link}");
    }
    assert_eq!((count(&service, "miss").await, count(&service, "hit").await), (1, 2));
    // Other answers.
    for other in ["/movies?title=cafe&limit=1", "/movies?title=café&genre=drama&limit=2"] {
        service.get(other).await;
    }
    assert_eq!(count(&service, "miss").await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_equal_queries_at_once_cost_one_statement() {
    let service = Service::start().await;
    let movies = numbered_movies("Movie", 0..5_000, "Drama");
    service.ingest("k", json!(movies).to_string()).await;
    let all = join_all((0..60).map(|_| service.get("/movies?title=movie&sort=title&limit=1000")));
    let all = all.await;
    assert!(all.iter().all(|one| one.status == StatusCode::OK && one.text == all[0].text));
    assert_eq!((count(&service, "miss").await, count(&service, "hit").await), (1, 59));
}

#[tokio::test]
async fn a_large_answer_is_compressed_for_clients_that_accept_it() {
    let service = Service::start().await;
    let movies = numbered_movies("Movie", 0..500, "Drama");
    service.ingest("k", json!(movies).to_string()).await;
    let plain =
        get(&service, "/movies?limit=500", &[("accept-encoding", "br;q=1, gzip;q=0")]).await;
    assert_eq!(plain.header("content-encoding"), "");
    for _ in 0..2 {
        let request = service.request(Method::GET, "/movies?limit=500");
        let response = request.header("accept-encoding", "gzip").send().await.unwrap();
        assert_eq!(response.headers()["content-encoding"], "gzip");
        let etag = response.headers()["etag"].to_str().unwrap().to_owned();
        assert_ne!(etag, plain.header("etag"), "other bytes, other tag");
        let compressed = response.bytes().await.unwrap();
        assert!(compressed.len() < plain.text.len() / 4);
        let mut text = String::new();
        GzDecoder::new(&*compressed).read_to_string(&mut text).unwrap();
        assert!(text == plain.text);
        let headers = [("if-none-match", &*etag), ("accept-encoding", "gzip")];
        let unchanged = get(&service, "/movies?limit=500", &headers).await;
        assert_eq!(unchanged.status, StatusCode::NOT_MODIFIED);
    }
    let small = get(&service, "/movies?limit=1", &[("accept-encoding", "gzip")]).await;
    assert_eq!(small.header("content-encoding"), "");
}

#[tokio::test]
async fn cached_answers_need_no_database_for_a_while_and_never_for_longer() {
    let proxy = Proxy::to(Upstream::Postgres(postgres().await.socket_dir().to_owned())).await;
    let (host, port) = (proxy.address.ip().to_string(), proxy.address.port());
    let service = Service::builder()
        .config(|config| {
            config.database.host = host;
            config.database.port = port;
        })
        .start()
        .await;
    post(&service, "A", "x").await;
    let etag = service.get("/movies").await.header("etag").to_owned();
    proxy.freeze();
    let cached = service.get("/movies").await;
    let unchanged = get(&service, "/movies", &[("if-none-match", &etag)]).await;
    assert_eq!((cached.status, unchanged.status), (StatusCode::OK, StatusCode::NOT_MODIFIED));
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let old = service.get("/movies").await;
    assert_eq!(old.status, StatusCode::SERVICE_UNAVAILABLE, "{}", old.text);
    assert!(old.header("retry-after").parse::<u64>().is_ok());
    proxy.thaw();
}

#[tokio::test]
async fn a_cache_may_be_switched_off() {
    let service = Service::builder().config(|config| config.cache_bytes = 0).start().await;
    post(&service, "A", "x").await;
    for _ in 0..3 {
        let found = get(&service, "/movies", &[("accept-encoding", "gzip")]).await;
        assert_eq!(found.json()[0]["title"], "A");
    }
    assert_eq!(count(&service, "miss").await, 3);
}

#[tokio::test]
async fn pages_of_other_origins_may_read() {
    let service = Service::start().await;
    let read = get(&service, "/movies", &[("origin", "https://films.example")]).await;
    assert_eq!(read.header("access-control-allow-origin"), "*");
    assert!(read.header("access-control-expose-headers").contains("link"));
    let preflight = |method: &str| {
        let request = service.request(Method::OPTIONS, "/movies");
        let request = request.header("origin", "https://films.example");
        service.send(request.header("access-control-request-method", method))
    };
    let allowed = preflight("GET").await;
    assert_eq!(allowed.header("access-control-allow-methods"), "GET,HEAD");
    // Browsers refuse a response that names the origin twice.
    assert_eq!(allowed.headers.get_all("access-control-allow-origin").iter().count(), 1);

    let vary =
        read.headers.get_all("vary").iter().any(|value| value.to_str().unwrap().contains("origin"));
    assert!(!vary, "responses are the same for all origins");

    let listed = vec!["https://films.example".to_owned()];
    let change = |config: &mut rest_api::config::Config| {
        config.cors_origins = rest_api::config::CorsOrigins::Listed(listed);
    };
    let service = Service::builder().config(change).start().await;
    for (origin, allowed) in
        [("https://films.example", "https://films.example"), ("https://x.example", "")]
    {
        let read = get(&service, "/movies", &[("origin", origin)]).await;
        assert_eq!(read.header("access-control-allow-origin"), allowed, "{origin}");
        let vary: Vec<_> = read.headers.get_all("vary").iter().collect();
        let vary = format!("{vary:?}");
        assert!(vary.contains("origin") && vary.contains("accept-encoding"), "{origin}: {vary}");
    }
}
