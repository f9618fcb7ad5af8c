//! Migrations: applied once, in order, and never changed afterwards.

use std::{fs, path::Path, time::Duration};

use rest_api::{
    config::{Config, Database},
    telemetry::chain,
};
use tokio::time::sleep;
use tokio_postgres::Client;

use crate::support::{
    Service,
    movies::MOVIE,
    postgres::{empty_database, migrate, postgres},
};

/// Returns version and checksum of each applied migration.
async fn history(database: &Database) -> Vec<(i32, String)> {
    let history = "select version, checksum from refinery_schema_history order by version";
    let rows = sql(database).await.query(history, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn sql(database: &Database) -> Client {
    postgres().await.connect(&database.name).await.unwrap()
}

/// Migrates an empty database to `version` as the releases before refinery did.
async fn migrate_as_before(database: &Database, version: usize) {
    let sql = sql(database).await;
    let create = "create table schema_migrations (version int primary key, name text not null, \
        applied_at timestamptz not null default now())";
    sql.batch_execute(create).await.unwrap();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let mut files: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for (number, file) in (1..).zip(files).take(version) {
        let migration = fs::read_to_string(file).unwrap();
        sql.batch_execute(&format!("begin; {migration}; commit")).await.unwrap();
        let record = "insert into schema_migrations (version, name) values ($1, 'before')";
        sql.execute(record, &[&number]).await.unwrap();
    }
}

#[tokio::test]
async fn a_database_of_a_release_before_refinery_is_taken_over() {
    let fresh = empty_database("migrations_fresh").await;
    migrate(&fresh).await.unwrap();
    let expected = history(&fresh).await;
    for version in [1, 4, 6] {
        let before = empty_database(&format!("migrations_before_{version}")).await;
        migrate_as_before(&before, version).await;
        migrate(&before).await.unwrap();
        assert_eq!(history(&before).await, expected, "from version {version}");
        migrate(&before).await.unwrap();
        assert_eq!(history(&before).await, expected, "again, from version {version}");

        let change = |config: &mut Config| config.database = before.clone();
        let service = Service::builder().config(change).start().await;
        assert_eq!(service.ingest("k", MOVIE).await["state"], "succeeded");
    }
}

#[tokio::test]
async fn a_migration_that_changed_after_it_was_applied_is_refused() {
    let database = empty_database("migrations_changed").await;
    migrate(&database).await.unwrap();
    let change = "update refinery_schema_history set checksum = '1' where version = 3";
    sql(&database).await.batch_execute(change).await.unwrap();
    let error = chain(&migrate(&database).await.unwrap_err());
    assert!(error.contains("V3__results"), "{error}");
}

#[tokio::test]
async fn a_database_of_a_newer_release_is_accepted() {
    let database = empty_database("migrations_newer").await;
    migrate(&database).await.unwrap();
    let newer = "insert into refinery_schema_history (version, name, applied_on, checksum) \
        values (999, 'newer', '2030-01-01T00:00:00Z', '1')";
    sql(&database).await.batch_execute(newer).await.unwrap();
    migrate(&database).await.unwrap();
    let change = |config: &mut Config| config.database = database.clone();
    let service = Service::builder().config(change).start().await;
    assert!(service.get("/readyz").await.status.is_success());
}

#[tokio::test]
async fn several_processes_may_migrate_at_once() {
    let database = empty_database("migrations_at_once").await;
    let (one, two, three) =
        tokio::join!(migrate(&database), migrate(&database), migrate(&database));
    for migrated in [one, two, three] {
        migrated.unwrap();
    }
    let versions: Vec<i32> = history(&database).await.iter().map(|(version, _)| *version).collect();
    assert!(versions.len() >= 6 && versions.is_sorted(), "{versions:?}");
}

#[tokio::test]
async fn versions_from_the_future_are_moved_to_the_time_of_their_receipt() {
    let database = empty_database("migrations_future").await;
    migrate_as_before(&database, 6).await;
    let sql = sql(&database).await;
    let pinned = "insert into ingests (bucket, key, ordered_at, received_at)
            values ('b', 'k', '9999-12-31', '2026-01-01');
        insert into assertions (ordered_at, key, bucket, sequencer, movie_ids)
            values ('9999-12-31', 'k', 'b', '', '{1}')";
    sql.batch_execute(pinned).await.unwrap();
    migrate(&database).await.unwrap();
    let moved = "select ordered_at = received_at from ingests
        union all select ordered_at <= now() from merged_versions";
    for row in sql.query(moved, &[]).await.unwrap() {
        assert!(row.get::<_, bool>(0));
    }
}

#[tokio::test]
async fn the_migration_does_not_deadlock_with_merges_that_wait_for_each_other() {
    let database = empty_database("migrations_deadlock").await;
    migrate_as_before(&database, 9).await;
    let (mut first, mut second) = (sql(&database).await, sql(&database).await);
    let lock = "select revision from catalogue for no key update";
    let merging = first.transaction().await.unwrap();
    merging.query_one(lock, &[]).await.unwrap();
    let waiting = tokio::spawn(async move {
        let waiting = second.transaction().await.unwrap();
        waiting.query_one(lock, &[]).await.unwrap();
        sleep(Duration::from_millis(500)).await;
        waiting.commit().await.unwrap();
    });
    sleep(Duration::from_millis(500)).await;
    let migrating = tokio::spawn({
        let database = database.clone();
        async move { migrate(&database).await }
    });
    sleep(Duration::from_secs(1)).await;
    merging.commit().await.unwrap();
    waiting.await.unwrap();
    migrating.await.unwrap().unwrap();
}
