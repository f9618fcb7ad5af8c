//! Decodes a stream of chunks.

use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use schema::Movie;

use crate::{
    decode::{Decoder, Summary},
    limits::Limits,
    pool::DecodePool,
    violation::Violations,
};

/// After how many bytes a step ends, so that other files get their turn. It counts the bytes of the
/// object and those after decompression.
const STEP: u64 = 256 << 10;

/// How many bytes of the object are decoded before the size of the step and the batch is checked.
const MAX_PUSH: usize = 8 << 10;

/// A batch of movies is complete when its records have this many bytes.
const BATCH_BYTES: usize = 2 << 20;

/// What a movie takes in memory in addition to the text of its record, in bytes, roughly.
const OVERHEAD: usize = 200;

/// Reads one file from a stream of chunks, in batches of movies.
///
/// All batches are to be discarded if the [`Summary`] has violations in the end. If a future of a
/// method is dropped, the reader is of no use any more.
pub struct Reader<S> {
    chunks: S,
    pool: DecodePool,
    progress: Progress,
    processor_time: Duration,
}

/// How far a file was read.
enum Progress {
    Decoding(Box<Decoding>),
    /// A step has begun.
    InStep,
    Ended(Summary),
}

/// The part of a reader that goes to a thread of the pool and comes back.
struct Decoding {
    decoder: Decoder,
    /// The rest of the present chunk.
    chunk: Bytes,
}

/// What is made of the movies that are handled together.
struct Batch<T> {
    items: Vec<T>,
    size: usize,
}

impl<S, E> Reader<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    /// Returns a reader of an object with this `Content-Encoding`.
    pub fn new(
        content_encoding: Option<&str>,
        limits: Limits,
        chunks: S,
        pool: &DecodePool,
    ) -> Self {
        let progress = match Decoder::new(content_encoding, limits) {
            Ok(decoder) => Progress::Decoding(Box::new(Decoding { decoder, chunk: Bytes::new() })),
            Err(fault) => {
                let violations = Violations::of_file(fault);
                Progress::Ended(Summary { movies: 0, violations })
            }
        };
        Self { chunks, pool: pool.clone(), progress, processor_time: Duration::ZERO }
    }

    /// Returns what `convert` makes of the next movies, in the order of the file. None at the end of
    /// the file. `convert` runs on a thread of the pool, too.
    ///
    /// # Errors
    /// If the stream breaks.
    pub async fn next_batch<T: Send + 'static>(
        &mut self,
        convert: fn(&Movie) -> T,
    ) -> Result<Option<Vec<T>>, E> {
        let mut batch = Batch { items: Vec::new(), size: 0 };
        while batch.size < BATCH_BYTES && self.receive().await? {
            batch = self
                .step(batch, move |batch, movie, record_size| {
                    batch.items.push(convert(&movie));
                    batch.size += record_size + OVERHEAD;
                })
                .await;
        }
        Ok((!batch.items.is_empty()).then_some(batch.items))
    }

    /// Decodes the next bytes, and drops the movies. Returns false at the end of the file.
    ///
    /// # Errors
    /// If the stream breaks.
    pub async fn skip(&mut self) -> Result<bool, E> {
        let more = self.receive().await?;
        if more {
            let nothing = Batch { items: Vec::<()>::new(), size: 0 };
            self.step(nothing, |_, _, _| {}).await;
        }
        Ok(more)
    }

    /// Returns the processor time that decoding has taken so far.
    pub fn processor_time(&self) -> Duration {
        self.processor_time
    }

    /// Reads to the end of the file, or to where it cannot be decoded any further; drops the
    /// movies. Returns the result.
    ///
    /// # Errors
    /// If the stream breaks.
    pub async fn finish(mut self) -> Result<Summary, E> {
        while self.skip().await? {}
        match self.progress {
            Progress::Ended(summary) => Ok(summary),
            Progress::Decoding(_) | Progress::InStep => cancelled(),
        }
    }

    /// Waits for bytes, if the present chunk has none left. Returns false if the file has ended.
    async fn receive(&mut self) -> Result<bool, E> {
        match &mut self.progress {
            Progress::Decoding(decoding) => {
                while decoding.chunk.is_empty() && !decoding.decoder.is_lost() {
                    match self.chunks.next().await {
                        Some(chunk) => decoding.chunk = chunk?,
                        None => break,
                    }
                }
                Ok(true)
            }
            Progress::InStep => cancelled(),
            Progress::Ended(_) => Ok(false),
        }
    }

    /// Decodes bytes of the present chunk on a thread of the pool, or ends the file if there are
    /// none.
    async fn step<T: Send + 'static>(
        &mut self,
        batch: Batch<T>,
        add: impl Fn(&mut Batch<T>, Movie, usize) + Send + 'static,
    ) -> Batch<T> {
        let progress = std::mem::replace(&mut self.progress, Progress::InStep);
        let Progress::Decoding(decoding) = progress else { cancelled() };
        let work = move || {
            let mut batch = batch;
            (decoding.step(&mut batch, add), batch)
        };
        let ((progress, batch), processor_time) = self.pool.run(work).await;
        self.processor_time += processor_time;
        self.progress = progress;
        batch
    }
}

impl Decoding {
    fn step<T>(
        mut self: Box<Self>,
        batch: &mut Batch<T>,
        add: impl Fn(&mut Batch<T>, Movie, usize),
    ) -> Progress {
        let Self { decoder, chunk } = &mut *self;
        if chunk.is_empty() || decoder.is_lost() {
            let add = |movie, size| add(batch, movie, size);
            return Progress::Ended(self.decoder.finish(add));
        }
        let (length, decoded) = (chunk.len(), decoder.decoded());
        while !chunk.is_empty()
            && !decoder.is_lost()
            && ((length - chunk.len()) as u64) < STEP
            && decoder.decoded() - decoded < STEP
            && batch.size < BATCH_BYTES
        {
            let next = &chunk[..chunk.len().min(MAX_PUSH)];
            let consumed = decoder.push(next, |movie, size| add(batch, movie, size));
            chunk.advance(consumed);
        }
        Progress::Decoding(self)
    }
}

fn cancelled() -> ! {
    panic!("a future of this reader was dropped before it ended")
}
