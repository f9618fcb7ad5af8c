//! The contents of objects and parts, named by random ids: small ones in the index, others in files.
//!
//! A file is complete and on the disk before the index refers to it, and never changes afterwards. A
//! file to which nothing refers is what a crash has left: the next start removes it. A small content is
//! written with the record that refers to it, so a small put waits for one sync of the disk.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use s3s::{
    S3Error, S3ErrorCode, S3Result,
    checksum::ChecksumHasher,
    crypto::{Checksum as _, Md5},
    dto::{Checksum, StreamingBlob},
    s3_error,
};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use crate::{
    checksums::Algorithm,
    index::{Kept, SMALL, Transaction, internal},
};

/// How many bytes are read or written at once.
const CHUNK: usize = 1 << 20;

/// The most bytes of a content in the index.
const SMALL_SIZE: usize = 16 << 10;

/// How often a content is read that changes all the time.
const MAX_ATTEMPTS: usize = 20;

/// The directory of the contents.
#[derive(Clone)]
pub(crate) struct Contents {
    directory: PathBuf,
}

/// A complete content. Its file is removed with it, unless it is kept.
pub(crate) struct Content {
    /// `None` for a small content.
    path: Option<PathBuf>,
    is_kept: Kept,
    /// The bytes of a small content.
    small: Vec<u8>,
    pub(crate) id: String,
    /// In bytes.
    pub(crate) size: u64,
    pub(crate) md5: [u8; 16],
    /// The checksums that were asked for.
    pub(crate) sums: Checksum,
}

/// Where to read bytes.
pub(crate) enum Source {
    /// In the file of a content, by id.
    Content(String, Range<u64>),
    /// In a file outside of the store.
    Path(PathBuf, Range<u64>),
    Memory(Bytes),
}

impl Content {
    /// Keeps the content if the transaction is committed, which refers to it.
    pub(crate) fn keep(&self, transaction: &Transaction) -> S3Result<()> {
        if self.path.is_some() {
            transaction.keep(Arc::clone(&self.is_kept));
        } else {
            let mut table = transaction.table(SMALL)?;
            table.insert(self.id.as_str(), self.small.as_slice()).map_err(internal)?;
        }
        Ok(())
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && !self.is_kept.load(Ordering::Relaxed)
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// A file that grows, and the digests of its bytes.
struct Growing {
    directory: PathBuf,
    /// `None` while the content is small.
    file: Option<File>,
    content: Content,
    md5: Md5,
    hasher: ChecksumHasher,
}

impl Growing {
    fn append(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.md5.update(chunk);
        self.hasher.update(chunk);
        self.content.size += chunk.len() as u64;
        if let Some(file) = &mut self.file {
            return file.write_all(chunk);
        }
        self.content.small.extend_from_slice(chunk);
        if self.content.small.len() > SMALL_SIZE {
            let path = self.directory.join(&self.content.id);
            let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            self.content.path = Some(path);
            self.file.insert(new).write_all(&std::mem::take(&mut self.content.small))?;
        }
        Ok(())
    }

    fn complete(self) -> io::Result<Content> {
        if let Some(file) = &self.file {
            file.sync_data()?;
        }
        let mut content = self.content;
        (content.md5, content.sums) = (self.md5.finalize(), self.hasher.finalize());
        Ok(content)
    }
}

impl Contents {
    /// Opens the directory, or creates it.
    pub(crate) fn open(directory: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        Ok(Self { directory })
    }

    /// Stores a body.
    ///
    /// # Errors
    /// If the body ends early, its signature is wrong, or it is larger than `max` bytes.
    pub(crate) async fn receive(
        &self,
        mut body: StreamingBlob,
        algorithms: &[Algorithm],
        max: u64,
    ) -> S3Result<Content> {
        let mut growing = self.create(algorithms);
        let mut buffer = BytesMut::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| {
                let is_wrong = error.to_string().contains("Sha256Mismatch");
                let code =
                    if is_wrong { S3ErrorCode::BadDigest } else { S3ErrorCode::IncompleteBody };
                S3Error::with_source(code, error)
            })?;
            buffer.extend_from_slice(&chunk);
            if growing.content.size + buffer.len() as u64 > max {
                return Err(s3_error!(EntityTooLarge));
            }
            if buffer.len() >= CHUNK {
                let chunk = buffer.split().freeze();
                growing = blocking(move || growing.append(&chunk).map(|()| growing)).await?;
            }
        }
        blocking(move || {
            growing.append(&buffer)?;
            growing.complete()
        })
        .await
    }

