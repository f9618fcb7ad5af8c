//! Tests of what a client cannot bring about: clocks, groups of changes, and lost files.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use chrono::{DateTime, Utc};
use redb::TableDefinition;
use s3s::dto::Checksum;

use crate::{
    OpenError, Options, Store,
    checksums::hex,
    conditions::{ReadConditions, WriteConditions},
    contents::retry,
    events::Change,
    index::{Transaction, internal, now_ns},
    objects::{Body, Selection},
    records::Headers,
    versions,
};

/// A temporary directory, removed when dropped.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mru-store-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(directory: &Path) -> Result<Store, OpenError> {
    Store::open(directory, Options { region: "eu-west-1".to_owned(), owner: "local".to_owned() })
}

#[tokio::test]
async fn events_have_the_real_time_after_a_clock_that_ran_ahead() {
    let directory = Directory::new("clock");
    let ahead = now_ns() + 3_600_000_000_000;
    let database = redb::Database::create(directory.0.join("_index")).unwrap();
    let transaction = database.begin_write().unwrap();
    let counters: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");
    transaction.open_table(counters).unwrap().insert("", ahead).unwrap();
    transaction.commit().unwrap();
    drop(database);

    let store = open(&directory.0).unwrap();
    store.create_versioned_bucket("bucket").await.unwrap();
    let change = |transaction: &Transaction| {
        let made = versions::put(transaction, "bucket", "k", None, Change::MarkerCreated)?;
        let conditions = WriteConditions::default();
        versions::delete(transaction, ("bucket", "k"), Some(&made.id()), &conditions).map(|_| ())
    };
    store.index.write(change).await.unwrap();
    let waiting = store.wait_for_acknowledgements();
    assert!(tokio::time::timeout(Duration::from_millis(300), waiting).await.is_err());
    let mut events = store.events();
    for name in ["ObjectRemoved:DeleteMarkerCreated", "ObjectRemoved:Delete"] {
        let event = events.next().await.unwrap();
        let record = &event.body["Records"][0];
        assert_eq!(record["eventName"], name);
        let time: DateTime<Utc> = record["eventTime"].as_str().unwrap().parse().unwrap();
        assert!((Utc::now() - time).num_seconds().abs() < 60, "{record}");
        let sequencer = record["s3"]["object"]["sequencer"].as_str().unwrap();
        assert!(u64::from_str_radix(sequencer, 16).unwrap() > ahead, "{record}");
        event.acknowledge().await;
    }
    store.wait_for_acknowledgements().await.unwrap();
}

#[tokio::test]
async fn a_change_that_fails_does_not_fail_the_others_of_its_transaction() {
    let directory = Directory::new("group");
    let store = open(&directory.0).unwrap();
    store.create_versioned_bucket("bucket").await.unwrap();
    let put = |key: &'static str| {
        // Changes that can wait share a transaction.
        store.index.write_later(move |transaction: &Transaction| {
            versions::put(transaction, "bucket", key, None, Change::MarkerCreated)
        })
    };
    let fail = store.index.write_later(|transaction: &Transaction| {
        versions::put(transaction, "bucket", "failed", None, Change::MarkerCreated)?;
        Err::<(), _>(internal("a fault"))
    });
    let (before, failed, after) = tokio::join!(put("before"), fail, put("after"));
    let (before, after) = (before.unwrap(), after.unwrap());
    assert!(before.sequence < after.sequence);
    assert!(failed.unwrap_err().to_string().contains("a fault"));
    let table = store.index.table(crate::index::VERSIONS).unwrap();
    let newest = |key: &str| versions::newest(&table, "bucket", key).unwrap();
    assert_eq!(newest("before").unwrap().sequence, before.sequence);
    assert_eq!(newest("after").unwrap().sequence, after.sequence);
    assert!(newest("failed").is_none());
}

#[test]
fn contents_without_an_index_are_not_removed() {
    let directory = Directory::new("index");
    fs::create_dir(directory.0.join("_contents")).unwrap();
    let content = directory.0.join("_contents/content");
    fs::write(&content, "content").unwrap();
    // Not the second time either.
    for _ in 0..2 {
        let error = open(&directory.0).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("the index is missing"), "{error}");
        assert!(content.exists());
    }
}

#[tokio::test]
async fn a_read_begins_again_if_its_content_is_removed_before_it_is_opened() {
    let directory = Directory::new("removed");
    let store = open(&directory.0).unwrap();
    store.create_bucket_if_missing("bucket").await.unwrap();
    let put = async |letter: u8| {
        let stream = Some(s3s::Body::from(vec![letter; 20_000]).into());
        let (md5, trailers, declared, sums) = (None, None, Vec::new(), Checksum::default());
        let body = Body { stream, md5, sums, trailers, declared };
        let (place, headers) = (("bucket".to_owned(), "k".to_owned()), Headers::default());
        let conditions = WriteConditions::default();
        store.put(place, body, headers, None, conditions, Change::Put).await.unwrap();
        // The replaced content is removed after the answer.
        while fs::read_dir(directory.0.join("_contents")).unwrap().count() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    put(b'a').await;
    let selection = Selection {
        bucket: "bucket".to_owned(),
        key: "k".to_owned(),
        version_id: None,
        range: None,
        part: None,
        conditions: ReadConditions::default(),
    };
    let attempts = AtomicUsize::new(0);
    let copied = retry(|| async {
        let (selected, source) = store.locate(&selection)?;
        if attempts.fetch_add(1, Ordering::Relaxed) < 3 {
            put(b'b').await;
        }
        Ok((selected, store.contents.copy(vec![source], &[]).await?))
    });
    let (selected, content) = copied.await.unwrap();
    assert_eq!(attempts.into_inner(), 4);
    assert_eq!(selected.object.etag, hex(&content.md5));
    // Another fault is reported at once.
    let attempts = AtomicUsize::new(0);
    let failed = retry(|| async {
        attempts.fetch_add(1, Ordering::Relaxed);
        Err::<(), _>(internal("a fault"))
    });
    failed.await.unwrap_err();
    assert_eq!(attempts.into_inner(), 1);
}
