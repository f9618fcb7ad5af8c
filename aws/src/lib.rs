//! What the service and the function share: the AWS SDK's configuration, secrets, and traces.

pub mod trace;

use std::{error::Error, fmt, time::Duration};

use aws_config::{BehaviorVersion, SdkConfig, timeout::TimeoutConfig};
use aws_sdk_secretsmanager::{Client, config::SharedHttpClient, error::DisplayErrorContext};
use aws_smithy_http_client::{Builder, tls};

/// The SDK's configuration as its own variables describe it: `AWS_REGION`, credentials,
/// `AWS_ENDPOINT_URL` and so on.
pub async fn sdk_from_env() -> SdkConfig {
    let loader = aws_config::defaults(BehaviorVersion::latest());
    loader.timeout_config(timeouts()).http_client(http_client()).load().await
}

/// How long the SDK waits.
pub fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        // For the head of an answer; its body is watched by the SDK's stalled stream protection.
        .read_timeout(Duration::from_secs(20))
        .build()
}

/// The HTTP client of the SDK, with the one TLS library that our programs have.
pub fn http_client() -> SharedHttpClient {
    let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    Builder::new().tls_provider(provider).build_https()
}

/// A string that never prints.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `secret`.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The string, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// AWS Secrets Manager.
#[derive(Clone, Debug)]
pub struct SecretsManager(Client);

/// Which version of a secret. A rotation makes the current one the previous.
///
/// Source: <https://docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html>
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// `AWSCURRENT`
    Current,
    /// `AWSPREVIOUS`
    Previous,
}

/// Why a secret cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the secret {id}: {reason}")]
pub struct SecretError {
    id: String,
    reason: String,
}

impl SecretError {
    /// The secret `id` is there, but it is not what was expected, for this reason.
    pub fn new(id: &str, reason: impl Into<String>) -> Self {
        Self { id: id.to_owned(), reason: reason.into() }
    }
}

impl SecretsManager {
    /// A client for the region and credentials of `sdk`.
    pub fn new(sdk: &SdkConfig) -> Self {
        Self(Client::new(sdk))
    }

    /// The text of the secret `id`, an ARN or a name; `None` if it has no such version.
    ///
    /// # Errors
    /// If Secrets Manager cannot be reached or refuses, or the secret is not a text.
    pub async fn get(&self, id: &str, stage: Stage) -> Result<Option<Secret>, SecretError> {
        let stage = match stage {
            Stage::Current => "AWSCURRENT",
            Stage::Previous => "AWSPREVIOUS",
        };
        match self.0.get_secret_value().secret_id(id).version_stage(stage).send().await {
            Ok(value) => match value.secret_string {
                Some(text) => Ok(Some(Secret(text))),
                None => Err(SecretError::new(id, "it is binary, not a text")),
            },
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_resource_not_found_exception()) =>
            {
                Ok(None)
            }
            Err(error) => Err(SecretError::new(id, told(&error))),
        }
    }

    /// The current text of the secret `id`, an ARN or a name.
    ///
    /// # Errors
    /// As [`Self::get`], and if there is no such secret.
    pub async fn current(&self, id: &str) -> Result<Secret, SecretError> {
        let secret = self.get(id, Stage::Current).await?;
        secret.ok_or_else(|| SecretError::new(id, "there is no such secret"))
    }
}

/// The error with all its causes.
fn told(error: &(impl Error + 'static)) -> String {
    DisplayErrorContext(error).to_string()
}
