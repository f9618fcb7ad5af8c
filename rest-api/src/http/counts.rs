//! `/genres` and `/years`: how many movies have each.

use serde::Serialize;

use super::{
    cache::{self, Fresh},
    query,
    request::Request,
    response::Answer,
};
use crate::{problem::Problem, store::Revision};

/// `GET /genres`: the genres of the movies that match, the most common one first.
pub(super) async fn genres(request: Request) -> Answer {
    let app = &request.app;
    let filters = query::filters(&request.query)?;
    let resource = format!("genres {:?}", filters.normalised());
    let count = async |at_least| {
        let (revision, counts) = app.store.genres(&filters, at_least).await?;
        fresh(revision, &counts)
    };
    cache::answer(&request, resource, count).await
}

/// `GET /years`: the years of the movies that match, upwards.
pub(super) async fn years(request: Request) -> Answer {
    let app = &request.app;
    let filters = query::filters(&request.query)?;
    let resource = format!("years {:?}", filters.normalised());
    let count = async |at_least| {
        let (revision, counts) = app.store.years(&filters, at_least).await?;
        fresh(revision, &counts)
    };
    cache::answer(&request, resource, count).await
}

fn fresh(revision: Revision, counts: &impl Serialize) -> Result<Fresh, Problem> {
    let json = serde_json::to_vec(counts).map_err(|error| Problem::internal(&error))?;
    Ok(Fresh { revision, json, next: None, tag: None })
}
