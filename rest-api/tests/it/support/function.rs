//! The client with which the Lambda sends notifications.

use std::slice;

use aws::{SecretsManager, trace::TraceParent};
use ingest_lambda::{ApiClient, Config, Notify, NotifyError, Token};
use schema::Notification;

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

/// Sends one notification, as the Lambda does for an event with one record.
pub(crate) async fn notify(
    client: &ApiClient,
    notification: &Notification,
) -> Result<(), NotifyError> {
    client.notify(slice::from_ref(notification), "r", &TraceParent::random()).await.remove(0)
}
