//! Faults of the object store, injected by a proxy in front of the S3 endpoint.

use std::time::Duration;

use aws_sdk_s3::{config::retry::RetryConfig, primitives::ByteStream};
use futures_util::future::join_all;
use rest_api::config::Retry;
use serde_json::{Value, json};

use crate::support::{
    BUCKET, Service,
    movies::{ndjson, numbered_movies},
    proxy::{
        Action,
        Direction::{self, ToClient, ToServer},
        Proxy,
    },
};

const ALWAYS: usize = usize::MAX;

fn movies(key: &str) -> Vec<Value> {
    numbered_movies(key, 10..60, "Drama")
}

/// Returns a line from the middle of the file.
fn middle(key: &str) -> String {
    ndjson(&movies(key)[25..26])
}

/// Puts the file `key` without a checksum.
async fn put(service: &Service, key: &str) {
    let body = ByteStream::from(ndjson(&movies(key)).into_bytes());
    let put = service.s3.put_object().bucket(BUCKET).key(key).body(body).customize();
    let checksum = aws_sdk_s3::config::RequestChecksumCalculation::WhenRequired;
    let config = aws_sdk_s3::Config::builder().request_checksum_calculation(checksum);
    put.config_override(config).send().await.unwrap();
}

/// Returns a notification of `key` that has all attributes of the object, so that the service sends
/// no HEAD request.
async fn event(service: &Service, key: &str) -> Value {
    let head = service.s3.head_object().bucket(BUCKET).key(key).send().await.unwrap();
    json!({
        "bucket": BUCKET, "key": key, "etag": head.e_tag, "size": head.content_length,
        "event_time": "2026-01-01T00:00:00Z",
    })
}

/// Returns an error response as S3 sends it.
fn error(status: &str, code: &str, message: &str) -> Action {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
         <Message>{message}</Message><RequestId>656c76696e6727732072657175657374</RequestId>\
         <HostId>Uuag1LuByRx9e6j5Onimru9pO4ZVKnJ2Qz7/C1NPcfTWAtRPfTaOFg==</HostId></Error>"
    );
    let head = format!(
        "HTTP/1.1 {status}\r\nx-amz-request-id: 656c76696e672773\r\nContent-Type: application/xml\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    Action::Respond((head + &body).into())
}

fn slow_down() -> Action {
    error("503 Slow Down", "SlowDown", "Please reduce your request rate.")
}

fn access_denied() -> Action {
    error("403 Forbidden", "AccessDenied", "Access Denied")
}

fn no_such_key() -> Action {
    error("404 Not Found", "NoSuchKey", "The specified key does not exist.")
}

/// A key; the direction, pattern, number and action of its fault; and the possible attempts of the ingest.
type TransientFault = (&'static str, Direction, String, usize, Action, &'static [i32]);

