//! The role of the service: what it may not do, and how the migration makes it. That it may do what serving needs
//! is shown by all other tests, whose services have it.

use std::collections::BTreeSet;

use rest_api::{
    config::{Database, Login, Secret},
    store,
    telemetry::chain,
};
use serde_json::json;
use tokio_postgres::Client;

use crate::support::{
    Service,
    builder::no_secrets,
    movies::{MOVIE, numbered_movies},
    postgres::{SERVICE_USER, empty_database, migrate, migrated_database, postgres},
    secure_postgres::secure_postgres,
};

/// Tables that the service has no business with.
const WITHOUT_ACCESS: [&str; 1] = ["dropped_indexes"];

/// Connects as the service does.
async fn serve(database: &Database) -> Client {
    let sql = postgres().await.connect(&database.name).await.unwrap();
    sql.batch_execute(&format!("set session authorization {SERVICE_USER}")).await.unwrap();
    sql
}

/// Returns the message of the refusal of a statement.
async fn refusal(sql: &Client, statement: &str) -> String {
    let Err(error) = sql.batch_execute(statement).await else { panic!("not refused: {statement}") };
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "42501", "{statement}: {error}");
    error.message().to_owned()
}

#[tokio::test]
async fn the_role_of_the_service_may_do_nothing_else() {
    let database = migrated_database().await;
    let sql = serve(&database).await;
    for statement in [
        "drop table movies",
        "drop index movies_by_year",
        "drop schema public cascade",
        "truncate ingests",
        "truncate movies",
        "alter table movies add column other int",
        "alter table movies disable trigger all",
        "alter table ingests owner to current_user",
        "create table other (id int)",
        "create function other() returns int language sql as 'select 1'",
        "create index other on movies (year)",
        "create schema other",
        "create extension hstore",
        "create role other",
        "alter role movies_r_us_service superuser",
        "alter role movies_r_us password 'x'",
        "set role movies_r_us",
        "set session_replication_role = replica",
        "select * from pg_authid",
        "select pg_read_file('/etc/passwd')",
        "copy movies to program 'cat'",
        "insert into refinery_schema_history (version) values (1000)",
        "update refinery_schema_history set checksum = '0'",
        "delete from refinery_schema_history",
        "delete from catalogue",
        "delete from users",
        "update decisions set decided_by = 'other'",
        "delete from decisions",
        "update movie_history set doc = '{}'",
        "select setval('movies_id_seq', 1)",
        "insert into dropped_indexes values ('movies', 'drop table movies')",
        "select * from dropped_indexes",
        "alter function drop_indexes(text) security invoker",
        "select drop_indexes('ingests')",
    ] {
        refusal(&sql, statement).await;
    }
}

#[tokio::test]
async fn indexes_are_dropped_of_an_empty_catalogue_alone_and_built_before_the_commit() {
    let service = Service::start().await;
    let sql = serve(&service.database).await;
    let drop = "select drop_indexes('movies')";
    let error = sql.batch_execute(drop).await.unwrap_err();
    let message = error.as_db_error().unwrap().message();
    assert_eq!(message, "the indexes of movies were not built again");
    // A temporary table of the same name changes nothing.
    let spoof =
        format!("create temporary table movies (id int); {drop}; select create_indexes('movies')");
    sql.batch_execute(&spoof).await.unwrap();
    sql.batch_execute("drop table pg_temp.movies").await.unwrap();

    let file = json!(numbered_movies("first load", 0..10_000, "x")).to_string();
    assert_eq!(service.ingest("large", file).await["inserted"], 10_000);
    let message = refusal(&sql, drop).await;
    assert_eq!(message, "movies is not empty, so its indexes stay");
    let indexes =
        "select count(*) from pg_indexes where tablename = 'movies' and schemaname = 'public'";
    let fresh = migrated_database().await;
    let expected: i64 = serve(&fresh).await.query_one(indexes, &[]).await.unwrap().get(0);
    let found: i64 = sql.query_one(indexes, &[]).await.unwrap().get(0);
    assert!(found == expected && found > 5, "{found} of {expected}");
}

#[tokio::test]
async fn every_table_is_known_to_the_grants() {
    let database = migrated_database().await;
    let tables = "
        select relname::text, has_table_privilege($1, oid, 'select')
        from pg_class
        where relkind = 'r' and relnamespace = 'public'::regnamespace";
    let sql = postgres().await.connect(&database.name).await.unwrap();
    let rows = sql.query(tables, &[&SERVICE_USER]).await.unwrap();
    let closed = rows.iter().filter(|row| !row.get::<_, bool>(1)).map(|row| row.get(0));
    let closed: BTreeSet<String> = closed.collect();
    assert_eq!(closed, WITHOUT_ACCESS.map(str::to_owned).into());
}

#[tokio::test]
async fn the_role_may_vacuum_the_movies_where_postgres_can_grant_it() {
    let database = migrated_database().await;
    let may_vacuum = "
        select case when current_setting('server_version_num')::int < 170000 then true
            else has_table_privilege('movies', 'maintain') end";
    let sql = serve(&database).await;
    assert!(sql.query_one(may_vacuum, &[]).await.unwrap().get::<_, bool>(0));
    // Before Postgres 17 it is skipped with a warning, which is no failure of the service.
    sql.batch_execute("vacuum (index_cleanup off, process_toast off, truncate off) movies")
        .await
        .unwrap();
}

