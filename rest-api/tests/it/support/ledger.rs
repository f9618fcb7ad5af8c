//! What a worker does with the ledger, one call at a time.

use std::time::Duration;

use rest_api::store::{CatalogueRow, Claim, Ingest, Lane, ObservedVersion, Report, Store};
use schema::{Movie, Notification};
use serde_json::Value;

use super::notification;

/// Longer than any test runs.
pub(crate) const LEASE: Duration = Duration::from_secs(60);

pub(crate) fn parse(notification: &Value) -> Notification {
    schema::parse(notification.to_string().as_bytes()).unwrap()
}

pub(crate) fn row(movie: &Value) -> CatalogueRow {
    CatalogueRow::new(&schema::parse::<Movie>(movie.to_string().as_bytes()).unwrap())
}

/// Records a notification whose object has not been looked at.
pub(crate) async fn record(store: &Store, notification: &Notification) -> Ingest {
    let report = Report { notification, observed: ObservedVersion::default() };
    store.record(&report, "", None).await.unwrap()
}

/// Records an ingest of `key` at `second`, and claims it.
pub(crate) async fn record_and_claim(store: &Store, key: &str, second: u32) -> Claim {
    record(store, &parse(&notification::at_second(key, second))).await;
    claim(store, LEASE).await.unwrap()
}

/// Claims an ingest of an object of unknown size.
pub(crate) async fn claim(store: &Store, lease: Duration) -> Option<Claim> {
    store.claim(Lane::Large, 1, lease).await.unwrap().pop()
}
