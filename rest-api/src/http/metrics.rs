//! `GET /metrics`.

use std::time::Duration;

use http::StatusCode;
use tracing::debug;

use super::{
    params,
    request::Request,
    response::{Answer, body},
};
use crate::{metrics::MEDIA_TYPE, problem::Problem, telemetry::chain};

/// How long the database may take to report on the ledger. Prometheus waits 10 s at most,
/// and the other metrics matter most when the database is slow.
const LEDGER_TIMEOUT: Duration = Duration::from_secs(2);

/// `GET /metrics`: also while the database is unavailable.
pub(super) async fn metrics(request: Request) -> Answer {
    params::none(&request.query)?;
    let app = &request.app;
    // The metric `mru_database_up` reports an unavailable database, so that debug lines are enough.
    let read = async {
        tokio::try_join!(app.store.queue_depth(), app.store.last_reconcile(&app.access.buckets))
    };
    let ledger = match tokio::time::timeout(LEDGER_TIMEOUT, read).await {
        Ok(Ok(read)) => Some(read),
        Ok(Err(error)) => {
            debug!(error = chain(&error), "reading the ledger for the metrics failed");
            None
        }
        Err(_) => {
            debug!("reading the ledger for the metrics took too long");
            None
        }
    };
    app.metrics.set_listening(app.store.hints().is_listening());
    app.metrics.set_event_streams(app.events.followers());
    let text = app.metrics.render(ledger, &app.store.pool_status());
    let text = text.map_err(|error| Problem::internal(&error))?;
    Ok(body(StatusCode::OK, MEDIA_TYPE, text.into_bytes()))
}
