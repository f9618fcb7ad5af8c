//! Errors of Secrets Manager, with a local HTTP server in its place.

#![expect(clippy::unwrap_used, reason = "unwrapping fails a test")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, LazyLock, Mutex},
    thread,
};

use aws::{SecretsManager, Stage};
use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig};
use aws_sdk_secretsmanager::config::{Credentials, SharedCredentialsProvider};
use tracing_subscriber::{filter::LevelFilter, util::SubscriberInitExt};

/// The secret in the responses. No error and no log may contain it.
const MARKER: &str = "hunter2-marker";

/// Everything that was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What all tests of this process log. A subscriber of one test alone would miss the events that
/// another test has already met without a subscriber.
static LOG: LazyLock<Log> = LazyLock::new(|| {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE);
    subscriber.with_ansi(false).with_writer(move || writer.clone()).finish().init();
    log
});

/// Prepares the process for SDK clients, and the log. Each test calls this first.
fn set_up() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    LazyLock::force(&LOG);
}

/// Starts a server that responds to each request with `response`, and closes the connection.
fn start_server(response: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            respond(stream.unwrap(), &response);
        }
    });
    address
}

fn respond(mut stream: TcpStream, response: &str) {
    let mut request = BufReader::new(stream.try_clone().unwrap());
    let mut body_length = 0;
    loop {
        let mut line = String::new();
        request.read_line(&mut line).unwrap();
        if let Some(length) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            body_length = length.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    request.read_exact(&mut vec![0; body_length]).unwrap();
    stream.write_all(response.as_bytes()).unwrap();
}

fn response(status: &str, body: &str, missing_bytes: usize) -> String {
    let length = body.len() + missing_bytes;
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/x-amz-json-1.1\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

fn client(address: SocketAddr) -> SecretsManager {
    let credentials = Credentials::new("access-key", "secret-key", None, None, "test");
    let sdk = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws::http_client())
        .timeout_config(aws::timeouts())
        .retry_config(RetryConfig::disabled())
        .region(Region::new("eu-west-1"))
        .endpoint_url(format!("http://{address}"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build();
    SecretsManager::new(&sdk)
}

#[tokio::test]
async fn unreadable_response_is_not_printed() {
    set_up();
    let whole = format!(r#"{{"Name":"db","SecretString":"{MARKER}","VersionId":"v"}}"#);
    let number = format!(r#"{{"SecretString":42,"Name":"{MARKER}"}}"#);
    let cut = format!(r#"{{"Name":"db","SecretString":"{MARKER}"#);
    let not_json = format!("<html>{MARKER}</html>");
    let mistyped_error = format!(r#"{{"__type":["{MARKER}"],"message":{{"x":"{MARKER}"}}}}"#);
    for (name, response) in [
        ("cut by the connection", response("200 OK", &whole[..whole.len() - 5], 5)),
        ("cut as JSON", response("200 OK", &cut, 0)),
        ("a number", response("200 OK", &number, 0)),
        ("not JSON", response("200 OK", &not_json, 0)),
        ("an array", response("200 OK", &format!(r#"["{MARKER}"]"#), 0)),
        ("not UTF-8 escapes", response("200 OK", &whole.replace("v\"", "\\ud800\""), 0)),
        ("an error that is not JSON", response("400 Bad Request", &not_json, 0)),
        ("an error without a code", response("400 Bad Request", &mistyped_error, 0)),
        ("an error that is cut", response("500 Internal Server Error", &cut, 9)),
        ("a head that is not HTTP", whole.clone()),
    ] {
        let error = client(start_server(response)).get("db", Stage::Current).await.unwrap_err();
        let log = String::from_utf8(LOG.0.lock().unwrap().clone()).unwrap();
        assert!(log.contains("secretsmanager"), "{name}: the client logs nothing: {log}");
        let shown = format!("{error}\n{error:?}\n{error:#?}");
        assert!(shown.starts_with("cannot read the secret db: "), "{name}: {shown}");
        assert!(!shown.contains(MARKER), "{name}: {shown}");
        let line = log.lines().find(|line| line.contains(MARKER));
        assert_eq!(line, None, "{name}");
    }
}

#[tokio::test]
async fn refusal_is_printed_by_code_and_message_alone() {
    set_up();
    let body = format!(
        r#"{{"__type":"com.amazonaws#AccessDeniedException","Message":"not allowed","Other":"{MARKER}"}}"#
    );
    let address = start_server(response("400 Bad Request", &body, 0));
    let error = client(address).get("db", Stage::Current).await.unwrap_err();
    let expected = "cannot read the secret db: AccessDeniedException: not allowed";
    assert_eq!(error.to_string(), expected);
    assert!(!format!("{error:?}").contains(MARKER), "{error:?}");
}

#[tokio::test]
async fn error_without_a_response_names_the_cause() {
    set_up();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = client(address).get("db", Stage::Current).await.unwrap_err().to_string();
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test]
async fn secret_is_returned_and_a_missing_one_is_none() {
    set_up();
    let body = format!(r#"{{"SecretString":"{MARKER}"}}"#);
    let secret = client(start_server(response("200 OK", &body, 0))).current("db").await.unwrap();
    assert_eq!(secret.expose(), MARKER);
    let body = r#"{"__type":"ResourceNotFoundException","Message":"no"}"#;
    let missing = client(start_server(response("400 Bad Request", body, 0)));
    assert_eq!(missing.get("db", Stage::Previous).await.unwrap(), None);
}
