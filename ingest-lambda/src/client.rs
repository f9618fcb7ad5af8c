//! The HTTP client of the API's `/notify`.

use std::time::Duration;

use aws::{
    Secret, SecretError, SecretsManager,
    trace::{TRACEPARENT, TraceParent},
};
use reqwest::{
    StatusCode, Url,
    header::{self, HeaderValue},
};
use schema::Notification;
use tokio::sync::RwLock;
use tracing::{info, warn};

use crate::{Config, Token};

/// Sends notifications to the API.
pub trait Notify {
    /// Sends one notification. The API logs `request_id`, which identifies the invocation, and the
    /// trace id of `trace`.
    fn notify(
        &self,
        notification: &Notification,
        request_id: &str,
        trace: &TraceParent,
    ) -> impl Future<Output = Result<(), NotifyError>> + Send;
}

/// The API did not accept a notification.
#[derive(Debug)]
pub enum NotifyError {
    /// The status of the response is not 2xx.
    Status(StatusCode),
    /// There is no response within the time limit.
    Http(reqwest::Error),
}

impl NotifyError {
    /// Returns whether the API refuses this notification whenever it is sent. The other 4xx statuses
    /// end when the token is right again (401, 403) or the API has time (408, 429).
    pub fn is_permanent(&self) -> bool {
        use StatusCode as S;
        let passes = [S::UNAUTHORIZED, S::FORBIDDEN, S::REQUEST_TIMEOUT, S::TOO_MANY_REQUESTS];
        matches!(self, Self::Status(status) if status.is_client_error() && !passes.contains(status))
    }
}

impl std::fmt::Display for NotifyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "the API responded with {status}"),
            Self::Http(error) if error.is_timeout() => {
                f.write_str("the API did not respond in time")
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

/// The client cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The secret with the token cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The token cannot be sent in an HTTP header.
    #[error("the API token contains characters that are not allowed in an HTTP header")]
    Token,
    /// The platform's root certificates cannot be loaded.
    #[error("cannot create the HTTP client")]
    Http(#[from] reqwest::Error),
}

/// The client that posts notifications over HTTP.
#[derive(Debug)]
pub struct ApiClient {
    http: reqwest::Client,
    url: Url,
    token: Token,
    secrets: SecretsManager,
    /// The current `Authorization` header. It changes when the token is rotated.
    authorization: RwLock<HeaderValue>,
}

impl ApiClient {
    /// Shorter than the function's own timeout, so that the log says that the API is slow.
    const TIMEOUT: Duration = Duration::from_secs(10);
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

    /// Creates a client of the API at `config.api_url`.
    ///
    /// # Errors
    /// If the token cannot be read or sent, or the root certificates cannot be loaded.
    pub async fn new(config: &Config, secrets: SecretsManager) -> Result<Self, ClientError> {
        // Fails if the process already has a provider, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(Self::CONNECT_TIMEOUT)
            .timeout(Self::TIMEOUT)
            // The load balancer closes idle connections while Lambda freezes the process.
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
        trace: &TraceParent,
        authorization: &HeaderValue,
    ) -> Result<StatusCode, NotifyError> {
        let request = self.http.post(self.url.clone()).header("x-request-id", request_id);
        let request = request.header(TRACEPARENT, trace.to_string());
        let request = request.header(header::AUTHORIZATION, authorization);
        let response = request.json(notification).send().await.map_err(NotifyError::Http)?;
        Ok(response.status())
    }

    /// Reads the token again, stores its header and returns it. Returns `None` if the token is
    /// unchanged or cannot be read.
    async fn reload_authorization(&self, refused: &HeaderValue) -> Option<HeaderValue> {
        if let Token::Fixed(_) = self.token {
            return None;
        }
        match authorization(&self.token, &self.secrets).await {
            Ok(reloaded) if reloaded != *refused => {
                info!("the API token was rotated, sending the notification again");
                *self.authorization.write().await = reloaded.clone();
                Some(reloaded)
            }
            Ok(_) => None,
            Err(error) => {
                warn!(%error, "the API refused the token, and reading it again failed");
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
        trace: &TraceParent,
    ) -> Result<(), NotifyError> {
        let authorization = self.authorization.read().await.clone();
        let mut status = self.post(notification, request_id, trace, &authorization).await?;
        if status == StatusCode::UNAUTHORIZED
            && let Some(reloaded) = self.reload_authorization(&authorization).await
        {
            status = self.post(notification, request_id, trace, &reloaded).await?;
        }
        if status.is_success() { Ok(()) } else { Err(NotifyError::Status(status)) }
    }
}

/// Returns `Bearer` and the token as a header value that `Debug` does not print.
async fn authorization(
    token: &Token,
    secrets: &SecretsManager,
) -> Result<HeaderValue, ClientError> {
    let secret: Secret;
    let token = match token {
        Token::Fixed(token) => token,
        Token::Managed(id) => {
            secret = secrets.current(id).await?;
            &secret
        }
    };
    let header = HeaderValue::from_str(&format!("Bearer {}", token.expose().trim()));
    let mut header = header.map_err(|_| ClientError::Token)?;
    header.set_sensitive(true);
    Ok(header)
}
