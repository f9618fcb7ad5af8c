//! Concurrent ingests: of an object that changes meanwhile, and of files with the same movies.

use futures_util::future::join;
use serde_json::{Value, json};

use crate::support::{
    BUCKET, Service,
    movies::{ndjson, numbered_movies},
    notification,
    proxy::{Action, Direction, Proxy, Rule},
};

fn movies(genre: &str, range: std::ops::Range<u32>) -> Vec<Value> {
    numbered_movies("movie", range, genre)
}

/// Puts and ingests the newer version while `rule` holds the older one. Returns both ingests.
async fn overtake(
    service: &mut Service,
    rule: &Rule,
    older: &[Value],
    newer: &[Value],
) -> (Value, Value) {
    service.put("k", ndjson(older)).await;
    let of_older = service.next_notification().await;
    let older_ingest = service.notify(&of_older);
    let (of_older, of_newer) = join(older_ingest, async {
        rule.wait_for_matches(1).await;
        service.put("k", ndjson(newer)).await;
        let of_newer = service.notify(&notification::bare("k")).await;
        rule.release();
        of_newer
    })
    .await;
    (of_older, of_newer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_replaced_before_it_is_read_is_superseded() {
    let proxy = Proxy::start().await;
    let mut service = Service::builder().objects_through(&proxy).start().await;
    let rule = proxy.on(Direction::ToServer, "GET /movies/k?", 1, Action::Hold);
    let (older, newer) = (movies("old", 0..60), movies("new", 0..50));
    let (of_older, of_newer) = overtake(&mut service, &rule, &older, &newer).await;
    assert_eq!(
        json!([of_older["state"], of_older["attempts"], of_newer["state"], of_newer["inserted"]]),
        json!(["superseded", 1, "succeeded", 50]),
        "{of_older} {of_newer}"
    );
    assert_eq!(service.movies_without_ids("limit=1000").await, newer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_replaced_while_it_is_read_is_superseded_and_keeps_its_other_movies() {
    let proxy = Proxy::start().await;
    let mut service = Service::builder().objects_through(&proxy).start().await;
    let (older, newer) = (movies("old", 0..60), movies("new", 0..50));
    let rule = proxy.on(Direction::ToClient, &ndjson(&older[30..31]), 1, Action::Hold);
    let (of_older, of_newer) = overtake(&mut service, &rule, &older, &newer).await;
    assert_eq!(
        json!([of_older["state"], of_older["attempts"], of_newer["state"], of_newer["inserted"]]),
        json!(["superseded", 1, "succeeded", 50]),
        "{of_older} {of_newer}"
    );
    // The older version is the newest one that contains the last ten movies.
    let rest = older[50..].iter().cloned();
    assert_eq!(
        service.movies_without_ids("limit=1000").await,
        newer.into_iter().chain(rest).collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_files_with_the_same_movies_do_not_deadlock_and_the_newer_one_wins() {
    const ROUNDS: u32 = 40;
    let service = Service::start().await;
    for round in 0..ROUNDS {
        // One file has the movies in the opposite order.
        let forward = movies(&format!("forward {round}"), 0..200);
        let mut backward = movies(&format!("backward {round}"), 0..200);
        backward.reverse();
        service.put("forward", ndjson(&forward)).await;
        service.put("backward", ndjson(&backward)).await;
        let (minute, forward_is_newer) = (round % 60, round % 2 == 0);
        let notification = |key: &str, newer: bool| {
            let second = u32::from(newer);
            json!({
                "bucket": BUCKET, "key": key, "sequencer": format!("{round:08X}"),
                "event_time": format!("2026-01-01T00:{minute:02}:{second:02}Z"),
            })
        };
        let of_forward = notification("forward", forward_is_newer);
        let of_backward = notification("backward", !forward_is_newer);
        let (of_forward, of_backward) =
            join(service.notify(&of_forward), service.notify(&of_backward)).await;
        for ingest in [&of_forward, &of_backward] {
            assert_eq!(
                json!([ingest["state"], ingest["attempts"]]),
                json!(["succeeded", 1]),
                "{ingest}"
            );
        }
        let newer = if forward_is_newer { "forward" } else { "backward" };
        let found = service.movies(&format!("genre={newer} {round}&limit=1000")).await;
        assert_eq!(found.len(), 200, "{round}: {of_forward} {of_backward}");
    }
    assert_eq!(service.movies("limit=1000").await.len(), 200);
}
