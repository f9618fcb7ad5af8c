//! Decodes a stream of chunks.

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use schema::Movie;

use crate::{
    decode::{Decoder, Summary},
    limits::Limits,
    violation::Violations,
};

/// How many bytes are decoded before other tasks get a turn.
const MAX_STEP: usize = 8 << 10;

/// A batch of movies is complete when its records have this many bytes.
const BATCH_BYTES: usize = 2 << 20;

/// What a movie takes in memory in addition to the text of its record, in bytes, roughly.
const OVERHEAD: usize = 200;

/// Reads one file from a stream of chunks, in batches of movies.
///
/// All batches are to be discarded if the [`Summary`] has violations in the end.
pub struct Reader<S> {
    chunks: S,
    /// The rest of the present chunk.
    chunk: Bytes,
    /// None after the end of the file.
    decoder: Option<Decoder>,
    summary: Summary,
}

/// Movies that are handled together.
#[derive(Default)]
struct Batch {
    movies: Vec<Movie>,
    size: usize,
}

impl<S, E> Reader<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    /// Returns a reader of an object with this `Content-Encoding`.
    pub fn new(content_encoding: Option<&str>, limits: Limits, chunks: S) -> Self {
        let (decoder, violations) = match Decoder::new(content_encoding, limits) {
            Ok(decoder) => (Some(decoder), Violations::default()),
            Err(fault) => (None, Violations::of_file(fault)),
        };
        Self { chunks, chunk: Bytes::new(), decoder, summary: Summary { movies: 0, violations } }
    }

    /// Returns the next movies, in the order of the file. None at the end of the file.
    ///
    /// # Errors
    /// If the stream breaks.
    pub async fn next_batch(&mut self) -> Result<Option<Vec<Movie>>, E> {
        let mut batch = Batch::default();
        while batch.size < BATCH_BYTES && self.step(|movie, bytes| batch.add(movie, bytes)).await? {
        }
        Ok((!batch.movies.is_empty()).then_some(batch.movies))
    }

    /// Reads to the end of the file, or to where it cannot be decoded any further; drops the
    /// movies. Returns the result, and the rest of the stream.
    ///
    /// # Errors
    /// If the stream breaks.
    pub async fn finish(mut self) -> Result<(Summary, S), E> {
        while self.step(|_, _| {}).await? {}
        Ok((self.summary, self.chunks))
    }

    /// Decodes the next bytes. Returns false at the end of the file.
    async fn step(&mut self, emit: impl FnMut(Movie, usize)) -> Result<bool, E> {
        let lost = self.decoder.as_ref().is_none_or(Decoder::is_lost);
        if lost || !self.receive().await? {
            if let Some(decoder) = self.decoder.take() {
                self.summary = decoder.finish(emit);
            }
            return Ok(false);
        }
        if let Some(decoder) = &mut self.decoder {
            let consumed = decoder.push(&self.chunk[..self.chunk.len().min(MAX_STEP)], emit);
            self.chunk.advance(consumed);
        }
        tokio::task::consume_budget().await;
        Ok(true)
    }

    /// Waits for bytes, if the present chunk has none left. Returns false at the end of the stream.
    async fn receive(&mut self) -> Result<bool, E> {
        while self.chunk.is_empty() {
            match self.chunks.next().await {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}

impl Batch {
    fn add(&mut self, movie: Movie, record_size: usize) {
        self.movies.push(movie);
        self.size += record_size + OVERHEAD;
    }
}
