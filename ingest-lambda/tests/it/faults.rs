//! Failures, and whether another attempt can succeed.

use ingest_lambda::handle;
use serde_json::json;
use warp::http::StatusCode;

use crate::support::{client, created, event, keys, record, response, start_api};

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
