//! Ingests whose infrastructure fails: retries, lost leases, and `/retry`.

use std::time::Duration;

use reqwest::StatusCode;
use rest_api::{
    config::Retry,
    store::{Mode, ObservedVersion, Stage, StoreError},
};
use serde_json::json;

use crate::support::{
    BUCKET, Service, eventually, free_address,
    ledger::{LEASE, claim, parse, record, row},
    movies::{MOVIE, movie},
    notification,
};

#[tokio::test]
async fn only_a_failed_or_gone_ingest_can_be_retried() {
    let service = Service::start().await;
    let id = service.notify(&notification::bare("k")).await["id"].clone();
    service.put("k", MOVIE).await;
    let retry = format!("/ingests/{id}/retry");
    let without_token = service.request(reqwest::Method::POST, &retry);
    assert_eq!(service.send(without_token).await.status, StatusCode::UNAUTHORIZED);
    let retried = service.send(service.post(&retry, "")).await;
    assert_eq!(retried.status, StatusCode::ACCEPTED);
    // A worker can have started or even ended the ingest by now.
    assert_ne!(retried.json()["state"], "gone");
    service.reaches(&id, "succeeded").await;
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
async fn missing_permission_is_retried_and_then_fails() {
    let wrong = aws_sdk_s3::config::Credentials::new("local", "wrong", None, None, "test");
    let service = Service::builder().s3_config(|s3| s3.credentials_provider(wrong)).start().await;
    service.put("k", MOVIE).await;
    let failed = service.notify(&notification::bare("k")).await;
    assert_eq!(failed["state"], "failed", "{failed}");
    assert_eq!(failed["attempts"], 2);
    assert!(
        failed["error"]["detail"].as_str().unwrap().contains("SignatureDoesNotMatch"),
        "{failed}"
    );
    assert!(!failed.to_string().contains("wrong"), "a secret is in the ingest: {failed}");
}

#[tokio::test]
async fn an_unavailable_object_store_is_retried_and_then_fails() {
    let unavailable = format!("http://{}", free_address());
    let retry = aws_sdk_s3::config::retry::RetryConfig::disabled();
    let service = Service::builder()
        .s3_config(|s3| s3.endpoint_url(unavailable).retry_config(retry))
        .start()
        .await;
    let failed = service.notify(&notification::bare("k")).await;
    assert_eq!(failed["state"], "failed", "{failed}");
    assert_eq!(failed["attempts"], 3);
    assert_eq!(failed["error"]["code"], "object_store_unavailable");
}

#[tokio::test]
async fn a_full_database_fails_the_ingest_at_once() {
    let service = Service::start().await;
    let full = "create function refuse() returns trigger language plpgsql as \
        $$ begin raise exception 'could not extend file' using errcode = '53100'; end $$; \
        create trigger refuse before insert on movies execute function refuse()";
    service.sql().await.batch_execute(full).await.unwrap();
    let failed = service.ingest("k", MOVIE).await;
    assert_eq!(failed["state"], "failed", "{failed}");
    assert_eq!(failed["attempts"], 1);
    assert_eq!(failed["error"]["code"], "database_full");
    let refused = service.send(service.post("/movies", MOVIE)).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{}", refused.text);
}

#[tokio::test]
async fn the_failure_is_recorded_as_soon_as_the_database_has_storage_again() {
    let service = Service::start().await;
    // No storage for movies, and none for the result either at first.
    let full = "create sequence refusals;
        create function refuse() returns trigger language plpgsql as $$ begin
            if tg_table_name = 'movies' or nextval('refusals') = 1 then
                raise exception 'could not extend file' using errcode = '53100';
            end if;
            return new;
        end $$;
        create trigger refuse before insert on movies for each row execute function refuse();
        create trigger refuse before update on ingests for each row
            when (new.state = 'failed') execute function refuse()";
    service.sql().await.batch_execute(full).await.unwrap();
    let failed = service.ingest("k", MOVIE).await;
    assert_eq!(failed["state"], "failed", "{failed}");
    assert_eq!(
        (&failed["attempts"], &failed["error"]["code"]),
        (&json!(1), &json!("database_full"))
    );
    let refusals = "select last_value from refusals";
    let refusals: i64 = service.sql().await.query_one(refusals, &[]).await.unwrap().get(0);
    assert_eq!(refusals, 2, "the result was recorded at the second try");
}

#[tokio::test]
async fn a_worker_whose_lease_has_expired_changes_nothing() {
    let service = Service::start_without_workers().await;
    let store = service.store(2).await;
    record(&store, &parse(&notification::bare("k"))).await;
    let expired = claim(&store, Duration::from_millis(1)).await.unwrap();
    let position = store.observe(&expired, &ObservedVersion::default()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let current = claim(&store, LEASE).await.unwrap();
    assert_eq!((expired.id, current.attempts), (current.id, 2));

    let rows = [row(&movie("A", "x"))];
    let lost =
        |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::LeaseLost)));
    lost(store.renew(std::slice::from_ref(&expired), Duration::from_secs(1)).await);
    lost(store.requeue(&expired, Duration::ZERO).await);
    lost(store.reject(&expired, "[]", 1).await);
    lost(store.fail(&expired, "{}").await);
    lost(store.gone(&expired, "{}").await);
    lost(store.supersede(&expired).await);
    lost(store.observe(&expired, &ObservedVersion::default()).await.map(|_| ()));
    let mut staging = store.staging(&expired, Stage::Changes).await.unwrap();
    staging.add(&rows).await.unwrap();
    lost(store.merge_staged(staging, &position, Mode::Upsert, &expired).await.map(|_| ()));
    assert_eq!(service.movies("").await.len(), 0, "the worker has merged its movies");

    let mut staging = store.staging(&current, Stage::Changes).await.unwrap();
    staging.add(&rows).await.unwrap();
    store.merge_staged(staging, &position, Mode::Upsert, &current).await.unwrap();
    // Another process has merged it: the service hears of it in a moment.
    eventually(async || service.movies("").await.len() == 1).await;
    let ingest = service.get_ingest(current.id).await;
    assert_eq!(ingest["state"], "succeeded");
    assert!(claim(&store, Duration::from_secs(1)).await.is_none());
}

