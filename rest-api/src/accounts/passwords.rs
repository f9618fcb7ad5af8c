//! Passwords: their rules, and their hashes (argon2id).
//!
//! A hash takes 19 MB and some hundredths of a second of a processor. So few are computed at once, on threads that
//! may block, and few more wait.

use std::{
    fmt,
    sync::{Arc, LazyLock},
    time::Duration,
};

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version,
    password_hash::{Error as HashError, phc::PasswordHash},
};
use aws::Secret;
use prometheus_client::metrics::counter::Counter;
use tokio::{sync::Semaphore, time::timeout};

use crate::store::canonical;

/// The shortest password that can be chosen, in characters. It has no other rule: a long one is a good one.
const MIN_LENGTH: usize = 12;

/// The longest password, in bytes.
const MAX_LENGTH: usize = 1024;

/// The cost of a hash: memory in KiB, passes, lanes.
///
/// Source: <https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html>
const COST: (u32, u32, u32) = (19 * 1024, 2, 1);

/// How many hashes are computed at once.
const MAX_HASHES: usize = 2;

/// How many wait until they can be computed.
const MAX_WAITING: usize = 30;

/// How long one may wait.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// A password as somebody has sent it. `Debug` does not print it.
#[derive(Clone, Debug)]
pub struct Password(Secret);

impl Password {
    /// Returns the password `text`, in composed form: keyboards differ in how they send the same letters.
    ///
    /// # Errors
    /// What a password may be, if this is none.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() || text.len() > MAX_LENGTH || text.contains('\0') {
            return Err("1 to 1,024 bytes without U+0000");
        }
        Ok(Self(Secret::new(canonical(text))))
    }

    /// Returns the password `text`, which somebody chooses.
    ///
    /// # Errors
    /// What a password may be, if this is none.
    pub fn chosen(text: &str) -> Result<Self, &'static str> {
        let chosen = Self::new(text);
        let is_long = |password: &Self| password.0.expose().chars().count() >= MIN_LENGTH;
        chosen
            .ok()
            .filter(is_long)
            .ok_or("at least 12 characters, and at most 1,024 bytes, without U+0000")
    }

    fn bytes(&self) -> &[u8] {
        self.0.expose().as_bytes()
    }
}

/// Why a password was not hashed or checked.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PasswordError {
    /// Too many others wait.
    #[error("too many passwords are being checked")]
    Busy,
    /// The hash cannot be computed, or the stored one cannot be read.
    #[error("the password cannot be hashed: {0}")]
    Hash(HashError),
}

/// The result of a check.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Checked {
    /// The password is wrong, or there is no user.
    Wrong,
    /// The password is right.
    Right,
    /// The password is right, and its hash is to be replaced: it was computed at another cost.
    RightButOld,
}

/// Computes hashes.
pub struct Passwords {
    argon2: Argon2<'static>,
    hashes: Arc<Semaphore>,
    waiting: Semaphore,
    /// How many hashes were begun.
    computed: Counter,
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords").finish_non_exhaustive()
    }
}

impl Default for Passwords {
    fn default() -> Self {
        let (memory, passes, lanes) = COST;
        // The default is the same but for future releases of the library.
        let params = Params::new(memory, passes, lanes, None).unwrap_or_default();
        Self {
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
            hashes: Arc::new(Semaphore::new(MAX_HASHES)),
            waiting: Semaphore::new(MAX_WAITING),
            computed: Counter::default(),
        }
    }
}

impl Passwords {
    /// Returns the same, with each hash counted by `computed`.
    pub(crate) fn counted_by(self, computed: Counter) -> Self {
        Self { computed, ..self }
    }

    /// Returns the hash of a password as a PHC string.
    ///
    /// # Errors
    /// If too many others wait, or the system has no random numbers.
    pub async fn hash(&self, password: &Password) -> Result<Secret, PasswordError> {
        let password = password.clone();
        self.compute(move |argon2| Ok(argon2.hash_password(password.bytes())?.to_string()))
            .await
            .map(Secret::new)
    }

    /// Checks a password against the hash of a user. Without a user it does the same work, and the password is
    /// wrong: how long an answer takes does not tell which names exist.
    ///
    /// # Errors
    /// If too many others wait, or the hash cannot be read.
    pub(crate) async fn check(
        &self,
        password: &Password,
        hash: Option<&Secret>,
    ) -> Result<Checked, PasswordError> {
        let (password, hash) = (password.clone(), hash.cloned());
        self.compute(move |argon2| {
            let Some(hash) = hash else {
                static NOBODY: LazyLock<[u8; 16]> =
                    LazyLock::new(|| *uuid::Uuid::new_v4().as_bytes());
                argon2.hash_password_with_salt(password.bytes(), &*NOBODY)?;
                return Ok(Checked::Wrong);
            };
            let hash = PasswordHash::new(hash.expose()).map_err(|_| HashError::EncodingInvalid)?;
            match argon2.verify_password(password.bytes(), &hash) {
                Ok(()) if is_present(argon2, &hash) => Ok(Checked::Right),
                Ok(()) => Ok(Checked::RightButOld),
                Err(HashError::PasswordInvalid) => Ok(Checked::Wrong),
                Err(error) => Err(error),
            }
        })
        .await
    }

