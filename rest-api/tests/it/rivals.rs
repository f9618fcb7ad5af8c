//! Versions that meet: an object that changes while its ingest runs, and files that tell of the same
//! movies at the same time.

use futures_util::future::join;
use serde_json::{Value, json};

use crate::{
    proxy::{Act, Rule, Way},
    service::{BUCKET, Service, without_id},
};

/// Movies of which this version says `genre`.
fn movies(genre: &str, range: std::ops::Range<u32>) -> Vec<Value> {
    let movie = |number| json!({ "title": format!("movie {number}"), "year": 2000, "cast": [], "genres": [genre] });
    range.map(movie).collect()
}

fn lines(movies: &[Value]) -> String {
    movies.iter().map(|movie| format!("{movie}\n")).collect()
}

async fn catalogue(service: &Service) -> Vec<Value> {
    service.movies("limit=1000").await.iter().map(without_id).collect()
}

/// The notification that S3 sends of what was put last.
async fn event(service: &mut Service) -> Value {
    let event = service.events.recv().await.unwrap();
    let record = &event["Records"][0];
    let object = &record["s3"]["object"];
    json!({
        "bucket": BUCKET, "key": object["key"], "etag": object["eTag"], "size": object["size"],
        "sequencer": object["sequencer"], "event_time": record["eventTime"],
    })
}

/// While the older version is held at `rule`, the newer one is put and taken; returns how they ended.
async fn overtake(
    service: &mut Service,
    rule: &Rule,
    older: &[Value],
    newer: &[Value],
) -> (Value, Value) {
    service.put("k", lines(older)).await;
    let of_older = event(service).await;
    let held = service.notify(&of_older);
    let (of_older, of_newer) = join(held, async {
        rule.passed(1).await;
        service.put("k", lines(newer)).await;
        let of_newer = service.notify(&json!({ "bucket": BUCKET, "key": "k" })).await;
        rule.release();
        of_newer
    })
    .await;
    (of_older, of_newer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_changes_before_it_is_read_is_superseded() {
    let (mut service, proxy) = Service::start_behind_a_proxy().await;
    let rule = proxy.on(Way::Up, "GET /movies/k?", 1, Act::Hold);
    let (older, newer) = (movies("old", 0..60), movies("new", 0..50));
    let (of_older, of_newer) = overtake(&mut service, &rule, &older, &newer).await;
    assert_eq!(
        json!([of_older["state"], of_older["attempts"], of_newer["state"], of_newer["inserted"]]),
        json!(["superseded", 1, "succeeded", 50]),
        "{of_older} {of_newer}"
    );
    assert_eq!(catalogue(&service).await, newer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_changes_while_it_is_read_is_overtaken() {
    let (mut service, proxy) = Service::start_behind_a_proxy().await;
    let (older, newer) = (movies("old", 0..60), movies("new", 0..50));
    let rule = proxy.on(Way::Down, &lines(&older[30..31]), 1, Act::Hold);
    let (of_older, of_newer) = overtake(&mut service, &rule, &older, &newer).await;
    assert_eq!(
        json!([of_older["state"], of_older["attempts"], of_newer["state"], of_newer["inserted"]]),
        json!(["superseded", 1, "succeeded", 50]),
        "{of_older} {of_newer}"
    );
    // Of the ten movies that it alone holds, the older version is still the newest word.
    let alone = older[50..].iter().cloned();
    assert_eq!(catalogue(&service).await, newer.into_iter().chain(alone).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_files_of_the_same_movies_never_deadlock_and_the_newer_wins() {
    const ROUNDS: u32 = 40;
    let service = Service::start().await;
    for round in 0..ROUNDS {
        // Of one the movies come in the opposite order.
        let forth = movies(&format!("forth {round}"), 0..200);
        let mut back = movies(&format!("back {round}"), 0..200);
        back.reverse();
        service.put("forth", lines(&forth)).await;
        service.put("back", lines(&back)).await;
        let (minute, forth_is_newer) = (round % 60, round % 2 == 0);
        let notification = |key: &str, newer: bool| {
            let second = u32::from(newer);
            json!({
                "bucket": BUCKET, "key": key, "sequencer": format!("{round:08X}"),
                "event_time": format!("2026-01-01T00:{minute:02}:{second:02}Z"),
            })
        };
        let of_forth = notification("forth", forth_is_newer);
        let of_back = notification("back", !forth_is_newer);
        let (of_forth, of_back) = join(service.notify(&of_forth), service.notify(&of_back)).await;
        for ingest in [&of_forth, &of_back] {
            assert_eq!(
                json!([ingest["state"], ingest["attempts"]]),
                json!(["succeeded", 1]),
                "{ingest}"
            );
        }
        let newer = if forth_is_newer { "forth" } else { "back" };
        let won = service.movies(&format!("genre={newer} {round}&limit=1000")).await;
        assert_eq!(won.len(), 200, "{round}: {of_forth} {of_back}");
    }
    assert_eq!(service.movies("limit=1000").await.len(), 200);
}
