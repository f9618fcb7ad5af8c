//! Tests of what a client cannot bring about: clocks, groups of changes, and lost files.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::{DateTime, Utc};
use redb::TableDefinition;

use crate::{
    OpenError, Options, Store,
    conditions::WriteConditions,
    events::Change,
    index::{Transaction, internal, now_ns},
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
