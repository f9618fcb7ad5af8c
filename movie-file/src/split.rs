//! Finds the records of a file in its bytes.
//!
//! The splitter looks only at brackets, quotes and commas. It needs bounded memory, and finds the
//! same records however the chunks are cut. It does not validate a record. After a bad record it
//! finds the next one, so that a producer learns of all bad records at once.

use memchr::memchr3;
use schema::Fault;

use crate::{
    format::{self, BYTE_ORDER_MARK},
    limits::Limits,
};

/// What the splitter finds.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Item<'a> {
    /// A record, its byte offset in the file, and its bytes.
    Record { index: u64, offset: u64, bytes: &'a [u8] },
    /// A fault between the records, or of a record that is too large to emit.
    Fault { index: Option<u64>, offset: u64, fault: Fault },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// Only white space, and `bom_bytes` bytes of a byte order mark, have been seen.
    Start { bom_bytes: usize },
    /// In an array, where an element may begin. After a comma, one is needed.
    ExpectElement { needed: bool },
    /// In an array, after an element.
    ExpectComma,
    /// Between the objects of NDJSON.
    BetweenRecords,
    /// In a record.
    InRecord,
    /// After the array.
    AfterArray,
    /// In bytes that do not belong to a movie file: those from `offset` on, or those after the array. Their
    /// first ones are kept, to tell what they are.
    Foreign { offset: u64, after_array: bool },
    /// The rest of the file cannot be decoded.
    Lost,
}

/// Splits one file into records. Keeps its state between two chunks.
#[derive(Debug)]
pub(crate) struct Splitter {
    limits: Limits,
    state: State,
    in_array: bool,
    /// The byte offset of the present chunk in the file.
    base: u64,
    /// The index of the present record, or of the next one.
    index: u64,
    /// The length of the present white space, in bytes.
    gap: usize,
    record: Record,
    /// The first bytes of what does not belong to a movie file.
    foreign: Vec<u8>,
}

/// The record that is being scanned.
#[derive(Debug, Default)]
struct Record {
    offset: u64,
    /// Its bytes of earlier chunks.
    head: Vec<u8>,
    /// Whether it is too large to keep. It is scanned to its end, but not emitted.
    oversized: bool,
    depth: usize,
    in_string: bool,
    escaped: bool,
    at_line_start: bool,
}

