//! Access tokens: good ones, and forged ones.

use std::sync::LazyLock;

use aws::Secret;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rest_api::accounts::{Issuer, KeyPrefixes, Role, Roles, Subject, generate_key};
use ring::signature::Ed25519KeyPair;
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::{Value, json};

/// The key with which the services of the tests sign access tokens.
pub(crate) static KEY: LazyLock<Secret> = LazyLock::new(|| generate_key().unwrap());

/// Returns an access token for somebody with these roles.
pub(crate) fn token(roles: &[Role]) -> String {
    bound_token(roles, &[])
}

/// Returns an access token for somebody with these roles, who is bound to these key prefixes.
pub(crate) fn bound_token(roles: &[Role], prefixes: &[&str]) -> String {
    let prefixes = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
    issue(&KEY, Roles::of(roles), KeyPrefixes::new(prefixes))
}

/// Returns an access token that is signed with `key`.
pub(crate) fn token_of(key: &Secret) -> String {
    issue(key, Roles::of(&[Role::Editor]), KeyPrefixes::ALL)
}

fn issue(key: &Secret, roles: Roles, prefixes: KeyPrefixes) -> String {
    let name = "ada".to_owned();
    let (subject, session) = ("user-of-a-test".to_owned(), "session-of-a-test".to_owned());
    let subject = Subject { subject, name, roles, prefixes, session };
    Issuer::new([key.expose()]).unwrap().issue(&subject).unwrap().token
}

/// The parts of a token, which a test changes and signs again.
pub(crate) struct Parts {
    pub(crate) header: Value,
    pub(crate) claims: Value,
}

impl Parts {
    pub(crate) fn of(token: &str) -> Self {
        let parts: Vec<&str> = token.split('.').collect();
        let parse = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap());
        Self { header: parse(parts[0]).unwrap(), claims: parse(parts[1]).unwrap() }
    }

    /// Returns the parts with another member of the header.
    pub(crate) fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header[name] = value.into();
        self
    }

    /// Returns the parts with another claim; without it if it is null.
    pub(crate) fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let claims = self.claims.as_object_mut().unwrap();
        match value {
            Value::Null => claims.remove(name),
            value => claims.insert(name.to_owned(), value),
        };
        self
    }

    /// Returns the token that `sign` signs.
    pub(crate) fn signed(&self, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encode(&self.header), encode(&self.claims));
        let signature = URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    /// Returns the token that `key` signs.
    pub(crate) fn signed_with(&self, key: &Secret) -> String {
        let der = PrivatePkcs8KeyDer::from_pem_slice(key.expose().as_bytes()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
        self.signed(|message| pair.sign(message).as_ref().to_vec())
    }
}

/// Returns the present time in seconds, and so many more.
pub(crate) fn seconds_from_now(seconds: i64) -> Value {
    json!(chrono::Utc::now().timestamp() + seconds)
}
