//! The log of the function.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use ingest_lambda::handle;
use serde_json::{Value, json};
use warp::http::StatusCode;

use crate::support::{client, created, start_api};

/// What a subscriber has written.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn each_result_is_logged_with_its_key_and_problem() {
    let log = Log::default();
    let writer = log.clone();
    // For the whole process: with a subscriber for one thread, others decide whether an event is logged.
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone());
    tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
    let (address, _) = start_api(StatusCode::ACCEPTED).await;
    let client = client(address).await;
    // As an array, and alone.
    let arrays: [&[&str]; 3] =
        [&["bad-logged", "refused-logged", "logged"], &["refused-logged"], &["logged"]];
    for keys in arrays {
        let _ = handle(&client, created(keys)).await;
    }
    let log = log.0.lock().unwrap();
    let lines = log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let lines = lines.map(|line| serde_json::from_slice::<Value>(line).unwrap());
    // Other tests log, too.
    let of_result = |line: &Value| {
        let key = line["fields"]["key"].as_str().unwrap_or_default();
        line["fields"]["duration_ms"].is_u64() && key.ends_with("logged")
    };
    let logged: Vec<Value> = lines
        .filter(of_result)
        .map(|line| {
            assert_eq!(line["span"]["trace_id"].as_str().unwrap().len(), 32, "{line}");
            let fields = &line["fields"];
            let problem = fields["problem"].as_str().unwrap_or("null");
            let problem: Value = serde_json::from_str(problem).unwrap();
            let [level, message] = [&line["level"], &fields["message"]];
            json!([level, message, fields["key"], fields["permanent"], problem["code"]])
        })
        .collect();
    let failed = |key: &str, permanent: bool, code: Value| {
        json!(["ERROR", "notification failed", key, permanent, code])
    };
    let delivered = json!(["INFO", "notified the API", "logged", null, null]);
    let refused = failed("refused-logged", true, json!("violations"));
    let expected = [
        failed("bad-logged", false, Value::Null),
        refused.clone(),
        delivered.clone(),
        refused,
        delivered,
    ];
    assert_eq!(logged, expected);
}
