//! Runs the stages on chunks of bytes.

use schema::{Fault, Movie};

use crate::{
    inflate::Inflate,
    limits::Limits,
    split::{Item, Splitter},
    violation::Violations,
};

/// The result of decoding a whole file.
#[derive(Debug, Default)]
pub struct Summary {
    /// How many records fit the schema. None of them is valid if there are violations.
    pub movies: u64,
    /// What is wrong with the file.
    pub violations: Violations,
}

/// Decodes one file from chunks of bytes, of any size.
///
/// Each movie goes to the closure `emit`, with the length of its record in bytes. No movie is
/// emitted after the first violation, because nothing of such a file is stored.
pub struct Decoder {
    inflate: Inflate,
    splitter: Splitter,
    summary: Summary,
}

impl Decoder {
    /// Returns a decoder for an object with this `Content-Encoding`.
    ///
    /// # Errors
    /// If the encoding is not supported.
    pub fn new(content_encoding: Option<&str>, limits: Limits) -> Result<Self, Fault> {
        let inflate = Inflate::new(content_encoding, limits.file)?;
        Ok(Self { inflate, splitter: Splitter::new(limits), summary: Summary::default() })
    }

    /// Decodes the first bytes of `chunk`, the next bytes of the object. Returns how many bytes it
    /// consumed. The caller pushes the rest again.
    pub fn push(&mut self, chunk: &[u8], mut emit: impl FnMut(Movie, usize)) -> usize {
        let Self { inflate, splitter, summary } = self;
        let inflated = inflate.push(chunk, |plain| {
            splitter.push(plain, &mut |item| summary.decode(item, &mut emit));
        });
        inflated.unwrap_or_else(|fault| {
            self.abandon(fault);
            chunk.len()
        })
    }

    /// Returns how many bytes of the file were decoded, after decompression.
    pub fn decoded(&self) -> u64 {
        self.inflate.size()
    }

    /// Whether the rest of the file cannot be decoded, so that reading on is of no use.
    pub fn is_lost(&self) -> bool {
        self.splitter.is_lost()
    }

    /// Decodes what is left at the end of the object, and returns the result.
    pub fn finish(mut self, mut emit: impl FnMut(Movie, usize)) -> Summary {
        // The rest of a lost file was not read: its end tells nothing.
        if self.is_lost() {
            return self.summary;
        }
        let Self { inflate, splitter, summary } = &mut self;
        let rest = inflate.finish(|plain| {
            splitter.push(plain, &mut |item| summary.decode(item, &mut emit));
        });
        match rest {
            Ok(()) => self.splitter.finish(&mut |item| self.summary.decode(item, &mut emit)),
            Err(fault) => self.abandon(fault),
        }
        self.summary
    }

    /// Records a fault that makes the rest of the file unreadable, unless the file was lost before.
    fn abandon(&mut self, fault: Fault) {
        if !self.splitter.is_lost() {
            self.summary.violations.add(None, None, fault);
        }
        self.splitter.abandon();
    }
}

impl Summary {
    fn decode(&mut self, item: Item<'_>, emit: &mut impl FnMut(Movie, usize)) {
        match item {
            Item::Fault { index, offset, fault } => {
                self.violations.add(index, Some(offset), fault);
            }
            Item::Record { index, offset, bytes } => match schema::try_parse::<Movie>(bytes) {
                Ok(movie) => {
                    self.movies += 1;
                    if self.violations.is_empty() {
                        emit(movie, bytes.len());
                    }
                }
                // To search for the faults of a record takes long. Nothing more would be listed.
                Err(_) if self.violations.is_full() => self.violations.add_unlisted(),
                Err(unfit) => self.violations.add_record(index, offset, &unfit.explain()),
            },
        }
    }
}
