//! `rest-api validate` and `POST /validate` report the same violations as an ingest of the same file.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use flate2::read::MultiGzDecoder;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    Response, Service,
    files::{chunked, gzip, invalid_files, valid_files},
    process::{Output, program},
};

/// The largest body of `POST /validate`.
const MAX_BODY: usize = 8 << 20;

/// A directory for files, removed when it is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let name = format!("mru-validate-{}-{}", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn put(&self, name: &str, body: &[u8]) -> String {
        std::fs::write(self.0.join(name), body).unwrap();
        name.to_owned()
    }

    /// Runs `rest-api validate` in the directory, without any environment.
    fn validate(&self, arguments: &[&str]) -> Output {
        Output::from(command(&self.0).args(arguments).output().unwrap())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn command(directory: &Path) -> Command {
    let mut command = program("validate");
    command.current_dir(directory);
    command
}

async fn post(service: &Service, body: Vec<u8>) -> Response {
    let request = service.request(Method::POST, "/validate").body(body);
    service.send(request.header("content-type", "application/json")).await
}

fn is_larger_than_a_body(file: &[u8]) -> bool {
    let mut plain = Vec::new();
    let unpacked = MultiGzDecoder::new(file).read_to_end(&mut plain);
    file.len() > MAX_BODY || unpacked.is_ok() && plain.len() > MAX_BODY
}

#[tokio::test]
async fn the_command_the_route_and_an_ingest_report_the_same_violations() {
    let service = Service::start().await;
    let directory = Directory::new();
    let valid = valid_files().into_iter().map(|(name, body, movies)| (name, body, Some(movies)));
    let invalid = invalid_files().into_iter().map(|(name, body, _)| (name, body, None));
    let files: Vec<_> = valid.chain(invalid).collect();
    let names: Vec<String> =
        files.iter().map(|(name, body, _)| directory.put(name, body)).collect();
    let mut arguments = vec!["--json"];
    arguments.extend(names.iter().map(String::as_str));
    let output = directory.validate(&arguments);
    assert_eq!((output.status, output.stderr.as_str()), (1, ""));
    let lines = output.json_lines();
    assert_eq!(lines.len(), files.len());

    for ((name, body, movies), line) in files.into_iter().zip(lines) {
        let ingest = service.ingest(name, body.clone()).await;
        assert_eq!(line["file"], name);
        assert_eq!(line["valid"], movies.is_some(), "{name}: {line}");
        assert_eq!(line["valid"], ingest["state"] == "succeeded", "{name}: {ingest}");
        assert_eq!(line["violations"], ingest["violations"], "{name}");
        assert_eq!(line["violation_count"], ingest["violation_count"], "{name}");
        let larger = is_larger_than_a_body(&body);
        let size = body.len();
        let response = post(&service, body).await;
        if let Some(movies) = movies {
            assert_eq!(line["movies"], movies, "{name}: {line}");
            assert_eq!(response.status, StatusCode::OK, "{name}: {}", response.text);
            assert_eq!(response.json(), json!({ "valid": true, "movies": movies }), "{name}");
        } else if size > MAX_BODY {
            assert_eq!(response.status, StatusCode::PAYLOAD_TOO_LARGE, "{name}");
        } else {
            assert_eq!(response.status, StatusCode::UNPROCESSABLE_ENTITY, "{name}");
            let problem = response.json();
            assert_eq!(problem["code"], "violations", "{name}");
            let same = problem["violations"] == ingest["violations"]
                && problem["violation_count"] == ingest["violation_count"];
            let too_large = problem["violations"].to_string().contains("at most 8 MiB");
            assert!(same || larger && too_large, "{name}: {problem} {ingest}");
        }
    }
}

#[tokio::test]
async fn a_file_is_checked_without_a_token_and_not_stored() {
    let service = Service::start().await;
    let movie = r#"{"title":"Heat","year":1995}"#;
    let request = || service.request(Method::POST, "/validate");
    let json = "application/json";
    let gzipped = gzip(movie.as_bytes());
    for (media_type, encoding, body) in [
        (json, "identity", movie.into()),
        ("application/x-ndjson; charset=utf-8", "identity", format!("{movie}\n{movie}").into()),
        (json, "gzip", gzipped.clone()),
        (json, "identity", gzipped),
    ] {
        let headed = request().header("content-type", media_type);
        let response = service.send(headed.header("content-encoding", encoding).body(body)).await;
        assert_eq!(response.status, StatusCode::OK, "{media_type} {encoding}: {}", response.text);
    }
    let response = service.send(request().header("content-encoding", "br").body(movie)).await;
    assert_eq!(response.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(response.json()["violation_count"], 1);
    assert_eq!(service.movies("").await, [Value::Null; 0]);
    assert_eq!(service.get("/ingests").await.json(), json!([]));

    for (path, media_type, status, code) in [
        ("/validate?strict=1", json, StatusCode::BAD_REQUEST, "invalid_parameter"),
        ("/validate", "text/csv", StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
    ] {
        let request = service.request(Method::POST, path).body(movie);
        let response = service.send(request.header("content-type", media_type)).await;
        assert_eq!(
            (response.status, response.json()["code"].as_str()),
            (status, Some(code)),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_with_and_without_a_content_length() {
    let service = Service::start().await;
    // After the second beginning, which is not JSON, the service does not parse the rest.
    for head in [&b"{\"title\":\""[..], b"nonsense"] {
        let body = [head, &vec![b'x'; MAX_BODY]].concat();
        for body in [chunked(&body), reqwest::Body::from(body)] {
            let request = service.request(Method::POST, "/validate").body(body);
            let response = service.send(request).await;
            assert_eq!(response.status, StatusCode::PAYLOAD_TOO_LARGE, "{}", response.text);
        }
    }
    // The service reads the body to its end, although its beginning is a fault: a client that still
    // sends could not read the response.
    let body = [b"nonsense".to_vec(), vec![b'x'; MAX_BODY - 8]].concat();
    assert_eq!(post(&service, body).await.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[test]
fn the_report_shows_line_and_column() {
    let directory = Directory::new();
    let array = r#"[
  {"title": "Heat", "year": 1995, "cast": ["Al Pacino"]},
  {"title": "Älien", "year": 1979, "cast": ["Tom Skerritt", ""], "genre": []},
  {
    "title": "M",
    "year": "1931"
  },
  {"title": "Ran" "year": 1985},
  {"year": 1985},
]
"#;
    directory.put("movies.json", array.as_bytes());
    directory.put("good.ndjson.gz", &gzip(b"{\"title\":\"Heat\",\"year\":1995}\n"));
    directory.put("empty", b"");
    let output = directory.validate(&["movies.json", "good.ndjson.gz", "empty"]);
    let expected = r#"movies.json: record 1, byte 62, /cast/1: expected a string that is not empty, found ""
      3 |   {"title": "Älien", "year": 1979, "cast": ["Tom Skerritt", ""], "genre": []},
        |                                                             ^
movies.json: record 1, byte 62, /genre: expected a property that the schema knows (did you mean "genres"?), found the unknown property "genre"
      3 |   {"title": "Älien", "year": 1979, "cast": ["Tom Skerritt", ""], "genre": []},
        |                                                                           ^
movies.json: record 2, byte 142, /year: expected integer, found "1931"
      6 |     "year": "1931"
        |             ^
movies.json: record 3, byte 188: expected JSON, found something other than a comma or } behind a property at line 1 column 17
      8 |   {"title": "Ran" "year": 1985},
        |                   ^
movies.json: record 4, byte 221, /title: expected the required property "title", found nothing
      9 |   {"year": 1985},
        |   ^
movies.json: record 5, byte 237: expected a movie after the comma, found "]"
     10 | ]
        | ^
movies.json: 6 violations
good.ndjson.gz: valid, 1 movie
empty: byte 0: expected a JSON array, a movie, or NDJSON, found an empty file
empty: 1 violation
3 files: 1 valid, 2 with 7 violations (listed 7)
"#;
    assert_eq!((output.stdout.as_str(), output.stderr.as_str(), output.status), (expected, "", 1));
}

#[test]
fn long_lines_are_truncated_and_control_characters_are_escaped() {
    let directory = Directory::new();
    let long = "é".repeat(5000);
    let control = "\u{202e}\u{9b}31m";
    let file = format!(
        "{{\"title\":\"{long}{control}\",\"year\":1,\"extract\":\"{control}{long}\"}}\n\
         {{\"title\":\"\x1b[31m\",\"year\":1999}}\n{{\"title\":\"a\",\"year\":1999,\"{control}\":1}}\n"
    );
    let name = directory.put("a\x1b[31m\u{202e}.json", file.as_bytes());
    let output = directory.validate(&[&name]);
    assert_eq!(output.status, 1, "{output:?}");
    let unfit = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
    assert!(!output.stdout.contains(unfit), "{}", output.stdout.escape_debug());
    let source: Vec<&str> = output.stdout.lines().filter(|line| line.contains(" | ")).collect();
    assert!(source.len() >= 6, "{}", output.stdout);
    assert!(source.iter().all(|line| line.chars().count() <= 100), "{}", output.stdout);
    let (shown, caret) = (source[2], source[3]);
    assert!(shown.contains("…é") && shown.ends_with('…'), "{shown}");
    let column = caret.chars().position(|c| c == '^').unwrap();
    assert!(shown.chars().skip(column).collect::<String>().starts_with("1,\"extract\""), "{shown}");
}

#[test]
fn the_exit_status_distinguishes_violations_from_errors() {
    let directory = Directory::new();
    directory.put("good", b"[]");
    directory.put("bad", b"[{}]");
    std::fs::create_dir(directory.0.join("folder")).unwrap();
    for (arguments, status, err) in [
        (&["good"][..], 0, ""),
        (&["bad", "good"], 1, ""),
        (&["missing", "bad"], 2, "missing: No such file"),
        (&["folder"], 2, "folder: this is a directory; name the files in it"),
        (&["--json", "good", "missing"], 2, "missing: No such file"),
        (&[], 2, "Usage: rest-api validate"),
        (&["--strict", "good"], 2, "--strict"),
    ] {
        let output = directory.validate(arguments);
        assert_eq!(output.status, status, "{arguments:?}: {output:?}");
        assert_eq!(output.stderr.is_empty(), err.is_empty(), "{arguments:?}: {output:?}");
        assert!(output.stderr.contains(err), "{arguments:?}: {output:?}");
    }
    let output = directory.validate(&["missing", "good", "bad"]);
    let last = "3 files: 1 valid, 1 with 2 violations (listed 2), 1 that could not be read";
    assert_eq!(output.stdout.lines().last(), Some(last));
    let lines = directory.validate(&["--json", "missing", "good"]).json_lines();
    assert_eq!(lines[0]["file"], "missing");
    assert!(lines[0]["error"].as_str().unwrap().starts_with("No such file"));
    let valid = json!({
        "file": "good", "valid": true, "movies": 0, "violation_count": 0, "violations": [],
    });
    assert_eq!(lines[1], valid);
}

#[test]
fn a_hyphen_is_standard_input_and_not_a_file() {
    let directory = Directory::new();
    directory.put("-", b"[{\"title\":\"M\"}]");
    let output = directory.validate(&["-"]);
    assert_eq!(
        output.stdout,
        "standard input: byte 0: expected a JSON array, a movie, or NDJSON, found an empty file\nstandard input: 1 violation\n"
    );
    assert_eq!(directory.validate(&["--json", "-"]).json_lines()[0]["file"], "-");
    assert!(directory.validate(&["./-"]).stdout.contains("1 | [{\"title\":\"M\"}]"));
}

#[test]
fn the_first_thousand_violations_are_listed() {
    let directory = Directory::new();
    directory.put("bad", "{}\n".repeat(1500).as_bytes());
    let output = directory.validate(&["bad"]);
    assert_eq!(output.stdout.lines().last(), Some("bad: 2000 violations, the first 1000 listed"));
    assert_eq!(output.stdout.lines().count(), 3001);
}

#[cfg(target_os = "linux")]
#[test]
fn standard_input_is_read_as_a_stream_in_bounded_memory() {
    let directory = Directory::new();
    use std::io::Write;
    let mut process = command(&directory.0)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut input = process.stdin.take().unwrap();
    let line = json!({ "title": "Heat", "year": 1995, "extract": "x".repeat(900) }).to_string();
    let lines = format!("{line}\n").repeat(1000);
    for _ in 0..64 {
        input.write_all(lines.as_bytes()).unwrap();
    }
    let peak = crate::support::process::peak_resident_mb(process.id());
    drop(input);
    let output = Output::from(process.wait_with_output().unwrap());
    assert_eq!(
        (output.status, output.stdout.as_str()),
        (0, "standard input: valid, 64000 movies\n")
    );
    assert!(peak < 40, "{peak} MB for a file of {} MB", (64 * lines.len()) >> 20);
}
