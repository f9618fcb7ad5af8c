//! The database: connections, errors, and every SQL statement of the service.
//!
//! The store knows no HTTP and no S3. Each statement opens with a comment that names its module and
//! function, so that `pg_stat_activity` and slow-query logs lead to the code. By concept:
//!
//! | concept | modules |
//! | --- | --- |
//! | connections | `connect`, `pools`, `reads`, `listen`, `sql` |
//! | schema | `migrate`, `service_role`, `concurrent_indexes`, `convert`, `refold` |
//! | equal text | `folding` |
//! | order of object versions | `version_order` |
//! | ledger and queue | `ledger`, `claim`, `observe`, `queue`, `queue_depth`, `outbox`, `reconcile`, `known_versions` |
//! | writing the catalogue | `catalogue_row`, `staging`, `previous_version`, `merge`, `batch`, `batch_movies`, `maintenance`, `retention` |
//! | which versions count | `merged_versions`, `movie_sets`, `counting`, `withdrawn`, `undo`, `affected`, `decisions`, `movie_decisions` |
//! | what clients write | `edits`, `edit_movie`, `holds` |
//! | what movies were | `history` |
//! | users | `users`, `sessions` |
//! | querying the catalogue | `revision`, `filters`, `sample`, `plan`, `page`, `catalogue`, `one_movie`, `counts`, `export`, `search` |
//! | what TMDB says of movies | `details` |

mod affected;
mod batch;
mod batch_movies;
mod catalogue;
mod catalogue_row;
mod claim;
mod concurrent_indexes;
mod connect;
mod convert;
mod counting;
mod counts;
mod decisions;
mod details;
mod edit_movie;
mod edits;
mod error;
mod export;
mod filters;
mod folding;
mod history;
mod holds;
mod known_versions;
mod ledger;
mod listen;
mod maintenance;
mod merge;
mod merged_versions;
mod migrate;
mod movie_decisions;
mod movie_sets;
mod observe;
mod one_movie;
mod outbox;
mod page;
#[cfg(test)]
mod page_tests;
mod plan;
mod pools;
mod previous_version;
mod queue;
mod queue_depth;
mod reads;
mod reconcile;
mod refold;
mod retention;
mod revision;
mod sample;
mod search;
mod service_role;
mod sessions;
mod sql;
mod staging;
#[cfg(test)]
mod statements;
mod undo;
mod users;
mod version_order;
mod withdrawn;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::{Object, Status};
use tokio::time::sleep;
use tracing::warn;

pub use affected::AffectedMovie;
pub use batch::SmallFile;
pub use catalogue::{MovieDocument, MoviePage, MovieQuery, PageStatement, Sort};
pub use catalogue_row::CatalogueRow;
pub use claim::{Claim, Lane, NULL_VERSION};
pub use counts::{GenreCount, YearCount};
pub use decisions::{Decided, Decision, Imported};
pub use details::{KeptDetails, NewDetails, Turn};
pub use edit_movie::{Content, Edit, Edited, IdempotencyKey};
pub use error::StoreError;
pub use export::{Export, ExportedMovie};
pub use filters::{Filters, Years, is_indexable};
pub use folding::{canonical, fold};
pub use history::{HistoricState, HistoryPage, HistoryQuery};
pub use holds::{HoldState, NewerVersion};
pub use known_versions::{KnownVersion, VersionInBucket};
pub use ledger::{Event, Ingest, IngestQuery, IngestState, Mode};
pub(crate) use listen::Ends;
pub use merge::Merged;
pub use merged_versions::Removal;
pub use migrate::migrate;
pub use movie_decisions::{DecidedOnMovie, MovieDecision};
pub use one_movie::{FoundById, Hold, MovieState, MovieWithProvenance, Provenance};
pub use outbox::{DueResult, Outbox};
pub use pools::page_session;
pub use queue_depth::QueueDepth;
pub use reconcile::{IngestedObject, LastReconcile, LedgerVersion};
pub use retention::{Removed, Retention};
pub use revision::Revision;
pub use search::{
    FoundMovie, SearchPage, SearchPosition, SearchQuery, Suggestion, SuggestionKind, search_key,
};
pub(crate) use sessions::{Digests, MAX_IDLE, Refreshed};
pub use sql::ListQuery;
pub use staging::{Stage, Staging};
pub use undo::{DecidedIngest, Effect, Undo};
pub(crate) use users::Credentials;
pub use users::{NewUser, User, UserChange};
pub use version_order::{ObservedVersion, Report, VersionPosition};
pub use withdrawn::{Reason, Withdrawal};

use crate::{
    config::{Budget, Database, MaxWithdraw},
    secrets::CurrentCredentials,
    telemetry::chain,
};
use aws::SecretsManager;
use claim::{Cursors, LostClaims};
use connect::Connector;
use listen::Hints;
use pools::{Pools, checkout};
use reads::{Cost, Lent};
use revision::KnownRevision;
use sample::KnownSample;
use search::KnownFrequencies;

