//! Builds a service for a test: its configuration, and the clients with which it reaches AWS.

use std::time::Duration;

use aws::SecretsManager;
use aws_sdk_s3::{Client, config::Builder as S3Builder};
use local_stack::sdk;
use rest_api::{
    Aws,
    config::{
        ApiToken, Budget, Config, CorsOrigins, DEFAULT_CACHE, Database, IgnoredKeys, JwtKey,
        LogFormat, Retry, ServerLimits, Snapshots, TokenDigest,
    },
};

use super::{
    proxy::{Proxy, Upstream},
    service::{Running, Service, TOKEN},
    tokens::KEY,
};

type ConfigChange<'a> = Box<dyn FnOnce(&mut Config) + 'a>;
type S3Change<'a> = Box<dyn FnOnce(S3Builder) -> S3Builder + 'a>;

/// A service to be started. Made by [`Service::builder`] and [`Service::successor`].
pub(crate) struct Builder<'a> {
    predecessor: Option<Service>,
    config: Vec<ConfigChange<'a>>,
    s3_config: Option<S3Change<'a>>,
    proxy: Option<&'a Proxy>,
    secrets: SecretsManager,
    sns: aws_sdk_sns::Client,
}

impl Service {
    /// Starts a service with the default configuration of the tests.
    pub(crate) async fn start() -> Self {
        Self::builder().start().await
    }

    /// Starts a service without workers: notifications are recorded and stay queued.
    pub(crate) async fn start_without_workers() -> Self {
        Self::builder().config(|config| config.workers = 0).start().await
    }

    /// Returns a builder of a service with a new database and a new bucket.
    pub(crate) fn builder<'a>() -> Builder<'a> {
        Builder::new(None)
    }

    /// Returns a builder of another service on the database and bucket of this one.
    pub(crate) fn successor<'a>(self) -> Builder<'a> {
        Builder::new(Some(self))
    }

    /// Starts another replica on the same database and bucket, with another configuration.
    pub(crate) async fn replica(&self, change: impl FnOnce(&mut Config)) -> Running {
        let mut config = config(self.database.clone());
        change(&mut config);
        let sns = aws_sdk_sns::Client::new(&sdk(([127, 0, 0, 1], 1).into()));
        Running::start(config, Aws { s3: self.s3.clone(), sns, secrets: no_secrets() }).await
    }

    /// Starts another replica on the same database and bucket, which publishes to a topic.
    pub(crate) async fn replica_publishing(
        &self,
        topic_arn: &str,
        sns: aws_sdk_sns::Client,
    ) -> Running {
        let mut config = config(self.database.clone());
        config.results_topic_arn = Some(topic_arn.to_owned());
        Running::start(config, Aws { s3: self.s3.clone(), sns, secrets: no_secrets() }).await
    }
}

impl<'a> Builder<'a> {
    fn new(predecessor: Option<Service>) -> Self {
        let sns = aws_sdk_sns::Client::new(&sdk(([127, 0, 0, 1], 1).into()));
        let (config, s3_config, proxy) = (Vec::new(), None, None);
        Self { predecessor, config, s3_config, proxy, secrets: no_secrets(), sns }
    }

    /// Changes the configuration of the service. Can be called repeatedly.
    pub(crate) fn config(mut self, change: impl FnOnce(&mut Config) + 'a) -> Self {
        self.config.push(Box::new(change));
        self
    }

    /// Changes the S3 client of the service. The client of the test stays as it is.
    pub(crate) fn s3_config(mut self, change: impl FnOnce(S3Builder) -> S3Builder + 'a) -> Self {
        self.s3_config = Some(Box::new(change));
        self
    }

    /// Lets the service reach its bucket through `proxy`.
    pub(crate) fn objects_through(mut self, proxy: &'a Proxy) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// Lets the service read its secrets with this client.
    pub(crate) fn secrets(mut self, secrets: SecretsManager) -> Self {
        self.secrets = secrets;
        self
    }

    /// Lets the service publish results to a topic with this client.
    pub(crate) fn publishing(mut self, topic_arn: &str, sns: aws_sdk_sns::Client) -> Self {
        self.sns = sns;
        let topic_arn = topic_arn.to_owned();
        self.config(|config| config.results_topic_arn = Some(topic_arn))
    }

    pub(crate) async fn start(self) -> Service {
        let mut service = match self.predecessor {
            Some(predecessor) => predecessor,
            // Boxed, because its type is nested too deeply for the compiler otherwise.
            None => Box::pin(Service::stopped()).await,
        };
        let mut config = config(service.database.clone());
        for change in self.config {
            change(&mut config);
        }
        let mut s3 = service.s3.config().to_builder();
        if let Some(proxy) = self.proxy {
            proxy.lead_to(Upstream::Tcp(service.s3_address));
            s3 = s3.endpoint_url(format!("http://{}", proxy.address));
        }
        if let Some(change) = self.s3_config {
            s3 = change(s3);
        }
        let s3 = Client::from_conf(s3.build());
        service.run(config, Aws { s3, sns: self.sns, secrets: self.secrets }).await;
        service
    }
}

/// Returns a client for a configuration that names no secret. Nothing listens at its endpoint.
pub(crate) fn no_secrets() -> SecretsManager {
    SecretsManager::new(&sdk(([127, 0, 0, 1], 1).into()))
}

/// Returns the default configuration of the tests, with short retry delays.
fn config(database: Database) -> Config {
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        probe_listen: None,
        server: ServerLimits::MAIN,
        database,
        api_token: ApiToken::Fixed(TokenDigest::of(TOKEN)),
        jwt_key: Some(JwtKey::Fixed(KEY.clone())),
        outside_issuer: None,
        tmdb: None,
        images: false,
        public_ledger: true,
        trusted_proxies: 0,
        buckets: Vec::new(),
        workers: 2,
        budget: Budget::default(),
        ignored_keys: IgnoredKeys::default(),
        upload_prefix: String::new(),
        snapshots: Snapshots::default(),
        ledger_days: None,
        history_days: None,
        cors_origins: CorsOrigins::Any,
        cache_bytes: DEFAULT_CACHE,
        retry: Retry {
            max_attempts: 3,
            max_attempts_refused: 2,
            gone_delay: Duration::from_millis(50),
            base_delay: Duration::from_millis(20),
            max_delay: Duration::from_millis(100),
        },
        lease: Duration::from_secs(30),
        results_topic_arn: None,
        log_filter: String::new(),
        log_format: LogFormat::Text,
    }
}
