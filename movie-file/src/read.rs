//! Decodes a stream of chunks.

use std::{collections::VecDeque, time::Duration};

use bytes::{Buf, Bytes};
use futures_util::{FutureExt, Stream, StreamExt, stream::Fuse};
use schema::Movie;

use crate::{
    decode::{Decoder, Summary},
    limits::Limits,
    pool::DecodePool,
    violation::Violations,
};

/// After how many bytes a step ends, so that other files get their turn. It counts the bytes of the
/// object and those after decompression. Much smaller steps would mostly change threads.
const STEP: usize = 256 << 10;

/// How many bytes of the object are decoded before the size of the step is checked.
const MAX_PUSH: usize = 8 << 10;

/// A batch of movies is complete after the step in which its records reach this many bytes.
const BATCH_BYTES: usize = 2 << 20;

/// What a movie takes in memory in addition to the text of its record, in bytes, roughly.
const OVERHEAD: usize = 200;

/// Reads one file from a stream of chunks, in batches of movies.
///
/// All batches are to be discarded if the [`Summary`] has violations in the end. If a future of a
/// method is dropped, the reader is of no use any more.
pub struct Reader<S> {
    chunks: Fuse<S>,
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
    /// The bytes that have arrived and are not decoded yet.
    chunks: VecDeque<Bytes>,
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
            Ok(decoder) => {
                Progress::Decoding(Box::new(Decoding { decoder, chunks: VecDeque::new() }))
            }
            Err(fault) => {
                let violations = Violations::of_file(fault);
                Progress::Ended(Summary { movies: 0, violations })
            }
        };
        let (chunks, pool) = (chunks.fuse(), pool.clone());
        Self { chunks, pool, progress, processor_time: Duration::ZERO }
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

    /// Waits for bytes, if none are left. Takes those that have arrived, enough for one step. Returns
    /// false if the file has ended.
    async fn receive(&mut self) -> Result<bool, E> {
        match &mut self.progress {
            Progress::Decoding(decoding) => {
                let mut size: usize = decoding.chunks.iter().map(Bytes::len).sum();
                while size < STEP && !decoding.decoder.is_lost() {
                    let next = self.chunks.next();
                    let next = if size == 0 { Some(next.await) } else { next.now_or_never() };
                    let Some(Some(chunk)) = next else { break };
                    let chunk = chunk?;
                    size += chunk.len();
                    decoding.chunks.extend((!chunk.is_empty()).then_some(chunk));
                }
                Ok(true)
            }
            Progress::InStep => cancelled(),
            Progress::Ended(_) => Ok(false),
        }
    }

    /// Decodes bytes on a thread of the pool, or ends the file if there are none.
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
        let Self { decoder, chunks } = &mut *self;
        let mut add = |movie, size| add(batch, movie, size);
        if chunks.is_empty() || decoder.is_lost() {
            return Progress::Ended(self.decoder.finish(add));
        }
        let (mut consumed, decoded) = (0, decoder.decoded());
        while consumed < STEP && decoder.decoded() - decoded < STEP as u64 && !decoder.is_lost() {
            let Some(chunk) = chunks.front_mut() else { break };
            let pushed = decoder.push(&chunk[..chunk.len().min(MAX_PUSH)], &mut add);
            chunk.advance(pushed);
            consumed += pushed;
            if chunk.is_empty() {
                chunks.pop_front();
            }
        }
        Progress::Decoding(self)
    }
}

fn cancelled() -> ! {
    panic!("a future of this reader was dropped before it ended")
}
