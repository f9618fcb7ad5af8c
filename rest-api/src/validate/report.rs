//! What is said of a file: to people, or to programs.

use std::{
    borrow::Cow,
    io::{self, Write},
    path::Path,
};

use serde::Serialize;
use serde_json::json;

use super::{Totals, is_stdin, source::Source};
use movie_file::{Summary, Violation};

/// A report on one file.
pub(super) struct Report<'a> {
    /// As it was given: what programs are told.
    pub(super) path: &'a Path,
    /// What people are told.
    pub(super) name: &'a str,
    pub(super) json: bool,
}

/// What programs are told. The violations look as they do in an ingest.
#[derive(Serialize)]
struct Line<'a> {
    file: Cow<'a, str>,
    valid: bool,
    movies: u64,
    violation_count: u64,
    violations: &'a [Violation],
}

impl Report<'_> {
    /// Tells of a file that has been read.
    ///
    /// # Errors
    /// If `out` does not take it.
    pub(super) fn of(&self, decoded: &Summary, out: &mut impl Write) -> io::Result<()> {
        let violations = decoded.violations.listed();
        let count = decoded.violations.count();
        if self.json {
            let line = Line {
                file: self.path.to_string_lossy(),
                valid: count == 0,
                movies: decoded.movies,
                violation_count: count,
                violations,
            };
            serde_json::to_writer(&mut *out, &line)?;
            return writeln!(out);
        }
        let name = printable(self.name);
        if count == 0 {
            return writeln!(out, "{name}: valid, {}", counted(decoded.movies, "movie"));
        }
        let mut source = if is_stdin(self.path) { None } else { Source::open(self.path) };
        for violation in violations {
            writeln!(out, "{name}: {}", printable(&sentence(violation)))?;
            // Nothing but the sentence where the place cannot be read any more.
            let excerpt = source.as_mut().and_then(|source| source.excerpt(violation).ok()?);
            if let Some(excerpt) = excerpt {
                let (before, after) = (printable(&excerpt.before), printable(&excerpt.after));
                writeln!(out, "{:>7} | {before}{after}", excerpt.line)?;
                writeln!(out, "{:>7} | {:width$}^", "", "", width = before.chars().count())?;
            }
        }
        let all = counted(count, "violation");
        match violations.len() as u64 {
            listed if listed < count => writeln!(out, "{name}: {all}, the first {listed} listed"),
            _ => writeln!(out, "{name}: {all}"),
        }
    }

    /// Tells of a file that could not be read.
    ///
    /// # Errors
    /// If `out` does not take it.
    pub(super) fn unreadable(&self, error: &io::Error, out: &mut impl Write) -> io::Result<()> {
        if self.json {
            writeln!(
                out,
                "{}",
                json!({ "file": self.path.to_string_lossy(), "error": error.to_string() })
            )?;
        }
        Ok(())
    }
}

/// Tells of all files together.
///
/// # Errors
/// If `out` does not take it.
pub(super) fn totals(totals: Totals, out: &mut impl Write) -> io::Result<()> {
    let Totals { valid, invalid, unreadable, violations, listed } = totals;
    write!(out, "{}: {valid} valid", counted(valid + invalid + unreadable, "file"))?;
    if invalid > 0 {
        let violations = counted(violations, "violation");
        write!(out, ", {invalid} with {violations} (listed {listed})")?;
    }
    if unreadable > 0 {
        write!(out, ", {unreadable} that could not be read")?;
    }
    writeln!(out)
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn sentence(violation: &Violation) -> String {
    let Violation { record, offset, fault } = violation;
    let mut place: Vec<String> = Vec::new();
    place.extend(record.map(|record| format!("record {record}")));
    place.extend(offset.map(|offset| format!("byte {offset}")));
    place.extend((!fault.pointer.is_empty()).then(|| fault.pointer.clone()));
    let colon = if place.is_empty() { "" } else { ": " };
    format!("{}{colon}expected {}, found {}", place.join(", "), fault.expected, fault.found)
}

/// Text that a terminal shows and does not obey: neither control characters, nor those that turn
/// the direction of writing.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let unfit = |c: char| {
        let marks = '\u{200b}'..='\u{200f}';
        let turns = '\u{2028}'..='\u{202e}';
        let joins = '\u{2060}'..='\u{206f}';
        c.is_control() || [marks, turns, joins].iter().any(|r| r.contains(&c)) || c == '\u{feff}'
    };
    if !text.contains(unfit) {
        return text.into();
    }
    let shown = |c| match c {
        '\t' => ' ',
        c if unfit(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(shown).collect()
}
