//! The built-in issuer: makes access tokens, and verifies them (RFC 9068).

use std::time::Duration;

use aws::Secret;
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation,
    jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash},
};
use rustls::pki_types::{
    PrivatePkcs8KeyDer,
    pem::{self, PemObject},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Caller, KeyPrefixes, Refusal, Role, Roles, ring_provider};

/// Who issues the tokens, and for whom. The keys tell deployments apart.
const ISSUER: &str = "movies-r-us";
const AUDIENCE: &str = "movies-r-us";

/// What tells access tokens from other tokens (RFC 9068, 2.1).
const TYPE: &str = "at+jwt";

/// How long an access token holds.
pub const ACCESS_TOKEN_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// How much the clocks of replicas may differ, in seconds.
const LEEWAY: u64 = 10;

/// Makes access tokens, and verifies them.
pub struct Issuer {
    signing_key: EncodingKey,
    /// The first one belongs to the signing key. The others hold while it is rotated.
    keys: Vec<VerifyingKey>,
    validation: Validation,
}

struct VerifyingKey {
    id: String,
    key: DecodingKey,
    public: Jwk,
}

/// Whom a token is for.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Who it is: see [`Caller::subject`].
    pub subject: String,
    /// The name.
    pub name: String,
    /// What the subject may do.
    pub roles: Roles,
    /// Which object keys the subject may see and write.
    pub prefixes: KeyPrefixes,
    /// The session that the token belongs to.
    pub session: String,
}

/// A new access token.
#[derive(Clone, Debug)]
pub struct AccessToken {
    /// The token.
    pub token: String,
    /// How long it holds.
    pub lifetime: Duration,
}

/// The signing key is not one.
#[derive(Debug, thiserror::Error)]
#[error(
    "the key of access tokens must be an Ed25519 private key in PEM, as `openssl genpkey -algorithm ed25519` \
     prints it"
)]
pub struct KeyError;

/// Returns a new key for [`Issuer::new`], in PEM.
///
/// # Errors
/// If the system has no randomness.
pub fn generate_key() -> Result<Secret, KeyError> {
    let key = STANDARD.encode(ring_provider::generate().map_err(|_| KeyError)?);
    let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
    let mut rest = key.as_str();
    while !rest.is_empty() {
        let (line, others) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = others;
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    Ok(Secret::new(pem))
}

/// The claims of an access token. Other types than these are refused.
#[derive(Deserialize, Serialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    name: String,
    jti: String,
    /// The session.
    sid: String,
    roles: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    prefixes: Vec<String>,
    /// Since when it is valid, in seconds. With a fraction: a token that is issued in the second of a revocation, but
    /// after it, holds.
    iat: f64,
    nbf: u64,
    exp: u64,
}

impl Issuer {
    /// Returns the issuer with the keys in `texts`, which are PEM. The first key signs; tokens of the others hold,
    /// too.
    ///
    /// # Errors
    /// If there is no key, or something else.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, KeyError> {
        ring_provider::install();
        let keys = texts
            .into_iter()
            .flat_map(|text| PrivatePkcs8KeyDer::pem_slice_iter(text.as_bytes()))
            .map(|key| Ok(EncodingKey::from_ed_der(key?.secret_pkcs8_der())));
        let keys: Result<Vec<EncodingKey>, pem::Error> = keys.collect();
        let keys = keys.map_err(|_| KeyError)?;
        let verifying: Result<Vec<VerifyingKey>, _> = keys.iter().map(VerifyingKey::new).collect();
        let verifying = verifying.map_err(|_| KeyError)?;
        let signing_key = keys.into_iter().next().ok_or(KeyError)?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY;
        Ok(Self { signing_key, keys: verifying, validation })
    }

    /// Returns a new access token.
    ///
    /// # Errors
    /// None in practice: the key has been read already.
    pub fn issue(&self, subject: &Subject) -> Result<AccessToken, jsonwebtoken::errors::Error> {
        let now = Utc::now();
        let seconds = u64::try_from(now.timestamp()).unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "milliseconds have 41 bits")]
        let issued_at = now.timestamp_millis() as f64 / 1000.0;
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: subject.subject.clone(),
            name: subject.name.clone(),
            jti: Uuid::new_v4().to_string(),
            sid: subject.session.clone(),
            roles: subject.roles.iter().map(|role| role.name().to_owned()).collect(),
            prefixes: subject.prefixes.list().to_vec(),
            iat: issued_at,
            nbf: seconds,
            exp: seconds + ACCESS_TOKEN_LIFETIME.as_secs(),
        };
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(TYPE.to_owned());
        header.kid = self.keys.first().map(|key| key.id.clone());
        let token = jsonwebtoken::encode(&header, &claims, &self.signing_key)?;
        Ok(AccessToken { token, lifetime: ACCESS_TOKEN_LIFETIME })
    }

    /// Returns the public keys.
    pub(crate) fn public_keys(&self) -> JwkSet {
        JwkSet { keys: self.keys.iter().map(|key| key.public.clone()).collect() }
    }

    /// Returns whether one of the keys has this id.
    pub(super) fn has_key(&self, id: &str) -> bool {
        self.keys.iter().any(|key| key.id == id)
    }

    /// Verifies a token with this header. Returns who has it.
    ///
    /// # Errors
    /// If it does not hold.
    pub(super) fn verify(&self, header: &Header, token: &str) -> Result<Caller, Refusal> {
        let key = self.keys.iter().find(|key| header.kid.as_ref() == Some(&key.id));
        let key = key.ok_or(Refusal::UNKNOWN_KEY)?;
        if header.typ.as_deref() != Some(TYPE) {
            return Err(Refusal::Invalid("the token is no access token"));
        }
        let decoded = jsonwebtoken::decode::<Claims>(token, &key.key, &self.validation);
        let claims = decoded.map_err(|error| Refusal::of(&error))?.claims;
        let end = i64::try_from(claims.exp).ok().and_then(DateTime::from_timestamp_secs);
        let times = (timestamp(claims.iat), end);
        let (Some(issued_at), Some(ends_at)) = times else {
            return Err(Refusal::Invalid("the times of the token are out of range"));
        };
        Ok(Caller {
            subject: claims.sub.into(),
            name: claims.name.into(),
            roles: claims.roles.iter().filter_map(|name| Role::from_name(name)).collect(),
            prefixes: KeyPrefixes::new(claims.prefixes),
            issued_at: Some(issued_at),
            ends_at: Some(ends_at),
            session: Some(claims.sid.into()),
        })
    }
}

impl VerifyingKey {
    fn new(private: &EncodingKey) -> Result<Self, jsonwebtoken::errors::Error> {
        let key = ring_provider::public_key(private.as_bytes())?;
        let mut public = Jwk::from_decoding_key(&key, Some(Algorithm::EdDSA))?;
        let id = public.thumbprint(ThumbprintHash::SHA256)?;
        public.common.key_id = Some(id.clone());
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self { id, key, public })
    }
}

/// Returns the time so many seconds after 1970, if there is one.
fn timestamp(seconds: f64) -> Option<DateTime<Utc>> {
    #[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
    DateTime::from_timestamp_millis((seconds * 1000.0).round() as i64)
}
