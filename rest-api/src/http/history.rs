//! `GET /movies/{id}/history`: the changes of one movie.

use chrono::{DateTime, Utc};
use http::{StatusCode, header};
use json_patch::{Patch, PatchOperation, ReplaceOperation, diff, jsonptr::PointerBuf};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    in_time, movie, params,
    request::Request,
    response::{Answer, json, link_next},
};
use crate::{
    problem::Problem,
    store::{HistoricState, HistoryPage, HistoryQuery, Provenance, Reason},
};

/// What a change does to a movie.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ChangeKind {
    /// The movie was new.
    Created,
    /// Its content changed.
    Changed,
    /// It was withdrawn, or deleted.
    Withdrawn,
    /// It is back after it was withdrawn.
    Restored,
    /// Nothing: it is the earliest content that is known. What was before is too old, or from before there was a history.
    EarliestKnown,
}

/// One change of a movie.
#[derive(Debug, JsonSchema, Serialize)]
pub(super) struct MovieChange {
    kind: ChangeKind,
    /// When. Null if the content was stored before migration 2.
    at: Option<DateTime<Utc>>,
    /// Who made it, if no file did.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    /// The ingest that made it, as long as the ledger has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    ingest: Option<i64>,
    /// The bucket of its object.
    #[serde(skip_serializing_if = "Option::is_none")]
    bucket: Option<String>,
    /// The key of its object.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// The version of its object, in a bucket that keeps versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    version_id: Option<String>,
    /// The index of the movie's record in the file or in the body of the request, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<i64>,
    /// Why the movie was withdrawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    /// What changed, as JSON Patch (RFC 6902) of the content before. Only of the kind `changed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "patch_schema")]
    changes: Option<Patch>,
    /// The whole content. Only of the kinds `created`, `restored` and `earliest_known`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "movie_schema")]
    movie: Option<Map<String, Value>>,
}

fn patch_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": {
            "type": "object",
            "required": ["op", "path"],
            "properties": {
                "op": { "type": "string", "enum": ["add", "replace", "remove"] },
                "path": { "description": "A JSON Pointer (RFC 6901).", "type": "string" },
                "value": { "description": "The new value. Not with `remove`." },
            },
        },
    })
}

fn movie_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "$ref": "#/components/schemas/Movie" })
}

