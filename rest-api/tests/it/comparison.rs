//! Comparing the bucket with the ledger: any number of keys of any name, versions, and what happens
//! meanwhile.

use futures_util::{StreamExt, stream};
use rest_api::{
    ingest::ObjectStore,
    reconcile::{Difference, Event, Kind, Options, Printer, Summary, reconcile},
    store::{Observed, Store},
};
use schema::Notification;
use serde_json::{Value, json};

use crate::service::{BUCKET, Service, no_secrets};

const MOVIE: &str = r#"{"title":"A","year":2000}"#;

/// What differs, in the order told, and the summary.
pub(crate) async fn compare(service: &Service, options: Options) -> (Vec<Difference>, Summary) {
    let store = Store::new(&service.database, &no_secrets(), 0).await.unwrap();
    let objects = ObjectStore::new(service.s3.clone());
    let options = Options { bucket: Some(BUCKET.to_owned()), ..options };
    let mut found = Vec::new();
    let summary = reconcile(&store, &objects, options, |event| {
        if let Event::Found(difference) = event {
            found.push(difference.clone());
        }
        Ok(())
    });
    let summary = summary.await.unwrap();
    (found, summary)
}

pub(crate) fn apply() -> Options {
    Options { apply: true, ..Options::default() }
}

/// Keys that S3 admits, and that something on the way might take for something else. Their order
/// is that of UTF-8, which is neither that of UTF-16 nor that of any language.
fn keys() -> Vec<String> {
    let nasty = [
        "plain",
        "with space",
        "plus+plus",
        "percent%20%",
        "%2B",
        "ümlaut",
        "u\u{308}mlaut",
        "日本",
        "\u{FFFD}",
        "\u{1F3AC}",
        "\u{E000}",
        "<a href=\"x\">&amp;</a>",
        "'; drop table movies; --",
        "back\\slash",
        "new\nline",
        "tab\there",
        "\u{1}control",
        "~",
        "A",
        "a",
        "_",
        "a.b",
        "a-b",
        "a/b",
        "%_like",
        "null",
        "\\N",
    ];
    (0..2500).map(|number| format!("{}{number}", nasty[number % nasty.len()])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_number_of_files_of_any_name() {
    let service = Service::start_with(|config| config.workers = 0).await;
    let keys = keys();
    stream::iter(&keys).for_each_concurrent(16, |key| service.put(key, MOVIE)).await;
    let (found, summary) = compare(&service, apply()).await;
    assert_eq!((summary.listed, summary.missing, summary.queued), (2500, 2500, 2500));
    let mut sorted = keys.clone();
    sorted.sort();
    assert!(found.iter().map(|difference| &difference.key).eq(&sorted));
    let again = compare(&service, apply()).await;
    assert_eq!((again.0.len(), again.1.in_flight, again.1.queued), (0, 2500, 0));

    let sql = service.sql().await;
    let take = "update ingests set state = 'succeeded', inserted = 0, updated = 0, unchanged = 0, \
        violation_count = 0, finished_at = now()";
    assert_eq!(sql.execute(take, &[]).await.unwrap(), 2500);
    let (found, summary) = compare(&service, apply()).await;
    assert_eq!((found.len(), summary.up_to_date), (0, 2500), "{found:?}");

    // Whole pages of the ledger have vanished, at its beginning, in its middle and at its end.
    let kept = &sorted[1300..1900];
    let gone: Vec<&String> = sorted.iter().filter(|key| !kept.contains(key)).collect();
    stream::iter(&gone).for_each_concurrent(16, |key| service.delete(key)).await;
    let (found, summary) = compare(&service, apply()).await;
    assert_eq!((summary.vanished, summary.up_to_date), (1900, 600));
    assert!(found.iter().all(|difference| difference.kind == Kind::Vanished));
    assert!(found.iter().map(|difference| &difference.key).eq(gone));

    for prefix in ["a", "日", "%", "percent%20%1", "\u{1F3AC}", "'; drop", "none of them"] {
        let options = Options { prefix: prefix.to_owned(), ..Options::default() };
        let (found, summary) = compare(&service, options).await;
        let with = |keys: &mut dyn Iterator<Item = &String>| {
            keys.filter(|key| key.starts_with(prefix)).count() as u64
        };
        assert_eq!(summary.listed, with(&mut kept.iter()), "{prefix}");
        assert_eq!(summary.vanished, with(&mut sorted.iter()) - summary.listed, "{prefix}");
        assert!(found.iter().all(|difference| difference.key.starts_with(prefix)), "{prefix}");
    }
}

#[tokio::test]
async fn which_version_is_held_is_what_recording_it_would_say() {
    let service = Service::start_with(|config| config.workers = 0).await;
    let store = Store::new(&service.database, &no_secrets(), 2).await.unwrap();
    let parse = |notification: Value| -> Notification {
        schema::parse(notification.to_string().as_bytes()).unwrap()
    };
    // The event came at 10.3 s; the bucket says 10 or 11, as it rounds.
    let event = json!({ "bucket": BUCKET, "key": "k", "etag": "e", "sequencer": "01",
        "event_time": "2026-01-01T00:00:10.300Z" });
    let bare = parse(json!({ "bucket": BUCKET, "key": "k" }));
    for (etag, second, same) in
        [("e", 9, true), ("e", 10, true), ("e", 11, true), ("e", 12, false), ("f", 10, false)]
    {
        let sql = service.sql().await;
        sql.batch_execute("truncate ingests").await.unwrap();
        let known =
            store.record(&parse(event.clone()), &Observed::default(), "", None).await.unwrap();
        let observed = Observed {
            etag: Some(etag.to_owned()),
            last_modified: Some(format!("2026-01-01T00:00:{second:02}Z").parse().unwrap()),
            ..Observed::default()
        };
        let newest = store.newest_versions(BUCKET, &[("k", &observed)]).await.unwrap();
        let newest = newest[0].unwrap();
        assert_eq!((newest.id, newest.held), (known.id, same), "{observed:?}");
        let recorded = store.record(&bare, &observed, "", None).await.unwrap();
        assert_eq!(recorded.id == known.id, same, "{observed:?}");
        // And then it is known.
        let newest = store.newest_versions(BUCKET, &[("k", &observed)]).await.unwrap();
        assert!(newest[0].unwrap().held, "{observed:?}");
    }
}

#[tokio::test]
async fn a_file_that_failed_before_it_was_there_is_told_of_once_from_then_on() {
    let service = Service::start().await;
    let bare = json!({ "bucket": BUCKET, "key": "k" });
    let failed = service.notify(&bare).await;
    assert_eq!(failed["state"], "failed");
    service.put("k", MOVIE).await;
    let taken = service.notify(&bare).await;
    assert_eq!(taken["state"], "succeeded");
    assert_eq!(service.notify(&bare).await["id"], taken["id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_and_taken_meanwhile_has_not_vanished() {
    let service = Service::start().await;
    service.put("a", MOVIE).await;
    service.ingest("b", MOVIE).await;
    let store = Store::new(&service.database, &no_secrets(), 0).await.unwrap();
    let objects = ObjectStore::new(service.s3.clone());
    let options = Options { bucket: Some(BUCKET.to_owned()), ..Options::default() };
    let runtime = tokio::runtime::Handle::current();
    let mut found = Vec::new();
    let summary = reconcile(&store, &objects, options, |event| {
        if let Event::Found(difference) = event {
            found.push(difference.key.clone());
            // The bucket has been listed, the end of the ledger not been read yet.
            tokio::task::block_in_place(|| runtime.block_on(service.ingest("c", MOVIE)));
        }
        Ok(())
    });
    assert_eq!(summary.await.unwrap().listed, 2);
    assert_eq!(found, ["a"]);
}

#[tokio::test]
async fn an_output_that_is_closed_ends_it() {
    struct Closed;
    impl std::io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let service = Service::start_with(|config| config.workers = 0).await;
    service.put("k", MOVIE).await;
    let store = Store::new(&service.database, &no_secrets(), 0).await.unwrap();
    let objects = ObjectStore::new(service.s3.clone());
    let options = Options { bucket: Some(BUCKET.to_owned()), ..Options::default() };
    let mut printer = Printer::new(Closed, Vec::new(), false);
    let ended = reconcile(&store, &objects, options, |event| printer.event(event)).await;
    assert_eq!(ended.unwrap_err().to_string(), "cannot write what was found");
}
