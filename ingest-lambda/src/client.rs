//! The HTTP client for the API's `/notify`.

use std::time::Duration;

use reqwest::{StatusCode, Url, header};
use schema::Notification;

use crate::Config;

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

/// The real client.
#[derive(Debug)]
pub struct ApiClient {
    http: reqwest::Client,
    url: Url,
}

impl ApiClient {
    /// Within the function's own timeout, so that a slow API is reported as such.
    const TIMEOUT: Duration = Duration::from_secs(10);
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

    /// A client for the API that `config` names.
    ///
    /// # Errors
    /// If the platform's root certificates cannot be loaded.
    pub fn new(config: &Config) -> Result<Self, reqwest::Error> {
        // Another part of the process may have installed it first, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let headers = [(header::AUTHORIZATION, config.authorization.clone())];
        let http = reqwest::Client::builder()
            .default_headers(headers.into_iter().collect())
            .connect_timeout(Self::CONNECT_TIMEOUT)
            .timeout(Self::TIMEOUT)
            // A redirect could carry the token to another host.
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { http, url: config.api_url.clone() })
    }
}

impl Notify for ApiClient {
    async fn notify(
        &self,
        notification: &Notification,
        request_id: &str,
    ) -> Result<(), NotifyError> {
        let request = self.http.post(self.url.clone()).header("x-request-id", request_id);
        let response = request.json(notification).send().await.map_err(NotifyError::Http)?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(NotifyError::Status(status)),
        }
    }
}
