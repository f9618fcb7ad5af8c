//! Tokens that were revoked before their end.

use std::{
    collections::{HashMap, HashSet},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use chrono::{DateTime, Utc};

use super::Caller;

/// Which tokens do not hold although their time has not come. In memory, so that a request needs no statement: the
/// sessions keep it equal to what the database says.
///
/// An entry can go when the last token that it refuses has ended.
#[derive(Debug, Default)]
pub struct Revocations(RwLock<Revoked>);

/// What is revoked.
#[derive(Clone, Debug, Default)]
pub struct Revoked {
    /// Tokens of these sessions.
    pub sessions: HashSet<String>,
    /// Tokens of these subjects that were issued before a time.
    pub subjects: HashMap<String, DateTime<Utc>>,
}

impl Revocations {
    /// Replaces what is revoked.
    pub fn replace(&self, revoked: Revoked) {
        *self.write() = revoked;
    }

    /// Revokes the tokens of a session.
    pub fn revoke_session(&self, session: &str) {
        self.write().sessions.insert(session.to_owned());
    }

    /// Revokes the tokens of a subject that were issued before a time.
    pub fn revoke_subject(&self, subject: &str, before: DateTime<Utc>) {
        let mut revoked = self.write();
        let known = revoked.subjects.entry(subject.to_owned()).or_insert(before);
        *known = before.max(*known);
    }

    /// Returns whether the token of `caller` is revoked.
    pub(crate) fn contain(&self, caller: &Caller) -> bool {
        let revoked = self.read();
        let session = caller.session.as_deref();
        let is_older = |before: &DateTime<Utc>| caller.issued_at.is_none_or(|at| at < *before);
        session.is_some_and(|session| revoked.sessions.contains(session))
            || revoked.subjects.get(&*caller.subject).is_some_and(is_older)
    }

    fn read(&self) -> RwLockReadGuard<'_, Revoked> {
        // Nothing that holds the lock panics half way.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Revoked> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
