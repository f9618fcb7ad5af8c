//! Events that come through SNS, SQS or EventBridge, or from other stores than S3.
//!
//! `events.json` has one event of each form.

use ingest_lambda::handle;
use serde_json::{Value, json};
use warp::http::StatusCode;

use crate::support::{client, event, keys, record, response, start_api};

/// An event of `events.json`: its name, its payload, the keys of which the API must be notified, and
/// whether it comes through SQS.
fn events() -> Vec<(String, Value, Vec<&'static str>, bool)> {
    let events: Value = serde_json::from_str(include_str!("events.json")).unwrap();
    let events = events.as_object().unwrap().clone().into_iter();
    let expected = |name: &str| match name {
        "two records" | "SQS, batch of 2" => vec!["films/a.json", "films/b.json"],
        name if name.starts_with("EventBridge") => vec!["films/a b+c.json"],
        "key a b+c é" => vec!["films/a b+c é.json"],
        "key not UTF-8" => vec!["films/good.json"],
        // The API decides what is no file.
        "folder marker" => vec!["films/new folder/"],
        "s3:TestEvent" | "SQS with s3:TestEvent" | "no records" => vec![],
        "ObjectRestore:Completed" => vec![],
        _ => vec!["films/a.json"],
    };
    events
        .map(|(name, payload)| {
            let (expected, through_sqs) = (expected(&name), name.starts_with("SQS"));
            (name, payload, expected, through_sqs)
        })
        .collect()
}

/// Returns an SNS notification, as its subscribers in SQS and HTTP get it.
fn sns(event: &Value) -> Value {
    json!({ "Type": "Notification", "MessageId": "m", "TopicArn": "t", "Message": event.to_string() })
}

/// Returns an event of SNS for a function.
fn from_sns(event: &Value) -> Value {
    json!({ "Records": [{ "EventSource": "aws:sns", "Sns": sns(event) }] })
}

/// Returns an event of SQS whose messages have these bodies. Their ids are "0", "1" and so on.
fn from_sqs(bodies: &[String]) -> Value {
    let messages = bodies.iter().enumerate().map(
        |(id, body)| json!({ "messageId": id.to_string(), "eventSource": "aws:sqs", "body": body }),
    );
    json!({ "Records": messages.collect::<Vec<_>>() })
}

fn created(keys: &[&str]) -> Value {
    let records = keys.iter().map(|key| record("ObjectCreated:Put", key));
    json!({ "Records": records.collect::<Vec<_>>() })
}

fn bridged(detail_type: &str, key: &str) -> Value {
    json!({
        "version": "0", "detail-type": detail_type, "source": "aws.s3", "time": "2026-03-01T10:00:00Z",
        "detail": {
            "bucket": { "name": "b" },
            "object": { "key": key, "size": 5, "etag": "e", "version-id": "v", "sequencer": "0A" },
        },
    })
}

#[tokio::test]
async fn every_form_of_an_event_is_understood() {
    for (name, payload, expected, through_sqs) in events() {
        let (address, requests) = start_api(StatusCode::ACCEPTED).await;
        let handled = handle(&client(address).await, event(payload)).await;
        let expected = match &*expected {
            [] => vec![],
            [key] => vec![json!(key)],
            keys => vec![json!(keys)],
        };
        assert_eq!(keys(&requests), expected, "{name}");
        let is_removal =
            ["Removed", "Expiration", "Deleted"].iter().any(|word| name.contains(word));
        for (.., notification, _) in &*requests.lock().unwrap() {
            let event = if is_removal { json!("removed") } else { Value::Null };
            assert_eq!(notification["event"], event, "{name}");
        }
        if name == "key not UTF-8" {
            assert_eq!(response(handled.unwrap_err()).0, "PermanentFault");
            continue;
        }
        let answer = serde_json::to_value(handled.unwrap()).unwrap();
        let delivered = if through_sqs { json!({ "batchItemFailures": [] }) } else { Value::Null };
        assert_eq!(answer, delivered, "{name}");
    }
}

#[tokio::test]
async fn a_notification_has_what_its_event_has() {
    let full = json!({
        "bucket": "b", "key": "a+b %41.json", "version_id": "v", "etag": "e", "sequencer": "0A",
        "event_time": "2026-03-01T10:00:00Z", "size": 5,
    });
    // Ceph has an empty version id.
    let mut bare = record("ObjectCreated:Put", "k");
    bare["s3"] = json!({ "bucket": { "name": "b" }, "object": { "key": "k", "versionId": "", "size": null } });
    let mut nothing_but_names = bare.clone();
    for name in ["eventTime", "eventName", "eventSource", "eventVersion"] {
        nothing_but_names.as_object_mut().unwrap().remove(name);
    }
    let bridge = bridged("Object Created", "a+b %41.json");
    let removed = json!({
        "bucket": "b", "key": "a+b %41.json", "version_id": "v", "sequencer": "0A",
        "event_time": "2026-03-01T10:00:00Z", "event": "removed",
    });
    let bridged_removal = bridged("Object Deleted", "a+b %41.json");
    let removal = |name: &str| {
        let mut record = record(name, "a%2Bb+%2541.json");
        record["eventTime"] = json!("2026-03-01T10:00:00Z");
        json!({ "Records": [record] })
    };
    let at = json!({ "bucket": "b", "key": "k", "event_time": "2026-11-01T10:00:00.123Z" });
    for (payload, expected) in [
        (bridge.clone(), full.clone()),
        (from_sqs(&[bridge.to_string()]), full.clone()),
        (from_sns(&bridge), full.clone()),
        (from_sqs(&[sns(&bridge).to_string()]), full),
        (removal("ObjectRemoved:Delete"), removed.clone()),
        (removal("s3:ObjectRemoved:DeleteMarkerCreated"), removed.clone()),
        (from_sns(&removal("LifecycleExpiration:Delete")), removed.clone()),
        (from_sqs(&[removal("ObjectRemoved:Delete").to_string()]), removed.clone()),
        (
            from_sqs(&[sns(&removal("LifecycleExpiration:DeleteMarkerCreated")).to_string()]),
            removed.clone(),
        ),
        (bridged_removal.clone(), removed.clone()),
        (from_sqs(&[sns(&bridged_removal).to_string()]), removed),
        (json!({ "Records": [bare] }), at),
        (json!({ "Records": [nothing_but_names] }), json!({ "bucket": "b", "key": "k" })),
    ] {
        let (address, requests) = start_api(StatusCode::ACCEPTED).await;
        handle(&client(address).await, event(payload.clone())).await.unwrap();
        let mut notification = requests.lock().unwrap()[0].2.clone();
        notification.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        assert_eq!(notification, expected, "{payload}");
    }
}

