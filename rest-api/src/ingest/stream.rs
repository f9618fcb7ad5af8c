//! Decoding what comes as a stream, and staging what comes out.

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};

use super::{
    decode::{Decoded, Decoder},
    limits::Limits,
    violation::Violations,
};
use crate::store::{Staging, StoreError};

/// Objects are taken in slices of this many bytes, which bounds how long one turn keeps a thread
/// from other work.
const SLICE: usize = 8 << 10;

/// Rows are staged when they take about this many bytes.
const BATCH: usize = 4 << 20;

/// Why decoding a file did not end.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError<E> {
    /// The stream of bytes broke.
    #[error("the object could not be read")]
    Read(E),
    /// The rows could not be staged.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads a file of at most `max_file` bytes, decompressed, from a stream, and stages its movies, if
/// there is where to. Returns what it came to; if nothing is wrong with it, every movie is staged.
///
/// # Errors
/// If the stream breaks, or the database does.
pub async fn decode<E>(
    content_encoding: Option<&str>,
    max_file: u64,
    mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    mut staging: Option<&mut Staging>,
) -> Result<Decoded, DecodeError<E>> {
    let mut decoder = match Decoder::new(content_encoding, Limits::of(max_file)) {
        Ok(decoder) if staging.is_none() => decoder.validate_only(),
        Ok(decoder) => decoder,
        Err(fault) => return Ok(Decoded { violations: Violations::of_file(fault), movies: 0 }),
    };
    'file: while let Some(chunk) = body.next().await {
        let mut chunk = chunk.map_err(DecodeError::Read)?;
        while !chunk.is_empty() {
            let taken = decoder.push(&chunk[..chunk.len().min(SLICE)]);
            chunk.advance(taken);
            if let Some(staging) = &mut staging
                && decoder.rows_size() > BATCH
            {
                staging.add(&decoder.take_rows()).await?;
            }
            if decoder.is_lost() {
                break 'file;
            }
            // Lets others have a turn.
            tokio::task::consume_budget().await;
        }
    }
    let (rows, decoded) = decoder.finish();
    if let Some(staging) = staging
        && decoded.violations.count() == 0
    {
        staging.add(&rows).await?;
    }
    Ok(decoded)
}
