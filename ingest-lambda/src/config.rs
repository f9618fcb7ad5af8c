//! What the function reads from its environment.

use std::fmt;

use aws::Secret;
use reqwest::Url;

/// Where to post notifications, and with which token.
#[derive(Clone, Debug)]
pub struct Config {
    /// The whole URL of the API's `/notify`.
    pub api_url: Url,
    /// The token that the API wants.
    pub token: Token,
    /// What to log, as a tracing filter (`MRU_LOG`).
    pub log_filter: String,
}

/// The API's token, or where to read it.
#[derive(Clone, Debug)]
pub enum Token {
    /// This one (`MRU_API_TOKEN`).
    Fixed(Secret),
    /// The text of a secret, by its ARN or name in Secrets Manager (`MRU_API_TOKEN_SECRET_ARN`).
    Managed(String),
}

/// A variable that is missing or malformed.
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
    /// Reads `MRU_API_URL`, `MRU_API_TOKEN` or `MRU_API_TOKEN_SECRET_ARN`, and `MRU_LOG` through
    /// `lookup`.
    ///
    /// # Errors
    /// Names the first variable that is missing or malformed.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let optional = |variable| lookup(variable).filter(|value| !value.is_empty());
        let fault = |variable, problem: &str| ConfigError { variable, problem: problem.to_owned() };
        let log_filter = optional("MRU_LOG").unwrap_or_else(|| "info".to_owned());
        let api_url = optional("MRU_API_URL").ok_or(fault("MRU_API_URL", "is not set"))?;
        let api_url = Url::parse(&api_url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| ConfigError {
                variable: "MRU_API_URL",
                problem: format!("is no http(s) URL: {api_url}"),
            })?;
        let token = match (optional("MRU_API_TOKEN"), optional("MRU_API_TOKEN_SECRET_ARN")) {
            (Some(token), None) => Token::Fixed(Secret::new(token)),
            (None, Some(id)) => Token::Managed(id),
            (None, None) => {
                return Err(fault("MRU_API_TOKEN", "is not set, nor is MRU_API_TOKEN_SECRET_ARN"));
            }
            (Some(_), Some(_)) => {
                let problem = "and MRU_API_TOKEN_SECRET_ARN are both set: choose one";
                return Err(fault("MRU_API_TOKEN", problem));
            }
        };
        Ok(Self { api_url, token, log_filter })
    }
}
