//! A service under test, with a database and a bucket of its own.

use std::{
    fmt::Display,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aws_sdk_s3::{
    Client,
    primitives::ByteStream,
    types::{BucketVersioningStatus, VersioningConfiguration},
};
use local_stack::{
    client,
    s3::{Endpoint, Events},
};
use reqwest::{Method, StatusCode, header::HeaderMap};
use rest_api::{
    Aws,
    config::{Config, Database},
    objects::MODE,
    store::{Mode, Store},
};
use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

use super::{
    builder::no_secrets,
    eventually,
    movies::without_id,
    notification,
    postgres::{migrated_database, postgres},
};

pub(crate) const TOKEN: &str = "a-token-for-tests";
pub(crate) const BUCKET: &str = "movies";

/// A service with a database and a bucket of its own. [`super::builder`] starts it.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    pub(crate) database: Database,
    /// The client of the test.
    pub(crate) s3: Client,
    pub(crate) s3_address: SocketAddr,
    /// The events that S3 would send to the Lambda.
    events: Events,
    http: reqwest::Client,
    /// Where the first run of the service listens. S3 lets its page put files.
    first: Option<TcpListener>,
    running: Option<Running>,
    objects: PathBuf,
}

/// A running service. It stops when this is dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl Running {
    /// Starts a service on a free port.
    pub(crate) async fn start(config: Config, aws: Aws) -> Self {
        Self::start_on(free_port().await, config, aws)
    }

    fn start_on(listener: TcpListener, config: Config, aws: Aws) -> Self {
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = rest_api::run(config, aws, listener, async {
            let _ = stopped.await;
        });
        Self { address, stop, ended: tokio::spawn(async { serving.await.unwrap() }) }
    }
}

