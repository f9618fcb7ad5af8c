//! Reports on checked files, as text for people or as JSON for programs.

use std::{
    borrow::Cow,
    io::{self, Write},
    path::Path,
};

use serde::Serialize;
use serde_json::json;

use movie_file::{Summary, Violation};

use super::{
    Totals, is_stdin,
    source::{Excerpt, Source},
};
use crate::terminal::printable;

/// Writes the report on one file.
pub(super) struct FileReport<'a> {
    /// The path as it was given. It is the `file` of JSON reports.
    pub(super) path: &'a Path,
    /// The name of the file in text reports.
    pub(super) name: &'a str,
    pub(super) json: bool,
}

/// The JSON report on a file. Its violations have the format of `GET /ingests/{id}`.
#[derive(Serialize)]
struct JsonReport<'a> {
    file: Cow<'a, str>,
    valid: bool,
    movies: u64,
    violation_count: u64,
    violations: &'a [Violation],
}

impl FileReport<'_> {
    /// Writes the report on a file that has been read.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub(super) fn write_checked(&self, checked: &Summary, out: &mut impl Write) -> io::Result<()> {
        let violations = checked.violations.listed();
        let count = checked.violations.count();
        if self.json {
            let report = JsonReport {
                file: self.path.to_string_lossy(),
                valid: count == 0,
                movies: checked.movies,
                violation_count: count,
                violations,
            };
            serde_json::to_writer(&mut *out, &report)?;
            return writeln!(out);
        }
        let name = printable(self.name);
        if count == 0 {
            return writeln!(out, "{name}: valid, {}", count_of(checked.movies, "movie"));
        }
        let mut source = if is_stdin(self.path) { None } else { Source::open(self.path) };
        for violation in violations {
            writeln!(out, "{name}: {}", printable(&describe(violation)))?;
            // If the excerpt cannot be read, the description stands alone.
            let excerpt = source.as_mut().and_then(|source| source.excerpt(violation).ok()?);
            if let Some(excerpt) = excerpt {
                let Excerpt { line, before, after } = excerpt;
                writeln!(out, "{line:>7} | {before}{after}")?;
                writeln!(out, "{:>7} | {:width$}^", "", "", width = before.chars().count())?;
            }
        }
        let total = count_of(count, "violation");
        match violations.len() as u64 {
            listed if listed < count => writeln!(out, "{name}: {total}, the first {listed} listed"),
            _ => writeln!(out, "{name}: {total}"),
        }
    }

    /// Writes the JSON report on a file that could not be read. There is no text report: the error
    /// goes to standard error.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub(super) fn write_unreadable(
        &self,
        error: &io::Error,
        out: &mut impl Write,
    ) -> io::Result<()> {
        if self.json {
            let file = self.path.to_string_lossy();
            writeln!(out, "{}", json!({ "file": file, "error": error.to_string() }))?;
        }
        Ok(())
    }
}

/// Writes the last line of a text report on several files.
///
/// # Errors
/// If `out` cannot be written.
pub(super) fn write_totals(totals: Totals, out: &mut impl Write) -> io::Result<()> {
    let Totals { valid, invalid, unreadable, violations, listed } = totals;
    write!(out, "{}: {valid} valid", count_of(valid + invalid + unreadable, "file"))?;
    if invalid > 0 {
        let violations = count_of(violations, "violation");
        write!(out, ", {invalid} with {violations} (listed {listed})")?;
    }
    if unreadable > 0 {
        write!(out, ", {unreadable} that could not be read")?;
    }
    writeln!(out)
}

/// Returns a count with its noun: "1 file", "2 files".
fn count_of(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Returns a violation as text: its record, offset and pointer, what was expected and what was found.
fn describe(violation: &Violation) -> String {
    let Violation { record, offset, fault } = violation;
    let mut location: Vec<String> = Vec::new();
    location.extend(record.map(|record| format!("record {record}")));
    location.extend(offset.map(|offset| format!("byte {offset}")));
    location.extend((!fault.pointer.is_empty()).then(|| fault.pointer.clone()));
    let colon = if location.is_empty() { "" } else { ": " };
    format!("{}{colon}expected {}, found {}", location.join(", "), fault.expected, fault.found)
}
