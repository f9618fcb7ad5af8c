//! Starts and stops everything.

mod admin;
mod sample;
mod welcome;

use std::{
    collections::BTreeSet,
    env,
    fs::{self, File},
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use aws::{Secret, SecretsManager};
use rest_api::{
    Aws,
    accounts::generate_key,
    config::{
        ApiToken, Budget, Config, CorsOrigins, DEFAULT_CACHE, Database, IgnoredKeys, JwtKey,
        LogFormat, Retry, ServerLimits, Snapshots, Tmdb, TmdbToken, TokenDigest,
    },
    objects::ObjectStore,
    reconcile,
    store::Store,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    function::Function,
    lambda,
    local_aws::{REGION, client, sdk},
    loopback::{HostCheck, SecretPath},
    postgres::{Postgres, Purpose, USER, close_to_others},
    private,
    s3::Endpoint,
    sns::{self, IngestResult},
};
use admin::AdminPassword;
use welcome::Welcome;

/// The name of the database in the Postgres that the stack starts.
pub const DATABASE: &str = "movies_r_us";

/// The API's token unless `MRU_API_TOKEN` is set.
const DEFAULT_TOKEN: &str = "local-token";

/// How long a start waits for the delivery of the events of earlier runs.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(60);

/// An address on loopback; the system chooses the port.
const LOOPBACK_ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Returns the names of all variables that the stack knows. One shell may have variables for the stack and for
/// commands of the service on the stack's database, so these are among them. The function inherits all.
pub fn variables() -> BTreeSet<String> {
    let mut names = Config::variables();
    names.extend(ingest_lambda::Config::variables());
    names.insert(admin::VARIABLE.to_owned());
    names
}

/// The options of the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the API listens.
    pub api: SocketAddr,
    /// Where the S3 endpoint listens.
    pub s3: SocketAddr,
    /// The bucket whose objects are ingested.
    pub bucket: String,
    /// The directory that keeps all data.
    pub data_dir: PathBuf,
    /// Whether to load the sample unless it has been loaded before.
    pub sample: bool,
}

/// The running stack.
pub struct Stack {
    /// The address of the API, with its actual port.
    pub api: SocketAddr,
    /// The address of the S3 endpoint, with its actual port.
    pub s3: SocketAddr,
    /// The URL of the Lambda Runtime API, with its secret path.
    pub lambda_url: String,
    /// The Postgres that the stack started. `None` if `MRU_DB_HOST` names a server.
    pub postgres: Option<Postgres>,
    options: Options,
    token: String,
    admin: AdminPassword,
    store: Store,
    objects: local_s3::Store,
    stop: watch::Sender<bool>,
    s3_task: JoinHandle<Result<()>>,
    lambda_task: JoinHandle<Result<()>>,
    api_task: JoinHandle<Result<(), rest_api::StartError>>,
    sns_task: JoinHandle<Result<()>>,
    /// `None` after [`Self::print_results`].
    results: Option<mpsc::UnboundedReceiver<IngestResult>>,
    /// Keeps other stacks from using the same data directory.
    _lock: File,
}

