//! The ledger of files.

use http::StatusCode;

use super::{Answer, in_time, json, link_next, params, request::Request};
use crate::{
    problem::{Code, Problem},
    store::{IngestQuery, IngestState},
};

/// What a cursor of this list belongs to.
const ORDER: &str = "ingests";

/// `GET /ingests`: newest first.
pub(super) async fn list(request: Request) -> Answer {
    request.get()?;
    let query = parse(&request.query)?;
    let mut ingests = in_time(request.app.store.ingests(&query)).await?;
    let limit = usize::try_from(query.limit).unwrap_or_default();
    let more = ingests.len() > limit;
    ingests.truncate(limit);
    let mut response = json(StatusCode::OK, &ingests)?;
    if let Some(last) = ingests.last().filter(|_| more) {
        link_next(&mut response, "/ingests", &request.query, &params::cursor(ORDER, last.id))?;
    }
    Ok(response)
}

fn parse(query: &str) -> Result<IngestQuery, Problem> {
    let mut parsed = IngestQuery { limit: params::DEFAULT_LIMIT, ..IngestQuery::default() };
    for (name, value) in params::parse(query, &["bucket", "key", "state", "limit", "after"])? {
        match name {
            "bucket" => parsed.bucket = Some(storable(name, value)?),
            "key" => parsed.key = Some(storable(name, value)?),
            "state" => {
                let states = "queued, running, succeeded, rejected, superseded or failed";
                let state = IngestState::from_name(&value);
                parsed.state = Some(state.ok_or_else(|| Problem::parameter(name, states))?);
            }
            "limit" => parsed.limit = params::limit(&value)?,
            _ => parsed.after = Some(params::parse_cursor(&value, ORDER)?),
        }
    }
    Ok(parsed)
}

fn storable(name: &str, value: String) -> Result<String, Problem> {
    if value.contains('\0') {
        return Err(Problem::parameter(name, "may not contain U+0000"));
    }
    Ok(value)
}

/// `GET /ingests/{id}`: with all that was wrong.
pub(super) async fn one(id: String, request: Request) -> Answer {
    request.get()?;
    params::parse(&request.query, &[])?;
    let ingest = match id.parse() {
        Ok(id) => in_time(request.app.store.ingest(id)).await?,
        Err(_) => None,
    };
    let missing = || Problem::new(Code::NotFound, "no such ingest; GET /ingests lists them");
    json(StatusCode::OK, &ingest.ok_or_else(missing)?)
}

/// `POST /ingests/{id}/retry`: queues one anew that has failed.
pub(super) async fn retry(id: String, request: Request) -> Answer {
    request.post()?;
    request.authorized()?;
    params::parse(&request.query, &[])?;
    let retried = match id.parse() {
        Ok(id) => in_time(request.app.store.retry(id)).await?,
        Err(_) => None,
    };
    match retried {
        Some((true, ingest)) => json(StatusCode::ACCEPTED, &ingest),
        Some((false, ingest)) => {
            let state = ingest.state.name();
            let detail = format!("the ingest is {state}; only one that has failed can be retried");
            Err(Problem::new(Code::NotFailed, detail))
        }
        None => Err(Problem::new(Code::NotFound, "no such ingest; GET /ingests lists them")),
    }
}
