//! One attempt at an ingest: reads its object, stages its movies, and merges them.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use movie_file::{Limits, Reader, Violations, limits::MAX_FILE};
use schema::Fault;
use tracing::{debug, info};

use super::worker::Worker;
use crate::{
    objects::{MODE, Object, ObjectError, Presence},
    problem::Code,
    store::{
        CatalogueRow, Claim, Merged, Mode, NULL_VERSION, ObservedVersion, Removal, SmallFile,
        Stage, StoreError, VersionPosition,
    },
    terminal::excerpt,
};

/// How many characters of an unknown mode a violation quotes.
const MAX_EXCERPT: usize = 64;

/// The result of an attempt that did not fail.
pub(super) enum Attempted {
    /// The movies are in the catalogue.
    Merged(Merged),
    /// The file has violations.
    Rejected(Violations),
    /// The bucket holds newer content under this object key.
    Replaced,
}

/// What opening the object of a claim has resulted in.
pub(super) enum Opened {
    File(Box<File>),
    /// Its metadata has a violation.
    Rejected(Violations),
    /// The bucket holds newer content under this object key.
    Replaced,
}

/// An object that is being read.
pub(super) struct File {
    /// The claim on it, with what the object store reports where the notification lacked it.
    pub(super) claim: Claim,
    /// The position of its version.
    pub(super) position: VersionPosition,
    /// Its mode.
    pub(super) mode: Mode,
    pub(super) reader: Reader<BoxStream<'static, Result<Bytes, ObjectError>>>,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// The last allowed attempt ended without a result: its worker died or stalled.
    #[error("every worker that claimed the file died or stalled")]
    AttemptsExhausted,
}

/// One error may be the failure of several files.
impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

impl Failure {
    /// Returns the error of the database, if that has failed.
    pub(super) fn store(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            Self::Object(_) | Self::AttemptsExhausted => None,
        }
    }

    /// Returns the code of this failure.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Object(ObjectError::Gone(_)) => Code::ObjectGone,
            Self::Object(ObjectError::Refused(_)) => Code::ObjectRefused,
            Self::Object(ObjectError::Temporary(_)) => Code::ObjectStoreUnavailable,
            Self::Store(error) if matches!(**error, StoreError::Full(_)) => Code::DatabaseFull,
            Self::Store(_) => Code::DatabaseUnavailable,
            Self::AttemptsExhausted => Code::WorkerDied,
        }
    }
}

impl Worker {
    /// Attempts the ingest of `claim`.
    pub(super) async fn attempt(&self, claim: &Claim) -> Result<Attempted, Failure> {
        if claim.attempts > self.retry.max_attempts {
            return Err(Failure::AttemptsExhausted);
        }
        if claim.removal {
            let merged = self.store.merge_batch(&[self.removal(claim).await?]).await?.pop();
            return Ok(Attempted::Merged(merged.flatten().ok_or(StoreError::LeaseLost)?));
        }
        match self.load(claim, Stage::Changes).await {
            Err(failure) if matches!(failure.store(), Some(StoreError::CatalogueChanged)) => {
                info!("other merges changed the same movies meanwhile: reading the file again");
                self.load(claim, Stage::Everything).await
            }
            attempted => attempted,
        }
    }

    /// Reads the object, stages its movies, and merges them.
    async fn load(&self, claim: &Claim, stage: Stage) -> Result<Attempted, Failure> {
        let File { claim, position, mode, mut reader } = match self.open(claim).await? {
            Opened::File(file) => *file,
            Opened::Rejected(violations) => return Ok(Attempted::Rejected(violations)),
            Opened::Replaced => return Ok(Attempted::Replaced),
        };
        let mut staging = self.store.staging(&claim, stage).await?;
        while let Some(rows) = reader.next_batch(CatalogueRow::new).await? {
            staging.add(&rows).await?;
        }
        let file = reader.finish().await?;
        if !file.violations.is_empty() {
            staging.discard().await;
            return Ok(Attempted::Rejected(file.violations));
        }
        Ok(Attempted::Merged(self.store.merge_staged(staging, &position, mode, &claim).await?))
    }

    /// Returns the removal of an object, as a file without movies.
    pub(super) async fn removal(&self, claim: &Claim) -> Result<SmallFile, Failure> {
        let position = self.store.observe(claim, &ObservedVersion::default()).await?;
        let (removal, version_id) = self.what_was_removed(claim, position.ordered_at).await?;
        let mut claim = claim.clone();
        claim.version_id = version_id;
        let (mode, rows) = (Mode::Upsert, Vec::new());
        Ok(SmallFile { claim, position, mode, removal: Some(removal), rows })
    }

