//! The HTTP client for the API's `/notify`.

use std::time::Duration;

use aws::{Secret, SecretError, SecretsManager};
use reqwest::{
    StatusCode, Url,
    header::{self, HeaderValue},
};
use schema::Notification;
use tokio::sync::RwLock;
use tracing::{info, warn};

use crate::{Config, Token};

/// Posts notifications. The handler knows its client only by this.
pub trait Notify {
    /// Delivers one notification; `request_id` ties the API's log lines to this invocation's.
    fn notify(
        &self,
        notification: &Notification,
        request_id: &str,
    ) -> impl Future<Output = Result<(), NotifyError>> + Send;
}

/// Why a notification was not delivered.
#[derive(Debug)]
pub enum NotifyError {
    /// The API answered, but not with 2xx.
    Status(StatusCode),
    /// There was no answer, or none in time.
    Http(reqwest::Error),
}

impl std::fmt::Display for NotifyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "the API answered {status}"),
            Self::Http(error) if error.is_timeout() => {
                f.write_str("the API did not answer in time")
            }
            Self::Http(_) => f.write_str("the API could not be reached"),
        }
    }
}

impl std::error::Error for NotifyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Status(_) => None,
            Self::Http(error) => Some(error),
        }
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The token's secret cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The token cannot be sent.
    #[error("the API token holds characters that no HTTP header may carry")]
    Token,
    /// The platform's root certificates cannot be loaded.
    #[error("no HTTP client")]
    Http(#[from] reqwest::Error),
}

/// The real client.
#[derive(Debug)]
pub struct ApiClient {
    http: reqwest::Client,
    url: Url,
    token: Token,
    secrets: SecretsManager,
    /// The `Authorization` header of the moment.
    authorization: RwLock<HeaderValue>,
}

impl ApiClient {
    /// Within the function's own timeout, so that a slow API is reported as such.
    const TIMEOUT: Duration = Duration::from_secs(10);
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

    /// A client for the API that `config` names.
    ///
    /// # Errors
    /// If the token cannot be read, or is none; or the root certificates cannot be loaded.
    pub async fn new(config: &Config, secrets: SecretsManager) -> Result<Self, ClientError> {
        // Another part of the process may have installed it first, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(Self::CONNECT_TIMEOUT)
            .timeout(Self::TIMEOUT)
            // Between invocations the process is frozen, and the load balancer hangs up meanwhile.
            .pool_max_idle_per_host(0)
            // A redirect could carry the token to another host.
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        let authorization = RwLock::new(authorization(&config.token, &secrets).await?);
        let (url, token) = (config.api_url.clone(), config.token.clone());
        Ok(Self { http, url, token, secrets, authorization })
    }

    async fn post(
        &self,
        notification: &Notification,
        request_id: &str,
        authorization: &HeaderValue,
    ) -> Result<StatusCode, NotifyError> {
        let request = self.http.post(self.url.clone()).header("x-request-id", request_id);
        let request = request.header(header::AUTHORIZATION, authorization);
        let response = request.json(notification).send().await.map_err(NotifyError::Http)?;
        Ok(response.status())
    }

    /// Reads the token again. Returns it if it is another than the API just refused.
    async fn rotated(&self, refused: &HeaderValue) -> Option<HeaderValue> {
        if let Token::Fixed(_) = self.token {
            return None;
        }
        match authorization(&self.token, &self.secrets).await {
            Ok(read) if read != *refused => {
                info!("the API token has changed");
                *self.authorization.write().await = read.clone();
                Some(read)
            }
            Ok(_) => None,
            Err(error) => {
                warn!(%error, "the API refuses the token known");
                None
            }
        }
    }
}

impl Notify for ApiClient {
    async fn notify(
        &self,
        notification: &Notification,
        request_id: &str,
    ) -> Result<(), NotifyError> {
        let authorization = self.authorization.read().await.clone();
        let mut status = self.post(notification, request_id, &authorization).await?;
        if status == StatusCode::UNAUTHORIZED
            && let Some(rotated) = self.rotated(&authorization).await
        {
            status = self.post(notification, request_id, &rotated).await?;
        }
        if status.is_success() { Ok(()) } else { Err(NotifyError::Status(status)) }
    }
}

/// `Bearer` and the token, marked sensitive so that it never prints.
async fn authorization(
    token: &Token,
    secrets: &SecretsManager,
) -> Result<HeaderValue, ClientError> {
    let read: Secret;
    let token = match token {
        Token::Fixed(token) => token,
        Token::Managed(id) => {
            read = secrets.current(id).await?;
            &read
        }
    };
    let header = HeaderValue::from_str(&format!("Bearer {}", token.expose().trim()));
    let mut header = header.map_err(|_| ClientError::Token)?;
    header.set_sensitive(true);
    Ok(header)
}
