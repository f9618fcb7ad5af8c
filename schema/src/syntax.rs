//! Describes texts that are not JSON.

use crate::{Fault, fault::describe_error};

/// The UTF-8 form of a byte order mark.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// What serde_json says, and what a producer understands.
const TEXTS: [(&str, &str); 16] = [
    ("EOF while parsing an object", "a record that breaks off in an object"),
    ("EOF while parsing a list", "a record that breaks off in an array"),
    ("EOF while parsing a string", "a record that breaks off in a string"),
    ("EOF while parsing a value", "a record that breaks off before a value"),
    (
        "expected value",
        "no JSON value (a value needs double quotes unless it is a number, true, false, null, [ or {)",
    ),
    ("expected ident", "no JSON value (true, false and null are the only words)"),
    ("key must be a string", "a property name without double quotes"),
    ("trailing comma", "a trailing comma"),
    ("expected `,` or `}`", "something other than a comma or } behind a property"),
    ("expected `,` or `]`", "something other than a comma or ] behind an item"),
    ("expected `:`", "something other than a colon behind a property name"),
    (
        "control character (\\u0000-\\u001F) found while parsing a string",
        "a control character in a string (write a line break as \\n, a tab as \\t)",
    ),
    ("invalid escape", "an escape that JSON does not have (a backslash itself is \\\\)"),
    ("invalid number", "a malformed number"),
    ("trailing characters", "more text behind the record"),
    ("recursion limit exceeded", "values that are nested too deeply"),
];

/// Returns the fault of a text that serde_json did not parse.
pub(crate) fn not_json(raw: &[u8], error: &serde_json::Error) -> Fault {
    let text = describe_error(error);
    if (text.contains("hex escape") || text.contains("surrogate"))
        && let Some((offset, escape)) = lone_surrogate(raw)
    {
        let expected =
            "a surrogate pair for a character beyond U+FFFF, or the character itself as UTF-8";
        let found = format!("half of a surrogate pair: {escape}, {offset} bytes into the record");
        return Fault::at_root(expected, found);
    }
    let known = TEXTS.iter().find_map(|(says, means)| Some((means, text.strip_prefix(says)?)));
    Fault::at_root("JSON", known.map_or(text.clone(), |(means, rest)| format!("{means}{rest}")))
}

/// Returns the fault of a text that is no JSON object, or none if it may be one.
pub(crate) fn no_object(raw: &[u8]) -> Option<Fault> {
    let text = raw.trim_ascii();
    if text.starts_with(BYTE_ORDER_MARK) {
        let expected =
            "no byte order mark within a file: remove it (files that are joined keep theirs)";
        return Some(Fault::at_root(expected, "a byte order mark (U+FEFF) before the record"));
    }
    let found = match text.first() {
        None => "nothing",
        Some(b'{') => return None,
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b'-' | b'0'..=b'9') => "a number",
        _ if text == b"null" => "null",
        _ if text == b"true" || text == b"false" => "a boolean",
        Some(_) => "other text",
    };
    Some(Fault::at_root("a JSON object", found))
}

/// Returns the fault of a text that is not UTF-8.
pub(crate) fn not_utf_8(raw: &[u8], error: std::str::Utf8Error) -> Fault {
    let offset = error.valid_up_to();
    let found = format!("byte 0x{:02X}, {offset} bytes into the record", raw[offset]);
    Fault::at_root("UTF-8 text: convert the file, for example with iconv -t UTF-8", found)
}

/// Returns the first escape of half a surrogate pair, and its offset in bytes.
fn lone_surrogate(raw: &[u8]) -> Option<(usize, &str)> {
    let unit = |at: usize| {
        let escape = std::str::from_utf8(raw.get(at..at + 6)?).ok()?.strip_prefix("\\u")?;
        u16::from_str_radix(escape, 16).ok()
    };
    let mut at = 0;
    while at < raw.len() {
        if raw[at] != b'\\' {
            at += 1;
            continue;
        }
        at += match unit(at) {
            Some(0xD800..=0xDBFF) if matches!(unit(at + 6), Some(0xDC00..=0xDFFF)) => 12,
            Some(0xD800..=0xDFFF) => {
                return std::str::from_utf8(&raw[at..at + 6]).ok().map(|escape| (at, escape));
            }
            _ => 2,
        };
    }
    None
}
