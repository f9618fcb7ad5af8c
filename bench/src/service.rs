//! The service in this process, on any database and with any number of workers.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use aws::SecretsManager;
use futures_util::{StreamExt, TryStreamExt, stream};
use local_stack::{client, sdk};
use rest_api::{
    Aws, StartError,
    config::{Config, Database},
    store::{ObservedVersion, Report, Store},
};
use schema::Notification;
use serde_json::Value;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::sleep};

use crate::files::CONCURRENCY;

const TOKEN: &str = "a-token-for-the-benchmark";

/// A running service.
pub(crate) struct Service {
    url: String,
    http: reqwest::Client,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), StartError>>,
}

impl Service {
    /// Starts a service on `database` and on the objects of the endpoint at `s3`. Without `workers` it
    /// records ingests and claims none. Returns when it is ready.
    pub(crate) async fn start(database: &Database, s3: SocketAddr, workers: usize) -> Result<Self> {
        // Fails if another part of the process has installed it, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // The required variables; `database` replaces those of the database.
        let variables = [
            ("AWS_REGION", "eu-west-1"),
            ("MRU_API_TOKEN", TOKEN),
            ("MRU_PUBLIC_LEDGER", "true"),
            ("MRU_DB_HOST", "/"),
            ("MRU_DB_NAME", "-"),
            ("MRU_DB_USER", "-"),
            ("MRU_DB_PASS", "-"),
            ("MRU_DB_TLS", "disable"),
        ];
        let mut config = Config::from_lookup(|name| {
            let variable = variables.iter().find(|(known, _)| *known == name);
            variable.map(|(_, value)| (*value).to_owned())
        })?;
        config.database = database.clone();
        config.workers = workers;
        let aws = Aws {
            s3: client(s3),
            sns: aws_sdk_sns::Client::new(&sdk(s3)),
            secrets: SecretsManager::new(&sdk(s3)),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(rest_api::run(config, aws, listener, async {
            let _ = stopped.await;
        }));
        let http =
            reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(100)).build()?;
        let service = Self { url, http, stop, ended };
        for _ in 0..200 {
            if service.get("/readyz").await.is_ok() {
                return Ok(service);
            }
            sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("the service did not become ready")
    }

    /// Requests `path`. Returns the response after its last byte.
    pub(crate) async fn get(&self, path: &str) -> Result<Response> {
        let response = self.http.get(format!("{}{path}", self.url)).send().await?;
        let response = response.error_for_status()?;
        let link = response.headers().get("link").and_then(|link| link.to_str().ok());
        let link = link.map(str::to_owned);
        Ok(Response { link, body: response.json().await? })
    }

    /// Sends a notification. Returns the ingest when it is recorded.
    pub(crate) async fn notify(&self, notification: &Value) -> Result<Value> {
        self.send(notification, 0).await
    }

    /// Sends a notification, and waits until its ingest has succeeded, or was superseded. Returns the
    /// time from its claim to its end.
    pub(crate) async fn ingest(&self, notification: &Value) -> Result<Duration> {
        let mut ingest = self.send(notification, 30).await?;
        while matches!(ingest["state"].as_str(), Some("queued" | "running")) {
            sleep(Duration::from_millis(100)).await;
            ingest = self.get(&format!("/ingests/{}", ingest["id"])).await?.body;
        }
        let is_merged = matches!(ingest["state"].as_str(), Some("succeeded" | "superseded"));
        ensure!(is_merged, "the file was not merged: {ingest}");
        let time = |name: &str| {
            let time = ingest[name].as_str().context("a time is missing")?;
            anyhow::Ok(chrono::DateTime::parse_from_rfc3339(time)?)
        };
        Ok((time("finished_at")? - time("started_at")?).to_std()?)
    }

    async fn send(&self, notification: &Value, wait: u32) -> Result<Value> {
        let request = self.http.post(format!("{}/notify", self.url)).bearer_auth(TOKEN);
        let request = request.header("prefer", format!("wait={wait}")).json(notification);
        Ok(request.send().await?.error_for_status()?.json().await?)
    }

    /// Stops the service, and waits until it has ended.
    pub(crate) async fn stop(self) -> Result<()> {
        let _ = self.stop.send(());
        Ok(self.ended.await??)
    }
}

/// A response of JSON.
pub(crate) struct Response {
    /// Its header `Link`.
    pub(crate) link: Option<String>,
    pub(crate) body: Value,
}

/// Returns a client for a configuration that names no secret. Nothing listens at its endpoint.
pub(crate) fn no_secrets() -> SecretsManager {
    SecretsManager::new(&sdk(([127, 0, 0, 1], 1).into()))
}

/// Records notifications in the ledger, several at once.
pub(crate) async fn record_all(
    store: &Store,
    notifications: &[Notification],
    observed: &ObservedVersion,
) -> Result<()> {
    let record = async |notification: &Notification| {
        store.record(&Report { notification, observed: observed.clone() }, "", None).await?;
        Ok(())
    };
    let notifications = stream::iter(notifications).map(Ok::<_, anyhow::Error>);
    notifications.try_for_each_concurrent(CONCURRENCY, record).await
}
