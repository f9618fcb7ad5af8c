//! Objects that are gone before they are read.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{
    BUCKET, Service, eventually,
    movies::MOVIE,
    notification::{at_second, bare},
};

/// Returns the value of a series of `/metrics`.
async fn metric(service: &Service, series: &str) -> Option<String> {
    let metrics = service.get("/metrics").await.text;
    metrics.lines().find_map(|line| line.strip_prefix(series)).map(|value| value.trim().to_owned())
}

#[tokio::test]
async fn an_object_that_is_not_there_is_gone_after_one_retry() {
    let service = Service::start().await;
    let ended = "mru_ingests_ended_total{state=\"gone\"}";
    assert_eq!(metric(&service, ended).await.as_deref(), Some("0"));
    let mut small = bare("small.json");
    small["size"] = json!(10);
    for (count, notification) in [bare("k.json"), small].into_iter().enumerate() {
        let gone = service.notify(&notification).await;
        assert_eq!((&gone["state"], &gone["attempts"]), (&json!("gone"), &json!(2)), "{gone}");
        assert_eq!(gone["error"]["code"], "object_gone");
        assert_eq!(gone["violation_count"], Value::Null);
        let count = (count + 1).to_string();
        eventually(async || metric(&service, ended).await == Some(count.clone())).await;
    }
    let failed = metric(&service, "mru_ingests_ended_total{state=\"failed\"}").await;
    assert_eq!(failed.as_deref(), Some("0"));
    let listed = service.get("/ingests?state=gone").await.json();
    assert_eq!(listed.as_array().unwrap().len(), 2);

    service.put("k.json", MOVIE).await;
    assert_eq!(service.notify(&bare("k.json")).await["state"], "succeeded");
}

#[tokio::test]
async fn an_object_that_is_back_after_the_pause_is_ingested() {
    let service =
        Service::builder().config(|c| c.retry.gone_delay = Duration::from_secs(3)).start().await;
    let recorded = service.send(service.post("/notify", bare("k").to_string())).await.json();
    eventually(async || {
        let ingest = service.get_ingest(&recorded["id"]).await;
        (&ingest["state"], &ingest["attempts"]) == (&json!("queued"), &json!(1))
    })
    .await;
    service.put("k", MOVIE).await;
    service.reaches(&recorded["id"], "succeeded").await;
    assert_eq!(service.get_ingest(&recorded["id"]).await["attempts"], 2);
}

#[tokio::test]
async fn a_gone_ingest_can_be_retried_and_notified_again() {
    let service = Service::start().await;
    for (key, again) in [("retried", false), ("notified", true)] {
        let notification = at_second(key, 1);
        let gone = service.notify(&notification).await;
        assert_eq!(gone["state"], "gone");
        service.put(key, MOVIE).await;
        if again {
            assert_eq!(service.notify(&notification).await["id"], gone["id"]);
        } else {
            let retry = format!("/ingests/{}/retry", gone["id"]);
            let retried = service.send(service.post(&retry, "")).await;
            assert_eq!(retried.status, StatusCode::ACCEPTED, "{}", retried.text);
        }
        service.reaches(&gone["id"], "succeeded").await;
    }
}

#[tokio::test]
async fn what_comes_later_under_the_key_does_not_see_a_gone_version() {
    let service = Service::start().await;
    // Its sequencer is later than that of the next version, which keeps its place nevertheless.
    let mut forged = at_second("k", 1);
    forged["sequencer"] = json!("FF");
    assert_eq!(service.notify(&forged).await["state"], "gone");
    service.put("k", MOVIE).await;
    assert_eq!(service.notify(&at_second("k", 30)).await["state"], "succeeded");
    let at = "select ordered_at = '2026-01-01T00:00:30Z' from ingests where state = 'succeeded'";
    assert!(service.sql().await.query_one(at, &[]).await.unwrap().get::<_, bool>(0));
    let versions = "select state from ingests where bucket = $1 order by id";
    let rows = service.sql().await.query(versions, &[&BUCKET]).await.unwrap();
    let states: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(states, ["gone", "succeeded"]);
}

#[tokio::test]
async fn s3_is_not_asked_about_a_removed_object() {
    let service = Service::start_without_workers().await;
    for (event, has_details) in [("created", true), ("removed", false)] {
        let key = format!("{event}.json");
        service.put(&key, MOVIE).await;
        let mut notification = bare(&key);
        notification["event"] = json!(event);
        let response = service.send(service.post("/notify", notification.to_string())).await;
        assert_eq!(response.status, StatusCode::ACCEPTED, "{}", response.text);
        let ingest = response.json();
        let details = (ingest["etag"].is_string(), ingest["size"].is_number());
        assert_eq!(details, (has_details, has_details), "{ingest}");
    }
}
