//! `/genres` and `/years`: how many movies have each.

use serde::Serialize;

use super::{
    cache::{self, Fresh},
    query,
    request::Request,
    response::Answer,
};
use crate::{
    problem::Problem,
    store::{Filters, Revision, search_key},
};

/// `GET /genres`: the genres of the movies that match, the most common one first.
pub(super) async fn genres(request: Request) -> Answer {
    let app = &request.app;
    let (filters, text) = query::filters_and_text(&request.query)?;
    let resource = resource("genres", &filters, text.as_deref());
    let count = async |at_least| {
        let (revision, counts) = app.store.genres(&filters, text.as_deref(), at_least).await?;
        fresh(revision, &counts)
    };
    cache::answer(&request, resource, count).await
}

/// `GET /years`: the years of the movies that match, upwards.
pub(super) async fn years(request: Request) -> Answer {
    let app = &request.app;
    let (filters, text) = query::filters_and_text(&request.query)?;
    let resource = resource("years", &filters, text.as_deref());
    let count = async |at_least| {
        let (revision, counts) = app.store.years(&filters, text.as_deref(), at_least).await?;
        fresh(revision, &counts)
    };
    cache::answer(&request, resource, count).await
}

/// Returns text that is the same for all requests with the same answer.
fn resource(name: &str, filters: &Filters, text: Option<&str>) -> String {
    format!("{name} {:?} {:?}", text.map(search_key), filters.normalised())
}

fn fresh(revision: Revision, counts: &impl Serialize) -> Result<Fresh, Problem> {
    let json = serde_json::to_vec(counts).map_err(|error| Problem::internal(&error))?;
    Ok(Fresh { revision, json, next: None, tag: None })
}
