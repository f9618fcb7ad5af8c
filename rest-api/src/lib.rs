//! The movies-r-us service: takes movie files from S3 into Postgres, and answers queries.
//!
//! Data flows one way, and so do the imports:
//!
//! ```text
//!            http  ---->  store  <----  ingest
//!   notifications,      catalogue,      claims work, reads the object,
//!   queries             ledger, SQL     validates, merges
//! ```
//!
//! - [`config`] is what the environment says; [`secrets`] what Secrets Manager says;
//!   [`telemetry`] how we log; [`metrics`] what we count; [`problem`] how errors look to clients.
//! - [`store`] holds every SQL statement, and knows neither HTTP nor S3.
//! - [`ingest`] takes a file from the bucket into the store, in bounded memory.
//! - `results` tells producers what became of their files, by SNS.
//! - [`reconcile`] compares the bucket with the ledger, and queues what no notification told of.
//! - [`validate`] checks files before they are put, without any of the rest.
//! - `http` is the route table and its handlers, and the accept loop.
//!
//! [`run`] starts all of it. It takes its listener and its end from the caller, so that a test can
//! run any number of services side by side.

pub mod config;
pub mod healthcheck;
pub mod ingest;
pub mod metrics;
pub mod objects;
pub mod problem;
pub mod reconcile;
mod results;
mod retry;
pub mod secrets;
pub mod store;
pub mod telemetry;
pub mod validate;

mod http;

use std::{sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tracing::{info, warn};

use aws::{SecretError, SecretsManager};
use config::Config;
use ingest::Worker;
use metrics::Metrics;
use objects::ObjectStore;
use results::Publisher;
use store::{Outbox, Store, StoreError};

/// How long workers may take to put their ingests back when the service stops.
const WORKERS_STOP: Duration = Duration::from_secs(5);

/// The clients of AWS that the service works with.
#[derive(Clone, Debug)]
pub struct Aws {
    /// For the objects.
    pub s3: aws_sdk_s3::Client,
    /// For the results, where the configuration names a topic.
    pub sns: aws_sdk_sns::Client,
    /// For the database's password and the API token, where the configuration leaves them to it.
    pub secrets: SecretsManager,
}

impl Aws {
    /// Clients as the AWS SDK's own variables describe them.
    pub async fn from_env() -> Self {
        let sdk = aws::sdk_from_env().await;
        // Any endpoint of one's own is addressed by path: its host name has no entry for each
        // bucket.
        let own_endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].map(std::env::var);
        let own_endpoint = own_endpoint.iter().any(Result::is_ok);
        let s3 = aws_sdk_s3::config::Builder::from(&sdk).force_path_style(own_endpoint).build();
        Self {
            s3: aws_sdk_s3::Client::from_conf(s3),
            sns: aws_sdk_sns::Client::new(&sdk),
            secrets: SecretsManager::new(&sdk),
        }
    }
}

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration of the database cannot work.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A secret that the configuration names cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// Runs the service on `listener` until `shutdown` ends. The database must have been migrated.
///
/// Requests under way are given a few seconds to end then, and ingests go back to the queue.
///
/// # Errors
/// If the configuration of the database cannot work, or a secret cannot be read.
pub async fn run(
    config: Config,
    aws: Aws,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), StartError> {
    let mut store = Store::new(&config.database, &aws.secrets, config.workers).await?;
    if config.results_topic_arn.is_some() {
        store = store.with_outbox(Outbox::Enabled);
    }
    let api_tokens = secrets::api_tokens(&config.api_token, &aws.secrets).await?;
    let objects = ObjectStore::new(aws.s3);
    let metrics = Arc::new(Metrics::default());
    let (stop, stopping) = watch::channel(false);

    let worker = Arc::new(Worker {
        store: store.clone(),
        objects: objects.clone(),
        retry: config.retry,
        lease: config.lease,
        metrics: Arc::clone(&metrics),
    });
    let mut workers = JoinSet::new();
    for _ in 0..config.workers {
        workers.spawn(Arc::clone(&worker).run(stopping.clone()));
    }
    if let Some(topic_arn) = config.results_topic_arn {
        let publisher =
            Publisher { store: store.clone(), sns: aws.sns, topic_arn, retry: config.retry };
        workers.spawn(publisher.run(stopping.clone()));
    }
    let listening = tokio::spawn({
        let store = store.clone();
        async move { store.listen().await }
    });

    let app = http::App::new(store, objects, api_tokens, Arc::clone(&metrics), stopping.clone());
    let address = listener.local_addr().map(|address| address.to_string()).unwrap_or_default();
    info!(address, workers = config.workers, "serving");
    let serving = http::serve(listener, http::routes(Arc::new(app)), metrics, stopping);
    let stopper = async {
        shutdown.await;
        stop.send_replace(true);
    };
    tokio::join!(serving, stopper);
    if tokio::time::timeout(WORKERS_STOP, workers.join_all()).await.is_err() {
        // The leases on what they held run out, and others start over.
        warn!("stopping: leaving workers that did not end in time");
    }
    listening.abort();
    info!("stopped");
    Ok(())
}

/// Ends when the service was asked to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone asks for it too.
    let _ = stop.wait_for(|stop| *stop).await;
}
