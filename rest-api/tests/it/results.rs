//! Results of ingests, published to the emulated SNS and received from queues of the emulated SQS.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use crate::support::{
    BUCKET, Service, eventually,
    movies::MOVIE,
    notification,
    topic::{Gate, Message, Topic},
};

const MISSPELT: &str = r#"{"title":"A","year":2000,"genre":["Drama"]}"#;

/// Returns how many results are not published yet.
async fn due(service: &Service) -> i64 {
    let count = "select count(*) from ingests where result_due_at is not null";
    service.sql().await.query_one(count, &[]).await.unwrap().get(0)
}

fn ingests(messages: &[Message]) -> Vec<i64> {
    let mut ingests: Vec<i64> = messages.iter().map(Message::ingest).collect();
    ingests.sort();
    ingests
}

#[tokio::test]
async fn a_subscription_can_be_limited_to_the_rejections_of_one_prefix() {
    let topic = Topic::new("own").await;
    let mut all = topic.queue("own-all", None).await;
    let own = json!({ "state": ["rejected"], "prefix": ["studio-a/"] });
    let mut own = topic.queue("own-studio-a", Some(own)).await;
    let service = Service::builder().publishing(&topic.arn, topic.sns.clone()).start().await;
    service.ingest("studio-a/good.json", MOVIE).await;
    service.ingest("studio-b/bad.json", MISSPELT).await;
    service.ingest("bad.json", MISSPELT).await;
    service.notify(&notification::bare("missing.json")).await;
    let outdated = json!({ "bucket": BUCKET, "key": "studio-a/good.json", "etag": "another" });
    service.notify(&outdated).await;
    let rejected = service.ingest("studio-a/bad.json", MISSPELT).await;

    let mut keys = Vec::new();
    for message in all.receive_exactly(6).await {
        assert_eq!(message.attribute("state"), message.body["state"]);
        assert_eq!(message.attribute("bucket"), BUCKET);
        let prefix =
            message.key().rsplit_once('/').map_or("/".to_owned(), |(p, _)| format!("{p}/"));
        assert_eq!(message.attribute("prefix"), prefix);
        let subject = format!("{}: {}", message.attribute("state"), message.key());
        assert_eq!(message.envelope["Subject"], subject);
        // The message is the ingest as the API returns it, and its location.
        let location = message.body["location"].as_str().unwrap();
        let mut ingest = service.get(location).await.json();
        ingest["location"] = location.into();
        assert_eq!(message.body, ingest);
        keys.push((message.key().to_owned(), message.attribute("state").to_owned()));
    }
    keys.sort();
    let expected = [
        ("bad.json", "rejected"),
        ("missing.json", "gone"),
        ("studio-a/bad.json", "rejected"),
        ("studio-a/good.json", "succeeded"),
        ("studio-a/good.json", "superseded"),
        ("studio-b/bad.json", "rejected"),
    ];
    assert_eq!(keys, expected.map(|(key, state)| (key.to_owned(), state.to_owned())));

    let [message] = own.receive_exactly(1).await else { panic!("expected one message") };
    assert_eq!(message.body["id"], rejected["id"]);
    assert_eq!(message.body["violations"][0]["pointer"], "/genre");
    eventually(async || due(&service).await == 0).await;
}

#[tokio::test]
async fn a_rejection_with_very_many_violations_fits_into_a_message() {
    let topic = Topic::new("large").await;
    let mut queue = topic.queue("large", None).await;
    let service = Service::builder().publishing(&topic.arn, topic.sns.clone()).start().await;
    // The longest violations, with quotes and characters that JSON or XML must escape.
    let name = "\"\\\u{fffe}".repeat(70);
    let record = json!({ "title": "A", "year": 2000, name: 1 }).to_string();
    let key = format!("{}\u{1}ü.json", "long/".repeat(20));
    let rejected = service.ingest(&key, vec![record; 2000].join("\n")).await;
    assert_eq!(rejected["violation_count"], 2000);

    let [message] = queue.receive_exactly(1).await else { panic!("expected one message") };
    assert!(message.size <= 256 << 10, "{} bytes", message.size);
    assert!(message.size >= 200 << 10, "fewer than fit: {} bytes", message.size);
    let listed = message.body["violations"].as_array().unwrap();
    assert!(listed.len() < 1000, "{} are listed", listed.len());
    assert_eq!(listed[..], rejected["violations"].as_array().unwrap()[..listed.len()]);
    assert_eq!(message.body["violation_count"], 2000);
    assert_eq!(message.key(), key);
    assert_eq!(message.attribute("prefix"), "long/".repeat(20));
    let subject = message.envelope["Subject"].as_str().unwrap();
    assert!(subject.len() < 100 && subject.starts_with("rejected: long/long/"), "{subject}");
}

#[tokio::test]
async fn results_stay_due_while_sns_is_unavailable() {
    let topic = Topic::new("away").await;
    let mut queue = topic.queue("away", None).await;
    let gate = Gate::closed().await;
    let service = Service::builder().publishing(&topic.arn, gate.client()).start().await;
    // More than one batch.
    for number in 0..25 {
        service.ingest(&format!("{number}.json"), MOVIE).await;
    }
    assert_eq!(due(&service).await, 25, "a result is lost");
    assert_eq!(service.get("/readyz").await.status, 200, "the outage of SNS affects the service");
    assert_eq!(queue.receive().await.len(), 0);
    gate.open();
    let messages = queue.receive_exactly(25).await;
    assert_eq!(ingests(messages), (1..=25).collect::<Vec<_>>(), "not each once");
    eventually(async || due(&service).await == 0).await;
}