#[tokio::test]
async fn what_neither_creates_nor_removes_an_object_is_ignored_in_every_envelope() {
    let test = json!({ "Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b" });
    let others = ["ObjectTagging:Put", "LifecycleTransition", "ObjectRemovedLater:Put"];
    let others = json!({ "Records": others.map(|name| record(name, "k")) });
    let (address, requests) = start_api(StatusCode::ACCEPTED).await;
    let bridged = bridged("Object Restore Completed", "k");
    for ignored in [test, others, bridged, json!({ "Records": [] })] {
        for payload in [
            ignored.clone(),
            from_sns(&ignored),
            from_sqs(&[ignored.to_string(), sns(&ignored).to_string()]),
        ] {
            let answer = handle(&client(address).await, event(payload.clone())).await.unwrap();
            assert!(answer.is_none_or(|answer| answer.batch_item_failures.is_empty()), "{payload}");
        }
    }
    assert!(requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn messages_of_sqs_that_failed_are_reported_and_the_others_are_not() {
    let (address, requests) = start_api(StatusCode::ACCEPTED).await;
    let bodies = [
        created(&["good"]).to_string(),
        created(&["bad", "a"]).to_string(),
        sns(&created(&["b"])).to_string(),
        created(&["c", "refused"]).to_string(),
        created(&["%FF"]).to_string(),
        "no JSON".to_owned(),
        json!({ "order": 7 }).to_string(),
        bridged("Object Created", "d").to_string(),
    ];
    let answer = handle(&client(address).await, event(from_sqs(&bodies))).await.unwrap();
    let failed = ["1", "3", "4", "5", "6"].map(|id| json!({ "itemIdentifier": id }));
    assert_eq!(json!(answer), json!({ "batchItemFailures": failed }));
    let sent = json!(["good", "bad", "a", "b", "c", "refused", "d"]);
    assert_eq!(keys(&requests), [sent], "one request for all messages");
}

#[tokio::test]
async fn every_message_of_sqs_fails_if_the_api_is_not_there() {
    let (address, _) = start_api(StatusCode::SERVICE_UNAVAILABLE).await;
    let bodies = ["a", "b"].map(|key| created(&[key]).to_string());
    let answer = handle(&client(address).await, event(from_sqs(&bodies))).await.unwrap();
    let failed = ["0", "1"].map(|id| json!({ "itemIdentifier": id }));
    assert_eq!(json!(answer), json!({ "batchItemFailures": failed }));
}

#[tokio::test]
async fn one_request_has_at_most_100_notifications_of_all_messages() {
    let (address, requests) = start_api(StatusCode::ACCEPTED).await;
    let names: Vec<String> = (0..150).map(|number| number.to_string()).collect();
    let bodies: Vec<String> = names.iter().map(|name| created(&[name]).to_string()).collect();
    handle(&client(address).await, event(from_sqs(&bodies))).await.unwrap();
    assert_eq!(keys(&requests), [json!(names[..100]), json!(names[100..])]);
}

#[tokio::test]
async fn an_envelope_that_is_not_known_is_named() {
    let (address, requests) = start_api(StatusCode::ACCEPTED).await;
    let mut nested = created(&["k"]);
    for _ in 0..20 {
        nested = sns(&nested);
    }
    for (payload, named) in [
        (json!({ "order": 7, "customer": "c" }), r#"keys "customer", "order""#),
        (json!({ "Records": [{ "eventSource": "aws:kinesis", "kinesis": {} }] }), "aws:kinesis"),
        (json!({ "Records": [{ "x": 1 }] }), r#"keys "x""#),
        (json!({ "Records": "x" }), r#"keys "Records""#),
        (json!([]), "an array"),
        (json!("x"), "a string"),
        (json!({ "detail-type": "Order", "source": "shop", "detail": {} }), r#"source "shop""#),
        (
            json!({ "Type": "SubscriptionConfirmation", "Message": "confirm" }),
            "SubscriptionConfirmation",
        ),
        (from_sns(&json!({ "order": 7 })), r#"keys "order""#),
        (json!({ "Records": [{ "Sns": { "Message": "plain text" } }] }), "is not JSON"),
        (json!({ "Records": [{ "Sns": {} }] }), "no message"),
        (nested, "too deep"),
    ] {
        let error = handle(&client(address).await, event(payload.clone())).await.unwrap_err();
        let (error_type, message) = response(error);
        assert_eq!(error_type, "PermanentFault", "{payload}");
        assert!(message.contains(named), "{named}: {message}");
    }
    assert!(requests.lock().unwrap().is_empty());
}