    async fn compute<T: Send + 'static>(
        &self,
        compute: impl FnOnce(&Argon2<'_>) -> Result<T, HashError> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let waiting = self.waiting.try_acquire().map_err(|_| PasswordError::Busy)?;
        let permit = timeout(MAX_WAIT, Arc::clone(&self.hashes).acquire_owned()).await;
        let permit = permit.ok().and_then(Result::ok).ok_or(PasswordError::Busy)?;
        drop(waiting);
        self.computed.inc();
        let argon2 = self.argon2.clone();
        let computed = tokio::task::spawn_blocking(move || {
            // Kept until the memory is free, also if the request is given up meanwhile.
            let _permit = permit;
            compute(&argon2)
        });
        // It ends unless the runtime does.
        computed.await.map_err(|_| PasswordError::Busy)?.map_err(PasswordError::Hash)
    }
}

/// Returns whether a hash was computed by the present algorithm at the present cost.
fn is_present(argon2: &Argon2<'_>, hash: &PasswordHash) -> bool {
    let (memory, passes, lanes) = COST;
    let is_cost = |params: Params| {
        (params.m_cost(), params.t_cost(), params.p_cost()) == (memory, passes, lanes)
    };
    hash.algorithm == Algorithm::Argon2id.ident()
        && hash.version == Some(Version::V0x13.into())
        && Params::try_from(hash).is_ok_and(is_cost)
        && argon2
            .params()
            .output_len()
            .is_none_or(|length| hash.hash.as_ref().is_some_and(|output| output.len() == length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_checked_and_an_old_hash_is_found_out() {
        let passwords = Passwords::default();
        let password = Password::chosen("correct horse battery").unwrap();
        let hash = passwords.hash(&password).await.unwrap();
        assert!(hash.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.expose());
        assert_ne!(hash, passwords.hash(&password).await.unwrap(), "another salt each time");
        assert_eq!(passwords.check(&password, Some(&hash)).await, Ok(Checked::Right));
        let wrong = Password::new("incorrect horse").unwrap();
        let before = passwords.computed.get();
        assert_eq!(passwords.check(&wrong, Some(&hash)).await, Ok(Checked::Wrong));
        assert_eq!(passwords.check(&wrong, None).await, Ok(Checked::Wrong));
        assert_eq!(passwords.computed.get(), before + 2, "the same work without a user");

        let cheap = Params::new(1024, 1, 1, None).unwrap();
        let cheap = Argon2::new(Algorithm::Argon2id, Version::V0x13, cheap);
        let cheap = Secret::new(cheap.hash_password(password.bytes()).unwrap().to_string());
        assert_eq!(passwords.check(&password, Some(&cheap)).await, Ok(Checked::RightButOld));
        let broken = passwords.check(&password, Some(&Secret::new("$argon2id$"))).await;
        assert!(matches!(broken, Err(PasswordError::Hash(_))), "{broken:?}");
    }

    #[tokio::test]
    async fn more_hashes_than_can_wait_are_refused_at_once() {
        let passwords = Passwords::default();
        let password = Password::new("x").unwrap();
        let _all = Arc::clone(&passwords.hashes).acquire_many_owned(2).await.unwrap();
        let _others = passwords.waiting.acquire_many(30).await.unwrap();
        assert_eq!(passwords.check(&password, None).await, Err(PasswordError::Busy));
        assert_eq!(passwords.computed.get(), 0);
    }

    #[test]
    fn a_password_has_a_length_and_no_other_rule() {
        for text in ["", "nul\0", &"x".repeat(1025)] {
            assert!(Password::new(text).is_err(), "{text:?}");
        }
        for text in ["elevenchars", "", "twelve chars\0", &"é".repeat(513)] {
            assert!(Password::chosen(text).is_err(), "{text:?}");
        }
        for text in ["aaaaaaaaaaaa", "映画映画映画映画映画映画", "            ", &"x".repeat(1024)]
        {
            assert!(Password::chosen(text).is_ok(), "{text:?}");
        }
        let (composed, decomposed) = ("caf\u{e9} au lait!", "cafe\u{301} au lait!");
        let bytes = |text| Password::chosen(text).unwrap().bytes().to_vec();
        assert_eq!(bytes(composed), bytes(decomposed));
        assert_eq!(format!("{:?}", Password::new("hunter2").unwrap()), "Password((secret))");
    }
}
