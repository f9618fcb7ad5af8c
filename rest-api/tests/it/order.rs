//! Whatever the order and repetition of notifications, the newest version of each file wins.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::service::{BUCKET, Service, without_id};

fn movie(title: &str, genre: &str) -> Value {
    json!({ "title": title, "year": 2000, "cast": [], "genres": [genre] })
}

/// A notification as from an event: `second` orders it.
fn notification(key: &str, second: u32) -> Value {
    json!({
        "bucket": BUCKET, "key": key, "event_time": format!("2026-01-01T00:00:{second:02}Z"),
        "sequencer": format!("{second:04X}"),
    })
}

async fn catalogue(service: &Service) -> Vec<Value> {
    let mut movies: Vec<Value> =
        service.movies("limit=1000").await.iter().map(without_id).collect();
    movies.sort_by_key(|movie| movie["title"].to_string());
    movies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_notification_ten_times_at_once_is_one_ingest() {
    let service = Service::start().await;
    service.put("k", json!([movie("A", "x")]).to_string()).await;
    for notification in [json!({ "bucket": BUCKET, "key": "k" }), notification("k", 1)] {
        let answers = join_all((0..10).map(|_| service.notify(&notification))).await;
        assert!(answers.iter().all(|ingest| ingest["id"] == answers[0]["id"]), "{notification}");
        assert!(answers.iter().all(|ingest| ingest["attempts"] == 1));
    }
    let ingests = service.get("/ingests").await.json();
    // The bare notification and the event tell of the same version too, but only the object's etag
    // could say so, and that event has none.
    assert_eq!(ingests.as_array().unwrap().len(), 2, "{ingests}");
    assert_eq!(ingests[1]["inserted"], 1);
    assert_eq!(ingests[0]["unchanged"], 1);
}

#[tokio::test]
async fn a_bare_notification_and_the_event_are_one_ingest() {
    let mut service = Service::start().await;
    service.put("k", json!([movie("A", "x")]).to_string()).await;
    let event = service.events.recv().await.unwrap();
    let object = &event["Records"][0]["s3"]["object"];
    let event = json!({
        "bucket": BUCKET, "key": "k", "etag": object["eTag"], "sequencer": object["sequencer"],
        "event_time": event["Records"][0]["eventTime"], "size": object["size"],
    });
    let first = service.notify(&json!({ "bucket": BUCKET, "key": "k" })).await;
    assert_eq!(service.notify(&event).await["id"], first["id"]);
    assert_eq!(service.notify(&json!({ "bucket": BUCKET, "key": "k" })).await["id"], first["id"]);
}

#[tokio::test]
async fn unchanged_rows_are_not_touched() {
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
async fn a_file_that_is_put_again_is_loaded_again() {
    let service = Service::start().await;
    let wrong = service.ingest("k", json!([movie("A", "x"), { "title": "B" }]).to_string()).await;
    assert_eq!(wrong["state"], "rejected");
    let corrected =
        service.ingest("k", json!([movie("A", "x"), movie("B", "x")]).to_string()).await;
    assert_eq!(corrected["state"], "succeeded");
    assert_ne!(corrected["id"], wrong["id"]);
    // And back to what it was before.
    let changed = service.ingest("k", json!([movie("A", "y")]).to_string()).await;
    assert_eq!(changed["updated"], 1);
    let back = service.ingest("k", json!([movie("A", "x")]).to_string()).await;
    assert_eq!(back["updated"], 1, "{back}");
    assert_eq!(catalogue(&service).await, [movie("A", "x"), movie("B", "x")]);
}

#[tokio::test]
async fn the_same_content_put_again_is_newer_than_what_came_between() {
    let service = Service::start().await;
    let second = || tokio::time::sleep(std::time::Duration::from_millis(1100));
    let x = json!([movie("A", "x")]).to_string();
    let first = service.ingest("one", x.clone()).await;
    second().await;
    service.ingest("two", json!([movie("A", "y")]).to_string()).await;
    second().await;
    // Notified without sequencer: only the time of its writing tells it from the first.
    let again = service.ingest("one", x).await;
    assert_ne!(again["id"], first["id"]);
    assert_eq!(catalogue(&service).await, [movie("A", "x")]);
}

#[tokio::test]
async fn a_sequencer_that_comes_late_still_orders_the_versions() {
    // A bare notification of the newer version, its event, and then the event of the older one,
    // whose time is later than the whole second that the bare one has to go by.
    let service = Service::start().await;
    service.put("k", json!([movie("A", "new")]).to_string()).await;
    let newer = service.notify(&json!({ "bucket": BUCKET, "key": "k" })).await;
    let event = |sequencer: &str, etag: &serde_json::Value| {
        let event_time = newer["received_at"].as_str().unwrap();
        json!({ "bucket": BUCKET, "key": "k", "sequencer": sequencer, "etag": etag, "event_time": event_time })
    };
    assert_eq!(service.notify(&event("02", &newer["etag"])).await["id"], newer["id"]);
    let older = service.notify(&event("01", &json!(null))).await;
    assert_eq!(older["state"], "superseded", "{older}");
}

#[tokio::test]
async fn quotes_around_an_etag_are_not_part_of_it() {
    let service = Service::start().await;
    service.put("k", json!([movie("A", "x")]).to_string()).await;
    let bare = service.notify(&json!({ "bucket": BUCKET, "key": "k" })).await;
    let quoted = format!("\"{}\"", bare["etag"].as_str().unwrap());
    let quoted = service.notify(&json!({ "bucket": BUCKET, "key": "k", "etag": quoted })).await;
    assert_eq!((&quoted["id"], &quoted["state"]), (&bare["id"], &json!("succeeded")));
}

#[tokio::test]
async fn an_older_version_changes_nothing_that_a_newer_one_has_said() {
    let service = Service::start().await;
    // The newest says what the oldest said: its rows stay untouched, and still it must win.
    service.put("oldest", json!([movie("A", "x"), movie("B", "x")]).to_string()).await;
    service
        .put("middle", json!([movie("A", "y"), movie("B", "y"), movie("C", "y")]).to_string())
        .await;
    service.put("newest", json!([movie("A", "x")]).to_string()).await;
    for (key, second) in [("oldest", 1), ("newest", 3), ("middle", 2)] {
        assert_eq!(service.notify(&notification(key, second)).await["state"], "succeeded");
    }
    let expected = [movie("A", "x"), movie("B", "y"), movie("C", "y")];
    assert_eq!(catalogue(&service).await, expected);
}

#[tokio::test]
async fn of_one_key_the_older_version_is_superseded() {
    let service = Service::start().await;
    service.put("k", json!([movie("A", "new")]).to_string()).await;
    assert_eq!(service.notify(&notification("k", 2)).await["state"], "succeeded");
    // The bucket has no versions: what it holds is new, whatever the notification tells of.
    let older = service.notify(&notification("k", 1)).await;
    assert_eq!(older["state"], "superseded");
    let mut replaced = notification("k", 0);
    replaced["etag"] = json!("of-something-that-is-not-there-any-more");
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
async fn any_permutation_with_any_repetition_ends_in_the_same_catalogue() {
    // Five keys that share movies; the model: apply them in the order of their times.
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
        let mut deliveries: Vec<Value> =
            files.iter().chain(&files).map(|(key, second, _)| notification(key, *second)).collect();
        random.shuffle(&mut deliveries);
        // Two at a time, so that workers meet.
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
