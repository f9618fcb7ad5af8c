//! The database: pools, errors, and (in the modules below) every SQL statement of the service.
//!
//! Nothing here knows of HTTP or S3. Each statement opens with a comment that names it, so that
//! `pg_stat_activity` and slow-query logs can be read.

mod catalogue;
mod connect;
mod error;
mod figures;
mod ingests;
mod known;
mod listen;
mod merge;
mod migrate;
mod queue;
mod reconcile;
mod results;
mod row;
mod sql;
mod staging;

use std::sync::{Arc, Mutex};

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts};
use tokio::sync::watch;
use tokio_postgres::config::TargetSessionAttrs;
use uuid::Uuid;

pub use catalogue::{Filters, MoviePage, MovieQuery, Sort};
pub use error::StoreError;
pub use figures::QueueFigures;
pub use ingests::{Ingest, IngestQuery, IngestState, Observed};
pub use merge::{Merged, Place};
pub use migrate::migrate;
pub use queue::Claim;
pub use reconcile::{Known, Taken};
pub use results::DueResult;
pub use row::CatalogueRow;
pub use staging::Staging;

use crate::{config::Database, secrets::CurrentCredentials};
use aws::SecretsManager;
use connect::Connector;

/// A session that its client has left ends soon, in a transaction or in a statement. Statements are
/// planned for what the staging table holds at the time.
const WRITE_OPTIONS: &str = "-c jit=off -c idle_in_transaction_session_timeout=30s \
     -c client_connection_check_interval=5s -c plan_cache_mode=force_custom_plan";

/// The catalogue and the ledger.
#[derive(Clone)]
pub struct Store {
    /// For the workers alone: no flood of requests keeps a lease from being renewed.
    work: Pool,
    /// For requests that write, and for those that ask about ingests.
    write: Pool,
    /// For queries.
    read: Pool,
    /// For the listener, whose connection is no pool's.
    connector: Connector,
    write_config: tokio_postgres::Config,
    hints: Arc<Hints>,
    publishes_results: bool,
    /// The lease tokens of claims that may have taken an ingest, but whose answer was lost.
    unanswered: Arc<Mutex<Vec<Uuid>>>,
}

/// What another part of the system, here or in another process, says has happened. A hint may be
/// lost: whoever waits for one also looks at the table from time to time.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    /// Changes when an ingest was queued.
    pub(crate) queued: watch::Sender<()>,
    /// Changes when an ingest came to its end.
    pub(crate) finished: watch::Sender<()>,
}

impl Store {
    /// Pools of connections to `database`, opened when first needed. `workers` is the number of
    /// ingests that will run at once, each with a connection of its own.
    ///
    /// # Errors
    /// If the certificate authorities or the credentials cannot be read.
    pub async fn new(
        database: &Database,
        secrets: &SecretsManager,
        workers: usize,
    ) -> Result<Self, StoreError> {
        let connector = connector(database, secrets).await?;
        // Planning anew for each query pays: the plan hangs on how rare the words are. The rest
        // keeps one query from taking the machine, and from waiting long for a first load.
        let read_options = "-c plan_cache_mode=force_custom_plan -c jit=off \
             -c max_parallel_workers_per_gather=0 -c default_transaction_read_only=on \
             -c statement_timeout=3500ms -c lock_timeout=2s";
        let read_host = database.read_host.as_ref().unwrap_or(&database.host);
        let read_config = connect::config(database, read_host, read_options);
        let write_config = connect::config(database, &database.host, WRITE_OPTIONS);
        let mut work_config = write_config.clone();
        work_config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        let mut request_config = work_config.clone();
        request_config.options(format!("{WRITE_OPTIONS} -c statement_timeout=30s"));

        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        // After a failover an old connection may lead to what is now a replica: such a one fails
        // this check (division by zero) and is replaced.
        let writable = "select 1 / (current_setting('transaction_read_only') = 'off')::int";
        let writable = RecyclingMethod::Custom(writable.to_owned());
        Ok(Self {
            work: pool(work_config, &connector, writable.clone(), workers * 2 + 1)?,
            write: pool(request_config, &connector, writable, cores * 4)?,
            read: pool(read_config, &connector, RecyclingMethod::Verified, cores * 4)?,
            connector,
            write_config,
            hints: Arc::default(),
            publishes_results: false,
            unanswered: Arc::default(),
        })
    }

    /// A connection for a worker.
    async fn worker(&self) -> Result<Object, StoreError> {
        checkout(&self.work).await
    }

    /// A connection that may write, for a request.
    async fn writer(&self) -> Result<Object, StoreError> {
        checkout(&self.write).await
    }

    /// A connection for queries, possibly to a reader endpoint.
    async fn reader(&self) -> Result<Object, StoreError> {
        checkout(&self.read).await
    }

    /// Whether the database answers and has the migrations that this release knows.
    ///
    /// # Errors
    /// If it does not.
    pub async fn ready(&self) -> Result<(), StoreError> {
        migrate::check(&**self.reader().await?).await
    }

    pub(crate) fn hints(&self) -> &Hints {
        &self.hints
    }
}

async fn connector(database: &Database, secrets: &SecretsManager) -> Result<Connector, StoreError> {
    let credentials = CurrentCredentials::new(&database.login, secrets).await;
    let credentials = credentials.map_err(|error| StoreError::Setup(error.to_string()))?;
    Connector::new(&database.tls, credentials)
}

/// A connection of `pool` that has just answered, or a new one.
///
/// The pool tries its idle connections one after the other, each with a timeout of its own. Where
/// the first gives no answer, the others lead to the same silent server: they are dropped.
async fn checkout(pool: &Pool) -> Result<Object, StoreError> {
    match tokio::time::timeout(connect::TIMEOUT, pool.get()).await {
        Ok(connection) => Ok(connection?),
        Err(elapsed) => {
            pool.retain(|_, _| false);
            Err(StoreError::Unavailable(elapsed.into()))
        }
    }
}

fn pool(
    config: tokio_postgres::Config,
    connector: &Connector,
    recycling_method: RecyclingMethod,
    size: usize,
) -> Result<Pool, StoreError> {
    let manager_config = ManagerConfig { recycling_method };
    let manager = Manager::from_connect(config, connector.clone(), manager_config);
    let timeout = Some(connect::TIMEOUT);
    let timeouts = Timeouts { wait: timeout, create: timeout, recycle: timeout };
    let builder = Pool::builder(manager).max_size(size).timeouts(timeouts);
    builder.runtime(Runtime::Tokio1).build().map_err(|error| StoreError::Setup(error.to_string()))
}
