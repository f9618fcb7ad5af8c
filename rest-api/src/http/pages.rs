//! Documents that are part of the program, for people and tools: `/`, `/schema/movies.json` and
//! `/openapi.json`.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, header};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;
use warp::reply::Response;

use super::{
    cache, openapi, params,
    request::Request,
    response::{self, Answer},
};
use crate::problem::Problem;

/// A document in both content codings, made when it is first asked for.
pub(super) type Page = LazyLock<Document>;

/// A document that does not change while the service runs.
pub(super) struct Document {
    media_type: &'static str,
    identity: Body,
    gzip: Body,
    policy: Option<&'static str>,
}

struct Body {
    bytes: Bytes,
    etag: HeaderValue,
}

static HOME: Page = Page::new(|| {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
                  form-action 'self'; frame-ancestors 'none'";
    Document::new("text/html; charset=utf-8", include_str!("home.html")).with_policy(policy)
});

static SCHEMA: Page = Page::new(|| Document::new("application/schema+json", schema::SCHEMA));

static OPENAPI: Page =
    Page::new(|| Document::new("application/json", openapi::document().to_string()));

/// `GET /`: the homepage.
pub(super) async fn home(request: Request) -> Answer {
    serve(request, &HOME).await
}

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
    let Document { media_type, identity, gzip, policy } = document;
    let etags = [identity.etag.clone(), gzip.etag.clone()];
    if let Some(etag) = cache::matching(&request.headers, etags) {
        return Ok(response::not_modified(cache::validators(etag, None)));
    }
    let is_gzip = cache::accepts_gzip(&request.headers);
    let body = if is_gzip { gzip } else { identity };
    let mut response = Response::new(body.bytes.clone().into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.extend(cache::validators(body.etag.clone(), None));
    if is_gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    let policy = policy.map(HeaderValue::from_static);
    headers.extend(policy.map(|policy| (header::CONTENT_SECURITY_POLICY, policy)));
    Ok(response)
}

impl Document {
    pub(super) fn new(media_type: &'static str, text: impl Into<Bytes>) -> Self {
        let identity = text.into();
        let gzip = cache::gzip(&identity).unwrap_or_default();
        Self { media_type, identity: Body::new(identity), gzip: Body::new(gzip), policy: None }
    }

    /// Adds a content security policy.
    pub(super) fn with_policy(self, policy: &'static str) -> Self {
        Self { policy: Some(policy), ..self }
    }
}

impl Body {
    fn new(bytes: Bytes) -> Self {
        let name = URL_SAFE_NO_PAD.encode(&Sha256::digest(&bytes)[..15]);
        let etag = HeaderValue::try_from(format!("\"{name}\""));
        Self { bytes, etag: etag.unwrap_or(HeaderValue::from_static("\"\"")) }
    }
}
