//! Queries may have a host of their own, `MRU_DB_READ_HOST`. It goes away alone.

// Two hosts on one port: all of 127.0.0.0/8 is this machine, but on Linux alone.
#![cfg(target_os = "linux")]

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::StatusCode;
use rest_api::config::Database;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    proxy::{Proxy, Upstream},
    service::{Answer, Service, postgres},
};

fn movie(title: &str) -> Value {
    json!({ "title": title, "year": 2000 })
}

/// Queries of which no answer can be remembered, all at once; how long the slowest took.
async fn ask(service: &Service, about: &str) -> (Vec<Answer>, Duration) {
    let started = Instant::now();
    let paths = (0..6).map(|number| format!("/movies?title={about}&year={}", 2000 + number));
    let answers = join_all(paths.map(async |path| service.get(&path).await)).await;
    (answers, started.elapsed())
}

/// While the reader is away, queries are turned away in time, and all else goes on.
async fn without_reader(service: &Service, outage: &str) {
    let (answers, took) = ask(service, &format!("{outage} before")).await;
    for answer in answers {
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{outage}: {}", answer.text);
        assert!(answer.header("retry-after").parse::<u64>().is_ok(), "{outage}");
    }
    assert!(took < Duration::from_secs(5), "{outage}: {took:?}");

    let ingest = service.ingest(outage, movie(&format!("{outage} file")).to_string()).await;
    assert_eq!(ingest["state"], "succeeded", "{ingest}");
    let posted = movie(&format!("{outage} post")).to_string();
    let posted = service.send(service.post("/movies", posted)).await;
    assert_eq!(posted.status, StatusCode::CREATED, "{outage}: {}", posted.text);
}

/// Once the reader is back, queries are answered soon, then always, and with what came meanwhile.
async fn with_reader(service: &Service, outage: &str) {
    let back = Instant::now();
    let well = |(answers, _): &(Vec<Answer>, Duration)| {
        answers.iter().all(|answer| answer.status == StatusCode::OK)
    };
    while !well(&ask(service, &format!("{outage} after")).await) {
        assert!(back.elapsed() < Duration::from_secs(10), "{outage}: no recovery");
        sleep(Duration::from_millis(20)).await;
    }
    for number in 0..10 {
        assert!(well(&ask(service, &format!("{outage} {number}")).await), "{outage}");
    }
    assert_eq!(service.movies(&format!("title={outage}%20file")).await.len(), 1, "{outage}");
    assert_eq!(service.movies(&format!("title={outage}%20post")).await.len(), 1, "{outage}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_away_takes_nothing_but_queries_with_it() {
    let upstream = || async { Upstream::Postgres(postgres().await.socket_dir().to_owned()) };
    let writer = Proxy::to(upstream().await).await;
    let port = writer.address.port();
    let mut reader = Proxy::start_at(([127, 0, 0, 2], port).into()).await;
    reader.lead_to(upstream().await);
    let service = Service::start_with(|config| {
        config.database = Database {
            host: writer.address.ip().to_string(),
            port,
            read_host: Some(reader.address.ip().to_string()),
            ..config.database.clone()
        };
    })
    .await;
    service.ingest("first", movie("first").to_string()).await;
    assert_eq!(service.movies("title=first").await.len(), 1);

    reader.freeze();
    without_reader(&service, "frozen").await;
    reader.thaw();
    with_reader(&service, "frozen").await;

    reader.refuse().await;
    reader.reset();
    without_reader(&service, "refused").await;
    reader.accept().await;
    with_reader(&service, "refused").await;
}
