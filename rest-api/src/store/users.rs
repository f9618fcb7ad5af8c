//! The users of the service's own. A user is never removed, only disabled: the history of movies names it.

use aws::Secret;
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use tokio_postgres::Row;

use super::{
    Store, StoreError, fold, sessions,
    sql::{execute, query_one, query_opt},
};

/// The role that a user needs to manage users. One active user has it always.
const ADMIN: &str = "admin";

/// The key of the advisory lock: an arbitrary number. One transaction at a time changes a user, so that two cannot
/// take the role from the last two admins.
const LOCK: i64 = 0x6d72_755f_7573_6572;

/// A user.
#[derive(Clone, Debug, JsonSchema, PartialEq, Serialize)]
pub struct User {
    /// The number of the user, which never changes.
    pub id: i64,
    /// The name. Case makes no difference.
    pub name: String,
    /// The roles: `producer`, `editor`, `admin`.
    pub roles: Vec<String>,
    /// The beginnings of the object keys that a producer is bound to. Empty for all keys.
    pub prefixes: Vec<String>,
    /// When the user was added.
    pub created_at: DateTime<Utc>,
    /// Since when the user cannot sign in. Absent if it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DateTime<Utc>")]
    pub disabled_at: Option<DateTime<Utc>>,
}

/// A user to be added.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// The name, in composed form.
    pub name: String,
    /// The hash of the password, as a PHC string.
    pub password_hash: Secret,
    /// The roles.
    pub roles: Vec<String>,
    /// The beginnings of the keys that the user is bound to.
    pub prefixes: Vec<String>,
}

/// What is changed of a user; none stays as it is.
#[derive(Clone, Debug, Default)]
pub struct UserChange {
    /// All roles.
    pub roles: Option<Vec<String>>,
    /// All beginnings of keys that the user is bound to.
    pub prefixes: Option<Vec<String>>,
    /// Whether the user is disabled.
    pub disabled: Option<bool>,
    /// The hash of the password, as a PHC string.
    pub password_hash: Option<Secret>,
}

/// What a sign-in is checked against.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) user_id: i64,
    pub(crate) password_hash: Secret,
}

