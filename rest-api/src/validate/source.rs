//! The place in a file that a violation is about.

use std::{borrow::Cow, collections::BTreeMap, fs::File, io, os::unix::fs::FileExt, path::Path};

use memchr::{memchr_iter, memrchr};
use serde_json::{Value, value::RawValue};

use movie_file::{Limits, Violation};

/// How many characters of a line are shown, and of a longer one, how many before the place.
const SHOWN: usize = 88;
const SHOWN_BEFORE: usize = 60;

/// A character of UTF-8 has at most so many bytes.
const CHARACTER: usize = 4;

/// Line breaks are counted in pieces of this many bytes.
const PIECE: usize = 64 << 10;

/// A file of which places can be shown: plain, and on a disk.
pub(super) struct Source {
    file: File,
    /// Up to where lines have been counted, how many ended there, and where the last one began.
    position: u64,
    lines: u64,
    line_start: u64,
    /// Where the record starts that was read last, and what was read.
    record: Option<(u64, Vec<u8>)>,
}

/// A part of a line, around a place.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Excerpt {
    /// The line's number, from 1.
    pub(super) line: u64,
    pub(super) before: String,
    pub(super) after: String,
}

impl Source {
    /// The file at `path`, if it is one of which places can be shown.
    pub(super) fn open(path: &Path) -> Option<Self> {
        let file = File::open(path).ok()?;
        let mut head = [0; 2];
        let plain = file.metadata().ok()?.is_file()
            && file.read_at(&mut head, 0).ok()? > 0
            && head != [0x1f, 0x8b];
        plain.then_some(Self { file, position: 0, lines: 0, line_start: 0, record: None })
    }

    /// What stands where `violation` points to; none if it points nowhere. Violations must come in
    /// the order of the file.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn excerpt(&mut self, violation: &Violation) -> io::Result<Option<Excerpt>> {
        let Some(offset) = violation.offset.filter(|offset| *offset >= self.position) else {
            return Ok(None);
        };
        self.count_lines(offset)?;
        if self.record.as_ref().is_none_or(|(start, _)| *start != offset) {
            let record = self.read(offset, Limits::with_max_file(0).record)?;
            self.record = Some((offset, record));
        }
        let Some((_, record)) = &self.record else { return Ok(None) };
        let within =
            if violation.record.is_some() { place(record, &violation.fault.pointer) } else { 0 };
        let head = &record[..within];
        let line = self.lines + memchr_iter(b'\n', head).count() as u64 + 1;
        let line_start = memrchr(b'\n', head).map_or(self.line_start, |at| offset + at as u64 + 1);
        self.around(offset + within as u64, line, line_start).map(Some)
    }

    /// Counts the line breaks before `offset`.
    fn count_lines(&mut self, offset: u64) -> io::Result<()> {
        while self.position < offset {
            let left = usize::try_from(offset - self.position).unwrap_or(usize::MAX);
            let piece = self.read(self.position, left.min(PIECE))?;
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.lines += memchr_iter(b'\n', &piece).count() as u64;
            if let Some(at) = memrchr(b'\n', &piece) {
                self.line_start = self.position + at as u64 + 1;
            }
            self.position += piece.len() as u64;
        }
        Ok(())
    }

    /// The part of a line that is shown around `place`.
    fn around(&self, place: u64, line: u64, line_start: u64) -> io::Result<Excerpt> {
        let after = self.read(place, SHOWN * CHARACTER)?;
        let after = String::from_utf8_lossy(&after);
        let after = after.split(['\n', '\r']).next().unwrap_or_default();

        let from = line_start.max(place.saturating_sub((SHOWN * CHARACTER) as u64));
        let before = self.read(from, usize::try_from(place - from).unwrap_or_default())?;
        let before = String::from_utf8_lossy(&before);
        let room = SHOWN_BEFORE.max(SHOWN.saturating_sub(after.chars().count()));
        let excess = before.chars().count().saturating_sub(room);
        let cut = excess > 0 || from > line_start;
        let before: String = before.chars().skip(excess).collect();
        let before = if cut { format!("…{before}") } else { before };

        let room = SHOWN.saturating_sub(before.chars().count());
        let after = match after.char_indices().nth(room) {
            Some((end, _)) => format!("{}…", &after[..end]),
            None => after.to_owned(),
        };
        Ok(Excerpt { line, before, after })
    }

    /// So many bytes from `start`, or fewer where the file ends.
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

/// Where in a record, which `text` begins with, the value is that `pointer` leads to, or as far as
/// it leads; or where the record stops being JSON.
fn place(text: &[u8], pointer: &str) -> usize {
    let record = serde_json::Deserializer::from_slice(text).into_iter::<&RawValue>().next();
    let record = match record {
        Some(Ok(record)) => record.get(),
        Some(Err(error)) => return error_place(text, &error),
        None => return 0,
    };
    if pointer.is_empty() {
        let error = serde_json::from_str::<Value>(record).err();
        return error.map_or(0, |error| error_place(text, &error));
    }
    let found = pointer.split('/').skip(1).try_fold(record, |value, name| {
        let inner = member(value, &name.replace("~1", "/").replace("~0", "~")).ok_or(value)?;
        Ok::<_, &str>(inner.get())
    });
    let (Ok(value) | Err(value)) = found;
    value.as_ptr() as usize - text.as_ptr() as usize
}

fn member<'a>(value: &'a str, name: &str) -> Option<&'a RawValue> {
    if value.starts_with('[') {
        let elements: Vec<&RawValue> = serde_json::from_str(value).ok()?;
        return elements.get(name.parse::<usize>().ok()?).copied();
    }
    let members: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(value).ok()?;
    members.get(name).copied()
}

/// serde_json counts lines from 1, and says how many bytes of the line it has read. The end of the
/// text is no place to point to: the record's beginning says more.
fn error_place(text: &[u8], error: &serde_json::Error) -> usize {
    if error.is_eof() {
        return 0;
    }
    let line = error.line().saturating_sub(2);
    let start = match error.line() {
        0 | 1 => 0,
        _ => memchr_iter(b'\n', text).nth(line).map_or(0, |at| at + 1),
    };
    (start + error.column().saturating_sub(1)).min(text.len())
}
