//! Reads that are given up: their statements end, and their connections stay counted.

use std::time::{Duration, Instant};

use rest_api::store::{MovieQuery, Revision, Sort, Store};
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::support::{
    Service, TOKEN, builder::no_secrets, eventually, movies::MOVIE, notification,
    postgres::migrate, secure_postgres::secure_postgres,
};

/// How soon an abandoned statement ends. Without a cancel request it ends after two seconds, by the
/// lock timeout of its session.
const SOON: Duration = Duration::from_millis(1200);

/// Returns how many statements wait for a lock on `table`.
async fn waiting(sql: &Client, table: &str) -> i64 {
    let waiting = "select count(*) from pg_locks \
        where not granted and relation = $1::text::regclass \
        and database = (select oid from pg_database where datname = current_database())";
    sql.query_one(waiting, &[&table]).await.unwrap().get(0)
}

fn all_movies() -> MovieQuery {
    MovieQuery { filters: Default::default(), sort: Sort::Id, limit: 10, after: None }
}

/// Checks that no statement waits for a lock on `table` any more, soon after `abandoned`.
async fn check_end(sql: &Client, table: &str, abandoned: Instant) {
    eventually(async || waiting(sql, table).await == 0).await;
    assert!(abandoned.elapsed() < SOON, "{table}: {:?}", abandoned.elapsed());
}

#[tokio::test]
async fn the_statement_of_a_client_that_disconnects_is_cancelled() {
    let service = Service::start_without_workers().await;
    let (mut locking, sql) = (service.sql().await, service.sql().await);
    for (table, path) in [
        ("movies", "/movies"),
        ("movies", "/movies/1"),
        ("ingests", "/ingests"),
        ("ingests", "/ingests/1"),
    ] {
        let lock = locking.transaction().await.unwrap();
        lock.batch_execute(&format!("lock table {table} in access exclusive mode")).await.unwrap();
        let client =
            service.connect_and_send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        eventually(async || waiting(&sql, table).await == 1).await;
        let abandoned = Instant::now();
        drop(client);
        check_end(&sql, table, abandoned).await;
        lock.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn abandoned_statements_never_outnumber_the_pool_and_leave_it_usable() {
    let service = Service::start_without_workers().await;
    let store = service.store(0).await;
    let (mut locking, sql) = (service.sql().await, service.sql().await);
    let lock = locking.transaction().await.unwrap();
    lock.batch_execute("lock table movies in access exclusive mode").await.unwrap();
    let max = store.pool_status().iter().find(|(name, _)| *name == "reader").unwrap().1.max_size;
    let mut abandoned = Instant::now();
    for _ in 0..10 * max {
        let given_up =
            timeout(Duration::from_millis(20), store.movies(&all_movies(), Revision::default()))
                .await;
        assert!(given_up.is_err());
        abandoned = Instant::now();
        assert!(waiting(&sql, "movies").await <= i64::try_from(max).unwrap());
    }
    check_end(&sql, "movies", abandoned).await;
    lock.rollback().await.unwrap();
    let query = all_movies();
    let all = (0..2 * max).map(|_| store.movies(&query, Revision::default()));
    futures_util::future::try_join_all(Vec::from_iter(all)).await.unwrap();
    let backends = "select count(*) from pg_stat_activity where datname = current_database()";
    eventually(async || {
        // Those of the pool, and a few of the service and the test.
        let backends: i64 = sql.query_one(backends, &[]).await.unwrap().get(0);
        backends <= i64::try_from(max).unwrap() + 6
    })
    .await;
}

#[tokio::test]
async fn a_cancel_request_is_sent_over_tls() {
    let secure = secure_postgres().await;
    let database = secure.database("cancelled", "pass").await;
    migrate(&database).await.unwrap();
    let store = Store::new(&database, &no_secrets(), 0).await.unwrap();
    let (mut locking, sql) = (secure.sql("cancelled").await, secure.sql("cancelled").await);
    let lock = locking.transaction().await.unwrap();
    lock.batch_execute("lock table movies in access exclusive mode").await.unwrap();
    let reading =
        tokio::spawn(
            async move { store.movies(&all_movies(), Revision::default()).await.map(drop) },
        );
    eventually(async || waiting(&sql, "movies").await == 1).await;
    let abandoned = Instant::now();
    reading.abort();
    check_end(&sql, "movies", abandoned).await;
    lock.rollback().await.unwrap();
}

#[tokio::test]
async fn the_ledger_can_be_read_while_all_connections_for_writes_are_busy() {
    let service = Service::start().await;
    service.ingest("k", MOVIE).await;
    let sql = service.sql().await;
    // What a notification of this object waits for.
    let lock = "select pg_advisory_lock(hashtextextended('movies/busy', 0))";
    sql.batch_execute(lock).await.unwrap();
    let body = notification::bare("busy").to_string();
    let notify = format!(
        "POST /notify HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let store = service.store(0).await;
    let writers =
        store.pool_status().iter().find(|(name, _)| *name == "writer").unwrap().1.max_size;
    let mut notifying = Vec::new();
    for _ in 0..writers {
        notifying.push(service.connect_and_send(&notify).await);
    }
    let busy = "select count(*) from pg_locks where not granted and locktype = 'advisory' \
        and database = (select oid from pg_database where datname = current_database())";
    eventually(async || {
        let busy: i64 = sql.query_one(busy, &[]).await.unwrap().get(0);
        busy == i64::try_from(writers).unwrap()
    })
    .await;
    for path in ["/ingests", "/ingests/1"] {
        let started = Instant::now();
        let response = service.get(path).await;
        assert_eq!(response.status, reqwest::StatusCode::OK, "{path}: {}", response.text);
        assert!(started.elapsed() < Duration::from_secs(1), "{path}: {:?}", started.elapsed());
    }
    sql.batch_execute("select pg_advisory_unlock_all()").await.unwrap();
}
