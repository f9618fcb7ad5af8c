//! The movies-r-us service: ingests movie files from S3 into Postgres, and serves queries.
//!
//! ```text
//!  http      requests: notifications, queries, validation
//!  ingest    workers: claim an ingest, read its object, merge its movies
//!  results   publishes the results of ingests
//!  reconcile compares a bucket with the ledger
//!  validate  checks files before they are put
//!  decisions what people decide about versions, on the command line
//!  users     users, on the command line
//!  ----------------------------------------------------------
//!  objects   the S3 client
//!  enrich    what TMDB says of movies
//!  metrics   counters and gauges
//!  problem   the table of error codes
//!  events    what has happened, for those who follow it
//!  accounts  who is calling, and what the caller may do
//!  store     every SQL statement
//!  ----------------------------------------------------------
//!  secrets   Secrets Manager
//!  fetch     requests to other services
//!  telemetry logging
//!  terminal  text from outside, made safe to print
//!  shutdown  the signal to stop
//!  config    environment variables
//!  ignored_keys keys that are no files
//!  retry     backoff
//! ```
//!
//! Imports run down this list and never back. The modules of the first group do not import each
//! other. `docs/ARCHITECTURE.md` follows one event and one request through them.
//!
//! [`run`] starts the service. It takes its listener and its shutdown signal from the caller, so that
//! a test can run any number of services side by side.

pub mod accounts;
pub mod config;
pub mod decisions;
pub mod enrich;
mod events;
mod fetch;
pub mod healthcheck;
mod ignored_keys;
pub mod ingest;
pub mod metrics;
pub mod objects;
pub mod problem;
pub mod reconcile;
mod results;
mod retry;
pub mod secrets;
mod shutdown;
pub mod store;
pub mod telemetry;
pub mod terminal;
pub mod users;
pub mod validate;

mod http;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use movie_file::DecodePool;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tracing::{info, warn};

use accounts::{Accounts, Issuer, KeyError};
use aws::{Secret, SecretError, SecretsManager};
use config::{Config, CorsOrigins, ServerLimits};
use enrich::{Enricher, EnricherError};
use ingest::Worker;
use metrics::Metrics;
use objects::ObjectStore;
use results::Publisher;
use store::{Lane, Outbox, Retention, Store, StoreError};

/// How many workers process batches of small files. While one merges, the other reads.
const BATCH_WORKERS: usize = 2;

/// How long workers may take to requeue their ingests when the service stops.
const WORKERS_STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The AWS clients of the service.
#[derive(Clone, Debug)]
pub struct Aws {
    /// Reads objects.
    pub s3: aws_sdk_s3::Client,
    /// Publishes results, if the configuration names a topic.
    pub sns: aws_sdk_sns::Client,
    /// Reads the database's password and the API token, if the configuration names their secrets.
    pub secrets: SecretsManager,
}

