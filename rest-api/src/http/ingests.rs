//! `/ingests`: the ledger.

use http::{StatusCode, header};

use super::{
    in_time, params,
    request::Request,
    response::{Answer, json, link_next},
};
use crate::{
    problem::{Code, Problem},
    store::{Ingest, IngestQuery, IngestState, Undo},
};

/// The order of the list, in its cursors.
const ORDER: &str = "ingests";

/// `GET /ingests`: a page of ingests, newest first.
pub(super) async fn list(request: Request) -> Answer {
    let mut query = parse(&request.query)?;
    query.prefixes = request.prefixes().list().to_vec();
    let mut ingests = in_time(request.app.store.ingests(&query)).await?;
    let limit = usize::try_from(query.limit).unwrap_or_default();
    let more = ingests.len() > limit;
    ingests.truncate(limit);
    let mut response = json(StatusCode::OK, &ingests)?;
    if let Some(last) = ingests.last().filter(|_| more) {
        let link = link_next("/ingests", &request.query, &params::cursor(ORDER, last.id))?;
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

fn parse(query: &str) -> Result<IngestQuery, Problem> {
    let mut parsed = IngestQuery { limit: params::DEFAULT_LIMIT, ..IngestQuery::default() };
    for (name, value) in params::parse(query, &["bucket", "key", "state", "limit", "after"])? {
        match name {
            "bucket" => parsed.bucket = Some(without_nul(name, value)?),
            "key" => parsed.key = Some(without_nul(name, value)?),
            "state" => {
                let states =
                    "queued, running, succeeded, rejected, superseded, gone, blocked or failed";
                let state = IngestState::from_name(&value);
                parsed.state = Some(state.ok_or_else(|| Problem::parameter(name, states))?);
            }
            "limit" => parsed.limit = params::limit(&value)?,
            _ => parsed.after = Some(params::parse_cursor(&value, ORDER)?),
        }
    }
    Ok(parsed)
}

/// Postgres refuses U+0000 in text.
fn without_nul(name: &str, value: String) -> Result<String, Problem> {
    if value.contains('\0') {
        return Err(Problem::parameter(name, "may not contain U+0000"));
    }
    Ok(value)
}

/// `GET /ingests/{id}`: one ingest with its violations.
pub(super) async fn read(request: Request) -> Answer {
    params::none(&request.query)?;
    json(StatusCode::OK, &visible(&request).await?)
}

/// `POST /ingests/{id}/retry`: queues a failed or gone ingest again.
pub(super) async fn retry(request: Request) -> Answer {
    params::none(&request.query)?;
    let id = visible_id(&request).await?;
    let retried = in_time(request.app.store.retry(id)).await?;
    let (retried, ingest) = retried.ok_or_else(not_found)?;
    if !retried {
        let state = ingest.state.name();
        let detail = format!("the ingest is {state}; only a failed or gone one can be retried");
        return Err(Problem::new(Code::NotFailed, detail));
    }
    json(StatusCode::ACCEPTED, &ingest)
}

/// `POST /ingests/{id}/approve`: lets a blocked snapshot withdraw as many movies as it does.
pub(super) async fn approve(request: Request) -> Answer {
    params::none(&request.query)?;
    let id = visible_id(&request).await?;
    let approved = in_time(request.app.store.approve(id, &request.caller()?.name)).await?;
    let (approved, ingest) = approved.ok_or_else(not_found)?;
    if !approved {
        let state = ingest.state.name();
        let detail = format!("the ingest is {state}; only a blocked one can be approved");
        return Err(Problem::new(Code::NotBlocked, detail));
    }
    json(StatusCode::ACCEPTED, &ingest)
}

/// `POST /ingests/{id}/undo`: what the version said does not count any more.
pub(super) async fn undo(request: Request) -> Answer {
    decide(request, Undo::Undo).await
}

/// `POST /ingests/{id}/redo`: what the version said counts again.
pub(super) async fn redo(request: Request) -> Answer {
    decide(request, Undo::Redo).await
}

async fn decide(request: Request, undo: Undo) -> Answer {
    let mut dry_run = false;
    for (name, value) in params::parse(&request.query, &["dry_run"])? {
        dry_run = match &*value {
            "true" => true,
            "false" => false,
            _ => return Err(Problem::parameter(name, "true or false")),
        };
    }
    let id = visible_id(&request).await?;
    let decided = request.app.store.undo(id, undo, &request.caller()?.name, dry_run).await?;
    let decided = decided.ok_or_else(not_found)?;
    request.app.metrics.withdrawn(&decided.effect);
    json(StatusCode::OK, &decided)
}

/// Returns the ingest in the path, if the caller may see it.
///
/// # Errors
/// If there is none.
async fn visible(request: &Request) -> Result<Ingest, Problem> {
    let id = request.id().ok_or_else(not_found)?;
    let ingest = in_time(request.app.store.ingest(id)).await?;
    ingest.filter(|ingest| request.prefixes().contain(&ingest.key)).ok_or_else(not_found)
}

/// Returns the id in the path, if the caller may see its ingest.
///
/// # Errors
/// If it is no number, or the key of its ingest is not one of the caller's.
async fn visible_id(request: &Request) -> Result<i64, Problem> {
    match request.prefixes().are_all() {
        true => request.id().ok_or_else(not_found),
        false => visible(request).await.map(|ingest| ingest.id),
    }
}

fn not_found() -> Problem {
    Problem::new(Code::NotFound, "no such ingest; GET /ingests lists them")
}