    /// Returns what was removed at a time, and the id of the version or delete marker; without an id it has no
    /// effect unless it is the object.
    ///
    /// A notification does not say so: the removal of an old version, and a delete marker, both have a version id. A
    /// marker is still there, unless it has been removed since.
    async fn what_was_removed(
        &self,
        claim: &Claim,
        at: DateTime<Utc>,
    ) -> Result<(Removal, Option<String>), Failure> {
        let Claim { bucket, key, version_id, .. } = claim;
        let none = (Removal::Version, None);
        if let Some(id) = version_id.as_deref().filter(|id| *id != NULL_VERSION) {
            match self.objects.presence(bucket, key, id).await? {
                Presence::DeleteMarker => return Ok((Removal::Object, version_id.clone())),
                // It was not removed.
                Presence::Present => return Ok(none),
                Presence::Absent => {}
            }
            // Another version was the current one if it is newer, and was there before.
            let written = self.store.version_time(bucket, key, id).await?;
            let current = self.current(claim).await?;
            return Ok(match (written, current) {
                (Some(written), Some(current)) if written < current && current < at => none,
                _ => (Removal::Version, version_id.clone()),
            });
        }
        // An object that was written before is still there.
        match self.current(claim).await? {
            Some(current) if current <= at => Ok(none),
            _ => Ok((Removal::Object, None)),
        }
    }

    /// Returns when the current version of the object was written; none if there is none. Unless the ledger knows it,
    /// in whole seconds.
    async fn current(
        &self,
        Claim { bucket, key, .. }: &Claim,
    ) -> Result<Option<DateTime<Utc>>, Failure> {
        let current = match self.objects.head(bucket, key, None).await {
            Ok(current) => current,
            Err(ObjectError::Gone(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let known = match &current.version_id {
            Some(id) => self.store.version_time(bucket, key, id).await?,
            None => None,
        };
        Ok(known.or(current.last_modified))
    }

    /// Opens the object of `claim`.
    pub(super) async fn open(&self, claim: &Claim) -> Result<Opened, Failure> {
        let Claim { bucket, key, version_id, .. } = claim;
        let Object { version, content_encoding, mode, body } =
            self.objects.get(bucket, key, version_id.as_deref()).await?;
        if claim.etag.is_some() && claim.etag != version.etag {
            return Ok(Opened::Replaced);
        }
        // The same content has another length: a proxy has cut it, or will.
        if claim.etag.is_some() && claim.size.is_some() && claim.size != version.size {
            return Err(
                ObjectError::invalid_response("the response is not as long as the object").into()
            );
        }
        let position = self.store.observe(claim, &version).await?;
        let mode = match (claim.mode, mode) {
            (Some(mode), _) => mode,
            (None, None) => self.mode_of_prefix(claim),
            (None, Some(name)) => match Mode::from_name(name.trim()) {
                Some(mode) => mode,
                None => return Ok(Opened::Rejected(unknown_mode(&name))),
            },
        };
        debug!(size_bytes = version.size, mode = mode.name(), "reading the object");
        let mut claim = claim.clone();
        claim.version_id = claim.version_id.or(version.version_id);
        claim.etag = claim.etag.or(version.etag);
        let metrics = Arc::clone(&self.metrics);
        let body = body.inspect_ok(move |chunk| metrics.read(chunk.len())).boxed();
        let limits = Limits::with_max_file(MAX_FILE);
        let reader = Reader::new(content_encoding.as_deref(), limits, body, &self.decode_pool);
        Ok(Opened::File(Box::new(File { claim, position, mode, reader })))
    }

    /// Returns the mode of an object whose metadata has none.
    fn mode_of_prefix(&self, Claim { bucket, key, .. }: &Claim) -> Mode {
        let is_snapshot = self.snapshot_prefixes.covers(bucket, key);
        if is_snapshot { Mode::Snapshot } else { Mode::Upsert }
    }
}

/// Returns the violation of an object whose metadata has another mode.
fn unknown_mode(name: &str) -> Violations {
    let expected = format!("upsert or snapshot as the metadata {MODE}");
    Violations::of_file(Fault::at_root(expected, format!("{:?}", excerpt(name, MAX_EXCERPT))))
}
