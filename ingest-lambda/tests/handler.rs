//! Tests of the handler with a local HTTP server as the API.

#![expect(clippy::unwrap_used, reason = "unwrapping fails a test")]
#![expect(clippy::disallowed_methods, reason = "limits and timeouts do not matter in a test")]

use std::{
    collections::HashSet,
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

/// Starts an API that responds with `status`, or with 500 if the key starts with "bad".
async fn start_api(status: StatusCode) -> (SocketAddr, Requests) {
    let requests = Requests::default();
    let log = Arc::clone(&requests);
    let route = warp::path!("notify")
        .and(warp::post())
        .and(warp::header("authorization"))
        .and(warp::header("x-request-id"))
        .and(warp::body::json())
        .and(warp::header("traceparent"))
        .map(move |authorization: String, request_id: String, body: Value, trace: String| {
            let bad = body["key"].as_str().unwrap().starts_with("bad");
            log.lock().unwrap().push((authorization, request_id, body, trace));
            warp::reply::with_status(
                "",
                if bad { StatusCode::INTERNAL_SERVER_ERROR } else { status },
            )
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

#[tokio::test]
async fn each_record_becomes_a_notification() {
    let (address, requests) = start_api(StatusCode::ACCEPTED).await;
    let records = json!({ "Records": [
        record("ObjectCreated:Put", "a/with+space%2Bplus%25%C3%BC%28%29%26.json"),
        record("ObjectCreated:CompleteMultipartUpload", "plain.json"),
    ] });
    handle(&client(address).await, event(records)).await.unwrap();
    let requests = requests.lock().unwrap();
    let (authorization, request_id, body, _) = &requests[0];
    assert_eq!((authorization.as_str(), request_id.as_str()), ("Bearer secret", "request-1"));
    let expected = json!({
        "bucket": "b", "key": "a/with space+plus%ü()&.json", "version_id": "v", "etag": "e",
        "sequencer": "0A", "event_time": "2026-11-01T10:00:00.123Z", "size": 12,
    });
    assert_eq!(*body, expected);
    assert_eq!(requests[1].2["key"], "plain.json");
}

#[tokio::test]
async fn notification_carries_the_xray_trace_or_a_new_one() {
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
    let from_xray = "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-00";
    assert_eq!([&*requests[0].3, &*requests[1].3], [from_xray; 2]);
    let ids: HashSet<String> = traces.iter().map(|trace| trace.trace_id.to_string()).collect();
    assert_eq!(
        (traces.len(), ids.len()),
        (6, 5),
        "the other notifications have distinct traces: {traces:?}"
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
    let records = json!({ "Records": [record("ObjectCreated:Put", "bad"), record("ObjectCreated:Put", "good")] });
    let error = handle(&client(address).await, event(records)).await.unwrap_err();
    assert_eq!(error.to_string(), "the API responded with 500 Internal Server Error");
    assert_eq!(requests.lock().unwrap().len(), 2);
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
        let keys = ["a\u{202e}\u{7}.json", "b.json"];
        let records = json!({ "Records": keys.map(|key| record("ObjectCreated:Put", key)) });
        let error = handle(&client(address).await, event(records)).await.unwrap_err();
        assert_eq!(requests.lock().unwrap().len(), 2);
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
