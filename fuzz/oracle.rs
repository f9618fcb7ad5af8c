//! Rules that hold for any bytes that arrive as a file.
//!
//! [`check`] decodes them as the service does, in chunks of several sizes, and compares the result
//! with serde_json, which reads the file as a whole and shares no code with the splitter:
//!
//! - However the chunks are cut, plain or compressed: the movies and violations are the same.
//! - A file that serde_json accepts, as an array or as NDJSON, has the same records at the same
//!   offsets, and each record has the same faults as by itself. It counts once if the list of
//!   violations is full.
//! - A file that serde_json does not accept is rejected, and the records before the position at
//!   which serde_json stopped are the same.
//!
//! [`Reference::compare`] lists the intended differences. There are no others.

use std::{
    hash::{DefaultHasher, Hasher},
    io::{Read, Write},
};

use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use movie_file::{Decoder, Limits, Violation, Violations};
use schema::{Definition, Fault, Movie};
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::{Value, value::RawValue};

/// Limits that small files reach.
const LIMITS: Limits = Limits { file: 300, record: 180, gap: 12 };

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";
const GZIP: &[u8] = b"\x1f\x8b";

/// The result of decoding a file.
#[derive(Debug, PartialEq)]
struct Outcome {
    /// The movies before the first violation.
    movies: Vec<Movie>,
    /// The number of valid records.
    valid: u64,
    listed: Vec<Violation>,
    count: u64,
}

impl Outcome {
    fn new(movies: Vec<Movie>, valid: u64, violations: &Violations) -> Self {
        Self { movies, valid, listed: violations.listed().to_vec(), count: violations.count() }
    }
}

/// Decodes a file whose chunks have the sizes that `size` returns.
fn decode(file: &[u8], mut size: impl FnMut() -> usize) -> Outcome {
    let mut decoder = Decoder::new(None, LIMITS).unwrap();
    let mut movies = Vec::new();
    let mut rest = file;
    while !rest.is_empty() && !decoder.is_lost() {
        let (mut chunk, behind) = rest.split_at(size().min(rest.len()));
        while !chunk.is_empty() && !decoder.is_lost() {
            chunk = &chunk[decoder.push(chunk, |movie, _| movies.push(movie))..];
        }
        rest = behind;
    }
    let summary = decoder.finish(|movie, _| movies.push(movie));
    Outcome::new(movies, summary.movies, &summary.violations)
}

/// Checks all rules for one file; also for its gzip form if `compress`, which takes most of the
/// time.
///
/// # Panics
/// If a rule does not hold.
pub(crate) fn check(file: &[u8], compress: bool) {
    let mut hasher = DefaultHasher::new();
    hasher.write(file);
    let seed = hasher.finish();
    let mut random = seed;
    let mut small_size = || {
        random = random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        (random >> 33) as usize % (1 << (seed % 8)) + 1
    };
    let whole = decode(file, || usize::MAX);
    let in_bytes = decode(file, || 1);
    let in_small_chunks = decode(file, &mut small_size);
    if file.starts_with(GZIP) {
        return check_gzip(file, &[whole, in_bytes, in_small_chunks]);
    }
    assert_eq!(whole, in_bytes, "in chunks of one byte: {}", file.escape_ascii());
    assert_eq!(whole, in_small_chunks, "in small chunks: {}", file.escape_ascii());
    if compress {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(file).unwrap();
        let compressed = encoder.finish().unwrap();
        assert_eq!(whole, decode(&compressed, &mut small_size), "as gzip: {}", file.escape_ascii());
    }
    check_plain(file, &whole);
}

fn check_gzip(file: &[u8], outcomes: &[Outcome]) {
    let (read, plain) = unpack(file);
    for outcome in outcomes {
        // A gzip file within a gzip file is not decompressed. In a damaged file, the number of bytes
        // read before the damage shows depends on the chunks; the result does not.
        if read.is_err() || plain.len() as u64 > LIMITS.file || plain.starts_with(GZIP) {
            assert!(outcome.count > 0, "accepted: {}", file.escape_ascii());
        } else {
            let expected = decode(&plain, || usize::MAX);
            assert_eq!(*outcome, expected, "unpacked: {}", plain.escape_ascii());
        }
    }
}

/// Reads all members of a gzip file, up to a byte more than the limit. Zero bytes behind the last member are
/// no fault. They cannot be told from the end of the member, which may be zeros, too.
fn unpack(file: &[u8]) -> (std::io::Result<usize>, Vec<u8>) {
    let zeros = file.iter().rev().take_while(|byte| **byte == 0).count();
    let read = |end: usize| {
        let mut plain = Vec::new();
        let read = MultiGzDecoder::new(&file[..end]).take(LIMITS.file + 1).read_to_end(&mut plain);
        (read, plain)
    };
    let ends = (file.len() - zeros..=file.len()).rev();
    ends.map(read).find(|(read, _)| read.is_ok()).unwrap_or_else(|| read(file.len()))
}

