//! Notifications that claim a bucket, a time or a sequencer that they must not.

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use reqwest::StatusCode;
use rest_api::store::{ObservedVersion, Report, Store, VersionPosition};
use serde_json::{Value, json};

use crate::support::{
    BUCKET, Service,
    ledger::{LEASE, claim, parse, record},
    movies::movie,
};

fn at(time: DateTime<Utc>, sequencer: &str) -> Value {
    json!({ "bucket": BUCKET, "key": "k", "event_time": time, "sequencer": sequencer })
}

/// Claims the next ingest, and observes its object, which was written at `written`.
async fn observe(store: &Store, written: DateTime<Utc>) -> VersionPosition {
    let claim = claim(store, LEASE).await.unwrap();
    let observed = ObservedVersion { last_modified: Some(written), ..ObservedVersion::default() };
    store.observe(&claim, &observed).await.unwrap()
}

#[tokio::test]
async fn a_forged_bucket_time_or_sequencer_is_refused_and_not_recorded() {
    let change = |config: &mut rest_api::config::Config| config.buckets = vec![BUCKET.to_owned()];
    let service = Service::builder().config(change).start().await;
    let bare = json!({ "bucket": BUCKET, "key": "k" });
    let with = |name: &str, value: Value| {
        let mut notification = bare.clone();
        notification[name] = value;
        notification
    };
    let late = Utc::now() + TimeDelta::minutes(6);
    for (pointer, notification) in [
        ("/bucket", with("bucket", json!("another-bucket"))),
        ("/bucket", with("bucket", json!(".."))),
        ("/bucket", with("bucket", json!("arn:aws:s3:::movies"))),
        ("/event_time", with("event_time", json!(late))),
        ("/event_time", with("event_time", json!("9999-12-31T23:59:59Z"))),
        ("/event", with("event", json!("moved"))),
        ("/event", with("event", json!(true))),
        ("/sequencer", with("sequencer", json!("zz"))),
        ("/sequencer", with("sequencer", json!("0A\u{202e}"))),
    ] {
        let response = service.send(service.post("/notify", notification.to_string())).await;
        assert_eq!(response.status, StatusCode::UNPROCESSABLE_ENTITY, "{notification}");
        let problem = response.json();
        assert_eq!(problem["code"], "violations", "{problem}");
        assert_eq!(problem["violations"][0]["pointer"], pointer, "{problem}");
        assert!(!response.text.contains('\u{202e}'), "{problem}");
    }
    assert_eq!(service.get("/ingests").await.json(), json!([]));

    service.put("k", json!([movie("A", "x")]).to_string()).await;
    let early = Utc::now() + TimeDelta::minutes(4);
    let ingest = service.notify(&with("event_time", json!(early))).await;
    assert_eq!(ingest["state"], "succeeded", "the clock of S3 may be ahead: {ingest}");
}

#[tokio::test]
async fn the_time_of_the_object_counts_if_the_event_claims_a_later_one() {
    let service = Service::start_without_workers().await;
    let store = service.store(4).await;
    let now = Utc::now().trunc_subsecs(0);
    let (hour, minute) = (TimeDelta::hours(1), TimeDelta::minutes(1));

    record(&store, &parse(&at(now - hour, "01"))).await;
    let first = observe(&store, now - hour).await;
    assert_eq!(first.ordered_at, now - hour);

    record(&store, &parse(&at(now, "02"))).await;
    let forged = observe(&store, now - minute * 30).await;
    assert_eq!(forged.ordered_at, now - minute * 30);

    record(&store, &parse(&at(now, "03"))).await;
    let older = observe(&store, now - hour * 2).await;
    assert_eq!(older.ordered_at, forged.ordered_at, "sequencers order versions of one object");

    record(&store, &parse(&at(now, "04"))).await;
    let plausible = observe(&store, now - minute * 4).await;
    assert_eq!(plausible.ordered_at, now, "within the tolerance the event counts");
}

