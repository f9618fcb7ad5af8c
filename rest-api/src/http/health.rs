//! `GET /healthz` and `GET /readyz`.

use std::time::Duration;

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    in_time, params,
    request::Request,
    response::{Answer, json},
};
use crate::problem::Problem;

/// The state of the service.
#[derive(JsonSchema, Serialize)]
pub(super) struct Health {
    /// `ok`: the process is alive. `ready`: it can serve.
    status: &'static str,
}

/// `GET /healthz`: the process is alive.
pub(super) async fn alive(request: Request) -> Answer {
    params::none(&request.query)?;
    json(StatusCode::OK, &Health { status: "ok" })
}

/// `GET /readyz`: the database is available and migrated, and the service is not stopping.
pub(super) async fn ready(request: Request) -> Answer {
    params::none(&request.query)?;
    if *request.app.stopping.borrow() {
        return Err(Problem::unavailable("the service is stopping", Duration::from_secs(5)));
    }
    in_time(request.app.store.ready()).await?;
    json(StatusCode::OK, &Health { status: "ready" })
}
