//! Recognizes files of other formats, so that their producers learn what to do.

use schema::Fault;

/// How many bytes of a file decide about its format. The mark of a tar archive lies within them.
pub(crate) const HEAD: usize = 512;

/// Where the mark of a tar archive is, in bytes from its beginning.
const TAR_MARK: usize = 257;

/// The length of an excerpt of a text, in characters.
const MAX_EXCERPT: usize = 40;

pub(crate) const BYTE_ORDER_MARK: [u8; 3] = [0xEF, 0xBB, 0xBF];

const COMPRESSED: &str = "plain JSON or gzip: decompress the file, or compress it with gzip";
const ARCHIVE: &str = "one JSON file, plain or gzip: unpack the archive, and upload its files";
const EXPORT: &str = "JSON: export the movies as a JSON array or NDJSON";
const NOT_UTF_8: &str = "UTF-8 text: convert the file, for example with iconv -t UTF-8";
const JSON: &str =
    "a file that begins with [ or {: a JSON array, one movie, or NDJSON (one movie a line)";

/// The first bytes of a format, what is expected instead, and the name of the format.
///
/// Sources: the magic database of file(1), and the specifications of the formats.
#[rustfmt::skip] // one row a line
const FORMATS: [(&[u8], &str, &str); 33] = [
    (b"\x28\xB5\x2F\xFD", COMPRESSED, "a Zstandard file (zstd)"),
    (b"BZh", COMPRESSED, "a bzip2 file"),
    (b"\xFD7zXZ\0", COMPRESSED, "an xz file"),
    (b"\x5D\0\0", COMPRESSED, "an LZMA file"),
    (b"\x04\x22\x4D\x18", COMPRESSED, "an LZ4 file"),
    (b"LZIP", COMPRESSED, "an lzip file"),
    (b"\x1F\x9D", COMPRESSED, "a file of compress (.Z)"),
    (b"\xFF\x06\0\0sNaPpY", COMPRESSED, "a Snappy file"),
    (b"\x1F\x8B", "a file that is compressed once: decompress it once", "a gzip file within a gzip file"),
    (b"PK\x03\x04", ARCHIVE, "a zip archive (or an Office document)"),
    (b"PK\x05\x06", ARCHIVE, "an empty zip archive"),
    (b"7z\xBC\xAF\x27\x1C", ARCHIVE, "a 7z archive"),
    (b"Rar!", ARCHIVE, "a RAR archive"),
    (b"PAR1", EXPORT, "a Parquet file"),
    (b"Obj\x01", EXPORT, "an Avro file"),
    (b"ORC", EXPORT, "an ORC file"),
    (b"ARROW1", EXPORT, "an Arrow file"),
    (b"SQLite format 3\0", EXPORT, "an SQLite database"),
    (b"SEQ\x06", EXPORT, "a Hadoop sequence file"),
    (b"\xD0\xCF\x11\xE0", EXPORT, "an old Office document"),
    (b"%PDF", EXPORT, "a PDF document"),
    (b"\x89PNG", EXPORT, "a picture (PNG)"),
    (b"\xFF\xD8\xFF", EXPORT, "a picture (JPEG)"),
    (b"GIF8", EXPORT, "a picture (GIF)"),
    (b"\x7FELF", EXPORT, "a program"),
    (b"\xFF\xFE\0\0", NOT_UTF_8, "UTF-32 text (by its byte order mark)"),
    (b"\0\0\xFE\xFF", NOT_UTF_8, "UTF-32 text (by its byte order mark)"),
    (b"\xFF\xFE", NOT_UTF_8, "UTF-16 text (by its byte order mark)"),
    (b"\xFE\xFF", NOT_UTF_8, "UTF-16 text (by its byte order mark)"),
    (b"\0\0\0[", NOT_UTF_8, "zero bytes (is it UTF-32?)"),
    (b"\0\0\0{", NOT_UTF_8, "zero bytes (is it UTF-32?)"),
    (b"\0[", NOT_UTF_8, "zero bytes (is it UTF-16?)"),
    (b"\0{", NOT_UTF_8, "zero bytes (is it UTF-16?)"),
];

