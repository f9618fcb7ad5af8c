//! What can go wrong with the database, as the rest of the service needs to tell it apart.

use deadpool_postgres::PoolError;
use tokio_postgres::error::SqlState;

/// A fault of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away, failing over, or too busy: worth another try.
    #[error("the database is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another worker holds the ingest by now; this one changed nothing.
    #[error("the lease of the ingest was lost")]
    LeaseLost,
    /// What the file was compared with has changed while it was read: it must be read again.
    #[error("the catalogue has changed under the file")]
    Moved,
    /// The database has not the migrations that this release needs.
    #[error(
        "the database is at migration {found}, this release needs {needed}: run rest-api migrate"
    )]
    Migrations {
        /// The newest migration that the database has.
        found: i32,
        /// The newest that this release knows.
        needed: i32,
    },
    /// The configuration cannot work.
    #[error("database configuration: {0}")]
    Setup(String),
    /// A statement failed: a fault of ours.
    #[error("a database statement failed")]
    Statement(#[source] tokio_postgres::Error),
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        let temporary = match error.code() {
            // Nothing from the server: the connection broke or could not be made.
            None => true,
            Some(code) => {
                // Class 08: connection exception; 28: credentials refused, as for a moment in a
                // rotation; 53: insufficient resources; 57: operator intervention, which includes
                // shutdown, starting up and a statement's timeout.
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

impl From<PoolError> for StoreError {
    fn from(error: PoolError) -> Self {
        Self::Unavailable(error.into())
    }
}
