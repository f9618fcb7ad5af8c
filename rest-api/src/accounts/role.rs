//! The roles, and sets of them.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, Serializer};

/// What somebody does here. No role includes another: who does more has several.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Posts movies, uploads files, reads and retries their ingests.
    Producer,
    /// Changes, removes and holds movies; decides about ingests.
    Editor,
    /// Manages users.
    Admin,
    /// A program with the API token: notifies.
    Service,
}

impl Role {
    const ALL: [(&'static str, Self); 4] = [
        ("producer", Self::Producer),
        ("editor", Self::Editor),
        ("admin", Self::Admin),
        ("service", Self::Service),
    ];

    /// Returns all roles.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().map(|(_, role)| role)
    }

    /// Returns the role of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, role)| *role)
    }

    /// Returns the name that the API, tokens and the database use.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, role)| *role == self).map_or("", |(name, _)| name)
    }
}

impl Serialize for Role {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl JsonSchema for Role {
    fn schema_name() -> Cow<'static, str> {
        "Role".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = Self::all().map(Self::name).collect();
        schemars::json_schema!({
            "description": "What somebody may do.", "type": "string", "enum": names,
        })
    }
}

/// A set of roles.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Roles(u8);

impl Roles {
    /// Returns the set of `roles`.
    pub fn of(roles: &[Role]) -> Self {
        roles.iter().copied().collect()
    }

    /// Returns whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns whether `role` is among them.
    pub fn contains(self, role: Role) -> bool {
        self.0 & Self::bit(role) != 0
    }

    /// Returns whether one of `roles` is among them.
    pub fn contains_any(self, roles: Self) -> bool {
        self.0 & roles.0 != 0
    }

    /// Returns the roles, in the order of their declaration.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::all().filter(move |role| self.contains(*role))
    }

    fn bit(role: Role) -> u8 {
        1 << role as u8
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().fold(0, |bits, role| bits | Self::bit(role)))
    }
}

/// The names, separated by commas.
impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(Role::name).collect();
        f.write_str(&names.join(", "))
    }
}

/// Serializes to an array of names.
impl Serialize for Roles {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl JsonSchema for Roles {
    fn schema_name() -> Cow<'static, str> {
        "Roles".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Vec::<Role>::json_schema(generator)
    }
}
