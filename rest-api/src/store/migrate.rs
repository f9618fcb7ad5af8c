//! Migrations: numbered SQL files, applied in order, each in a transaction of its own.

use aws::SecretsManager;
use tokio_postgres::{Client, GenericClient, error::SqlState};
use tracing::info;

use super::{StoreError, WRITE_OPTIONS, connect};
use crate::config::Database;

/// Every migration, in order. One that has been released is never edited.
const MIGRATIONS: [(i32, &str, &str); 6] = [
    (1, "catalogue_and_ledger", include_str!("../../migrations/0001_catalogue_and_ledger.sql")),
    (2, "provenance", include_str!("../../migrations/0002_provenance.sql")),
    (3, "results", include_str!("../../migrations/0003_results.sql")),
    (4, "traces", include_str!("../../migrations/0004_traces.sql")),
    (5, "reconcile", include_str!("../../migrations/0005_reconcile.sql")),
    (6, "compare_faster", include_str!("../../migrations/0006_compare_faster.sql")),
];

/// An arbitrary number, the same in every process: only one migrates at a time.
const LOCK: i64 = 0x6d72_755f_6d69_6772;

/// Brings the database to the newest migration. Safe to run from several processes at once, and
/// again.
///
/// # Errors
/// If the database is away, or a migration fails (it then leaves no trace).
pub async fn migrate(database: &Database, secrets: &SecretsManager) -> Result<(), StoreError> {
    let config = connect::config(database, &database.host, WRITE_OPTIONS);
    let (mut client, connection) = super::connector(database, secrets).await?.open(&config).await?;
    tokio::spawn(connection);
    // Held until the connection closes.
    client.execute("/* migrate::lock */ select pg_advisory_lock($1)", &[&LOCK]).await?;
    client
        .batch_execute(
            "/* migrate::ledger */ create table if not exists schema_migrations (
                 version int primary key,
                 name text not null,
                 applied_at timestamptz not null default now())",
        )
        .await?;
    let newest = version(&client).await?;
    for (version, name, sql) in MIGRATIONS.iter().filter(|(version, ..)| *version > newest) {
        apply(&mut client, *version, name, sql).await?;
        info!(version, name, "migrated the database");
    }
    Ok(())
}

async fn apply(client: &mut Client, version: i32, name: &str, sql: &str) -> Result<(), StoreError> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(sql).await?;
    let record =
        "/* migrate::record */ insert into schema_migrations (version, name) values ($1, $2)";
    transaction.execute(record, &[&version, &name]).await?;
    Ok(transaction.commit().await?)
}

/// Whether the database has all migrations that this release knows. It may have more: a newer
/// release migrates while older replicas still run.
pub(super) async fn check(client: &impl GenericClient) -> Result<(), StoreError> {
    let needed = MIGRATIONS.iter().map(|(version, ..)| *version).max().unwrap_or(0);
    match version(client).await? {
        found if found >= needed => Ok(()),
        found => Err(StoreError::Migrations { found, needed }),
    }
}

async fn version(client: &impl GenericClient) -> Result<i32, StoreError> {
    let newest = "/* migrate::version */ select coalesce(max(version), 0) from schema_migrations";
    match client.query_one(newest, &[]).await {
        Ok(row) => Ok(row.get(0)),
        // A database that was never migrated.
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
