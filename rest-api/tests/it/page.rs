//! The page at `/`: how it is served, and how a real browser uses it (`page/browser.mjs`).

use reqwest::StatusCode;
use rest_api::{
    accounts::Role,
    config::{Config, MaxWithdraw},
    store::Mode,
};
use serde_json::json;

use crate::support::{
    BUCKET, Service,
    browser::run,
    movies::{movie, ndjson},
    proxy::{Proxy, Upstream},
    tmdb::{Standin, TmdbFilm},
    tokens::token,
};

const MOVIES: &str = include_str!("page/movies.json");

/// The largest size of what the first view loads, as it is sent.
const MAX_FIRST_VIEW: usize = 60_000;

/// Starts a service with the movies of the tests, and a user.
async fn service() -> Service {
    with_movies(Service::start().await).await
}

async fn with_movies(service: Service) -> Service {
    let posted = service.send(service.post("/movies", MOVIES)).await;
    assert_eq!(posted.status, StatusCode::CREATED, "{}", posted.text);
    service.add_user("ada", &["editor", "producer"], &[]).await;
    service
}

async fn uses(flow: &str) {
    let service = service().await;
    run(flow, &service.url(""), "", async |_| {}).await;
}

#[tokio::test]
async fn the_page_and_its_files_are_kept_and_may_do_nothing_else() {
    let service = Service::start_without_workers().await;
    let home = service.get("/").await;
    let policy = home.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"));
    assert!(policy.contains("require-trusted-types-for 'script'") && !policy.contains("unsafe"));
    assert_eq!(home.header("referrer-policy"), "no-referrer");
    assert_eq!(home.header("cross-origin-opener-policy"), "same-origin");
    assert_eq!(home.header("cache-control"), "public, no-cache");
    assert!(!home.text.contains("<style") && !home.text.contains(" style="));
    let attributes = home.text.split('"').skip(1).step_by(2);
    let mut files: Vec<&str> = attributes.filter(|value| value.starts_with("page/")).collect();
    files.dedup();
    assert!(files.len() > 5, "{files:?}");

    let mut size = home.text.len();
    for file in &files {
        let request = service.request(reqwest::Method::GET, &format!("/{file}"));
        let served = service.send(request.header("accept-encoding", "gzip")).await;
        assert_eq!(served.status, StatusCode::OK, "{file}");
        assert_eq!(served.header("content-encoding"), "gzip", "{file}");
        assert_eq!(served.header("cache-control"), "public, max-age=31536000, immutable");
        size += served.header("content-length").parse::<usize>().unwrap();
    }
    assert!(size < MAX_FIRST_VIEW, "the first view takes {size} bytes");
    let version = files[0].split('/').nth(1).unwrap();
    for missing in ["/page/another/app.js", &format!("/page/{version}/nothing.js"), "/page"] {
        let answer = service.get(missing).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{missing}");
        assert_eq!(answer.json()["code"], "not_found", "{missing}");
    }
}

#[tokio::test]
async fn clients_find_movies() {
    uses("find").await;
}

#[tokio::test]
async fn the_keyboard_is_enough() {
    uses("keyboard").await;
}

#[tokio::test]
async fn hostile_text_is_shown_as_text() {
    uses("hostile").await;
}

#[tokio::test]
async fn files_are_put_into_the_bucket_and_followed() {
    let service = Service::builder().config(|config| config.buckets = vec![BUCKET.to_owned()]);
    let mut service = with_movies(service.start().await).await;
    let (bucket, page) = (format!("http://{}", service.s3_address), service.url(""));
    let notify = async {
        loop {
            let notification = service.next_notification().await;
            service.notify(&notification).await;
        }
    };
    tokio::select! {
        () = run("upload", &page, &bucket, async |_| {}) => {}
        () = notify => {}
    }
}

#[tokio::test]
async fn producers_see_each_violation_at_its_line() {
    uses("files").await;
}