/// `GET /movies/{id}/history`: a page of the changes of a movie, newest first.
pub(super) async fn list(request: Request) -> Answer {
    if !request.reads_ledger() {
        // A caller with a role, who is bound to keys: others are in the history, too.
        request.require_unbound()?;
    }
    let id = request.id().ok_or_else(movie::missing)?;
    // A cursor is of one movie.
    let order = format!("history {id}");
    let mut query = HistoryQuery { id, limit: params::DEFAULT_LIMIT, before: None };
    for (name, value) in params::parse(&request.query, &["limit", "after"])? {
        match name {
            "limit" => query.limit = params::limit(&value)?,
            _ => query.before = Some(params::parse_cursor(&value, &order)?),
        }
    }
    let page = in_time(request.app.store.history(&query)).await?.ok_or_else(movie::missing)?;
    let mut response = json(StatusCode::OK, &changes(&page)?)?;
    if let Some(next) = page.next() {
        let link = link_next(&request.path, &request.query, &params::cursor(&order, next))?;
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

/// Returns the changes that have led to the states of a page.
///
/// # Errors
/// If a stored document is malformed.
fn changes(page: &HistoryPage) -> Result<Vec<MovieChange>, Problem> {
    let content = |state: &HistoricState| {
        let movie = state.json.as_deref().map(serde_json::from_str).transpose();
        movie.map_err(|error| Problem::internal(&error))
    };
    let mut changes = Vec::with_capacity(page.states.len());
    let mut before = page.before.as_ref().map(content).transpose()?;
    for state in page.states.iter().rev() {
        let now = content(state)?;
        changes.push(change(page, state, before.as_ref(), now.as_ref()));
        before = Some(now);
    }
    changes.reverse();
    Ok(changes)
}

/// Returns the change that has led to `state`, whose content is `now`. The content before is `before`, if it is known.
fn change(
    page: &HistoryPage,
    state: &HistoricState,
    before: Option<&Option<Map<String, Value>>>,
    now: Option<&Map<String, Value>>,
) -> MovieChange {
    let (kind, changes) = match (before, now) {
        (_, None) => (ChangeKind::Withdrawn, None),
        (Some(Some(before)), Some(now)) => (ChangeKind::Changed, Some(patch(before, now))),
        (Some(None), _) => (ChangeKind::Restored, None),
        (None, _) if page.is_first(state) => (ChangeKind::Created, None),
        (None, _) => (ChangeKind::EarliestKnown, None),
    };
    let movie = now.filter(|_| changes.is_none()).cloned();
    let Provenance { ingest, bucket, key, version_id, record, edited_by: by, changed_at: at } =
        state.provenance.clone();
    let reason = state.reason;
    MovieChange { kind, at, by, ingest, bucket, key, version_id, record, reason, changes, movie }
}

/// Returns a patch that makes `after` of `before`. A property is replaced as a whole if that is shorter than to change its
/// elements: so a patch is not much longer than the movie.
fn patch(before: &Map<String, Value>, after: &Map<String, Value>) -> Patch {
    let added = after.keys().filter(|name| !before.contains_key(*name));
    let mut operations = Vec::new();
    for name in before.keys().chain(added) {
        let property = |movie: &Map<String, Value>| {
            let value = movie.get(name).map(|value| (name.clone(), value.clone()));
            Value::Object(value.into_iter().collect())
        };
        let Patch(mut changed) = diff(&property(before), &property(after));
        if let (2.., Some(value)) = (changed.len(), after.get(name)) {
            let (path, value) = (PointerBuf::from_tokens([name]), value.clone());
            let whole = PatchOperation::Replace(ReplaceOperation { path, value });
            if length(&whole) < changed.iter().map(length).sum() {
                changed = vec![whole];
            }
        }
        operations.append(&mut changed);
    }
    Patch(operations)
}

/// Returns the length of an operation as JSON.
fn length(operation: &PatchOperation) -> usize {
    serde_json::to_vec(operation).map_or(0, |json| json.len())
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use serde_json::json;

    use super::*;

    fn movie(random: &mut Rng) -> Map<String, Value> {
        let mut names = |most: usize| -> Vec<String> {
            (0..random.usize(..most)).map(|_| random.u8(..9).to_string()).collect()
        };
        let mut movie = json!({ "title": "A/~ \u{e9}", "cast": names(40), "genres": names(3) });
        for name in ["extract", "a/b~c", ""] {
            if random.bool() {
                movie[name] = random.u8(..3).into();
            }
        }
        serde_json::from_value(movie).unwrap()
    }

    #[test]
    fn a_patch_makes_one_movie_of_another_and_is_not_much_longer() {
        let random = &mut Rng::with_seed(16);
        for _ in 0..2_000 {
            let (before, after) = (movie(random), movie(random));
            let patch = patch(&before, &after);
            let mut patched = Value::Object(before.clone());
            json_patch::patch(&mut patched, &patch).unwrap();
            assert_eq!(patched, Value::Object(after.clone()), "{before:?}");
            let [patch, movie] = [json!(patch), json!(after)].map(|json| json.to_string().len());
            // What stands around the properties, and those that are removed.
            assert!(patch <= movie + 6 * 45, "{patch} bytes for a movie of {movie}");
        }
    }

    #[test]
    fn a_change_of_one_name_is_one_operation() {
        let names: Vec<String> = (0..30).map(|n| format!("Name {n}")).collect();
        let movie = |names: &[String]| json!({ "cast": names }).as_object().unwrap().clone();
        let operations = |after: &[String]| json!(patch(&movie(&names), &movie(after)));
        let mut renamed = names.clone();
        renamed[7] = "Other".to_owned();
        let expected = json!([{ "op": "replace", "path": "/cast/7", "value": "Other" }]);
        assert_eq!(operations(&renamed), expected);
        let expected = json!([{ "op": "replace", "path": "/cast", "value": names[1..] }]);
        assert_eq!(operations(&names[1..]), expected);
        assert_eq!(operations(&names), json!([]));
    }
}
