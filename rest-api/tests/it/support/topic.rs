//! A topic of the emulated SNS, queues of the emulated SQS that subscribe to it, and a switchable
//! connection to SNS.

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

use super::emulator;

/// How long a test waits for messages. Large, for slow machines.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(60);

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

    /// Creates a queue that receives the messages that match `filter`, or all messages.
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

/// A queue, and the messages received from it so far.
pub(crate) struct Queue {
    http: reqwest::Client,
    url: Value,
    received: Vec<Message>,
}

/// A message as a subscriber receives it.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// What SNS puts around the message.
    pub(crate) envelope: Value,
    /// What the service published.
    pub(crate) body: Value,
    /// The size of the envelope and the body, in bytes.
    pub(crate) size: usize,
}

impl Message {
    pub(crate) fn attribute(&self, name: &str) -> &str {
        self.envelope["MessageAttributes"][name]["Value"].as_str().unwrap()
    }

    pub(crate) fn key(&self) -> &str {
        self.body["key"].as_str().unwrap()
    }

    pub(crate) fn ingest(&self) -> i64 {
        self.body["id"].as_i64().unwrap()
    }
}

impl Queue {
    /// Receives what has arrived by now. Returns all messages received so far.
    pub(crate) async fn receive(&mut self) -> &[Message] {
        loop {
            let receive = json!({ "QueueUrl": self.url, "MaxNumberOfMessages": 10,
                "VisibilityTimeout": 600 });
            let response = sqs(&self.http, "ReceiveMessage", &receive).await;
            let messages = response["Messages"].as_array().cloned().unwrap_or_default();
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

    /// Receives until there are `count` messages, and checks that no more arrive.
    pub(crate) async fn receive_exactly(&mut self, count: usize) -> &[Message] {
        let started = Instant::now();
        while self.receive().await.len() < count && started.elapsed() < RECEIVE_TIMEOUT {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let received = self.receive().await;
        assert_eq!(received.len(), count, "{received:?}");
        received
    }
}

/// Calls the emulated SQS, which verifies no signature but takes the region from it.
async fn sqs(http: &reqwest::Client, action: &str, input: &Value) -> Value {
    let scope = "Credential=local/20260101/eu-west-1/sqs/aws4_request";
    let request = http
        .post(format!("http://{}/", emulator::address().await))
        .header("authorization", format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=, Signature="))
        .header("content-type", "application/x-amz-json-1.0")
        .header("x-amz-target", format!("AmazonSQS.{action}"))
        .body(input.to_string());
    let response = request.send().await.unwrap().error_for_status().unwrap();
    response.json().await.unwrap()
}

/// A connection to the emulated SNS that can be closed.
pub(crate) struct Gate {
    address: SocketAddr,
    open: Arc<AtomicBool>,
}

impl Gate {
    /// Starts closed: it accepts connections and closes them at once.
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

    /// Returns a client that connects through the gate and does not retry.
    pub(crate) fn client(&self) -> Client {
        let config = aws_sdk_sns::config::Builder::from(&sdk(self.address));
        Client::from_conf(config.retry_config(RetryConfig::disabled()).build())
    }
}
