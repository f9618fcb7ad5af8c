//! What the function reads from its environment.

use std::fmt;

use reqwest::{Url, header::HeaderValue};

/// Where to post notifications, and with which token.
#[derive(Clone)]
pub struct Config {
    /// The whole URL of the API's `/notify`.
    pub api_url: Url,
    /// The `Authorization` header: `Bearer` and the token, marked sensitive so that it never prints.
    pub authorization: HeaderValue,
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
    /// Reads `MRU_API_URL` and `MRU_API_TOKEN` through `lookup`.
    ///
    /// # Errors
    /// Names the first variable that is missing or malformed.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let required = |variable| {
            lookup(variable)
                .filter(|value| !value.is_empty())
                .ok_or(ConfigError { variable, problem: "is not set".to_owned() })
        };
        let api_url = required("MRU_API_URL")?;
        let api_url = Url::parse(&api_url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| ConfigError {
                variable: "MRU_API_URL",
                problem: format!("is no http(s) URL: {api_url}"),
            })?;
        let token = required("MRU_API_TOKEN")?;
        let mut authorization =
            HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| ConfigError {
                variable: "MRU_API_TOKEN",
                problem: "holds characters that no HTTP header may carry".to_owned(),
            })?;
        authorization.set_sensitive(true);
        Ok(Self { api_url, authorization })
    }
}