impl Store {
    /// Adds a user. Returns none if the name is taken.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn add_user(&self, user: &NewUser) -> Result<Option<User>, StoreError> {
        let add = "
            /* users::add_user */
            insert into users (name, name_key, password_hash, roles, prefixes)
            values ($1, $2, $3, $4, $5)
            on conflict (name_key) do nothing
            returning id, name, roles, prefixes, created_at, disabled_at";
        let NewUser { name, password_hash, roles, prefixes } = user;
        let connection = self.writer().await?;
        let (key, hash) = (fold(name), password_hash.expose());
        let added = query_opt(&connection, add, &[name, &key, &hash, roles, prefixes]).await?;
        Ok(added.map(|row| read(&row)))
    }

    /// Returns at most `limit` users in the order of their ids, those after `after`.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn users(&self, after: i64, limit: i64) -> Result<Vec<User>, StoreError> {
        let list = "
            /* users::users */
            select id, name, roles, prefixes, created_at, disabled_at
            from users
            where id > $1
            order by id
            limit $2";
        let connection = self.writer().await?;
        let statement = connection.prepare_cached(list).await?;
        let rows = connection.query(&statement, &[&after, &limit]).await?;
        Ok(rows.iter().map(read).collect())
    }

    /// Returns a user.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn user(&self, id: i64) -> Result<Option<User>, StoreError> {
        let by_id = "
            /* users::user */
            select id, name, roles, prefixes, created_at, disabled_at
            from users
            where id = $1";
        let found = query_opt(&self.writer().await?, by_id, &[&id]).await?;
        Ok(found.map(|row| read(&row)))
    }

    /// Returns the user of this name.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn user_by_name(&self, name: &str) -> Result<Option<User>, StoreError> {
        let by_name = "
            /* users::user_by_name */
            select id, name, roles, prefixes, created_at, disabled_at
            from users
            where name_key = $1";
        let found = query_opt(&self.writer().await?, by_name, &[&fold(name)]).await?;
        Ok(found.map(|row| read(&row)))
    }

    /// Changes a user. Ends its sessions if the user is disabled, the roles or prefixes become others, or a password
    /// is set. Returns the user; none if there is no such user.
    ///
    /// # Errors
    /// [`StoreError::LastAdmin`] if no active admin would be left. If the database is unavailable. Nothing is changed
    /// then.
    pub async fn change_user(
        &self,
        id: i64,
        change: &UserChange,
    ) -> Result<Option<User>, StoreError> {
        let lock = "
            /* users::change_user */
            select pg_advisory_xact_lock($1)";
        let before = "
            /* users::change_user */
            select id, name, roles, prefixes, created_at, disabled_at
            from users
            where id = $1
            for no key update";
        let update = "
            /* users::change_user */
            update users
            set roles = coalesce($2, roles),
                prefixes = coalesce($3, prefixes),
                disabled_at = case $4::bool when true then coalesce(disabled_at, now())
                    when false then null else disabled_at end,
                password_hash = coalesce($5, password_hash)
            where id = $1
            returning id, name, roles, prefixes, created_at, disabled_at";
        let is_admin_left = "
            /* users::change_user */
            select exists (select from users where $1 = any(roles) and disabled_at is null)";
        let UserChange { roles, prefixes, disabled, password_hash } = change;
        let hash = password_hash.as_ref().map(Secret::expose);
        let mut connection = self.writer().await?;
        let transaction = connection.transaction().await?;
        execute(&transaction, lock, &[&LOCK]).await?;
        let Some(before) = query_opt(&transaction, before, &[&id]).await? else { return Ok(None) };
        let before = read(&before);
        let params: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[&id, roles, prefixes, disabled, &hash];
        let after = read(&query_one(&transaction, update, params).await?);
        if is_active_admin(&before)
            && !is_active_admin(&after)
            && !query_one(&transaction, is_admin_left, &[&ADMIN]).await?.get::<_, bool>(0)
        {
            return Err(StoreError::LastAdmin);
        }
        let ended = hash.is_some()
            || after.disabled_at.is_some()
            || before.roles != after.roles
            || before.prefixes != after.prefixes;
        let ended = ended && sessions::end_all(&transaction, id).await? > 0;
        transaction.commit().await?;
        if ended {
            self.hints().announce_revoked();
        }
        Ok(Some(after))
    }

    /// Returns what a sign-in under this name is checked against. None if no active user has this name.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub(crate) async fn credentials(&self, name: &str) -> Result<Option<Credentials>, StoreError> {
        let credentials = "
            /* users::credentials */
            select id, password_hash from users where name_key = $1 and disabled_at is null";
        let found = query_opt(&self.writer().await?, credentials, &[&fold(name)]).await?;
        Ok(found.map(|row| credentials_of(&row)))
    }

    /// Returns what the present password of a user is checked against. None if there is no such active user.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub(crate) async fn credentials_by_id(
        &self,
        id: i64,
    ) -> Result<Option<Credentials>, StoreError> {
        let credentials = "
            /* users::credentials_by_id */
            select id, password_hash from users where id = $1 and disabled_at is null";
        let found = query_opt(&self.writer().await?, credentials, &[&id]).await?;
        Ok(found.map(|row| credentials_of(&row)))
    }

    /// Replaces the hash of a password that stays the same, unless it has changed meanwhile.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub(crate) async fn rehash(
        &self,
        credentials: &Credentials,
        hash: &Secret,
    ) -> Result<(), StoreError> {
        let rehash = "
            /* users::rehash */
            update users set password_hash = $3 where id = $1 and password_hash = $2";
        let Credentials { user_id, password_hash } = credentials;
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [user_id, &password_hash.expose(), &hash.expose()];
        execute(&self.writer().await?, rehash, &params).await?;
        Ok(())
    }
}

fn is_active_admin(user: &User) -> bool {
    user.disabled_at.is_none() && user.roles.iter().any(|role| role == ADMIN)
}

fn credentials_of(row: &Row) -> Credentials {
    let password_hash: String = row.get("password_hash");
    Credentials { user_id: row.get("id"), password_hash: Secret::new(password_hash) }
}

/// Reads a row that has all columns of a [`User`].
pub(super) fn read(row: &Row) -> User {
    User {
        id: row.get("id"),
        name: row.get("name"),
        roles: row.get("roles"),
        prefixes: row.get("prefixes"),
        created_at: row.get("created_at"),
        disabled_at: row.get("disabled_at"),
    }
}
