//! An outside issuer of access tokens (OpenID Connect): an organisation keeps its own sign-on.
//!
//! One task fetches the keys of the issuer: at the start, every few minutes, and when a token names a key that is not
//! known. Requests read what it has fetched.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::DateTime;
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, Header, Validation,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use reqwest::{Client, Url};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use super::{Caller, KeyPrefixes, Refusal, Role, Roles, ring_provider};
use crate::{
    config::{OutsideIssuer, is_protected},
    fetch,
    telemetry::chain,
    terminal::excerpt,
};

/// How much the clock of the issuer may differ, in seconds.
const LEEWAY: u64 = 60;

/// How often the keys are fetched again.
const INTERVAL: Duration = Duration::from_secs(10 * 60);

/// When keys are fetched again that could not be fetched.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// How old keys may be that cannot be fetched again.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// How long one request to the issuer may take, and how long a request waits for a fetch.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
const WAIT_TIMEOUT: Duration = Duration::from_secs(7);

/// The largest document of the issuer, in bytes, and the largest number of keys.
const MAX_DOCUMENT: usize = 1 << 20;
const MAX_KEYS: usize = 100;

/// The longest name of a caller, in characters.
const MAX_NAME: usize = 200;

/// Verifies the tokens of an outside issuer.
pub(super) struct Outside {
    config: OutsideIssuer,
    http: Client,
    fetched: watch::Sender<Fetched>,
    /// Asks for the keys.
    wanted: Notify,
}

/// What the last fetches have brought.
#[derive(Clone, Default)]
struct Fetched {
    keys: Option<Keys>,
    /// When the last fetch ended, and whether it succeeded.
    last: Option<(Instant, bool)>,
}

/// The keys of the issuer, by id.
#[derive(Clone)]
struct Keys {
    by_id: Arc<HashMap<String, Key>>,
    fetched_at: Instant,
}

struct Key {
    key: DecodingKey,
    algorithms: Vec<Algorithm>,
}

