//! From the bytes of an object to rows of the catalogue, or to violations.

use std::fmt::Display;

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use schema::{Fault, Movie};

use super::{
    inflate::Inflate,
    split::{Piece, Splitter},
    violation::Violations,
};
use crate::store::{CatalogueRow, Staging, StoreError};

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

/// Reads a file of at most `max_file` bytes, decompressed, from a stream, and stages its movies.
/// Returns what is wrong with the file; if nothing is, every movie is staged.
///
/// # Errors
/// If the stream breaks, or the database does.
pub async fn decode<E: Display>(
    content_encoding: Option<&str>,
    max_file: u64,
    mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    staging: &mut Staging,
) -> Result<Violations, DecodeError<E>> {
    let mut decoder = match Decoder::new(content_encoding, max_file) {
        Ok(decoder) => decoder,
        Err(fault) => return Ok(Violations::of_file(fault)),
    };
    'file: while let Some(chunk) = body.next().await {
        let mut chunk = chunk.map_err(DecodeError::Read)?;
        while !chunk.is_empty() {
            let taken = decoder.push(&chunk[..chunk.len().min(SLICE)]);
            chunk.advance(taken);
            if decoder.pass.rows_size > BATCH {
                staging.add(&decoder.take_rows()).await?;
            }
            if decoder.splitter.is_lost() {
                break 'file;
            }
            // Lets others have a turn.
            tokio::task::consume_budget().await;
        }
    }
    let (rows, violations) = decoder.finish();
    if violations.count() == 0 {
        staging.add(&rows).await?;
    }
    Ok(violations)
}

/// The stages between bytes and rows.
struct Decoder {
    inflate: Inflate,
    splitter: Splitter,
    pass: Pass,
}

/// What has come out of the stages.
#[derive(Default)]
struct Pass {
    rows: Vec<CatalogueRow>,
    rows_size: usize,
    violations: Violations,
}

impl Decoder {
    fn new(content_encoding: Option<&str>, max_file: u64) -> Result<Self, Fault> {
        let inflate = Inflate::new(content_encoding, max_file)?;
        Ok(Self { inflate, splitter: Splitter::new(), pass: Pass::default() })
    }

    /// Takes the beginning of `slice`; returns how much of it.
    fn push(&mut self, slice: &[u8]) -> usize {
        let Self { inflate, splitter, pass } = self;
        let inflated =
            inflate.push(slice, |plain| splitter.push(plain, &mut |piece| pass.take(piece)));
        inflated.unwrap_or_else(|fault| {
            pass.violations.add(None, None, fault);
            splitter.abandon();
            slice.len()
        })
    }

    fn finish(mut self) -> (Vec<CatalogueRow>, Violations) {
        let Self { inflate, splitter, pass } = &mut self;
        // A file that makes no sense any more is not read to its end, so that its end says nothing.
        if !splitter.is_lost() {
            let rest = inflate.finish(|plain| splitter.push(plain, &mut |piece| pass.take(piece)));
            match rest {
                Ok(()) => self.splitter.finish(&mut |piece| self.pass.take(piece)),
                Err(fault) => self.pass.violations.add(None, None, fault),
            }
        }
        (self.pass.rows, self.pass.violations)
    }

    fn take_rows(&mut self) -> Vec<CatalogueRow> {
        self.pass.rows_size = 0;
        std::mem::take(&mut self.pass.rows)
    }
}

impl Pass {
    fn take(&mut self, piece: Piece<'_>) {
        match piece {
            Piece::Fault { index, offset, fault } => {
                self.violations.add(index, Some(offset), fault);
            }
            Piece::Record { index, offset, bytes } => match schema::parse::<Movie>(bytes) {
                Ok(movie) => self.add_row(&movie),
                Err(faults) => {
                    self.violations.add_record(index, offset, &faults);
                }
            },
        }
    }

    fn add_row(&mut self, movie: &Movie) {
        // Once anything is wrong, nothing of the file will be stored.
        if self.violations.count() > 0 {
            return;
        }
        let row = CatalogueRow::new(movie);
        self.rows_size += row.size();
        self.rows.push(row);
    }
}
