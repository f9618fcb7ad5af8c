//! What the service reads from its environment.
//!
//! Every variable is read through a lookup function, so that tests never touch the process. All
//! that is missing or malformed is reported at once, a line each.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use sha2::{Digest, Sha256};

pub use crate::retry::Retry;
pub use aws::Secret;

/// The service's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen (`MRU_LISTEN`).
    pub listen: SocketAddr,
    /// The database (`MRU_DB_*`).
    pub database: Database,
    /// What `/notify` and every write must carry.
    pub api_token: ApiToken,
    /// The bucket that is reconciled with the ledger (`MRU_BUCKET`).
    pub bucket: Option<String>,
    /// How many ingests run at once in this process (`MRU_WORKERS`); 0 for none.
    pub workers: usize,
    /// What one file may take (`MRU_MAX_RECORDS`, `MRU_MAX_STAGED_MB`).
    pub budget: Budget,
    /// How faults of the infrastructure are retried.
    pub retry: Retry,
    /// How long a claimed ingest stays with a worker that gives no sign of life.
    pub lease: Duration,
    /// The topic of SNS that results of ingests are published to (`MRU_RESULTS_TOPIC_ARN`), if any.
    pub results_topic_arn: Option<String>,
    /// What to log, as a tracing filter (`MRU_LOG`).
    pub log_filter: String,
    /// How to log it (`MRU_LOG_FORMAT`).
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

/// Where the database is, and who we are there.
#[derive(Clone, Debug)]
pub struct Database {
    /// A host name, an address, or the folder of a Unix socket (`MRU_DB_HOST`).
    pub host: String,
    /// `MRU_DB_PORT`.
    pub port: u16,
    /// Who we are there.
    pub login: Login,
    /// `MRU_DB_NAME`.
    pub name: String,
    /// An endpoint for queries alone (`MRU_DB_READ_HOST`); by default the same host.
    pub read_host: Option<String>,
    /// `MRU_DB_TLS` and `MRU_DB_CA_FILE`.
    pub tls: Tls,
}

/// Who we are at the database.
#[derive(Clone, Debug)]
pub enum Login {
    /// Always the same.
    Fixed {
        /// `MRU_DB_USER`.
        user: String,
        /// `MRU_DB_PASS`.
        password: Secret,
    },
    /// As a secret says, which may change while the service runs.
    Managed {
        /// An ARN or a name in Secrets Manager (`MRU_DB_SECRET_ARN`).
        secret_id: String,
        /// `MRU_DB_USER`; by default the secret's `username`.
        user: Option<String>,
    },
}

/// The token that writes need.
#[derive(Clone, Debug)]
pub enum ApiToken {
    /// This one (`MRU_API_TOKEN`).
    Fixed(TokenDigest),
    /// The text of a secret, by its ARN or name in Secrets Manager (`MRU_API_TOKEN_SECRET_ARN`).
    Managed(String),
}

/// How the connection to the database is protected.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Tls {
    /// Not at all: accepted for loopback and Unix sockets only.
    Disable,
    /// TLS, the server's certificate and host name verified.
    VerifyFull {
        /// The certificate authorities to trust, as PEM; by default the system's.
        ca_file: Option<PathBuf>,
    },
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogFormat {
    /// One JSON object a line, for machines.
    Json,
    /// Plain lines, for people.
    Text,
}

/// What is kept of the API token: enough to recognise it.
///
/// Comparing digests also takes the same time however much of a guess is right.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// The digest of `token`.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }
}

/// Every variable that is missing or malformed, a line each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(Vec<String>);

impl Config {
    /// Reads the variables of the module's documentation through `lookup`.
    ///
    /// # Errors
    /// Names every variable that is missing or malformed.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut reader = Reader { lookup, problems: Vec::new() };
        let config = reader.config();
        if reader.problems.is_empty() { Ok(config) } else { Err(ConfigError(reader.problems)) }
    }
}

/// Collects problems while it reads.
struct Reader<L> {
    lookup: L,
    problems: Vec<String>,
}