async fn free_port() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// The response to a request, read to its end.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// Returns the value of a header, empty if it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Service {
    /// Creates the database and the bucket. No service runs yet.
    pub(super) async fn stopped() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let database = migrated_database().await;
        let name = format!("mru-s3-{}-{}", std::process::id(), database.name);
        let objects = std::env::temp_dir().join(name);
        let first = free_port().await;
        let address = first.local_addr().unwrap();
        let endpoint = Endpoint::new(&objects).unwrap().with_page_of(address);
        let events = endpoint.events();
        let listener = free_port().await;
        let s3_address = listener.local_addr().unwrap();
        let s3 = client(s3_address);
        tokio::spawn(endpoint.serve(listener, std::future::pending()));
        s3.create_bucket().bucket(BUCKET).send().await.unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self {
            address,
            database,
            s3,
            s3_address,
            events,
            http,
            first: Some(first),
            running: None,
            objects,
        }
    }

    pub(super) async fn run(&mut self, config: Config, aws: Aws) {
        let listener = match self.first.take() {
            Some(listener) => listener,
            None => free_port().await,
        };
        let running = Running::start_on(listener, config, aws);
        self.address = running.address;
        self.running = Some(running);
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends a request, and reads the response. Of a stream of events only the head is read.
    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Response {
        let response = request.timeout(Duration::from_secs(300)).send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let endless = headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
        let text = if endless { String::new() } else { response.text().await.unwrap() };
        Response { status, headers, text }
    }

    /// A request without a token.
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, self.url(path))
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
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

    /// Opens a connection, and sends `bytes` over it.
    pub(crate) async fn connect_and_send(&self, bytes: impl AsRef<[u8]>) -> TcpStream {
        let mut connection = TcpStream::connect(self.address).await.unwrap();
        connection.write_all(bytes.as_ref()).await.unwrap();
        connection
    }

    /// Returns a path for a file of the test, which is removed with the service.
    pub(crate) fn scratch_path(&self, name: &str) -> PathBuf {
        self.objects.join(name)
    }

    /// Lets the bucket keep versions from now on.
    pub(crate) async fn enable_versioning(&self) {
        let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled);
        let enable = self.s3.put_bucket_versioning().bucket(BUCKET);
        enable.versioning_configuration(enabled.build()).send().await.unwrap();
    }

    /// Puts a file into the bucket, without reading it into memory.
    pub(crate) async fn put_file(&self, key: &str, path: &Path) {
        let body = ByteStream::from_path(path).await.unwrap();
        self.s3.put_object().bucket(BUCKET).key(key).body(body).send().await.unwrap();
    }

    /// Puts an object into the bucket.
    pub(crate) async fn put(&self, key: &str, body: impl Into<Vec<u8>>) {
        let body = ByteStream::from(body.into());
        self.s3.put_object().bucket(BUCKET).key(key).body(body).send().await.unwrap();
    }

    /// Puts a version of an object into a bucket that keeps versions, with this mode as its metadata. Returns its
    /// notification.
    pub(crate) async fn put_version(
        &self,
        key: &str,
        mode: Mode,
        body: impl Into<Vec<u8>>,
    ) -> Value {
        let put = self.s3.put_object().bucket(BUCKET).key(key).metadata(MODE, mode.name());
        let put = put.body(ByteStream::from(body.into())).send().await.unwrap();
        let mut notification = notification::bare(key);
        notification["version_id"] = put.version_id.unwrap().into();
        notification["etag"] = put.e_tag.unwrap().trim_matches('"').into();
        notification["event_time"] = chrono::Utc::now().to_rfc3339().into();
        notification
    }

    /// Deletes an object from the bucket.
    pub(crate) async fn delete(&self, key: &str) {
        self.s3.delete_object().bucket(BUCKET).key(key).send().await.unwrap();
    }

    /// Deletes a version, or a delete marker, from the bucket.
    pub(crate) async fn delete_version(&self, key: &str, version_id: &str) {
        let delete = self.s3.delete_object().bucket(BUCKET).key(key).version_id(version_id);
        delete.send().await.unwrap();
    }

    /// Returns the next event that S3 would send to the Lambda.
    pub(crate) async fn next_event(&mut self) -> Value {
        self.events.next().await.unwrap().body
    }

    /// Returns the notification that the Lambda makes of the next event that reports a new object.
    pub(crate) async fn next_notification(&mut self) -> Value {
        loop {
            let event = self.next_event().await;
            let name = event["Records"][0]["eventName"].as_str().unwrap();
            if name.starts_with("ObjectCreated:") {
                return notification::of_event(&event);
            }
        }
    }

    /// Sends a notification, and waits until its ingest has ended. Returns the ingest.
    pub(crate) async fn notify(&self, notification: &Value) -> Value {
        let request = self.post("/notify", notification.to_string()).header("prefer", "wait=30");
        let mut response = self.send(request).await;
        assert!(response.status.is_success(), "{}", response.text);
        // A slow machine can need longer than the API waits.
        while matches!(response.json()["state"].as_str(), Some("queued" | "running")) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let path = format!("/ingests/{}", response.json()["id"]);
            response = self.send(self.request(Method::GET, &path).bearer_auth(TOKEN)).await;
        }
        response.json()
    }

    /// Puts an object, and waits until its ingest has ended. Returns the ingest with all violations.
    pub(crate) async fn ingest(&self, key: &str, body: impl Into<Vec<u8>>) -> Value {
        self.put(key, body).await;
        let id = &self.notify(&notification::bare(key)).await["id"];
        self.get_ingest(id).await
    }

    /// Returns the ingest `id` as it is now.
    pub(crate) async fn get_ingest(&self, id: impl Display) -> Value {
        let request = self.request(Method::GET, &format!("/ingests/{id}"));
        self.send(request.bearer_auth(TOKEN)).await.json()
    }

    /// Waits until the ingest `id` is in `state`.
    pub(crate) async fn reaches(&self, id: impl Display, state: &str) {
        eventually(async || self.get_ingest(&id).await["state"] == state).await;
    }

    /// Returns the movies that match `query`, of all pages.
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

    /// Returns the movies that match `query`, of all pages, without their ids.
    pub(crate) async fn movies_without_ids(&self, query: &str) -> Vec<Value> {
        self.movies(query).await.iter().map(without_id).collect()
    }

    /// Waits until no ingest is queued or running.
    pub(crate) async fn idle(&self) {
        let sql = self.sql().await;
        let open = "select count(*) from ingests where state in ('queued', 'running')";
        eventually(async || sql.query_one(open, &[]).await.unwrap().get::<_, i64>(0) == 0).await;
    }

    /// Opens a connection to the database of the service.
    pub(crate) async fn sql(&self) -> tokio_postgres::Client {
        postgres().await.connect(&self.database.name).await.unwrap()
    }

    /// Opens the database as the service does, with so many connections for workers.
    pub(crate) async fn store(&self, workers: usize) -> Store {
        Store::new(&self.database, &no_secrets(), workers).await.unwrap()
    }

    /// Stops the service. Returns how long that took.
    pub(crate) async fn stop(&mut self) -> Duration {
        let started = Instant::now();
        let Running { stop, ended, .. } = self.running.take().unwrap();
        stop.send(()).unwrap();
        ended.await.unwrap();
        started.elapsed()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.objects);
    }
}