impl Stack {
    /// Starts everything. Returns when clients can connect to the API.
    ///
    /// # Errors
    /// If a component does not start.
    pub async fn start(mut options: Options) -> Result<Self> {
        // Nothing that is started may depend on the working directory.
        options.data_dir = std::path::absolute(&options.data_dir)?;
        // reqwest needs a default provider. An error means that one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let lock = lock_directory(&options.data_dir)?;
        let api = bind(options.api, "choose another address with --api").await?;
        let s3 = bind(options.s3, "choose another address with --s3").await?;
        let lambda = bind(LOOPBACK_ANY_PORT, "the Lambda Runtime API needs a free port").await?;
        let sns = bind(LOOPBACK_ANY_PORT, "the SNS endpoint needs a free port").await?;
        let (api_at, s3_at) = (api.local_addr()?, s3.local_addr()?);
        let (lambda_path, sns_path) = (SecretPath::random(), SecretPath::random());
        let lambda_url = format!("http://{}/{lambda_path}", lambda.local_addr()?);
        let sns_at = sns.local_addr()?;
        let sns_sdk = sdk(sns_at).into_builder();
        let sns_sdk = sns_sdk.endpoint_url(format!("http://{sns_at}/{sns_path}")).build();
        let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let token = variable("MRU_API_TOKEN").unwrap_or_else(|| DEFAULT_TOKEN.to_owned());

        let (postgres, database) = start_database(&options.data_dir).await?;
        let aws = Aws {
            s3: client(s3_at),
            sns: aws_sdk_sns::Client::new(&sns_sdk),
            secrets: SecretsManager::new(&sdk(s3_at)),
        };
        let migrated = rest_api::store::migrate(&database, &aws.secrets).await;
        migrated.context("cannot migrate the database")?;

        let (stop, stopping) = watch::channel(false);
        let stopped = move || {
            let mut stopping = stopping.clone();
            async move {
                let _ = stopping.wait_for(|stop| *stop).await;
            }
        };
        let directory = options.data_dir.join("s3");
        let endpoint = Endpoint::new(&directory)?.with_page_of(api_at);
        let (objects, events) = (endpoint.store(), endpoint.events());
        objects
            .create_versioned_bucket(&options.bucket)
            .await
            .context("cannot create the bucket")?;
        let taken_over = endpoint.take_over(&directory).await?;
        if taken_over > 0 {
            eprintln!("Objects of an earlier release that were taken over: {taken_over}");
        }
        let s3_task = tokio::spawn(endpoint.serve(s3, stopped()));
        let function = Function {
            program: env::current_exe()?,
            api_url: format!("http://{api_at}/notify"),
            api_token: token.clone(),
        };
        let lambda_task = tokio::spawn(lambda::run(
            lambda,
            lambda_path,
            function,
            options.bucket.clone(),
            events,
        ));
        let (result_sender, results) = mpsc::unbounded_channel();
        let sns_task = tokio::spawn(sns::serve(sns, sns_path, result_sender));
        let store = Store::new(&database, &aws.secrets, 0).await?;
        let admin = admin::make(&store).await?;
        let config = Config {
            listen: api_at,
            probe_listen: None,
            server: ServerLimits::MAIN,
            database,
            api_token: ApiToken::Fixed(TokenDigest::of(&token)),
            jwt_key: Some(JwtKey::Fixed(signing_key(&options.data_dir)?)),
            outside_issuer: None,
            tmdb: variable("MRU_TMDB_TOKEN")
                .map(|token| Tmdb::new(TmdbToken::Fixed(Secret::new(token)))),
            images: variable("MRU_IMAGES").is_some_and(|value| value == "on"),
            public_ledger: true,
            trusted_proxies: 0,
            buckets: vec![options.bucket.clone()],
            workers: 2,
            budget: Budget::default(),
            ignored_keys: IgnoredKeys::default(),
            upload_prefix: String::new(),
            snapshots: Snapshots::default(),
            ledger_days: None,
            history_days: None,
            // Pages of other sites are refused before.
            cors_origins: CorsOrigins::Listed(Vec::new()),
            cache_bytes: DEFAULT_CACHE,
            retry: Retry::default(),
            lease: Duration::from_secs(15),
            results_topic_arn: Some(sns::topic_arn()),
            log_filter: String::new(),
            log_format: LogFormat::Text,
        };
        let api_task = tokio::spawn(rest_api::run_wrapped(
            config,
            aws,
            api,
            move |routes| HostCheck::new(api_at).before(routes),
            stopped(),
        ));
        Ok(Self {
            api: api_at,
            s3: s3_at,
            lambda_url,
            postgres,
            options,
            token,
            admin,
            store,
            objects,
            stop,
            s3_task,
            lambda_task,
            api_task,
            sns_task,
            results: Some(results),
            _lock: lock,
        })
    }

    /// Loads the sample, unless the options exclude it or it has been loaded before. Waits until it
    /// is ingested.
    ///
    /// # Errors
    /// If the sample is not ingested.
    pub async fn load_sample(&self) -> Result<()> {
        if self.options.sample {
            sample::load(self.api, &client(self.s3), &self.options.bucket).await?;
        }
        Ok(())
    }

    /// Waits until the events of earlier runs are delivered. Then queues the objects for which the API has
    /// received no notification, such as those that were taken over.
    ///
    /// # Errors
    /// If the bucket or the ledger cannot be read.
    pub async fn reconcile(&self) -> Result<()> {
        let delivered = self.objects.wait_for_acknowledgements();
        // An event that takes longer is recorded later, and the ledger then knows its version.
        let _ = tokio::time::timeout(DELIVERY_TIMEOUT, delivered).await;
        let bucket = Some(self.options.bucket.clone());
        let options = reconcile::Options { bucket, apply: true, ..Default::default() };
        let objects = ObjectStore::new(client(self.s3));
        let compared = reconcile::reconcile(&self.store, &objects, options, |_| Ok(())).await;
        let queued = compared.context("cannot compare the bucket with the ledger")?.queued;
        if queued > 0 {
            eprintln!(
                "Objects that were put, but not ingested before the last stop: {queued}, queued now"
            );
        }
        Ok(())
    }

    /// Returns the addresses and the commands to try.
    pub fn welcome(&self) -> String {
        let psql = self.postgres.as_ref().map(|postgres| {
            let socket = postgres.socket_dir().display();
            format!("psql -h {socket} -U {USER} {DATABASE}")
        });
        // The user's own token must not appear in the output.
        let token = if self.token == DEFAULT_TOKEN { DEFAULT_TOKEN } else { "$MRU_API_TOKEN" };
        let Self { api, s3, ref lambda_url, ref options, ref admin, .. } = *self;
        let Options { bucket, data_dir, .. } = options;
        Welcome { api, s3, lambda_url, bucket, data_dir, psql, token, admin }.to_string()
    }

