//! Code that the service and the Lambda function share: SDK configuration, secrets, trace context,
//! exported spans, unknown environment variables.

pub mod environment;
pub mod otlp;
pub mod trace;

use std::{fmt, time::Duration};

use aws_config::{BehaviorVersion, SdkConfig, timeout::TimeoutConfig};
use aws_sdk_secretsmanager::{
    Client,
    config::SharedHttpClient,
    error::{ProvideErrorMetadata, SdkError},
    operation::get_secret_value::GetSecretValueError,
};
use aws_smithy_http_client::{Builder, tls};

/// Loads the SDK's configuration from its standard environment variables, such as `AWS_REGION` and
/// `AWS_ENDPOINT_URL`.
pub async fn sdk_from_env() -> SdkConfig {
    let loader = aws_config::defaults(BehaviorVersion::latest());
    loader.timeout_config(timeouts()).http_client(http_client()).load().await
}

/// Returns the timeouts of every SDK client.
pub fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        // Covers the head of a response. The SDK's stalled stream protection covers the body.
        .read_timeout(Duration::from_secs(20))
        .build()
}

/// Returns the SDK's HTTP client. It uses rustls with ring, the TLS library of all programs here.
pub fn http_client() -> SharedHttpClient {
    let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    Builder::new().tls_provider(provider).build_https()
}

/// A string that `Debug` does not print.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `secret`.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// Returns the string. Do not log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A client of AWS Secrets Manager.
#[derive(Clone, Debug)]
pub struct SecretsManager(Client);

/// A version of a secret. A rotation turns the current version into the previous one.
///
/// Source: <https://docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html>
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// `AWSCURRENT`
    Current,
    /// `AWSPREVIOUS`
    Previous,
}

/// A secret cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the secret {id}: {reason}")]
pub struct SecretError {
    id: String,
    reason: String,
}

impl SecretError {
    /// Creates an error for the secret `id`. Its text is "cannot read the secret {id}: {reason}".
    pub fn new(id: &str, reason: impl Into<String>) -> Self {
        Self { id: id.to_owned(), reason: reason.into() }
    }
}

impl SecretsManager {
    /// Creates a client with the region and credentials of `sdk`.
    pub fn new(sdk: &SdkConfig) -> Self {
        Self(Client::new(sdk))
    }

    /// Returns the text of the secret `id` (an ARN or a name) at `stage`. Returns `None` if there is
    /// no such secret or version.
    ///
    /// # Errors
    /// If the request to Secrets Manager fails, or the secret is binary.
    pub async fn get(&self, id: &str, stage: Stage) -> Result<Option<Secret>, SecretError> {
        let stage = match stage {
            Stage::Current => "AWSCURRENT",
            Stage::Previous => "AWSPREVIOUS",
        };
        match self.0.get_secret_value().secret_id(id).version_stage(stage).send().await {
            Ok(value) => match value.secret_string {
                Some(text) => Ok(Some(Secret(text))),
                None => Err(SecretError::new(id, "it is binary, not text")),
            },
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_resource_not_found_exception()) =>
            {
                Ok(None)
            }
            Err(error) => Err(SecretError::new(id, describe(&error))),
        }
    }

    /// Returns the current text of the secret `id` (an ARN or a name).
    ///
    /// # Errors
    /// Those of [`Self::get`], and if there is no such secret.
    pub async fn current(&self, id: &str) -> Result<Secret, SecretError> {
        let secret = self.get(id, Stage::Current).await?;
        secret.ok_or_else(|| SecretError::new(id, "there is no such secret"))
    }
}

/// Returns why a request failed: the service's error code and message, or what became of the
/// request. The text never contains a response: its body may hold the secret.
fn describe<R: fmt::Debug>(error: &SdkError<GetSecretValueError, R>) -> String {
    match error {
        SdkError::ServiceError(refused) => match (refused.err().code(), refused.err().message()) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => code.to_owned(),
            (None, _) => "the response of Secrets Manager cannot be read".to_owned(),
        },
        SdkError::ResponseError(_) => "the response of Secrets Manager cannot be read".to_owned(),
        // No response has arrived: the causes are those of the connection or of the credentials.
        _ => {
            let causes =
                std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source());
            causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
        }
    }
}
