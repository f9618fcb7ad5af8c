//! The Postgres of the run, and databases cloned from a migrated template.

use std::sync::atomic::{AtomicU32, Ordering};

use local_stack::postgres::{Postgres, Purpose, USER};
use rest_api::{
    config::{Database, Login, Secret},
    store::{self, StoreError},
};
use tokio::sync::OnceCell;

use super::builder::no_secrets;

/// The database that all others are cloned from.
const TEMPLATE: &str = "migrated";

/// One Postgres for the whole run. It ends with the process.
pub(crate) async fn postgres() -> &'static Postgres {
    static POSTGRES: OnceCell<Postgres> = OnceCell::const_new();
    let start = || async {
        let directory = std::env::temp_dir().join(format!("mru-test-{}", std::process::id()));
        Postgres::start(&directory, Purpose::Test).await.unwrap()
    };
    POSTGRES.get_or_init(start).await
}

/// The role with which services of the tests serve. It is not the owner of the tables, so that the tests show that what
/// the migration grants is enough.
pub(crate) const SERVICE_USER: &str = "movies_r_us_service";

/// Returns how `user` logs in. The Postgres of the run asks for no password.
pub(crate) fn login(user: &str) -> Login {
    Login::Fixed { user: user.to_owned(), password: Secret::new("unused") }
}

/// Brings `database` to the newest migration, as its owner. If that is the superuser of the tests, the
/// database gets the role of the service, too.
///
/// # Errors
/// As the migration of the service.
pub(crate) async fn migrate(database: &Database) -> Result<(), StoreError> {
    let has_own_owner = |user: &str| ![USER, SERVICE_USER].contains(&user);
    let owned = match &database.login {
        Login::Fixed { user, .. } if has_own_owner(user) => database.clone(),
        _ => {
            let service_login = Some(login(SERVICE_USER));
            Database { login: login(USER), service_login, ..database.clone() }
        }
    };
    store::migrate(&owned, &no_secrets()).await
}

/// Creates a database without any table.
pub(crate) async fn empty_database(name: &str) -> Database {
    let postgres = postgres().await;
    postgres.create_database(name).await.unwrap();
    postgres.database(name)
}

/// Creates a database with all migrations, under a name of its own.
///
/// Postgres copies the template through its WAL by default. The strategy `file_copy` is as fast here,
/// but needs two checkpoints of the whole cluster for each copy.
pub(crate) async fn migrated_database() -> Database {
    static MIGRATED: OnceCell<()> = OnceCell::const_new();
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    MIGRATED.get_or_init(create_template).await;
    let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let postgres = postgres().await;
    let admin = postgres.connect("postgres").await.unwrap();
    let clone = format!("create database {name} template {TEMPLATE}");
    admin.batch_execute(&clone).await.unwrap();
    Database { login: login(SERVICE_USER), ..postgres.database(&name) }
}

/// Migrates the template. Nothing connects to it afterwards: Postgres refuses to clone a database
/// that has connections, and waits at most five seconds for them to end.
async fn create_template() {
    migrate(&empty_database(TEMPLATE).await).await.unwrap();
    let admin = postgres().await.connect("postgres").await.unwrap();
    let close = format!("alter database {TEMPLATE} allow_connections false");
    admin.batch_execute(&close).await.unwrap();
}
