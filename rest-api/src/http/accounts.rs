//! `/auth/me` and `/.well-known/jwks.json`: who is calling, and the keys of access tokens.

use chrono::{DateTime, Utc};
use http::{HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    params,
    request::Request,
    response::{Answer, json},
};
use crate::accounts::{Issuer, KeyPrefixes, Roles};

/// How long others may use the keys without asking again. A rotation lets both keys hold for longer.
const KEYS_CACHED: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// The answer of `GET /auth/me`.
#[derive(JsonSchema, Serialize)]
pub(super) struct Me<'a> {
    /// The name, as history and ledger show it.
    name: &'a str,
    /// What the caller may do.
    roles: Roles,
    /// When the token ends. Null for the API token.
    expires_at: Option<DateTime<Utc>>,
    /// The beginnings of the object keys that the caller is bound to; all keys if there is none.
    prefixes: &'a KeyPrefixes,
}

/// `GET /auth/me`: who is calling.
pub(super) async fn me(request: Request) -> Answer {
    params::none(&request.query)?;
    let caller = request.caller()?;
    let me = Me {
        name: &caller.name,
        roles: caller.roles,
        expires_at: caller.ends_at,
        prefixes: &caller.prefixes,
    };
    json(StatusCode::OK, &me)
}

/// `GET /.well-known/jwks.json`: the public keys of access tokens (RFC 7517).
pub(super) async fn keys(request: Request) -> Answer {
    params::none(&request.query)?;
    let keys = request.app.access.accounts.issuer().map(Issuer::public_keys).unwrap_or_default();
    let mut response = json(StatusCode::OK, &keys)?;
    response.headers_mut().insert(header::CACHE_CONTROL, KEYS_CACHED);
    Ok(response)
}
