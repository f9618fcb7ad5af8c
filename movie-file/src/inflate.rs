//! Decompresses a file, if it is gzip.

use std::io::Write;

use flate2::write::MultiGzDecoder;
use schema::Fault;

use crate::limits::{FREE_SIZE, MAX_RATIO};

/// The first bytes of every gzip file (RFC 1952, 2.3.1).
const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The stage between the bytes of an object and the bytes of its file.
pub(crate) struct Inflate {
    mode: Mode,
    /// How many bytes of the object were consumed.
    consumed: u64,
    output: Output,
}

/// Counts the bytes of the file.
struct Output {
    size: u64,
    /// The largest allowed size, in bytes.
    max_size: u64,
}

enum Mode {
    /// Too few bytes have arrived to tell. They are in `head`.
    Unknown {
        head: Vec<u8>,
        declared_gzip: bool,
    },
    Plain,
    Gzip(MultiGzDecoder<Vec<u8>>),
}

impl Inflate {
    /// Returns the stage for an object with this `Content-Encoding`, and a file of at most
    /// `max_size` bytes.
    ///
    /// # Errors
    /// If the encoding is not supported.
    pub(crate) fn new(content_encoding: Option<&str>, max_size: u64) -> Result<Self, Fault> {
        let mut declared_gzip = false;
        for coding in content_encoding.unwrap_or_default().split(',').map(str::trim) {
            match coding.to_ascii_lowercase().as_str() {
                "gzip" | "x-gzip" => declared_gzip = true,
                // The AWS SDKs add aws-chunked for their own transfer.
                "" | "identity" | "aws-chunked" => {}
                other => {
                    let expected = "a plain file, or Content-Encoding gzip";
                    return Err(Fault::at_root(expected, format!("Content-Encoding {other}")));
                }
            }
        }
        let mode = Mode::Unknown { head: Vec::new(), declared_gzip };
        Ok(Self { mode, consumed: 0, output: Output { size: 0, max_size } })
    }

    /// Consumes the first bytes of `chunk`, and passes the bytes of the file that they stand for to
    /// `emit`, a few dozen kilobytes at most. Returns how many bytes it consumed.
    ///
    /// # Errors
    /// If the bytes should be gzip and are not, or the file grows beyond its limits.
    pub(crate) fn push(&mut self, chunk: &[u8], emit: impl FnOnce(&[u8])) -> Result<usize, Fault> {
        let consumed = match &mut self.mode {
            Mode::Unknown { head, declared_gzip } => {
                // One byte at a time, until the head is complete.
                head.extend(chunk.first());
                if head.len() == MAGIC.len() {
                    let head = std::mem::take(head);
                    self.mode = Mode::detect(&head, *declared_gzip)?;
                    match &mut self.mode {
                        Mode::Gzip(decoder) => {
                            decoder.write_all(&head).map_err(|error| not_gzip(&error))?;
                        }
                        _ => self.output.emit(&head, emit),
                    }
                }
                1
            }
            _ => self.pass(chunk, emit)?,
        };
        self.consumed += consumed as u64;
        self.check_growth()?;
        Ok(consumed)
    }

    /// Ends the object, and passes the rest of the file to `emit`.
    ///
    /// # Errors
    /// If compressed data is cut short, or the file is too large.
    pub(crate) fn finish(&mut self, emit: impl FnOnce(&[u8])) -> Result<(), Fault> {
        match &mut self.mode {
            Mode::Unknown { head, .. } => self.output.emit(head, emit),
            Mode::Plain => {}
            Mode::Gzip(decoder) => {
                decoder.try_finish().map_err(|error| not_gzip(&error))?;
                self.output.emit(decoder.get_ref(), emit);
            }
        }
        self.output.check_size()
    }

    /// Returns how many bytes of the file were passed on.
    pub(crate) fn size(&self) -> u64 {
        self.output.size
    }

    fn pass(&mut self, chunk: &[u8], emit: impl FnOnce(&[u8])) -> Result<usize, Fault> {
        let Mode::Gzip(decoder) = &mut self.mode else {
            self.output.emit(chunk, emit);
            return Ok(chunk.len());
        };
        let written = decoder.write(chunk);
        self.output.emit(decoder.get_ref(), emit);
        decoder.get_mut().clear();
        match written {
            Ok(0) => Err(Fault::at_root("a whole gzip file", "data after its end")),
            Ok(consumed) => Ok(consumed),
            Err(error) => Err(not_gzip(&error)),
        }
    }

    fn check_growth(&self) -> Result<(), Fault> {
        self.output.check_size()?;
        let size = self.output.size;
        if size > FREE_SIZE && size / self.consumed.max(1) > MAX_RATIO {
            let expected = format!("data that decompresses to at most {MAX_RATIO} times its size");
            return Err(Fault::at_root(expected, "data that grows further (a gzip bomb?)"));
        }
        Ok(())
    }
}

impl Output {
    /// Passes the next bytes of the file on, up to its largest size. So the faults found in a file
    /// that is too large do not depend on how its chunks were cut.
    fn emit(&mut self, bytes: &[u8], emit: impl FnOnce(&[u8])) {
        let room = usize::try_from(self.max_size.saturating_sub(self.size)).unwrap_or(usize::MAX);
        self.size += bytes.len() as u64;
        emit(&bytes[..bytes.len().min(room)]);
    }

    fn check_size(&self) -> Result<(), Fault> {
        if self.size <= self.max_size {
            return Ok(());
        }
        let expected = format!("a file of at most {} MiB", self.max_size >> 20);
        Err(Fault::at_root(expected, "a larger one"))
    }
}

impl Mode {
    fn detect(head: &[u8], declared_gzip: bool) -> Result<Self, Fault> {
        match (head == MAGIC, declared_gzip) {
            (true, _) => Ok(Self::Gzip(MultiGzDecoder::new(Vec::new()))),
            (false, false) => Ok(Self::Plain),
            (false, true) => {
                Err(Fault::at_root("gzip data, as Content-Encoding says", "other data"))
            }
        }
    }
}

fn not_gzip(error: &std::io::Error) -> Fault {
    let found = match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "data that was cut short".to_owned(),
        _ => format!("damaged data ({error})"),
    };
    Fault::at_root("a whole gzip file", found)
}