/// How often a process asks whether the database has been migrated.
const MIGRATION_POLL: Duration = Duration::from_secs(1);

/// The catalogue and the ledger.
#[derive(Clone)]
pub struct Store {
    pools: Pools,
    connector: Connector,
    /// For the listener, whose connection belongs to no pool.
    listener_config: tokio_postgres::Config,
    hints: Arc<Hints>,
    revision: Arc<KnownRevision>,
    /// For the connection that watches the revision.
    revision_config: tokio_postgres::Config,
    has_read_host: bool,
    frequencies: Arc<KnownFrequencies>,
    sample: Arc<KnownSample>,
    outbox: Outbox,
    budget: Budget,
    max_withdraw: MaxWithdraw,
    lost_claims: Arc<LostClaims>,
    cursors: Arc<Cursors>,
    changes: Arc<maintenance::Changes>,
    /// Whether the text of the catalogue was found folded by the rules of this release.
    was_folded: Arc<AtomicBool>,
}

impl Store {
    /// Returns a store on `database`, for `workers` ingests at once.
    ///
    /// # Errors
    /// If the certificate authorities or the credentials cannot be read.
    pub async fn new(
        database: &Database,
        secrets: &SecretsManager,
        workers: usize,
    ) -> Result<Self, StoreError> {
        let connector = connector(database, secrets).await?;
        let read_host = database.read_host.as_ref().unwrap_or(&database.host);
        Ok(Self {
            pools: Pools::new(database, &connector, workers)?,
            listener_config: connect::config(database, &database.host, pools::WRITE_OPTIONS),
            revision_config: pools::reader_config(database, read_host, ""),
            has_read_host: database.read_host.is_some(),
            connector,
            hints: Arc::default(),
            revision: Arc::default(),
            frequencies: Arc::default(),
            sample: Arc::default(),
            outbox: Outbox::default(),
            budget: Budget::default(),
            max_withdraw: MaxWithdraw::default(),
            lost_claims: Arc::default(),
            cursors: Arc::default(),
            changes: Arc::default(),
            was_folded: Arc::default(),
        })
    }

    /// Returns the same store with this budget for each file.
    pub fn with_budget(self, budget: Budget) -> Self {
        Self { budget, ..self }
    }

    /// Returns the same store with this limit of what a snapshot may withdraw.
    pub fn with_max_withdraw(self, max_withdraw: MaxWithdraw) -> Self {
        Self { max_withdraw, ..self }
    }

    /// Returns a connection for short statements of a worker.
    async fn worker(&self) -> Result<Object, StoreError> {
        checkout(&self.pools.workers).await
    }

    /// Returns a connection for what takes long.
    async fn bulk(&self) -> Result<Object, StoreError> {
        checkout(&self.pools.staging).await
    }

    /// Returns a connection that may write, for a request.
    async fn writer(&self) -> Result<Object, StoreError> {
        checkout(&self.pools.writer).await
    }

    /// Returns a connection for queries, which may lead to a reader endpoint.
    async fn reader(&self, cost: Cost) -> Result<Lent, StoreError> {
        self.pools.reader.lend(cost).await
    }

    /// Returns a connection for queries to the primary database.
    async fn primary_reader(&self, cost: Cost) -> Result<Lent, StoreError> {
        self.pools.primary_reader.lend(cost).await
    }

    /// Returns a connection for reads of the ledger.
    async fn ledger_reader(&self) -> Result<Lent, StoreError> {
        self.pools.ledger.lend(Cost::Index).await
    }

    /// Checks that the database is available, has all migrations of this release, and has once had its folded
    /// text. A newer release may fold the text by other rules while this one still serves.
    ///
    /// # Errors
    /// If it is not, or has not.
    pub async fn ready(&self) -> Result<(), StoreError> {
        let connection = self.pools.probes.lend(Cost::Index).await?;
        let mut checked = migrate::check(&***connection).await;
        if checked.is_ok() && !self.was_folded.load(Ordering::Relaxed) {
            checked = migrate::check_folding(&***connection).await;
            self.was_folded.store(checked.is_ok(), Ordering::Relaxed);
        }
        reads::finish(connection);
        checked
    }

    /// Waits until the database has all migrations of this release: merges before that would not know what
    /// versions before have contained, or would take one movie for two.
    pub(crate) async fn wait_until_migrated(&self) {
        loop {
            let migrated = async {
                let connection = self.worker().await?;
                migrate::check(&**connection).await?;
                migrate::check_folding(&**connection).await?;
                migrate::check_session(&**connection).await
            };
            match migrated.await {
                Ok(()) => return,
                Err(error) => warn!(error = chain(&error), "no file is ingested yet, will retry"),
            }
            sleep(MIGRATION_POLL).await;
        }
    }

    /// Returns the status of each pool of connections, by name.
    pub fn pool_status(&self) -> [(&'static str, Status); 8] {
        self.pools.status()
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
