//! Checking files before they are put: `rest-api validate`.
//!
//! A file goes through [`decode`], as the file of an ingest does, so that one that passes here is
//! not rejected there. [`report`] tells of it; [`source`] shows the place.

mod report;
mod source;

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::stream;

use crate::ingest::{DecodeError, Decoded, MAX_FILE, decode};
use report::{Report, printable};

/// Files are read in pieces of this many bytes.
const PIECE: usize = 64 << 10;

/// What became of all the files.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Files that would be taken.
    pub valid: u64,
    /// Files that would be rejected.
    pub invalid: u64,
    /// Files that could not be read.
    pub unreadable: u64,
    /// The violations of all files.
    pub violations: u64,
    /// Those of them that were listed.
    pub listed: u64,
}

impl Totals {
    /// The exit status: 0 if all are valid, 1 if one is not, 2 if one could not be read.
    pub fn exit_status(self) -> u8 {
        match self {
            Self { unreadable: 1.., .. } => 2,
            Self { invalid: 1.., .. } => 1,
            _ => 0,
        }
    }
}

/// Checks one file after the other (`-` is standard input), and tells `out` of each: as text for
/// people, or as JSON, an object a line. What cannot be read is told of on standard error, too.
///
/// It blocks its thread while it reads: it is meant for a program that does nothing else.
///
/// # Errors
/// If `out` does not take it.
pub async fn files(paths: &[PathBuf], json: bool, out: &mut impl Write) -> io::Result<Totals> {
    let mut totals = Totals::default();
    for path in paths {
        let name = path.to_string_lossy();
        let report =
            Report { path, name: if is_stdin(path) { "standard input" } else { &name }, json };
        match check(path).await {
            Ok(decoded) => {
                let violations = &decoded.violations;
                if violations.count() == 0 {
                    totals.valid += 1
                } else {
                    totals.invalid += 1
                }
                totals.violations += violations.count();
                totals.listed += violations.listed().len() as u64;
                report.of(&decoded, out)?;
            }
            Err(error) => {
                totals.unreadable += 1;
                report.unreadable(&error, out)?;
                eprintln!("{}: {}", printable(report.name), printable(&error.to_string()));
            }
        }
        out.flush()?;
    }
    if !json && paths.len() > 1 {
        report::totals(totals, out)?;
        out.flush()?;
    }
    Ok(totals)
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

async fn check(path: &Path) -> io::Result<Decoded> {
    let reader: Box<dyn Read> =
        if is_stdin(path) { Box::new(io::stdin().lock()) } else { Box::new(open(path)?) };
    match decode(None, MAX_FILE, stream::iter(pieces(reader)), None).await {
        Ok(decoded) => Ok(decoded),
        Err(DecodeError::Read(error)) => Err(error),
        Err(DecodeError::Store(error)) => Err(io::Error::other(error)),
    }
}

fn open(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::Error::other("this is a folder; name the files in it"));
    }
    Ok(file)
}

fn pieces(mut reader: impl Read) -> impl Iterator<Item = io::Result<Bytes>> {
    std::iter::from_fn(move || {
        let mut piece = vec![0; PIECE];
        loop {
            match reader.read(&mut piece) {
                Ok(0) => return None,
                Ok(read) => {
                    piece.truncate(read);
                    return Some(Ok(piece.into()));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Some(Err(error)),
            }
        }
    })
}
