//! A topic of an emulated SNS, queues of an emulated SQS that it delivers to, and a way to it that
//! can be closed.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use aws_sdk_sns::{Client, config::retry::RetryConfig};
use local_stack::sdk;
use serde_json::{Value, json};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

use crate::emulator;

/// How long a message may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A topic.
pub(crate) struct Topic {
    pub(crate) arn: String,
    pub(crate) sns: Client,
}

impl Topic {
    pub(crate) async fn new(name: &str) -> Self {
        let sns = Client::new(&emulator::sdk().await);
        let created = sns.create_topic().name(name).send().await.unwrap();
        Self { arn: created.topic_arn.unwrap(), sns }
    }

    /// A queue that is sent what `filter` lets through, all of it without one.
    pub(crate) async fn queue(&self, name: &str, filter: Option<Value>) -> Queue {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let created = sqs(&http, "CreateQueue", &json!({ "QueueName": name })).await;
        let arn = self.arn.replace(":sns:", ":sqs:");
        let arn = format!("{}:{name}", arn.rsplit_once(':').unwrap().0);
        let subscribe = self.sns.subscribe().topic_arn(&self.arn).protocol("sqs").endpoint(arn);
        let subscribe = match filter {
            Some(filter) => subscribe.attributes("FilterPolicy", filter.to_string()),
            None => subscribe,
        };
        subscribe.send().await.unwrap();
        Queue { http, url: created["QueueUrl"].clone(), received: Vec::new() }
    }
}

/// A queue, and what was received from it so far.
pub(crate) struct Queue {
    http: reqwest::Client,
    url: Value,
    received: Vec<Message>,
}

/// What a subscriber gets.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// SNS's form around the message.
    pub(crate) envelope: Value,
    /// What we sent.
    pub(crate) body: Value,
    /// The size of all of it, in bytes.
    pub(crate) size: usize,
}

impl Message {
    pub(crate) fn attribute(&self, name: &str) -> &str {
        self.envelope["MessageAttributes"][name]["Value"].as_str().unwrap()
    }

    pub(crate) fn key(&self) -> &str {
        self.body["key"].as_str().unwrap()
    }
}

impl Queue {
    /// Receives what there is by now.
    pub(crate) async fn receive(&mut self) -> &[Message] {
        loop {
            let receive = json!({ "QueueUrl": self.url, "MaxNumberOfMessages": 10,
                "VisibilityTimeout": 600 });
            let answer = sqs(&self.http, "ReceiveMessage", &receive).await;
            let messages = answer["Messages"].as_array().cloned().unwrap_or_default();
            if messages.is_empty() {
                return &self.received;
            }
            self.received.extend(messages.iter().map(|message| {
                let text = message["Body"].as_str().unwrap();
                let envelope: Value = serde_json::from_str(text).unwrap();
                let body = serde_json::from_str(envelope["Message"].as_str().unwrap()).unwrap();
                Message { envelope, body, size: text.len() }
            }));
        }
    }

    /// Receives until there are `count`, and then makes sure that there are no more.
    pub(crate) async fn receive_just(&mut self, count: usize) -> &[Message] {
        let started = Instant::now();
        while self.receive().await.len() < count && started.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let received = self.receive().await;
        assert_eq!(received.len(), count, "{received:?}");
        received
    }
}

/// Calls the emulator's SQS, which verifies no signature but reads the region from it.
async fn sqs(http: &reqwest::Client, action: &str, input: &Value) -> Value {
    let scope = "Credential=local/20260101/eu-west-1/sqs/aws4_request";
    let call = http
        .post(format!("http://{}/", emulator::address().await))
        .header("authorization", format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=, Signature="))
        .header("content-type", "application/x-amz-json-1.0")
        .header("x-amz-target", format!("AmazonSQS.{action}"))
        .body(input.to_string());
    let answer = call.send().await.unwrap().error_for_status().unwrap();
    answer.json().await.unwrap()
}

/// A way to the emulator that can be closed.
pub(crate) struct Gate {
    address: SocketAddr,
    open: Arc<AtomicBool>,
}

impl Gate {
    /// It is closed at first: whoever comes is turned away.
    pub(crate) async fn closed() -> Self {
        let emulator = emulator::address().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new(AtomicBool::new(false));
        let is_open = Arc::clone(&open);
        tokio::spawn(async move {
            loop {
                let (mut from, _) = listener.accept().await.unwrap();
                if is_open.load(Ordering::Relaxed) {
                    let mut to = TcpStream::connect(emulator).await.unwrap();
                    tokio::spawn(async move { copy_bidirectional(&mut from, &mut to).await });
                }
            }
        });
        Self { address, open }
    }

    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::Relaxed);
    }

    /// A client that goes this way, and tries once.
    pub(crate) fn client(&self) -> Client {
        let config = aws_sdk_sns::config::Builder::from(&sdk(self.address));
        Client::from_conf(config.retry_config(RetryConfig::disabled()).build())
    }
}
