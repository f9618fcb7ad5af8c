//! What becomes of the records of an S3 event.

use std::collections::HashSet;

use aws::trace::TraceParent;
use ingest_lambda::handle;
use serde_json::json;
use tokio::net::TcpListener;
use warp::http::StatusCode;

use crate::support::{
    client, created, event, keys, record, response, start, start_api, start_old_api,
};

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
    let created = |key: &str| {
        json!({
            "bucket": "b", "key": key, "version_id": "v", "etag": "e", "sequencer": "0A",
            "event_time": "2026-11-01T10:00:00.123Z", "size": 12,
        })
    };
    let removed = json!({
        "bucket": "b", "key": "removed.json", "version_id": "v", "sequencer": "0A",
        "event_time": "2026-11-01T10:00:00.123Z", "event": "removed",
    });
    let expected = [created("a/with space+plus%ü()&.json"), removed, created("plain.json")];
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
        json!({ "Records": [record("ObjectRestore:Post", "k"), record("ObjectAcl:Put", "k")] }),
        json!({ "Records": [] }),
    ] {
        handle(&client(address).await, event(payload)).await.unwrap();
    }
    assert!(requests.lock().unwrap().is_empty());
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
