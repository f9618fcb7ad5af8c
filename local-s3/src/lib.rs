//! An S3 store on a directory.
//!
//! [`Store`] implements the operations of S3 behind [`s3s::S3`]; s3s speaks the protocol. A put is visible
//! when it is complete, verified and on the disk. Every change makes an [`Event`] in the transaction that
//! makes the change, and [`Store::events`] returns each until it is acknowledged.
//!
//! - `records` are the records of the index.
//! - `contents` are the files with the contents of objects and parts.
//! - `checksums` computes and verifies checksums.
//! - `index` is the transactional index.
//! - `events` are the events and their outbox.
//! - `conditions` are `If-Match` and its relatives.
//! - `versions` are the rules of versions and delete markers.
//! - `listing` reads pages of keys.
//! - `objects` puts, reads, copies and deletes objects.
//! - `multipart` uploads objects in parts.
//! - `service` implements the trait with these.
//! - `access` are the canned ACLs.
//! - `http` answers requests: it adds to s3s what clients expect.
//!
//! The directory holds `_index`, a redb file, and `_contents`, a file for each content. A bucket cannot
//! have such a name, so a directory of buckets is never mistaken for a store.

mod access;
mod checksums;
mod conditions;
mod contents;
mod events;
mod http;
mod index;
mod listing;
mod multipart;
mod objects;
mod records;
mod service;
#[cfg(test)]
mod tests;
mod versions;

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use redb::ReadableTable;
use s3s::S3Result;
use tokio::sync::Semaphore;
use tracing::info;

pub use events::{Event, Events};
pub use http::call;

use checksums::Algorithm;
use contents::{Contents, Source};
use index::{BUCKETS, Index, OUTBOX, PARTS, Transaction, VERSIONS, decode, encode, internal};
use records::{Bucket, Headers, Part, Time, Version, Versioning};

/// How many bodies are received at once. More wait.
const MAX_BODIES: usize = 256;

/// What a store reports about itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// The region of buckets and events.
    pub region: String,
    /// The id and the name of the owner of all buckets and objects.
    pub owner: String,
}

/// A file to copy into the store.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields are those of the object")]
pub struct Import {
    pub bucket: String,
    pub key: String,
    /// Where the file is.
    pub file: PathBuf,
    pub modified: SystemTime,
    pub content_encoding: Option<String>,
    pub content_type: Option<String>,
    pub metadata: Option<HashMap<String, String>>,
}

/// A store of buckets and objects. Clones share it.
#[derive(Clone)]
pub struct Store {
    index: Index,
    contents: Contents,
    options: Arc<Options>,
    bodies: Arc<Semaphore>,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The index cannot be opened or read.
    #[error("the index cannot be used: {0}")]
    Index(String),
    /// There are contents without an index. Without it nothing tells which of them are needed.
    #[error("the index is missing, but there are contents: restore _index, or remove _contents")]
    NoIndex,
    /// The directory cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl OpenError {
    fn index(error: impl std::fmt::Display) -> Self {
        Self::Index(error.to_string())
    }
}

impl Store {
    /// Opens the store in `directory`, or creates it. Removes what a crash has left.
    ///
    /// # Errors
    /// If the directory cannot be used, or another process uses the store.
    pub fn open(directory: &Path, options: Options) -> Result<Self, OpenError> {
        fs::create_dir_all(directory)?;
        let contents = Contents::open(directory.join("_contents"))?;
        let file = directory.join("_index");
        if !file.try_exists()? && !contents.is_empty()? {
            return Err(OpenError::NoIndex);
        }
        let index = Index::open(&file, contents.clone(), &options.region)?;
        // The names of the index and of the directory of contents.
        fs::File::open(directory)?.sync_all()?;
        let known = known_contents(&index).map_err(OpenError::index)?;
        let removed = contents.sweep(&known)?;
        if removed > 0 {
            info!(removed, "contents of unfinished uploads removed");
        }
        let (options, bodies) = (Arc::new(options), Arc::new(Semaphore::new(MAX_BODIES)));
        Ok(Self { index, contents, options, bodies })
    }

    /// Returns all events from the first that has not been acknowledged.
    pub fn events(&self) -> Events {
        Events::new(self.index.clone())
    }

    /// Waits until each event so far has been acknowledged.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub async fn wait_for_acknowledgements(&self) -> S3Result<()> {
        let mut commits = self.index.commits();
        // Sequence numbers may be ahead of the clock.
        let outbox = self.index.table(OUTBOX)?;
        let Some(last) = outbox.last().map_err(internal)?.map(|(place, _)| place.value()) else {
            return Ok(());
        };
        drop(outbox);
        loop {
            commits.mark_unchanged();
            if self.index.table(OUTBOX)?.range(..=last).map_err(internal)?.next().is_none() {
                return Ok(());
            }
            commits.changed().await.map_err(internal)?;
        }
    }

    /// Creates a bucket with versioning unless it exists.
    ///
    /// # Errors
    /// If the index cannot be written.
    pub async fn create_versioned_bucket(&self, name: &str) -> S3Result<()> {
        self.add_bucket(name, Versioning::Enabled, None).await.map(|_| ())
    }

    /// Creates a bucket without versioning unless it exists.
    ///
    /// # Errors
    /// If the index cannot be written.
    pub async fn create_bucket_if_missing(&self, name: &str) -> S3Result<()> {
        self.add_bucket(name, Versioning::Never, None).await.map(|_| ())
    }

    /// Copies a file into a bucket that exists, unless its key has an object. No event tells of it.
    ///
    /// # Errors
    /// If the file cannot be read, or the index cannot be written.
    pub async fn import(&self, import: Import) -> S3Result<()> {
        let Import { bucket, key, file, modified, content_encoding, content_type, metadata } =
            import;
        let size = fs::metadata(&file).map_err(internal)?.len();
        let source = vec![Source::Path(file, 0..size)];
        let content = self.contents.copy(source, &[Algorithm::Crc64nvme]).await?;
        let headers = Headers { content_encoding, content_type, metadata, ..Default::default() };
        let modified = Time::from(modified);
        let put = move |transaction: &Transaction| {
            versions::import(transaction, (&bucket, &key), &content, headers.clone(), modified)
        };
        self.index.write(put).await
    }

    /// Creates a bucket. Returns whether it is new.
    pub(crate) async fn add_bucket(
        &self,
        name: &str,
        versioning: Versioning,
        acl: Option<String>,
    ) -> S3Result<bool> {
        let name = name.to_owned();
        let bucket = encode(&Bucket { created: Time::now(), versioning, acl })?;
        let create = move |transaction: &Transaction| {
            let mut buckets = transaction.table(BUCKETS)?;
            let is_new = buckets.get(name.as_str()).map_err(internal)?.is_none();
            if is_new {
                buckets.insert(name.as_str(), bucket.as_slice()).map_err(internal)?;
            }
            Ok(is_new)
        };
        self.index.write(create).await
    }
}

/// Returns the ids of all contents that the index refers to.
fn known_contents(index: &Index) -> S3Result<HashSet<String>> {
    let mut known = HashSet::new();
    for row in index.table(VERSIONS)?.iter().map_err(internal)? {
        let version: Version = decode(row.map_err(internal)?.1.value())?;
        known.extend(version.object.map(|object| object.content));
    }
    for row in index.table(PARTS)?.iter().map_err(internal)? {
        known.insert(decode::<Part>(row.map_err(internal)?.1.value())?.content);
    }
    Ok(known)
}
