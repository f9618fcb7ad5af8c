//! The pools of database connections, one for each purpose.

use std::time::Duration;

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Status,
    Timeouts,
};
use tokio_postgres::{Config, config::TargetSessionAttrs};

use super::{
    StoreError,
    connect::{self, Connector},
    folding::FOLDING,
    reads::ReadPool,
};
use crate::config::Database;

/// Options of sessions that write. The server ends a session whose client is gone: after 30 s idle in
/// a transaction, within 5 s in a statement. Most writes change a small part of a table, and find it by an
/// index. With its default cost of random reads, the planner would read the whole table much too early. Migration
/// 14 refuses merges of sessions that do not know which versions count.
pub(super) const WRITE_OPTIONS: &str = "-c mru.counting=2 -c jit=off -c idle_in_transaction_session_timeout=30s \
     -c client_connection_check_interval=5s -c random_page_cost=1.1";

/// A further option of the session that migrates: it may write, whatever rules the text of the catalogue was
/// folded by.
pub(super) const ANY_FOLDING: &str = "-c mru.folding=any";

/// Further options of sessions of workers: a commit does not wait until it is durable. What a crash loses
/// is done once more. Merges are the exception.
const WORKER_OPTIONS: &str = "-c synchronous_commit=off";

/// Further options of sessions that run short statements. They find few rows by an index, whatever the values
/// are and the statistics say. To plan them each time takes longer than to run them.
pub(super) const SHORT_OPTIONS: &str =
    "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_sort=off";

/// Further options of sessions that stage large files. Each statement is planned for the present contents
/// of the staging table.
const STAGING_OPTIONS: &str = "-c plan_cache_mode=force_custom_plan";

/// Options of sessions that read. Unless they say otherwise, each query gets a plan of its own, because the best plan
/// depends on how rare its words are. Most of what they read is in memory: with the default cost of random reads, the planner
/// would walk over too many movies in the order of their ids. The timeouts keep one query from using the whole
/// machine, and from waiting long for a first load.
const READ_OPTIONS: &str = "-c plan_cache_mode=force_custom_plan -c jit=off \
     -c max_parallel_workers_per_gather=0 -c random_page_cost=1.1 -c statement_timeout=3500ms \
     -c lock_timeout=2s";

/// Further options of sessions that read pages. Each statement has one plan, which its form says ([`super::plan`]). Movies
/// cost so much that all indexes are used that the form allows.
const PAGE_OPTIONS: &str =
    "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c cpu_tuple_cost=10";

/// Further options of sessions that export the catalogue. The rows come in the order of an index: to sort all of
/// them would take disk space, and time before the first one.
const EXPORT_OPTIONS: &str = "-c statement_timeout=630s -c enable_sort=off";

/// Further options of sessions that search. Their statements name the index of each branch by its form: the
/// planner must not read the whole table instead.
const SEARCH_OPTIONS: &str = "-c enable_seqscan=off";

/// A connection for queries that was lent within this time is not tested again before it is lent: the test would take
/// as much of the processor as a query that finds a few movies.
const TESTED_FOR: Duration = Duration::from_secs(1);

/// How many probes ask the database at once.
const PROBES: usize = 2;

/// How many exports run at once.
const EXPORTS: usize = 4;

/// Further options of sessions that read the ledger. Each list has an index with its filters and its
/// order, which reads no other rows. Let the planner choose that one: costs are numbers of rows alone.
/// By its own costs and statistics it would also filter the newest ingests, which reads the whole ledger
/// if those that match are old.
const LEDGER_OPTIONS: &str = "-c enable_seqscan=off -c enable_bitmapscan=off \
     -c enable_sort=off -c seq_page_cost=0 -c random_page_cost=0";

/// Fails (by a division by zero) on a connection to a replica. After a failover an old connection
/// may lead to one.
const IS_WRITABLE: &str = "select 1 / (current_setting('transaction_read_only') = 'off')::int";

/// The pools of one service.
#[derive(Clone)]
pub(super) struct Pools {
    /// For short statements of workers alone: no flood of requests keeps a lease from being renewed.
    pub(super) workers: Pool,
    /// For large files, and what reads much in the background.
    pub(super) staging: Pool,
    /// For requests that write.
    pub(super) writer: Pool,
    /// For pages in the order of ids, and single movies.
    pub(super) reader: ReadPool,
    /// For other queries on the catalogue, whose plans Postgres chooses.
    pub(super) planned: ReadPool,
    /// For queries that the reader endpoint is too far behind for. Without such an endpoint the same as
    /// `reader`.
    pub(super) primary_reader: ReadPool,
    /// For searches.
    pub(super) search: ReadPool,
    /// For searches that the reader endpoint is too far behind for. Without such an endpoint the same as
    /// `search`.
    pub(super) primary_search: ReadPool,
    /// For probes: no load of queries delays them.
    pub(super) probes: ReadPool,
    /// For whole results, whose clients may read slowly.
    pub(super) exports: ReadPool,
    /// For requests that read the ledger. They see what was written before, so they go to the primary
    /// host.
    pub(super) ledger: ReadPool,
}

