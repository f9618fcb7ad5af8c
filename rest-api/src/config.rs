//! The configuration of the service, read from environment variables.
//!
//! Every variable is read through a lookup function, so that tests do not change the environment of
//! their process. All missing and malformed variables are reported together, one a line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use sha2::{Digest, Sha256};

pub use crate::retry::Retry;
pub use aws::Secret;

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
    /// The token that `/notify` and every write require.
    pub api_token: ApiToken,
    /// The buckets that a notification may name (`MRU_BUCKETS`); all if empty.
    pub buckets: Vec<String>,
    /// How many ingests this process works on at once (`MRU_WORKERS`); 0 for none.
    pub workers: usize,
    /// What one file may take (`MRU_MAX_RECORDS`, `MRU_MAX_STAGED_MB`).
    pub budget: Budget,
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

/// The bounds of one listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ServerLimits {
    /// The largest number of connections at once. A further one replaces the connection that has been
    /// idle for longest, or waits if none is idle.
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
        /// The user (`MRU_DB_USER`).
        user: String,
        /// The password (`MRU_DB_PASS`).
        password: Secret,
    },
    /// Read from a secret, which may be rotated while the service runs.
    Managed {
        /// The ARN or name of the secret in Secrets Manager (`MRU_DB_SECRET_ARN`).
        secret_id: String,
        /// The user (`MRU_DB_USER`); by default the secret's `username`.
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
#[derive(Clone, Debug, Eq, PartialEq)]
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
        let mut reader = Reader { lookup, errors: Vec::new() };
        let config = reader.config();
        if reader.errors.is_empty() { Ok(config) } else { Err(ConfigError(reader.errors)) }
    }
}

/// Reads variables, and collects all errors. A variable with an error gets a substitute value.
struct Reader<L> {
    lookup: L,
    errors: Vec<String>,
}

impl<L: Fn(&str) -> Option<String>> Reader<L> {
    fn config(&mut self) -> Config {
        // The AWS SDK reads it. Without it, every request to S3 would fail later.
        self.required("AWS_REGION");
        Config {
            listen: self.parsed(
                "MRU_LISTEN",
                SocketAddr::from(([0, 0, 0, 0], 8080)),
                "an address and a port",
            ),
            probe_listen: self.parsed_optional("MRU_PROBE_LISTEN", "an address and a port"),
            server: ServerLimits::MAIN,
            database: self.database(),
            api_token: match self.value_or_secret_id("MRU_API_TOKEN", "MRU_API_TOKEN_SECRET_ARN") {
                ValueOrSecretId::Value(token) => ApiToken::Fixed(TokenDigest::of(&token)),
                ValueOrSecretId::SecretId(id) => ApiToken::Managed(id),
            },
            buckets: self.buckets("MRU_BUCKETS"),
            workers: self.parsed("MRU_WORKERS", 2, "a number"),
            budget: self.budget(),
            retry: Retry::default(),
            lease: Duration::from_secs(15),
            results_topic_arn: self.topic_arn("MRU_RESULTS_TOPIC_ARN"),
            log_filter: self.optional("MRU_LOG").unwrap_or_else(|| "info".to_owned()),
            log_format: self.log_format(),
        }
    }

    fn budget(&mut self) -> Budget {
        let Budget { records, staged_bytes } = Budget::default();
        let staged_mb = u32::try_from(staged_bytes >> 20).unwrap_or(u32::MAX);
        Budget {
            records: self.positive("MRU_MAX_RECORDS", records),
            staged_bytes: u64::from(self.positive("MRU_MAX_STAGED_MB", staged_mb)) << 20,
        }
    }

    fn positive<T: std::str::FromStr + Default + PartialOrd>(
        &mut self,
        name: &str,
        default: T,
    ) -> T {
        let Some(text) = self.optional(name) else { return default };
        text.parse().ok().filter(|number| *number > T::default()).unwrap_or_else(|| {
            self.errors.push(format!("{name} must be a number from 1: {text}"));
            default
        })
    }

    fn database(&mut self) -> Database {
        let host = self.required("MRU_DB_HOST");
        let read_host = self.optional("MRU_DB_READ_HOST");
        Database {
            tls: self.tls([Some(&host), read_host.as_ref()].into_iter().flatten()),
            host,
            port: self.parsed("MRU_DB_PORT", 5432, "a port"),
            login: match self.value_or_secret_id("MRU_DB_PASS", "MRU_DB_SECRET_ARN") {
                ValueOrSecretId::Value(password) => Login::Fixed {
                    user: self.required("MRU_DB_USER"),
                    password: Secret::new(password),
                },
                ValueOrSecretId::SecretId(secret_id) => {
                    Login::Managed { secret_id, user: self.optional("MRU_DB_USER") }
                }
            },
            name: self.required("MRU_DB_NAME"),
            read_host,
        }
    }

