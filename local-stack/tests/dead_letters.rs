//! The local Lambda while the API is down: it retries as on AWS, and loses no event.

#![expect(clippy::unwrap_used, reason = "a test's way to fail")]

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use aws::SecretsManager;
use aws_sdk_s3::{Client, primitives::ByteStream};
use local_s3::Store;
use local_stack::{
    client,
    function::Function,
    lambda,
    loopback::SecretPath,
    postgres::{Postgres, Purpose},
    s3::Endpoint,
    sdk,
};
use rest_api::{
    Aws,
    config::{
        ApiToken, Budget, Config, CorsOrigins, DEFAULT_CACHE, IgnoredKeys, LogFormat, Retry,
        ServerLimits, Snapshots, TokenDigest,
    },
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

const BUCKET: &str = "movies";
const TOKEN: &str = "a-token-for-tests";

/// Everything but the API, which tests start and stop at the address `api`.
struct Environment {
    directory: PathBuf,
    postgres: Postgres,
    s3: Client,
    /// The URL of the Runtime API, with its secret path.
    lambda: String,
    /// The same without the path.
    lambda_root: String,
    api: SocketAddr,
    /// The store of the S3 endpoint.
    objects: Store,
}

/// A running API.
struct Api {
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl Environment {
    async fn start(name: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory =
            std::env::temp_dir().join(format!("mru-dead-{}-{name}", std::process::id()));
        let postgres = Postgres::start(&directory.join("postgres"), Purpose::Test).await.unwrap();
        postgres.create_database("movies").await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let s3 = client(listener.local_addr().unwrap());
        let endpoint = Endpoint::new(&directory.join("s3")).unwrap();
        let (events, objects) = (endpoint.events(), endpoint.store());
        tokio::spawn(endpoint.serve(listener, std::future::pending()));
        s3.create_bucket().bucket(BUCKET).send().await.unwrap();

        // Dropping the listener frees the port for `start_api`.
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let lambda_root = format!("http://{}", listener.local_addr().unwrap());
        let path = SecretPath::random();
        let lambda = format!("{lambda_root}/{path}");
        let function = Function {
            program: env!("CARGO_BIN_EXE_local-stack").into(),
            api_url: format!("http://{api}/notify"),
            api_token: TOKEN.to_owned(),
        };
        tokio::spawn(lambda::run(listener, path, function, BUCKET.to_owned(), events));
        let environment = Self { directory, postgres, s3, lambda, lambda_root, api, objects };
        let database = environment.postgres.database("movies");
        rest_api::store::migrate(&database, &environment.aws().secrets).await.unwrap();
        environment
    }

    fn aws(&self) -> Aws {
        // Neither is used: the configuration names no topic and no secret.
        let unused = sdk(([127, 0, 0, 1], 1).into());
        Aws {
            s3: self.s3.clone(),
            sns: aws_sdk_sns::Client::new(&unused),
            secrets: SecretsManager::new(&unused),
        }
    }

    async fn start_api(&self) -> Api {
        let config = Config {
            listen: self.api,
            probe_listen: None,
            server: ServerLimits::MAIN,
            database: self.postgres.database("movies"),
            api_token: ApiToken::Fixed(TokenDigest::of(TOKEN)),
            jwt_key: None,
            outside_issuer: None,
            tmdb: None,
            images: false,
            public_ledger: true,
            workers: 2,
            budget: Budget::default(),
            ignored_keys: IgnoredKeys::default(),
            upload_prefix: String::new(),
            snapshots: Snapshots::default(),
            ledger_days: None,
            history_days: None,
            cors_origins: CorsOrigins::Any,
            cache_bytes: DEFAULT_CACHE,
            retry: Retry::default(),
            lease: Duration::from_secs(15),
            results_topic_arn: None,
            trusted_proxies: 0,
            buckets: Vec::new(),
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
        let letters = reqwest::get(format!("{}/dead-letters", self.lambda)).await.unwrap();
        letters.json().await.unwrap()
    }

    /// Waits until there are `count` dead letters.
    async fn wait_for_dead_letters(&self, count: usize) -> Vec<Value> {
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
        let url = format!("{}/dead-letters/redrive", self.lambda);
        let redriven = reqwest::Client::new().post(url).send().await.unwrap();
        redriven.error_for_status().unwrap().json().await.unwrap()
    }

    /// Waits until the movie can be queried.
    async fn wait_for_movie(&self, title: &str) {
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
        std::fs::remove_dir_all(self.directory).unwrap();
    }
}

impl Api {
    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap();
    }
}

#[tokio::test]
async fn puts_while_the_api_is_down_become_dead_letters_and_are_ingested_after_a_redrive() {
    let environment = Environment::start("redrive").await;
    assert_eq!(environment.redrive().await, json!({ "redriven": 0 }));
    let api = environment.start_api().await;
    environment.put("Before").await;
    environment.wait_for_movie("Before").await;
    api.stop().await;

    let started = Instant::now();
    environment.put("During").await;
    environment.put("Meanwhile").await;
    let letters = environment.wait_for_dead_letters(2).await;
    assert!(started.elapsed() >= Duration::from_secs(3), "the delays are 1 s and 2 s");
    for letter in &letters {
        assert_eq!(letter["attempts"], 3, "{letter}");
        assert!(letter["error"].as_str().unwrap().contains("could not be reached"), "{letter}");
        assert_eq!(letter["event"]["Records"][0]["s3"]["bucket"]["name"], BUCKET);
    }
    // A restart would send them again.
    let acknowledged = environment.objects.wait_for_acknowledgements();
    assert!(tokio::time::timeout(Duration::from_secs(1), acknowledged).await.is_err());
    // The API is still down: they become dead letters again, after as many attempts.
    assert_eq!(environment.redrive().await, json!({ "redriven": 2 }));
    assert_eq!(environment.dead_letters().await.len(), 0);
    assert!(
        environment.wait_for_dead_letters(2).await.iter().all(|letter| letter["attempts"] == 3)
    );

    let api = environment.start_api().await;
    assert_eq!(environment.redrive().await, json!({ "redriven": 2 }));
    environment.wait_for_movie("During").await;
    environment.wait_for_movie("Meanwhile").await;
    assert_eq!(environment.dead_letters().await.len(), 0);
    // The function is not invoked for another bucket.
    environment.s3.create_bucket().bucket("another").send().await.unwrap();
    let put = environment.s3.put_object().bucket("another").key("k.json");
    put.body(ByteStream::from_static(b"{}")).send().await.unwrap();
    // Nothing is left to send again.
    environment.objects.wait_for_acknowledgements().await.unwrap();
    api.stop().await;
    environment.stop().await;
}

#[tokio::test]
async fn a_removed_object_is_delivered_as_a_created_one_is() {
    let environment = Environment::start("removed").await;
    let api = environment.start_api().await;
    environment.put("Removed").await;
    environment.wait_for_movie("Removed").await;
    api.stop().await;

    let delete = environment.s3.delete_object().bucket(BUCKET).key("Removed.json");
    delete.send().await.unwrap();
    // An event that the function ignored would be acknowledged.
    let letters = environment.wait_for_dead_letters(1).await;
    assert_eq!(letters[0]["event"]["Records"][0]["eventName"], "ObjectRemoved:Delete");
    let api = environment.start_api().await;
    assert_eq!(environment.redrive().await, json!({ "redriven": 1 }));
    environment.objects.wait_for_acknowledgements().await.unwrap();
    assert_eq!(environment.dead_letters().await.len(), 0);
    api.stop().await;
    environment.stop().await;
}

#[tokio::test]
async fn an_event_is_retried_until_the_api_is_back() {
    let environment = Environment::start("retries").await;
    let failing = TcpListener::bind(environment.api).await.unwrap();
    environment.put("Retried").await;
    // The first attempt gets a connection, but no response.
    drop(failing.accept().await.unwrap());
    drop(failing);
    let api = environment.start_api().await;
    environment.wait_for_movie("Retried").await;
    assert_eq!(environment.dead_letters().await.len(), 0);
    api.stop().await;
    environment.stop().await;
}

#[tokio::test]
async fn an_event_that_can_never_be_delivered_does_not_block_the_others() {
    let environment = Environment::start("permanent").await;
    // The API takes no such key.
    environment.put("x\0").await;
    let key = "x%00.json";
    environment.put("Behind").await;
    // The API is down.
    let letters = environment.wait_for_dead_letters(2).await;
    for letter in letters {
        let is_hopeless = letter["event"]["Records"][0]["s3"]["object"]["key"] == key;
        assert_eq!(letter["permanent"], is_hopeless, "{letter}");
    }
    let api = environment.start_api().await;
    assert_eq!(environment.redrive().await, json!({ "redriven": 2 }));
    environment.wait_for_movie("Behind").await;
    let letters = environment.wait_for_dead_letters(1).await;
    let error = letters[0]["error"].as_str().unwrap();
    assert!(error.contains(r#"bucket "movies", key "x%00.json""#), "{error}");
    api.stop().await;
    environment.stop().await;
}

#[tokio::test]
async fn the_runtime_api_is_served_below_its_secret_path_only() {
    let environment = Environment::start("path").await;
    let http = reqwest::Client::new();
    let (root, url) = (&environment.lambda_root, &environment.lambda);
    for path in ["/dead-letters", "/0/2018-06-01/runtime/invocation/next"] {
        let response = http.get(format!("{root}{path}")).send().await.unwrap();
        assert_eq!(response.status(), 404, "{path}");
        let response = http.get(format!("{root}/0123456789abcdef{path}")).send().await.unwrap();
        assert_eq!(response.status(), 404, "{path}");
    }
    let redrive = format!("{url}/dead-letters/redrive");
    for (name, value) in [("host", "evil.example"), ("origin", "http://evil.example")] {
        let response = http.post(&redrive).header(name, value).send().await.unwrap();
        assert_eq!(response.status(), 403, "{name}");
    }
    assert_eq!(http.post(&redrive).send().await.unwrap().status(), 202);
    environment.stop().await;
}
