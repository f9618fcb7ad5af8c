//! `POST /notify` with an array: a result for each notification, in order.

use std::time::{Duration, Instant};

use aws::{Secret, trace::TraceParent};
use chrono::{TimeDelta, Utc};
use ingest_lambda::{Notify, Token};
use reqwest::StatusCode;
use rest_api::config::{Config, Database};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::{
    BUCKET, Response, Service, TOKEN,
    builder::no_secrets,
    eventually,
    function::function,
    ledger::parse,
    movies::MOVIE,
    notification::{at_second, bare},
    postgres::postgres,
    proxy::{Action, Direction, Proxy, Upstream},
};

async fn send(service: &Service, notifications: &[Value]) -> Response {
    service.send(service.post("/notify", json!(notifications).to_string())).await
}

/// Sends notifications with `Prefer: wait`.
async fn send_waiting(service: &Service, notifications: &[Value], seconds: u32) -> Response {
    let request = service.post("/notify", json!(notifications).to_string());
    service.send(request.header("prefer", format!("wait={seconds}"))).await
}

/// Returns the results of a response to an array.
fn results(response: &Response) -> Vec<Value> {
    assert_eq!(response.status, StatusCode::ACCEPTED, "{}", response.text);
    response.json().as_array().unwrap().clone()
}

/// Returns the status of each result.
fn statuses(results: &[Value]) -> Vec<u64> {
    results.iter().map(|result| result["status"].as_u64().unwrap()).collect()
}

/// Returns the ids of the ingests of all results.
fn ids(results: &[Value]) -> Vec<i64> {
    results.iter().map(|result| result["ingest"]["id"].as_i64().unwrap()).collect()
}

/// Returns the keys of all ingests in the ledger, oldest first.
async fn recorded(service: &Service) -> Vec<String> {
    let keys = service.sql().await.query("select key from ingests order by id", &[]).await;
    keys.unwrap().iter().map(|row| row.get(0)).collect()
}

fn keys(prefix: &str, number: usize) -> Vec<Value> {
    (0..number).map(|number| bare(&format!("{prefix}-{number}"))).collect()
}

#[tokio::test]
async fn each_element_has_its_own_result_in_order() {
    let change = |config: &mut Config| {
        (config.workers, config.buckets) = (0, vec![BUCKET.to_owned()]);
    };
    let service = Service::builder().config(change).start().await;
    let with = |name: &str, value: Value| {
        let mut notification = bare("bad");
        notification[name] = value;
        notification
    };
    let mut misspelt = json!({ "bucket": BUCKET });
    for number in 0..11 {
        misspelt[format!("x{number}")] = json!(number);
    }
    let future = Utc::now() + TimeDelta::minutes(6);
    let sent = [
        at_second("a", 1),
        misspelt,
        with("bucket", json!("another-bucket")),
        bare("b"),
        with("event_time", json!(future)),
        with("sequencer", json!("zz")),
        json!([bare("nested")]),
        json!(7),
        at_second("a", 1),
    ];
    let response = send(&service, &sent).await;
    assert_eq!(response.header("content-type"), "application/json");
    assert_eq!((response.header("location"), response.header("preference-applied")), ("", ""));
    let results = results(&response);
    assert_eq!(statuses(&results), [202, 422, 422, 202, 422, 422, 422, 422, 202]);

    let listed = service.get("/ingests").await.json();
    assert_eq!(recorded(&service).await, ["a", "b"]);
    for (index, listed) in [(0, &listed[1]), (3, &listed[0]), (8, &listed[1])] {
        assert_eq!(results[index], json!({ "status": 202, "ingest": listed }), "{index}");
    }
    for (index, pointer) in
        [(2, "/bucket"), (4, "/event_time"), (5, "/sequencer"), (6, ""), (7, "")]
    {
        let result = results[index].as_object().unwrap();
        assert_eq!(result.len(), 2, "{result:?}");
        let problem = &result["problem"];
        assert_eq!((&problem["code"], &problem["status"]), (&json!("violations"), &json!(422)));
        assert_eq!(problem["violations"][0]["pointer"], pointer, "{problem}");
        // An array is no element, but is right as a body.
        if !sent[index].is_array() {
            let alone = service.send(service.post("/notify", sent[index].to_string())).await;
            assert_eq!(*problem, alone.json());
        }
    }
    let problem = &results[1]["problem"];
    assert_eq!(problem["violation_count"], 12, "{problem}");
    assert_eq!(problem["violations"].as_array().unwrap().len(), 10);

    let refused = send(&service, &sent[4..8]).await;
    assert_eq!(refused.status, StatusCode::ACCEPTED);
    assert_eq!(recorded(&service).await, ["a", "b"]);
}

