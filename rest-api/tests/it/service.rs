//! A service to test, and the parts around it.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use aws::SecretsManager;
use aws_sdk_s3::{Client, primitives::ByteStream};
use local_stack::{
    client,
    postgres::{Postgres, Purpose},
    s3::Endpoint,
    sdk,
};
use reqwest::{Method, StatusCode, header::HeaderMap};
use rest_api::{
    Aws,
    config::{ApiToken, Config, Database, LogFormat, Retry, TokenDigest},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{OnceCell, mpsc, oneshot},
    task::JoinHandle,
};

use crate::proxy::{Proxy, Upstream};

pub(crate) const TOKEN: &str = "a-token-for-tests";
pub(crate) const BUCKET: &str = "movies";

/// One Postgres for the whole run; it ends when the process does.
static POSTGRES: OnceCell<Postgres> = OnceCell::const_new();

pub(crate) async fn postgres() -> &'static Postgres {
    let start = || async {
        let folder = std::env::temp_dir().join(format!("mru-test-{}", std::process::id()));
        Postgres::start(&folder, Purpose::Test).await.unwrap()
    };
    POSTGRES.get_or_init(start).await
}

/// A service with a database and a bucket of its own.
pub(crate) struct Service {
    pub(crate) address: std::net::SocketAddr,
    pub(crate) database: Database,
    pub(crate) s3: Client,
    pub(crate) s3_address: std::net::SocketAddr,
    /// The events that S3 would send to the Lambda.
    pub(crate) events: mpsc::UnboundedReceiver<Value>,
    http: reqwest::Client,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<()>>,
    objects: PathBuf,
}

/// What a request was answered with.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Service {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A service whose configuration `adjust` has changed.
    pub(crate) async fn start_with(adjust: impl FnOnce(&mut Config)) -> Self {
        Self::build(adjust, |s3| s3.config().clone(), no_sns(), no_secrets()).await
    }

    /// A service whose configuration `adjust` has changed, and which finds its secrets in `secrets`.
    pub(crate) async fn start_with_secrets(
        adjust: impl FnOnce(&mut Config),
        secrets: SecretsManager,
    ) -> Self {
        Self::build(adjust, |s3| s3.config().clone(), no_sns(), secrets).await
    }

    /// A service that reads the bucket by another client than the test does.
    pub(crate) async fn start_reading(by: impl FnOnce(&Client) -> aws_sdk_s3::Config) -> Self {
        Self::build(|_| {}, by, no_sns(), no_secrets()).await
    }

    /// A service that reaches its bucket through a proxy.
    pub(crate) async fn start_behind_a_proxy() -> (Self, Proxy) {
        let proxy = Proxy::start().await;
        let endpoint = format!("http://{}", proxy.address);
        let by = |s3: &Client| s3.config().to_builder().endpoint_url(endpoint).build();
        let service = Self::start_reading(by).await;
        proxy.lead_to(Upstream::Tcp(service.s3_address));
        (service, proxy)
    }

    /// A service that publishes results to a topic by this client.
    pub(crate) async fn start_publishing(topic_arn: &str, sns: aws_sdk_sns::Client) -> Self {
        let adjust = |config: &mut Config| config.results_topic_arn = Some(topic_arn.to_owned());
        Self::build(adjust, |s3| s3.config().clone(), sns, no_secrets()).await
    }

    /// Both: a configuration of its own, and another client for the bucket.
    pub(crate) async fn start_with_reading(
        adjust: impl FnOnce(&mut Config),
        by: impl FnOnce(&Client) -> aws_sdk_s3::Config,
    ) -> Self {
        Self::build(adjust, by, no_sns(), no_secrets()).await
    }

    async fn build(
        adjust: impl FnOnce(&mut Config),
        reading_by: impl FnOnce(&Client) -> aws_sdk_s3::Config,
        sns: aws_sdk_sns::Client,
        secrets: SecretsManager,
    ) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let _ = rustls::crypto::ring::default_provider().install_default();
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let postgres = postgres().await;
        postgres.create_database(&name).await.unwrap();
        let database = postgres.database(&name);
        rest_api::store::migrate(&database, &no_secrets()).await.unwrap();

        let objects = std::env::temp_dir().join(format!("mru-s3-{}-{name}", std::process::id()));
        let (sender, events) = mpsc::unbounded_channel();
        let endpoint = Endpoint::new(&objects, sender).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let s3_address = listener.local_addr().unwrap();
        let s3 = client(s3_address);
        tokio::spawn(endpoint.serve(listener, std::future::pending()));
        s3.create_bucket().bucket(BUCKET).send().await.unwrap();

        let mut config = config(database.clone());
        adjust(&mut config);
        let (address, stop, running) =
            serve(config, Aws { s3: Client::from_conf(reading_by(&s3)), sns, secrets }).await;
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let (stop, running) = (Some(stop), Some(running));
        Self { address, database, s3, s3_address, events, http, stop, running, objects }
    }

    /// Another service on the same database and bucket, with the usual configuration.
    pub(crate) async fn successor(self) -> Self {
        self.successor_with(|_| {}, no_sns()).await
    }

    /// Another service on the same database and bucket, which publishes to a topic by this client.
    pub(crate) async fn successor_publishing(
        self,
        topic_arn: &str,
        sns: aws_sdk_sns::Client,
    ) -> Self {
        self.successor_with(|config| config.results_topic_arn = Some(topic_arn.to_owned()), sns)
            .await
    }

    async fn successor_with(
        mut self,
        adjust: impl FnOnce(&mut Config),
        sns: aws_sdk_sns::Client,
    ) -> Self {
        let mut config = config(self.database.clone());
        adjust(&mut config);
        let aws = Aws { s3: self.s3.clone(), sns, secrets: no_secrets() };
        let (address, stop, running) = serve(config, aws).await;
        self.address = address;
        (self.stop, self.running) = (Some(stop), Some(running));
        self
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.timeout(Duration::from_secs(300)).send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { status, headers, text: response.text().await.unwrap() }
    }

    /// A request without a token.
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, self.url(path))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// A POST with the token.
    pub(crate) fn post(
        &self,
        path: &str,
        body: impl Into<reqwest::Body>,
    ) -> reqwest::RequestBuilder {
        let request = self.request(Method::POST, path).bearer_auth(TOKEN);
        request.header("content-type", "application/json").body(body)
    }

    /// Where the endpoint keeps an object.
    pub(crate) fn object_path(&self, key: &str) -> PathBuf {
        self.objects.join(BUCKET).join(key)
    }

    /// Puts an object into the bucket.
    pub(crate) async fn put(&self, key: &str, body: impl Into<Vec<u8>>) {
        let body = ByteStream::from(body.into());
        self.s3.put_object().bucket(BUCKET).key(key).body(body).send().await.unwrap();
    }

    /// Takes an object out of the bucket.
    pub(crate) async fn delete(&self, key: &str) {
        self.s3.delete_object().bucket(BUCKET).key(key).send().await.unwrap();
    }

    /// Says that the object was put, and waits until its ingest has ended.
    pub(crate) async fn notify(&self, notification: &Value) -> Value {
        let request = self.post("/notify", notification.to_string()).header("prefer", "wait=30");
        let mut answer = self.send(request).await;
        assert!(answer.status.is_success(), "{}", answer.text);
        // A slow machine may need longer than the API is willing to hold its answer.
        while matches!(answer.json()["state"].as_str(), Some("queued" | "running")) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            answer = self.get(&format!("/ingests/{}", answer.json()["id"])).await;
        }
        answer.json()
    }

    /// Puts an object, and returns its ingest once it has ended, with all violations.
    pub(crate) async fn ingest(&self, key: &str, body: impl Into<Vec<u8>>) -> Value {
        self.put(key, body).await;
        let id = &self.notify(&json!({ "bucket": BUCKET, "key": key })).await["id"];
        self.get(&format!("/ingests/{id}")).await.json()
    }

    /// Every movie that matches `query`, all pages.
    pub(crate) async fn movies(&self, query: &str) -> Vec<Value> {
        let mut movies = Vec::new();
        let mut path = format!("/movies?{query}");
        loop {
            let page = self.get(&path).await;
            assert_eq!(page.status, StatusCode::OK, "{path}: {}", page.text);
            movies.extend(page.json().as_array().unwrap().iter().cloned());
            match page.header("link").split_once("; rel=\"next\"") {
                Some((next, _)) => path = next.trim_matches(['<', '>']).to_owned(),
                None => return movies,
            }
        }
    }

    /// A connection to the service's database.
    pub(crate) async fn sql(&self) -> tokio_postgres::Client {
        postgres().await.connect(&self.database.name).await.unwrap()
    }

    /// Asks the service to stop; returns how long it took.
    pub(crate) async fn stop(&mut self) -> Duration {
        let started = std::time::Instant::now();
        self.stop.take().unwrap().send(()).unwrap();
        self.running.take().unwrap().await.unwrap();
        started.elapsed()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.objects);
    }
}