impl Aws {
    /// Returns clients as the AWS SDK's own environment variables describe them.
    pub async fn from_env() -> Self {
        let sdk = aws::sdk_from_env().await;
        // A custom endpoint is addressed by path: its host name has no subdomain for each bucket.
        let custom_endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].map(std::env::var);
        let custom_endpoint = custom_endpoint.iter().any(Result::is_ok);
        let s3 = aws_sdk_s3::config::Builder::from(&sdk).force_path_style(custom_endpoint).build();
        Self {
            s3: aws_sdk_s3::Client::from_conf(s3),
            sns: aws_sdk_sns::Client::new(&sdk),
            secrets: SecretsManager::new(&sdk),
        }
    }
}

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration of the database is wrong.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A secret that the configuration names cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The key of access tokens is not one.
    #[error("MRU_JWT_KEY: {0}")]
    JwtKey(#[from] KeyError),
    /// The root certificates for the outside issuer cannot be loaded.
    #[error("MRU_OIDC_ISSUER: {0}")]
    OutsideIssuer(#[source] reqwest::Error),
    /// Details of movies cannot be had.
    #[error(transparent)]
    Enricher(#[from] EnricherError),
    /// The address of the listener for probes is not available.
    #[error("MRU_PROBE_LISTEN {0}: {1}")]
    ProbeListener(SocketAddr, io::Error),
}

/// Runs the service on `listener` until `shutdown` ends. The database must have been migrated.
///
/// After `shutdown`, requests in flight have a few seconds to end, and ingests are requeued.
///
/// # Errors
/// If the configuration of the database is wrong, a secret cannot be read, or the address for probes is
/// not available.
pub async fn run(
    config: Config,
    aws: Aws,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), StartError> {
    serve(config, aws, listener, None::<fn(Routes) -> Routes>, shutdown).await
}

/// The routes of the service.
pub type Routes = warp::filters::BoxedFilter<(warp::reply::Response,)>;

/// Returns the OpenAPI document of the API, as JSON for people to read.
pub fn openapi_document() -> String {
    format!("{:#}\n", http::document())
}

/// Runs the service as [`run`] does, and serves what `wrap` makes of its routes. These see each request, also those
/// that [`run`] answers from memory before.
///
/// # Errors
/// As [`run`].
pub async fn run_wrapped(
    config: Config,
    aws: Aws,
    listener: TcpListener,
    wrap: impl FnOnce(Routes) -> Routes,
    shutdown: impl Future<Output = ()>,
) -> Result<(), StartError> {
    serve(config, aws, listener, Some(wrap), shutdown).await
}

async fn serve(
    config: Config,
    aws: Aws,
    listener: TcpListener,
    wrap: Option<impl FnOnce(Routes) -> Routes>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), StartError> {
    let mut store = Store::new(&config.database, &aws.secrets, config.workers).await?;
    store = store.with_budget(config.budget).with_max_withdraw(config.snapshots.max_withdraw);
    if config.results_topic_arn.is_some() {
        store = store.with_outbox(Outbox::Enabled);
    }
    let probe_listener = match config.probe_listen {
        Some(address) => {
            let listener = TcpListener::bind(address).await;
            Some(listener.map_err(|error| StartError::ProbeListener(address, error))?)
        }
        None => None,
    };
    let api_tokens = secrets::api_tokens(&config.api_token, &aws.secrets).await?;
    let issuer = match &config.jwt_key {
        Some(key) => {
            let keys = secrets::jwt_keys(key, &aws.secrets).await?;
            Some(Issuer::new(keys.iter().map(Secret::expose))?)
        }
        None => None,
    };
    let outside = config.outside_issuer;
    let accounts = Accounts::new(api_tokens, issuer, outside, config.public_ledger);
    let accounts = Arc::new(accounts.map_err(StartError::OutsideIssuer)?);
    let objects = ObjectStore::new(aws.s3);
    let upload_origin = match config.buckets.first() {
        Some(bucket) => objects.upload_origin(bucket).await,
        None => None,
    };
    let access = http::Access {
        accounts: Arc::clone(&accounts),
        buckets: config.buckets,
        ignored_keys: config.ignored_keys,
        upload_prefix: config.upload_prefix,
        upload_origin,
        trusted_proxies: config.trusted_proxies,
    };
    let metrics = Arc::new(Metrics::default());
    let enricher = match &config.tmdb {
        Some(tmdb) => {
            let metrics = Arc::clone(&metrics);
            Some(Arc::new(Enricher::new(store.clone(), tmdb, &aws.secrets, metrics).await?))
        }
        None => None,
    };
    let decode_pool = DecodePool::default();
    let (stop, stopping) = watch::channel(false);

    let worker = Arc::new(Worker {
        store: store.clone(),
        objects: objects.clone(),
        decode_pool: decode_pool.clone(),
        retry: config.retry,
        lease: config.lease,
        snapshot_prefixes: config.snapshots.prefixes,
        metrics: Arc::clone(&metrics),
    });
    let mut workers = JoinSet::new();
    for _ in 0..config.workers {
        workers.spawn(Arc::clone(&worker).run(Lane::Large, stopping.clone()));
    }
    for _ in 0..BATCH_WORKERS.min(config.workers) {
        workers.spawn(Arc::clone(&worker).run(Lane::Small, stopping.clone()));
    }
    if let Some(topic_arn) = config.results_topic_arn {
        let publisher =
            Publisher { store: store.clone(), sns: aws.sns, topic_arn, retry: config.retry };
        workers.spawn(Arc::new(publisher).run(stopping.clone()));
    }
    let retention =
        Retention { ledger_days: config.ledger_days, history_days: config.history_days };
    let app = http::App::new(
        store.clone(),
        objects,
        decode_pool,
        access,
        Arc::clone(&metrics),
        stopping.clone(),
        config.cache_bytes,
    )
    .with_pictures(enricher, config.images);
    let background = tokio::spawn({
        let events = Arc::clone(&app.events);
        async move {
            tokio::join!(
                store.listen(),
                store.keep_watching_revision(),
                store.keep_maintaining(),
                store.keep_removing(retention),
                events.keep_logging(&store),
                accounts.keep_fetching_keys(),
                accounts.keep_ended_sessions(&store)
            )
        }
    });

    let address = listener.local_addr().map(|address| address.to_string()).unwrap_or_default();
    info!(address, workers = config.workers, "service started");
    let app = Arc::new(app);
    let main = http::Listener {
        socket: listener,
        app: wrap.is_none().then(|| Arc::clone(&app)),
        exports_spans: true,
        routes: match wrap {
            Some(wrap) => wrap(http::routes(Arc::clone(&app))),
            None => http::routes(Arc::clone(&app)),
        },
        limits: config.server,
        origins: config.cors_origins,
    };
    let probes = probe_listener.map(|socket| http::Listener {
        socket,
        app: None,
        exports_spans: false,
        routes: http::probe_routes(app),
        limits: ServerLimits::PROBES,
        origins: CorsOrigins::Listed(Vec::new()),
    });
    let serving = http::serve(main, probes, metrics, stopping);
    let stopper = async {
        shutdown.await;
        stop.send_replace(true);
    };
    tokio::join!(serving, stopper);
    if tokio::time::timeout(WORKERS_STOP_TIMEOUT, workers.join_all()).await.is_err() {
        // The leases of their ingests expire, and other workers start over.
        warn!("stopping: some workers did not end in time");
    }
    background.abort();
    info!("service stopped");
    Ok(())
}
