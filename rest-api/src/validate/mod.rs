//! Checking files before they are put: `rest-api validate`.
//!
//! A file goes through [`movie_file`], as the file of an ingest does, so that one that passes here is
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

use movie_file::{DecodePool, Limits, Reader, Summary, limits::MAX_FILE};
use report::{Report, printable};

/// Files are read in chunks of this many bytes.
const CHUNK: usize = 64 << 10;

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
    let pool = DecodePool::default();
    for path in paths {
        let name = path.to_string_lossy();
        let report =
            Report { path, name: if is_stdin(path) { "standard input" } else { &name }, json };
        match check(path, &pool).await {
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

async fn check(path: &Path, pool: &DecodePool) -> io::Result<Summary> {
    let file: Box<dyn Read> =
        if is_stdin(path) { Box::new(io::stdin().lock()) } else { Box::new(open(path)?) };
    let chunks = stream::iter(chunks(file));
    Reader::new(None, Limits::with_max_file(MAX_FILE), chunks, pool).finish().await
}

fn open(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::Error::other("this is a folder; name the files in it"));
    }
    Ok(file)
}

fn chunks(mut reader: impl Read) -> impl Iterator<Item = io::Result<Bytes>> {
    std::iter::from_fn(move || {
        let mut chunk = vec![0; CHUNK];
        loop {
            match reader.read(&mut chunk) {
                Ok(0) => return None,
                Ok(read) => {
                    chunk.truncate(read);
                    return Some(Ok(chunk.into()));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Some(Err(error)),
            }
        }
    })
}
