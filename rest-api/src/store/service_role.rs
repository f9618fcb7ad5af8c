//! The role with which the service serves, if it is not the owner of the tables: what it may do, and nothing
//! more. `migrate` makes it (docs/adr/0019-service-role.md).

use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Transaction};
use postgres_protocol::password::scram_sha_256;
use tokio::time::sleep;
use tokio_postgres::error::SqlState;
use tracing::info;

use super::{
    StoreError,
    sql::{query_one, query_opt},
};
use crate::secrets::Credentials;

/// What the service does to each table. A privilege that a release stops to need stays for one more release:
/// older replicas serve while a newer release migrates.
const TABLES: [(&str, &str); 19] = [
    ("assertions", "select"),
    ("catalogue", "select, update"),
    ("decisions", "select, insert"),
    ("edits", "select, insert, update, delete"),
    ("holds", "select, insert, update, delete"),
    ("idempotency_keys", "select, insert, delete"),
    ("ingests", "select, insert, update, delete"),
    ("merged_versions", "select, insert, update, delete"),
    ("movie_details", "select, insert, update, delete"),
    ("movie_history", "select, insert, delete"),
    ("movies", "select, insert, update, delete"),
    ("reconciliations", "select, insert, update"),
    ("refinery_schema_history", "select"),
    ("sessions", "select, insert, update, delete"),
    ("tmdb_requests", "select, update"),
    ("users", "select, insert, update"),
    ("version_movies", "select, insert, update, delete"),
    ("withdrawn_movies", "select, insert, delete"),
    ("words", "select, insert"),
];

/// The sequences from which it takes numbers by name.
const SEQUENCES: &str = "movies_id_seq, ingests_id_seq, merged_versions_id_seq";

/// The functions of migration 19, which run as the owner.
const FUNCTIONS: &str =
    "drop_indexes(text), create_indexes(text), clean_search_indexes(), analyze_movies(bool)";

/// What the service may do to tables of later migrations until [`grant`] follows them. Older replicas
/// serve meanwhile, and triggers may write there for them.
const DEFAULT: &str = "select, insert, update, delete";

/// How often it is tried while other sessions change the role, and the pause between.
const ATTEMPTS: usize = 10;
const PAUSE: Duration = Duration::from_millis(200);

/// Creates the role of `credentials` unless it is there, sets its password, and grants it what serving needs. If
/// `is_newest`, it loses every other privilege. In a database that a newer release has migrated it keeps them: that
/// one's replicas and triggers need them.
///
/// # Errors
/// If the role may do more than that, or the session may not make roles.
pub(super) async fn grant(
    client: &mut ClientWrapper,
    credentials: &Credentials,
    is_newest: bool,
) -> Result<(), StoreError> {
    let Credentials { user, password } = credentials;
    // The server gets a verifier, so no log of its can have the password.
    let verifier = scram_sha_256(password.expose().as_bytes());
    for attempt in 1.. {
        match grant_once(client, user, &verifier, is_newest).await {
            Err(StoreError::Statement(error)) if attempt < ATTEMPTS && is_concurrent(&error) => {
                sleep(PAUSE).await;
            }
            result => return result,
        }
    }
    Ok(())
}

/// Whether another session changed the role at the same time. All databases of a server share the roles, and the lock
/// of migrations is that of one database.
fn is_concurrent(error: &tokio_postgres::Error) -> bool {
    let codes = [SqlState::INTERNAL_ERROR, SqlState::DUPLICATE_OBJECT, SqlState::UNIQUE_VIOLATION];
    error.code().is_some_and(|code| codes.contains(code))
}

async fn grant_once(
    client: &mut ClientWrapper,
    user: &str,
    verifier: &str,
    is_newest: bool,
) -> Result<(), StoreError> {
    let transaction = client.transaction().await?;
    if !is_present(&transaction, user).await? {
        transaction
            .batch_execute(&format!("/* service_role::grant_once */ create role \"{user}\""))
            .await?;
        info!(user, "created the role of the service");
    }
    let login =
        format!("/* service_role::grant_once */ alter role \"{user}\" login password '{verifier}'");
    transaction.batch_execute(&login).await?;
    if is_newest {
        take_back(&transaction, user).await?;
    }
    grant_privileges(&transaction, user).await?;
    transaction.commit().await?;
    Ok(())
}

/// Checks that the name of the role has plain characters alone: statements contain it in quotes.
///
/// # Errors
/// If it has others.
pub(super) fn check_name(user: &str) -> Result<(), StoreError> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let first = user.chars().next().unwrap_or('0');
    if user.len() <= 63 && !first.is_ascii_digit() && user.chars().all(is_plain) {
        return Ok(());
    }
    let form = "must be lower-case letters, digits and underscores, at most 63";
    Err(StoreError::Setup(format!("the user of the service {form}: {user}")))
}

