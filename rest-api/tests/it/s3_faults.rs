//! The bucket answers wrongly, slowly, or not at all: a proxy before the real endpoint sees to it.

use std::time::Duration;

use aws_sdk_s3::{config::retry::RetryConfig, primitives::ByteStream};
use futures_util::future::join_all;
use rest_api::config::Retry;
use serde_json::{Value, json};

use crate::{
    proxy::{Act, Proxy, Upstream, Way},
    service::{BUCKET, Service, without_id},
};

const FOR_EVER: usize = usize::MAX;

fn movies(key: &str) -> Vec<Value> {
    let movie = |number| json!({ "title": format!("{key} {number}"), "year": 2000, "cast": [], "genres": ["Drama"] });
    (10..60).map(movie).collect()
}

fn lines(movies: &[Value]) -> String {
    movies.iter().map(|movie| format!("{movie}\n")).collect()
}

/// The line of the file that is somewhere in its middle.
fn middle(key: &str) -> String {
    lines(&movies(key)[25..26])
}

/// Puts the file `key`, as one does who sends no checksum with it.
async fn put(service: &Service, key: &str) {
    let body = ByteStream::from(lines(&movies(key)).into_bytes());
    let put = service.s3.put_object().bucket(BUCKET).key(key).body(body).customize();
    let checksum = aws_sdk_s3::config::RequestChecksumCalculation::WhenRequired;
    let config = aws_sdk_s3::Config::builder().request_checksum_calculation(checksum);
    put.config_override(config).send().await.unwrap();
}

/// What the event says of the file `key`. The service need not look at the object then.
async fn event(service: &Service, key: &str) -> Value {
    let head = service.s3.head_object().bucket(BUCKET).key(key).send().await.unwrap();
    json!({
        "bucket": BUCKET, "key": key, "etag": head.e_tag, "size": head.content_length,
        "event_time": "2026-01-01T00:00:00Z",
    })
}

/// An answer of S3's own kind.
fn error(status: &str, code: &str, message: &str) -> Act {
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
    Act::Answer((head + &body).into())
}

fn slow_down() -> Act {
    error("503 Slow Down", "SlowDown", "Please reduce your request rate.")
}

fn access_denied() -> Act {
    error("403 Forbidden", "AccessDenied", "Access Denied")
}

fn no_such_key() -> Act {
    error("404 Not Found", "NoSuchKey", "The specified key does not exist.")
}