fn check_plain(file: &[u8], outcome: &Outcome) {
    for violation in &outcome.listed {
        let never = "a record that fits the schema";
        assert_ne!(violation.fault.expected, never, "the type is stricter than the schema");
    }
    if file.len() as u64 > LIMITS.file {
        return assert!(outcome.count > 0, "too large, but accepted: {}", file.escape_ascii());
    }
    let body = file.strip_prefix(BYTE_ORDER_MARK).unwrap_or(file);
    let reference = Reference::read(body);
    reference.compare(file, outcome);
    if outcome.count == 0 {
        let values = values(body, reference.in_array);
        assert_eq!(values.len(), outcome.movies.len());
        for value in values {
            assert!(Movie::validator().is_valid(&value), "invalid, but accepted: {value}");
        }
    }
}

/// Returns the records of a sound file.
fn values(body: &[u8], in_array: bool) -> Vec<Value> {
    if in_array {
        return serde_json::from_slice(body).unwrap();
    }
    serde_json::Deserializer::from_slice(body).into_iter().map(|value| value.unwrap()).collect()
}

/// A file as serde_json reads it.
struct Reference<'a> {
    /// The records before the first fault, as slices of the file.
    records: Vec<&'a RawValue>,
    in_array: bool,
    /// Whether the file has no fault.
    sound: bool,
}

impl<'a> Reference<'a> {
    fn read(body: &'a [u8]) -> Self {
        let first = body.iter().find(|byte| !is_space(**byte));
        let in_array = first == Some(&b'[');
        let mut reference = Self { records: Vec::new(), in_array, sound: true };
        let mut reader = serde_json::Deserializer::from_slice(body);
        if in_array {
            let read = Elements(&mut reference.records).deserialize(&mut reader);
            reference.sound = read.is_ok() && reader.end().is_ok();
        } else if first == Some(&b'{') {
            for record in reader.into_iter() {
                match record {
                    Ok(record) => reference.records.push(record),
                    Err(_) => reference.sound = false,
                }
            }
        } else {
            // A scalar is JSON, but not a movie.
            reference.sound = false;
        }
        reference
    }

    /// Compares `outcome` with this file, up to an intended difference:
    ///
    /// - White space or a record that exceeds its limit is a violation.
    /// - In NDJSON, `{` at the start of a line begins a record, even within another one. No movie
    ///   contains an object, so both find violations.
    /// - In NDJSON, and in a broken array, a scalar ends elsewhere. It is a violation anyway.
    fn compare(&self, file: &[u8], outcome: &Outcome) {
        let mut violations = Violations::default();
        let (mut movies, mut valid) = (Vec::new(), 0);
        let mut sound = self.sound;
        let (mut compared, mut end) = (0, 0);
        for record in &self.records {
            let raw = record.get().as_bytes();
            let offset = raw.as_ptr() as usize - file.as_ptr() as usize;
            let exact = matches!(raw[0], b'{' | b'[') || self.in_array && self.sound;
            let cut = !self.in_array && raw.windows(2).any(|pair| pair == b"\n{");
            if !exact || cut || longest_gap(&file[end..offset]) > LIMITS.gap {
                assert!(longest_gap(&file[end..offset]) > LIMITS.gap || parse(raw).is_err());
                sound = false;
                break;
            }
            match parse(raw) {
                Err(Some(_)) if violations.is_full() => violations.add_unlisted(),
                Err(Some(faults)) => violations.add_record(compared, offset as u64, &faults),
                Err(None) => violations.add(Some(compared), Some(offset as u64), oversized()),
                Ok(movie) => {
                    valid += 1;
                    if violations.count() == 0 {
                        movies.push(movie);
                    }
                }
            }
            compared += 1;
            end = offset + raw.len();
        }
        let shown = || file.escape_ascii();
        if sound && longest_gap(&file[end..]) <= LIMITS.gap {
            return assert_eq!(*outcome, Outcome::new(movies, valid, &violations), "{}", shown());
        }
        assert!(outcome.count > 0, "unsound, but accepted: {}", shown());
        let before = |violation: &&Violation| violation.record.is_some_and(|n| n < compared);
        let listed: Vec<Violation> = outcome.listed.iter().filter(before).cloned().collect();
        assert_eq!(listed, violations.listed(), "before {compared}: {}", shown());
        assert_eq!(outcome.movies[..movies.len()], movies, "before {compared}: {}", shown());
    }
}

/// Parses one record by itself. Returns the movie or its faults; no faults if it is too large.
fn parse(raw: &[u8]) -> Result<Movie, Option<schema::Faults>> {
    if raw.len() > LIMITS.record {
        return Err(None);
    }
    schema::parse(raw).map_err(Some)
}

fn oversized() -> Fault {
    let expected = format!("a record of at most {} MiB", LIMITS.record >> 20);
    Fault::at_root(expected, "a larger one (is a quote or bracket missing?)")
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn longest_gap(between: &[u8]) -> usize {
    between.split(|byte| !is_space(*byte)).map(<[u8]>::len).max().unwrap_or(0)
}

/// Collects the elements of an array, up to the first fault.
struct Elements<'v, 'a>(&'v mut Vec<&'a RawValue>);

impl<'a> DeserializeSeed<'a> for Elements<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'a> Visitor<'a> for Elements<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element()? {
            self.0.push(element);
        }
        Ok(())
    }
}