#[tokio::test]
async fn what_was_granted_by_hand_is_taken_back_and_later_tables_are_open_until_then() {
    let database = empty_database("service_role_again").await;
    migrate(&database).await.unwrap();
    let owner = postgres().await.connect(&database.name).await.unwrap();
    let by_hand = format!(
        "grant truncate on ingests to {SERVICE_USER}; grant create on schema public to public;
         grant update (decided_by) on decisions to {SERVICE_USER};
         grant update on sequence movies_id_seq to {SERVICE_USER}"
    );
    owner.batch_execute(&by_hand).await.unwrap();
    owner.batch_execute("create table later (id int generated always as identity)").await.unwrap();
    let sql = serve(&database).await;
    let by_hand = [
        "truncate ingests",
        "update decisions set decided_by = ''",
        "select setval('movies_id_seq', 1)",
        "insert into later default values",
    ];
    sql.batch_execute(&by_hand.join("; ")).await.unwrap();

    // What serving leaves open meanwhile.
    sql.batch_execute("create temporary table staging (id int primary key, doc text)")
        .await
        .unwrap();

    // The job of the release before runs after a rollback: it takes nothing back from the newer one.
    let newer = "insert into refinery_schema_history select version + 1, 'later', applied_on, '0'
        from refinery_schema_history order by version desc limit 1";
    owner.batch_execute(newer).await.unwrap();
    migrate(&database).await.unwrap();
    sql.batch_execute(&by_hand.join("; ")).await.unwrap();
    owner.batch_execute("delete from refinery_schema_history where name = 'later'").await.unwrap();
    migrate(&database).await.unwrap();
    for statement in by_hand.iter().chain(&["create table other (id int)"]) {
        refusal(&sql, statement).await;
    }
}

#[tokio::test]
async fn an_owner_that_is_no_superuser_makes_the_role_and_changes_its_password() {
    let owner = secure_postgres().await.database("role_owner", "owner").await;
    let admin = secure_postgres().await.sql("role_owner").await;
    admin.batch_execute("alter role role_owner createrole").await.unwrap();
    let with = |user: &str, password: &str| Login::Fixed {
        user: user.to_owned(),
        password: Secret::new(password),
    };
    let migrate = async |user: &str, password: &str| {
        let service_login = Some(with(user, password));
        store::migrate(&Database { service_login, ..owner.clone() }, &no_secrets()).await
    };
    migrate("role_service", "first").await.unwrap();
    let serving = |password| Database { login: with("role_service", password), ..owner.clone() };
    let change = |config: &mut rest_api::config::Config| config.database = serving("first");
    let service = Service::builder().config(change).start().await;
    assert_eq!(service.ingest("k", MOVIE).await["state"], "succeeded");
    assert_eq!(service.movies("title=").await.len(), 1);

    migrate("role_service", "second").await.unwrap();
    store::Store::new(&serving("second"), &no_secrets(), 0)
        .await
        .unwrap()
        .count_movies()
        .await
        .unwrap();
    for (user, reason) in [
        ("role_owner", "it is the one that migrates"),
        ("movies_r_us", "attributes of an administrator"),
        ("role-service", "must be lower-case letters"),
        ("x; drop table movies", "must be lower-case letters"),
    ] {
        let error = chain(&migrate(user, "x").await.unwrap_err());
        assert!(error.contains(reason), "{user}: {error}");
    }
    let others = "create role role_member in role role_owner; create database another;
        create role role_another; alter database another owner to role_another";
    for statement in others.split(';') {
        admin.batch_execute(statement).await.unwrap();
    }
    for (user, reason) in
        [("role_member", "it is a member of other roles"), ("role_another", "it owns objects")]
    {
        let error = chain(&migrate(user, "x").await.unwrap_err());
        assert!(error.contains(reason), "{user}: {error}");
    }

    // Objects of others stay as they are, and a name may be a word of SQL.
    let foreign =
        "create table foreign_table (id int); grant select on foreign_table to role_service";
    admin.batch_execute(foreign).await.unwrap();
    migrate("role_service", "third").await.unwrap();
    migrate("group", "x").await.unwrap();

    let open = "alter schema public owner to movies_r_us; grant create on schema public to public";
    admin.batch_execute(open).await.unwrap();
    let error = chain(&migrate("role_service", "x").await.unwrap_err());
    assert!(
        error.contains("as the owner of the schema, run revoke create on schema public"),
        "{error}"
    );
}

#[tokio::test]
async fn without_a_role_of_the_service_the_owner_serves() {
    let owned = postgres().await.database(&migrated_database().await.name);
    let service = Service::builder().config(|config| config.database = owned).start().await;
    let file = json!(numbered_movies("owner", 0..10_000, "x")).to_string();
    assert_eq!(service.ingest("large", file).await["inserted"], 10_000);
}
