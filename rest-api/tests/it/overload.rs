//! More queries than the database can serve.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::StatusCode;
use tokio::time::sleep;
use tokio_postgres::Client;

use crate::support::{Response, Service, eventually, movies::movie};

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// How many connections the pool of pages has.
fn connections() -> usize {
    cores() * 3 - 1
}

/// Sends `count` queries, each with a different limit, and returns their responses.
async fn query(service: &Service, filter: &str, count: usize) -> Vec<Response> {
    let paths: Vec<_> =
        (1..=count).map(|limit| format!("/movies?{filter}&limit={limit}")).collect();
    join_all(paths.iter().map(|path| service.get(path))).await
}

/// Returns how many queries of pages the database is running.
async fn running(sql: &Client) -> i64 {
    let count = "select count(*) from pg_stat_activity where datname = current_database() \
        and state = 'active' and query like '%page::begin_page%' and pid <> pg_backend_pid()";
    sql.query_one(count, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn queries_that_find_no_connection_are_refused_and_cheap_requests_are_served() {
    let service = Service::start().await;
    let posted = service.post("/movies", movie("Known", "x").to_string());
    assert_eq!(service.send(posted).await.status, StatusCode::CREATED);
    let known = service.get("/movies?title=known").await;
    assert_eq!(known.status, StatusCode::OK);

    let (lock, sql) = (service.sql().await, service.sql().await);
    lock.batch_execute("begin; lock table movies in access exclusive mode").await.unwrap();
    let count = connections() + 300;
    let others = async {
        eventually(async || running(&sql).await == connections() as i64).await;
        for path in ["/movies?title=known", "/healthz", "/readyz"] {
            let started = Instant::now();
            assert_eq!(service.get(path).await.status, StatusCode::OK, "{path}");
            assert!(started.elapsed() < Duration::from_secs(1), "{path}: {:?}", started.elapsed());
        }
        // Longer than a query waits.
        sleep(Duration::from_millis(1500)).await;
        lock.batch_execute("commit").await.unwrap();
    };
    let (responses, ()) = tokio::join!(query(&service, "title=night", count), others);
    let refused: Vec<_> =
        responses.iter().filter(|response| response.status != StatusCode::OK).collect();
    assert!(refused.len() >= 300 - 256, "{} were refused", refused.len());
    for response in refused {
        assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE, "{}", response.text);
        assert_eq!(response.header("retry-after"), "1");
        assert!(response.text.contains("too many queries"), "{}", response.text);
    }
    assert_eq!(service.get("/movies?title=nigh").await.status, StatusCode::OK);
}

#[tokio::test]
async fn scans_leave_connections_to_other_queries() {
    let service = Service::start().await;
    let (lock, sql) = (service.sql().await, service.sql().await);
    lock.batch_execute("begin; lock table movies in access exclusive mode").await.unwrap();
    let scans = (cores() / 2).max(1) as i64;
    let others = async {
        eventually(async || running(&sql).await == scans).await;
        let indexed = async {
            eventually(async || running(&sql).await == scans + 1).await;
            lock.batch_execute("commit").await.unwrap();
        };
        tokio::join!(query(&service, "title=night", 1), indexed).0
    };
    let (scanned, indexed) = tokio::join!(query(&service, "title=%25&sort=title", 10), others);
    for response in scanned.iter().chain(&indexed) {
        assert_eq!((response.status, &*response.text), (StatusCode::OK, "[]"));
    }
}
