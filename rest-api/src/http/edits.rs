//! Changes of one movie: `PUT`, `PATCH` and `DELETE /movies/{id}`, and its hold.

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{
    cache,
    movie::{self, missing, withdrawn},
    movies::read_rows,
    params,
    request::Request,
    response::{self, Answer, json},
};
use crate::{
    problem::{Code, Problem},
    store::{
        CatalogueRow, Content, Edit, Edited, FoundById, IdempotencyKey, MovieWithProvenance,
        StoreError,
    },
};

/// The largest body, in bytes.
pub(super) const MAX_BODY: usize = 1 << 20;

/// The media types of a whole movie, and of a change of some of its properties (RFC 7396).
pub(super) const MEDIA_TYPE: &str = "application/json";
pub(super) const PATCH_MEDIA_TYPE: &str = "application/merge-patch+json";

/// The properties of an answer that are no content of the movie. `PUT` ignores them, so that what `GET` returned can be
/// changed and sent back.
const NOT_CONTENT: [&str; 4] = ["provenance", "held", "hold", "score"];

/// The longest idempotency key, in characters.
pub(super) const MAX_KEY: usize = 255;

/// How often a change of any state (`If-Match: *`) is tried while others change the movie, too.
const ATTEMPTS: usize = 5;

/// `PUT /movies/{id}`: replaces the content of a movie.
pub(super) async fn replace(request: Request) -> Answer {
    request.require_media_type(&[MEDIA_TYPE])?;
    change(request).await
}

/// `PATCH /movies/{id}`: changes some properties of a movie.
pub(super) async fn patch(request: Request) -> Answer {
    request.require_media_type(&[PATCH_MEDIA_TYPE])?;
    change(request).await
}

/// `DELETE /movies/{id}`: deletes a movie.
pub(super) async fn delete(request: Request) -> Answer {
    change(request).await
}

/// `PUT /movies/{id}/hold`: files do not change the movie any more.
pub(super) async fn hold(request: Request) -> Answer {
    request.require_unbound()?;
    params::none(&request.query)?;
    let id = request.id().ok_or_else(missing)?;
    let state = request.app.store.hold_movie(id, &request.caller()?.name).await?;
    json(StatusCode::OK, &state.ok_or_else(missing)?)
}

/// `DELETE /movies/{id}/hold`: the movie becomes what it would be without its hold.
pub(super) async fn release(request: Request) -> Answer {
    request.require_unbound()?;
    params::none(&request.query)?;
    let id = request.id().ok_or_else(missing)?;
    let state = request.app.store.release_movie(id, &request.caller()?.name).await?;
    json(StatusCode::OK, &state.ok_or_else(missing)?)
}

/// Changes one movie as the request says.
async fn change(mut request: Request) -> Answer {
    request.require_unbound()?;
    let id = request.id().ok_or_else(missing)?;
    let hold = parse_hold(&request.query)?;
    let if_match = IfMatch::of(&request)?;
    let key = idempotency_key(&request)?;
    let body = request.body().await?;
    let caller = request.caller()?;
    let fingerprint = fingerprint(&request, &if_match, &body);
    let key = key.as_deref().map(|key| IdempotencyKey {
        caller: &caller.subject,
        key,
        fingerprint: &fingerprint,
    });
    let store = &request.app.store;
    for _ in 0..ATTEMPTS {
        // The movie is read first: whoever has changed it by the same request has left an answer then.
        let found = store.present_movie(id).await?;
        if let Some(key) = &key
            && let Some(edited) = store.answered(key).await?
        {
            return respond(&edited);
        }
        let found = match found {
            FoundById::Movie(movie) => movie,
            FoundById::Withdrawn(withdrawal) => {
                return Err(withdrawn(withdrawal, request.reads_ledger()));
            }
            FoundById::Nothing => return Err(missing()),
        };
        if !if_match.holds_for(&cache::movie_tag(id, &found.state())) {
            return Err(StoreError::MovieChanged.into());
        }
        let row = content(&request, &found, &body).await?;
        let content = row.as_ref().map_or(Content::Deleted, Content::Replaced);
        let edit = Edit { id, content, expected: found.state(), hold, by: &caller.name };
        match store.edit_movie(&edit, key.as_ref(), answer).await {
            Err(StoreError::MovieChanged) if if_match == IfMatch::Any => {}
            edited => return respond(&edited?),
        }
    }
    Err(StoreError::MovieChanged.into())
}

