//! The configuration of the service, read from environment variables.
//!
//! Every variable is read through a lookup function, so that tests do not change the environment of
//! their process. All missing and malformed variables are reported together, one a line.

mod reader;
mod snapshots;

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use sha2::{Digest, Sha256};

pub use crate::{
    ignored_keys::{DEFAULT_IGNORED_KEYS, IgnoredKeys},
    retry::Retry,
};
pub use aws::Secret;
pub use snapshots::{MaxWithdraw, SnapshotPrefixes, Snapshots};

use reader::Reader;
pub(crate) use reader::is_protected;

/// The default of [`Config::cache_bytes`].
pub const DEFAULT_CACHE: u64 = 64 << 20;

/// The service's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address to listen on (`MRU_LISTEN`).
    pub listen: SocketAddr,
    /// The address of the second listener, which serves the probes only (`MRU_PROBE_LISTEN`), if any.
    pub probe_listen: Option<SocketAddr>,
    /// The bounds of the listener of `listen`.
    pub server: ServerLimits,
    /// The database (`MRU_DB_*`).
    pub database: Database,
    /// The token of programs, which `/notify` requires.
    pub api_token: ApiToken,
    /// The private key that signs access tokens (`MRU_JWT_KEY`, `MRU_JWT_KEY_SECRET_ARN`); none if the service issues
    /// none.
    pub jwt_key: Option<JwtKey>,
    /// The outside issuer whose access tokens are accepted (`MRU_OIDC_*`), if any.
    pub outside_issuer: Option<OutsideIssuer>,
    /// Where details of movies come from (`MRU_TMDB_*`); none if no request goes there.
    pub tmdb: Option<Tmdb>,
    /// Whether the page shows the pictures that movies name as `thumbnail` (`MRU_IMAGES`).
    pub images: bool,
    /// Whether everybody reads the ledger (`MRU_PUBLIC_LEDGER`).
    pub public_ledger: bool,
    /// How many proxies in front of the service append the address of their client to `X-Forwarded-For`
    /// (`MRU_TRUSTED_PROXIES`).
    pub trusted_proxies: usize,
    /// The buckets that a notification may name (`MRU_BUCKETS`); all if empty.
    pub buckets: Vec<String>,
    /// The keys that are no files (`MRU_IGNORE_KEYS`).
    pub ignored_keys: IgnoredKeys,
    /// What the keys of files begin with that are put by `POST /uploads` (`MRU_UPLOAD_PREFIX`); empty for all keys.
    pub upload_prefix: String,
    /// Which files are snapshots, and how much one may withdraw (`MRU_SNAPSHOT_PREFIXES`, `MRU_MAX_WITHDRAW`).
    pub snapshots: Snapshots,
    /// How many large files this process works on at once (`MRU_WORKERS`), beside batches of small ones; 0
    /// for no files at all.
    pub workers: usize,
    /// What one file may take (`MRU_MAX_RECORDS`, `MRU_MAX_STAGED_MB`).
    pub budget: Budget,
    /// After how many days an ended ingest is removed from the ledger (`MRU_LEDGER_DAYS`), unless it is the
    /// newest of its object; none if it is kept for good.
    pub ledger_days: Option<u32>,
    /// After how many days a former state of a movie is removed (`MRU_HISTORY_DAYS`); none if it is kept for good.
    pub history_days: Option<u32>,
    /// The origins whose pages may read (`MRU_CORS_ORIGINS`).
    pub cors_origins: CorsOrigins,
    /// The largest number of bytes of answers that are kept in memory (`MRU_CACHE_MB`); 0 for none.
    pub cache_bytes: u64,
    /// How failures of the infrastructure are retried.
    pub retry: Retry,
    /// How long a claim lasts unless its lease is renewed.
    pub lease: Duration,
    /// The SNS topic to which results of ingests are published (`MRU_RESULTS_TOPIC_ARN`), if any.
    pub results_topic_arn: Option<String>,
    /// The tracing filter of the log (`MRU_LOG`).
    pub log_filter: String,
    /// The format of the log (`MRU_LOG_FORMAT`).
    pub log_format: LogFormat,
}

/// What one file may take. A file that takes more is rejected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Budget {
    /// How many records it may have.
    pub records: u64,
    /// How many bytes its new and changed movies may take in the database before they are merged.
    pub staged_bytes: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { records: 20_000_000, staged_bytes: 32 << 30 }
    }
}

/// The origins of pages that browsers let read responses (CORS). They may send GET and HEAD.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CorsOrigins {
    /// All.
    Any,
    /// These: scheme, host and, where it is not the default, port.
    Listed(Vec<String>),
}

/// The bounds of one listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ServerLimits {
    /// The largest number of connections at once. A further one replaces the connection that has been
    /// idle for longest, or else the slowest upload. It waits if there is neither.
    pub connections: usize,
    /// The largest number of bytes of bodies that clients have not read yet.
    pub response_bytes: u32,
    /// The largest number of bytes of bodies that wait until `response_bytes` has room for them.
    pub waiting_response_bytes: u32,
    /// How long a response may take from its head to its last byte.
    pub response_deadline: Duration,
}

impl ServerLimits {
    /// The bounds of the listener that serves all routes.
    pub const MAIN: Self = Self {
        connections: 1024,
        response_bytes: 48 << 20,
        waiting_response_bytes: 16 << 20,
        response_deadline: Duration::from_secs(60),
    };