    /// Prints a line for each ingest that has ended since the start, and from now on for each that
    /// ends. Omits a success of the sample, which [`Self::load_sample`] prints.
    pub fn print_results(&mut self) {
        let Some(mut results) = self.results.take() else { return };
        tokio::spawn(async move {
            while let Some(IngestResult { key, state, line }) = results.recv().await {
                if key != sample::KEY || state != "succeeded" {
                    // A closed stdout is no reason to stop.
                    let _ = writeln!(std::io::stdout(), "{line}");
                }
            }
        });
    }

    /// Waits until a component stops, which happens only by a fault. Returns an error that names it.
    pub async fn wait_for_failure(&mut self) -> anyhow::Error {
        let postgres = async {
            let Some(postgres) = &mut self.postgres else { return std::future::pending().await };
            postgres.wait_for_exit().await;
            postgres.log_path().display().to_string()
        };
        tokio::select! {
            log = postgres => anyhow::anyhow!("Postgres exited: see its log, {log}"),
            result = &mut self.api_task => anyhow::anyhow!("the API stopped: {result:?}"),
            result = &mut self.lambda_task => anyhow::anyhow!("the Lambda stopped: {result:?}"),
            result = &mut self.s3_task => anyhow::anyhow!("the S3 endpoint stopped: {result:?}"),
            result = &mut self.sns_task => anyhow::anyhow!("the SNS endpoint stopped: {result:?}"),
        }
    }

    /// Stops everything, the database last.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        // The caller knows about a task that failed: `wait_for_failure` returns its error.
        let _ = self.s3_task.await;
        let _ = self.api_task.await;
        self.lambda_task.abort();
        let _ = self.lambda_task.await;
        self.sns_task.abort();
        if let Some(postgres) = self.postgres {
            postgres.stop().await;
        }
    }
}

/// Returns the key that signs access tokens. The first start makes it, so that tokens hold across starts.
fn signing_key(data_dir: &Path) -> Result<Secret> {
    let path = data_dir.join("jwt-key.pem");
    if let Ok(key) = fs::read_to_string(&path) {
        return Ok(Secret::new(key));
    }
    let key = generate_key()?;
    // Whole or not at all, also if this process is killed.
    let unfinished = path.with_extension("unfinished");
    private::create_file(&unfinished)?.write_all(key.expose().as_bytes())?;
    fs::rename(&unfinished, &path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(key)
}

/// Creates `directory` unless it exists, closes it to other accounts, and locks it.
///
/// # Errors
/// If another stack uses it, or it is open to other accounts and holds files of something else.
fn lock_directory(directory: &Path) -> Result<File> {
    let context = || format!("cannot use {}", directory.display());
    fs::create_dir_all(directory).with_context(context)?;
    let lock = directory.join("lock");
    let is_own = lock.exists() || fs::read_dir(directory).with_context(context)?.next().is_none();
    if is_own {
        close_to_others(directory).with_context(context)?;
    } else if fs::metadata(directory)?.mode() & 0o077 != 0 {
        bail!(
            "{0} holds files of something else, and other accounts can read it: choose another \
             directory with --data-dir, or close it (chmod 700 {0})",
            directory.display()
        );
    }
    let file = private::create_file(&lock).with_context(context)?;
    if file.try_lock().is_err() {
        bail!(
            "{} is in use by another local-stack: stop that one, or choose another directory with \
             --data-dir",
            directory.display()
        );
    }
    Ok(file)
}

/// Listens on `address`; `advice` completes the error message.
async fn bind(address: SocketAddr, advice: &str) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("cannot listen on {address}: {advice}"))
}

/// Returns the server that `MRU_DB_HOST` names, or starts one that keeps its data in `directory`.
async fn start_database(directory: &Path) -> Result<(Option<Postgres>, Database)> {
    if env::var_os("MRU_DB_HOST").is_some() {
        // Only the database part of the configuration is used; these satisfy the rest.
        let fixed =
            [("AWS_REGION", REGION), ("MRU_API_TOKEN", "-"), ("MRU_API_TOKEN_SECRET_ARN", "")];
        let fixed = |name: &str| fixed.iter().find(|(known, _)| *known == name);
        let config = Config::from_lookup(|name| {
            fixed(name).map(|(_, value)| (*value).to_owned()).or_else(|| env::var(name).ok())
        })?;
        return Ok((None, config.database));
    }
    let postgres = Postgres::start(&directory.join("postgres"), Purpose::Keep).await?;
    postgres.create_database(DATABASE).await?;
    let database = postgres.database(DATABASE);
    Ok((Some(postgres), database))
}
