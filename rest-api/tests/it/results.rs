//! Results of ingests, published to an emulated SNS and received from queues of an emulated SQS.

use std::time::Duration;

use rest_api::store::Store;
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    service::{BUCKET, Service, config, eventually, no_secrets},
    topic::{Gate, Topic},
};

const MOVIE: &str = r#"{"title":"A","year":2000}"#;
const MISSPELT: &str = r#"{"title":"A","year":2000,"genre":["Drama"]}"#;

/// How many results are due, now or later.
async fn due(service: &Service) -> i64 {
    let count = "select count(*) from ingests where result_due_at is not null";
    service.sql().await.query_one(count, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_producer_hears_of_its_own_rejections_alone() {
    let topic = Topic::new("own").await;
    let mut all = topic.queue("own-all", None).await;
    let own = json!({ "state": ["rejected"], "prefix": ["studio-a/"] });
    let mut own = topic.queue("own-studio-a", Some(own)).await;
    let service = Service::start_publishing(&topic.arn, topic.sns.clone()).await;
    service.ingest("studio-a/good.json", MOVIE).await;
    service.ingest("studio-b/bad.json", MISSPELT).await;
    service.ingest("bad.json", MISSPELT).await;
    service.notify(&json!({ "bucket": BUCKET, "key": "missing.json" })).await;
    let outdated = json!({ "bucket": BUCKET, "key": "studio-a/good.json", "etag": "another" });
    service.notify(&outdated).await;
    let rejected = service.ingest("studio-a/bad.json", MISSPELT).await;

    let mut keys = Vec::new();
    for message in all.receive_just(6).await {
        assert_eq!(message.attribute("state"), message.body["state"]);
        assert_eq!(message.attribute("bucket"), BUCKET);
        let prefix =
            message.key().rsplit_once('/').map_or("/".to_owned(), |(p, _)| format!("{p}/"));
        assert_eq!(message.attribute("prefix"), prefix);
        let subject = format!("{}: {}", message.attribute("state"), message.key());
        assert_eq!(message.envelope["Subject"], subject);
        // As the API shows it, and where.
        let location = message.body["location"].as_str().unwrap();
        let mut shown = service.get(location).await.json();
        shown["location"] = location.into();
        assert_eq!(message.body, shown);
        keys.push((message.key().to_owned(), message.attribute("state").to_owned()));
    }
    keys.sort();
    let expected = [
        ("bad.json", "rejected"),
        ("missing.json", "failed"),
        ("studio-a/bad.json", "rejected"),
        ("studio-a/good.json", "succeeded"),
        ("studio-a/good.json", "superseded"),
        ("studio-b/bad.json", "rejected"),
    ];
    assert_eq!(keys, expected.map(|(key, state)| (key.to_owned(), state.to_owned())));

    let [message] = own.receive_just(1).await else { panic!("not one") };
    assert_eq!(message.body["id"], rejected["id"]);
    assert_eq!(message.body["violations"][0]["pointer"], "/genre");
    eventually(async || due(&service).await == 0).await;
}

#[tokio::test]
async fn a_rejection_with_violations_without_end_fits_into_a_message() {
    let topic = Topic::new("large").await;
    let mut queue = topic.queue("large", None).await;
    let service = Service::start_publishing(&topic.arn, topic.sns.clone()).await;
    // As long as they get, quotes and characters that need care among them.
    let name = "\"\\\u{fffe}".repeat(70);
    let record = json!({ "title": "A", "year": 2000, name: 1 }).to_string();
    let key = format!("{}\u{1}ü.json", "long/".repeat(20));
    let rejected = service.ingest(&key, vec![record; 2000].join("\n")).await;
    assert_eq!(rejected["violation_count"], 2000);

    let [message] = queue.receive_just(1).await else { panic!("not one") };
    assert!(message.size <= 256 << 10, "{} bytes", message.size);
    assert!(message.size >= 200 << 10, "as many as fit: {} bytes", message.size);
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
async fn results_wait_while_sns_is_away() {
    let topic = Topic::new("away").await;
    let mut queue = topic.queue("away", None).await;
    let gate = Gate::closed().await;
    let service = Service::start_publishing(&topic.arn, gate.client()).await;
    // More than are published at once.
    for number in 0..25 {
        service.ingest(&format!("{number}.json"), MOVIE).await;
    }
    assert_eq!(due(&service).await, 25, "nothing is lost");
    assert_eq!(service.get("/readyz").await.status, 200, "and nobody else is troubled");
    assert_eq!(queue.receive().await.len(), 0);
    gate.open();
    let messages = queue.receive_just(25).await;
    let mut ids: Vec<i64> = messages.iter().map(|m| m.body["id"].as_i64().unwrap()).collect();
    ids.sort();
    assert_eq!(ids, (1..=25).collect::<Vec<_>>(), "each once");
    eventually(async || due(&service).await == 0).await;
}

#[tokio::test]
async fn results_due_when_the_service_stops_are_published_by_the_next_one() {
    let topic = Topic::new("stopped").await;
    let mut queue = topic.queue("stopped", None).await;
    let gate = Gate::closed().await;
    let mut service = Service::start_publishing(&topic.arn, gate.client()).await;
    service.ingest("a.json", MOVIE).await;
    service.ingest("b.json", MISSPELT).await;
    let took = service.stop().await;
    assert!(took < Duration::from_secs(5), "SNS that is away does not hold up the end: {took:?}");
    assert_eq!(due(&service).await, 2);

    let service = service.successor_publishing(&topic.arn, topic.sns.clone()).await;
    queue.receive_just(2).await;
    eventually(async || due(&service).await == 0).await;
}

#[tokio::test]
async fn results_that_somebody_took_and_died_with_are_published_by_another() {
    let topic = Topic::new("died").await;
    let mut queue = topic.queue("died", None).await;
    let gate = Gate::closed().await;
    let mut service = Service::start_publishing(&topic.arn, gate.client()).await;
    service.ingest("a.json", MOVIE).await;
    service.stop().await;
    let store = Store::new(&service.database, &no_secrets(), 1).await.unwrap();
    let mut taken = Vec::new();
    let lease = Duration::from_secs(2);
    for _ in 0..50 {
        if taken.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            taken = store.claim_results(10, lease).await.unwrap();
        }
    }
    assert_eq!(taken.len(), 1);
    assert!(store.claim_results(10, lease).await.unwrap().is_empty(), "one has it");

    let service = service.successor_publishing(&topic.arn, topic.sns.clone()).await;
    queue.receive_just(1).await;
    eventually(async || due(&service).await == 0).await;
    // Should it live after all, it changes nothing.
    let taken: Vec<_> = taken.iter().collect();
    store.settle_results(&taken, Some(Duration::ZERO)).await.unwrap();
    assert_eq!(due(&service).await, 0);
}

#[tokio::test]
async fn an_ingest_that_is_retried_is_published_again() {
    let topic = Topic::new("retried").await;
    let mut queue = topic.queue("retried", None).await;
    let service = Service::start_publishing(&topic.arn, topic.sns.clone()).await;
    let failed = service.notify(&json!({ "bucket": BUCKET, "key": "k" })).await;
    let [message] = queue.receive_just(1).await else { panic!("not one") };
    assert_eq!(message.body["error"]["code"], "object_gone", "{message:?}");
    service.put("k", MOVIE).await;
    service.send(service.post(&format!("/ingests/{}/retry", failed["id"]), "")).await;
    let [_, again] = queue.receive_just(2).await else { panic!("not two") };
    assert_eq!((&again.body["id"], again.attribute("state")), (&failed["id"], "succeeded"));
}

#[tokio::test]
async fn a_result_that_was_refused_is_tried_again_much_later() {
    let topic = Topic::new("refused").await;
    let missing = format!("{}-missing", topic.arn);
    let service = Service::start_publishing(&missing, topic.sns.clone()).await;
    service.ingest("a.json", MOVIE).await;
    let later = "select result_due_at > now() + interval '4 minutes' from ingests";
    let sql = service.sql().await;
    eventually(async || sql.query_one(later, &[]).await.unwrap().get(0)).await;
    // The operator makes the topic, and time passes.
    let topic = Topic::new("refused-missing").await;
    assert_eq!(topic.arn, missing);
    let mut queue = topic.queue("refused", None).await;
    sql.execute("update ingests set result_due_at = now()", &[]).await.unwrap();
    queue.receive_just(1).await;
    eventually(async || due(&service).await == 0).await;
}

#[tokio::test]
async fn replicas_share_the_work() {
    let topic = Topic::new("replicas").await;
    let mut queue = topic.queue("replicas", None).await;
    let gate = Gate::closed().await;
    let mut service = Service::start_publishing(&topic.arn, gate.client()).await;
    for number in 0..60 {
        service.ingest(&format!("{number}.json"), MOVIE).await;
    }
    service.stop().await;
    let aws =
        || rest_api::Aws { s3: service.s3.clone(), sns: topic.sns.clone(), secrets: no_secrets() };
    for _ in 0..3 {
        let mut config = config(service.database.clone());
        config.results_topic_arn = Some(topic.arn.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        tokio::spawn(rest_api::run(config, aws(), listener, std::future::pending()));
    }
    let messages = queue.receive_just(60).await;
    let mut ids: Vec<i64> = messages.iter().map(|m| m.body["id"].as_i64().unwrap()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 60, "each by one of them");
}

#[tokio::test]
async fn without_a_topic_no_result_is_due() {
    let service = Service::start().await;
    service.ingest("a.json", MOVIE).await;
    service.ingest("b.json", MISSPELT).await;
    service.notify(&json!({ "bucket": BUCKET, "key": "missing.json" })).await;
    assert_eq!(due(&service).await, 0);
}
