//! The newest version of each object wins, in whatever order its notifications arrive and however
//! often.

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{BUCKET, Service, movies::movie, notification};

/// Returns the catalogue by title.
async fn catalogue(service: &Service) -> Vec<Value> {
    let mut movies = service.movies_without_ids("limit=1000").await;
    movies.sort_by_key(|movie| movie["title"].to_string());
    movies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_equal_notifications_at_once_are_one_ingest() {
    let service = Service::start().await;
    service.put("k", json!([movie("A", "x")]).to_string()).await;
    for notification in [notification::bare("k"), notification::at_second("k", 1)] {
        let ingests = join_all((0..10).map(|_| service.notify(&notification))).await;
        assert!(ingests.iter().all(|ingest| ingest["id"] == ingests[0]["id"]), "{notification}");
        assert!(ingests.iter().all(|ingest| ingest["attempts"] == 1));
    }
    let ingests = service.get("/ingests").await.json();
    // The bare notification and the event are of the same version too, but this event has no etag,
    // without which the service cannot know.
    assert_eq!(ingests.as_array().unwrap().len(), 2, "{ingests}");
    assert_eq!(ingests[1]["inserted"], 1);
    assert_eq!(ingests[0]["unchanged"], 1);
}

#[tokio::test]
async fn a_bare_notification_after_the_event_is_the_same_ingest() {
    let mut service = Service::start().await;
    service.put("k", json!([movie("A", "x")]).to_string()).await;
    let event = service.next_notification().await;
    let first = service.notify(&event).await;
    assert_eq!(service.notify(&notification::bare("k")).await["id"], first["id"]);
    assert_eq!(service.notify(&event).await["id"], first["id"]);
}

#[tokio::test]
async fn an_event_after_a_bare_notification_counts_with_its_own_time() {
    let mut service = Service::start().await;
    service.put("k", json!([movie("A", "x")]).to_string()).await;
    let mut event = service.next_notification().await;
    let bare = service.notify(&notification::bare("k")).await;
    // Another file changes the movie in the same second, before the event but after LastModified.
    let written = |offset: i64| {
        let received = bare["received_at"].as_str().unwrap();
        let second: DateTime<Utc> = received.parse().unwrap();
        json!(second + TimeDelta::milliseconds(offset))
    };
    service.put("other", json!([movie("A", "y")]).to_string()).await;
    let mut other = notification::bare("other");
    other["event_time"] = written(1);
    assert_eq!(service.notify(&other).await["updated"], 1);
    event["event_time"] = written(2);
    let exact = service.notify(&event).await;
    assert_eq!(exact["updated"], 1, "the event was taken for the bare notification: {exact}");
    assert_eq!(catalogue(&service).await, [movie("A", "x")]);
    // From now on both mean the event's version.
    assert_eq!(service.notify(&event).await["id"], exact["id"]);
    assert_eq!(service.notify(&notification::bare("k")).await["id"], exact["id"]);
}

#[tokio::test]
async fn the_same_content_put_again_counts_after_a_version_without_sequencer() {
    // Recorded by reconciling, changed by another file, and put again: the event has the same etag.
    let mut service = Service::start().await;
    let file = json!([movie("A", "x")]).to_string();
    service.put("k", file.clone()).await;
    drop(service.next_notification().await);
    service.notify(&notification::bare("k")).await;
    service.ingest("other", json!([movie("A", "y")]).to_string()).await;
    drop(service.next_notification().await);
    service.put("k", file).await;
    let mut again = service.next_notification().await;
    again["event_time"] = json!(Utc::now() + TimeDelta::seconds(2));
    assert_eq!(service.notify(&again).await["updated"], 1);
    assert_eq!(catalogue(&service).await, [movie("A", "x")]);
}

#[tokio::test]
async fn a_multipart_upload_ends_the_same_whichever_report_comes_first() {
    // LastModified of a multipart upload is when it began: before the other file, which its event is
    // later than.
    for bare_first in [true, false] {
        let mut service = Service::start().await;
        service.put("k", json!([movie("A", "x")]).to_string()).await;
        let mut event = service.next_notification().await;
        service.put("other", json!([movie("A", "y")]).to_string()).await;
        let mut other = notification::bare("other");
        other["event_time"] = json!(Utc::now() + TimeDelta::seconds(10));
        service.notify(&other).await;
        event["event_time"] = json!(Utc::now() + TimeDelta::seconds(20));
        let mut reports = [notification::bare("k"), event];
        if !bare_first {
            reports.reverse();
        }
        for report in &reports {
            service.notify(report).await;
        }
        assert_eq!(catalogue(&service).await, [movie("A", "x")], "bare first: {bare_first}");
    }
}

#[tokio::test]
async fn unchanged_rows_are_not_written() {
    let service = Service::start().await;
    let file = json!([movie("A", "x"), movie("B", "x"), movie("C", "x")]);
    service.ingest("first", file.to_string()).await;
    let sql = service.sql().await;
    let rows = async || -> Vec<(String, String)> {
        let rows =
            sql.query("select xmin::text, ctid::text from movies order by id", &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let revision = async || -> i64 {
        sql.query_one("select revision from catalogue", &[]).await.unwrap().get(0)
    };
    let (rows_before, revision_before) = (rows().await, revision().await);
    let again = service.ingest("second", file.to_string()).await;
    assert_eq!(json!([again["inserted"], again["updated"], again["unchanged"]]), json!([0, 0, 3]));
    assert_eq!(rows().await, rows_before);
    assert_eq!(revision().await, revision_before);

    let one_changed = json!([movie("A", "x"), movie("B", "y"), movie("C", "x")]);
    let third = service.ingest("third", one_changed.to_string()).await;
    assert_eq!(json!([third["inserted"], third["updated"], third["unchanged"]]), json!([0, 1, 2]));
    let rows_after = rows().await;
    assert_eq!((&rows_after[0], &rows_after[2]), (&rows_before[0], &rows_before[2]));
    assert_ne!(rows_after[1], rows_before[1]);
    assert_eq!(revision().await, revision_before + 1);
}

#[tokio::test]
async fn an_object_that_is_put_again_is_ingested_again() {
    let service = Service::start().await;
    let wrong = service.ingest("k", json!([movie("A", "x"), { "title": "B" }]).to_string()).await;
    assert_eq!(wrong["state"], "rejected");
    let corrected =
        service.ingest("k", json!([movie("A", "x"), movie("B", "x")]).to_string()).await;
    assert_eq!(corrected["state"], "succeeded");
    assert_ne!(corrected["id"], wrong["id"]);
    // The content that it had before.
    let changed = service.ingest("k", json!([movie("A", "y")]).to_string()).await;
    assert_eq!(changed["updated"], 1);
    let back = service.ingest("k", json!([movie("A", "x")]).to_string()).await;
    assert_eq!(back["updated"], 1, "{back}");
    assert_eq!(catalogue(&service).await, [movie("A", "x"), movie("B", "x")]);
}

#[tokio::test]
async fn content_that_is_put_again_is_newer_than_versions_in_between() {
    let service = Service::start().await;
    let second = || tokio::time::sleep(std::time::Duration::from_millis(1100));
    let x = json!([movie("A", "x")]).to_string();
    let first = service.ingest("one", x.clone()).await;
    second().await;
    service.ingest("two", json!([movie("A", "y")]).to_string()).await;
    second().await;
    // Without a sequencer, only the modification time distinguishes it from the first version.
    let again = service.ingest("one", x).await;
    assert_ne!(again["id"], first["id"]);
    assert_eq!(catalogue(&service).await, [movie("A", "x")]);
}

#[tokio::test]
async fn a_sequencer_that_arrives_late_orders_the_versions() {
    // A bare notification of the newer version, its event, and then the event of the older version.
    // The time of that event is later than the modification time of the newer version, which has no
    // fraction of a second.
    let service = Service::start().await;
    service.put("k", json!([movie("A", "new")]).to_string()).await;
    let newer = service.notify(&notification::bare("k")).await;
    let event = |sequencer: &str, etag: &serde_json::Value| {
        let event_time = newer["received_at"].as_str().unwrap();
        json!({ "bucket": BUCKET, "key": "k", "sequencer": sequencer, "etag": etag, "event_time": event_time })
    };
    assert_eq!(service.notify(&event("02", &newer["etag"])).await["unchanged"], 1);
    let older = service.notify(&event("01", &json!(null))).await;
    assert_eq!(older["state"], "superseded", "{older}");
}

#[tokio::test]
async fn quotes_around_an_etag_are_not_part_of_it() {
    let service = Service::start().await;
    service.put("k", json!([movie("A", "x")]).to_string()).await;
    let bare = service.notify(&notification::bare("k")).await;
    let quoted = format!("\"{}\"", bare["etag"].as_str().unwrap());
    let quoted = service.notify(&json!({ "bucket": BUCKET, "key": "k", "etag": quoted })).await;
    assert_eq!((&quoted["id"], &quoted["state"]), (&bare["id"], &json!("succeeded")));
}

#[tokio::test]
async fn an_older_version_does_not_overwrite_a_newer_one() {
    let service = Service::start().await;
    // The newest version equals the oldest one: its rows are not written, and it wins nevertheless.
    service.put("oldest", json!([movie("A", "x"), movie("B", "x")]).to_string()).await;
    service
        .put("middle", json!([movie("A", "y"), movie("B", "y"), movie("C", "y")]).to_string())
        .await;
    service.put("newest", json!([movie("A", "x")]).to_string()).await;
    for (key, second) in [("oldest", 1), ("newest", 3), ("middle", 2)] {
        assert_eq!(
            service.notify(&notification::at_second(key, second)).await["state"],
            "succeeded"
        );
    }
    let expected = [movie("A", "x"), movie("B", "y"), movie("C", "y")];
    assert_eq!(catalogue(&service).await, expected);
}

#[tokio::test]
async fn an_older_version_of_the_same_key_is_superseded() {
    let service = Service::start().await;
    service.put("k", json!([movie("A", "new")]).to_string()).await;
    assert_eq!(service.notify(&notification::at_second("k", 2)).await["state"], "succeeded");
    // The bucket keeps no versions: it has the newest content, whichever version is notified.
    let older = service.notify(&notification::at_second("k", 1)).await;
    assert_eq!(older["state"], "superseded");
    let mut replaced = notification::at_second("k", 0);
    replaced["etag"] = json!("of-a-replaced-version");
    let replaced = service.notify(&replaced).await;
    assert_eq!(replaced["state"], "superseded");
    assert_eq!(replaced["attempts"], 1);
    assert_eq!(catalogue(&service).await, [movie("A", "new")]);
}

#[tokio::test]
async fn sequencers_are_compared_after_padding() {
    let service = Service::start().await;
    service.put("k", json!([movie("A", "x")]).to_string()).await;
    let with = |sequencer: &str| {
        json!({
            "bucket": BUCKET, "key": "k", "sequencer": sequencer, "event_time": "2026-01-01T00:00:00Z",
        })
    };
    assert_eq!(service.notify(&with("0055AED6DCD90281E6")).await["state"], "succeeded");
    assert_eq!(service.notify(&with("0055AED6DCD90281E5FF")).await["state"], "superseded");
    assert_eq!(service.notify(&with("0055AED6DCD90281E601")).await["state"], "succeeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_order_and_repetition_of_notifications_leads_to_the_same_catalogue() {
    // Five keys that share movies. The model applies them in the order of their times.
    let mut random = fastrand::Rng::with_seed(42);
    let files: Vec<(String, u32, Vec<Value>)> = (0..5)
        .map(|n| {
            let titles = ["A", "B", "C", "D", "E", "F"].into_iter().filter(|_| random.bool());
            let movies = titles.map(|title| movie(title, ["x", "y"][n % 2])).collect();
            (format!("key-{n}"), u32::try_from(n * 7 % 5).unwrap() + 1, movies)
        })
        .collect();
    let mut in_order = files.clone();
    in_order.sort_by_key(|(_, second, _)| *second);
    let model: std::collections::BTreeMap<String, Value> = in_order
        .iter()
        .flat_map(|(_, _, movies)| movies)
        .map(|movie| (movie["title"].to_string(), movie.clone()))
        .collect();
    for _ in 0..6 {
        let service = Service::start().await;
        for (key, _, movies) in &files {
            service.put(key, json!(movies).to_string()).await;
        }
        let mut deliveries: Vec<Value> = files
            .iter()
            .chain(&files)
            .map(|(key, second, _)| notification::at_second(key, *second))
            .collect();
        random.shuffle(&mut deliveries);
        // Two at a time, so that workers run concurrently.
        for pair in deliveries.chunks(2) {
            join_all(pair.iter().map(|notification| service.notify(notification))).await;
        }
        assert_eq!(
            catalogue(&service).await,
            model.values().cloned().collect::<Vec<_>>(),
            "{deliveries:?}"
        );
        assert_eq!(service.get("/ingests").await.json().as_array().unwrap().len(), files.len());
    }
}
