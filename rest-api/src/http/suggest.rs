//! `/suggest`: titles and names that complete what is being typed.

use super::{
    cache::{self, Fresh},
    params, query,
    request::Request,
    response::Answer,
};
use crate::{problem::Problem, store::search_key};

/// `GET /suggest`: at most ten titles and names, the best first.
pub(super) async fn suggest(request: Request) -> Answer {
    let app = &request.app;
    let mut text = None;
    for (_, value) in params::parse(&request.query, &["q"])? {
        query::set_text(&mut text, value)?;
    }
    let text = text.unwrap_or_default();
    let resource = format!("suggest {}", search_key(&text));
    let suggest = async |at_least| {
        let (revision, suggestions) = app.store.suggest(&text, at_least).await?;
        let json = serde_json::to_vec(&suggestions).map_err(|error| Problem::internal(&error))?;
        Ok(Fresh { revision: revision.unwrap_or(at_least), json, next: None, tag: None })
    };
    cache::answer(&request, resource, suggest).await
}