/// Starts the service itself, on a port of its own.
async fn serve(
    config: Config,
    aws: Aws,
) -> (std::net::SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = rest_api::run(config, aws, listener, async {
        let _ = stopped.await;
    });
    (address, stop, tokio::spawn(async { serving.await.unwrap() }))
}

/// For a service whose configuration names no secret: nobody listens there.
pub(crate) fn no_secrets() -> SecretsManager {
    SecretsManager::new(&sdk(([127, 0, 0, 1], 1).into()))
}

/// For a service whose configuration names no topic.
fn no_sns() -> aws_sdk_sns::Client {
    aws_sdk_sns::Client::new(&sdk(([127, 0, 0, 1], 1).into()))
}

/// A configuration in which nothing takes long.
pub(crate) fn config(database: Database) -> Config {
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        database,
        api_token: ApiToken::Fixed(TokenDigest::of(TOKEN)),
        bucket: None,
        workers: 2,
        retry: Retry {
            max_attempts: 3,
            max_attempts_refused: 2,
            base_delay: Duration::from_millis(20),
            max_delay: Duration::from_millis(100),
        },
        lease: Duration::from_secs(30),
        results_topic_arn: None,
        log_filter: String::new(),
        log_format: LogFormat::Text,
    }
}

/// A movie as clients see it, without its id.
pub(crate) fn without_id(movie: &Value) -> Value {
    let mut movie = movie.clone();
    movie.as_object_mut().unwrap().remove("id").unwrap();
    movie
}

/// Waits until `condition` holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(mut condition: impl FnMut() -> F) {
    for _ in 0..2400 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it did not come true within two minutes");
}
