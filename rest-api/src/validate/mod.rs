//! Checks files before they are put into the bucket: `rest-api validate`.
//!
//! A file passes through [`movie_file`], as the file of an ingest does, and its records are counted
//! against the default of `MRU_MAX_RECORDS`. So a file that is valid here is not rejected there, unless
//! the service has a lower budget or the file exceeds the one of staged bytes, which depends on what
//! is in the catalogue. `report` writes the result; `source` shows the excerpt of a violation.

mod report;
mod source;

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::stream;

use crate::{config::Budget, terminal::printable};
use movie_file::{DecodePool, Limits, Reader, Summary, Violations, limits::MAX_FILE};
use report::{FileReport, write_totals};
use schema::Fault;

/// The size of the chunks in which files are read, in bytes.
const CHUNK: usize = 64 << 10;

/// The result of checking several files.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Files without violations.
    pub valid: u64,
    /// Files with violations.
    pub invalid: u64,
    /// Files that could not be read.
    pub unreadable: u64,
    /// Violations of all files.
    pub violations: u64,
    /// Violations that were listed in the report.
    pub listed: u64,
}

impl Totals {
    /// Returns the exit status: 0 if all files are valid, 1 if some are not, 2 if some could not be
    /// read.
    pub fn exit_status(self) -> u8 {
        match self {
            Self { unreadable: 1.., .. } => 2,
            Self { invalid: 1.., .. } => 1,
            _ => 0,
        }
    }
}

/// Checks files one after another (`-` is standard input), and writes a report on each to `out`: as
/// text for people, or as JSON, one object a line. If a file cannot be read, the error is also written
/// to standard error.
///
/// It blocks its thread while it reads: it is meant for a program that does nothing else.
///
/// # Errors
/// If `out` cannot be written.
pub async fn check_files(
    paths: &[PathBuf],
    json: bool,
    out: &mut impl Write,
) -> io::Result<Totals> {
    let mut totals = Totals::default();
    let pool = DecodePool::default();
    for path in paths {
        let name = path.to_string_lossy();
        let name = if is_stdin(path) { "standard input" } else { &name };
        let report = FileReport { path, name, json };
        match check_file(path, &pool, Budget::default().records).await {
            Ok(checked) => {
                let violations = &checked.violations;
                if violations.is_empty() {
                    totals.valid += 1
                } else {
                    totals.invalid += 1
                }
                totals.violations += violations.count();
                totals.listed += violations.listed().len() as u64;
                report.write_checked(&checked, out)?;
            }
            Err(error) => {
                totals.unreadable += 1;
                report.write_unreadable(&error, out)?;
                let error = error.to_string();
                let [name, error] = [name, &error].map(printable);
                eprintln!("{name}: {error}");
            }
        }
        out.flush()?;
    }
    if !json && paths.len() > 1 {
        write_totals(totals, out)?;
        out.flush()?;
    }
    Ok(totals)
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

async fn check_file(path: &Path, pool: &DecodePool, max_records: u64) -> io::Result<Summary> {
    let file: Box<dyn Read> =
        if is_stdin(path) { Box::new(io::stdin().lock()) } else { Box::new(open(path)?) };
    let chunks = stream::iter(chunks(file));
    let limits = Limits::with_max_file(MAX_FILE);
    let mut checked = Reader::new(None, limits, chunks, pool).finish().await?;
    if checked.violations.is_empty() && checked.movies > max_records {
        let fault = Fault::at_root(format!("at most {max_records} records in a file"), "more");
        checked.violations = Violations::of_file(fault);
    }
    Ok(checked)
}

fn open(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::Error::other("this is a directory; name the files in it"));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_with_more_records_than_the_budget_is_invalid() {
        let path = std::env::temp_dir().join(format!("mru-records-{}", std::process::id()));
        std::fs::write(&path, r#"{"title":"A","year":2000}"#.repeat(11)).unwrap();
        let pool = DecodePool::new(1);
        let [larger, smaller] =
            [10, 11].map(async |max_records| check_file(&path, &pool, max_records).await.unwrap());
        let (larger, smaller) = (larger.await, smaller.await);
        std::fs::remove_file(&path).unwrap();
        let violations = serde_json::to_value(larger.violations.listed()).unwrap();
        let expected = serde_json::json!([{
            "pointer": "", "expected": "at most 10 records in a file", "found": "more",
        }]);
        assert_eq!(violations, expected);
        assert!(smaller.violations.is_empty());
    }
}
