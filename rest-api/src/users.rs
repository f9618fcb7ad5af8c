//! Users on the command line: added, listed and changed.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use aws::Secret;

use crate::{
    accounts::{Password, PasswordError, Passwords, check_prefixes, roles_of_user, user_name},
    store::{NewUser, Store, StoreError, User, UserChange},
    terminal::printable,
};

/// How many users are read at once.
const PAGE: i64 = 1000;

/// The longest password with its end of line, in bytes.
const MAX_LINE: u64 = 4 << 10;

/// Why a user cannot be added or changed.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The name, a role or a prefix is not right.
    #[error("{0}: expected {1}")]
    Rule(&'static str, &'static str),
    /// The two passwords that were typed differ.
    #[error("the passwords differ; nothing was changed")]
    Mistyped,
    /// Another user has this name, perhaps in another case.
    #[error("there is a user of this name already")]
    NameTaken,
    /// There is no such user.
    #[error("no such user: rest-api users list shows them")]
    NotFound,
    /// The password cannot be hashed.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The input cannot be read, or the output not be written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The database failed, or refuses the change.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Adds a user.
///
/// # Errors
/// If the name, a role, or a prefix is not right, or the name is taken. If the database is unavailable.
pub async fn add(
    store: &Store,
    name: &str,
    password: &Password,
    roles: &[String],
    prefixes: Vec<String>,
) -> Result<User, UserError> {
    let name = user_name(name).map_err(|expected| UserError::Rule("name", expected))?;
    let roles = roles_of_user(roles).map_err(|expected| UserError::Rule("role", expected))?;
    check_prefixes(&prefixes).map_err(|expected| UserError::Rule("prefix", expected))?;
    store.ready().await?;
    let password_hash = Passwords::default().hash(password).await?;
    let user = NewUser { name, password_hash, roles, prefixes };
    store.add_user(&user).await?.ok_or(UserError::NameTaken)
}

/// What is changed of a user.
#[derive(Debug)]
pub enum Change {
    /// All roles.
    Roles(Vec<String>),
    /// All prefixes.
    Prefixes(Vec<String>),
    /// The password.
    Password(Password),
    /// Whether the user is disabled.
    Disabled(bool),
}

/// Changes a user. What takes something away ends the sessions of the user.
///
/// # Errors
/// If a role or a prefix is not right, there is no such user, or no active admin would be left. If the database is
/// unavailable.
pub async fn change(store: &Store, name: &str, change: Change) -> Result<User, UserError> {
    let mut changed = UserChange::default();
    match change {
        Change::Roles(roles) => {
            let roles = roles_of_user(&roles);
            changed.roles = Some(roles.map_err(|expected| UserError::Rule("role", expected))?);
        }
        Change::Prefixes(prefixes) => {
            check_prefixes(&prefixes).map_err(|expected| UserError::Rule("prefix", expected))?;
            changed.prefixes = Some(prefixes);
        }
        Change::Password(password) => {
            changed.password_hash = Some(Passwords::default().hash(&password).await?);
        }
        Change::Disabled(disabled) => changed.disabled = Some(disabled),
    }
    // No user has another name, and Postgres refuses U+0000.
    let name = user_name(name).map_err(|_| UserError::NotFound)?;
    store.ready().await?;
    let user = store.user_by_name(&name).await?.ok_or(UserError::NotFound)?;
    store.change_user(user.id, &changed).await?.ok_or(UserError::NotFound)
}

/// Writes all users to `out`, in the order of their numbers.
///
/// # Errors
/// If the database is unavailable, or `out` cannot be written.
pub async fn list(store: &Store, json: bool, mut out: impl Write) -> Result<(), UserError> {
    store.ready().await?;
    let mut after = 0;
    loop {
        let users = store.users(after, PAGE).await?;
        let Some(last) = users.last() else { break };
        after = last.id;
        for user in &users {
            print(user, json, &mut out)?;
        }
    }
    out.flush()?;
    Ok(())
}

/// Writes a user to `out`, as a line.
///
/// # Errors
/// If it cannot be written.
pub fn print(user: &User, json: bool, mut out: impl Write) -> io::Result<()> {
    if json {
        return writeln!(out, "{}", serde_json::to_string(user)?);
    }
    let User { id, name, roles, prefixes, disabled_at, .. } = user;
    let roles = if roles.is_empty() { "no role".to_owned() } else { roles.join(",") };
    write!(out, "{id}  {}  {roles}", printable(name))?;
    for prefix in prefixes {
        write!(out, "  {}", printable(prefix))?;
    }
    match disabled_at {
        Some(at) => writeln!(out, "  disabled since {}", at.format("%F %T UTC")),
        None => writeln!(out),
    }
}

/// Reads a password that somebody chooses: twice from a terminal, which does not show it, else the first line of
/// standard input.
///
/// # Errors
/// If it is too short or too long, the two differ, or nothing can be read.
pub fn read_password() -> Result<Password, UserError> {
    let text = if io::stdin().is_terminal() {
        let prompt = |prompt| rpassword::prompt_password(prompt).map(Secret::new);
        let first = prompt("New password: ")?;
        if first != prompt("The same again: ")? {
            return Err(UserError::Mistyped);
        }
        first
    } else {
        let mut line = Vec::new();
        io::stdin().lock().take(MAX_LINE).read_until(b'\n', &mut line)?;
        let line = String::from_utf8(line).map_err(|_| UserError::Rule("password", "UTF-8"))?;
        Secret::new(line.trim_end_matches(['\r', '\n']))
    };
    Password::chosen(text.expose()).map_err(|expected| UserError::Rule("password", expected))
}
