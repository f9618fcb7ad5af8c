//! A request as handlers see it: its method, headers, query and body, each with its checks.

use std::{sync::Arc, time::Duration};

use aws::trace::TraceId;
use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt, stream::BoxStream};
use http::{HeaderMap, Method, header};
use warp::{Filter, filters::BoxedFilter};

use super::App;
use crate::{
    config::TokenDigest,
    problem::{Code, Problem},
};

/// How long the next piece of a body may take to arrive, and the whole of it.
const PIECE_TIMEOUT: Duration = Duration::from_secs(10);
const BODY_TIMEOUT: Duration = Duration::from_secs(40);

/// The longest request id that is taken over from a client.
const MAX_REQUEST_ID: usize = 128;

/// A request.
pub(super) struct Request {
    pub(super) app: Arc<App>,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    /// Without the question mark; empty if there is none.
    pub(super) query: String,
    /// What the request belongs to; the server gives every request one.
    pub(super) trace_id: Option<TraceId>,
    body: BoxStream<'static, Result<Bytes, warp::Error>>,
}

/// The filter that every route ends in.
pub(super) fn request(app: Arc<App>) -> BoxedFilter<(Request,)> {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method()
        .and(warp::header::headers_cloned())
        .and(query)
        .and(warp::ext::optional())
        .and(warp::body::stream())
        .map(move |method, headers, query, trace_id, body| Request {
            app: Arc::clone(&app),
            method,
            headers,
            query,
            trace_id,
            body: chunks(body).boxed(),
        })
        .boxed()
}

fn chunks<B: Buf>(
    body: impl Stream<Item = Result<B, warp::Error>> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, warp::Error>> + Send + 'static {
    body.map(|chunk| chunk.map(|mut buffer| buffer.copy_to_bytes(buffer.remaining())))
}

impl Request {
    /// # Errors
    /// If the method is not GET (nor HEAD, which arrives here as GET).
    pub(super) fn get(&self) -> Result<(), Problem> {
        if self.method == Method::GET {
            Ok(())
        } else {
            Err(Problem::method_not_allowed("GET, HEAD"))
        }
    }

    /// # Errors
    /// If the request does not carry the API token.
    pub(super) fn authorized(&self) -> Result<(), Problem> {
        let value = self.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = value.and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        match token {
            Some(token) if self.app.api_tokens.contains(&TokenDigest::of(token)) => Ok(()),
            _ => Err(Problem::unauthorized()),
        }
    }

    /// # Errors
    /// If the body is of another media type than one of `allowed`. None at all is taken for one.
    pub(super) fn media_type(&self, allowed: &[&str]) -> Result<(), Problem> {
        let Some(value) = self.headers.get(header::CONTENT_TYPE) else { return Ok(()) };
        let essence =
            value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if allowed.iter().any(|allowed| essence.eq_ignore_ascii_case(allowed)) {
            return Ok(());
        }
        let detail = format!("send Content-Type: {}", allowed.join(" or "));
        Err(Problem::new(Code::UnsupportedMediaType, detail))
    }

    /// The id that ties the log lines of this request together.
    pub(super) fn id(&self) -> String {
        let id = self.headers.get("x-request-id").and_then(|id| id.to_str().ok());
        id.unwrap_or_default().chars().take(MAX_REQUEST_ID).collect()
    }

    /// Reads the whole body, of at most `limit` bytes, announced or not.
    ///
    /// # Errors
    /// If it is larger, or comes too slowly, or breaks off.
    pub(super) async fn body(&mut self, limit: usize) -> Result<Bytes, Problem> {
        let slow = Problem::new(Code::RequestTimeout, "the body did not arrive in time");
        tokio::time::timeout(BODY_TIMEOUT, self.read_body(limit)).await.unwrap_or(Err(slow))
    }

    async fn read_body(&mut self, limit: usize) -> Result<Bytes, Problem> {
        let too_large = || Problem::new(Code::BodyTooLarge, format!("at most {limit} bytes"));
        let announced = self.headers.get(header::CONTENT_LENGTH);
        let announced = announced.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut whole = Vec::with_capacity(announced.unwrap_or_default());
        loop {
            let piece = tokio::time::timeout(PIECE_TIMEOUT, self.body.next()).await;
            let slow = || Problem::new(Code::RequestTimeout, "the body did not arrive in time");
            match piece.map_err(|_| slow())? {
                None => return Ok(whole.into()),
                Some(Ok(piece)) if whole.len() + piece.len() > limit => return Err(too_large()),
                Some(Ok(piece)) => whole.extend_from_slice(&piece),
                Some(Err(_)) => {
                    return Err(Problem::new(Code::MalformedJson, "the body broke off"));
                }
            }
        }
    }
}
