//! The comparison of a bucket with the ledger: pages, key names, versions, concurrent changes.

use futures_util::{StreamExt, stream};
use rest_api::{
    reconcile::{Event, Kind, Options, Printer},
    store::{ObservedVersion, Report},
};
use serde_json::json;

use crate::support::{
    BUCKET, Service,
    comparison::{apply, compare, compare_with},
    ledger::{parse, record},
    movies::MOVIE,
    notification,
};

/// Returns keys that need escapes somewhere on the way. S3 sorts them by their UTF-8 bytes, which is
/// neither the order of UTF-16 nor that of a locale.
fn keys() -> Vec<String> {
    let names = [
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
        "x_",
        "a.b",
        "a-b",
        "a/b",
        "%_like",
        "null",
        "\\N",
    ];
    (0..2500).map(|number| format!("{}{number}", names[number % names.len()])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_objects_with_unusual_keys_are_compared() {
    let service = Service::start_without_workers().await;
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
    let succeed = "update ingests set state = 'succeeded', inserted = 0, updated = 0, unchanged = 0, \
        violation_count = 0, finished_at = now()";
    assert_eq!(sql.execute(succeed, &[]).await.unwrap(), 2500);
    let (found, summary) = compare(&service, apply()).await;
    assert_eq!((found.len(), summary.up_to_date), (0, 2500), "{found:?}");

    // Whole pages of the bucket vanish at the beginning, in the middle and at the end.
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
async fn the_comparison_and_the_recording_identify_the_same_version() {
    let service = Service::start_without_workers().await;
    let store = service.store(2).await;
    // The time of the event is 10.3 s, of which the modification time has the whole seconds. That of a
    // multipart upload is when it began.
    let event = json!({ "bucket": BUCKET, "key": "k", "etag": "e", "sequencer": "01",
        "event_time": "2026-01-01T00:00:10.300Z" });
    let bare = parse(&notification::bare("k"));
    for (etag, second, same) in
        [("e", 9, true), ("e", 10, true), ("e", 11, false), ("f", 10, false)]
    {
        let sql = service.sql().await;
        sql.batch_execute("truncate ingests").await.unwrap();
        let known = record(&store, &parse(&event)).await;
        let observed = ObservedVersion {
            etag: Some(etag.to_owned()),
            last_modified: Some(format!("2026-01-01T00:00:{second:02}Z").parse().unwrap()),
            ..ObservedVersion::default()
        };
        let newest = store.newest_versions(BUCKET, &[("k", &observed)]).await.unwrap();
        let newest = newest[0].unwrap();
        assert_eq!((newest.id, newest.is_current), (known.id, same), "{observed:?}");
        let report = Report { notification: &bare, observed: observed.clone() };
        let recorded = store.record(&report, "", None).await.unwrap();
        assert_eq!(recorded.id == known.id, same, "{observed:?}");
        // After it is recorded, it is held.
        let newest = store.newest_versions(BUCKET, &[("k", &observed)]).await.unwrap();
        assert!(newest[0].unwrap().is_current, "{observed:?}");
    }
}

#[tokio::test]
async fn a_notification_before_its_object_exists_does_not_hide_the_object() {
    let service = Service::start().await;
    let bare = notification::bare("k");
    let failed = service.notify(&bare).await;
    assert_eq!(failed["state"], "gone");
    service.put("k", MOVIE).await;
    let succeeded = service.notify(&bare).await;
    assert_eq!(succeeded["state"], "succeeded");
    assert_eq!(service.notify(&bare).await["id"], succeeded["id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_put_and_ingested_meanwhile_has_not_vanished() {
    let service = Service::start().await;
    service.put("a", MOVIE).await;
    service.ingest("b", MOVIE).await;
    let runtime = tokio::runtime::Handle::current();
    let mut found = Vec::new();
    let summary = compare_with(&service, Options::default(), |event| {
        if let Event::Found(difference) = event {
            found.push(difference.key.clone());
            // The bucket has been listed. The end of the ledger has not been read yet.
            tokio::task::block_in_place(|| runtime.block_on(service.ingest("c", MOVIE)));
        }
        Ok(())
    });
    assert_eq!(summary.await.unwrap().listed, 2);
    assert_eq!(found, ["a"]);
}

#[tokio::test]
async fn a_closed_output_ends_the_comparison() {
    struct Closed;
    impl std::io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let service = Service::start_without_workers().await;
    service.put("k", MOVIE).await;
    let mut printer = Printer::new(Closed, Vec::new(), false);
    let ended = compare_with(&service, Options::default(), |event| printer.event(event)).await;
    assert_eq!(ended.unwrap_err().to_string(), "cannot write what was found");
}