impl Pools {
    /// Returns pools of connections to `database`, which are opened when they are first needed.
    /// `workers` ingests run at once, each with a connection of its own.
    ///
    /// # Errors
    /// If a pool cannot be built.
    pub(super) fn new(
        database: &Database,
        connector: &Connector,
        workers: usize,
    ) -> Result<Self, StoreError> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let config = |options: &[&str]| {
            let mut config = connect::config(database, &database.host, &options.join(" "));
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
            config
        };
        // Migration 11 refuses merges of sessions with other rules than the catalogue has.
        let folding = format!("-c mru.folding={FOLDING}");
        let writing = |options: &[&str]| config(&[&[WRITE_OPTIONS, &folding], options].concat());
        let worker_config = writing(&[WORKER_OPTIONS, SHORT_OPTIONS]);
        let staging_config = writing(&[WORKER_OPTIONS, STAGING_OPTIONS]);
        let writer_config = writing(&[SHORT_OPTIONS, "-c statement_timeout=30s"]);
        let ledger_config = config(&[READ_OPTIONS, LEDGER_OPTIONS]);
        let read_host = database.read_host.as_ref().unwrap_or(&database.host);
        let export_config = reader_config(database, read_host, EXPORT_OPTIONS);
        let [search_config, primary_search_config] =
            [read_host, &database.host].map(|host| reader_config(database, host, SEARCH_OPTIONS));
        let [planned_config, primary_reader_config] =
            [read_host, &database.host].map(|host| reader_config(database, host, ""));
        let page_config = reader_config(database, read_host, PAGE_OPTIONS);
        let writable = RecyclingMethod::Custom(IS_WRITABLE.to_owned());
        let read_pool = |config, method, size| {
            let pool = pool(config, connector, method, size)?;
            Ok::<_, StoreError>(ReadPool::new(pool, connector.tls.clone()))
        };
        let (fast, verified) = (RecyclingMethod::Fast, RecyclingMethod::Verified);
        let probes = read_pool(planned_config.clone(), verified.clone(), PROBES)?;
        let reader = read_pool(page_config, fast.clone(), cores * 3 - 1)?;
        let planned = read_pool(planned_config, fast.clone(), cores + 1)?.with_scans_of(&reader);
        let search = read_pool(search_config, fast.clone(), cores * 2)?;
        let (primary_reader, primary_search) = if database.read_host.is_some() {
            (
                read_pool(primary_reader_config, fast.clone(), cores * 2)?,
                read_pool(primary_search_config, fast, cores)?,
            )
        } else {
            (reader.clone(), search.clone())
        };
        let exports = read_pool(export_config, verified, EXPORTS)?;
        let ledger = pool(ledger_config, connector, writable.clone(), cores * 2)?;
        Ok(Self {
            workers: pool(worker_config, connector, writable.clone(), workers + 6)?,
            staging: pool(staging_config, connector, writable.clone(), workers + 3)?,
            writer: pool(writer_config, connector, writable, cores * 4)?,
            reader,
            planned,
            primary_reader,
            search,
            primary_search,
            probes,
            exports,
            ledger: ReadPool::new(ledger, connector.tls.clone()),
        })
    }

    /// Returns the status of each pool, by name.
    pub(super) fn status(&self) -> [(&'static str, Status); 8] {
        let Self { workers, staging, writer, reader, planned, search, exports, ledger, .. } = self;
        [
            ("workers", workers.status()),
            ("staging", staging.status()),
            ("writer", writer.status()),
            ("reader", reader.status()),
            ("planned", planned.status()),
            ("search", search.status()),
            ("exports", exports.status()),
            ("ledger", ledger.status()),
        ]
    }
}

/// Returns the options of sessions that read pages of the catalogue.
pub fn page_session() -> String {
    format!("{READ_OPTIONS} {PAGE_OPTIONS}")
}

/// Returns the configuration of sessions that query the catalogue on `host`, with further `options`.
pub(super) fn reader_config(database: &Database, host: &str, options: &str) -> Config {
    let read_only = format!("{READ_OPTIONS} -c default_transaction_read_only=on {options}");
    connect::config(database, host, &read_only)
}

/// Returns a connection of `pool` that has just been tested, or a new one.
///
/// The pool tests its idle connections one after another, each with a timeout. If the first one does
/// not respond, the others lead to the same unresponsive server: all of them are dropped.
pub(super) async fn checkout(pool: &Pool) -> Result<Object, StoreError> {
    match tokio::time::timeout(connect::TIMEOUT, pool.get()).await {
        Ok(connection) => Ok(connection?),
        Err(elapsed) => {
            pool.retain(|_, _| false);
            Err(elapsed.into())
        }
    }
}

fn pool(
    config: Config,
    connector: &Connector,
    recycling_method: RecyclingMethod,
    size: usize,
) -> Result<Pool, StoreError> {
    let is_tested_now_and_then = matches!(recycling_method, RecyclingMethod::Fast);
    let manager_config = ManagerConfig { recycling_method };
    let manager = Manager::from_connect(config, connector.clone(), manager_config);
    let timeout = Some(connect::TIMEOUT);
    let timeouts = Timeouts { wait: timeout, create: timeout, recycle: timeout };
    let mut builder = Pool::builder(manager).max_size(size).timeouts(timeouts);
    if is_tested_now_and_then {
        builder = builder.post_recycle(Hook::async_fn(|client, metrics| {
            Box::pin(async move {
                if metrics.last_used() > TESTED_FOR {
                    client.simple_query("").await.map_err(HookError::Backend)?;
                }
                Ok(())
            })
        }));
    }
    builder.runtime(Runtime::Tokio1).build().map_err(|error| StoreError::Setup(error.to_string()))
}