#[tokio::test]
async fn an_ingest_whose_workers_died_fails_after_the_last_attempt() {
    let service = Service::builder()
        .config(|config| {
            config.retry = Retry { max_attempts: 1, ..Retry::default() };
            config.lease = Duration::from_millis(300);
            config.workers = 1;
        })
        .start()
        .await;
    service.put("k", MOVIE).await;
    let sql = service.sql().await;
    // The row that a killed worker leaves.
    sql.execute(
        "insert into ingests (bucket, key, state, attempts, lease_token, lease_expires_at)
         values ($1, 'k', 'running', 1, gen_random_uuid(), now())",
        &[&BUCKET],
    )
    .await
    .unwrap();
    service.reaches(1, "failed").await;
    let ingest = service.get_ingest(1).await;
    assert_eq!(ingest["error"]["code"], "worker_died", "{ingest}");
}

#[tokio::test]
async fn an_ingest_that_is_queued_without_workers_is_processed_by_the_successor() {
    let mut idle = Service::start_without_workers().await;
    idle.put("k", MOVIE).await;
    let accepted = idle.send(idle.post("/notify", notification::bare("k").to_string())).await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED);
    assert_eq!(accepted.json()["state"], "queued");
    assert_eq!(accepted.header("location"), format!("/ingests/{}", accepted.json()["id"]));
    idle.stop().await;

    let successor = idle.successor().start().await;
    successor.reaches(1, "succeeded").await;
    assert_eq!(successor.movies("").await.len(), 1);
}
