//! Decompression, where a file is compressed.

use std::io::Write;

use flate2::write::MultiGzDecoder;
use schema::Fault;

/// The first bytes of every gzip file (RFC 1952, 2.3.1).
const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A file may be this large, decompressed.
const MAX_FILE: u64 = 64 << 30;

/// A file that is larger than this may not have grown by more than [`MAX_GROWTH`].
const FREE_GROWTH: u64 = 64 << 20;

/// Text compresses by 5 to 20; what goes beyond this was made to fill a disk.
const MAX_GROWTH: u64 = 250;

/// The stage between the bytes of an object and those of the file.
pub(super) struct Inflate {
    mode: Mode,
    /// Bytes taken in and given out.
    taken: u64,
    given: u64,
}

enum Mode {
    /// Too few bytes were seen to tell; these are they.
    Unknown {
        head: Vec<u8>,
        declared_gzip: bool,
    },
    Plain,
    Gzip(MultiGzDecoder<Vec<u8>>),
}

impl Inflate {
    /// For an object with this `Content-Encoding`.
    ///
    /// # Errors
    /// If the encoding is one that we cannot undo.
    pub(super) fn new(content_encoding: Option<&str>) -> Result<Self, Fault> {
        let mut declared_gzip = false;
        for coding in content_encoding.unwrap_or_default().split(',').map(str::trim) {
            match coding.to_ascii_lowercase().as_str() {
                "gzip" | "x-gzip" => declared_gzip = true,
                // What the AWS SDKs add for their own transfer.
                "" | "identity" | "aws-chunked" => {}
                other => {
                    let expected = "a plain file, or Content-Encoding gzip";
                    return Err(Fault::at_root(expected, format!("Content-Encoding {other}")));
                }
            }
        }
        let mode = Mode::Unknown { head: Vec::new(), declared_gzip };
        Ok(Self { mode, taken: 0, given: 0 })
    }

    /// Takes a piece of the object; gives the piece of the file that it stands for.
    ///
    /// # Errors
    /// If it is no gzip where it should be, or the file grows beyond all measure.
    pub(super) fn push(&mut self, piece: &[u8], give: impl FnOnce(&[u8])) -> Result<(), Fault> {
        self.taken += piece.len() as u64;
        let Mode::Unknown { head, declared_gzip } = &mut self.mode else {
            return self.pass(piece, give);
        };
        head.extend_from_slice(piece);
        if head.len() < MAGIC.len() {
            return Ok(());
        }
        let head = std::mem::take(head);
        self.mode = match (head.starts_with(&MAGIC), *declared_gzip) {
            (true, _) => Mode::Gzip(MultiGzDecoder::new(Vec::new())),
            (false, false) => Mode::Plain,
            (false, true) => {
                let expected = "gzip data, as Content-Encoding says";
                return Err(Fault::at_root(expected, "other data"));
            }
        };
        self.pass(&head, give)
    }

    /// Says that the object has ended; gives what is left of the file.
    ///
    /// # Errors
    /// If compressed data has been cut short.
    pub(super) fn finish(&mut self, give: impl FnOnce(&[u8])) -> Result<(), Fault> {
        match &mut self.mode {
            Mode::Unknown { head, .. } => give(head),
            Mode::Plain => {}
            Mode::Gzip(decoder) => {
                decoder.try_finish().map_err(|error| not_gzip(&error))?;
                give(decoder.get_ref());
            }
        }
        Ok(())
    }

    fn pass(&mut self, piece: &[u8], give: impl FnOnce(&[u8])) -> Result<(), Fault> {
        match &mut self.mode {
            Mode::Gzip(decoder) => {
                let written = decoder.write_all(piece);
                self.given += decoder.get_ref().len() as u64;
                give(decoder.get_ref());
                decoder.get_mut().clear();
                written.map_err(|error| not_gzip(&error))?;
            }
            Mode::Plain | Mode::Unknown { .. } => {
                self.given += piece.len() as u64;
                give(piece);
            }
        }
        if self.given > MAX_FILE {
            let expected = format!("a file of at most {} GiB", MAX_FILE >> 30);
            return Err(Fault::at_root(expected, "a larger one"));
        }
        if self.given > FREE_GROWTH && self.given / self.taken > MAX_GROWTH {
            let expected = format!("data that decompresses to at most {MAX_GROWTH} times its size");
            return Err(Fault::at_root(expected, "data that was made to fill a disk"));
        }
        Ok(())
    }
}

fn not_gzip(error: &std::io::Error) -> Fault {
    let found = match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "data that was cut short".to_owned(),
        _ => format!("damaged data ({error})"),
    };
    Fault::at_root("a whole gzip file", found)
}
