//! Who is calling, and what the caller may do.
//!
//! - `role` has the roles. The route table says which of them may call a route.
//! - `caller` is somebody whose credential holds.
//! - `tokens` is the built-in issuer of access tokens, `outside` verifies those of another one. `ring_provider` has
//!   the signatures of both.
//! - `revocations` says which tokens do not hold any more, `ended_sessions` keeps it.
//! - `rules`, `passwords` and `attempts` are what users of the service's own sign in with, and `refresh_token` is what
//!   they stay signed in with.
//!
//! `Accounts` turns the header `Authorization` of a request into a caller, without a statement.

mod attempts;
mod caller;
mod ended_sessions;
mod outside;
mod passwords;
mod refresh_token;
mod revocations;
mod ring_provider;
mod role;
mod rules;
mod tokens;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use http::{HeaderMap, header};
use jsonwebtoken::errors::{Error, ErrorKind};
use quick_cache::sync::Cache;

pub(crate) use attempts::{Attempts, network};
pub use caller::{Caller, KeyPrefixes};
pub(crate) use passwords::Checked;
pub use passwords::{Password, PasswordError, Passwords};
pub(crate) use refresh_token::RefreshToken;
pub use revocations::{Revocations, Revoked};
pub use role::{Role, Roles};
pub use rules::{check_prefixes, roles_of_user, user_name};
pub use tokens::{ACCESS_TOKEN_LIFETIME, AccessToken, Issuer, KeyError, Subject, generate_key};

use crate::config::{OutsideIssuer, TokenDigest};
use outside::Outside;

/// Subject and name of whoever sends the API token. History and ledger show the name.
const SERVICE: (&str, &str) = ("service", "API token");

/// The longest token, in bytes.
const MAX_TOKEN: usize = 8 << 10;

/// How many tokens are remembered that hold, and for how long: a key can be withdrawn before its tokens end.
const REMEMBERED: usize = 10_000;
const REMEMBERED_FOR: Duration = Duration::from_secs(5 * 60);

/// Checks the credentials of requests.
pub(crate) struct Accounts {
    /// A request may carry any of these.
    api_tokens: Vec<TokenDigest>,
    /// Whoever sends one of them.
    service: Arc<Caller>,
    public_ledger: bool,
    issuer: Option<Issuer>,
    outside: Option<Outside>,
    /// Which tokens do not hold any more.
    pub(crate) revocations: Arc<Revocations>,
    /// Tokens that hold, so that one is verified once.
    remembered: Cache<TokenDigest, Remembered>,
}

#[derive(Clone)]
struct Remembered {
    caller: Arc<Caller>,
    until: DateTime<Utc>,
}

/// Why a credential does not identify a caller.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// It is wrong, for this reason.
    Invalid(&'static str),
    /// It cannot be checked: the keys of its issuer are not known.
    Unavailable,
}

/// What is known of a credential without waiting.
pub(crate) enum Known {
    /// There is none.
    Nobody,
    Caller(Arc<Caller>),
    /// It has to be checked.
    Unknown,
}

impl Accounts {
    /// Returns accounts with these API tokens, the issuer of their own tokens, and an outside one.
    ///
    /// # Errors
    /// If the root certificates for the outside issuer cannot be loaded.
    pub(crate) fn new(
        api_tokens: Vec<TokenDigest>,
        issuer: Option<Issuer>,
        outside: Option<OutsideIssuer>,
        public_ledger: bool,
    ) -> Result<Self, reqwest::Error> {
        let (subject, name) = SERVICE;
        let service = Caller {
            subject: subject.into(),
            name: name.into(),
            roles: Roles::of(&[Role::Service]),
            prefixes: KeyPrefixes::ALL,
            issued_at: None,
            ends_at: None,
            session: None,
        };
        Ok(Self {
            api_tokens,
            service: Arc::new(service),
            public_ledger,
            issuer,
            outside: outside.map(Outside::new).transpose()?,
            revocations: Arc::default(),
            remembered: Cache::new(REMEMBERED),
        })
    }

    /// Returns the issuer of access tokens; none if there is no key for it.
    pub(crate) fn issuer(&self) -> Option<&Issuer> {
        self.issuer.as_ref()
    }

    /// Keeps the keys of the outside issuer, if there is one.
    pub(crate) async fn keep_fetching_keys(&self) {
        if let Some(outside) = &self.outside {
            outside.keep_fetching().await;
        }
    }

