//! Migrations: the numbered SQL files of `migrations/`, applied in order by refinery.
//!
//! Each runs in a transaction of its own. Its name and checksum are recorded in
//! `refinery_schema_history`. A migration that was applied must never change: `migrate` fails if its
//! checksum differs. Releases before refinery recorded versions in `schema_migrations`; their
//! databases are taken over (docs/adr/0006-migrations.md).
//!
//! What would block a running service for long is not in a migration: it follows them, in steps that can
//! be repeated (`concurrent_indexes`, `convert`, `refold`).

use std::time::Duration;

use aws::SecretsManager;
use chrono::{DateTime, SecondsFormat, Utc};
use deadpool_postgres::{ClientWrapper, Connect};
use refinery::{Migration, Runner};
use tokio::time::sleep;
use tokio_postgres::{Client, GenericClient, error::SqlState};
use tracing::info;

use super::{
    StoreError, concurrent_indexes, connect,
    convert::{convert_assertions, link_versions},
    folding::FOLDING,
    pools::{ANY_FOLDING, WRITE_OPTIONS},
    refold::refold,
    service_role,
};
use crate::{
    config::Database,
    secrets::{Credentials, CurrentCredentials},
};

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// The key of the advisory lock: an arbitrary number. One process at a time migrates.
const LOCK: i64 = 0x6d72_755f_6d69_6772;

/// How often a process that waits for the lock asks for it.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// Brings the database to the newest migration. It is safe to run in several processes at once, and
/// to repeat.
///
/// # Errors
/// If the database is unavailable, a migration fails (it then leaves no trace), or a migration that
/// was applied before has another checksum now.
pub async fn migrate(database: &Database, secrets: &SecretsManager) -> Result<(), StoreError> {
    let options = [WRITE_OPTIONS, ANY_FOLDING].join(" ");
    let config = connect::config(database, &database.host, &options);
    let connector = super::connector(database, secrets).await?;
    let (client, connection) = connector.connect(&config).await?;
    let mut client = ClientWrapper::new(client, connection);
    // Before anything has changed: the secret may not be readable.
    let service = service_credentials(database, secrets).await?;
    lock(&client).await?;
    take_over(&client).await?;
    let report = runner().run_async(&mut *client).await;
    let report = report.map_err(|error| StoreError::Migration(Box::new(error)))?;
    for migration in report.applied_migrations() {
        info!(version = migration.version(), name = migration.name(), "migration applied");
    }
    // Before the long steps: older replicas serve meanwhile, and need what is new, too.
    if let Some(service) = service {
        let is_newest = newest_version(&*client).await? <= newest_of_release();
        service_role::grant(&mut client, &service, is_newest).await?;
    }
    concurrent_indexes::build(&client).await?;
    convert_assertions(&mut client).await?;
    link_versions(&client).await?;
    refold(&mut client).await
}

/// Returns the user and the password of the role of the service, if it has one of its own.
async fn service_credentials(
    database: &Database,
    secrets: &SecretsManager,
) -> Result<Option<Credentials>, StoreError> {
    let Some(login) = &database.service_login else { return Ok(None) };
    let credentials = CurrentCredentials::new(login, secrets).await;
    let credentials = credentials.map_err(|error| StoreError::Setup(error.to_string()))?.get();
    service_role::check_name(&credentials.user)?;
    Ok(Some(credentials))
}

/// Waits until no other process migrates. The lock is held until the connection closes.
///
/// It asks again and again: a statement that waits for a lock would keep an index from being built
/// concurrently.
async fn lock(client: &Client) -> Result<(), StoreError> {
    let lock = "
        /* migrate::lock */
        select pg_try_advisory_lock($1)";
    while !client.query_one(lock, &[&LOCK]).await?.get::<_, bool>(0) {
        sleep(LOCK_POLL).await;
    }
    Ok(())
}

/// Returns the runner of all migrations of this release. A database may have more: a newer release
/// migrates while older replicas still run.
fn runner() -> Runner {
    embedded::migrations::runner().set_abort_divergent(true).set_abort_missing(false)
}

fn newest_of_release() -> i32 {
    runner().get_migrations().iter().map(Migration::version).max().unwrap_or(0)
}

/// Copies the history of a database that an earlier release has migrated, unless it was copied
/// before.
async fn take_over(client: &Client) -> Result<(), StoreError> {
    let applied_before = "
        /* migrate::take_over */
        select version, applied_at from schema_migrations order by version";
    let rows = match client.query(applied_before, &[]).await {
        Ok(rows) => rows,
        Err(error) if is_undefined_table(&error) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let create = "
        /* migrate::take_over */
        create table if not exists refinery_schema_history
            (version int4 primary key, name varchar(255), applied_on varchar(255),
             checksum varchar(255))";
    client.batch_execute(create).await?;
    let insert = "
        /* migrate::take_over */
        insert into refinery_schema_history (version, name, applied_on, checksum)
        values ($1, $2, $3, $4)
        on conflict (version) do nothing";
    let migrations = runner();
    for row in rows {
        let (version, applied_at): (i32, DateTime<Utc>) = (row.get(0), row.get(1));
        let known = migrations.get_migrations().iter().find(|known| known.version() == version);
        if let Some(migration) = known {
            let applied_on = applied_at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
            let checksum = migration.checksum().to_string();
            client.execute(insert, &[&version, &migration.name(), &applied_on, &checksum]).await?;
        }
    }
    Ok(())
}

/// Checks that the database has all migrations of this release.
pub(super) async fn check(client: &impl GenericClient) -> Result<(), StoreError> {
    let (found, needed) = (newest_version(client).await?, newest_of_release());
    if found < needed {
        return Err(StoreError::Migrations { found, needed });
    }
    let is_converted = "
        /* migrate::check */
        select not exists (select from assertions)";
    let is_converted: bool = client.query_one(is_converted, &[]).await?.get(0);
    if is_converted && concurrent_indexes::missing(client).await?.is_empty() {
        return Ok(());
    }
    Err(StoreError::MigrationUnfinished)
}

/// Checks that the text of the catalogue is folded by the rules of this release.
pub(super) async fn check_folding(client: &impl GenericClient) -> Result<(), StoreError> {
    let folding = "
        /* migrate::check_folding */
        select folding from catalogue";
    let found: Option<String> = client.query_one(folding, &[]).await?.get(0);
    if found.as_deref() == Some(FOLDING) {
        return Ok(());
    }
    Err(StoreError::Folding { found: found.unwrap_or_else(|| "unfinished".to_owned()) })
}

/// Checks that the session of a worker has the setting that merges need.
pub(super) async fn check_session(client: &impl GenericClient) -> Result<(), StoreError> {
    let setting = "
        /* migrate::check_session */
        select current_setting('mru.folding', true)";
    let found: Option<String> = client.query_one(setting, &[]).await?.get(0);
    if found.as_deref() == Some(FOLDING) {
        return Ok(());
    }
    let problem = "the options of its sessions do not reach the database, so it refuses merges; connect \
        without a pooler that drops them, or set mru.folding for the role";
    Err(StoreError::Setup(format!("{problem} to {FOLDING}")))
}

/// Returns the newest migration of the database; 0 if it was never migrated.
async fn newest_version(client: &impl GenericClient) -> Result<i32, StoreError> {
    let newest = "
        /* migrate::newest_version */
        select coalesce(max(version), 0) from refinery_schema_history";
    match client.query_one(newest, &[]).await {
        Ok(row) => Ok(row.get(0)),
        Err(error) if is_undefined_table(&error) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

fn is_undefined_table(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::UNDEFINED_TABLE)
}