/// The SDK retries twice within an attempt, until it has the head of a response. Its delays are random: if they
/// take more than two seconds, the small file goes on alone in the same attempt.
fn transient_faults() -> Vec<TransientFault> {
    let get = |key: &str| format!("GET /{BUCKET}/{key}?");
    let whole = ndjson(&movies("shorter"));
    let length = |length: usize| format!("content-length: {length}\r\n");
    // Up to the end of a line, so that the rest is a valid file.
    let shorter = length(ndjson(&movies("shorter")[..25]).len());
    let throttle = Action::Throttle(16, Duration::from_millis(5));
    vec![
        ("slow", ToClient, middle("slow"), 1, throttle, &[1]),
        ("closed", ToServer, get("closed"), 1, Action::Close, &[1]),
        ("cut", ToClient, r#""title":"cut 35""#.to_owned(), 1, Action::Close, &[2]),
        ("cut-between-lines", ToClient, middle("cut-between-lines"), 1, Action::Close, &[2]),
        ("shorter", ToClient, length(whole.len()), 1, Action::Replace(shorter.into()), &[2]),
        ("no-tag", ToClient, "etag: ".to_owned(), 1, Action::Replace("x-etag: ".into()), &[2]),
        ("internal-error", ToServer, get("internal-error"), 1, internal_error(), &[1]),
        ("slow-down", ToServer, get("slow-down"), 4, slow_down(), &[1, 2]),
        ("denied", ToServer, get("denied"), 1, access_denied(), &[2]),
    ]
}

fn internal_error() -> Action {
    let message = "We encountered an internal error. Please try again.";
    error("500 Internal Server Error", "InternalError", message)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transient_fault_delays_a_file_and_does_not_change_it() {
    let proxy = Proxy::start().await;
    let service = Service::builder().objects_through(&proxy).start().await;
    for (key, direction, pattern, times, action, attempts) in transient_faults() {
        let rule = proxy.on(direction, &pattern, times, action);
        put(&service, key).await;
        let ingest = service.notify(&event(&service, key).await).await;
        assert_eq!(rule.matches().len(), times, "{key}: no fault");
        assert_eq!(ingest["state"], "succeeded", "{key}: {ingest}");
        assert!(attempts.iter().any(|count| ingest["attempts"] == *count), "{key}: {ingest}");
        assert_eq!((&ingest["inserted"], &ingest["error"]), (&json!(50), &Value::Null), "{key}");
        let found = service.movies_without_ids(&format!("title={key} ")).await;
        assert_eq!(found, movies(key), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_body_without_a_content_length_is_detected() {
    let proxy = Proxy::start().await;
    let service = Service::builder().objects_through(&proxy).start().await;
    put(&service, "k").await;
    let event = event(&service, "k").await;
    let etag = event["etag"].as_str().unwrap();
    let half = ndjson(&movies("k")[..25]);
    let response = format!("HTTP/1.1 200 OK\r\nETag: {etag}\r\nConnection: close\r\n\r\n{half}");
    let rule = proxy.on(ToServer, "GET /movies/k?", 1, Action::Respond(response.into()));
    let ingest = service.notify(&event).await;
    rule.wait_for_matches(1).await;
    assert_eq!(
        json!([ingest["state"], ingest["attempts"], ingest["inserted"]]),
        json!(["succeeded", 2, 50]),
        "{ingest}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_byte_is_detected_if_the_object_has_a_checksum() {
    let proxy = Proxy::start().await;
    let service = Service::builder().objects_through(&proxy).start().await;
    let changed = middle("changed").replace("Drama", "Opera");
    let rule = proxy.on(ToClient, &middle("changed"), 1, Action::Replace(changed.into()));
    let ingest = service.ingest("changed", ndjson(&movies("changed"))).await;
    rule.wait_for_matches(1).await;
    assert_eq!(
        (&ingest["state"], &ingest["attempts"]),
        (&json!("succeeded"), &json!(2)),
        "{ingest}"
    );
    assert_eq!(service.movies("genre=opera").await.len(), 0);
}

/// A key; the direction, pattern and action of its fault; the attempts of the ingest; code and detail
/// of its error.
type PermanentFault = (&'static str, Direction, String, Action, i32, &'static str, &'static str);

fn permanent_faults() -> Vec<PermanentFault> {
    let get = |key: &str| format!("GET /{BUCKET}/{key}?");
    let (unavailable, refused) = ("object_store_unavailable", "object_refused");
    vec![
        (
            "cut",
            ToClient,
            middle("cut"),
            Action::Close,
            3,
            unavailable,
            "the object's body was cut short",
        ),
        (
            "closed",
            ToServer,
            get("closed"),
            Action::Close,
            3,
            unavailable,
            "the object store did not respond",
        ),
        ("slow-down", ToServer, get("slow-down"), slow_down(), 3, unavailable, "SlowDown"),
        ("denied", ToServer, get("denied"), access_denied(), 2, refused, "AccessDenied"),
        ("gone", ToServer, get("gone"), no_such_key(), 2, "object_gone", "NoSuchKey"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permanent_fault_fails_the_ingest_with_its_reason_and_stores_nothing() {
    let proxy = Proxy::start().await;
    let service = Service::builder().objects_through(&proxy).start().await;
    let (service, proxy) = (&service, &proxy);
    // Concurrently, because the SDK waits between its retries.
    join_all(permanent_faults().into_iter().map(
        async |(key, direction, pattern, action, attempts, code, detail)| {
            let rule = proxy.on(direction, &pattern, ALWAYS, action);
            put(service, key).await;
            let notification = event(service, key).await;
            let failed = service.notify(&notification).await;
            assert_eq!(
                json!([
                    failed["state"],
                    failed["attempts"],
                    failed["error"]["code"],
                    failed["error"]["detail"]
                ]),
                json!([if key == "gone" { "gone" } else { "failed" }, attempts, code, detail]),
                "{key}: {failed}"
            );
            rule.disarm();
            assert_eq!(service.movies(&format!("title={key} ")).await.len(), 0, "{key}");

            // After the fault, the same notification succeeds.
            let again = service.notify(&notification).await;
            assert_eq!(
                json!([again["id"], again["state"], again["inserted"]]),
                json!([failed["id"], "succeeded", 50]),
                "{key}: {again}"
            );
        },
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttling_bucket_is_retried_with_backoff_up_to_the_last_attempt() {
    let proxy = Proxy::start().await;
    let retry = Retry {
        max_attempts: 5,
        max_attempts_refused: 1,
        base_delay: Duration::from_millis(200),
        max_delay: Duration::from_millis(800),
        ..Retry::default()
    };
    let service = Service::builder()
        .config(|config| config.retry = retry)
        .objects_through(&proxy)
        .s3_config(|s3| s3.retry_config(RetryConfig::disabled()))
        .start()
        .await;
    let rule = proxy.on(ToServer, "GET /movies/k?", ALWAYS, slow_down());
    put(&service, "k").await;
    let failed = service.notify(&event(&service, "k").await).await;
    assert_eq!((&failed["state"], &failed["attempts"]), (&json!("failed"), &json!(5)), "{failed}");
    let matches = rule.matches();
    let delays: Vec<u128> =
        matches.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    // At least half of each configured delay. A busy machine can make it longer.
    let least = [100, 200, 400, 400];
    assert_eq!(delays.len(), least.len());
    assert!(delays.iter().zip(least).all(|(delay, least)| *delay >= least), "{delays:?}");
}

/// The timeouts are those of production: 20 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_a_silent_bucket_times_out_and_is_retried() {
    let proxy = Proxy::start().await;
    let service = Service::builder().objects_through(&proxy).start().await;
    let longer = ndjson(&movies("longer")).len();
    let length = |length: usize| format!("content-length: {length}\r\n");
    let silences = [
        // The SDK retries within the attempt. On a busy machine the attempt may end first, and is retried.
        ("silent", ToServer, "GET /movies/silent?".to_owned(), Action::Hold, [1, 2]),
        // A small file that is slow goes on alone, in the same attempt.
        ("stalled", ToClient, middle("stalled"), Action::Hold, [1, 1]),
        // So does this one if it is in a batch with the others. In a batch of its own it is retried.
        ("longer", ToClient, length(longer), Action::Replace(length(longer + 1).into()), [1, 2]),
    ];
    let (service, proxy) = (&service, &proxy);
    join_all(silences.map(async |(key, direction, pattern, action, attempts)| {
        let rule = proxy.on(direction, &pattern, 1, action);
        put(service, key).await;
        let ingest = service.notify(&event(service, key).await).await;
        rule.wait_for_matches(1).await;
        let found = json!([ingest["state"], ingest["inserted"]]);
        assert_eq!(found, json!(["succeeded", 50]), "{key}: {ingest}");
        assert!(attempts.iter().any(|count| ingest["attempts"] == *count), "{key}: {ingest}");
    }))
    .await;
}