/// Why the keys cannot be fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{0} cannot be fetched")]
    Http(Url, #[source] reqwest::Error),
    #[error("{0} is larger than 1 MiB")]
    TooLarge(Url),
    #[error("{0} is not what OpenID Connect requires")]
    Malformed(Url, #[source] serde_json::Error),
    #[error("the issuer calls itself {0}")]
    OtherIssuer(String),
    #[error("the address of the keys must be https: {0}")]
    NotHttps(String),
    #[error("no key can be used")]
    NoKeys,
}

/// What discovery says (OpenID Connect Discovery 1.0, 4.2).
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// A set of keys. A key of a kind that is not known is no reason to refuse the others.
#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

impl Outside {
    /// Returns a verifier that knows no keys yet.
    ///
    /// # Errors
    /// If the root certificates cannot be loaded.
    pub(super) fn new(config: OutsideIssuer) -> Result<Self, reqwest::Error> {
        ring_provider::install();
        let http = fetch::client(REQUEST_TIMEOUT)?;
        let (fetched, wanted) = (watch::Sender::default(), Notify::new());
        Ok(Self { config, http, fetched, wanted })
    }

    /// Fetches the keys, and again whenever it is time.
    pub(super) async fn keep_fetching(&self) {
        loop {
            let fetched = self.fetch().await;
            let succeeded = fetched.is_ok();
            match &fetched {
                Ok(keys) => info!(keys = keys.len(), "keys of the outside issuer fetched"),
                Err(error) => warn!(
                    error = chain(error),
                    issuer = self.config.issuer,
                    "keys of the outside issuer cannot be fetched"
                ),
            }
            let now = Instant::now();
            self.fetched.send_modify(|state| {
                state.last = Some((now, succeeded));
                if let Ok(keys) = fetched {
                    state.keys = Some(Keys { by_id: Arc::new(keys), fetched_at: now });
                }
            });
            sleep(self.pause(succeeded)).await;
            if succeeded {
                let _ = timeout(INTERVAL, self.wanted.notified()).await;
            }
        }
    }

    /// Returns the shortest time between two fetches, whatever keys the tokens name.
    fn pause(&self, succeeded: bool) -> Duration {
        if succeeded { self.config.min_fetch_interval } else { RETRY_INTERVAL }
    }

    /// Returns whether the keys may be fetched now.
    fn may_fetch(&self, state: &Fetched) -> bool {
        state.last.is_none_or(|(at, succeeded)| at.elapsed() >= self.pause(succeeded))
    }

    async fn fetch(&self) -> Result<HashMap<String, Key>, FetchError> {
        let issuer = self.config.issuer.as_str();
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let url = Url::parse(&url).map_err(|_| FetchError::OtherIssuer(issuer.to_owned()))?;
        let discovery: Discovery = self.get(url).await?;
        if discovery.issuer != issuer {
            return Err(FetchError::OtherIssuer(excerpt(&discovery.issuer, MAX_NAME)));
        }
        let url = Url::parse(&discovery.jwks_uri).ok().filter(is_protected);
        let url = url.ok_or(FetchError::NotHttps(discovery.jwks_uri))?;
        let set: KeySet = self.get(url).await?;
        let keys = set.keys.into_iter().take(MAX_KEYS).filter_map(Key::from_json);
        let keys: HashMap<String, Key> = keys.collect();
        if keys.is_empty() { Err(FetchError::NoKeys) } else { Ok(keys) }
    }

    async fn get<T: DeserializeOwned>(&self, url: Url) -> Result<T, FetchError> {
        let failed = |error| FetchError::Http(url.clone(), error);
        let response = self.http.get(url.clone()).send().await;
        let mut response =
            response.and_then(reqwest::Response::error_for_status).map_err(failed)?;
        let document = fetch::body(&mut response, MAX_DOCUMENT).await.map_err(failed)?;
        let Some(document) = document else { return Err(FetchError::TooLarge(url)) };
        serde_json::from_slice(&document).map_err(|error| FetchError::Malformed(url, error))
    }

    /// Verifies a token with this header. Returns who has it.
    ///
    /// # Errors
    /// If it does not hold, or the keys of the issuer are not known.
    pub(super) async fn verify(&self, header: &Header, token: &str) -> Result<Caller, Refusal> {
        let id = header.kid.as_deref().ok_or(Refusal::UNKNOWN_KEY)?;
        let mut fetched = self.fetched.subscribe();
        let mut state = fetched.borrow_and_update().clone();
        if !state.has(id) && self.may_fetch(&state) {
            self.wanted.notify_one();
            // If nothing comes in time, what is known decides.
            let _ = timeout(WAIT_TIMEOUT, fetched.changed()).await;
            state = fetched.borrow().clone();
        }
        let keys = state.keys.filter(|keys| keys.fetched_at.elapsed() < MAX_AGE);
        let keys = keys.ok_or(Refusal::Unavailable)?;
        let key = keys.by_id.get(id).ok_or(Refusal::UNKNOWN_KEY)?;
        if !key.algorithms.contains(&header.alg) {
            return Err(Refusal::Invalid("the key is not for the algorithm of the token"));
        }
        self.caller(key, header.alg, token)
    }

    fn caller(&self, key: &Key, algorithm: Algorithm, token: &str) -> Result<Caller, Refusal> {
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        validation.set_issuer(&[&self.config.issuer]);
        validation.validate_nbf = true;
        // Checked below: the audience may stand elsewhere.
        validation.validate_aud = false;
        validation.leeway = LEEWAY;
        let decoded = jsonwebtoken::decode::<Map<String, Value>>(token, &key.key, &validation);
        let claims = decoded.map_err(|error| Refusal::of(&error))?.claims;
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        // The library accepts an array of issuers, too.
        if text("iss") != Some(&self.config.issuer) {
            return Err(Refusal::Invalid("the token is of another issuer"));
        }
        if !self.is_audience(&claims) {
            return Err(Refusal::Invalid("the token is for another audience"));
        }
        // An ID token tells a client who somebody is. It travels less protected, and opens nothing.
        let is_id_token = text("token_use").is_some_and(|used| used != "access")
            || text("typ").is_some_and(|kind| kind.eq_ignore_ascii_case("id"));
        if is_id_token {
            return Err(Refusal::Invalid("the token is an ID token: send the access token"));
        }
        let subject = text("sub").ok_or(Refusal::Invalid("the token has no subject"))?;
        let name = text(&self.config.name_claim).unwrap_or(subject);
        let time = |name: &str| {
            #[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
            let seconds = claims.get(name).and_then(Value::as_f64).map(|time| time as i64);
            seconds.and_then(DateTime::from_timestamp_secs)
        };
        Ok(Caller {
            subject: format!("{}#{subject}", self.config.issuer).into(),
            // Users of this service and of the issuer may have equal names.
            name: format!("{} ({})", excerpt(name, MAX_NAME), self.host()).into(),
            roles: roles(claim(&claims, &self.config.roles_claim)),
            prefixes: KeyPrefixes::ALL,
            issued_at: time("iat"),
            ends_at: Some(time("exp").ok_or(Refusal::Invalid("the token has no end"))?),
            session: None,
        })
    }

    /// Returns the issuer without its scheme.
    fn host(&self) -> &str {
        let issuer = &*self.config.issuer;
        issuer.split_once("://").map_or(issuer, |(_, host)| host)
    }

    /// Returns whether a token is for this service: by `aud`, or by `client_id` if it has none, as the tokens of
    /// Amazon Cognito.
    fn is_audience(&self, claims: &Map<String, Value>) -> bool {
        let is_ours = |value: &Value| {
            value.as_str().is_some_and(|value| self.config.audiences.iter().any(|own| own == value))
        };
        match claims.get("aud") {
            None => claims.get("client_id").is_some_and(is_ours),
            Some(Value::Array(values)) => values.iter().any(is_ours),
            Some(value) => is_ours(value),
        }
    }
}

impl Fetched {
    fn has(&self, id: &str) -> bool {
        self.keys.as_ref().is_some_and(|keys| keys.by_id.contains_key(id))
    }
}

impl Key {
    /// Returns a key for signatures, and its id. None if it is another one, or of a kind that is not accepted.
    fn from_json(value: Value) -> Option<(String, Self)> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let id = jwk.common.key_id.clone()?;
        if jwk.common.public_key_use.as_ref().is_some_and(|of| *of != PublicKeyUse::Signature) {
            return None;
        }
        let fits = |algorithm: &Algorithm| match (&jwk.algorithm, algorithm) {
            (AlgorithmParameters::EllipticCurve(curve), Algorithm::ES256) => {
                curve.curve == EllipticCurve::P256
            }
            (AlgorithmParameters::EllipticCurve(curve), Algorithm::ES384) => {
                curve.curve == EllipticCurve::P384
            }
            (AlgorithmParameters::OctetKeyPair(curve), Algorithm::EdDSA) => {
                curve.curve == EllipticCurve::Ed25519
            }
            (AlgorithmParameters::RSA(_), algorithm) => algorithm.family() == AlgorithmFamily::Rsa,
            _ => false,
        };
        let mut algorithms = ring_provider::ALGORITHMS.to_vec();
        algorithms.retain(fits);
        if let Some(only) = jwk.common.key_algorithm {
            algorithms.retain(|algorithm| KeyAlgorithm::from(*algorithm) == only);
        }
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        (!algorithms.is_empty()).then_some((id, Self { key, algorithms }))
    }
}

/// Returns the claim of this name, or at the end of this path of names with dots between them.
fn claim<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let mut names = path.split('.');
    let first = claims.get(names.next()?)?;
    names.try_fold(first, |value, name| value.get(name))
}

/// Returns the roles among the values of a claim: an array, or names with spaces between them.
fn roles(claim: Option<&Value>) -> Roles {
    match claim {
        Some(Value::Array(values)) => {
            values.iter().filter_map(Value::as_str).filter_map(Role::from_name).collect()
        }
        Some(Value::String(names)) => {
            names.split_ascii_whitespace().filter_map(Role::from_name).collect()
        }
        _ => Roles::default(),
    }
}
