//! Somebody whose credential holds.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;

use super::Roles;

/// Somebody whose credential holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caller {
    /// Who it is: the `sub` of a token of ours, `service` for the API token, issuer and `sub` for an outside
    /// issuer. No two callers share it, and a caller keeps it.
    pub subject: Arc<str>,
    /// The name, as history and `decided_by` show it.
    pub name: Arc<str>,
    /// What the caller may do.
    pub roles: Roles,
    /// Which object keys the caller may see and write.
    pub prefixes: KeyPrefixes,
    /// When the credential was issued, if that is known.
    pub issued_at: Option<DateTime<Utc>>,
    /// When the credential ends; none if it does not.
    pub ends_at: Option<DateTime<Utc>>,
    /// The session that a token of ours belongs to.
    pub session: Option<Arc<str>>,
}

/// The object keys that a caller is bound to.
#[derive(Clone, Debug, Default, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(inline)]
pub struct KeyPrefixes(Vec<String>);

impl KeyPrefixes {
    /// All keys.
    pub const ALL: Self = Self(Vec::new());

    /// Returns the keys that begin with one of `prefixes`; all if there is none.
    pub fn new(prefixes: Vec<String>) -> Self {
        Self(prefixes)
    }

    /// Returns whether these are all keys.
    pub fn are_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether `key` is one of them.
    pub fn contain(&self, key: &str) -> bool {
        self.are_all() || self.0.iter().any(|prefix| key.starts_with(prefix.as_str()))
    }

    /// Returns the prefixes; none if these are all keys.
    pub fn list(&self) -> &[String] {
        &self.0
    }
}