/// Returns whether the role is there.
///
/// A service that serves meanwhile has temporary tables. Those of other databases cannot be told from other tables.
///
/// # Errors
/// If it may do more than what it is granted here.
async fn is_present(transaction: &Transaction<'_>, user: &str) -> Result<bool, StoreError> {
    let inspect = "
        /* service_role::is_present */
        select case
            when rolname = current_user then 'it is the one that migrates'
            when rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls
                then 'it has attributes of an administrator'
            when exists (select from pg_auth_members where member = r.oid)
                then 'it is a member of other roles'
            when exists (
                select from pg_shdepend s
                left join pg_class c on s.classid = 'pg_class'::regclass and s.objid = c.oid
                    and s.dbid = (select oid from pg_database where datname = current_database())
                where refclassid = 'pg_authid'::regclass and refobjid = r.oid and deptype = 'o'
                    and (s.classid <> 'pg_class'::regclass or c.relpersistence <> 't')
            ) then 'it owns objects'
        end
        from pg_roles r
        where rolname = $1";
    let Some(role) = query_opt(transaction, inspect, &[&user]).await? else { return Ok(false) };
    match role.get::<_, Option<&str>>(0) {
        None => Ok(true),
        Some(why) => {
            let remedy = "choose another name, which rest-api migrate then creates";
            Err(StoreError::Setup(format!(
                "the role {user} cannot be that of the service, because {why}: {remedy}"
            )))
        }
    }
}

/// Revokes what the role has on the tables, sequences and functions of the owner, whoever granted it. Objects of
/// other owners are theirs.
async fn take_back(transaction: &Transaction<'_>, user: &str) -> Result<(), StoreError> {
    let revoke = "
        /* service_role::take_back */
        with granted as (
            select case relkind when 'S' then 'sequence' else 'table' end as kind,
                c.oid::regclass::text as name, relowner as owner, relnamespace as namespace, acl
            from pg_class c left join pg_attribute on attrelid = c.oid,
                unnest(relacl || attacl) acl
            union
            select 'function', oid::regprocedure::text, proowner, pronamespace, acl
            from pg_proc, unnest(proacl) acl
        )
        select string_agg(distinct format('revoke all on %s %s from %I', kind, name, $1::text), '; ')
        from granted, aclexplode(array[acl])
        where namespace = current_schema()::regnamespace and pg_has_role(owner, 'usage')
            and grantee = (select oid from pg_roles where rolname = $1)";
    let revoke = query_one(transaction, revoke, &[&user]).await?;
    if let Some(statements) = revoke.get::<_, Option<&str>>(0) {
        transaction.batch_execute(&format!("/* service_role::take_back */ {statements}")).await?;
    }
    Ok(())
}

async fn grant_privileges(transaction: &Transaction<'_>, user: &str) -> Result<(), StoreError> {
    let place = "
        /* service_role::grant_privileges */
        select quote_ident(current_database()), quote_ident(current_schema()),
            current_setting('server_version_num')::int >= 170000";
    let row = query_one(transaction, place, &[]).await?;
    let (database, schema, has_maintain): (&str, &str, bool) = (row.get(0), row.get(1), row.get(2));
    let mut privileges = vec![
        format!("connect, temporary on database {database}"),
        format!("usage on schema {schema}"),
        format!("usage on sequence {SEQUENCES}"),
        format!("execute on function {FUNCTIONS}"),
    ];
    privileges.extend(TABLES.map(|(table, what)| format!("{what} on {table}")));
    if has_maintain {
        privileges.push("maintain on movies".to_owned());
    }
    let later = format!("alter default privileges in schema {schema}");
    let statements: Vec<String> = privileges
        .iter()
        .map(|privilege| format!("grant {privilege} to \"{user}\""))
        .chain([
            format!("{later} grant {DEFAULT} on tables to \"{user}\""),
            format!("{later} grant usage on sequences to \"{user}\""),
        ])
        .collect();
    let statements = statements.join("; ");
    transaction
        .batch_execute(&format!("/* service_role::grant_privileges */ {statements}"))
        .await?;
    close_schema(transaction, schema, user).await
}

/// Keeps the role from creating anything. Databases that were made before Postgres 15 let everybody do so.
async fn close_schema(
    transaction: &Transaction<'_>,
    schema: &str,
    user: &str,
) -> Result<(), StoreError> {
    if !may_create(transaction, user).await? {
        return Ok(());
    }
    let close = format!("revoke create on schema {schema} from public, \"{user}\"");
    transaction.batch_execute(&format!("/* service_role::close_schema */ {close}")).await?;
    // Of a schema that is another's Postgres revokes nothing, and warns.
    if may_create(transaction, user).await? {
        return Err(StoreError::Setup(format!(
            "the role {user} may create objects in the schema {schema}: as the owner of the schema, run \
             {close}"
        )));
    }
    Ok(())
}

async fn may_create(transaction: &Transaction<'_>, user: &str) -> Result<bool, StoreError> {
    let may_create = "
        /* service_role::may_create */
        select has_schema_privilege($1::text, current_schema()::text, 'create')";
    Ok(query_one(transaction, may_create, &[&user]).await?.get(0))
}
