//! Decompresses a file, if it is gzip.

use std::io::Write;

use flate2::write::GzDecoder;
use schema::Fault;

use crate::{
    format,
    limits::{FREE_SIZE, MAX_RATIO},
};

/// The first bytes of every gzip file (RFC 1952, 2.3.1).
const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Codings of a `Content-Encoding` that are real and cannot be read: those of IANA's registry, and names
/// of other compressions. Any other name is none of a coding: a charset, `identity`, or what an SDK left.
///
/// Source: <https://www.iana.org/assignments/http-parameters/http-parameters.xhtml#content-coding>
const UNREADABLE: [&str; 20] = [
    "aes128gcm",
    "br",
    "brotli",
    "bz2",
    "bzip2",
    "compress",
    "dcb",
    "dcz",
    "deflate",
    "exi",
    "lz4",
    "lzma",
    "pack200-gzip",
    "snappy",
    "x-bzip2",
    "x-compress",
    "x-xz",
    "xz",
    "zip",
    "zstd",
];

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
    /// In a member of a gzip file.
    Gzip(GzDecoder<Vec<u8>>),
    /// In zero bytes after the last member, which programs that write whole blocks add.
    Padding,
}

impl Inflate {
    /// Returns the stage for an object with this `Content-Encoding`, and a file of at most
    /// `max_size` bytes.
    ///
    /// # Errors
    /// If the encoding is not supported.
    pub(crate) fn new(content_encoding: Option<&str>, max_size: u64) -> Result<Self, Fault> {
        let mut declared_gzip = false;
        for coding in content_encoding.unwrap_or_default().split(',') {
            match coding.trim().to_ascii_lowercase().as_str() {
                "gzip" | "x-gzip" => declared_gzip = true,
                name if UNREADABLE.contains(&name) => return Err(format::unreadable_coding(name)),
                // No coding: the bytes tell what they are.
                _ => {}
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
            Mode::Plain | Mode::Padding => {}
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
        let decoder = match &mut self.mode {
            Mode::Gzip(decoder) => decoder,
            Mode::Padding if chunk.iter().any(|byte| *byte != 0) => return Err(behind_gzip()),
            Mode::Padding => return Ok(chunk.len()),
            Mode::Plain | Mode::Unknown { .. } => {
                self.output.emit(chunk, emit);
                return Ok(chunk.len());
            }
        };
        let written = decoder.write(chunk).map_err(|error| not_gzip(&error));
        if matches!(written, Ok(0)) {
            // The member has ended. Checks its sum.
            decoder.try_finish().map_err(|error| not_gzip(&error))?;
        }
        self.output.emit(decoder.get_ref(), emit);
        decoder.get_mut().clear();
        match (written?, chunk.first()) {
            (0, Some(0)) => self.mode = Mode::Padding,
            (0, Some(byte)) if *byte == MAGIC[0] => {
                self.mode = Mode::Gzip(GzDecoder::new(Vec::new()));
            }
            (0, _) => return Err(behind_gzip()),
            (consumed, _) => return Ok(consumed),
        }
        Ok(0)
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
        let expected = format!("a file of at most {} MiB after decompression", self.max_size >> 20);
        Err(Fault::at_root(expected, "a larger one: split it"))
    }
}

impl Mode {
    fn detect(head: &[u8], declared_gzip: bool) -> Result<Self, Fault> {
        match (head == MAGIC, declared_gzip) {
            (true, _) => Ok(Self::Gzip(GzDecoder::new(Vec::new()))),
            (false, false) => Ok(Self::Plain),
            (false, true) => Err(format::not_gzip_as_declared()),
        }
    }
}

fn not_gzip(error: &std::io::Error) -> Fault {
    let found = match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "data that was cut short".to_owned(),
        _ => format!("damaged data ({error})"),
    };
    Fault::at_root("a whole gzip file: compress and upload it again", found)
}

fn behind_gzip() -> Fault {
    Fault::at_root("a gzip file, and nothing behind it but zero bytes", "other data behind its end")
}