/// Returns the content that a movie gets; none if it is deleted.
///
/// # Errors
/// If the body is no movie, or another one.
async fn content(
    request: &Request,
    found: &MovieWithProvenance,
    body: &Bytes,
) -> Result<Option<CatalogueRow>, Problem> {
    if request.method == Method::DELETE {
        return Ok(None);
    }
    let mut sent: Value = serde_json::from_slice(body).map_err(|error| {
        Problem::new(Code::MalformedJson, format!("the body is no JSON: {error}"))
    })?;
    let Some(properties) = sent.as_object_mut() else {
        return Err(Problem::new(Code::MalformedJson, "the body must be a JSON object"));
    };
    check_id(properties, found.movie.id)?;
    if request.method == Method::PUT {
        NOT_CONTENT.iter().for_each(|name| drop(properties.remove(*name)));
    }
    let internal = |error: serde_json::Error| Problem::internal(&error);
    let whole = if request.method == Method::PATCH {
        let mut present: Value = serde_json::from_str(&found.movie.json).map_err(internal)?;
        json_patch::merge(&mut present, &sent);
        present
    } else {
        sent
    };
    let whole = Bytes::from(serde_json::to_vec(&whole).map_err(internal)?);
    let rows = read_rows(None, whole, &request.app.decode_pool).await?;
    let row = rows.into_iter().next().ok_or_else(|| {
        Problem::new(Code::MalformedJson, "the body must be one movie, a JSON object")
    })?;
    if !row.is_content_of(found) {
        let detail = "title, year and href tell movies apart and cannot be changed: add the other movie with \
            POST /movies, and delete this one";
        return Err(Problem::new(Code::AnotherMovie, detail));
    }
    Ok(Some(row))
}

/// Removes the id.
///
/// # Errors
/// If it is that of another movie.
fn check_id(properties: &mut Map<String, Value>, id: i64) -> Result<(), Problem> {
    match properties.remove("id") {
        Some(sent) if sent != id => {
            let detail =
                format!("the body has the id {sent}, the path has {id}: send the same, or none");
            Err(Problem::new(Code::AnotherMovie, detail))
        }
        _ => Ok(()),
    }
}

/// Renders the answer to a change.
fn answer(movie: &MovieWithProvenance) -> Edited {
    let tag = cache::movie_tag(movie.movie.id, &movie.state());
    // What the catalogue has can always be written.
    let answer = movie::whole(movie).unwrap_or_default();
    Edited { answer, etag: Some(format!("\"{tag}\"")) }
}

fn respond(edited: &Edited) -> Answer {
    if edited.answer.is_empty() {
        return Ok(response::empty(StatusCode::NO_CONTENT));
    }
    let mut response =
        response::body(StatusCode::OK, MEDIA_TYPE, edited.answer.clone().into_bytes());
    let etag = edited.etag.as_deref().and_then(|etag| HeaderValue::try_from(etag).ok());
    response.headers_mut().extend(etag.map(|etag| (header::ETAG, etag)));
    Ok(response)
}

/// Returns the value of the parameter `hold`: whether the movie is held with its change.
fn parse_hold(query: &str) -> Result<bool, Problem> {
    let mut hold = false;
    for (name, value) in params::parse(query, &["hold"])? {
        hold = match &*value {
            "true" => true,
            "false" => false,
            _ => return Err(Problem::parameter(name, "true or false")),
        };
    }
    Ok(hold)
}

/// The states of a movie that a change is of (RFC 9110, 13.1.1).
#[derive(Debug, Eq, PartialEq)]
enum IfMatch {
    Any,
    /// The states with these tags.
    Tags(Vec<String>),
}

impl IfMatch {
    /// Returns the header of a request.
    ///
    /// # Errors
    /// If there is none.
    fn of(request: &Request) -> Result<Self, Problem> {
        let values: Vec<&HeaderValue> = request.headers.get_all(header::IF_MATCH).iter().collect();
        if values.is_empty() {
            let detail =
                "send the header If-Match with the ETag of the movie, as GET /movies/{id} has it";
            return Err(Problem::new(Code::PreconditionRequired, detail));
        }
        let sent = values.iter().filter_map(|value| value.to_str().ok());
        let sent: Vec<&str> = sent.flat_map(|value| value.split(',')).map(str::trim).collect();
        if sent.contains(&"*") {
            return Ok(Self::Any);
        }
        // Forms of the answer for other callers and codings have a suffix.
        let tag = |sent: &str| {
            let tag = sent.strip_prefix('"')?.strip_suffix('"')?;
            Some(tag.split('.').next().unwrap_or(tag).to_owned())
        };
        Ok(Self::Tags(sent.into_iter().filter_map(tag).collect()))
    }

    fn holds_for(&self, tag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Tags(tags) => tags.iter().any(|sent| sent == tag),
        }
    }
}

/// Returns the header `Idempotency-Key`, if there is one.
///
/// # Errors
/// If it is empty, too long, or not ASCII.
fn idempotency_key(request: &Request) -> Result<Option<String>, Problem> {
    let Some(value) = request.headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=MAX_KEY).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => {
            let detail = format!("Idempotency-Key: expected 1 to {MAX_KEY} ASCII characters");
            Err(Problem::new(Code::InvalidHeader, detail))
        }
    }
}

/// Returns a digest of what a request asks for.
fn fingerprint(request: &Request, if_match: &IfMatch, body: &[u8]) -> [u8; 32] {
    let Request { method, path, query, .. } = request;
    let mut hasher = Sha256::new();
    hasher.update(format!("{method}\n{path}\n{query}\n{if_match:?}\n"));
    hasher.update(body);
    hasher.finalize().into()
}