/// Returns the fault of a file that does not begin as JSON does. `head` begins with the first byte that
/// does not fit, and has [`HEAD`] bytes, or fewer if the file is shorter.
pub(crate) fn unknown_file(head: &[u8]) -> Fault {
    if head.starts_with(&BYTE_ORDER_MARK) {
        return byte_order_mark();
    }
    let known = FORMATS.iter().find(|(magic, ..)| head.starts_with(magic));
    let (expected, found) = match known {
        Some((_, expected, found)) => (*expected, (*found).to_owned()),
        None if head.get(TAR_MARK..).is_some_and(|rest| rest.starts_with(b"ustar")) => {
            (ARCHIVE, "a tar archive".to_owned())
        }
        None if head.iter().all(|byte| *byte == 0) => (JSON, "zero bytes alone".to_owned()),
        None => describe_text(head),
    };
    Fault::at_root(expected, found)
}

/// Returns the fault of a file that goes on after its array. `head` is how it goes on, as in
/// [`unknown_file`].
pub(crate) fn behind_array(head: &[u8]) -> Fault {
    let marked = head.strip_prefix(&BYTE_ORDER_MARK);
    let next = marked.unwrap_or(head).trim_ascii_start().first();
    let expected = match next {
        Some(b'[' | b'{') => "one array with all movies, or NDJSON: joined arrays are not JSON",
        _ => "nothing after the array's closing bracket",
    };
    let found = match (marked, next) {
        (Some(_), _) => "a byte order mark (U+FEFF), as of another file".to_owned(),
        (None, Some(b'[')) => "another array".to_owned(),
        (None, Some(b'{')) => "a movie".to_owned(),
        (None, _) => excerpt(head),
    };
    Fault::at_root(expected, found)
}

/// Returns the fault of a byte order mark that is not at the beginning of the file.
fn byte_order_mark() -> Fault {
    let expected = "a byte order mark at the beginning of the file alone: remove this one";
    Fault::at_root(expected, "another byte order mark (U+FEFF)")
}

/// Returns the fault of data that should be gzip, as the `Content-Encoding` says.
pub(crate) fn not_gzip_as_declared() -> Fault {
    let expected =
        "gzip data: compress the file, or remove the Content-Encoding gzip from the object";
    Fault::at_root(expected, "data that is not gzip")
}

/// Returns the fault of the coding `name` of a `Content-Encoding`, which cannot be read.
pub(crate) fn unreadable_coding(name: &str) -> Fault {
    let expected =
        "a file without Content-Encoding, or with gzip: upload it again, plain or with gzip";
    Fault::at_root(expected, format!("Content-Encoding {name}"))
}

/// Returns what is expected instead of a text, and what the text seems to be.
fn describe_text(head: &[u8]) -> (&'static str, String) {
    let is_control = |byte: &u8| *byte < b' ' && !byte.is_ascii_whitespace();
    let start = head[..head.len().min(64)].to_ascii_lowercase();
    if start.starts_with(b"<!doctype html") || start.starts_with(b"<html") {
        return (EXPORT, "an HTML page (is it an error page?)".to_owned());
    }
    if start.starts_with(b"<") {
        return (EXPORT, "XML".to_owned());
    }
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let is_text = !line.iter().any(is_control) && line.first().is_some_and(u8::is_ascii);
    let is_table = line.iter().any(|byte| matches!(byte, b',' | b';' | b'\t'));
    if is_text && is_table && !line.contains(&b'[') && !line.contains(&b'{') {
        return (EXPORT, format!("{} (is it CSV?)", excerpt(line)));
    }
    (JSON, excerpt(line))
}

/// Returns the beginning of a text in quotes, or its first byte if it is no text.
fn excerpt(text: &[u8]) -> String {
    let whole = std::str::from_utf8(text).unwrap_or_else(|error| {
        std::str::from_utf8(&text[..error.valid_up_to()]).unwrap_or_default()
    });
    let shown: String =
        whole.trim_end().chars().take_while(|c| !c.is_control()).take(MAX_EXCERPT).collect();
    match text.first() {
        None => "nothing".to_owned(),
        Some(byte) if shown.is_empty() => format!("byte 0x{byte:02X}"),
        Some(_) if shown.len() < whole.trim_end().len() => format!("\"{shown}…\""),
        Some(_) => format!("\"{shown}\""),
    }
}