impl<L: Fn(&str) -> Option<String>> Reader<L> {
    fn config(&mut self) -> Config {
        // The AWS SDK reads it by itself; without it, every request to S3 would fail later.
        self.required("AWS_REGION");
        Config {
            listen: self.parsed(
                "MRU_LISTEN",
                SocketAddr::from(([0, 0, 0, 0], 8080)),
                "an address and a port",
            ),
            database: self.database(),
            api_token: match self.either("MRU_API_TOKEN", "MRU_API_TOKEN_SECRET_ARN") {
                Either::Value(token) => ApiToken::Fixed(TokenDigest::of(&token)),
                Either::SecretId(id) => ApiToken::Managed(id),
            },
            bucket: self.optional("MRU_BUCKET"),
            workers: self.parsed("MRU_WORKERS", 2, "a number"),
            budget: self.budget(),
            retry: Retry::default(),
            lease: Duration::from_secs(15),
            results_topic_arn: self.topic("MRU_RESULTS_TOPIC_ARN"),
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
            self.problems.push(format!("{name} must be a number from 1: {text}"));
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
            login: match self.either("MRU_DB_PASS", "MRU_DB_SECRET_ARN") {
                Either::Value(password) => Login::Fixed {
                    user: self.required("MRU_DB_USER"),
                    password: Secret::new(password),
                },
                Either::SecretId(secret_id) => {
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
                    self.problems.push(format!(
                        "MRU_DB_TLS=disable is for this machine alone, and {host} is another one"
                    ));
                }
                Tls::Disable
            }
            Some(other) => {
                self.problems.push(format!("MRU_DB_TLS must be verify-full or disable: {other}"));
                Tls::Disable
            }
        }
    }

    /// The ARN of a standard topic: one that is first in, first out wants to be told of groups.
    fn topic(&mut self, name: &str) -> Option<String> {
        let arn = self.optional(name)?;
        let region = self.optional("AWS_REGION").unwrap_or_default();
        match arn.split(':').collect::<Vec<_>>()[..] {
            ["arn", _, "sns", at, _, topic] if !topic.ends_with(".fifo") => {
                if at != region {
                    let problem = format!("{name} is in {at}, but AWS_REGION is {region}: {arn}");
                    self.problems.push(problem);
                }
            }
            _ => {
                let form = "arn:aws:sns:REGION:ACCOUNT:NAME, of a standard topic";
                self.problems.push(format!("{name} must be {form}: {arn}"));
            }
        }
        Some(arn)
    }

    fn log_format(&mut self) -> LogFormat {
        match self.optional("MRU_LOG_FORMAT").as_deref() {
            None | Some("json") => LogFormat::Json,
            Some("text") => LogFormat::Text,
            Some(other) => {
                self.problems.push(format!("MRU_LOG_FORMAT must be json or text: {other}"));
                LogFormat::Text
            }
        }
    }

    fn optional(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    fn required(&mut self, name: &str) -> String {
        self.optional(name).unwrap_or_else(|| {
            self.problems.push(format!("{name} is not set"));
            String::new()
        })
    }

    /// A secret itself, or where to read it.
    fn either(&mut self, value: &str, secret_id: &str) -> Either {
        match (self.optional(value), self.optional(secret_id)) {
            (Some(value), None) => Either::Value(value),
            (None, Some(id)) => Either::SecretId(id),
            (Some(_), Some(_)) => {
                self.problems.push(format!("{value} and {secret_id} are both set: choose one"));
                Either::Value(String::new())
            }
            (None, None) => {
                self.problems.push(format!("{value} is not set, nor is {secret_id}"));
                Either::Value(String::new())
            }
        }
    }

    fn parsed<T: std::str::FromStr>(&mut self, name: &str, default: T, form: &str) -> T {
        let Some(text) = self.optional(name) else { return default };
        text.parse().unwrap_or_else(|_| {
            self.problems.push(format!("{name} must be {form}: {text}"));
            default
        })
    }
}

enum Either {
    Value(String),
    SecretId(String),
}

/// Whether a connection to `host` stays on this machine.
fn is_local(host: &str) -> bool {
    let loopback = host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    host.starts_with('/') || host == "localhost" || loopback
}
