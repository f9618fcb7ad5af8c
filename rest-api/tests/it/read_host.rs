//! Outages of the host for queries, `MRU_DB_READ_HOST`, while the primary host works.

// Two hosts on one port: only Linux accepts connections on all of 127.0.0.0/8.
#![cfg(target_os = "linux")]

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::StatusCode;
use rest_api::config::Database;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{
    Response, Service,
    postgres::postgres,
    proxy::{Proxy, Upstream},
};

fn movie(title: &str) -> Value {
    json!({ "title": title, "year": 2000 })
}

/// Sends concurrent queries that no cache can serve. Returns the responses, and how long the slowest
/// took.
async fn query(service: &Service, title: &str) -> (Vec<Response>, Duration) {
    let started = Instant::now();
    let paths = (0..6).map(|number| format!("/movies?title={title}&year={}", 2000 + number));
    let responses = join_all(paths.map(async |path| service.get(&path).await)).await;
    (responses, started.elapsed())
}

/// Checks that during an outage queries get 503 soon, and writes succeed.
async fn check_outage(service: &Service, outage: &str) {
    let (responses, took) = query(service, &format!("{outage} before")).await;
    for response in responses {
        assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE, "{outage}: {}", response.text);
        assert!(response.header("retry-after").parse::<u64>().is_ok(), "{outage}");
    }
    assert!(took < Duration::from_secs(5), "{outage}: {took:?}");

    let ingest = service.ingest(outage, movie(&format!("{outage} file")).to_string()).await;
    assert_eq!(ingest["state"], "succeeded", "{ingest}");
    let posted = movie(&format!("{outage} post")).to_string();
    let posted = service.send(service.post("/movies", posted)).await;
    assert_eq!(posted.status, StatusCode::CREATED, "{outage}: {}", posted.text);
}

/// Checks that after an outage queries soon succeed, do not fail again, and find what was written
/// meanwhile.
async fn check_recovery(service: &Service, outage: &str) {
    let ended = Instant::now();
    let all_succeed = async |title: &str| {
        let (responses, _) = query(service, title).await;
        responses.iter().all(|response| response.status == StatusCode::OK)
    };
    while !all_succeed(&format!("{outage} after")).await {
        assert!(ended.elapsed() < Duration::from_secs(10), "{outage}: no recovery");
        sleep(Duration::from_millis(20)).await;
    }
    for number in 0..10 {
        assert!(all_succeed(&format!("{outage} {number}")).await, "{outage}");
    }
    assert_eq!(service.movies(&format!("title={outage}%20file")).await.len(), 1, "{outage}");
    assert_eq!(service.movies(&format!("title={outage}%20post")).await.len(), 1, "{outage}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_read_host_affects_nothing_but_queries() {
    let upstream = || async { Upstream::Postgres(postgres().await.socket_dir().to_owned()) };
    let writer = Proxy::to(upstream().await).await;
    let port = writer.address.port();
    let mut reader = Proxy::start_at(([127, 0, 0, 2], port).into()).await;
    reader.lead_to(upstream().await);
    let service = Service::builder()
        .config(|config| {
            config.database = Database {
                host: writer.address.ip().to_string(),
                port,
                read_host: Some(reader.address.ip().to_string()),
                ..config.database.clone()
            };
        })
        .start()
        .await;
    service.ingest("first", movie("first").to_string()).await;
    assert_eq!(service.movies("title=first").await.len(), 1);

    reader.freeze();
    check_outage(&service, "frozen").await;
    reader.thaw();
    check_recovery(&service, "frozen").await;

    reader.refuse().await;
    reader.reset();
    check_outage(&service, "refused").await;
    reader.accept().await;
    check_recovery(&service, "refused").await;
}