    /// Stores the ranges of other contents, one after another.
    pub(crate) async fn copy(
        &self,
        sources: Vec<Source>,
        algorithms: &[Algorithm],
    ) -> S3Result<Content> {
        let mut growing = self.create(algorithms);
        let contents = self.clone();
        blocking(move || {
            for source in sources {
                let (path, range) = match contents.locate(source) {
                    Ok(located) => located,
                    Err(bytes) => {
                        growing.append(&bytes)?;
                        continue;
                    }
                };
                let mut rest = range.end - range.start;
                let mut file = open_at(&path, range.start)?;
                while rest > 0 {
                    let chunk = read_chunk(&mut file, rest)?;
                    growing.append(&chunk)?;
                    rest -= chunk.len() as u64;
                }
            }
            growing.complete()
        })
        .await
    }

    /// Returns the bytes of a range as a stream.
    pub(crate) async fn read(&self, source: Source) -> S3Result<StreamingBlob> {
        let (path, range) = match self.locate(source) {
            Ok(located) => located,
            Err(bytes) => return Ok(s3s::Body::from(bytes).into()),
        };
        let file = blocking(move || open_at(&path, range.start)).await?;
        let state = (file, range.end - range.start);
        let chunks = stream::try_unfold(state, |(mut file, rest)| async move {
            if rest == 0 {
                return Ok(None);
            }
            let read = move || read_chunk(&mut file, rest).map(|chunk| (chunk, file));
            let (chunk, file) = spawn_blocking(read).await.map_err(io::Error::other)??;
            let rest = rest - chunk.len() as u64;
            Ok::<_, io::Error>(Some((chunk, (file, rest))))
        });
        Ok(StreamingBlob::wrap(chunks))
    }

    /// Writes the names of new files to the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    /// Removes a content that the index no longer has.
    pub(crate) fn remove(&self, id: &str) {
        // What remains is removed by the next start.
        let _ = fs::remove_file(self.directory.join(id));
    }

    /// Whether there are no files.
    pub(crate) fn is_empty(&self) -> io::Result<bool> {
        Ok(fs::read_dir(&self.directory)?.next().is_none())
    }

    /// Removes all files that are not in `known`. Returns their number.
    pub(crate) fn sweep(&self, known: &HashSet<String>) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| known.contains(name)) {
                fs::remove_file(entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn create(&self, algorithms: &[Algorithm]) -> Growing {
        let (id, sums) = (Uuid::new_v4().simple().to_string(), Checksum::default());
        let content = Content {
            path: None,
            is_kept: Kept::default(),
            small: Vec::new(),
            id,
            size: 0,
            md5: [0; 16],
            sums,
        };
        let mut hasher = ChecksumHasher::default();
        for algorithm in algorithms {
            algorithm.add_to(&mut hasher);
        }
        let directory = self.directory.clone();
        Growing { directory, file: None, content, md5: Md5::new(), hasher }
    }

    /// Returns the file of a source and the range in it, or the bytes of a source in memory.
    fn locate(&self, source: Source) -> Result<(PathBuf, Range<u64>), Bytes> {
        match source {
            Source::Content(id, range) => Ok((self.directory.join(id), range)),
            Source::Path(path, range) => Ok((path, range)),
            Source::Memory(bytes) => Err(bytes),
        }
    }
}

/// Opens a file at an offset.
fn open_at(path: &Path, offset: u64) -> io::Result<File> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    Ok(file)
}

/// Reads up to `rest` bytes. An end before them is an error.
fn read_chunk(file: &mut File, rest: u64) -> io::Result<Bytes> {
    let size = usize::try_from(rest).map_or(CHUNK, |rest| rest.min(CHUNK));
    let mut chunk = BytesMut::zeroed(size);
    file.read_exact(&mut chunk)?;
    Ok(chunk.freeze())
}

/// Runs `attempt`, and again while another change removes the content that it is about to read.
pub(crate) async fn retry<T, F: Future<Output = S3Result<T>>>(
    mut attempt: impl FnMut() -> F,
) -> S3Result<T> {
    for _ in 1..MAX_ATTEMPTS {
        match attempt().await {
            Err(error) if is_gone(&error) => {}
            result => return result,
        }
    }
    attempt().await
}

/// Whether a file was not found.
fn is_gone(error: &S3Error) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|source| source.kind() == io::ErrorKind::NotFound)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> S3Result<T> {
    spawn_blocking(work).await.map_err(internal)?.map_err(internal)
}
