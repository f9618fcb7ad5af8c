//! All parts together: started in order, stopped in the reverse.

use std::{
    env,
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use aws::SecretsManager;
use aws_config::SdkConfig;
use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    primitives::ByteStream,
};
use rest_api::{
    Aws,
    config::{ApiToken, Config, Database, LogFormat, Retry, TokenDigest},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    lambda::{self, Function},
    postgres::{Postgres, Purpose},
    s3::{ACCESS_KEY, Endpoint, REGION, SECRET_KEY},
};

const SAMPLE: &[u8] = include_bytes!("../sample/movies.json");
const SAMPLE_KEY: &str = "sample/movies.json";
/// The database of the stack in its own Postgres.
pub const DATABASE: &str = "movies_r_us";

/// How long the sample may take on a slow machine.
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(120);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the API listens.
    pub api: SocketAddr,
    /// Where the S3 endpoint listens.
    pub s3: SocketAddr,
    /// The bucket that is watched.
    pub bucket: String,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Whether to load the sample if it has not been loaded.
    pub sample: bool,
}

/// Everything, running.
pub struct Stack {
    /// The API's address, with the port that it really has.
    pub api: SocketAddr,
    /// The same of the S3 endpoint.
    pub s3: SocketAddr,
    /// The same of the Lambda Runtime API.
    pub lambda: SocketAddr,
    /// None where `MRU_DB_HOST` names a server.
    pub postgres: Option<Postgres>,
    options: Options,
    token: String,
    stop: watch::Sender<bool>,
    s3_task: JoinHandle<()>,
    lambda_task: JoinHandle<Result<()>>,
    api_task: JoinHandle<Result<(), rest_api::StartError>>,
    /// Held for as long as we run: no two stacks share a data folder.
    _lock: File,
}

impl Stack {
    /// Starts everything; returns when the API serves.
    ///
    /// # Errors
    /// Says which part did not start, and what would help.
    pub async fn start(options: Options) -> Result<Self> {
        // For reqwest; whoever installed it before us did no other.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let lock = lock_folder(&options.data_dir)?;
        let api = bind(options.api, "--api").await?;
        let s3 = bind(options.s3, "--s3").await?;
        let lambda = bind(([127, 0, 0, 1], 0).into(), "the Lambda Runtime API").await?;
        let (api_at, s3_at, lambda_at) =
            (api.local_addr()?, s3.local_addr()?, lambda.local_addr()?);
        let token = env::var("MRU_API_TOKEN").ok().filter(|token| !token.is_empty());
        let token = token.unwrap_or_else(|| "local-token".to_owned());

        let (postgres, database) = database(&options.data_dir).await?;
        let aws = Aws { s3: client(s3_at), secrets: SecretsManager::new(&sdk(s3_at)) };
        let migrated = rest_api::store::migrate(&database, &aws.secrets).await;
        migrated.context("cannot migrate the database")?;

        let (stop, stopping) = watch::channel(false);
        let stopped = move || {
            let mut stopping = stopping.clone();
            async move {
                let _ = stopping.wait_for(|stop| *stop).await;
            }
        };
        let (events, from_s3) = mpsc::unbounded_channel();
        let endpoint = Endpoint::new(&options.data_dir.join("s3"), events)?;
        std::fs::create_dir_all(options.data_dir.join("s3").join(&options.bucket))?;
        let s3_task = tokio::spawn(endpoint.serve(s3, stopped()));
        let function = Function {
            program: env::current_exe()?,
            api_url: format!("http://{api_at}/notify"),
            api_token: token.clone(),
        };
        let lambda_task = tokio::spawn(lambda::run(lambda, function, from_s3));
        let config = Config {
            listen: api_at,
            database,
            api_token: ApiToken::Fixed(TokenDigest::of(&token)),
            workers: 2,
            retry: Retry::default(),
            lease: Duration::from_secs(15),
            log_filter: String::new(),
            log_format: LogFormat::Text,
        };
        let api_task = tokio::spawn(rest_api::run(config, aws, api, stopped()));
        Ok(Self {
            api: api_at,
            s3: s3_at,
            lambda: lambda_at,
            postgres,
            options,
            token,
            stop,
            s3_task,
            lambda_task,
            api_task,
            _lock: lock,
        })
    }

