//! Encodings and formats: which are read, and what a producer learns about the others.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use movie_file::{Decoder, Limits, Summary};

const MOVIE: &str = r#"{"title":"M","year":1931}"#;

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// Decodes a file in chunks of `size` bytes. Returns the number of its movies, or what is expected
/// and found in its first violation.
fn decode(encoding: Option<&str>, file: &[u8], size: usize) -> Result<u64, (String, String)> {
    let first = |summary: &Summary| {
        let fault = &summary.violations.listed().first()?.fault;
        Some((fault.expected.clone(), fault.found.clone()))
    };
    let mut decoder = Decoder::new(encoding, Limits::with_max_file(1 << 30))
        .map_err(|fault| (fault.expected, fault.found))?;
    for mut chunk in file.chunks(size) {
        while !chunk.is_empty() && !decoder.is_lost() {
            chunk = &chunk[decoder.push(chunk, |_, _| {})..];
        }
    }
    let summary = decoder.finish(|_, _| {});
    first(&summary).map_or(Ok(summary.movies), Err)
}

/// Decodes a file in chunks of several sizes. The result must be the same.
fn decoded(encoding: Option<&str>, file: &[u8]) -> Result<u64, (String, String)> {
    let result = decode(encoding, file, 1 << 20);
    for size in [1, 3, 100] {
        assert_eq!(decode(encoding, file, size), result, "in chunks of {size} bytes");
    }
    result
}

#[test]
fn an_encoding_that_names_no_coding_is_read_for_what_the_bytes_are() {
    for encoding in [
        "utf-8",
        "UTF8",
        "",
        " ",
        ",",
        "identity",
        "IDENTITY",
        "aws-chunked",
        "AWS-Chunked ,",
        "aws-chunked,utf-8",
        "iso-8859-1",
        "charset=utf-8",
        "\"utf-8\"",
        "none",
        "binary",
        "7bit",
    ] {
        assert_eq!(decoded(Some(encoding), MOVIE.as_bytes()), Ok(1), "{encoding:?}");
        assert_eq!(decoded(Some(encoding), &gzip(MOVIE.as_bytes())), Ok(1), "{encoding:?}");
    }
    for encoding in
        ["gzip", "GZIP", " x-gzip ", "aws-chunked,gzip", "gzip,aws-chunked", "gzip, utf-8"]
    {
        assert_eq!(decoded(Some(encoding), &gzip(MOVIE.as_bytes())), Ok(1), "{encoding:?}");
        let (expected, found) = decoded(Some(encoding), MOVIE.as_bytes()).unwrap_err();
        assert!(expected.contains("remove the Content-Encoding"), "{expected}");
        assert_eq!(found, "data that is not gzip");
    }
}

#[test]
fn an_encoding_that_cannot_be_read_is_named_with_the_remedy() {
    for encoding in
        ["br", "zstd", "deflate", "compress", " BR ", "aws-chunked,br", "gzip, br", "x-compress"]
    {
        let (expected, found) = decoded(Some(encoding), MOVIE.as_bytes()).unwrap_err();
        assert!(expected.contains("upload it again, plain or with gzip"), "{expected}");
        let names: Vec<&str> = encoding.split(',').map(str::trim).collect();
        let name = names.last().unwrap().to_ascii_lowercase();
        assert_eq!(found, format!("Content-Encoding {name}"));
    }
}

#[test]
fn zeros_behind_gzip_are_padding() {
    let one = gzip(format!("{MOVIE}\n").as_bytes());
    for (file, movies) in [
        ([&one[..], &[0]].concat(), 1),
        ([&one[..], &[0; 511]].concat(), 1),
        ([&one[..], &[0; 100_000]].concat(), 1),
        ([&one[..], &one, &[0; 7]].concat(), 2),
    ] {
        assert_eq!(decoded(None, &file), Ok(movies), "{} bytes", file.len());
        assert_eq!(decoded(Some("gzip"), &file), Ok(movies), "{} bytes", file.len());
    }
    for file in [
        [&one[..], b"rubbish"].concat(),
        [&one[..], &[0; 9], b"rubbish"].concat(),
        [&one[..], &[0], &one].concat(),
        [&one[..], MOVIE.as_bytes()].concat(),
    ] {
        let (_, found) = decoded(None, &file).unwrap_err();
        assert_eq!(found, "other data behind its end");
    }
    // The end of the member itself is missing: its zeros are no padding.
    assert!(decoded(None, &one[..one.len() - 1]).is_err());
}