#[tokio::test]
async fn results_that_are_due_when_the_service_stops_are_published_by_its_successor() {
    let topic = Topic::new("stopped").await;
    let mut queue = topic.queue("stopped", None).await;
    let gate = Gate::closed().await;
    let mut service = Service::builder().publishing(&topic.arn, gate.client()).start().await;
    service.ingest("a.json", MOVIE).await;
    service.ingest("b.json", MISSPELT).await;
    let took = service.stop().await;
    assert!(took < Duration::from_secs(5), "the outage of SNS delays the shutdown: {took:?}");
    assert_eq!(due(&service).await, 2);

    let service = service.successor().publishing(&topic.arn, topic.sns.clone()).start().await;
    queue.receive_exactly(2).await;
    eventually(async || due(&service).await == 0).await;
}

#[tokio::test]
async fn results_claimed_by_a_process_that_died_are_published_by_its_successor() {
    let topic = Topic::new("died").await;
    let mut queue = topic.queue("died", None).await;
    let gate = Gate::closed().await;
    let mut service = Service::builder().publishing(&topic.arn, gate.client()).start().await;
    service.ingest("a.json", MOVIE).await;
    service.stop().await;
    let store = service.store(1).await;
    let mut claimed = Vec::new();
    let lease = Duration::from_secs(2);
    for _ in 0..50 {
        if claimed.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            claimed = store.claim_results(10, lease).await.unwrap();
        }
    }
    assert_eq!(claimed.len(), 1);
    assert!(store.claim_results(10, lease).await.unwrap().is_empty(), "claimed twice");

    let service = service.successor().publishing(&topic.arn, topic.sns.clone()).start().await;
    queue.receive_exactly(1).await;
    eventually(async || due(&service).await == 0).await;
    // The first claim has expired, and changes nothing.
    let claimed: Vec<_> = claimed.iter().collect();
    store.reschedule_results(&claimed, Duration::ZERO).await.unwrap();
    assert_eq!(due(&service).await, 0);
}

#[tokio::test]
async fn the_result_of_a_retried_ingest_is_published_again() {
    let topic = Topic::new("retried").await;
    let mut queue = topic.queue("retried", None).await;
    let service = Service::builder().publishing(&topic.arn, topic.sns.clone()).start().await;
    let failed = service.notify(&notification::bare("k")).await;
    let [message] = queue.receive_exactly(1).await else { panic!("expected one message") };
    assert_eq!(message.body["error"]["code"], "object_gone", "{message:?}");
    service.put("k", MOVIE).await;
    service.send(service.post(&format!("/ingests/{}/retry", failed["id"]), "")).await;
    let [_, again] = queue.receive_exactly(2).await else { panic!("expected two messages") };
    assert_eq!((&again.body["id"], again.attribute("state")), (&failed["id"], "succeeded"));
}

#[tokio::test]
async fn a_result_that_sns_refuses_is_retried_minutes_later() {
    let topic = Topic::new("refused").await;
    let missing = format!("{}-missing", topic.arn);
    let service = Service::builder().publishing(&missing, topic.sns.clone()).start().await;
    service.ingest("a.json", MOVIE).await;
    let later = "select result_due_at > now() + interval '4 minutes' from ingests";
    let sql = service.sql().await;
    eventually(async || sql.query_one(later, &[]).await.unwrap().get(0)).await;
    // What has been refused for long is tried less often, so that others are not delayed.
    let old = "update ingests set finished_at = now() - interval '5 hours', result_due_at = now()";
    sql.execute(old, &[]).await.unwrap();
    let much_later = "select result_due_at > now() + interval '4 hours' from ingests";
    eventually(async || sql.query_one(much_later, &[]).await.unwrap().get(0)).await;
    // The operator creates the topic, and the delay ends.
    let topic = Topic::new("refused-missing").await;
    assert_eq!(topic.arn, missing);
    let mut queue = topic.queue("refused", None).await;
    sql.execute("update ingests set result_due_at = now()", &[]).await.unwrap();
    queue.receive_exactly(1).await;
    eventually(async || due(&service).await == 0).await;
}

#[tokio::test]
async fn replicas_publish_each_result_once() {
    let topic = Topic::new("replicas").await;
    let mut queue = topic.queue("replicas", None).await;
    let gate = Gate::closed().await;
    let mut service = Service::builder().publishing(&topic.arn, gate.client()).start().await;
    for number in 0..60 {
        service.ingest(&format!("{number}.json"), MOVIE).await;
    }
    service.stop().await;
    let replica = |_| service.replica_publishing(&topic.arn, topic.sns.clone());
    let _replicas = join_all((0..3).map(replica)).await;
    let messages = queue.receive_exactly(60).await;
    let mut ids = ingests(messages);
    ids.dedup();
    assert_eq!(ids.len(), 60, "a result was published twice");
}

#[tokio::test]
async fn without_a_topic_no_result_is_due() {
    let service = Service::start().await;
    service.ingest("a.json", MOVIE).await;
    service.ingest("b.json", MISSPELT).await;
    service.notify(&notification::bare("missing.json")).await;
    assert_eq!(due(&service).await, 0);
}
