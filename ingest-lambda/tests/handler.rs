//! Tests of the handler with a local HTTP server as the API.

#![expect(clippy::unwrap_used, reason = "unwrapping fails a test")]
#![expect(clippy::disallowed_methods, reason = "limits and timeouts do not matter in a test")]

use std::{
    collections::HashSet,
    io::{self, Write},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use aws::{SecretsManager, trace::TraceParent};
use ingest_lambda::{ApiClient, Config, InvocationError, handle};
use lambda_runtime::{Context, Diagnostic, LambdaEvent};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use warp::{Filter, http::StatusCode};

/// The requests that the API received: `authorization`, `x-request-id`, body, `traceparent`.
type Requests = Arc<Mutex<Vec<(String, String, Value, String)>>>;

/// Starts an API that responds with `status` as a whole, and with results for an array. A key that
/// starts with "bad" gets 500, one that starts with "refused" 422.
async fn start_api(status: StatusCode) -> (SocketAddr, Requests) {
    start(move |body| respond(status, body)).await
}

/// Starts an API of the release before, which takes one notification a request.
async fn start_old_api() -> (SocketAddr, Requests) {
    start(|body| match body {
        Value::Array(_) => (StatusCode::UNPROCESSABLE_ENTITY, problem()),
        body => respond(StatusCode::ACCEPTED, body),
    })
    .await
}

fn problem() -> Value {
    json!({ "type": "about:blank", "status": 422, "code": "violations" })
}

/// Returns what the API responds to `body`.
fn respond(status: StatusCode, body: &Value) -> (StatusCode, Value) {
    let respond_to = |notification: &Value| match notification["key"].as_str().unwrap() {
        key if key.starts_with("bad") => (StatusCode::INTERNAL_SERVER_ERROR, json!({})),
        key if key.starts_with("refused") => (StatusCode::UNPROCESSABLE_ENTITY, problem()),
        _ => (status, json!({ "id": 1 })),
    };
    let Value::Array(notifications) = body else { return respond_to(body) };
    if !status.is_success() {
        return (status, json!({}));
    }
    let results = notifications.iter().map(|notification| {
        let (status, body) = respond_to(notification);
        let name = if status.is_success() { "ingest" } else { "problem" };
        json!({ "status": status.as_u16(), name: body })
    });
    (StatusCode::ACCEPTED, results.collect())
}

/// Starts an API that responds to a body with what `respond` returns.
async fn start(
    respond: impl Fn(&Value) -> (StatusCode, Value) + Clone + Send + Sync + 'static,
) -> (SocketAddr, Requests) {
    let requests = Requests::default();
    let log = Arc::clone(&requests);
    let route = warp::path!("notify")
        .and(warp::post())
        .and(warp::header("authorization"))
        .and(warp::header("x-request-id"))
        .and(warp::body::json())
        .and(warp::header("traceparent"))
        .map(move |authorization: String, request_id: String, body: Value, trace: String| {
            let (status, response) = respond(&body);
            log.lock().unwrap().push((authorization, request_id, body, trace));
            let success = status.is_success();
            let media_type = if success { "application/json" } else { "application/problem+json" };
            let response = warp::reply::with_status(response.to_string(), status);
            warp::reply::with_header(response, "content-type", media_type)
        });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(warp::serve(route).incoming(listener).run());
    (address, requests)
}

async fn client(address: SocketAddr) -> ApiClient {
    let url = format!("http://{address}/notify");
    let config = Config::from_lookup(|name| match name {
        "MRU_API_URL" => Some(url.clone()),
        "MRU_API_TOKEN" => Some("secret".to_owned()),
        _ => None,
    });
    let sdk = aws_config::SdkConfig::builder();
    let sdk = sdk.behavior_version(aws_config::BehaviorVersion::latest()).build();
    ApiClient::new(&config.unwrap(), SecretsManager::new(&sdk)).await.unwrap()
}

fn record(name: &str, key: &str) -> Value {
    json!({
        "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "eu-west-1",
        "eventTime": "2026-11-01T10:00:00.123Z", "eventName": name,
        "userIdentity": { "principalId": "p" }, "requestParameters": { "sourceIPAddress": "10.0.0.1" },
        "responseElements": { "x-amz-request-id": "r" },
        "s3": {
            "s3SchemaVersion": "1.0", "configurationId": "c",
            "bucket": { "name": "b", "ownerIdentity": { "principalId": "p" }, "arn": "arn:aws:s3:::b" },
            "object": { "key": key, "size": 12, "eTag": "e", "versionId": "v", "sequencer": "0A" },
        },
    })
}

fn event(payload: Value) -> LambdaEvent<Value> {
    let mut context = Context::default();
    context.request_id = "request-1".to_owned();
    LambdaEvent::new(payload, context)
}

/// Returns an event that these objects were created.
fn created(keys: &[&str]) -> LambdaEvent<Value> {
    let records: Vec<Value> = keys.iter().map(|key| record("ObjectCreated:Put", key)).collect();
    event(json!({ "Records": records }))
}

/// Returns the keys of each request: one for an object, all for an array.
fn keys(requests: &Requests) -> Vec<Value> {
    let keys_of = |body: &Value| match body {
        Value::Array(notifications) => {
            notifications.iter().map(|notification| notification["key"].clone()).collect()
        }
        notification => notification["key"].clone(),
    };
    requests.lock().unwrap().iter().map(|(_, _, body, _)| keys_of(body)).collect()
}

#[tokio::test]
async fn the_records_of_an_event_become_one_request() {
    let (address, requests) = start_api(StatusCode::ACCEPTED).await;
    let records = json!({ "Records": [
        record("ObjectCreated:Put", "a/with+space%2Bplus%25%C3%BC%28%29%26.json"),
        record("ObjectRemoved:Delete", "removed.json"),
        record("ObjectCreated:CompleteMultipartUpload", "plain.json"),
    ] });
    handle(&client(address).await, event(records)).await.unwrap();
    let requests = requests.lock().unwrap();
    let [(authorization, request_id, body, _)] = &**requests else { panic!("{requests:?}") };
    assert_eq!((authorization.as_str(), request_id.as_str()), ("Bearer secret", "request-1"));
    let notification = |key: &str| {
        json!({
            "bucket": "b", "key": key, "version_id": "v", "etag": "e", "sequencer": "0A",
            "event_time": "2026-11-01T10:00:00.123Z", "size": 12,
        })
    };
    let expected = ["a/with space+plus%ü()&.json", "plain.json"].map(notification);
    assert_eq!(*body, json!(expected));
}

#[tokio::test]
async fn a_single_record_is_sent_as_an_object() {
    for (address, requests) in [start_api(StatusCode::ACCEPTED).await, start_old_api().await] {
        handle(&client(address).await, created(&["k"])).await.unwrap();
        assert_eq!(keys(&requests), [json!("k")]);
    }
}

#[tokio::test]
async fn one_request_has_at_most_100_notifications() {
    let (address, requests) = start_api(StatusCode::ACCEPTED).await;
    let names: Vec<String> = (0..201).map(|number| number.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    handle(&client(address).await, created(&names)).await.unwrap();
    assert_eq!(keys(&requests), [json!(names[..100]), json!(names[100..200]), json!("200")]);
}

#[tokio::test]
async fn a_bad_element_fails_the_invocation_and_the_others_are_delivered() {
    let (address, requests) = start_api(StatusCode::ACCEPTED).await;
    let client = client(address).await;
    let error = handle(&client, created(&["a", "refused-1", "b", "refused-2"])).await.unwrap_err();
    assert_eq!(
        response(error),
        (
            "PermanentFault".to_owned(),
            "records that can never be delivered: 2; the first: bucket \"b\", key \"refused-1\": \
             the API responded with 422 Unprocessable Entity"
                .to_owned()
        )
    );
    // The first in the order of the records, whoever found it.
    let error = handle(&client, created(&["a", "refused-1", "b", "%FF"])).await.unwrap_err();
    assert!(response(error).1.contains("delivered: 2; the first: bucket \"b\", key \"refused-1\""));
    let error = handle(&client, created(&["bad", "refused-1", "b"])).await.unwrap_err();
    let transient = "the API responded with 500 Internal Server Error";
    assert_eq!(response(error), ("TransientFailure".to_owned(), transient.to_owned()));
    assert_eq!(
        keys(&requests),
        [
            json!(["a", "refused-1", "b", "refused-2"]),
            json!(["a", "refused-1", "b"]),
            json!(["bad", "refused-1", "b"]),
        ]
    );
}

/// What a subscriber has written.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn each_result_is_logged_with_its_key_and_problem() {
    let log = Log::default();
    let writer = log.clone();
    // For the whole process: with a subscriber for one thread, others decide whether an event is logged.
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone());
    tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
    let (address, _) = start_api(StatusCode::ACCEPTED).await;
    let client = client(address).await;
    // As an array, and alone.
    let arrays: [&[&str]; 3] =
        [&["bad-logged", "refused-logged", "logged"], &["refused-logged"], &["logged"]];
    for keys in arrays {
        let _ = handle(&client, created(keys)).await;
    }
    let log = log.0.lock().unwrap();
    let lines = log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let lines = lines.map(|line| serde_json::from_slice::<Value>(line).unwrap());
    // Other tests log, too.
    let of_result = |line: &Value| {
        let key = line["fields"]["key"].as_str().unwrap_or_default();
        line["fields"]["duration_ms"].is_u64() && key.ends_with("logged")
    };
    let logged: Vec<Value> = lines
        .filter(of_result)
        .map(|line| {
            assert_eq!(line["span"]["trace_id"].as_str().unwrap().len(), 32, "{line}");
            let fields = &line["fields"];
            let problem = fields["problem"].as_str().unwrap_or("null");
            let problem: Value = serde_json::from_str(problem).unwrap();
            let [level, message] = [&line["level"], &fields["message"]];
            json!([level, message, fields["key"], fields["permanent"], problem["code"]])
        })
        .collect();
    let failed = |key: &str, permanent: bool, code: Value| {
        json!(["ERROR", "notification failed", key, permanent, code])
    };
    let delivered = json!(["INFO", "notified the API", "logged", null, null]);
    let refused = failed("refused-logged", true, json!("violations"));
    let expected = [
        failed("bad-logged", false, Value::Null),
        refused.clone(),
        delivered.clone(),
        refused,
        delivered,
    ];
    assert_eq!(logged, expected);
}