#[test]
fn a_file_of_another_format_is_named() {
    let mut tar = vec![0; 1024];
    tar[..11].copy_from_slice(b"movies.json");
    tar[257..262].copy_from_slice(b"ustar");
    let utf_16 = |order: fn(u16) -> [u8; 2], text: &str| -> Vec<u8> {
        text.encode_utf16().flat_map(order).collect()
    };
    for (file, name) in [
        (b"\x28\xb5\x2f\xfd\x04\x58".to_vec(), "Zstandard"),
        (b"BZh91AY&SY".to_vec(), "bzip2"),
        (b"\xfd7zXZ\0\0".to_vec(), "xz"),
        (b"\x04\x22\x4d\x18abc".to_vec(), "LZ4"),
        (b"\x1f\x9d\x90abc".to_vec(), "compress"),
        (b"LZIP\x01".to_vec(), "lzip"),
        (b"PK\x03\x04\x14\0".to_vec(), "zip"),
        (b"PK\x05\x06\0\0".to_vec(), "zip"),
        (b"7z\xbc\xaf\x27\x1c".to_vec(), "7z"),
        (b"Rar!\x1a\x07".to_vec(), "RAR"),
        (tar.clone(), "tar"),
        (gzip(&tar), "tar"),
        (b"PAR1\x15\x04".to_vec(), "Parquet"),
        (b"Obj\x01\x04".to_vec(), "Avro"),
        (b"ORC\x08".to_vec(), "ORC"),
        (b"ARROW1\0\0".to_vec(), "Arrow"),
        (b"SQLite format 3\0".to_vec(), "SQLite"),
        (b"%PDF-1.7\n".to_vec(), "PDF"),
        (b"\x89PNG\r\n\x1a\n".to_vec(), "picture"),
        (b"\xff\xd8\xff\xe0".to_vec(), "picture"),
        (b"GIF89a".to_vec(), "picture"),
        (b"<!DOCTYPE html><html>".to_vec(), "HTML"),
        (b"\xef\xbb\xbf\n <html>".to_vec(), "HTML"),
        (b"<?xml version=\"1.0\"?><Error/>".to_vec(), "XML"),
        (b"title,year\nHeat,1995\n".to_vec(), "CSV"),
        (b"title;year\r\n".to_vec(), "CSV"),
        (b"\xff\xfe[\0".to_vec(), "UTF-16"),
        (b"\xfe\xff\0[".to_vec(), "UTF-16"),
        (b"\xff\xfe\0\0[\0\0\0".to_vec(), "UTF-32"),
        (b"\0\0\xfe\xff\0\0\0[".to_vec(), "UTF-32"),
        (utf_16(u16::to_le_bytes, "[{}]"), "UTF-16"),
        (utf_16(u16::to_be_bytes, "[{}]"), "UTF-16"),
        (gzip(&gzip(MOVIE.as_bytes())), "gzip file within a gzip file"),
        (b"null".to_vec(), "\"null\""),
        (b"module.exports = []".to_vec(), "\"module.exports = []\""),
        (b"\x01\x02".to_vec(), "byte 0x01"),
    ] {
        let (expected, found) = decoded(None, &file).unwrap_err();
        assert!(found.contains(name), "{name}: {found}");
        assert!(!expected.is_empty());
    }
    let (expected, found) = decoded(None, b"\x28\xb5\x2f\xfd").unwrap_err();
    assert_eq!(found, "a Zstandard file (zstd)");
    assert_eq!(expected, "plain JSON or gzip: decompress the file, or compress it with gzip");
}

#[test]
fn a_byte_order_mark_between_joined_files_is_named() {
    for file in [
        format!("{MOVIE}\n\u{feff}{MOVIE}\n"),
        format!("\u{feff}{MOVIE}\n\u{feff}{MOVIE}\n"),
        format!("\u{feff}\u{feff}{MOVIE}"),
        format!("\u{feff}[{MOVIE}]\n\u{feff}[{MOVIE}]\n"),
        format!("[\u{feff}{MOVIE}]"),
        format!("{MOVIE}\n\u{feff}"),
        format!("[{MOVIE}]\u{feff}"),
    ] {
        let (_, found) = decoded(None, file.as_bytes()).unwrap_err();
        assert!(found.contains("byte order mark"), "{file:?}: {found}");
    }
    let (expected, found) = decoded(None, format!("[{MOVIE}]\n[{MOVIE}]").as_bytes()).unwrap_err();
    assert_eq!(found, "another array");
    assert!(expected.contains("one array"), "{expected}");
}
