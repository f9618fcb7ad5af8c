//! Files in every valid form, and invalid files of every kind.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use futures_util::stream;
use serde_json::{Value, json};

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// Returns a body that is sent in chunks, without a content length.
pub(crate) fn chunked(data: &[u8]) -> reqwest::Body {
    let chunks = data.chunks(64 << 10).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec()));
    reqwest::Body::wrap_stream(stream::iter(chunks.collect::<Vec<_>>()))
}

/// Returns a movie as the API returns it, without its id.
pub(crate) fn movie(title: &str) -> Value {
    json!({ "title": title, "year": 1999, "cast": ["Ann Actor"], "genres": ["Drama"] })
}

/// A valid file: its name, its bytes, and how many of the movies "A" and "B" it contains.
type Valid = (&'static str, Vec<u8>, i64);

pub(crate) fn valid_files() -> Vec<Valid> {
    let (a, b) = (movie("A"), movie("B"));
    let pretty = serde_json::to_string_pretty(&json!([a, b])).unwrap();
    let lines = format!("{a}\n{b}\n");
    let single = serde_json::to_string_pretty(&a).unwrap();
    let bom = |text: &str| format!("\u{feff}{text}").into_bytes();
    vec![
        ("array", pretty.clone().into(), 2),
        ("lines", lines.clone().into(), 2),
        ("lines-crlf", lines.replace('\n', "\r\n").into(), 2),
        ("lines-no-end", format!("{a}\n\n{b}").into(), 2),
        ("single", single.clone().into(), 1),
        ("empty-array", " [ ] \n".into(), 0),
        ("bom-array", bom(&pretty), 2),
        ("bom-lines", bom(&lines), 2),
        ("array.gz", gzip(pretty.as_bytes()), 2),
        ("lines.gz", gzip(lines.as_bytes()), 2),
        ("single.gz", gzip(single.as_bytes()), 1),
        (
            "two-members.gz",
            [gzip(format!("{a}\n").as_bytes()), gzip(b.to_string().as_bytes())].concat(),
            2,
        ),
        ("padded.gz", [gzip(lines.as_bytes()), vec![0; 10_240]].concat(), 2),
    ]
}

/// An invalid file: its name, its bytes, and record and pointer of each expected violation.
type Invalid = (&'static str, Vec<u8>, Vec<Value>);

fn at(record: u64, pointer: &str) -> Value {
    json!([record, pointer])
}

fn whole_file() -> Vec<Value> {
    vec![json!([null, ""])]
}

pub(crate) fn invalid_files() -> Vec<Invalid> {
    let good = movie("Good").to_string();
    let array = |bad: &str| format!("[{good},{bad},{good}]").into_bytes();
    let utf_16: Vec<u8> = "[{}]".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let half = gzip(good.repeat(500).as_bytes());
    let mut damaged = half.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    vec![
        ("empty file", vec![], whole_file()),
        ("white space", b" \n\t ".to_vec(), whole_file()),
        ("only a byte order mark", b"\xef\xbb\xbf".to_vec(), whole_file()),
        ("truncated array", format!("[{good},").into(), whole_file()),
        ("truncated record", format!("[{good},{{\"title\":\"x").into(), vec![at(1, "")]),
        ("truncated line", format!("{good}\n{{\"title\":\"x").into(), vec![at(1, "")]),
        ("trailing text", format!("[{good}] and more").into(), whole_file()),
        ("trailing text behind one movie", format!("{good} more").into(), vec![at(1, "")]),
        ("a comma too many", format!("[{good},]").into(), vec![at(1, "")]),
        ("a comma too few", format!("[{good} {good}]").into(), vec![at(1, "")]),
        ("nesting bomb", "[".repeat(500 << 10).into(), vec![at(0, "")]),
        ("nesting bomb of megabytes", "[".repeat(3 << 20).into(), vec![at(0, ""), at(0, "")]),
        (
            "nesting bomb in a field",
            array(&format!(
                r#"{{"title":"x","year":1999,"cast":{}{}}}"#,
                "[".repeat(9000),
                "]".repeat(9000)
            )),
            vec![at(1, "")],
        ),
        (
            "one giant record",
            array(&format!(r#"{{"title":"x","year":1999,"extract":"{}"}}"#, "x".repeat(9 << 20))),
            vec![at(1, "")],
        ),
        (
            "white space bomb",
            format!("[{good},{}{good}]", " ".repeat(2 << 20)).into(),
            whole_file(),
        ),
        ("UTF-16 with mark", [b"\xff\xfe".to_vec(), utf_16.clone()].concat(), whole_file()),
        ("UTF-16 without", utf_16, whole_file()),
        (
            "bad UTF-8",
            [b"[{\"title\":\"".to_vec(), vec![0xc3, 0x28], b"\",\"year\":1999}]".to_vec()].concat(),
            vec![at(0, "")],
        ),
        ("binary", (0..=255).rev().collect(), whole_file()),
        ("a picture", b"\x89PNG\r\n\x1a\n".to_vec(), whole_file()),
        ("cut gzip", half[..half.len() / 2].to_vec(), whole_file()),
        ("damaged gzip", damaged, whole_file()),
        ("gzip of nothing", gzip(b""), whole_file()),
        ("gzip and rubbish", [gzip(good.as_bytes()), b"rubbish".to_vec()].concat(), whole_file()),
        ("gzip bomb of spaces", gzip(&vec![b' '; 64 << 20]), whole_file()),
        (
            "gzip bomb of a record",
            gzip(format!("[{{\"title\":\"{}", "x".repeat(64 << 20)).as_bytes()),
            vec![at(0, ""), at(0, "")],
        ),
        (
            "gzip bomb of records",
            gzip(&format!("{good}\n").repeat(1 << 20).into_bytes()),
            whole_file(),
        ),
        (
            "wrong types",
            array(r#"{"title":1,"year":"1999","cast":"x","genres":[1]}"#),
            vec![at(1, "/cast"), at(1, "/genres/0"), at(1, "/title"), at(1, "/year")],
        ),
        ("missing properties", array("{}"), vec![at(1, "/title"), at(1, "/year")]),
        (
            "an unknown property",
            array(r#"{"title":"x","year":1999,"genre":["Drama"]}"#),
            vec![at(1, "/genre")],
        ),
        ("year too early", array(r#"{"title":"x","year":1869}"#), vec![at(1, "/year")]),
        ("year too late", array(r#"{"title":"x","year":2201}"#), vec![at(1, "/year")]),
        ("a zero character", array(r#"{"title":"x\u0000","year":1999}"#), vec![at(1, "/title")]),
        ("a lone surrogate", array(r#"{"title":"x\ud83d","year":1999}"#), vec![at(1, "")]),
        (
            "a duplicate key",
            array(r#"{"title":"x","title":"y","year":1999}"#),
            vec![at(1, "/title")],
        ),
        ("no object", array("12"), vec![at(1, "")]),
        ("null", b"null".to_vec(), whole_file()),
        ("text", b"title,year\nHeat,1995\n".to_vec(), whole_file()),
        ("an array in an array", format!("[[{good}]]").into(), vec![at(0, "")]),
        ("a Zstandard file", b"\x28\xb5\x2f\xfd\x04\x58".to_vec(), whole_file()),
        (
            "joined lines with byte order marks",
            format!("{good}\n\u{feff}{good}\n").into(),
            vec![at(1, "")],
        ),
        ("two arrays", format!("[{good}]\n[{good}]").into(), whole_file()),
    ]
}
