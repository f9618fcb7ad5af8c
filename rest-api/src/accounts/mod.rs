//! Who is calling, and what the caller may do.
//!
//! - `role` has the roles. The route table says which of them may call a route.
//! - `caller` is somebody whose credential holds.
//!
//! [`Accounts`] turns the header `Authorization` of a request into a caller.

mod caller;
mod role;

use std::sync::Arc;

use http::{HeaderMap, header};

pub use caller::{Caller, KeyPrefixes};
pub use role::{Role, Roles};

use crate::config::TokenDigest;

/// The name of whoever sends the API token, as history and ledger show it.
const API_TOKEN_NAME: &str = "API token";

/// The longest token, in bytes.
const MAX_TOKEN: usize = 8 << 10;

/// Checks the credentials of requests.
pub(crate) struct Accounts {
    /// A request may carry any of these.
    api_tokens: Vec<TokenDigest>,
    /// Whoever sends one of them.
    service: Arc<Caller>,
    public_ledger: bool,
}

/// Why a credential does not identify a caller.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// It is wrong, for this reason.
    Invalid(&'static str),
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
    pub(crate) fn new(api_tokens: Vec<TokenDigest>, public_ledger: bool) -> Self {
        let service = Caller {
            subject: "service".into(),
            name: API_TOKEN_NAME.into(),
            roles: Roles::of(&[Role::Service]),
            prefixes: KeyPrefixes::ALL,
            ends_at: None,
            session: None,
        };
        Self { api_tokens, service: Arc::new(service), public_ledger }
    }

    /// Returns who sends a request with these headers; none if it has no bearer token.
    ///
    /// # Errors
    /// If the token does not hold.
    pub(crate) async fn authenticate(
        &self,
        headers: &HeaderMap,
    ) -> Result<Option<Arc<Caller>>, Refusal> {
        let Some(token) = bearer_token(headers)? else { return Ok(None) };
        match self.known_token(&TokenDigest::of(token)) {
            Some(caller) => Ok(Some(caller)),
            None => Err(Refusal::Invalid("the token is unknown")),
        }
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
        self.api_tokens.contains(digest).then(|| Arc::clone(&self.service))
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