#[tokio::test]
async fn an_api_of_the_release_before_gets_each_notification_alone() {
    let (address, requests) = start_old_api().await;
    let client = client(address).await;
    handle(&client, created(&["a", "b"])).await.unwrap();
    assert_eq!(keys(&requests), [json!(["a", "b"]), json!("a"), json!("b")]);
    let error = handle(&client, created(&["refused", "c"])).await.unwrap_err();
    let (error_type, message) = response(error);
    assert_eq!(error_type, "PermanentFault");
    assert!(message.starts_with("records that can never be delivered: 1; "), "{message}");
    assert_eq!(keys(&requests)[3..], [json!(["refused", "c"]), json!("refused"), json!("c")]);
}

#[tokio::test]
async fn a_response_without_a_result_for_each_notification_fails_the_invocation() {
    for malformed in [
        json!(""),
        json!({}),
        json!([]),
        json!([{ "status": 202 }]),
        json!([{ "status": 202 }, { "status": 202 }, { "status": 202 }]),
        json!([{ "status": 202 }, { "status": 2 }]),
        json!([{ "status": 202 }, { "status": "202" }]),
        json!([{ "status": 202 }, 202]),
    ] {
        let answer = malformed.clone();
        let (address, requests) = start(move |_| (StatusCode::ACCEPTED, answer.clone())).await;
        let error = handle(&client(address).await, created(&["a", "b"])).await.unwrap_err();
        let expected =
            ("TransientFailure".to_owned(), "the API's response is malformed".to_owned());
        assert_eq!(response(error), expected, "{malformed}");
        assert_eq!(keys(&requests), [json!(["a", "b"])]);
    }
}

