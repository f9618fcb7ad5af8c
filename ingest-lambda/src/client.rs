//! The HTTP client of the API's `/notify`.

use std::{sync::Arc, time::Duration};

use aws::{
    Secret, SecretError, SecretsManager,
    trace::{TRACEPARENT, TraceParent},
};
use reqwest::{
    Response, StatusCode, Url,
    header::{self, HeaderValue},
};
use schema::Notification;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::RwLock;
use tracing::{info, warn};

use crate::{Config, Token};

/// Sends notifications to the API.
pub trait Notify {
    /// Sends at most [`schema::MAX_NOTIFICATIONS`] notifications. Returns one result for each, in
    /// order. The API logs `request_id`, which identifies the invocation, and the trace id of `trace`.
    fn notify(
        &self,
        notifications: &[Notification],
        request_id: &str,
        trace: &TraceParent,
    ) -> impl Future<Output = Vec<Result<(), NotifyError>>> + Send;
}

/// The API did not accept a notification.
#[derive(Clone, Debug)]
pub enum NotifyError {
    /// The status is not 2xx.
    Status {
        /// The status of the response, or of this notification in it.
        status: StatusCode,
        /// The problem object of the API, if it sent one.
        problem: Option<Value>,
    },
    /// There is no response within the time limit.
    Http(Arc<reqwest::Error>),
    /// The response does not have one result for each notification.
    Malformed,
}

impl NotifyError {
    /// Returns whether the API refuses this notification whenever it is sent. The other 4xx statuses
    /// end when the token is right again (401, 403) or the API has time (408, 429).
    pub fn is_permanent(&self) -> bool {
        use StatusCode as S;
        let passes = [S::UNAUTHORIZED, S::FORBIDDEN, S::REQUEST_TIMEOUT, S::TOO_MANY_REQUESTS];
        matches!(self, Self::Status { status, .. }
            if status.is_client_error() && !passes.contains(status))
    }

    /// Returns the problem object of the API, if it sent one.
    pub fn problem(&self) -> Option<&Value> {
        match self {
            Self::Status { problem, .. } => problem.as_ref(),
            Self::Http(_) | Self::Malformed => None,
        }
    }
}

impl From<reqwest::Error> for NotifyError {
    fn from(error: reqwest::Error) -> Self {
        Self::Http(Arc::new(error))
    }
}

impl std::fmt::Display for NotifyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status { status, .. } => write!(f, "the API responded with {status}"),
            Self::Http(error) if error.is_timeout() => {
                f.write_str("the API did not respond in time")
            }
            Self::Http(_) => f.write_str("the API could not be reached"),
            Self::Malformed => f.write_str("the API's response is malformed"),
        }
    }
}

impl std::error::Error for NotifyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Status { .. } | Self::Malformed => None,
            Self::Http(error) => Some(&**error),
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

    /// Posts `body`, again with a new token if the API refuses this one. Returns a 2xx response.
    async fn post(
        &self,
        body: &(impl Serialize + Sync + ?Sized),
        request_id: &str,
        trace: &TraceParent,
    ) -> Result<Response, NotifyError> {
        let authorization = self.authorization.read().await.clone();
        let mut response = self.post_once(body, request_id, trace, &authorization).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(reloaded) = self.reload_authorization(&authorization).await
        {
            response = self.post_once(body, request_id, trace, &reloaded).await?;
        }
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let is_problem = response.headers().get(header::CONTENT_TYPE)
            == Some(&HeaderValue::from_static("application/problem+json"));
        let problem = if is_problem { response.json().await.ok() } else { None };
        Err(NotifyError::Status { status, problem })
    }

    async fn post_once(
        &self,
        body: &(impl Serialize + Sync + ?Sized),
        request_id: &str,
        trace: &TraceParent,
        authorization: &HeaderValue,
    ) -> Result<Response, NotifyError> {
        let request = self.http.post(self.url.clone()).header("x-request-id", request_id);
        let request = request.header(TRACEPARENT, trace.to_string());
        let request = request.header(header::AUTHORIZATION, authorization);
        request.json(body).send().await.map_err(NotifyError::from)
    }

    /// Posts one notification, as an object.
    async fn post_one(
        &self,
        notification: &Notification,
        request_id: &str,
        trace: &TraceParent,
    ) -> Result<(), NotifyError> {
        self.post(notification, request_id, trace).await.map(|_| ())
    }

    /// Posts notifications as an array. Returns one result for each.
    ///
    /// # Errors
    /// If the API refused the array as a whole, or did not respond with one result for each.
    async fn post_array(
        &self,
        notifications: &[Notification],
        request_id: &str,
        trace: &TraceParent,
    ) -> Result<Vec<Result<(), NotifyError>>, NotifyError> {
        let response = self.post(notifications, request_id, trace).await?;
        let body = response.bytes().await?;
        let Ok(Value::Array(elements)) = serde_json::from_slice(&body) else {
            return Err(NotifyError::Malformed);
        };
        if elements.len() != notifications.len() {
            return Err(NotifyError::Malformed);
        }
        Ok(elements.into_iter().map(element_result).collect())
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
        notifications: &[Notification],
        request_id: &str,
        trace: &TraceParent,
    ) -> Vec<Result<(), NotifyError>> {
        if let [notification] = notifications {
            return vec![self.post_one(notification, request_id, trace).await];
        }
        match self.post_array(notifications, request_id, trace).await {
            Ok(results) => results,
            // An API of the release before this one refuses every array.
            Err(error) if error.is_permanent() => {
                let mut results = Vec::with_capacity(notifications.len());
                for notification in notifications {
                    results.push(self.post_one(notification, request_id, trace).await);
                }
                results
            }
            Err(error) => vec![Err(error); notifications.len()],
        }
    }
}

/// Returns the result that the API has for one notification of an array.
fn element_result(mut element: Value) -> Result<(), NotifyError> {
    let status = element["status"].as_u64().and_then(|status| u16::try_from(status).ok());
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.ok_or(NotifyError::Malformed)?;
    if status.is_success() {
        return Ok(());
    }
    let problem = element.get_mut("problem").map(Value::take);
    Err(NotifyError::Status { status, problem })
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
