//! The command `rest-api reconcile`: its report, `--apply`, `--retry-failed`, and its exit status.

use std::collections::BTreeMap;

use aws_sdk_s3::primitives::ByteStream;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{
    BUCKET, Service,
    comparison::{apply, compare},
    eventually,
    movies::MOVIE,
    notification,
    postgres::{empty_database, migrate},
    process::{Output, environment, program},
};

/// Returns the printed JSON: differences by key, and the summary.
fn report(output: &Output) -> (BTreeMap<String, Value>, Value) {
    let mut lines = output.json_lines();
    let summary = lines.pop().unwrap_or_else(|| panic!("{}", output.stderr))["summary"].take();
    let key = |line: &Value| line["key"].as_str().unwrap().to_owned();
    (lines.into_iter().map(|line| (key(&line), line)).collect(), summary)
}

/// Runs the command on the database and the bucket of `service`, with this `MRU_BUCKETS`.
async fn run_with(service: &Service, arguments: &[&str], bucket: &str) -> Output {
    let mut program = program("reconcile");
    program.envs(environment(service)).env("MRU_BUCKETS", bucket);
    Output::of(program, arguments).await
}

async fn run(service: &Service, arguments: &[&str]) -> Output {
    run_with(service, arguments, BUCKET).await
}

/// Returns the rows of the ledger as text.
async fn ledger(service: &Service) -> Vec<String> {
    let rows = service.sql().await.query("select i::text from ingests i order by id", &[]).await;
    rows.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Waits until no ingest is queued or running, apart from one that is delayed by an hour.
async fn wait_for_ingests(service: &Service) {
    let sql = service.sql().await;
    let open = "select count(*) from ingests where state in ('queued', 'running') \
        and run_after < now() + interval '10 minutes'";
    eventually(async || sql.query_one(open, &[]).await.unwrap().get::<_, i64>(0) == 0).await;
}

/// Returns a service whose bucket and ledger differ in every way. Each key begins with the expected
/// kind of its difference.
async fn with_every_difference() -> Service {
    let mut service = Service::start().await;
    service.enable_versioning().await;
    let sql = service.sql().await;
    service.put("up-to-date", MOVIE).await;
    let event = service.next_notification().await;
    assert_eq!(service.notify(&event).await["state"], "succeeded");
    assert_eq!(service.ingest("rejected", "no movie").await["state"], "rejected");
    service.put("missing", MOVIE).await;

    service.ingest("stale", MOVIE).await;
    service.put("stale", r#"{"title":"Stale","year":2000}"#).await;
    // Notified before the object exists.
    let failed = service.notify(&notification::bare("missing-late")).await;
    assert_eq!(failed["state"], "gone");
    service.put("missing-late", r#"{"title":"Late","year":2000}"#).await;
    // The ledger has only a version that was replaced before it was read.
    service.put("missing-replaced", r#"{"title":"Replaced","year":2000}"#).await;
    let replaced = json!({ "bucket": BUCKET, "key": "missing-replaced", "etag": "of-another",
        "sequencer": "01", "event_time": "2026-01-01T00:00:00Z" });
    assert_eq!(service.notify(&replaced).await["state"], "superseded");

    service.ingest("failed", MOVIE).await;
    let fail = "update ingests set state = 'failed', error = '{}', attempts = 12 where key = $1";
    sql.execute(fail, &[&"failed"]).await.unwrap();
    service.ingest("vanished", MOVIE).await;
    service.delete("vanished").await;
    // Deleted too, but never ingested.
    service.ingest("gone", "no movie").await;
    service.delete("gone").await;
    // The version before is back. Of one key the ledger has it.
    for key in ["reverted", "stale-reverted"] {
        service.put(key, r#"{"title":"Before","year":2000}"#).await;
        if key == "reverted" {
            assert_eq!(service.notify(&notification::bare(key)).await["state"], "succeeded");
        }
        let body = ByteStream::from_static(MOVIE.as_bytes());
        let put = service.s3.put_object().bucket(BUCKET).key(key).body(body).send().await;
        let newer_version = put.unwrap().version_id.unwrap();
        let newer = json!({ "bucket": BUCKET, "key": key, "sequencer": "01",
            "event_time": chrono::Utc::now() + chrono::TimeDelta::minutes(4) });
        assert_eq!(service.notify(&newer).await["state"], "succeeded");
        let delete = service.s3.delete_object().bucket(BUCKET).key(key);
        delete.version_id(newer_version).send().await.unwrap();
    }

    service.put("in-flight", MOVIE).await;
    let delayed =
        "insert into ingests (bucket, key, run_after) values ($1, $2, now() + interval '1 h')";
    sql.execute(delayed, &[&BUCKET, &"in-flight"]).await.unwrap();
    // In another bucket, which is not compared.
    let other = service.notify(&json!({ "bucket": "elsewhere", "key": "other" })).await;
    assert_eq!(other["state"], "failed");
    service
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn differences_are_reported_and_then_queued() {
    let service = with_every_difference().await;
    let before = ledger(&service).await;
    let metrics = async || service.get("/metrics").await.text;
    assert!(!metrics().await.contains("mru_reconcile"), "no bucket was compared so far");
    let printed = run(&service, &["--json"]).await;
    assert!(metrics().await.contains("\nmru_reconcile_missing 6\n"), "{}", metrics().await);
    // What begins with a prefix is not the whole bucket.
    run(&service, &["--json", "--prefix", "up"]).await;
    assert!(metrics().await.contains("\nmru_reconcile_missing 6\n"));
    assert_eq!((printed.status, printed.stderr.as_str()), (3, ""));
    let (found, summary) = report(&printed);
    assert_eq!(found.len(), 8, "{found:?}");
    for (key, difference) in &found {
        assert_eq!(difference["kind"], key.split('-').next().unwrap(), "{difference}");
        let in_ledger = !key.starts_with("missing");
        assert_eq!(difference["ingest"].is_i64(), in_ledger, "{difference}");
        assert_eq!(difference["size"].is_i64(), key != "vanished", "{difference}");
    }
    let expected = json!({
        "bucket": BUCKET, "prefix": "", "listed": 10, "up_to_date": 1, "in_flight": 1, "rejected": 1,
        "missing": 3, "stale": 2, "failed": 1, "vanished": 1, "reverted": 1, "unusable": 0, "ignored": 0, "queued": 0,
    });
    assert_eq!(summary, expected);
    assert_eq!(ledger(&service).await, before, "the report changed the ledger");

    let applied = run(&service, &["--json", "--apply"]).await;
    assert_eq!(applied.status, 3, "one ingest has failed, and is not queued: {}", applied.stderr);
    let (found, summary) = report(&applied);
    assert_eq!(summary["queued"], 5);
    for (key, difference) in &found {
        let queued = key.starts_with("missing") || key.starts_with("stale");
        assert_eq!(difference["queued"].is_i64(), queued, "{difference}");
    }
    wait_for_ingests(&service).await;
    for key in ["missing", "missing-replaced", "stale", "missing-late"] {
        let newest = service.get(&format!("/ingests?key={key}&limit=1")).await.json();
        assert_eq!(newest[0]["state"], "succeeded", "{newest}");
    }

    let retried = run(&service, &["--json", "--apply", "--retry-failed"]).await;
    assert_eq!((retried.status, &report(&retried).1["queued"]), (0, &json!(1)));
    wait_for_ingests(&service).await;
    let before = ledger(&service).await;
    let again = run(&service, &["--json", "--apply", "--retry-failed"]).await;
    let (found, summary) = report(&again);
    assert_eq!(again.status, 0, "{found:?}");
    let text = metrics().await;
    assert!(text.contains("\nmru_reconcile_missing 0\n"), "{text}");
    let mut lines = text.lines();
    let age = lines.find_map(|line| line.strip_prefix("mru_reconcile_age_seconds ")).unwrap();
    assert!((0.0..600.0).contains(&age.parse::<f64>().unwrap()), "{age}");
    assert_eq!(found.keys().collect::<Vec<_>>(), ["reverted", "stale-reverted", "vanished"]);
    assert_eq!((&summary["up_to_date"], &summary["queued"]), (&json!(6), &json!(0)));
    assert_eq!(ledger(&service).await, before, "the second run changed the ledger");
    let titles: Vec<_> =
        service.movies("sort=title").await.iter().map(|movie| movie["title"].clone()).collect();
    assert_eq!(titles, ["A", "Before", "Late", "Replaced", "Stale"]);
}

#[tokio::test]
async fn the_report_without_json_is_readable_text() {
    let service = Service::start_without_workers().await;
    service.put("a\u{1b}[2J\nb\u{202e}", MOVIE).await;
    service.put("large", vec![b'x'; 2_234_567]).await;
    let printed = run(&service, &[]).await;
    assert_eq!((printed.status, printed.stderr.as_str()), (3, ""));
    let lines: Vec<&str> = printed.stdout.lines().collect();
    assert!(lines[0].starts_with("missing   a\\u{1b}[2J\\nb\\u{202e}  25 B  20"), "{lines:?}");
    assert!(lines[1].starts_with("missing   large  2.2 MB  20"), "{lines:?}");
    assert!(lines[1].ends_with('Z'), "{lines:?}");
    assert_eq!(
        lines[3],
        "movies/: 2 files; 0 up to date, 0 in flight, 0 rejected; 2 missing, 0 stale, 0 failed, \
         0 vanished, 0 reverted, 0 unusable, 0 ignored"
    );
    assert_eq!(lines[4..], ["Run again with --apply to queue what is missing or stale"]);
    let of_prefix = run(&service, &["--prefix", "b\u{202e}"]).await;
    assert!(of_prefix.stdout.contains("movies/b\\u{202e}: 0 files"), "{}", of_prefix.stdout);
    let applied = run(&service, &["--apply"]).await;
    assert_eq!(applied.status, 0);
    // Ingests are recorded concurrently, so either object can be the first.
    let queued = applied.stdout.lines().take(2).map(|line| line.split_once("Z  ").unwrap().1);
    let mut queued: Vec<&str> = queued.collect();
    queued.sort_unstable();
    assert_eq!(queued, ["queued as ingest 1", "queued as ingest 2"]);
    let again = run(&service, &["--apply"]).await;
    assert_eq!(again.status, 0);
    assert!(again.stdout.ends_with("Nothing to do\n"), "{}", again.stdout);
}

#[tokio::test]
async fn a_catalogue_that_is_rebuilt_from_the_bucket_is_the_same() {
    let mut service = Service::start().await;
    let movie = |title: &str, genre: &str| {
        json!({ "title": title, "year": 2000, "genres": [genre], "cast": ["Ann Actor", "Bob"],
            "href": format!("{title}_(film)"), "extract": "…", "thumbnail_width": 320 })
    };
    // More than a second apart, which is the resolution of modification times. The last version of
    // each key contains all movies of its earlier versions.
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
        let event = service.next_notification().await;
        service.notify(&event).await;
        tokio::time::sleep(std::time::Duration::from_millis(1050)).await;
    }
    let before = service.movies_without_ids("sort=title").await;
    assert_eq!(before.len(), 6);
    let genres: Vec<_> = before.iter().map(|movie| movie["genres"][0].clone()).collect();
    assert_eq!(genres, ["5", "2", "1", "2", "4", "7"]);

    service.stop().await;
    service.database = empty_database(&format!("{}_rebuilt", service.database.name)).await;
    let unmigrated = run(&service, &["--apply"]).await;
    assert_eq!(unmigrated.status, 1);
    assert!(unmigrated.stderr.contains("run rest-api migrate"), "{}", unmigrated.stderr);
    migrate(&service.database).await.unwrap();
    let service = service.successor().start().await;
    let applied = run(&service, &["--apply"]).await;
    assert_eq!((applied.status, applied.stderr.as_str()), (0, ""));
    wait_for_ingests(&service).await;
    assert_eq!(service.movies_without_ids("sort=title").await, before);
    let (found, summary) = compare(&service, apply()).await;
    assert!(found.is_empty(), "{found:?}");
    assert_eq!((summary.up_to_date, summary.rejected), (3, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_concurrent_runs_queue_each_object_once() {
    let service = Service::start().await;
    for number in 0..40 {
        service.put(&format!("{number}"), MOVIE).await;
    }
    let both = join_all((0..2).map(|_| run(&service, &["--apply"]))).await;
    assert!(both.iter().all(|ran| ran.status == 0));
    wait_for_ingests(&service).await;
    let ingests = service.get("/ingests?limit=1000").await.json();
    let once = |ingest: &Value| ingest["state"] == "succeeded" && ingest["attempts"] == 1;
    assert!(ingests.as_array().unwrap().iter().all(once), "{ingests}");
    assert_eq!(ingests.as_array().unwrap().len(), 40);
    assert_eq!(run(&service, &[]).await.status, 0);
}

#[tokio::test]
async fn missing_or_wrong_arguments_are_explained() {
    let service = Service::start().await;
    let fails = async |arguments: &[&str], bucket: &str, message: &str| {
        let ran = run_with(&service, arguments, bucket).await;
        assert_eq!((ran.status, ran.stdout.as_str()), (1, ""), "{}", ran.stderr);
        assert!(ran.stderr.contains(message), "{}", ran.stderr);
    };
    fails(&[], "", "name it with --bucket: the ledger knows none yet").await;
    service.ingest("k", MOVIE).await;
    let ran = run_with(&service, &[], "").await;
    assert_eq!(ran.status, 0, "the ledger has one bucket: {}", ran.stderr);
    service.notify(&json!({ "bucket": "other", "key": "k" })).await;
    fails(&[], "", "the ledger knows more than one").await;
    fails(&[], "other", "NoSuchBucket").await;
    let ran = run_with(&service, &["--bucket", BUCKET], "other").await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let ran = run(&service, &["--retry-failed"]).await;
    assert_eq!(ran.status, 2, "a usage error: {}", ran.stderr);
}
