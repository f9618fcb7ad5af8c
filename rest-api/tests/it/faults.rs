//! What becomes of an ingest when the infrastructure is at fault.

use std::time::Duration;

use reqwest::StatusCode;
use rest_api::{
    config::Retry,
    store::{CatalogueRow, Observed, Store, StoreError},
};
use schema::{Movie, Notification};
use serde_json::json;
use tokio::net::TcpListener;

use crate::service::{BUCKET, Service, eventually, no_secrets};

const MOVIE: &str = r#"{"title":"A","year":2000}"#;

#[tokio::test]
async fn a_missing_object_fails_at_once_and_a_repeated_notification_tries_anew() {
    let service = Service::start().await;
    let notification = json!({ "bucket": BUCKET, "key": "later.json" });
    let failed = service.notify(&notification).await;
    assert_eq!(failed["state"], "failed", "{failed}");
    assert_eq!(failed["attempts"], 1);
    assert_eq!(failed["error"]["code"], "object_gone");
    assert_eq!(failed["violations"], json!([]));

    service.put("later.json", MOVIE).await;
    let taken = service.notify(&notification).await;
    assert_eq!(taken["state"], "succeeded", "{taken}");
}

#[tokio::test]
async fn a_failed_ingest_can_be_retried_and_no_other() {
    let service = Service::start().await;
    let id = service.notify(&json!({ "bucket": BUCKET, "key": "k" })).await["id"].clone();
    service.put("k", MOVIE).await;
    let retry = format!("/ingests/{id}/retry");
    let without_token = service.request(reqwest::Method::POST, &retry);
    assert_eq!(service.send(without_token).await.status, StatusCode::UNAUTHORIZED);
    let retried = service.send(service.post(&retry, "")).await;
    assert_eq!(retried.status, StatusCode::ACCEPTED);
    // A worker may have begun, or even ended, before the answer was read.
    assert_ne!(retried.json()["state"], "failed");
    let ingest = format!("/ingests/{id}");
    eventually(async || service.get(&ingest).await.json()["state"] == "succeeded").await;
    let again = service.send(service.post(&retry, "")).await;
    assert_eq!((again.status, &again.json()["code"]), (StatusCode::CONFLICT, &json!("not_failed")));
    let missing = service.send(service.post("/ingests/99/retry", "")).await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    assert_eq!(service.get(&retry).await.header("allow"), "POST");
}

#[tokio::test]
async fn a_missing_bucket_is_retried_and_then_fails() {
    let service = Service::start().await;
    let failed = service.notify(&json!({ "bucket": "nowhere", "key": "k" })).await;
    assert_eq!(failed["state"], "failed", "{failed}");
    assert_eq!(failed["attempts"], 2);
    assert_eq!(failed["error"]["code"], "object_refused");
    assert_eq!(failed["error"]["detail"], "NoSuchBucket", "{failed}");
}

#[tokio::test]
async fn no_permission_is_retried_and_then_fails() {
    let service = Service::start_reading(|s3| {
        let wrong = aws_sdk_s3::config::Credentials::new("local", "wrong", None, None, "test");
        s3.config().to_builder().credentials_provider(wrong).build()
    })
    .await;
    service.put("k", MOVIE).await;
    let failed = service.notify(&json!({ "bucket": BUCKET, "key": "k" })).await;
    assert_eq!(failed["state"], "failed", "{failed}");
    assert_eq!(failed["attempts"], 2);
    assert!(
        failed["error"]["detail"].as_str().unwrap().contains("SignatureDoesNotMatch"),
        "{failed}"
    );
    assert!(!failed.to_string().contains("wrong"), "no secret: {failed}");
}

#[tokio::test]
async fn an_object_store_that_is_away_is_retried_and_then_fails() {
    // A port that nobody listens on.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let away = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let service = Service::start_reading(|s3| {
        let retry = aws_sdk_s3::config::retry::RetryConfig::disabled();
        s3.config().to_builder().endpoint_url(away).retry_config(retry).build()
    })
    .await;
    let failed = service.notify(&json!({ "bucket": BUCKET, "key": "k" })).await;
    assert_eq!(failed["state"], "failed", "{failed}");
    assert_eq!(failed["attempts"], 3);
    assert_eq!(failed["error"]["code"], "object_store_unavailable");
}

