//! `POST /validate`: checks a file before it is put into the bucket. Everybody may call it.
//!
//! Its use of memory and processors is bounded, so that it takes nothing from other requests and
//! from ingests:
//!
//! - Bodies are held in memory up to a number of bytes. Each counts as far as it has arrived, so
//!   that clients that send nothing shut nobody out, and until its memory is freed, even if its
//!   client has gone.
//! - A few bodies that have arrived are checked at a time, and a few more wait.
//! - One check takes a bounded processor time. The check of a client that has gone ends with its
//!   present step.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt, stream};
use http::StatusCode;
use movie_file::{DecodePool, Limits, Reader, Summary};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{
    movies::{MAX_BODY, MEDIA_TYPES},
    params,
    request::Request,
    response::{Answer, json},
};
use crate::problem::{Code, Problem};

/// The bodies that are held in memory at once have at most this many bytes together.
const MAX_BODIES: usize = 3 * MAX_BODY;

/// The size of the pieces in which bodies are held, in bytes. A whole body in one piece would leave
/// holes in the memory of the allocator, of twice its size, because it grows as it arrives.
const BLOCK: usize = 64 << 10;

/// The largest number of bodies that are checked at once.
const MAX_CHECKS: usize = 2;

/// The largest number of bodies that have arrived and wait to be checked.
const MAX_WAITING: usize = 30;

/// How long a body that has arrived may wait to be checked.
const CHECK_WAIT: Duration = Duration::from_secs(10);

/// The processor time that one check may take. A valid body of the largest size takes a tenth of it.
const MAX_PROCESSOR_TIME: Duration = Duration::from_secs(2);

/// After what time a client may try again if too many requests were there.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The requests that are served at the moment.
pub(super) struct Validations {
    /// One permit for each byte of a body in memory.
    bodies: Arc<Semaphore>,
    /// One permit for each body that waits to be checked.
    waiting: Semaphore,
    /// One permit for each body that is checked.
    checks: Semaphore,
}

/// The next bytes of a body, with a permit for each.
struct Block {
    bytes: Vec<u8>,
    permits: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Default for Validations {
    fn default() -> Self {
        Self {
            bodies: Arc::new(Semaphore::new(MAX_BODIES)),
            waiting: Semaphore::new(MAX_WAITING),
            checks: Semaphore::new(MAX_CHECKS),
        }
    }
}

/// What is said of a file without violations.
#[derive(JsonSchema, Serialize)]
pub(super) struct ValidFile {
    /// Always true: the response to any other file lists its violations.
    valid: bool,
    /// How many movies the file has.
    movies: u64,
}

/// `POST /validate`: checks the body as the file of an ingest. Stores nothing.
pub(super) async fn validate(mut request: Request) -> Answer {
    request.require_media_type(&MEDIA_TYPES)?;
    params::none(&request.query)?;
    let app = Arc::clone(&request.app);
    let encoding = request.content_encoding();
    let body = app.validations.receive(request.chunks()).await?;
    let _check = app.validations.start_check().await?;
    let file = check(body, encoding.as_deref(), &app.decode_pool, MAX_PROCESSOR_TIME).await?;
    let violations = &file.violations;
    if !violations.is_empty() {
        return Err(Problem::violations(violations.listed(), violations.count()));
    }
    json(StatusCode::OK, &ValidFile { valid: true, movies: file.movies })
}

impl Validations {
    /// Reads a whole body. Each block of it counts until it is dropped.
    ///
    /// # Errors
    /// If the bodies in memory are too large together, or the stream breaks.
    async fn receive(
        &self,
        mut chunks: impl Stream<Item = Result<Bytes, Problem>> + Unpin,
    ) -> Result<Vec<Bytes>, Problem> {
        let acquire = |bytes| {
            let permits = Arc::clone(&self.bodies).try_acquire_many_owned(bytes);
            permits.map_err(|_| busy())
        };
        let mut blocks = Vec::new();
        let mut block = Block { bytes: Vec::new(), permits: acquire(0)? };
        while let Some(chunk) = chunks.try_next().await? {
            block.permits.merge(acquire(u32::try_from(chunk.len()).unwrap_or(u32::MAX))?);
            block.bytes.extend_from_slice(&chunk);
            if block.bytes.len() >= BLOCK {
                let next = Block { bytes: Vec::new(), permits: acquire(0)? };
                blocks.push(Bytes::from_owner(std::mem::replace(&mut block, next)));
            }
        }
        blocks.push(Bytes::from_owner(block));
        Ok(blocks)
    }

    /// Waits until the next body can be checked.
    ///
    /// # Errors
    /// If that takes too long, or too many wait.
    async fn start_check(&self) -> Result<SemaphorePermit<'_>, Problem> {
        let _waiting = self.waiting.try_acquire().map_err(|_| busy())?;
        match timeout(CHECK_WAIT, self.checks.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(busy()),
        }
    }
}

fn busy() -> Problem {
    Problem::unavailable("too many files are being checked", RETRY_AFTER)
}

/// Decodes a body of these blocks.
///
/// # Errors
/// If that takes more than `max_time`.
async fn check(
    blocks: Vec<Bytes>,
    encoding: Option<&str>,
    pool: &DecodePool,
    max_time: Duration,
) -> Result<Summary, Problem> {
    let blocks = stream::iter(blocks.into_iter().map(Ok));
    let mut reader = Reader::new(encoding, Limits::with_max_file(MAX_BODY as u64), blocks, pool);
    while reader.skip().await? {
        if reader.processor_time() > max_time {
            let detail = format!(
                "checking this file takes more than {} s of processor time; \
                 put it into the bucket, or run `rest-api validate`",
                max_time.as_secs()
            );
            return Err(Problem::new(Code::CheckTooExpensive, detail));
        }
    }
    reader.finish().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_check_ends_when_its_processor_time_is_used_up() {
        let body = Bytes::from("[".to_owned() + &"{},".repeat(1 << 20) + "{}]");
        let pool = DecodePool::new(1);
        let check = async |max_time| check(vec![body.clone()], None, &pool, max_time).await;
        let file = check(Duration::from_secs(3600)).await.ok().unwrap();
        assert_eq!(file.violations.listed().len(), 1000);
        let problem = check(Duration::from_millis(1)).await.err().unwrap();
        assert_eq!(problem.status(), StatusCode::UNPROCESSABLE_ENTITY);
        let text = String::from_utf8(problem.to_json()).unwrap();
        assert!(
            text.contains("check_too_expensive") && text.contains("rest-api validate"),
            "{text}"
        );
    }
}