#[tokio::test]
async fn an_ingest_that_failed_does_not_bound_the_positions_of_others() {
    let service = Service::start_without_workers().await;
    let store = service.store(4).await;
    let long_ago: DateTime<Utc> = "2001-01-01T00:00:00Z".parse().unwrap();
    record(&store, &parse(&at(long_ago, "FFFF"))).await;
    let forged = claim(&store, LEASE).await.unwrap();
    store.fail(&forged, "{}").await.unwrap();

    let now = Utc::now().trunc_subsecs(0);
    record(&store, &parse(&at(now, "0A"))).await;
    assert_eq!(observe(&store, now).await.ordered_at, now);
}

#[tokio::test]
async fn an_older_version_that_failed_does_not_bound_the_time_of_the_object() {
    let service = Service::start_without_workers().await;
    let store = service.store(4).await;
    let now = Utc::now().trunc_subsecs(0);
    record(&store, &parse(&at(now, "01"))).await;
    let forged = claim(&store, LEASE).await.unwrap();
    store.fail(&forged, "{}").await.unwrap();

    let written = now - TimeDelta::hours(1);
    record(&store, &parse(&at(now, "02"))).await;
    assert_eq!(observe(&store, written).await.ordered_at, written);
}

#[tokio::test]
async fn a_time_of_the_object_in_the_future_counts_as_five_minutes_from_now() {
    let service = Service::start_without_workers().await;
    let store = service.store(4).await;
    let future = Utc::now() + TimeDelta::hours(1);
    let assert_five_minutes = |time: DateTime<Utc>| {
        let ahead = time - Utc::now();
        assert!((4..=5).contains(&ahead.num_minutes()), "{ahead}");
    };
    // The object is described before the notification is recorded, or when the ingest is claimed.
    let described = parse(&json!({ "bucket": BUCKET, "key": "described" }));
    let observed = ObservedVersion { last_modified: Some(future), ..ObservedVersion::default() };
    let id = store
        .record(&Report { notification: &described, observed: observed.clone() }, "", None)
        .await
        .unwrap()
        .id;
    let ordered_at = "select ordered_at from ingests where id = $1";
    let row = service.sql().await.query_one(ordered_at, &[&id]).await.unwrap();
    assert_five_minutes(row.get(0));
    claim(&store, LEASE).await.unwrap();

    record(&store, &parse(&json!({ "bucket": BUCKET, "key": "k" }))).await;
    assert_five_minutes(observe(&store, future).await.ordered_at);
}

#[tokio::test]
async fn the_database_refuses_a_version_from_the_future() {
    let service = Service::start_without_workers().await;
    let insert = "insert into ingests (bucket, key, ordered_at) values ('b', 'k', now() + $1::text::interval)";
    let sql = service.sql().await;
    sql.execute(insert, &[&"9 minutes"]).await.unwrap();
    let error = sql.execute(insert, &[&"11 minutes"]).await.unwrap_err();
    let constraint = error.as_db_error().and_then(|error| error.constraint());
    assert_eq!(constraint, Some("ordered_not_in_the_future"));
}

#[tokio::test]
async fn the_event_of_a_multipart_upload_may_be_much_later_than_its_beginning() {
    let service = Service::start_without_workers().await;
    let store = service.store(4).await;
    let now = Utc::now().trunc_subsecs(0);
    for (etag, expected) in [("0123-2", now), ("0123", now - TimeDelta::minutes(20))] {
        record(&store, &parse(&at(now, "0A"))).await;
        let claim = claim(&store, LEASE).await.unwrap();
        let observed = ObservedVersion {
            etag: Some(etag.to_owned()),
            last_modified: Some(now - TimeDelta::minutes(20)),
            ..ObservedVersion::default()
        };
        assert_eq!(store.observe(&claim, &observed).await.unwrap().ordered_at, expected, "{etag}");
        service.sql().await.batch_execute("truncate ingests").await.unwrap();
    }
}
