//! Errors of the database, as the rest of the service needs to distinguish them.

use deadpool_postgres::PoolError;
use schema::Fault;
use tokio::time::error::Elapsed;
use tokio_postgres::error::SqlState;

use super::{AffectedMovie, folding::FOLDING};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is unavailable, failing over, or too busy. A retry may help.
    #[error("the database is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Too many reads wait for a connection.
    #[error("too many queries wait")]
    Busy,
    /// Another worker has claimed the ingest. This one changed nothing.
    #[error("the lease of the ingest was lost")]
    LeaseLost,
    /// Movies that the file was compared with have changed since. The file must be read again.
    #[error("the catalogue has changed since the file was compared with it")]
    CatalogueChanged,
    /// The database lacks migrations that this release needs.
    #[error(
        "the database is at migration {found}, this release needs {needed}: run rest-api migrate"
    )]
    Migrations {
        /// The newest migration of the database.
        found: i32,
        /// The newest migration of this release.
        needed: i32,
    },
    /// The database has all migrations, but a step that follows them has not ended.
    #[error("the migration of the database has not ended: run rest-api migrate")]
    MigrationUnfinished,
    /// The text of the catalogue was folded by the rules of another release, or this has not ended.
    #[error(
        "the folding of the catalogue is {found}, this release needs {FOLDING}: run rest-api migrate"
    )]
    Folding {
        /// The version of the rules that the catalogue was folded by.
        found: String,
    },
    /// The configuration is wrong.
    #[error("database configuration: {0}")]
    Setup(String),
    /// A migration cannot be applied, or one that was applied has changed since.
    #[error("the database cannot be migrated")]
    Migration(#[source] Box<refinery::Error>),
    /// The database has no storage left. A retry does not help until it has.
    #[error("the database has no storage left")]
    Full(#[source] tokio_postgres::Error),
    /// The file exceeds its budget.
    #[error("the file has more than {limit}")]
    OverBudget {
        /// The limit that it exceeds.
        limit: String,
    },
    /// A snapshot withdraws more movies than it may without an approval.
    #[error("ingest {ingest} would withdraw {withdrawn} of {named} movies")]
    TooManyWithdrawn {
        /// The ingest of the snapshot.
        ingest: i64,
        /// How many movies it would withdraw.
        withdrawn: u64,
        /// How many movies its object named before.
        named: u64,
        /// The first hundred of the movies that it would withdraw.
        movies: Vec<AffectedMovie>,
    },
    /// The ingest has merged nothing, or so long ago that nobody knows any more.
    #[error("the ingest has merged nothing")]
    NotMerged,
    /// The movie is not in the state that its change expects.
    #[error("the movie has changed meanwhile")]
    MovieChanged,
    /// The idempotency key was that of another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The movie that a page begins after is gone.
    #[error("the movie that the page begins after is gone")]
    CursorGone,
    /// The change would leave no active user who may manage users.
    #[error("this is the last active admin: make another one first")]
    LastAdmin,
    /// A statement failed: an error of the service.
    #[error("a database statement failed")]
    Statement(#[source] tokio_postgres::Error),
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        if error.code() == Some(&SqlState::DISK_FULL) {
            return Self::Full(error);
        }
        let temporary = match error.code() {
            // No response: the connection broke or could not be opened.
            None => true,
            Some(code) => {
                // Class 08: connection exception; 28: credentials refused, as for a moment during a
                // rotation; 53: insufficient resources; 57: operator intervention, which includes
                // shutdown, start and the timeout of a statement.
                matches!(&code.code()[..2], "08" | "28" | "53" | "57")
                    || [
                        SqlState::READ_ONLY_SQL_TRANSACTION,
                        SqlState::T_R_SERIALIZATION_FAILURE,
                        SqlState::T_R_DEADLOCK_DETECTED,
                        SqlState::LOCK_NOT_AVAILABLE,
                        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                    ]
                    .contains(code)
            }
        };
        if temporary { Self::Unavailable(error.into()) } else { Self::Statement(error) }
    }
}

impl StoreError {
    /// Returns the fault of the file, if the file is what is wrong.
    pub fn fault_of_file(&self) -> Option<Fault> {
        match self {
            Self::OverBudget { limit } => Some(Fault::at_root(format!("at most {limit}"), "more")),
            _ => None,
        }
    }
}

impl From<Elapsed> for StoreError {
    fn from(elapsed: Elapsed) -> Self {
        Self::Unavailable(elapsed.into())
    }
}

impl From<PoolError> for StoreError {
    fn from(error: PoolError) -> Self {
        Self::Unavailable(error.into())
    }
}