/// A key; where in its answers what goes wrong, how often; and the attempts that the ingest takes.
type Fault = (&'static str, Way, String, usize, Act, i32);

/// Faults that pass. The SDK by itself asks up to three times for the head of an answer.
fn passing_faults() -> Vec<Fault> {
    let get = |key: &str| format!("GET /{BUCKET}/{key}?");
    let (up, down) = (Way::Up, Way::Down);
    let whole = lines(&movies("shorter"));
    let length = |length: usize| format!("content-length: {length}\r\n");
    // To the end of a line, so that what is left would be a valid file.
    let shorter = length(lines(&movies("shorter")[..25]).len());
    let pace = Act::Pace(16, Duration::from_millis(5));
    vec![
        ("slow", down, middle("slow"), 1, pace, 1),
        ("closed", up, get("closed"), 1, Act::Cut, 1),
        ("cut", down, r#""title":"cut 35""#.to_owned(), 1, Act::Cut, 2),
        ("cut-between-lines", down, middle("cut-between-lines"), 1, Act::Cut, 2),
        ("shorter", down, length(whole.len()), 1, Act::Replace(shorter.into()), 2),
        ("no-tag", down, "etag: ".to_owned(), 1, Act::Replace("x-etag: ".into()), 2),
        ("internal-error", up, get("internal-error"), 1, internal_error(), 1),
        ("slow-down", up, get("slow-down"), 4, slow_down(), 2),
        ("denied", up, get("denied"), 1, access_denied(), 2),
    ]
}

fn internal_error() -> Act {
    let message = "We encountered an internal error. Please try again.";
    error("500 Internal Server Error", "InternalError", message)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_that_passes_delays_a_file_and_changes_nothing_of_it() {
    let (service, proxy) = Service::start_behind_a_proxy().await;
    for (key, way, pattern, times, act, attempts) in passing_faults() {
        let rule = proxy.on(way, &pattern, times, act);
        put(&service, key).await;
        let ingest = service.notify(&event(&service, key).await).await;
        assert_eq!(rule.passings().len(), times, "{key} did not happen");
        assert_eq!(
            (&ingest["state"], &ingest["attempts"]),
            (&json!("succeeded"), &json!(attempts)),
            "{key}: {ingest}"
        );
        assert_eq!((&ingest["inserted"], &ingest["error"]), (&json!(50), &Value::Null), "{key}");
        let found = service.movies(&format!("title={key} ")).await;
        let found: Vec<Value> = found.iter().map(without_id).collect();
        assert_eq!(found, movies(key), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_unannounced_length_is_not_trusted_to_be_whole() {
    let (service, proxy) = Service::start_behind_a_proxy().await;
    put(&service, "k").await;
    let event = event(&service, "k").await;
    let etag = event["etag"].as_str().unwrap();
    let half = lines(&movies("k")[..25]);
    let answer = format!("HTTP/1.1 200 OK\r\nETag: {etag}\r\nConnection: close\r\n\r\n{half}");
    let rule = proxy.on(Way::Up, "GET /movies/k?", 1, Act::Answer(answer.into()));
    let ingest = service.notify(&event).await;
    rule.passed(1).await;
    assert_eq!(
        json!([ingest["state"], ingest["attempts"], ingest["inserted"]]),
        json!(["succeeded", 2, 50]),
        "{ingest}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_byte_is_noticed_where_the_object_has_a_checksum() {
    let (service, proxy) = Service::start_behind_a_proxy().await;
    let changed = middle("changed").replace("Drama", "Opera");
    let rule = proxy.on(Way::Down, &middle("changed"), 1, Act::Replace(changed.into()));
    let ingest = service.ingest("changed", lines(&movies("changed"))).await;
    rule.passed(1).await;
    assert_eq!(
        (&ingest["state"], &ingest["attempts"]),
        (&json!("succeeded"), &json!(2)),
        "{ingest}"
    );
    assert_eq!(service.movies("genre=opera").await.len(), 0);
}

/// What goes wrong for ever, and the attempts, the code and the detail of the error in the end.
fn lasting_faults() -> Vec<(&'static str, Way, String, Act, i32, &'static str, &'static str)> {
    let get = |key: &str| format!("GET /{BUCKET}/{key}?");
    let (unavailable, refused) = ("object_store_unavailable", "object_refused");
    vec![
        ("cut", Way::Down, middle("cut"), Act::Cut, 3, unavailable, "the object's body broke off"),
        ("closed", Way::Up, get("closed"), Act::Cut, 3, unavailable, "the store did not answer"),
        ("slow-down", Way::Up, get("slow-down"), slow_down(), 3, unavailable, "SlowDown"),
        ("denied", Way::Up, get("denied"), access_denied(), 2, refused, "AccessDenied"),
        ("gone", Way::Up, get("gone"), no_such_key(), 1, "object_gone", "NoSuchKey"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_that_lasts_fails_the_ingest_with_its_reason_and_stores_nothing() {
    let (service, proxy) = Service::start_behind_a_proxy().await;
    let (service, proxy) = (&service, &proxy);
    // All at once: the SDK has its own pauses.
    join_all(lasting_faults().into_iter().map(
        async |(key, way, pattern, act, attempts, code, detail)| {
            let rule = proxy.on(way, &pattern, FOR_EVER, act);
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
                json!(["failed", attempts, code, detail]),
                "{key}: {failed}"
            );
            rule.disarm();
            assert_eq!(service.movies(&format!("title={key} ")).await.len(), 0, "{key}");

            // And the same notification, once the fault is over, loads it.
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
async fn a_throttling_bucket_is_asked_ever_more_seldom_and_not_for_ever() {
    let proxy = Proxy::start().await;
    let endpoint = format!("http://{}", proxy.address);
    let retry = Retry {
        max_attempts: 5,
        max_attempts_refused: 1,
        base_delay: Duration::from_millis(200),
        max_delay: Duration::from_millis(800),
    };
    let service = Service::start_with_reading(
        |config| config.retry = retry,
        |s3| {
            let builder = s3.config().to_builder().endpoint_url(endpoint);
            builder.retry_config(RetryConfig::disabled()).build()
        },
    )
    .await;
    proxy.lead_to(Upstream::Tcp(service.s3_address));
    let rule = proxy.on(Way::Up, "GET /movies/k?", FOR_EVER, slow_down());
    put(&service, "k").await;
    let failed = service.notify(&event(&service, "k").await).await;
    assert_eq!((&failed["state"], &failed["attempts"]), (&json!("failed"), &json!(5)), "{failed}");
    let passings = rule.passings();
    let pauses: Vec<u128> =
        passings.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    // Half of each pause at least; how long a busy machine makes it is another matter.
    let least = [100, 200, 400, 400];
    assert_eq!(pauses.len(), least.len());
    assert!(pauses.iter().zip(least).all(|(pause, least)| *pause >= least), "{pauses:?}");
}

/// With the timeouts of production, which take 20 s to strike.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_falls_silent_is_asked_again() {
    let (service, proxy) = Service::start_behind_a_proxy().await;
    let longer = lines(&movies("longer")).len();
    let length = |length: usize| format!("content-length: {length}\r\n");
    let (up, down) = (Way::Up, Way::Down);
    let silences = [
        // The SDK notices by itself, and asks again within the attempt.
        ("silent", up, "GET /movies/silent?".to_owned(), Act::Hold, 1),
        ("stalled", down, middle("stalled"), Act::Hold, 2),
        ("longer", down, length(longer), Act::Replace(length(longer + 1).into()), 2),
    ];
    let (service, proxy) = (&service, &proxy);
    join_all(silences.map(async |(key, way, pattern, act, attempts)| {
        let rule = proxy.on(way, &pattern, 1, act);
        put(service, key).await;
        let ingest = service.notify(&event(service, key).await).await;
        rule.passed(1).await;
        assert_eq!(
            json!([ingest["state"], ingest["attempts"], ingest["inserted"]]),
            json!(["succeeded", attempts, 50]),
            "{key}: {ingest}"
        );
    }))
    .await;
}