fn notification(key: &str) -> Notification {
    schema::parse(json!({ "bucket": BUCKET, "key": key }).to_string().as_bytes()).unwrap()
}

fn row() -> CatalogueRow {
    CatalogueRow::new(&schema::parse::<Movie>(MOVIE.as_bytes()).unwrap())
}

#[tokio::test]
async fn a_worker_that_has_lost_its_lease_changes_nothing() {
    let service = Service::start_with(|config| config.workers = 0).await;
    let store = Store::new(&service.database, &no_secrets(), 2).await.unwrap();
    store.record(&notification("k"), &Observed::default(), "").await.unwrap();
    let zombie = store.claim(Duration::from_millis(1)).await.unwrap().unwrap();
    let place = store.observe(&zombie, &Observed::default()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let heir = store.claim(Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!((zombie.id, heir.attempts), (heir.id, 2));

    let lost =
        |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::LeaseLost)));
    lost(store.renew(&zombie, Duration::from_secs(1)).await);
    lost(store.requeue(&zombie, Duration::ZERO, true).await);
    lost(store.reject(&zombie, "[]", 1).await);
    lost(store.fail(&zombie, "{}").await);
    lost(store.supersede(&zombie).await);
    lost(store.observe(&zombie, &Observed::default()).await.map(|_| ()));
    let mut staging = store.staging(&zombie, true).await.unwrap();
    staging.add(&[row()]).await.unwrap();
    lost(staging.merge(&place, &zombie).await.map(|_| ()));
    assert_eq!(service.movies("").await.len(), 0, "and has merged nothing");

    let mut staging = store.staging(&heir, true).await.unwrap();
    staging.add(&[row()]).await.unwrap();
    staging.merge(&place, &heir).await.unwrap();
    assert_eq!(service.movies("").await.len(), 1);
    let ingest = service.get(&format!("/ingests/{}", heir.id)).await.json();
    assert_eq!(ingest["state"], "succeeded");
    assert!(store.claim(Duration::from_secs(1)).await.unwrap().is_none());
}

#[tokio::test]
async fn an_ingest_whose_workers_all_died_fails_in_the_end() {
    let service = Service::start_with(|config| {
        config.retry = Retry { max_attempts: 1, ..Retry::default() };
        config.lease = Duration::from_millis(300);
        config.workers = 1;
    })
    .await;
    service.put("k", MOVIE).await;
    let sql = service.sql().await;
    // As a worker leaves it that was killed.
    sql.execute(
        "insert into ingests (bucket, key, state, attempts, lease_token, lease_expires_at)
         values ($1, 'k', 'running', 1, gen_random_uuid(), now())",
        &[&BUCKET],
    )
    .await
    .unwrap();
    eventually(async || service.get("/ingests/1").await.json()["state"] == "failed").await;
    let ingest = service.get("/ingests/1").await.json();
    assert_eq!(ingest["error"]["code"], "worker_died", "{ingest}");
}

#[tokio::test]
async fn what_was_queued_while_nobody_worked_is_worked_on_later() {
    let mut idle = Service::start_with(|config| config.workers = 0).await;
    idle.put("k", MOVIE).await;
    let accepted =
        idle.send(idle.post("/notify", json!({ "bucket": BUCKET, "key": "k" }).to_string())).await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED);
    assert_eq!(accepted.json()["state"], "queued");
    assert_eq!(accepted.header("location"), format!("/ingests/{}", accepted.json()["id"]));
    idle.stop().await;

    let successor = idle.successor().await;
    eventually(async || successor.get("/ingests/1").await.json()["state"] == "succeeded").await;
    assert_eq!(successor.movies("").await.len(), 1);
}
