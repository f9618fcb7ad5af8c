//! The figures for Prometheus.

use std::time::Duration;

use http::StatusCode;
use tracing::debug;

use super::{Answer, body, params, request::Request};
use crate::{
    metrics::MEDIA_TYPE,
    problem::{Code, Problem},
    telemetry::chain,
};

/// How long the database may take to say how long its queue is. Whoever scrapes waits 10 s at most,
/// and wants the other figures most when the database is slow.
const PATIENCE: Duration = Duration::from_secs(2);

/// `GET /metrics`: also while the database is away.
pub(super) async fn metrics(request: Request) -> Answer {
    request.get()?;
    params::parse(&request.query, &[])?;
    let app = &request.app;
    // The figure `mru_database_up` tells of it; a line for each scrape would tell no more.
    let queue = match tokio::time::timeout(PATIENCE, app.store.queue()).await {
        Ok(Ok(queue)) => Some(queue),
        Ok(Err(error)) => {
            debug!(error = chain(&error), "no figures from the database");
            None
        }
        Err(_) => {
            debug!("no figures from the database in time");
            None
        }
    };
    let text = app.metrics.render(queue, &app.store.pools());
    let text = text.map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    Ok(body(StatusCode::OK, MEDIA_TYPE, text.into_bytes()))
}
