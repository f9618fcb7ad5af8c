//! Whether the process lives, and whether it can serve.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;

use super::{Answer, in_time, json, params, request::Request};
use crate::problem::Problem;

/// `GET /healthz`: the process is there.
pub(super) async fn alive(request: Request) -> Answer {
    request.get()?;
    params::parse(&request.query, &[])?;
    json(StatusCode::OK, &json!({ "status": "ok" }))
}

/// `GET /readyz`: the database answers and is migrated, and the service is not stopping.
pub(super) async fn ready(request: Request) -> Answer {
    request.get()?;
    params::parse(&request.query, &[])?;
    if *request.app.stopping.borrow() {
        return Err(Problem::unavailable("the service is stopping", Duration::from_secs(5)));
    }
    in_time(request.app.store.ready()).await?;
    json(StatusCode::OK, &json!({ "status": "ready" }))
}
