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
//! - [`config`] is what the environment says; [`telemetry`] how we log; [`problem`] how errors look
//!   to clients.
//! - [`store`] holds every SQL statement, and knows neither HTTP nor S3.
//! - [`ingest`] takes a file from the bucket into the store, in bounded memory.
//! - `http` is the route table and its handlers, and the accept loop.
//!
//! [`run`] starts all of it. It takes its listener and its end from the caller, so that a test can
//! run any number of services side by side.

pub mod config;
pub mod ingest;
pub mod problem;
pub mod store;
pub mod telemetry;

mod http;

use std::{sync::Arc, time::Duration};

use aws_config::BehaviorVersion;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tracing::{info, warn};

use config::Config;
use ingest::{ObjectStore, Worker};
use store::{Store, StoreError};

/// How long workers may take to put their ingests back when the service stops.
const WORKERS_STOP: Duration = Duration::from_secs(5);

/// Runs the service on `listener` until `shutdown` ends. The database must have been migrated.
///
/// Requests under way are given a few seconds to end then, and ingests go back to the queue.
///
/// # Errors
/// If the configuration of the database cannot work.
pub async fn run(
    config: Config,
    s3: aws_sdk_s3::Client,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), StoreError> {
    let store = Store::new(&config.database, config.workers)?;
    let objects = ObjectStore::new(s3);
    let (stop, stopping) = watch::channel(false);

    let worker = Arc::new(Worker {
        store: store.clone(),
        objects: objects.clone(),
        retry: config.retry,
        lease: config.lease,
    });
    let mut workers = JoinSet::new();
    for _ in 0..config.workers {
        workers.spawn(Arc::clone(&worker).run(stopping.clone()));
    }
    let listening = tokio::spawn({
        let (store, database) = (store.clone(), config.database.clone());
        async move { store.listen(&database).await }
    });

    let app = http::App { store, objects, api_token: config.api_token, stopping: stopping.clone() };
    let address = listener.local_addr().map(|address| address.to_string()).unwrap_or_default();
    info!(address, workers = config.workers, "serving");
    let serving = http::serve(listener, http::routes(Arc::new(app)), stopping);
    let stopper = async {
        shutdown.await;
        stop.send_replace(true);
    };
    tokio::join!(serving, stopper);
    if tokio::time::timeout(WORKERS_STOP, workers.join_all()).await.is_err() {
        // Their leases run out, and others start over.
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

/// A client for S3 as the AWS SDK's own variables describe it: `AWS_REGION`, credentials,
/// `AWS_ENDPOINT_URL_S3`.
pub async fn s3_from_env() -> aws_sdk_s3::Client {
    let shared =
        aws_config::defaults(BehaviorVersion::latest()).http_client(http_client()).load().await;
    // Any endpoint of one's own is addressed by path: its host name has no entry for each bucket.
    let own_endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].map(std::env::var);
    let own_endpoint = own_endpoint.iter().any(Result::is_ok);
    aws_sdk_s3::Client::from_conf(s3_config(&shared).force_path_style(own_endpoint).build())
}

/// What every S3 client of ours has in common: timeouts.
pub fn s3_config(shared: &aws_config::SdkConfig) -> aws_sdk_s3::config::Builder {
    use aws_sdk_s3::config::timeout::TimeoutConfig;
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(std::time::Duration::from_secs(3))
        // For the head of an answer; the body is watched by the SDK's stalled stream protection.
        .read_timeout(std::time::Duration::from_secs(20))
        .build();
    aws_sdk_s3::config::Builder::from(shared).timeout_config(timeouts)
}

/// The HTTP client of the AWS SDK, with the one TLS library that this program has.
pub fn http_client() -> aws_sdk_s3::config::SharedHttpClient {
    use aws_smithy_http_client::{Builder, tls};
    let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    Builder::new().tls_provider(provider).build_https()
}