    /// Returns who sends a request with these headers; none if it has no bearer token.
    ///
    /// # Errors
    /// If the token does not hold, or cannot be checked.
    pub(crate) async fn authenticate(
        &self,
        headers: &HeaderMap,
    ) -> Result<Option<Arc<Caller>>, Refusal> {
        let Some(token) = bearer_token(headers)? else { return Ok(None) };
        let digest = TokenDigest::of(token);
        if let Some(caller) = self.known_token(&digest) {
            return Ok(Some(caller));
        }
        let caller = Arc::new(self.verify(token).await?);
        if self.revocations.contain(&caller) {
            return Err(Refusal::Invalid("the token was revoked"));
        }
        let until = Utc::now() + REMEMBERED_FOR;
        let until = caller.ends_at.map_or(until, |end| end.min(until));
        self.remembered.insert(digest, Remembered { caller: Arc::clone(&caller), until });
        Ok(Some(caller))
    }

    /// Returns who sends a request with these headers, as far as that is known at once.
    pub(crate) fn known(&self, headers: &HeaderMap) -> Known {
        if !headers.contains_key(header::AUTHORIZATION) {
            return Known::Nobody;
        }
        match bearer_token(headers) {
            Ok(None) => Known::Nobody,
            Ok(Some(token)) => {
                self.known_token(&TokenDigest::of(token)).map_or(Known::Unknown, Known::Caller)
            }
            Err(_) => Known::Unknown,
        }
    }

    fn known_token(&self, digest: &TokenDigest) -> Option<Arc<Caller>> {
        if self.api_tokens.contains(digest) {
            return Some(Arc::clone(&self.service));
        }
        let Remembered { caller, until } = self.remembered.get(digest)?;
        (Utc::now() < until && !self.revocations.contain(&caller)).then_some(caller)
    }

    async fn verify(&self, token: &str) -> Result<Caller, Refusal> {
        let header = jsonwebtoken::decode_header(token);
        let header = header.map_err(|_| Refusal::Invalid("the token is unknown"))?;
        if header.crit.is_some() {
            return Err(Refusal::Invalid("the token has critical extensions"));
        }
        let is_own = |issuer: &&Issuer| header.kid.as_ref().is_some_and(|id| issuer.has_key(id));
        match (self.issuer.as_ref().filter(is_own), &self.outside) {
            (Some(issuer), _) => issuer.verify(&header, token),
            (None, Some(outside)) => outside.verify(&header, token).await,
            (None, None) => Err(Refusal::UNKNOWN_KEY),
        }
    }

    /// Returns whether everybody reads the ledger.
    pub(crate) fn has_public_ledger(&self) -> bool {
        self.public_ledger
    }

    /// Returns whether `caller` may read the whole ledger: any role may, unless it is bound to prefixes.
    pub(crate) fn reads_ledger(&self, caller: Option<&Caller>) -> bool {
        let may = |caller: &Caller| !caller.roles.is_empty() && caller.prefixes.are_all();
        self.public_ledger || caller.is_some_and(may)
    }
}

impl Refusal {
    const UNKNOWN_KEY: Self = Self::Invalid("the token is signed with a key that is not known");

    /// Returns why the library refuses a token.
    fn of(error: &Error) -> Self {
        Self::Invalid(match error.kind() {
            ErrorKind::ExpiredSignature => "the token has expired",
            ErrorKind::ImmatureSignature => "the token is not valid yet",
            ErrorKind::InvalidIssuer => "the token is of another issuer",
            ErrorKind::InvalidAudience => "the token is for another audience",
            ErrorKind::InvalidSignature => "the signature of the token is wrong",
            ErrorKind::InvalidAlgorithm => "the token has an algorithm that is not accepted",
            ErrorKind::MissingRequiredClaim(_)
            | ErrorKind::InvalidClaimFormat(_)
            | ErrorKind::Json(_) => "a claim of the token is missing, or has a wrong type",
            _ => "the token is malformed",
        })
    }
}

/// Returns the bearer token of a request. Another scheme is not ours: a proxy may have sent it.
///
/// # Errors
/// If there are several, or it is too long.
fn bearer_token(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::Invalid("there is more than one header Authorization"));
    }
    let value = value.to_str().map_err(|_| Refusal::Invalid("the token is not ASCII"))?;
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Ok(None);
    }
    let token = token.trim();
    if token.len() > MAX_TOKEN {
        return Err(Refusal::Invalid("the token is longer than 8 KiB"));
    }
    Ok(Some(token))
}
