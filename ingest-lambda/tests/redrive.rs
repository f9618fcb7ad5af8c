//! Tests of `scripts/redrive-failures`, with a stand-in for the AWS CLI. They need bash, jq and
//! Python 3.

#![expect(clippy::unwrap_used, reason = "unwrapping fails a test")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

/// What the script left and printed.
struct Run {
    status: Option<i32>,
    stdout: String,
    stderr: String,
    /// The keys of the messages that are still in the queue, each with its remaining visibility
    /// timeout in seconds.
    queue: Vec<(String, u64)>,
}

/// Runs the script on a queue with one message for each of `keys`.
fn redrive(name: &str, keys: &[&str], options: &[&str]) -> Run {
    let queue = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("redrive-{name}.json"));
    let message = |key: &&str| {
        let records = json!([{ "s3": { "bucket": { "name": "b" }, "object": { "key": key } } }]);
        let body = json!({ "requestPayload": { "Records": records } }).to_string();
        let object = json!({ "bucket": { "name": "b" }, "object": { "key": key } });
        let body = match *key {
            "bridged" => json!({ "requestPayload": { "detail": object } }).to_string(),
            "sns" => {
                let message = json!({ "Records": [{ "s3": object }] }).to_string();
                json!({ "requestPayload": { "Records": [{ "Sns": { "Message": message } }] } })
                    .to_string()
            }
            _ => body,
        };
        // A message that no failed event has put into the queue.
        let body = if *key == "foreign" { r#"{"key":"foreign"}"#.to_owned() } else { body };
        json!({ "body": body, "hidden": 0 })
    };
    let messages: Vec<Value> = keys.iter().map(message).collect();
    fs::write(&queue, json!(messages).to_string()).unwrap();

    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let stand_in = root.join("ingest-lambda/tests/redrive");
    let path = format!("{}:{}", stand_in.display(), std::env::var("PATH").unwrap());
    let output = Command::new(root.join("scripts/redrive-failures"))
        .args(options)
        .env("PATH", path)
        .env("QUEUE", &queue)
        .output()
        .unwrap();
    let left: Vec<Value> = serde_json::from_slice(&fs::read(queue).unwrap()).unwrap();
    let left = left.iter().map(|message| {
        let body = message["body"].as_str().unwrap();
        let key = keys.iter().find(|key| body.contains(&format!(r#""key":"{key}""#))).unwrap();
        ((*key).to_owned(), message["hidden"].as_u64().unwrap())
    });
    Run {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        queue: left.collect(),
    }
}

#[test]
fn event_that_is_refused_for_good_does_not_block_those_behind_it() {
    let keys = ["refused/x%00.json", "foreign", "good.json", "refused/2.json", "better.json"];
    let run = redrive("refused", &keys, &[]);
    let visible = |key: &str| (key.to_owned(), 0);
    assert_eq!(run.queue, ["refused/x%00.json", "foreign", "refused/2.json"].map(visible));
    assert_eq!(run.status, Some(3), "{}", run.stderr);
    let summary = "The queue contains nothing else; events redriven: 2; refused: 3.";
    assert_eq!(run.stdout.lines().last(), Some(summary));
    assert!(run.stdout.contains("b/refused/x%00.json\n"), "{}", run.stdout);
    for reason in
        ["cannot deliver refused/x%00.json", "cannot deliver refused/2.json", "no Lambda event"]
    {
        assert!(run.stderr.contains(reason), "{}", run.stderr);
    }
}

#[test]
fn refused_events_are_deleted_on_request() {
    let run = redrive("deleted", &["refused/1.json", "good.json"], &["--delete-refused"]);
    assert_eq!((run.queue, run.status), (vec![], Some(3)));
    let line = "redrive-failures: deleted message {\"re: cannot deliver refused/1.json\n";
    assert_eq!(run.stderr, line);
}

#[test]
fn transient_failure_stops_the_redrive_and_releases_what_is_parked() {
    let run = redrive("late", &["refused/1.json", "late/2.json", "good.json"], &[]);
    let expected = [("refused/1.json", 0), ("late/2.json", 120), ("good.json", 0)];
    assert_eq!(run.queue, expected.map(|(key, seconds)| (key.to_owned(), seconds)));
    assert_eq!(run.status, Some(1));
    assert!(run.stderr.contains("the function failed again: cannot deliver late/2.json"));
}

#[test]
fn the_objects_of_every_form_of_event_are_printed() {
    let run = redrive("forms", &["plain", "bridged", "sns"], &[]);
    assert_eq!((run.queue, run.status), (vec![], Some(0)), "{}", run.stderr);
    let printed: Vec<&str> = run.stdout.lines().take(3).collect();
    assert_eq!(printed, ["b/plain", "b/bridged", "b/sns"]);
}

#[test]
fn all_events_succeed_up_to_the_maximum() {
    let run = redrive("maximum", &["1", "2", "3"], &["--max", "2"]);
    assert_eq!((run.queue, run.status), (vec![("3".to_owned(), 0)], Some(0)));
    let summary = "Reached --max 2; events redriven: 2; refused: 0.";
    assert_eq!(run.stdout.lines().last(), Some(summary));
}