#[tokio::test]
async fn the_same_array_again_gives_the_same_ingests() {
    let service = Service::start_without_workers().await;
    service.put("put", MOVIE).await;
    let sent = [at_second("a", 1), bare("put"), at_second("a", 2), bare("missing")];
    let first = ids(&results(&send(&service, &sent).await));
    assert_eq!(ids(&results(&send(&service, &sent).await)), first);
    let reversed: Vec<Value> = sent.iter().rev().cloned().collect();
    let mut again = ids(&results(&send(&service, &reversed).await));
    again.reverse();
    assert_eq!(again, first);
    for (notification, id) in sent.iter().zip(first) {
        let alone = service.send(service.post("/notify", notification.to_string())).await;
        assert_eq!(alone.json()["id"], id, "{notification}");
    }
    assert_eq!(recorded(&service).await, ["a", "put", "a", "missing"]);
}

#[tokio::test]
async fn an_array_waits_until_all_have_ended() {
    let service = Service::start().await;
    service.put("good", MOVIE).await;
    service.put("bad", r#"{"title": ""}"#).await;
    let sent = [bare("good"), json!({}), bare("bad"), bare("missing")];
    let response = send_waiting(&service, &sent, 30).await;
    assert_eq!(response.header("preference-applied"), "wait=30");
    let results = results(&response);
    assert_eq!(statuses(&results), [200, 422, 200, 200]);
    for (index, state) in [(0, "succeeded"), (2, "rejected"), (3, "gone")] {
        let ingest = &results[index]["ingest"];
        assert_eq!(ingest["state"], state, "{ingest}");
        // A list of ingests has no violations, and neither has this one.
        let mut whole = service.get_ingest(&ingest["id"]).await;
        let violations = whole.as_object_mut().unwrap().remove("violations").unwrap();
        assert_eq!(whole, *ingest);
        assert_eq!(violations.as_array().unwrap().len() as u64 > 0, state == "rejected");
    }
}

#[tokio::test]
async fn when_the_time_is_up_those_that_have_ended_are_told_apart() {
    let service = Service::start_without_workers().await;
    let started = Instant::now();
    let sent = [bare("open"), bare("ended"), bare("also-open")];
    let end = async {
        eventually(async || recorded(&service).await.len() == 3).await;
        let end = "update ingests set state = 'succeeded', finished_at = now(), ordered_at = now(),
            inserted = 0, updated = 0, unchanged = 0 where key = 'ended'";
        service.sql().await.execute(end, &[]).await.unwrap();
    };
    let (response, ()) = tokio::join!(send_waiting(&service, &sent, 2), end);
    assert!((2..12).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    assert_eq!(statuses(&results(&response)), [202, 200, 202]);
    // Without the preference nobody has waited.
    assert_eq!(statuses(&results(&send(&service, &sent).await)), [202, 202, 202]);
}

#[tokio::test]
async fn an_array_has_1_to_100_notifications() {
    let service = Service::start_without_workers().await;
    for (length, found) in
        [(0, "an empty array"), (101, "an array of 101: send them in several requests")]
    {
        let response = send(&service, &keys("k", length)).await;
        assert_eq!(response.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", response.text);
        assert_eq!(response.header("content-type"), "application/problem+json");
        let violation = &response.json()["violations"][0];
        assert_eq!(violation["expected"], "an array of 1 to 100 notifications", "{violation}");
        assert_eq!(violation["found"], found, "{violation}");
    }
    for malformed in ["[", "[{]", "[{},]", "[{}] {}"] {
        let response = service.send(service.post("/notify", malformed)).await;
        assert_eq!(response.status, StatusCode::BAD_REQUEST, "{malformed}: {}", response.text);
        assert_eq!(response.json()["code"], "malformed_json");
    }
    assert_eq!(recorded(&service).await, [""; 0]);

    // The longest that S3 sends. JSON takes six bytes for a control character.
    let longest = |number: usize| {
        json!({
            "bucket": "b".repeat(63), "key": format!("{number:04}{}", "\u{1}".repeat(1020)),
            "version_id": "v".repeat(1024), "etag": format!("{}-10000", "e".repeat(32)),
            "sequencer": "0".repeat(64), "event_time": "2026-01-01T00:00:00.123Z",
            "size": 1_u64 << 40,
        })
    };
    let longest: Vec<Value> = (0..100).map(longest).collect();
    let results = results(&send(&service, &longest).await);
    assert_eq!(statuses(&results), [202; 100]);
    for (notification, result) in longest.iter().zip(&results) {
        assert_eq!(notification["key"], result["ingest"]["key"]);
    }
    assert_eq!(recorded(&service).await.len(), 100);
}

#[tokio::test]
async fn the_body_of_an_array_may_be_larger_than_that_of_one_notification() {
    let service = Service::start_without_workers().await;
    let padded = |text: &str, length: usize| format!("{text}{}", " ".repeat(length - text.len()));
    let (one, array) = (bare("k").to_string(), json!([bare("k")]).to_string());
    for (text, length, status) in [
        (&one, 64 << 10, StatusCode::ACCEPTED),
        (&one, (64 << 10) + 1, StatusCode::PAYLOAD_TOO_LARGE),
        (&array, 1 << 20, StatusCode::ACCEPTED),
        (&array, (1 << 20) + 1, StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let response = service.send(service.post("/notify", padded(text, length))).await;
        assert_eq!(response.status, status, "{length}: {}", response.text);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_database_all_is_refused_and_can_be_sent_again() {
    let socket = postgres().await.socket_dir().to_owned();
    let mut proxy = Proxy::to(Upstream::Postgres(socket)).await;
    let service = Service::builder()
        .config(|config| {
            let (host, port) = (proxy.address.ip().to_string(), proxy.address.port());
            config.database = Database { host, port, ..config.database.clone() };
            config.workers = 0;
        })
        .start()
        .await;
    let mut sent: Vec<Value> = (0..5).map(|second| at_second("k", second)).collect();
    sent.insert(2, json!({ "bucket": BUCKET }));
    let refused = async || {
        let response = send(&service, &sent).await;
        assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE, "{}", response.text);
        assert!(response.header("retry-after").parse::<u64>().is_ok());
        assert_eq!(response.json()["code"], "unavailable");
    };
    proxy.refuse().await;
    proxy.reset();
    refused().await;
    proxy.accept().await;
    assert_eq!(recorded(&service).await, [""; 0]);

    // The connection breaks at the fourth of them.
    let broken = proxy.on(Direction::ToServer, "0003", 1, Action::Close);
    refused().await;
    assert_eq!(broken.matches().len(), 1, "the connection did not break");

    let first = results(&send(&service, &sent).await);
    assert_eq!(statuses(&first), [202, 202, 422, 202, 202, 202]);
    assert_eq!(results(&send(&service, &sent).await), first);
    assert_eq!(recorded(&service).await.len(), 5, "one was recorded twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_is_asked_about_16_objects_at_once() {
    let proxy = Proxy::start().await;
    let service = Service::builder()
        .config(|config| config.workers = 0)
        .objects_through(&proxy)
        .start()
        .await;
    let sent = keys("k", 40);
    for key in &sent {
        service.put(key["key"].as_str().unwrap(), MOVIE).await;
    }
    let held = proxy.on(Direction::ToServer, &format!("HEAD /{BUCKET}/"), usize::MAX, Action::Hold);
    let release = async {
        held.wait_for_matches(16).await;
        sleep(Duration::from_millis(300)).await;
        assert_eq!(held.matches().len(), 16);
        held.disarm();
        held.release();
    };
    let (response, ()) = tokio::join!(send(&service, &sent), release);
    let results = results(&response);
    for (notification, result) in sent.iter().zip(&results) {
        assert_eq!(result["ingest"]["key"], notification["key"], "{result}");
        assert!(result["ingest"]["etag"].is_string(), "not described: {result}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_store_that_does_not_respond_delays_an_array_no_longer_than_one_object() {
    let proxy = Proxy::start().await;
    let service = Service::builder()
        .config(|config| config.workers = 0)
        .objects_through(&proxy)
        .start()
        .await;
    proxy.freeze();
    let started = Instant::now();
    let response = send(&service, &keys("k", 100)).await;
    assert_eq!(statuses(&results(&response)), [202; 100]);
    let took = started.elapsed();
    assert!((5..20).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test]
async fn the_function_sends_an_array_and_reads_the_results() {
    let change = |config: &mut Config| config.buckets = vec![BUCKET.to_owned()];
    let service = Service::builder().config(change).start().await;
    let client = function(&service, Token::Fixed(Secret::new(TOKEN)), no_secrets()).await;
    let other = parse(&json!({ "bucket": "another-bucket", "key": "k" }));
    let sent = [parse(&at_second("a", 1)), other, parse(&at_second("b", 2))];
    let results = client.notify(&sent, "r", &TraceParent::random()).await;
    let [Ok(()), Err(error), Ok(())] = &*results else { panic!("{results:?}") };
    assert!(error.is_permanent());
    assert_eq!(error.to_string(), "the API responded with 422 Unprocessable Entity");
    assert_eq!(error.problem().unwrap()["violations"][0]["pointer"], "/bucket");
    assert_eq!(recorded(&service).await, ["a", "b"]);
    let same_request = "select count(distinct request_id) + count(distinct trace_id) from ingests";
    let number: i64 = service.sql().await.query_one(same_request, &[]).await.unwrap().get(0);
    assert_eq!(number, 2);
}
