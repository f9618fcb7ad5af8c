//! From the bytes of an object to rows of the catalogue, or to violations.

use schema::{Fault, Movie};

use super::{
    inflate::Inflate,
    limits::Limits,
    split::{Piece, Splitter},
    violation::Violations,
};
use crate::store::CatalogueRow;

/// What a file came to.
#[derive(Debug, Default)]
pub struct Decoded {
    /// How many records fit the schema. None of them is taken if there are violations.
    pub movies: u64,
    /// What is wrong with the file.
    pub violations: Violations,
}

/// The stages between bytes and rows.
pub struct Decoder {
    inflate: Inflate,
    splitter: Splitter,
    pass: Pass,
}

/// What has come out of the stages.
#[derive(Default)]
struct Pass {
    validates_only: bool,
    rows: Vec<CatalogueRow>,
    rows_size: usize,
    decoded: Decoded,
}

impl Decoder {
    /// For an object with this `Content-Encoding`.
    ///
    /// # Errors
    /// If the encoding is one that we cannot undo.
    pub fn new(content_encoding: Option<&str>, limits: Limits) -> Result<Self, Fault> {
        let inflate = Inflate::new(content_encoding, limits.file)?;
        Ok(Self { inflate, splitter: Splitter::new(limits), pass: Pass::default() })
    }

    /// The same for somebody who wants no rows, only to know what is wrong with the object.
    pub fn validate_only(mut self) -> Self {
        self.pass.validates_only = true;
        self
    }

    /// Takes the beginning of `slice`, the next bytes of the object; returns how many of them.
    pub fn push(&mut self, slice: &[u8]) -> usize {
        let Self { inflate, splitter, pass } = self;
        let inflated =
            inflate.push(slice, |plain| splitter.push(plain, &mut |piece| pass.take(piece)));
        inflated.unwrap_or_else(|fault| {
            pass.lose(splitter, fault);
            slice.len()
        })
    }

    /// Whether there is no point in reading on.
    pub fn is_lost(&self) -> bool {
        self.splitter.is_lost()
    }

    /// About how many bytes the rows take in memory.
    pub fn rows_size(&self) -> usize {
        self.pass.rows_size
    }

    /// The rows since the last time, in the order of the file; none once anything is wrong.
    pub fn take_rows(&mut self) -> Vec<CatalogueRow> {
        self.pass.rows_size = 0;
        std::mem::take(&mut self.pass.rows)
    }

    /// Says that the object has ended. Returns the last rows, and what the file came to.
    pub fn finish(mut self) -> (Vec<CatalogueRow>, Decoded) {
        let Self { inflate, splitter, pass } = &mut self;
        // A file that makes no sense any more is not read to its end, so that its end says nothing.
        if !splitter.is_lost() {
            let rest = inflate.finish(|plain| splitter.push(plain, &mut |piece| pass.take(piece)));
            match rest {
                Ok(()) => self.splitter.finish(&mut |piece| self.pass.take(piece)),
                Err(fault) => pass.lose(splitter, fault),
            }
        }
        (self.pass.rows, self.pass.decoded)
    }
}

impl Pass {
    fn take(&mut self, piece: Piece<'_>) {
        let violations = &mut self.decoded.violations;
        match piece {
            Piece::Fault { index, offset, fault } => violations.add(index, Some(offset), fault),
            Piece::Record { index, offset, bytes } => match schema::parse::<Movie>(bytes) {
                Ok(movie) => self.add_row(&movie),
                Err(faults) => violations.add_record(index, offset, &faults),
            },
        }
    }

    /// Nothing that follows counts; nor does this, in a file that was lost before it.
    fn lose(&mut self, splitter: &mut Splitter, fault: Fault) {
        if !splitter.is_lost() {
            self.decoded.violations.add(None, None, fault);
        }
        splitter.abandon();
    }

    fn add_row(&mut self, movie: &Movie) {
        self.decoded.movies += 1;
        // Once anything is wrong, nothing of the file will be stored.
        if self.validates_only || self.decoded.violations.count() > 0 {
            return;
        }
        let row = CatalogueRow::new(movie);
        self.rows_size += row.size();
        self.rows.push(row);
    }
}
