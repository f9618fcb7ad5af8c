//! A client of `GET /events`.

use std::{net::SocketAddr, time::Duration};

use reqwest::StatusCode;
use serde_json::Value;
use tokio::time::timeout;

/// How long an event may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// An open stream of events.
pub(crate) struct EventStream {
    response: reqwest::Response,
    text: String,
    /// The id of the last event that had one.
    pub(crate) last_id: Option<String>,
    /// The last number of the catalogue's state.
    pub(crate) revision: Option<i64>,
}

/// One event.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) name: String,
    pub(crate) data: Value,
}

impl EventStream {
    /// Opens a stream, with this token and after this event if there are any.
    pub(crate) async fn open(
        address: SocketAddr,
        token: Option<&str>,
        last_id: Option<&str>,
    ) -> Self {
        let response = request(address, token, last_id).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!(header("content-type"), Some("text/event-stream"));
        assert_eq!(header("cache-control"), Some("no-store"));
        assert_eq!(header("content-encoding"), None);
        let last_id = last_id.map(str::to_owned);
        Self { response, text: String::new(), last_id, revision: None }
    }

    /// Returns the next event; none at the end of the stream. Comments are left out.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        let next = timeout(PATIENCE, self.next_at_last()).await;
        next.unwrap_or_else(|_| panic!("no event comes"))
    }

    async fn next_at_last(&mut self) -> Option<Event> {
        loop {
            let (id, name, data) = parse(&self.block().await?);
            self.last_id = id.clone().or(self.last_id.take());
            if let Some(name) = name {
                let data: Value = serde_json::from_str(&data).unwrap();
                self.revision = data["revision"].as_i64().or(self.revision);
                return Some(Event { id, name, data });
            }
        }
    }

    /// Returns the next event of this name.
    pub(crate) async fn next_of(&mut self, name: &str) -> Event {
        loop {
            let event = self.next().await.unwrap();
            if event.name == name {
                return event;
            }
        }
    }

    /// Returns the next end of an ingest.
    pub(crate) async fn next_end(&mut self) -> Event {
        loop {
            let event = self.next_of("ingest").await;
            if event.id.is_some() {
                return event;
            }
        }
    }

    /// Waits for the end of the stream.
    pub(crate) async fn end(&mut self) {
        while self.next().await.is_some() {}
    }

    /// Returns the next lines up to an empty one.
    pub(crate) async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let block = block.to_owned();
                self.text = rest.to_owned();
                return Some(block);
            }
            let chunk = self.response.chunk().await.unwrap()?;
            self.text += std::str::from_utf8(&chunk).unwrap();
        }
    }
}

/// Returns a request for events.
pub(crate) fn request(
    address: SocketAddr,
    token: Option<&str>,
    last_id: Option<&str>,
) -> reqwest::RequestBuilder {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.get(format!("http://{address}/events"));
    request = request.header("accept-encoding", "gzip, br");
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(id) = last_id {
        request = request.header("last-event-id", id);
    }
    request
}

/// Returns the fields of a block.
fn parse(block: &str) -> (Option<String>, Option<String>, String) {
    let (mut id, mut name, mut data) = (None, None, String::new());
    for line in block.lines() {
        match line.split_once(':').unwrap() {
            ("id", value) => id = Some(value.trim().to_owned()),
            ("event", value) => name = Some(value.trim().to_owned()),
            ("data", value) => data += value.trim_start(),
            ("" | "retry", _) => {}
            (other, _) => panic!("an unknown field: {other}"),
        }
    }
    (id, name, data)
}
