//! The client with which the Lambda sends notifications.

use aws::SecretsManager;
use ingest_lambda::{ApiClient, Config, Token};

use super::Service;

/// Returns the client of a Lambda that notifies `service`.
pub(crate) async fn function(
    service: &Service,
    token: Token,
    secrets: SecretsManager,
) -> ApiClient {
    let api_url = service.url("/notify").parse().unwrap();
    let config = Config { api_url, token, log_filter: String::new() };
    ApiClient::new(&config, secrets).await.unwrap()
}
