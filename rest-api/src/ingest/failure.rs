//! Why an ingest got nowhere, and what is said of it.

use super::{source::SourceError, stream::DecodeError};
use crate::store::StoreError;

/// Why an ingest got nowhere.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Claimed again and again by workers that never got as far as to say why they failed.
    #[error("every worker that took the file died or stalled")]
    Worn,
}

impl Failure {
    /// What clients read of it.
    pub(super) fn code_and_title(&self) -> (&'static str, &'static str) {
        match self {
            Self::Source(SourceError::Gone(_)) => ("object_gone", "The object is not there"),
            Self::Source(SourceError::Refused(_)) => {
                ("object_refused", "The object store does not give the object out")
            }
            Self::Source(SourceError::Temporary(_)) => {
                ("object_store_unavailable", "The object store was not available")
            }
            Self::Store(_) => ("database_unavailable", "The database did not take the movies"),
            Self::Worn => ("worker_died", "The file could not be worked on"),
        }
    }
}

impl From<DecodeError<SourceError>> for Failure {
    fn from(error: DecodeError<SourceError>) -> Self {
        match error {
            DecodeError::Read(error) => Self::Source(error),
            DecodeError::Store(error) => Self::Store(error),
        }
    }
}
