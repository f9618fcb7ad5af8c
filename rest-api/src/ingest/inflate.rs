//! Decompression, where a file is compressed.

use std::io::Write;

use flate2::write::MultiGzDecoder;
use schema::Fault;

/// The first bytes of every gzip file (RFC 1952, 2.3.1).
const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A file that is larger than this may not have grown by more than [`MAX_GROWTH`].
const FREE_GROWTH: u64 = 64 << 20;

/// Text compresses by 5 to 20; what goes beyond this was made to fill a disk.
const MAX_GROWTH: u64 = 250;

/// The stage between the bytes of an object and those of the file.
pub(super) struct Inflate {
    mode: Mode,
    /// How many bytes were taken in.
    taken: u64,
    outlet: Outlet,
}

/// Where the file's bytes leave.
struct Outlet {
    /// How many there were.
    given: u64,
    /// The file may be this large, in bytes.
    max_file: u64,
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
    /// For an object with this `Content-Encoding`, and a file of at most `max_file` bytes.
    ///
    /// # Errors
    /// If the encoding is one that we cannot undo.
    pub(super) fn new(content_encoding: Option<&str>, max_file: u64) -> Result<Self, Fault> {
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
        Ok(Self { mode, taken: 0, outlet: Outlet { given: 0, max_file } })
    }

    /// Takes the beginning of a piece of the object, and gives the part of the file that it stands
    /// for, a few dozen kilobytes at most. Returns how much of the piece it took.
    ///
    /// # Errors
    /// If it is no gzip where it should be, or the file grows beyond all measure.
    pub(super) fn push(&mut self, piece: &[u8], give: impl FnOnce(&[u8])) -> Result<usize, Fault> {
        let taken = match &mut self.mode {
            Mode::Unknown { head, declared_gzip } => {
                // Byte by byte, until it shows.
                head.extend(piece.first());
                if head.len() == MAGIC.len() {
                    let head = std::mem::take(head);
                    self.mode = Mode::of(&head, *declared_gzip)?;
                    match &mut self.mode {
                        Mode::Gzip(decoder) => {
                            decoder.write_all(&head).map_err(|error| not_gzip(&error))?;
                        }
                        _ => self.outlet.give(&head, give),
                    }
                }
                1
            }
            _ => self.pass(piece, give)?,
        };
        self.taken += taken as u64;
        self.check_growth()?;
        Ok(taken)
    }

    /// Says that the object has ended; gives what is left of the file.
    ///
    /// # Errors
    /// If compressed data has been cut short, or the file is too large.
    pub(super) fn finish(&mut self, give: impl FnOnce(&[u8])) -> Result<(), Fault> {
        match &mut self.mode {
            Mode::Unknown { head, .. } => self.outlet.give(head, give),
            Mode::Plain => {}
            Mode::Gzip(decoder) => {
                decoder.try_finish().map_err(|error| not_gzip(&error))?;
                self.outlet.give(decoder.get_ref(), give);
            }
        }
        self.outlet.check()
    }

    fn pass(&mut self, piece: &[u8], give: impl FnOnce(&[u8])) -> Result<usize, Fault> {
        let Mode::Gzip(decoder) = &mut self.mode else {
            self.outlet.give(piece, give);
            return Ok(piece.len());
        };
        let written = decoder.write(piece);
        self.outlet.give(decoder.get_ref(), give);
        decoder.get_mut().clear();
        match written {
            Ok(0) => Err(Fault::at_root("a whole gzip file", "data behind its end")),
            Ok(taken) => Ok(taken),
            Err(error) => Err(not_gzip(&error)),
        }
    }

    fn check_growth(&self) -> Result<(), Fault> {
        self.outlet.check()?;
        let given = self.outlet.given;
        if given > FREE_GROWTH && given / self.taken.max(1) > MAX_GROWTH {
            let expected = format!("data that decompresses to at most {MAX_GROWTH} times its size");
            return Err(Fault::at_root(expected, "data that was made to fill a disk"));
        }
        Ok(())
    }
}

impl Outlet {
    /// Gives the next bytes of the file, but none beyond its limit, so that what is found in a file
    /// that is too large does not depend on the pieces in which it came.
    fn give(&mut self, bytes: &[u8], give: impl FnOnce(&[u8])) {
        let room = usize::try_from(self.max_file.saturating_sub(self.given)).unwrap_or(usize::MAX);
        self.given += bytes.len() as u64;
        give(&bytes[..bytes.len().min(room)]);
    }

    fn check(&self) -> Result<(), Fault> {
        if self.given <= self.max_file {
            return Ok(());
        }
        let expected = format!("a file of at most {} MiB", self.max_file >> 20);
        Err(Fault::at_root(expected, "a larger one"))
    }
}

impl Mode {
    fn of(head: &[u8], declared_gzip: bool) -> Result<Self, Fault> {
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