#[tokio::test]
async fn editors_edit_hold_and_delete_and_choose_in_a_conflict() {
    let service = service().await;
    let other = json!({ "token": token(&[Role::Editor]) }).to_string();
    run("edit", &service.url(""), &other, async |_| {}).await;
}

#[tokio::test]
async fn ingests_are_shown_with_what_they_did_and_undone() {
    let open = |config: &mut Config| config.public_ledger = true;
    let service = Service::builder().config(open).start().await;
    service.add_user("ada", &["editor"], &[]).await;
    let hostile = json!({ "title": "x", "year": 1999, "<svg onload=alert(1)>": true });
    service.ingest("bad/<img src=x>.json", hostile.to_string()).await;
    let good = json!({ "title": "From a file", "year": 1999 }).to_string();
    let good = service.ingest("good.json", good).await;
    let argument = json!({ "good": good["id"] }).to_string();
    run("ingests", &service.url(""), &argument, async |_| {}).await;
}

#[tokio::test]
async fn what_a_blocked_snapshot_would_withdraw_is_shown_and_approved() {
    let limit = |config: &mut Config| config.snapshots.max_withdraw = MaxWithdraw::Movies(1);
    let service = Service::builder().config(limit).start().await;
    service.enable_versioning().await;
    service.add_user("ada", &["editor"], &[]).await;
    let movies = ["A", "B", "C"].map(|title| movie(title, "x"));
    let all = service.put_version("k", Mode::Snapshot, ndjson(&movies)).await;
    assert_eq!(service.notify(&all).await["state"], "succeeded");
    let short = service.put_version("k", Mode::Snapshot, ndjson(&movies[..1])).await;
    let blocked = service.notify(&short).await["id"].to_string();
    run("blocked", &service.url(""), &blocked, async |_| {}).await;
}

#[tokio::test]
async fn details_of_tmdb_are_shown_with_their_notice() {
    let film = TmdbFilm::new(1, "The Maltese Falcon", 1941, &["Humphrey Bogart", "Mary Astor"]);
    let tmdb = Standin::start(vec![film]).await;
    let service = Service::builder().config(|config| tmdb.configure(config)).start().await;
    let falcon =
        json!({ "title": "The Maltese Falcon", "year": 1941, "cast": ["Humphrey Bogart"] });
    let posted = service.send(service.post("/movies", falcon.to_string())).await;
    assert_eq!(posted.status, StatusCode::CREATED, "{}", posted.text);
    run("details", &service.url(""), "", async |_| {}).await;
}

#[tokio::test]
async fn every_view_is_accessible_in_every_width_and_scheme() {
    let service = service().await;
    service.ingest("some/file.json", r#"{"title": "", "year": 1}"#).await;
    run("accessible", &service.url(""), "", async |_| {}).await;
}

#[tokio::test]
async fn a_service_that_is_stopped_and_comes_back_is_noticed() {
    let mut running = Some(service().await);
    let mut proxy = Proxy::to(Upstream::Tcp(running.as_ref().unwrap().address)).await;
    let address = format!("http://{}", proxy.address);
    run("outage", &address, "", async |step| {
        let mut service = running.take().unwrap();
        if step == "stop" {
            service.stop().await;
            proxy.reset();
            proxy.refuse().await;
        } else {
            service = service.successor().start().await;
            proxy.lead_to(Upstream::Tcp(service.address));
            proxy.accept().await;
        }
        running = Some(service);
    })
    .await;
}

/// The document of the page stays small, whatever the length of the list.
#[tokio::test]
async fn two_hundred_thousand_movies_fit_into_the_list() {
    let service = service().await;
    let sql = service.sql().await;
    let copies = "insert into movies (identity, title_lc, year, cast_lc, genres_lc, content_hash, doc) \
        select gen_random_uuid(), title_lc, year, cast_lc, genres_lc, content_hash + n, doc \
        from movies, generate_series(1, 24999) n";
    sql.execute(copies, &[]).await.unwrap();
    run("long", &service.url(""), "200000", async |_| {}).await;
}