impl Splitter {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Start { bom_bytes: 0 },
            in_array: false,
            base: 0,
            index: 0,
            gap: 0,
            record: Record::default(),
            foreign: Vec::new(),
        }
    }

    /// Whether the rest of the file cannot be decoded.
    pub(crate) fn is_lost(&self) -> bool {
        self.state == State::Lost
    }

    /// Ignores the rest of the file.
    pub(crate) fn abandon(&mut self) {
        self.state = State::Lost;
    }

    /// Scans the next chunk of the file. Emits the records and faults that end in it.
    pub(crate) fn push(&mut self, chunk: &[u8], emit: &mut impl FnMut(Item<'_>)) {
        let mut at = 0;
        while at < chunk.len() && self.state != State::Lost {
            match self.state {
                State::InRecord => at = self.scan_record(chunk, at, emit),
                State::Foreign { .. } => {
                    let end = chunk.len().min(at + format::HEAD - self.foreign.len());
                    self.foreign.extend_from_slice(&chunk[at..end]);
                    at = end;
                    if self.foreign.len() == format::HEAD {
                        self.end_foreign(emit);
                    }
                }
                _ => at += usize::from(self.step(chunk[at], self.base + at as u64, emit)),
            }
        }
        self.base += chunk.len() as u64;
    }

    /// Ends the file. Emits its last record, or the fault of an incomplete file.
    pub(crate) fn finish(mut self, emit: &mut impl FnMut(Item<'_>)) {
        const ARRAY: &str = "the array's closing bracket ] (was the file cut short?)";
        let (expected, found) = match self.state {
            State::Start { .. } => ("a JSON array, a movie, or NDJSON", "an empty file"),
            State::ExpectElement { .. } | State::ExpectComma => (ARRAY, "the end of the file"),
            State::InRecord if self.record.depth == 0 && !self.record.in_string => {
                self.end_record(&[], emit);
                if !self.in_array {
                    return;
                }
                (ARRAY, "the end of the file")
            }
            State::InRecord => {
                ("the rest of the record (was the file cut short?)", "the end of the file")
            }
            State::Foreign { .. } => return self.end_foreign(emit),
            State::BetweenRecords | State::AfterArray | State::Lost => return,
        };
        let index = (self.state == State::InRecord).then_some(self.index);
        let offset = if index.is_some() { self.record.offset } else { self.base };
        emit(Item::Fault { index, offset, fault: Fault::at_root(expected, found) });
    }

    /// Handles one byte outside a record. Returns whether it was consumed.
    fn step(&mut self, byte: u8, offset: u64, emit: &mut impl FnMut(Item<'_>)) -> bool {
        let in_bom = matches!(self.state, State::Start { bom_bytes: 1 | 2 });
        if is_space(byte) && !in_bom {
            self.gap += 1;
            if self.gap > self.limits.gap {
                let limit = self.limits.gap >> 20;
                let expected = format!("at most {limit} MiB of white space between two movies");
                self.give_up(offset, Fault::at_root(expected, "more"), emit);
            }
            return true;
        }
        self.gap = 0;
        let is_start = matches!(self.state, State::Start { .. });
        if byte == 0 && !is_start {
            let expected = "UTF-8 text: convert the file, for example with iconv -t UTF-8";
            self.give_up(offset, Fault::at_root(expected, "a zero byte (is it UTF-16?)"), emit);
            return true;
        }
        match (self.state, byte) {
            (State::Start { bom_bytes }, _) => return self.start(bom_bytes, byte, offset, emit),
            (State::ExpectElement { needed: true }, b']') => {
                self.fault(offset, "a movie after the comma", byte, emit);
                self.state = State::AfterArray;
            }
            (State::ExpectElement { needed: false } | State::ExpectComma, b']') => {
                self.state = State::AfterArray
            }
            (State::ExpectComma, b',') => self.state = State::ExpectElement { needed: true },
            (State::ExpectElement { .. }, b',') => {
                self.fault(offset, "a movie before the comma", byte, emit)
            }
            (State::BetweenRecords, b',') => {
                let expected = "a line break between two movies, or [ and ] around all of them";
                self.fault(offset, expected, byte, emit);
            }
            (State::AfterArray, _) => {
                self.state = State::Foreign { offset, after_array: true };
                return false;
            }
            (state, _) => {
                if state == State::ExpectComma {
                    self.fault(offset, "a comma between two movies", byte, emit);
                }
                let mut head = std::mem::take(&mut self.record.head);
                head.clear();
                self.record = Record { offset, head, ..Record::default() };
                self.state = State::InRecord;
                return false;
            }
        }
        true
    }

    /// Handles the first byte that is not white space. Returns whether it was consumed.
    fn start(
        &mut self,
        bom_bytes: usize,
        byte: u8,
        offset: u64,
        emit: &mut impl FnMut(Item<'_>),
    ) -> bool {
        if offset == bom_bytes as u64 && BYTE_ORDER_MARK.get(bom_bytes) == Some(&byte) {
            self.state = State::Start { bom_bytes: bom_bytes + 1 };
            return true;
        }
        if (1..BYTE_ORDER_MARK.len()).contains(&bom_bytes) {
            let expected = "a JSON array, a movie, or NDJSON, as UTF-8 text";
            let found = "a byte order mark that breaks off";
            self.give_up(offset, Fault::at_root(expected, found), emit);
            return true;
        }
        match byte {
            b'[' => {
                self.in_array = true;
                self.state = State::ExpectElement { needed: false };
                true
            }
            b'{' => {
                self.state = State::BetweenRecords;
                false
            }
            _ => {
                self.state = State::Foreign { offset, after_array: false };
                false
            }
        }
    }

    /// Scans the present record. Returns the position in the chunk at which to go on.
    fn scan_record(
        &mut self,
        chunk: &[u8],
        start: usize,
        emit: &mut impl FnMut(Item<'_>),
    ) -> usize {
        match self.record.scan(chunk, start, self.in_array) {
            Some(end) => {
                self.end_record(&chunk[start..end], emit);
                end
            }
            None => {
                self.keep(&chunk[start..], emit);
                chunk.len()
            }
        }
    }

    /// Ends the present record, whose last bytes are `tail`, and emits it.
    fn end_record(&mut self, tail: &[u8], emit: &mut impl FnMut(Item<'_>)) {
        let whole_in_this_chunk = self.record.head.is_empty() && tail.len() <= self.limits.record;
        if !whole_in_this_chunk {
            self.keep(tail, emit);
        }
        if !self.record.oversized {
            let bytes = if whole_in_this_chunk { tail } else { &self.record.head };
            emit(Item::Record { index: self.index, offset: self.record.offset, bytes });
        }
        self.index += 1;
        self.state = if self.in_array { State::ExpectComma } else { State::BetweenRecords };
    }

    /// Keeps bytes of the present record for the next chunk, unless the record is too large.
    fn keep(&mut self, bytes: &[u8], emit: &mut impl FnMut(Item<'_>)) {
        if self.record.oversized {
            return;
        }
        if self.record.head.len() + bytes.len() > self.limits.record {
            self.record.oversized = true;
            self.record.head = Vec::new();
            let expected = format!("a record of at most {} MiB", self.limits.record >> 20);
            let fault = Fault::at_root(expected, "a larger one (is a quote or bracket missing?)");
            emit(Item::Fault { index: Some(self.index), offset: self.record.offset, fault });
            return;
        }
        self.record.head.extend_from_slice(bytes);
    }

    /// Emits the fault of bytes that do not belong to a movie file.
    fn end_foreign(&mut self, emit: &mut impl FnMut(Item<'_>)) {
        let State::Foreign { offset, after_array } = self.state else { return };
        let describe = if after_array { format::behind_array } else { format::unknown_file };
        let fault = describe(&self.foreign);
        self.give_up(offset, fault, emit);
    }

    /// Emits a fault at which splitting can go on.
    fn fault(&self, offset: u64, expected: &str, byte: u8, emit: &mut impl FnMut(Item<'_>)) {
        let fault = Fault::at_root(expected, describe(byte));
        emit(Item::Fault { index: Some(self.index), offset, fault });
    }

    /// Emits a fault after which the rest of the file cannot be decoded.
    fn give_up(&mut self, offset: u64, fault: Fault, emit: &mut impl FnMut(Item<'_>)) {
        self.state = State::Lost;
        emit(Item::Fault { index: None, offset, fault });
    }
}

impl Record {
    /// Returns the position after the record's last byte, if the record ends in this chunk.
    fn scan(&mut self, chunk: &[u8], start: usize, in_array: bool) -> Option<usize> {
        let mut at = start;
        while at < chunk.len() {
            if self.escaped {
                self.escaped = false;
            } else if self.in_string {
                at += memchr3(b'"', b'\\', b'\n', &chunk[at..])?;
                match chunk[at] {
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    // A JSON string has no line break: a quote is missing. In NDJSON the next
                    // record starts on the next line.
                    _ if !in_array => return Some(at),
                    _ => self.in_string = false,
                }
            } else if let Some(end) = self.scan_structure(chunk[at], at, in_array) {
                return Some(end);
            }
            at += 1;
        }
        None
    }

    /// Handles one byte outside a string. Returns the position after the record, if it ends here.
    fn scan_structure(&mut self, byte: u8, at: usize, in_array: bool) -> Option<usize> {
        let at_line_start = std::mem::replace(&mut self.at_line_start, byte == b'\n');
        match byte {
            b'"' => self.in_string = true,
            // A line begins a record although the record before has not ended: its end is missing.
            b'{' if !in_array && at_line_start && self.depth > 0 => return Some(at),
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' if self.depth > 1 => self.depth -= 1,
            // The bracket of the array, after a number or the like.
            b']' if self.depth == 0 && in_array => return Some(at),
            b'}' | b']' => return Some(at + 1),
            b',' if self.depth == 0 && in_array => return Some(at),
            _ if self.depth == 0 && is_space(byte) => return Some(at),
            _ => {}
        }
        None
    }
}

/// Whether a byte is white space in JSON (RFC 8259, section 2). A form feed is not.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Describes a byte for a fault.
fn describe(byte: u8) -> String {
    match byte {
        b'!'..=b'~' => format!("\"{}\"", char::from(byte)),
        _ => format!("byte 0x{byte:02X}"),
    }
}

#[cfg(test)]
mod tests;