#[tokio::test]
async fn invocation_carries_the_xray_trace_or_a_new_one() {
    let (address, requests) = start_api(StatusCode::ACCEPTED).await;
    let client = client(address).await;
    let two_records =
        json!({ "Records": [record("ObjectCreated:Put", "a"), record("ObjectCreated:Put", "b")] });
    for xray in [
        Some("Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0"),
        Some("Root=malformed"),
        None,
    ] {
        let mut event = event(two_records.clone());
        event.context.xray_trace_id = xray.map(str::to_owned);
        handle(&client, event).await.unwrap();
    }
    let requests = requests.lock().unwrap();
    let traces: Vec<TraceParent> =
        requests.iter().map(|(.., trace)| TraceParent::parse(trace).unwrap()).collect();
    assert_eq!(requests[0].3, "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-00");
    let ids: HashSet<String> = traces.iter().map(|trace| trace.trace_id.to_string()).collect();
    assert_eq!(
        (traces.len(), ids.len()),
        (3, 3),
        "the other invocations have distinct traces: {traces:?}"
    );
}

#[tokio::test]
async fn test_events_and_other_events_are_ignored() {
    let (address, requests) = start_api(StatusCode::ACCEPTED).await;
    for payload in [
        json!({ "Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b" }),
        json!({ "Records": [record("ObjectRemoved:Delete", "k"), record("LifecycleExpiration:Delete", "k")] }),
        json!({ "Records": [] }),
    ] {
        handle(&client(address).await, event(payload)).await.unwrap();
    }
    assert!(requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn status_other_than_2xx_fails_the_invocation_after_all_records() {
    let (address, requests) = start_api(StatusCode::OK).await;
    let error = handle(&client(address).await, created(&["bad", "good"])).await.unwrap_err();
    assert_eq!(error.to_string(), "the API responded with 500 Internal Server Error");
    assert_eq!(keys(&requests), [json!(["bad", "good"])]);
    for status in [StatusCode::FOUND, StatusCode::UNAUTHORIZED, StatusCode::SERVICE_UNAVAILABLE] {
        let (address, _) = start_api(status).await;
        let records = json!({ "Records": [record("ObjectCreated:Put", "k")] });
        assert!(handle(&client(address).await, event(records)).await.is_err(), "{status}");
    }
}

/// Returns the function's response to the invocation, as Lambda receives it: error type and message.
fn response(error: InvocationError) -> (String, String) {
    let diagnostic = Diagnostic::from(error);
    (diagnostic.error_type, diagnostic.error_message)
}

#[tokio::test]
async fn invalid_record_is_a_permanent_fault_and_does_not_block_the_others() {
    let (address, requests) = start_api(StatusCode::OK).await;
    let client = client(address).await;
    let mut no_time = record("ObjectCreated:Put", "no-time.json");
    no_time["eventTime"] = json!("yesterday");
    let mut no_key = record("ObjectCreated:Put", "k");
    no_key["s3"]["object"] = json!({});
    for (invalid, expected) in [
        (
            record("ObjectCreated:Put", "%FF"),
            r#"bucket "b", key "%FF": invalid S3 event: the object"#,
        ),
        (
            record("ObjectCreated:Put", "x%00.json"),
            r#"bucket "b", key "x%00.json": invalid S3 event: object"#,
        ),
        (no_time, r#"bucket "b", key "no-time.json": invalid S3 event: "#),
        (no_key, r#"bucket "b", key "": invalid S3 event: no object key"#),
        (json!(null), r#"bucket "", key "": invalid S3 event: "#),
    ] {
        let records = json!({ "Records": [invalid, record("ObjectCreated:Put", "good")] });
        let error = handle(&client, event(records)).await.unwrap_err();
        let (error_type, message) = response(error);
        assert_eq!(error_type, "PermanentFault", "{message}");
        let start = format!("records that can never be delivered: 1; the first: {expected}");
        assert!(message.starts_with(&start), "{message}");
        assert_eq!(requests.lock().unwrap().pop().unwrap().2["key"], "good");
    }
}

#[tokio::test]
async fn only_refusals_that_never_end_are_permanent() {
    for (status, is_permanent) in [
        (400, true),
        (404, true),
        (413, true),
        (422, true),
        (302, false),
        (401, false),
        (403, false),
        (408, false),
        (429, false),
        (500, false),
        (503, false),
    ] {
        let (address, requests) = start_api(StatusCode::from_u16(status).unwrap()).await;
        let event = created(&["a\u{202e}\u{7}.json", "b.json"]);
        let error = handle(&client(address).await, event).await.unwrap_err();
        // A refusal for good of all is no reason to give up each.
        assert_eq!(requests.lock().unwrap().len(), if is_permanent { 3 } else { 1 });
        let (error_type, message) = response(error);
        let expected = if is_permanent { "PermanentFault" } else { "TransientFailure" };
        assert_eq!(error_type, expected, "{status}");
        if is_permanent {
            let start = "records that can never be delivered: 2; the first: bucket \"b\", key \
                         \"a\\u{202e}\\u{7}.json\": the API responded with";
            assert!(message.starts_with(start), "{message}");
        }
    }
}

#[tokio::test]
async fn transient_failure_decides_the_error_type() {
    // The key "bad" fails with 500.
    for keys in [["bad", "%FF"], ["%FF", "bad"]] {
        let (address, _) = start_api(StatusCode::OK).await;
        let records = json!({ "Records": keys.map(|key| record("ObjectCreated:Put", key)) });
        let error = handle(&client(address).await, event(records)).await.unwrap_err();
        assert_eq!(response(error).0, "TransientFailure", "{keys:?}");
    }
}

#[tokio::test]
async fn unreachable_api_fails_the_invocation() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(listener.local_addr().unwrap()).await;
    drop(listener);
    let records = json!({ "Records": [record("ObjectCreated:Put", "k")] });
    let error = handle(&client, event(records)).await.unwrap_err();
    assert_eq!(error.to_string(), "the API could not be reached");
}

#[tokio::test]
async fn invalid_event_is_a_permanent_fault() {
    let (address, _) = start_api(StatusCode::OK).await;
    let mut no_key = record("ObjectCreated:Put", "k");
    no_key["s3"]["object"] = json!({});
    let not_utf_8 = record("ObjectCreated:Put", "%FF");
    for payload in [
        json!({}),
        json!([]),
        json!("x"),
        json!({ "Records": [no_key] }),
        json!({ "Records": [not_utf_8] }),
    ] {
        let error = handle(&client(address).await, event(payload.clone())).await.unwrap_err();
        assert_eq!(response(error).0, "PermanentFault", "{payload}");
    }
}

#[test]
fn config_error_names_the_variable_and_debug_hides_the_token() {
    let config = |url: Option<&str>, token: Option<&str>| {
        let [url, token] = [url, token].map(|value| value.map(str::to_owned));
        Config::from_lookup(move |name| match name {
            "MRU_API_URL" => url.clone(),
            "MRU_API_TOKEN" => token.clone(),
            _ => None,
        })
    };
    let error = |url, token| config(url, token).err().unwrap().to_string();
    assert_eq!(error(None, Some("t")), "environment variable MRU_API_URL is not set");
    assert_eq!(
        error(Some("http://x/notify"), None),
        "environment variable MRU_API_TOKEN is not set, nor is MRU_API_TOKEN_SECRET_ARN"
    );
    assert_eq!(
        error(Some("x"), Some("t")),
        "environment variable MRU_API_URL is not an http(s) URL: x"
    );
    let debug = format!("{:?}", config(Some("https://x/notify"), Some("to-ken")).unwrap());
    assert!(!debug.contains("to-ken"), "{debug}");
}
