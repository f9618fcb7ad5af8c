//! The user `admin`, with whom somebody can sign in and add others.

use std::env;

use anyhow::{Context, Result, anyhow};
use rest_api::{
    accounts::Password,
    store::Store,
    users::{self, Change},
};
use uuid::Uuid;

/// The name of the user.
pub(super) const NAME: &str = "admin";

/// What sets the password.
pub(super) const VARIABLE: &str = "MRU_ADMIN_PASSWORD";

const ROLES: [&str; 3] = ["producer", "editor", "admin"];

/// How the user signs in.
pub(super) enum AdminPassword {
    /// With the password of the environment.
    Set,
    /// With this one, which was made now and is shown once.
    New(String),
    /// With the one of an earlier start.
    Earlier,
}

/// Makes the user unless it is there, with the password of the environment or a new one. The password of the
/// environment replaces an earlier one.
///
/// # Errors
/// If the password of the environment is too short, or the database is unavailable.
pub(super) async fn make(store: &Store) -> Result<AdminPassword> {
    let set = env::var(VARIABLE).ok().filter(|password| !password.is_empty());
    let exists = store.user_by_name(NAME).await?.is_some();
    if exists && set.is_none() {
        return Ok(AdminPassword::Earlier);
    }
    // 122 random bits.
    let text = set.clone().unwrap_or_else(|| Uuid::new_v4().simple().to_string());
    let password = Password::chosen(&text).map_err(|expected| anyhow!("{VARIABLE}: {expected}"))?;
    if exists {
        users::change(store, NAME, Change::Password(password)).await.map(drop)
    } else {
        let roles = ROLES.map(str::to_owned);
        users::add(store, NAME, &password, &roles, Vec::new()).await.map(drop)
    }
    .context("cannot make the user admin")?;
    Ok(if set.is_some() { AdminPassword::Set } else { AdminPassword::New(text) })
}