    /// Puts the sample into the bucket unless it has been taken before, and waits until it is.
    ///
    /// # Errors
    /// If it is not taken.
    pub async fn load_sample(&self) -> Result<()> {
        let bucket = &self.options.bucket;
        let url = format!("http://{}/ingests?bucket={bucket}&key={SAMPLE_KEY}&limit=1", self.api);
        // A proxy of the environment has no business on loopback.
        let http = reqwest::Client::builder().no_proxy().build()?;
        let newest = async || -> Result<Value> {
            let ingests = http.get(&url).send().await?.error_for_status()?;
            Ok(ingests.json::<Value>().await?[0].clone())
        };
        if !self.options.sample || newest().await?["state"] == "succeeded" {
            return Ok(());
        }
        eprintln!("First start: putting a sample of real movies into the bucket ...");
        let started = Instant::now();
        let put = client(self.s3)
            .put_object()
            .bucket(bucket)
            .key(SAMPLE_KEY)
            .body(ByteStream::from_static(SAMPLE));
        put.send().await.context("cannot put the sample")?;
        let mut shown = String::new();
        while started.elapsed() < SAMPLE_TIMEOUT {
            let ingest = newest().await?;
            let state = ingest["state"].as_str().unwrap_or("on its way").to_owned();
            if state == "succeeded" {
                let (movies, ms) = (&ingest["inserted"], started.elapsed().as_millis());
                eprintln!("  succeeded: {movies} movies can be queried, {ms} ms after the put");
                return Ok(());
            }
            if state == "rejected" || state == "failed" {
                bail!("the sample was {state}: {ingest}");
            }
            if state != shown {
                eprintln!("  {state}");
                shown = state;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        bail!("the sample was not taken within {} s", SAMPLE_TIMEOUT.as_secs())
    }

    /// Tells the API of objects that were put, but of which it has not heard: the events of AWS
    /// outlive a crash, ours are held in memory.
    ///
    /// # Errors
    /// If the bucket or the ledger cannot be read.
    pub async fn redeliver(&self) -> Result<()> {
        let bucket = &self.options.bucket;
        let http = reqwest::Client::builder().no_proxy().build()?;
        let mut pages = client(self.s3).list_objects_v2().bucket(bucket).into_paginator().send();
        while let Some(page) = pages.try_next().await? {
            for object in page.contents() {
                let key = object.key().unwrap_or_default();
                let of_key = [("bucket", bucket.as_str()), ("key", key), ("limit", "1")];
                let ledger = http.get(format!("http://{}/ingests", self.api)).query(&of_key);
                let known: Value = ledger.send().await?.error_for_status()?.json().await?;
                if known[0].is_null() {
                    let notification = json!({ "bucket": bucket, "key": key });
                    let notify = http.post(format!("http://{}/notify", self.api));
                    let notify = notify.bearer_auth(&self.token).json(&notification);
                    notify.send().await?.error_for_status()?;
                }
            }
        }
        Ok(())
    }

    /// What runs where, and what to try.
    pub fn welcome(&self) -> String {
        let Self { api, s3, lambda, token, options, .. } = self;
        let bucket = &options.bucket;
        let psql = self.postgres.as_ref().map_or_else(String::new, |postgres| {
            let socket = postgres.socket_dir().display();
            format!("\n  Postgres      psql -h {socket} -U movies_r_us {DATABASE}")
        });
        let token = if token == "local-token" { "local-token" } else { "$MRU_API_TOKEN" };
        format!(
            "\nmovies-r-us is running. Ctrl-C stops all of it; its data stays in {folder}.\n\n  \
             API           http://{api}/\n  \
             S3 endpoint   http://{s3}/{bucket}   (access key {ACCESS_KEY}, secret {SECRET_KEY})\n  \
             Dead letters  http://{lambda}/dead-letters{psql}\n\nTry:\n\n  \
             curl 'http://{api}/movies?actor=chaplin&genre=comedy&sort=year&limit=3'\n\n  \
             echo '{{\"title\":\"My Movie\",\"year\":2026}}' > my.json\n  \
             AWS_ACCESS_KEY_ID={ACCESS_KEY} AWS_SECRET_ACCESS_KEY={SECRET_KEY} AWS_REGION={REGION} \\\n    \
             aws --endpoint-url http://{s3} s3 cp my.json s3://{bucket}/my.json\n\n  \
             curl -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' \\\n    \
             -d '{{\"title\":\"Another Movie\",\"year\":2026}}' http://{api}/movies\n",
            folder = options.data_dir.display(),
        )
    }

    /// Waits for a part to end by itself, which none should.
    pub async fn broken(&mut self) -> anyhow::Error {
        let postgres = async {
            match &mut self.postgres {
                Some(postgres) => postgres.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = postgres => anyhow::anyhow!("Postgres ended: see its log beside its data"),
            ended = &mut self.api_task => anyhow::anyhow!("the API ended: {ended:?}"),
            ended = &mut self.lambda_task => anyhow::anyhow!("the Lambda ended: {ended:?}"),
            ended = &mut self.s3_task => anyhow::anyhow!("the S3 endpoint ended: {ended:?}"),
        }
    }

    /// Stops everything, the database last.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        // Either may have ended before, and said so.
        let _ = self.s3_task.await;
        let _ = self.api_task.await;
        self.lambda_task.abort();
        let _ = self.lambda_task.await;
        if let Some(postgres) = self.postgres {
            postgres.stop().await;
        }
    }
}

/// A client for a local S3 endpoint.
pub fn client(address: SocketAddr) -> Client {
    let config = aws_sdk_s3::config::Builder::from(&sdk(address));
    Client::from_conf(config.force_path_style(true).build())
}

/// The AWS SDK's configuration for local endpoints at `address`.
pub fn sdk(address: SocketAddr) -> SdkConfig {
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws::http_client())
        .timeout_config(aws::timeouts())
        .region(Region::new(REGION))
        .endpoint_url(format!("http://{address}"))
        .credentials_provider(aws_sdk_s3::config::SharedCredentialsProvider::new(Credentials::new(
            ACCESS_KEY, SECRET_KEY, None, None, "local",
        )))
        .build()
}

fn lock_folder(folder: &Path) -> Result<File> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = File::create(folder.join("lock"))?;
    if file.try_lock().is_err() {
        bail!(
            "{} is in use by another local-stack: give this one another --data-dir",
            folder.display()
        );
    }
    Ok(file)
}

async fn bind(address: SocketAddr, option: &str) -> Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.with_context(|| format!("cannot listen on {address}: choose another address by {option}"))
}

/// The server that `MRU_DB_HOST` names, or our own.
async fn database(folder: &Path) -> Result<(Option<Postgres>, Database)> {
    if env::var_os("MRU_DB_HOST").is_some() {
        // The rest of the service's variables is ours to say.
        let ours =
            [("AWS_REGION", REGION), ("MRU_API_TOKEN", "-"), ("MRU_API_TOKEN_SECRET_ARN", "")];
        let ours = |name: &str| ours.iter().find(|(known, _)| *known == name);
        let config = Config::from_lookup(|name| {
            ours(name).map(|(_, value)| (*value).to_owned()).or_else(|| env::var(name).ok())
        })?;
        return Ok((None, config.database));
    }
    let postgres = Postgres::start(&folder.join("postgres"), Purpose::Keep).await?;
    postgres.create_database(DATABASE).await?;
    let database = postgres.database(DATABASE);
    Ok((Some(postgres), database))
}
