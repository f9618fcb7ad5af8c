//! The function's configuration, read from environment variables.

use std::{collections::BTreeSet, fmt};

use aws::Secret;
use reqwest::Url;

/// The configuration of the function.
#[derive(Clone, Debug)]
pub struct Config {
    /// The complete URL of the API's `/notify` (`MRU_API_URL`).
    pub api_url: Url,
    /// The token that authorizes requests to the API.
    pub token: Token,
    /// The log filter, in the syntax of tracing-subscriber's `EnvFilter` (`MRU_LOG`, default `info`).
    pub log_filter: String,
}

/// The source of the API token.
#[derive(Clone, Debug)]
pub enum Token {
    /// The token itself (`MRU_API_TOKEN`).
    Fixed(Secret),
    /// The ARN or name of a secret in Secrets Manager (`MRU_API_TOKEN_SECRET_ARN`), whose text is the
    /// token.
    Managed(String),
}

/// An environment variable is missing or malformed.
#[derive(Debug)]
pub struct ConfigError {
    variable: &'static str,
    problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "environment variable {} {}", self.variable, self.problem)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads `MRU_API_URL`, `MRU_API_TOKEN` or `MRU_API_TOKEN_SECRET_ARN`, and `MRU_LOG` with
    /// `lookup`. An empty variable counts as not set.
    ///
    /// # Errors
    /// Returns the first variable that is missing or malformed.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let optional = |variable| lookup(variable).filter(|value| !value.is_empty());
        let error = |variable, problem: &str| ConfigError { variable, problem: problem.to_owned() };
        let log_filter = optional("MRU_LOG").unwrap_or_else(|| "info".to_owned());
        let api_url = optional("MRU_API_URL").ok_or(error("MRU_API_URL", "is not set"))?;
        let api_url = Url::parse(&api_url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| ConfigError {
                variable: "MRU_API_URL",
                problem: format!("is not an http(s) URL: {api_url}"),
            })?;
        let token = match (optional("MRU_API_TOKEN"), optional("MRU_API_TOKEN_SECRET_ARN")) {
            (Some(token), None) => Token::Fixed(Secret::new(token)),
            (None, Some(id)) => Token::Managed(id),
            (None, None) => {
                return Err(error("MRU_API_TOKEN", "is not set, nor is MRU_API_TOKEN_SECRET_ARN"));
            }
            (Some(_), Some(_)) => {
                let problem = "and MRU_API_TOKEN_SECRET_ARN are both set: choose one";
                return Err(error("MRU_API_TOKEN", problem));
            }
        };
        Ok(Self { api_url, token, log_filter })
    }

    /// Returns the names of all variables that [`Self::from_lookup`] reads.
    pub fn variables() -> BTreeSet<String> {
        aws::environment::names(|lookup| drop(Self::from_lookup(lookup)))
    }
}
