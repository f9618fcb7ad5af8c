//! Documents that are part of the program, for people and tools: `/schema/movies.json` and `/openapi.json`. `page` and
//! `docs` serve theirs by the same means.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;
use warp::reply::Response;

use super::{
    cache, openapi, params,
    request::Request,
    response::{self, Answer},
};
use crate::problem::Problem;

/// The media type of scripts.
pub(super) const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// A document in both content codings, made when it is first asked for.
pub(super) type Page = LazyLock<Document>;

/// A document that does not change while the service runs.
pub(super) struct Document {
    media_type: &'static str,
    identity: Body,
    gzip: Body,
    /// Further headers. They replace those that every document has.
    headers: Vec<(HeaderName, HeaderValue)>,
}

struct Body {
    bytes: Bytes,
    etag: HeaderValue,
}

static SCHEMA: Page = Page::new(|| Document::new("application/schema+json", schema::SCHEMA));

static OPENAPI: Page =
    Page::new(|| Document::new("application/json", openapi::document().to_string()));

/// `GET /schema/movies.json`: the JSON schema of movies and notifications.
pub(super) async fn schema(request: Request) -> Answer {
    serve(request, &SCHEMA).await
}

/// `GET /openapi.json`: the description of this API.
pub(super) async fn openapi(request: Request) -> Answer {
    serve(request, &OPENAPI).await
}

/// Answers with a document, or with `304` if the client has it.
///
/// # Errors
/// If the query has a parameter.
pub(super) async fn serve(request: Request, page: &'static Page) -> Answer {
    params::none(&request.query)?;
    // The first request waits until the document is made and compressed.
    let document = spawn_blocking(|| LazyLock::force(page)).await;
    let document = document.map_err(|error| Problem::internal(&error))?;
    Ok(respond(&request.headers, document))
}

/// Answers a request that has these headers with a document, or with `304` if the client has it.
pub(super) fn respond(sent: &HeaderMap, document: &Document) -> Response {
    let Document { media_type, identity, gzip, headers } = document;
    let etags = [identity.etag.clone(), gzip.etag.clone()];
    let mut response = if let Some(etag) = cache::matching(sent, etags) {
        response::not_modified(cache::validators(etag, None))
    } else {
        let is_gzip = cache::accepts_gzip(sent);
        let body = if is_gzip { gzip } else { identity };
        let mut response = Response::new(body.bytes.clone().into());
        let added = response.headers_mut();
        added.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        added.extend(cache::validators(body.etag.clone(), None));
        if is_gzip {
            added.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    };
    for (name, value) in headers {
        response.headers_mut().insert(name.clone(), value.clone());
    }
    response
}

impl Document {
    pub(super) fn new(media_type: &'static str, text: impl Into<Bytes>) -> Self {
        let identity = text.into();
        let gzip = cache::gzip(&identity).unwrap_or_default();
        Self {
            media_type,
            identity: Body::new(identity),
            gzip: Body::new(gzip),
            headers: Vec::new(),
        }
    }

    /// Adds a header.
    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl Body {
    fn new(bytes: Bytes) -> Self {
        let name = URL_SAFE_NO_PAD.encode(&Sha256::digest(&bytes)[..15]);
        let etag = HeaderValue::try_from(format!("\"{name}\""));
        Self { bytes, etag: etag.unwrap_or(HeaderValue::from_static("\"\"")) }
    }
}
