//! The local Lambda while the API is down: it behaves as AWS's, and no put is lost.

#![expect(clippy::unwrap_used, reason = "a test's way to fail")]

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use aws::SecretsManager;
use aws_sdk_s3::{Client, primitives::ByteStream};
use local_stack::{
    client,
    lambda::{self, Function},
    postgres::{Postgres, Purpose},
    s3::Endpoint,
    sdk,
};
use rest_api::{
    Aws,
    config::{ApiToken, Config, LogFormat, Retry, TokenDigest},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

const BUCKET: &str = "movies";
const TOKEN: &str = "a-token-for-tests";

/// Bucket, function and database; the API comes and goes, always at the same address.
struct Parts {
    folder: PathBuf,
    postgres: Postgres,
    s3: Client,
    lambda: SocketAddr,
    api: SocketAddr,
}

/// The API, running.
struct Api {
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl Parts {
    async fn start(name: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = std::env::temp_dir().join(format!("mru-dead-{}-{name}", std::process::id()));
        let postgres = Postgres::start(&folder.join("postgres"), Purpose::Test).await.unwrap();
        postgres.create_database("movies").await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let s3 = client(listener.local_addr().unwrap());
        let (sender, events) = mpsc::unbounded_channel();
        let endpoint = Endpoint::new(&folder.join("s3"), sender).unwrap();
        tokio::spawn(endpoint.serve(listener, std::future::pending()));
        s3.create_bucket().bucket(BUCKET).send().await.unwrap();

        // Nobody listens there yet.
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let lambda = listener.local_addr().unwrap();
        let function = Function {
            program: env!("CARGO_BIN_EXE_local-stack").into(),
            api_url: format!("http://{api}/notify"),
            api_token: TOKEN.to_owned(),
        };
        tokio::spawn(lambda::run(listener, function, events));
        let parts = Self { folder, postgres, s3, lambda, api };
        rest_api::store::migrate(&parts.postgres.database("movies"), &parts.aws().secrets)
            .await
            .unwrap();
        parts
    }

    fn aws(&self) -> Aws {
        // No topic and no secret is configured.
        let nowhere = sdk(([127, 0, 0, 1], 1).into());
        Aws {
            s3: self.s3.clone(),
            sns: aws_sdk_sns::Client::new(&nowhere),
            secrets: SecretsManager::new(&nowhere),
        }
    }

    async fn start_api(&self) -> Api {
        let config = Config {
            listen: self.api,
            database: self.postgres.database("movies"),
            api_token: ApiToken::Fixed(TokenDigest::of(TOKEN)),
            workers: 2,
            retry: Retry::default(),
            lease: Duration::from_secs(15),
            results_topic_arn: None,
            bucket: None,
            log_filter: String::new(),
            log_format: LogFormat::Text,
        };
        let listener = TcpListener::bind(self.api).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = rest_api::run(config, self.aws(), listener, async {
            let _ = stopped.await;
        });
        Api { stop, running: tokio::spawn(async { serving.await.unwrap() }) }
    }

    async fn put(&self, title: &str) {
        let movie = json!({ "title": title, "year": 2026 }).to_string();
        let put = self.s3.put_object().bucket(BUCKET).key(format!("{title}.json"));
        put.body(ByteStream::from(movie.into_bytes())).send().await.unwrap();
    }

    async fn dead_letters(&self) -> Vec<Value> {
        let letters = reqwest::get(format!("http://{}/dead-letters", self.lambda)).await.unwrap();
        letters.json().await.unwrap()
    }

    async fn dead_letters_of(&self, count: usize) -> Vec<Value> {
        let started = Instant::now();
        loop {
            let letters = self.dead_letters().await;
            if letters.len() == count {
                return letters;
            }
            assert!(started.elapsed() < Duration::from_secs(120), "{letters:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn redrive(&self) -> Value {
        let url = format!("http://{}/dead-letters/redrive", self.lambda);
        let redriven = reqwest::Client::new().post(url).send().await.unwrap();
        redriven.error_for_status().unwrap().json().await.unwrap()
    }

    async fn queryable(&self, title: &str) {
        let started = Instant::now();
        loop {
            let movies = reqwest::get(format!("http://{}/movies?title={title}", self.api)).await;
            let movies: Value = movies.unwrap().json().await.unwrap();
            if movies[0]["title"] == title {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(120), "{title}: {movies}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn stop(self) {
        self.postgres.stop().await;
        std::fs::remove_dir_all(self.folder).unwrap();
    }
}

impl Api {
    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap();
    }
}

#[tokio::test]
async fn puts_while_the_api_is_down_end_in_the_dead_letters_and_come_in_by_a_redrive() {
    let parts = Parts::start("redrive").await;
    assert_eq!(parts.redrive().await, json!({ "redriven": 0 }));
    let api = parts.start_api().await;
    parts.put("Before").await;
    parts.queryable("Before").await;
    api.stop().await;

    let started = Instant::now();
    parts.put("During").await;
    parts.put("Meanwhile").await;
    let letters = parts.dead_letters_of(2).await;
    assert!(started.elapsed() >= Duration::from_secs(3), "after pauses of 1 and 2 s");
    for letter in &letters {
        assert_eq!(letter["attempts"], 3, "{letter}");
        assert!(letter["error"].as_str().unwrap().contains("could not be reached"), "{letter}");
        assert_eq!(letter["event"]["Records"][0]["s3"]["bucket"]["name"], BUCKET);
    }
    // Too early: they come back, after as many attempts.
    assert_eq!(parts.redrive().await, json!({ "redriven": 2 }));
    assert_eq!(parts.dead_letters().await.len(), 0);
    assert!(parts.dead_letters_of(2).await.iter().all(|letter| letter["attempts"] == 3));

    let api = parts.start_api().await;
    assert_eq!(parts.redrive().await, json!({ "redriven": 2 }));
    parts.queryable("During").await;
    parts.queryable("Meanwhile").await;
    assert_eq!(parts.dead_letters().await.len(), 0);
    api.stop().await;
    parts.stop().await;
}

#[tokio::test]
async fn an_api_that_is_back_within_the_retries_leaves_no_dead_letter() {
    let parts = Parts::start("retries").await;
    let failing = TcpListener::bind(parts.api).await.unwrap();
    parts.put("Retried").await;
    // The first attempt gets a connection, and no answer.
    drop(failing.accept().await.unwrap());
    drop(failing);
    let api = parts.start_api().await;
    parts.queryable("Retried").await;
    assert_eq!(parts.dead_letters().await.len(), 0);
    api.stop().await;
    parts.stop().await;
}
