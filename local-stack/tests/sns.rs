//! The SNS endpoint: who may publish to it.

use local_stack::{loopback::SecretPath, sns};
use serde_json::json;
use tokio::{net::TcpListener, sync::mpsc};

#[tokio::test]
async fn only_the_secret_path_accepts_results_and_only_from_programs() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let root = format!("http://{}", listener.local_addr().unwrap());
    let path = SecretPath::random();
    let url = format!("{root}/{path}/");
    let (sender, mut results) = mpsc::unbounded_channel();
    tokio::spawn(sns::serve(listener, path, sender));

    let message =
        json!({ "key": "k", "state": "succeeded", "location": "/ingests/1", "violations": [] });
    let topic = sns::topic_arn();
    let form = format!("Action=Publish&TopicArn={topic}&Message={message}");
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let publish = async |url: &str, header: Option<(&str, &str)>| {
        let request = http.post(url).header("content-type", "application/x-www-form-urlencoded");
        let request = match header {
            Some((name, value)) => request.header(name, value),
            None => request,
        };
        request.body(form.clone()).send().await.unwrap().status().as_u16()
    };
    assert_eq!(publish(&root, None).await, 404);
    assert_eq!(publish(&format!("{root}/0123456789abcdef/"), None).await, 404);
    assert_eq!(publish(&url, Some(("host", "evil.example"))).await, 403);
    assert_eq!(publish(&url, Some(("origin", "http://evil.example"))).await, 403);
    assert!(results.try_recv().is_err());
    assert_eq!(publish(&url, None).await, 200);
    assert_eq!(results.recv().await.unwrap().key, "k");
}

#[tokio::test]
async fn a_line_of_a_result_holds_nothing_that_a_terminal_obeys() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let path = SecretPath::random();
    let url = format!("http://{}/{path}/", listener.local_addr().unwrap());
    let (sender, mut results) = mpsc::unbounded_channel();
    tokio::spawn(sns::serve(listener, path, sender));

    let odd = "a\u{1b}[2J\u{202e}b";
    let violation = json!({ "record": 1, "pointer": "/title", "expected": "text", "found": odd });
    let message = json!({ "key": odd, "state": "rejected", "location": "/ingests/1",
        "violation_count": 1, "violations": [violation] });
    let form = format!("Action=Publish&TopicArn={}&Message={message}", sns::topic_arn());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http.post(url).header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(request.body(form).send().await.unwrap().status().as_u16(), 200);
    let line = results.recv().await.unwrap().line;
    assert_eq!(line.matches(r"a\u{1b}[2J\u{202e}b").count(), 2, "{line:?}");
    assert!(!line.contains(['\u{1b}', '\u{202e}']), "{line:?}");
}
