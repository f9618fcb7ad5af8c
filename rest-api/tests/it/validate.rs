//! Checking a file before it is put: what `rest-api validate` and `POST /validate` say is what the
//! ledger says when the same bytes are put.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use flate2::read::MultiGzDecoder;
use futures_util::stream;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    files::{bad_files, good_files, gzip},
    service::{Answer, Service, eventually},
};

/// What `POST /validate` takes at most.
const MAX_BODY: usize = 8 << 20;

/// A folder for files, gone with its test.
struct Folder(PathBuf);

impl Folder {
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

    /// Runs `rest-api validate` in the folder, without any environment.
    fn validate(&self, arguments: &[&str]) -> Told {
        Told::from(command(&self.0).args(arguments).output().unwrap())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rest-api"));
    command.arg("validate").current_dir(folder).env_clear().stdin(Stdio::null());
    command
}

/// What the program said.
#[derive(Debug)]
struct Told {
    status: i32,
    out: String,
    err: String,
}

impl From<Output> for Told {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Told {
    fn json(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

async fn post(service: &Service, body: Vec<u8>) -> Answer {
    let request = service.request(Method::POST, "/validate").body(body);
    service.send(request.header("content-type", "application/json")).await
}

fn larger_than_a_body(file: &[u8]) -> bool {
    let mut plain = Vec::new();
    let unpacked = MultiGzDecoder::new(file).read_to_end(&mut plain);
    file.len() > MAX_BODY || unpacked.is_ok() && plain.len() > MAX_BODY
}

#[tokio::test]
async fn all_three_ways_to_hand_in_a_file_come_to_the_same() {
    let service = Service::start().await;
    let folder = Folder::new();
    let good = good_files().into_iter().map(|(name, body, movies)| (name, body, Some(movies)));
    let bad = bad_files().into_iter().map(|(name, body, _)| (name, body, None));
    let files: Vec<_> = good.chain(bad).collect();
    let names: Vec<String> = files.iter().map(|(name, body, _)| folder.put(name, body)).collect();
    let mut arguments = vec!["--json"];
    arguments.extend(names.iter().map(String::as_str));
    let told = folder.validate(&arguments);
    assert_eq!((told.status, told.err.as_str()), (1, ""));
    let lines = told.json();
    assert_eq!(lines.len(), files.len());

    for ((name, body, movies), line) in files.into_iter().zip(lines) {
        let ingest = service.ingest(name, body.clone()).await;
        assert_eq!(line["file"], name);
        assert_eq!(line["valid"], movies.is_some(), "{name}: {line}");
        assert_eq!(line["valid"], ingest["state"] == "succeeded", "{name}: {ingest}");
        assert_eq!(line["violations"], ingest["violations"], "{name}");
        assert_eq!(line["violation_count"], ingest["violation_count"], "{name}");
        let larger = larger_than_a_body(&body);
        let size = body.len();
        let answer = post(&service, body).await;
        if let Some(movies) = movies {
            assert_eq!(line["movies"], movies, "{name}: {line}");
            assert_eq!(answer.status, StatusCode::OK, "{name}: {}", answer.text);
            assert_eq!(answer.json(), json!({ "valid": true, "movies": movies }), "{name}");
        } else if size > MAX_BODY {
            assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{name}");
        } else {
            assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{name}");
            let problem = answer.json();
            assert_eq!(problem["code"], "violations", "{name}");
            let same = problem["violations"] == ingest["violations"]
                && problem["violation_count"] == ingest["violation_count"];
            let too_large = problem["violations"].to_string().contains("at most 8 MiB");
            assert!(same || larger && too_large, "{name}: {problem} {ingest}");
        }
    }
}

#[tokio::test]
async fn a_file_is_checked_for_anybody_and_not_stored() {
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
        let answer = service.send(headed.header("content-encoding", encoding).body(body)).await;
        assert_eq!(answer.status, StatusCode::OK, "{media_type} {encoding}: {}", answer.text);
    }
    let answer = service.send(request().header("content-encoding", "br").body(movie)).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(answer.json()["violation_count"], 1);
    assert_eq!(service.movies("").await, [Value::Null; 0]);
    assert_eq!(service.get("/ingests").await.json(), json!([]));

    for (path, media_type, status, code) in [
        ("/validate?strict=1", json, StatusCode::BAD_REQUEST, "invalid_parameter"),
        ("/validate", "text/csv", StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
    ] {
        let request = service.request(Method::POST, path).body(movie);
        let answer = service.send(request.header("content-type", media_type)).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (status, Some(code)), "{path}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_announced_or_not() {
    let service = Service::start().await;
    // What stands at its beginning makes no sense, so that the rest is not even looked at.
    for head in [&b"{\"title\":\""[..], b"nonsense"] {
        let body = [head, &vec![b'x'; MAX_BODY]].concat();
        let pieces = body.chunks(64 << 10).map(|piece| Ok::<_, std::io::Error>(piece.to_vec()));
        let chunked = reqwest::Body::wrap_stream(stream::iter(pieces.collect::<Vec<_>>()));
        for body in [reqwest::Body::from(body), chunked] {
            let request = service.request(Method::POST, "/validate").body(body);
            let answer = service.send(request).await;
            assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{}", answer.text);
        }
    }
    // Sent to its end, although it is lost at its beginning: the answer must arrive.
    let body = [b"nonsense".to_vec(), vec![b'x'; MAX_BODY - 8]].concat();
    assert_eq!(post(&service, body).await.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn too_many_at_once_are_asked_to_come_back() {
    let service = Service::start().await;
    let head = "POST /validate HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n[";
    let mut clients = Vec::new();
    for _ in 0..32 {
        let mut client = TcpStream::connect(service.address).await.unwrap();
        client.write_all(head.as_bytes()).await.unwrap();
        clients.push(client);
    }
    eventually(async || {
        let answer = post(&service, b"[]".to_vec()).await;
        assert!(matches!(answer.status.as_u16(), 200 | 503), "{}", answer.text);
        answer.status == StatusCode::SERVICE_UNAVAILABLE && answer.header("retry-after") == "1"
    })
    .await;
    assert_eq!(service.get("/movies").await.status, StatusCode::OK, "the rest goes on");
    for client in &mut clients {
        client.write_all(b"]").await.unwrap();
        let mut answer = [0; 12];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
    eventually(async || post(&service, b"[]".to_vec()).await.status == StatusCode::OK).await;
}

#[test]
fn the_report_shows_the_place() {
    let folder = Folder::new();
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
    folder.put("movies.json", array.as_bytes());
    folder.put("good.ndjson.gz", &gzip(b"{\"title\":\"Heat\",\"year\":1995}\n"));
    folder.put("empty", b"");
    let told = folder.validate(&["movies.json", "good.ndjson.gz", "empty"]);
    let expected = r#"movies.json: record 1, byte 62, /cast/1: expected a string that is not empty, found ""
      3 |   {"title": "Älien", "year": 1979, "cast": ["Tom Skerritt", ""], "genre": []},
        |                                                             ^
movies.json: record 1, byte 62, /genre: expected a property that the schema knows (did you mean "genres"?), found the unknown property "genre"
      3 |   {"title": "Älien", "year": 1979, "cast": ["Tom Skerritt", ""], "genre": []},
        |                                                                           ^
movies.json: record 2, byte 142, /year: expected integer, found "1931"
      6 |     "year": "1931"
        |             ^
movies.json: record 3, byte 188: expected JSON, found expected `,` or `}` at line 1 column 17
      8 |   {"title": "Ran" "year": 1985},
        |                   ^
movies.json: record 4, byte 221, /title: expected the required property "title", found nothing
      9 |   {"year": 1985},
        |   ^
movies.json: record 5, byte 237: expected a movie behind the comma, found "]"
     10 | ]
        | ^
movies.json: 6 violations
good.ndjson.gz: valid, 1 movie
empty: byte 0: expected a JSON array, a movie, or NDJSON, found an empty file
empty: 1 violation
3 files: 1 valid, 2 with 7 violations (listed 7)
"#;
    assert_eq!((told.out.as_str(), told.err.as_str(), told.status), (expected, "", 1));
}

#[test]
fn long_lines_are_cut_and_nothing_obeys_the_file() {
    let folder = Folder::new();
    let long = "é".repeat(5000);
    let nasty = "\u{202e}\u{9b}31m";
    let file = format!(
        "{{\"title\":\"{long}{nasty}\",\"year\":1,\"extract\":\"{nasty}{long}\"}}\n\
         {{\"title\":\"\x1b[31m\",\"year\":1999}}\n{{\"title\":\"a\",\"year\":1999,\"{nasty}\":1}}\n"
    );
    let name = folder.put("a\x1b[31m\u{202e}.json", file.as_bytes());
    let told = folder.validate(&[&name]);
    assert_eq!(told.status, 1, "{told:?}");
    let unfit = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
    assert!(!told.out.contains(unfit), "{}", told.out.escape_debug());
    let source: Vec<&str> = told.out.lines().filter(|line| line.contains(" | ")).collect();
    assert!(source.len() >= 6, "{}", told.out);
    assert!(source.iter().all(|line| line.chars().count() <= 100), "{}", told.out);
    let (shown, caret) = (source[2], source[3]);
    assert!(shown.contains("…é") && shown.ends_with('…'), "{shown}");
    let place = caret.chars().position(|c| c == '^').unwrap();
    assert!(shown.chars().skip(place).collect::<String>().starts_with("1,\"extract\""), "{shown}");
}

#[test]
fn the_exit_status_says_what_scripts_need_to_know() {
    let folder = Folder::new();
    folder.put("good", b"[]");
    folder.put("bad", b"[{}]");
    std::fs::create_dir(folder.0.join("folder")).unwrap();
    for (arguments, status, err) in [
        (&["good"][..], 0, ""),
        (&["bad", "good"], 1, ""),
        (&["missing", "bad"], 2, "missing: No such file"),
        (&["folder"], 2, "folder: this is a folder; name the files in it"),
        (&["--json", "good", "missing"], 2, "missing: No such file"),
        (&[], 2, "Usage: rest-api validate"),
        (&["--strict", "good"], 2, "--strict"),
    ] {
        let told = folder.validate(arguments);
        assert_eq!(told.status, status, "{arguments:?}: {told:?}");
        assert_eq!(told.err.is_empty(), err.is_empty(), "{arguments:?}: {told:?}");
        assert!(told.err.contains(err), "{arguments:?}: {told:?}");
    }
    let told = folder.validate(&["missing", "good", "bad"]);
    let last = "3 files: 1 valid, 1 with 2 violations (listed 2), 1 that could not be read";
    assert_eq!(told.out.lines().last(), Some(last));
    let lines = folder.validate(&["--json", "missing", "good"]).json();
    assert_eq!(lines[0]["file"], "missing");
    assert!(lines[0]["error"].as_str().unwrap().starts_with("No such file"));
    let good = json!({
        "file": "good", "valid": true, "movies": 0, "violation_count": 0, "violations": [],
    });
    assert_eq!(lines[1], good);
}

#[test]
fn standard_input_is_not_a_file_called_minus() {
    let folder = Folder::new();
    folder.put("-", b"[{\"title\":\"M\"}]");
    let told = folder.validate(&["-"]);
    assert_eq!(
        told.out,
        "standard input: byte 0: expected a JSON array, a movie, or NDJSON, found an empty file\nstandard input: 1 violation\n"
    );
    assert_eq!(folder.validate(&["--json", "-"]).json()[0]["file"], "-");
    assert!(folder.validate(&["./-"]).out.contains("1 | [{\"title\":\"M\"}]"));
}

#[test]
fn of_many_violations_the_first_thousand_are_listed() {
    let folder = Folder::new();
    folder.put("bad", "{}\n".repeat(1500).as_bytes());
    let told = folder.validate(&["bad"]);
    assert_eq!(told.out.lines().last(), Some("bad: 3000 violations, the first 1000 listed"));
    assert_eq!(told.out.lines().count(), 3001);
}

#[cfg(target_os = "linux")]
#[test]
fn standard_input_is_read_as_a_stream_in_bounded_memory() {
    let folder = Folder::new();
    use std::io::Write;
    let mut process = command(&folder.0)
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
    let peak = crate::memory::peak_resident_mb(process.id());
    drop(input);
    let told = Told::from(process.wait_with_output().unwrap());
    assert_eq!((told.status, told.out.as_str()), (0, "standard input: valid, 64000 movies\n"));
    assert!(peak < 40, "{peak} MB for a file of {} MB", (64 * lines.len()) >> 20);
}
