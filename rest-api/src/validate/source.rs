//! Excerpts of a file: the text at which a violation points.

use std::{borrow::Cow, collections::BTreeMap, fs::File, io, os::unix::fs::FileExt, path::Path};

use memchr::{memchr_iter, memrchr};
use serde_json::{Value, value::RawValue};

use movie_file::{Limits, Violation};

use crate::terminal::printable;

/// The longest excerpt of a line, in characters.
const MAX_WIDTH: usize = 88;

/// How many characters before the offset are shown at most, if those after it fill the rest.
const MAX_WIDTH_BEFORE: usize = 60;

/// The largest number of bytes of a character in UTF-8.
const MAX_CHARACTER_BYTES: usize = 4;

/// Line breaks are counted in chunks of this many bytes.
const CHUNK: usize = 64 << 10;

/// A file that has excerpts: a regular one that is not compressed.
pub(super) struct Source {
    file: File,
    /// The offset up to which lines have been counted.
    counted_to: u64,
    /// How many lines end before `counted_to`.
    lines: u64,
    /// The offset at which the line of `counted_to` begins.
    line_start: u64,
    /// The record that was read last: its offset and its bytes, and what follows it.
    record: Option<(u64, Vec<u8>)>,
}

/// A part of a line, split at the offset at which a violation points.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Excerpt {
    /// The number of the line, from 1.
    pub(super) line: u64,
    pub(super) before: String,
    pub(super) after: String,
}

impl Source {
    /// Opens the file at `path`. Returns none if it has no excerpts.
    pub(super) fn open(path: &Path) -> Option<Self> {
        let file = File::open(path).ok()?;
        let mut head = [0; 2];
        let has_excerpts = file.metadata().ok()?.is_file()
            && file.read_at(&mut head, 0).ok()? > 0
            && head != [0x1f, 0x8b];
        has_excerpts.then_some(Self { file, counted_to: 0, lines: 0, line_start: 0, record: None })
    }

    /// Returns the excerpt at which `violation` points; none if it has no offset. Violations must be
    /// passed in the order of their offsets.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn excerpt(&mut self, violation: &Violation) -> io::Result<Option<Excerpt>> {
        let Some(offset) = violation.offset.filter(|offset| *offset >= self.counted_to) else {
            return Ok(None);
        };
        self.count_lines(offset)?;
        if self.record.as_ref().is_none_or(|(start, _)| *start != offset) {
            let record = self.read(offset, Limits::with_max_file(0).record)?;
            self.record = Some((offset, record));
        }
        let Some((_, record)) = &self.record else { return Ok(None) };
        let at = if violation.record.is_some() {
            value_offset(record, &violation.fault.pointer)
        } else {
            0
        };
        let head = &record[..at];
        let line = self.lines + memchr_iter(b'\n', head).count() as u64 + 1;
        let line_start =
            memrchr(b'\n', head).map_or(self.line_start, |end| offset + end as u64 + 1);
        self.excerpt_at(offset + at as u64, line, line_start).map(Some)
    }

    /// Counts the lines that end before `offset`.
    fn count_lines(&mut self, offset: u64) -> io::Result<()> {
        while self.counted_to < offset {
            let left = usize::try_from(offset - self.counted_to).unwrap_or(usize::MAX);
            let chunk = self.read(self.counted_to, left.min(CHUNK))?;
            if chunk.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.lines += memchr_iter(b'\n', &chunk).count() as u64;
            if let Some(end) = memrchr(b'\n', &chunk) {
                self.line_start = self.counted_to + end as u64 + 1;
            }
            self.counted_to += chunk.len() as u64;
        }
        Ok(())
    }

    /// Returns the part of a line around `offset`, ready to print. An ellipsis marks each end that was
    /// cut.
    fn excerpt_at(&self, offset: u64, line: u64, line_start: u64) -> io::Result<Excerpt> {
        let max_bytes = MAX_WIDTH * MAX_CHARACTER_BYTES;
        let after = self.read(offset, max_bytes)?;
        let after = String::from_utf8_lossy(&after).replace('\t', " ");
        let after = printable(after.split(['\n', '\r']).next().unwrap_or_default());

        let start = line_start.max(offset.saturating_sub(max_bytes as u64));
        let before = self.read(start, usize::try_from(offset - start).unwrap_or_default())?;
        let before = String::from_utf8_lossy(&before).replace('\t', " ");
        let before = printable(&before);
        let width = MAX_WIDTH_BEFORE.max(MAX_WIDTH.saturating_sub(after.chars().count()));
        let excess = before.chars().count().saturating_sub(width);
        let is_cut = excess > 0 || start > line_start;
        let before: String = before.chars().skip(excess).collect();
        let before = if is_cut { format!("…{before}") } else { before };

        let width = MAX_WIDTH.saturating_sub(before.chars().count());
        let after = match after.char_indices().nth(width) {
            Some((end, _)) => format!("{}…", &after[..end]),
            None => after.into_owned(),
        };
        Ok(Excerpt { line, before, after })
    }

    /// Reads `length` bytes from `start` on, or fewer if the file ends before.
    fn read(&self, start: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut read = 0;
        while read < length {
            match self.file.read_at(&mut bytes[read..], start + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(read);
        Ok(bytes)
    }
}

/// Returns the offset in `text`, which begins with a record, of the value that `pointer` points to. If
/// the value does not exist, it is the offset of its innermost existing parent. If the record is not
/// JSON, it is the offset at which the JSON is malformed.
fn value_offset(text: &[u8], pointer: &str) -> usize {
    let record = serde_json::Deserializer::from_slice(text).into_iter::<&RawValue>().next();
    let record = match record {
        Some(Ok(record)) => record.get(),
        Some(Err(error)) => return error_offset(text, &error),
        None => return 0,
    };
    if pointer.is_empty() {
        let error = serde_json::from_str::<Value>(record).err();
        return error.map_or(0, |error| error_offset(text, &error));
    }
    let found = pointer.split('/').skip(1).try_fold(record, |parent, name| {
        let name = name.replace("~1", "/").replace("~0", "~");
        child(parent, &name).map(RawValue::get).ok_or(parent)
    });
    let (Ok(value) | Err(value)) = found;
    value.as_ptr() as usize - text.as_ptr() as usize
}

/// Returns the element or the member of `parent` with this index or name.
fn child<'a>(parent: &'a str, name: &str) -> Option<&'a RawValue> {
    if parent.starts_with('[') {
        let elements: Vec<&RawValue> = serde_json::from_str(parent).ok()?;
        return elements.get(name.parse::<usize>().ok()?).copied();
    }
    let members: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(parent).ok()?;
    members.get(name).copied()
}

/// Returns the offset in `text` at which serde_json found an error; 0 if it is the end of the text,
/// because the beginning of the record is more helpful there.
fn error_offset(text: &[u8], error: &serde_json::Error) -> usize {
    if error.is_eof() {
        return 0;
    }
    // Lines are counted from 1. The column is the number of bytes read of the line.
    let line_start = match error.line() {
        0 | 1 => 0,
        line => memchr_iter(b'\n', text).nth(line - 2).map_or(0, |end| end + 1),
    };
    (line_start + error.column().saturating_sub(1)).min(text.len())
}