    fn tls<'a>(&mut self, mut hosts: impl Iterator<Item = &'a String>) -> Tls {
        let ca_file = self.optional("MRU_DB_CA_FILE").map(PathBuf::from);
        match self.optional("MRU_DB_TLS").as_deref() {
            None | Some("verify-full") => Tls::VerifyFull { ca_file },
            Some("disable") => {
                if let Some(host) = hosts.find(|host| !is_local(host)) {
                    self.errors.push(format!(
                        "MRU_DB_TLS=disable is allowed for loopback and Unix sockets only, not for \
                         {host}: use verify-full"
                    ));
                }
                Tls::Disable
            }
            Some(other) => {
                self.errors.push(format!("MRU_DB_TLS must be verify-full or disable: {other}"));
                Tls::Disable
            }
        }
    }

    /// Reads the ARN of a standard SNS topic. A FIFO topic would require a message group id.
    fn topic_arn(&mut self, name: &str) -> Option<String> {
        let arn = self.optional(name)?;
        let region = self.optional("AWS_REGION").unwrap_or_default();
        match arn.split(':').collect::<Vec<_>>()[..] {
            ["arn", _, "sns", topic_region, _, topic] if !topic.ends_with(".fifo") => {
                if topic_region != region {
                    self.errors.push(format!(
                        "{name} is in {topic_region}, but AWS_REGION is {region}: {arn}"
                    ));
                }
            }
            _ => {
                let form = "arn:aws:sns:REGION:ACCOUNT:NAME, of a standard topic";
                self.errors.push(format!("{name} must be {form}: {arn}"));
            }
        }
        Some(arn)
    }

    /// Reads bucket names that are separated by commas.
    fn buckets(&mut self, name: &str) -> Vec<String> {
        let text = self.optional(name).unwrap_or_default();
        let buckets: Vec<String> = text
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(Into::into)
            .collect();
        let is_name = |bucket: &String| {
            bucket
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b))
                && !bucket.contains("..")
        };
        if let Some(wrong) = buckets.iter().find(|bucket| !is_name(bucket)) {
            let form = "bucket names separated by commas, without ARN or s3://";
            self.errors.push(format!("{name} must be {form}: {wrong}"));
        }
        buckets
    }

    fn log_format(&mut self) -> LogFormat {
        match self.optional("MRU_LOG_FORMAT").as_deref() {
            None | Some("json") => LogFormat::Json,
            Some("text") => LogFormat::Text,
            Some(other) => {
                self.errors.push(format!("MRU_LOG_FORMAT must be json or text: {other}"));
                LogFormat::Text
            }
        }
    }

    /// Reads a variable. An empty one counts as not set.
    fn optional(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    fn required(&mut self, name: &str) -> String {
        self.optional(name).unwrap_or_else(|| {
            self.errors.push(format!("{name} is not set"));
            String::new()
        })
    }

    /// Reads the one that is set of two variables: `value` holds a sensitive value, `secret_id` the
    /// ARN or name of the secret that holds it.
    fn value_or_secret_id(&mut self, value: &str, secret_id: &str) -> ValueOrSecretId {
        match (self.optional(value), self.optional(secret_id)) {
            (Some(value), None) => ValueOrSecretId::Value(value),
            (None, Some(id)) => ValueOrSecretId::SecretId(id),
            (Some(_), Some(_)) => {
                self.errors.push(format!("{value} and {secret_id} are both set: choose one"));
                ValueOrSecretId::Value(String::new())
            }
            (None, None) => {
                self.errors.push(format!("{value} is not set, nor is {secret_id}"));
                ValueOrSecretId::Value(String::new())
            }
        }
    }

    /// Reads and parses a variable. `expected` describes valid values.
    fn parsed<T: std::str::FromStr>(&mut self, name: &str, default: T, expected: &str) -> T {
        let Some(text) = self.optional(name) else { return default };
        text.parse().unwrap_or_else(|_| {
            self.errors.push(format!("{name} must be {expected}: {text}"));
            default
        })
    }

    fn parsed_optional<T: std::str::FromStr>(&mut self, name: &str, expected: &str) -> Option<T> {
        let text = self.optional(name)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.errors.push(format!("{name} must be {expected}: {text}"));
        }
        parsed
    }
}

/// A sensitive value, or the ARN or name of the secret that holds it.
enum ValueOrSecretId {
    Value(String),
    SecretId(String),
}

/// Returns whether a connection to `host` stays on this machine.
fn is_local(host: &str) -> bool {
    let loopback = host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    host.starts_with('/') || host == "localhost" || loopback
}
