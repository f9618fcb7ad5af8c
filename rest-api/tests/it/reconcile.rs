//! `rest-api reconcile` as an operator runs it: what is missing is found, what is queued is taken once,
//! and a catalogue that is built again is the one that was.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    comparison::{apply, compare},
    service::{BUCKET, Service, TOKEN, eventually, no_secrets, postgres, without_id},
};

const MOVIE: &str = r#"{"title":"A","year":2000}"#;

/// What the program did.
struct Ran {
    status: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    /// The differences that it printed as JSON, by key, and the summary.
    fn json(&self) -> (BTreeMap<String, Value>, Value) {
        let mut lines: Vec<Value> = self
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
            .collect();
        let summary = lines.pop().unwrap_or_else(|| panic!("{}", self.stderr))["summary"].take();
        let key = |line: &Value| line["key"].as_str().unwrap().to_owned();
        (lines.into_iter().map(|line| (key(&line), line)).collect(), summary)
    }
}

/// Runs the program beside `service`, with another variable in its environment.
async fn run_with(service: &Service, arguments: &[&str], variable: (&str, &str)) -> Ran {
    let endpoint = format!("http://{}", service.s3_address);
    let output = Command::new(env!("CARGO_BIN_EXE_rest-api"))
        .arg("reconcile")
        .args(arguments)
        .env_clear()
        .envs([
            ("AWS_REGION", "eu-west-1"),
            ("AWS_ACCESS_KEY_ID", "local"),
            ("AWS_SECRET_ACCESS_KEY", "localsecret"),
            ("AWS_ENDPOINT_URL_S3", &endpoint),
            ("MRU_DB_HOST", &service.database.host),
            ("MRU_DB_USER", local_stack::postgres::USER),
            ("MRU_DB_PASS", "any"),
            ("MRU_DB_NAME", &service.database.name),
            ("MRU_DB_TLS", "disable"),
            ("MRU_API_TOKEN", TOKEN),
            ("MRU_LOG", "warn"),
            variable,
        ])
        .output()
        .await
        .unwrap();
    Ran {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

async fn run(service: &Service, arguments: &[&str]) -> Ran {
    run_with(service, arguments, ("MRU_BUCKET", BUCKET)).await
}

/// What an event of the endpoint makes the Lambda say.
fn notification(event: &Value) -> Value {
    let object = &event["Records"][0]["s3"]["object"];
    json!({
        "bucket": BUCKET, "key": object["key"], "etag": object["eTag"], "size": object["size"],
        "sequencer": object["sequencer"], "event_time": event["Records"][0]["eventTime"],
    })
}

/// The whole ledger, as text.
async fn ledger(service: &Service) -> Vec<String> {
    let rows = service.sql().await.query("select i::text from ingests i order by id", &[]).await;
    rows.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Waits until no ingest is under way but the one that has been put off.
async fn settled(service: &Service) {
    let sql = service.sql().await;
    let open = "select count(*) from ingests where state in ('queued', 'running') \
        and run_after < now() + interval '10 minutes'";
    eventually(async || sql.query_one(open, &[]).await.unwrap().get::<_, i64>(0) == 0).await;
}

/// A bucket and a ledger that differ in every way; each file is named after what it is.
async fn at_odds() -> Service {
    let mut service = Service::start().await;
    let sql = service.sql().await;
    service.put("up-to-date", MOVIE).await;
    let event = service.events.recv().await.unwrap();
    assert_eq!(service.notify(&notification(&event)).await["state"], "succeeded");
    assert_eq!(service.ingest("rejected", "no movie").await["state"], "rejected");
    service.put("missing", MOVIE).await;

    service.ingest("stale", MOVIE).await;
    service.put("stale", r#"{"title":"Stale","year":2000}"#).await;
    // Told of before it was there.
    let failed = service.notify(&json!({ "bucket": BUCKET, "key": "stale-late" })).await;
    assert_eq!(failed["state"], "failed");
    service.put("stale-late", r#"{"title":"Late","year":2000}"#).await;
    // The ledger has only what another version had replaced before it was read.
    service.put("missing-replaced", r#"{"title":"Replaced","year":2000}"#).await;
    let replaced = json!({ "bucket": BUCKET, "key": "missing-replaced", "etag": "of-another",
        "sequencer": "01", "event_time": "2026-01-01T00:00:00Z" });
    assert_eq!(service.notify(&replaced).await["state"], "superseded");

    service.ingest("failed", MOVIE).await;
    let fail = "update ingests set state = 'failed', error = '{}', attempts = 12 where key = $1";
    sql.execute(fail, &[&"failed"]).await.unwrap();
    service.ingest("vanished", MOVIE).await;
    service.delete("vanished").await;
    // Gone too, but nothing of it had been taken.
    service.ingest("gone", "no movie").await;
    service.delete("gone").await;
    service.put("reverted", MOVIE).await;
    let newer = json!({ "bucket": BUCKET, "key": "reverted", "sequencer": "01",
        "event_time": "2100-01-01T00:00:00Z" });
    assert_eq!(service.notify(&newer).await["state"], "succeeded");
    service.put("reverted", r#"{"title":"Before","year":2000}"#).await;

    service.put("in-flight", MOVIE).await;
    let wait =
        "insert into ingests (bucket, key, run_after) values ($1, $2, now() + interval '1 h')";
    sql.execute(wait, &[&BUCKET, &"in-flight"]).await.unwrap();
    // Of another bucket, to be left alone.
    let other = service.notify(&json!({ "bucket": "elsewhere", "key": "other" })).await;
    assert_eq!(other["state"], "failed");
    service
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_differs_is_reported_and_then_taken() {
    let service = at_odds().await;
    let before = ledger(&service).await;
    let report = run(&service, &["--json"]).await;
    assert_eq!((report.status, report.stderr.as_str()), (3, ""));
    let (found, summary) = report.json();
    assert_eq!(found.len(), 7, "{found:?}");
    for (key, difference) in &found {
        assert_eq!(difference["kind"], key.split('-').next().unwrap(), "{difference}");
        let in_ledger = !key.starts_with("missing");
        assert_eq!(difference["ingest"].is_i64(), in_ledger, "{difference}");
        assert_eq!(difference["size"].is_i64(), key != "vanished", "{difference}");
    }
    let expected = json!({
        "bucket": BUCKET, "prefix": "", "listed": 9, "up_to_date": 1, "in_flight": 1, "rejected": 1,
        "missing": 2, "stale": 2, "failed": 1, "vanished": 1, "reverted": 1, "unusable": 0, "queued": 0,
    });
    assert_eq!(summary, expected);
    assert_eq!(ledger(&service).await, before, "a report changes nothing");

    let applied = run(&service, &["--json", "--apply"]).await;
    assert_eq!(applied.status, 3, "one has failed, and is left: {}", applied.stderr);
    let (found, summary) = applied.json();
    assert_eq!(summary["queued"], 4);
    for (key, difference) in &found {
        let queued = key.starts_with("missing") || key.starts_with("stale");
        assert_eq!(difference["queued"].is_i64(), queued, "{difference}");
    }
    settled(&service).await;
    for key in ["missing", "missing-replaced", "stale", "stale-late"] {
        let newest = service.get(&format!("/ingests?key={key}&limit=1")).await.json();
        assert_eq!(newest[0]["state"], "succeeded", "{newest}");
    }

    let retried = run(&service, &["--json", "--apply", "--retry-failed"]).await;
    assert_eq!((retried.status, &retried.json().1["queued"]), (0, &json!(1)));
    settled(&service).await;
    let before = ledger(&service).await;
    let again = run(&service, &["--json", "--apply", "--retry-failed"]).await;
    let (found, summary) = again.json();
    assert_eq!(again.status, 0, "{found:?}");
    assert_eq!(found.keys().collect::<Vec<_>>(), ["reverted", "vanished"]);
    assert_eq!((&summary["up_to_date"], &summary["queued"]), (&json!(6), &json!(0)));
    assert_eq!(ledger(&service).await, before, "a repetition changes nothing");
    let titles: Vec<_> =
        service.movies("sort=title").await.iter().map(|movie| movie["title"].clone()).collect();
    assert_eq!(titles, ["A", "Late", "Replaced", "Stale"]);
}

#[tokio::test]
async fn the_report_is_for_people_too() {
    let service = Service::start_with(|config| config.workers = 0).await;
    service.put("a\u{1b}[2J\nb", MOVIE).await;
    service.put("large", vec![b'x'; 2_234_567]).await;
    let report = run(&service, &[]).await;
    assert_eq!((report.status, report.stderr.as_str()), (3, ""));
    let lines: Vec<&str> = report.stdout.lines().collect();
    assert!(lines[0].starts_with("missing   a\\u{1b}[2J\\nb  25 B  20"), "{lines:?}");
    assert!(lines[1].starts_with("missing   large  2.2 MB  20"), "{lines:?}");
    assert!(lines[1].ends_with('Z'), "{lines:?}");
    assert_eq!(
        lines[3],
        "movies/: 2 files; 0 up to date, 0 in flight, 0 rejected; 2 missing, 0 stale, 0 failed, \
         0 vanished, 0 reverted, 0 unusable"
    );
    assert_eq!(lines[4..], ["Run again with --apply to queue what is missing or stale"]);
    let applied = run(&service, &["--apply"]).await;
    assert_eq!(applied.status, 0);
    assert!(applied.stdout.lines().nth(1).unwrap().ends_with("Z  queued as ingest 2"));
    let again = run(&service, &["--apply"]).await;
    assert_eq!(again.status, 0);
    assert!(again.stdout.ends_with("Nothing to do\n"), "{}", again.stdout);
}

#[tokio::test]
async fn a_catalogue_built_again_from_the_bucket_is_the_same() {
    let mut service = Service::start().await;
    let movie = |title: &str, genre: &str| {
        json!({ "title": title, "year": 2000, "genres": [genre], "cast": ["Ann Actor", "Bob"],
            "href": format!("{title}_(film)"), "extract": "…", "thumbnail_width": 320 })
    };
    // More than a second apart, as the bucket keeps no more; the version of a key that is there in
    // the end says all that those before it did.
    let uploads = [
        ("one", json!([movie("A", "1"), movie("B", "1"), movie("C", "1")])),
        ("two", json!([movie("B", "2"), movie("D", "2")])),
        ("three", json!([movie("D", "3"), movie("E", "3"), movie("E", "4")])),
        ("one", json!([movie("A", "5"), movie("B", "5"), movie("C", "1")])),
        ("bad", json!([movie("A", "6"), { "title": "no year" }])),
        ("two", json!([movie("B", "2"), movie("D", "2"), movie("F", "7")])),
    ];
    for (key, movies) in uploads {
        service.put(key, movies.to_string()).await;
        let event = service.events.recv().await.unwrap();
        service.notify(&notification(&event)).await;
        tokio::time::sleep(std::time::Duration::from_millis(1050)).await;
    }
    let catalogue = async |service: &Service| -> Vec<Value> {
        service.movies("sort=title").await.iter().map(without_id).collect()
    };
    let before = catalogue(&service).await;
    assert_eq!(before.len(), 6);
    let genres: Vec<_> = before.iter().map(|movie| movie["genres"][0].clone()).collect();
    assert_eq!(genres, ["5", "2", "1", "2", "4", "7"]);

    service.stop().await;
    let empty = format!("{}_again", service.database.name);
    postgres().await.create_database(&empty).await.unwrap();
    service.database = postgres().await.database(&empty);
    let unmigrated = run(&service, &["--apply"]).await;
    assert_eq!(unmigrated.status, 1);
    assert!(unmigrated.stderr.contains("run rest-api migrate"), "{}", unmigrated.stderr);
    rest_api::store::migrate(&service.database, &no_secrets()).await.unwrap();
    let service = service.successor().await;
    let applied = run(&service, &["--apply"]).await;
    assert_eq!((applied.status, applied.stderr.as_str()), (0, ""));
    settled(&service).await;
    assert_eq!(catalogue(&service).await, before);
    let (found, summary) = compare(&service, apply()).await;
    assert!(found.is_empty(), "{found:?}");
    assert_eq!((summary.up_to_date, summary.rejected), (3, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_at_once_make_one_ingest_of_each_file() {
    let service = Service::start().await;
    for number in 0..40 {
        service.put(&format!("{number}"), MOVIE).await;
    }
    let both = join_all((0..2).map(|_| run(&service, &["--apply"]))).await;
    assert!(both.iter().all(|ran| ran.status == 0));
    settled(&service).await;
    let ingests = service.get("/ingests?limit=1000").await.json();
    let once = |ingest: &Value| ingest["state"] == "succeeded" && ingest["attempts"] == 1;
    assert!(ingests.as_array().unwrap().iter().all(once), "{ingests}");
    assert_eq!(ingests.as_array().unwrap().len(), 40);
    assert_eq!(run(&service, &[]).await.status, 0);
}

#[tokio::test]
async fn it_says_what_it_needs() {
    let service = Service::start().await;
    let fails = async |arguments: &[&str], bucket: &str, says: &str| {
        let ran = run_with(&service, arguments, ("MRU_BUCKET", bucket)).await;
        assert_eq!((ran.status, ran.stdout.as_str()), (1, ""), "{}", ran.stderr);
        assert!(ran.stderr.contains(says), "{}", ran.stderr);
    };
    fails(&[], "", "--bucket or MRU_BUCKET: the ledger knows none yet").await;
    service.ingest("k", MOVIE).await;
    let ran = run_with(&service, &[], ("MRU_BUCKET", "")).await;
    assert_eq!(ran.status, 0, "the ledger knows one: {}", ran.stderr);
    service.notify(&json!({ "bucket": "other", "key": "k" })).await;
    fails(&[], "", "the ledger knows more than one").await;
    fails(&[], "other", "NoSuchBucket").await;
    let ran = run_with(&service, &["--bucket", BUCKET], ("MRU_BUCKET", "other")).await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let ran = run(&service, &["--retry-failed"]).await;
    assert_eq!(ran.status, 2, "a mistake in usage: {}", ran.stderr);
}