    /// The bounds of the listener that serves the probes only.
    pub const PROBES: Self = Self {
        connections: 32,
        response_bytes: 4 << 20,
        waiting_response_bytes: 1 << 20,
        response_deadline: Duration::from_secs(10),
    };
}

/// How to reach the database and log in.
#[derive(Clone, Debug)]
pub struct Database {
    /// A host name, an address, or the directory of a Unix socket (`MRU_DB_HOST`).
    pub host: String,
    /// The port (`MRU_DB_PORT`).
    pub port: u16,
    /// The user and the password (`MRU_DB_USER`, and `MRU_DB_PASS` or `MRU_DB_SECRET_ARN`).
    pub login: Login,
    /// The user and the password of the role that the migration makes for the service (`MRU_DB_SERVICE_USER`, and
    /// `MRU_DB_SERVICE_PASS` or `MRU_DB_SERVICE_SECRET_ARN`), if any.
    pub service_login: Option<Login>,
    /// The name of the database (`MRU_DB_NAME`).
    pub name: String,
    /// The reader endpoint, for queries only (`MRU_DB_READ_HOST`); by default `host`.
    pub read_host: Option<String>,
    /// How connections are protected (`MRU_DB_TLS` and `MRU_DB_CA_FILE`).
    pub tls: Tls,
}

/// The user of the database, and the source of the password.
#[derive(Clone, Debug)]
pub enum Login {
    /// Set in the environment.
    Fixed {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// Read from a secret, which may be rotated while the service runs.
    Managed {
        /// The ARN or name of the secret in Secrets Manager.
        secret_id: String,
        /// The user; by default the secret's `username`.
        user: Option<String>,
    },
}

/// The source of the API token.
#[derive(Clone, Debug)]
pub enum ApiToken {
    /// Set in the environment (`MRU_API_TOKEN`).
    Fixed(TokenDigest),
    /// Read from a secret, by its ARN or name in Secrets Manager (`MRU_API_TOKEN_SECRET_ARN`).
    Managed(String),
}

/// The source of the key that signs access tokens: PEM, whose first key signs. Tokens of the others hold, too.
#[derive(Clone, Debug)]
pub enum JwtKey {
    /// Set in the environment (`MRU_JWT_KEY`).
    Fixed(Secret),
    /// Read from a secret, by its ARN or name in Secrets Manager (`MRU_JWT_KEY_SECRET_ARN`).
    Managed(String),
}

/// An outside issuer of access tokens (OpenID Connect), and where its tokens say what is needed here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OutsideIssuer {
    /// Its identifier, an address (`MRU_OIDC_ISSUER`). The `iss` of its tokens must be the same text.
    pub issuer: String,
    /// The tokens must be for one of these (`MRU_OIDC_AUDIENCE`).
    pub audiences: Vec<String>,
    /// The claim with the roles (`MRU_OIDC_ROLES_CLAIM`): a name, or names with dots between them.
    pub roles_claim: String,
    /// The claim with the name of the caller (`MRU_OIDC_NAME_CLAIM`).
    pub name_claim: String,
    /// The shortest time between two fetches of its keys.
    pub min_fetch_interval: Duration,
}

/// Where details of movies come from: The Movie Database.
#[derive(Clone, Debug)]
pub struct Tmdb {
    /// The token that its requests carry.
    pub token: TmdbToken,
    /// Where its API is (`MRU_TMDB_URL`), without a slash at the end.
    pub url: String,
}

impl Tmdb {
    /// Returns the API of TMDB itself, with this token.
    pub fn new(token: TmdbToken) -> Self {
        Self { token, url: "https://api.themoviedb.org/3".to_owned() }
    }
}

/// The source of the token for TMDB.
#[derive(Clone, Debug)]
pub enum TmdbToken {
    /// Set in the environment (`MRU_TMDB_TOKEN`).
    Fixed(Secret),
    /// Read from a secret, by its ARN or name in Secrets Manager (`MRU_TMDB_TOKEN_SECRET_ARN`).
    Managed(String),
}

/// How connections to the database are protected.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Tls {
    /// No TLS: accepted for loopback and Unix sockets only.
    Disable,
    /// TLS that verifies the server's certificate and host name.
    VerifyFull {
        /// The trusted certificate authorities, as PEM; by default the system's.
        ca_file: Option<PathBuf>,
    },
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogFormat {
    /// One JSON object a line, for programs.
    Json,
    /// Plain text, for people.
    Text,
}

/// The SHA-256 digest of an API token. The service keeps no token itself.
///
/// The time that a comparison of digests takes does not reveal how much of a guess is right.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// Returns the digest of `token`.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }
}

/// The missing and malformed variables, one a line.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(Vec<String>);

impl Config {
    /// Returns the bucket of `MRU_BUCKETS`, if it is the only one.
    pub fn only_bucket(&self) -> Option<String> {
        match &self.buckets[..] {
            [only] => Some(only.clone()),
            _ => None,
        }
    }

    /// Reads the configuration through `lookup`, which returns the value of a variable.
    ///
    /// # Errors
    /// If variables are missing or malformed. The error names all of them.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        Reader::new(lookup).read().map_err(ConfigError)
    }

    /// Returns the names of all variables that [`Self::from_lookup`] reads.
    pub fn variables() -> BTreeSet<String> {
        aws::environment::names(|lookup| drop(Self::from_lookup(lookup)))
    }
}
