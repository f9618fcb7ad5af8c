//! A request as handlers see it: path values, headers, query and body, each with its checks.

use std::{
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use aws::trace::Trace;
use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use http::{HeaderMap, HeaderName, Method, header};
use schema::Fault;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::Span;
use warp::{
    Filter,
    filters::{BoxedFilter, path::FullPath},
};

use super::{App, routes::RouteLabel};
use crate::{
    accounts::{Caller, KeyPrefixes, Refusal},
    problem::{Code, Problem},
};

/// How long the next chunk of a body may take to arrive, and the whole body.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);
const BODY_TIMEOUT: Duration = Duration::from_secs(40);

/// What somebody is bound to who has not signed in.
static ALL_KEYS: KeyPrefixes = KeyPrefixes::ALL;

/// When a client may try again whose token could not be checked.
const RETRY_KEYS: Duration = Duration::from_secs(10);

/// How many bytes of a body are read that is refused, beside twice the limit, and for how long.
const MIN_DISCARDED: usize = 16 << 20;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// A request.
pub(super) struct Request {
    pub(super) app: Arc<App>,
    pub(super) method: Method,
    pub(super) path: Arc<str>,
    pub(super) headers: HeaderMap,
    /// Without the question mark; empty if there is none.
    pub(super) query: String,
    /// The trace that the request belongs to. The server gives each request one.
    pub(super) trace: Option<Trace>,
    /// Who has opened the connection.
    peer: Option<Peer>,
    pub(super) route: RouteLabel,
    /// Who sends it; none if it has no token, or its route does not look at it.
    pub(super) caller: Option<Arc<Caller>>,
    /// The values of the path's segments in braces.
    path_values: Vec<String>,
    /// The largest body that is read, in bytes.
    max_body: usize,
    body: Body,
}

/// The address that a connection comes from. It goes with each request.
#[derive(Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// The body of a request as it arrives.
type Body = Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send + Sync>>;

/// Returns the filter that extracts a request.
pub(super) fn request(app: Arc<App>) -> BoxedFilter<(Request,)> {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method()
        .and(warp::path::full())
        .and(warp::header::headers_cloned())
        .and(query)
        .and(warp::ext::optional())
        .and(warp::ext::optional())
        .and(warp::body::stream())
        .map(move |method, path: FullPath, headers, query, trace, peer, body| Request {
            app: Arc::clone(&app),
            method,
            path: path.as_str().into(),
            headers,
            query,
            trace,
            peer,
            route: RouteLabel::NONE,
            caller: None,
            path_values: Vec::new(),
            max_body: 0,
            body: Box::pin(into_chunks(body)),
        })
        .boxed()
}

fn into_chunks<B: Buf>(
    body: impl Stream<Item = Result<B, warp::Error>> + Send + Sync + 'static,
) -> impl Stream<Item = Result<Bytes, warp::Error>> + Send + Sync + 'static {
    body.map(|chunk| chunk.map(|mut buffer| buffer.copy_to_bytes(buffer.remaining())))
}

impl Request {
    /// Returns the same request with what its route says about it.
    pub(super) fn with_route(
        self,
        route: RouteLabel,
        path_values: Vec<String>,
        max_body: usize,
    ) -> Self {
        Self { route, path_values, max_body, ..self }
    }

    /// Returns the value of the first segment of the path that is in braces.
    pub(super) fn path_value(&self) -> Option<&str> {
        self.path_values.first().map(String::as_str)
    }

    /// Returns the values of the segments of the path that are in braces.
    pub(super) fn path_values(&self) -> &[String] {
        &self.path_values
    }

    /// Returns the id in the path. None if it is not a number: there is no resource with such an id.
    pub(super) fn id(&self) -> Option<i64> {
        self.path_value()?.parse().ok()
    }

    /// Finds out who sends the request.
    ///
    /// # Errors
    /// If it has a token that does not hold.
    pub(super) async fn authenticate(&mut self) -> Result<(), Problem> {
        let authenticated = self.app.access.accounts.authenticate(&self.headers).await;
        self.caller = authenticated.map_err(|refusal| match refusal {
            Refusal::Invalid(reason) => Problem::invalid_token(reason),
            Refusal::Unavailable => {
                Problem::unavailable("the keys of the issuer are not available", RETRY_KEYS)
            }
        })?;
        if let Some(caller) = &self.caller {
            // Names can be equal, subjects cannot.
            Span::current().record("caller", &*caller.subject);
        }
        Ok(())
    }

    /// Returns who sends the request.
    ///
    /// # Errors
    /// If nobody has signed in.
    pub(super) fn caller(&self) -> Result<&Caller, Problem> {
        self.caller.as_deref().ok_or_else(Problem::unauthorized)
    }

    /// Returns the object keys that the caller is bound to; all if nobody has signed in.
    pub(super) fn prefixes(&self) -> &KeyPrefixes {
        self.caller.as_ref().map_or(&ALL_KEYS, |caller| &caller.prefixes)
    }

    /// Checks that the caller is not bound to object keys: the request changes what has no key.
    ///
    /// # Errors
    /// If it is.
    pub(super) fn require_unbound(&self) -> Result<(), Problem> {
        if self.prefixes().are_all() {
            return Ok(());
        }
        let detail =
            "your account is bound to object keys, and single movies have none: put a file there";
        Err(Problem::forbidden(detail.to_owned()))
    }

    /// Returns whether the answer may show what the whole ledger holds: objects, violations, who decided.
    pub(super) fn reads_ledger(&self) -> bool {
        self.app.access.accounts.reads_ledger(self.caller.as_deref())
    }

    /// Returns the address of the client, for limits. Behind proxies that are trusted it is what the outermost of
    /// them has appended to `X-Forwarded-For`; a client can forge what is before.
    pub(super) fn client_address(&self) -> IpAddr {
        let peer = self.peer.map_or(Ipv4Addr::UNSPECIFIED.into(), |Peer(address)| address);
        let values = self.headers.get_all("x-forwarded-for").iter();
        let addresses: Vec<&str> =
            values.flat_map(|value| value.to_str().unwrap_or_default().split(',')).collect();
        let outermost = addresses.len().checked_sub(self.app.access.trusted_proxies);
        let forwarded = outermost.and_then(|index| addresses.get(index));
        forwarded.and_then(|address| address.trim().parse().ok()).unwrap_or(peer)
    }

    /// Reads the whole body as JSON. `expected` describes it.
    ///
    /// # Errors
    /// If it is something else, or cannot be read.
    pub(super) async fn json<T: DeserializeOwned>(
        &mut self,
        expected: &'static str,
    ) -> Result<T, Problem> {
        self.require_media_type(&["application/json"])?;
        parse(&self.body().await?, expected)
    }

    /// Reads the whole body as JSON; none if it is empty. `expected` describes it.
    ///
    /// # Errors
    /// If it is something else, or cannot be read.
    pub(super) async fn optional_json<T: DeserializeOwned>(
        &mut self,
        expected: &'static str,
    ) -> Result<Option<T>, Problem> {
        let body = self.body().await?;
        if body.is_empty() {
            return Ok(None);
        }
        self.require_media_type(&["application/json"])?;
        parse(&body, expected).map(Some)
    }

    /// Checks that the body has one of the media types `allowed`, or that none is declared.
    ///
    /// # Errors
    /// If it has another one.
    pub(super) fn require_media_type(&self, allowed: &[&str]) -> Result<(), Problem> {
        let Some(value) = self.headers.get(header::CONTENT_TYPE) else { return Ok(()) };
        let essence =
            value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if allowed.iter().any(|allowed| essence.eq_ignore_ascii_case(allowed)) {
            return Ok(());
        }
        let detail = format!("send Content-Type: {}", allowed.join(" or "));
        Err(Problem::new(Code::UnsupportedMediaType, detail))
    }

    /// Returns the request id, which connects the log lines of this request.
    pub(super) fn request_id(&self) -> String {
        let id = self.headers.get("x-request-id").and_then(|id| id.to_str().ok());
        id.unwrap_or_default().to_owned()
    }

    /// Returns whether the client names the media type `one`, and prefers it to `other` if it names both (RFC
    /// 9110, 12.5.1).
    pub(super) fn prefers(&self, one: &str, other: &str) -> bool {
        let quality = |media_type| quality(&self.headers, &header::ACCEPT, media_type);
        quality(one).is_some_and(|one| one > 0.0 && quality(other).is_none_or(|other| one >= other))
    }

    /// Returns the `Content-Encoding` of the body.
    pub(super) fn content_encoding(&self) -> Option<String> {
        let encoding = self.headers.get(header::CONTENT_ENCODING)?;
        encoding.to_str().ok().map(str::to_owned)
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// If it is larger than the route allows, arrives too slowly, or breaks.
    pub(super) async fn body(&mut self) -> Result<Bytes, Problem> {
        let declared = self.content_length().unwrap_or_default().min(self.max_body);
        let mut whole = Vec::with_capacity(declared);
        let mut chunks = self.chunks();
        while let Some(chunk) = chunks.try_next().await? {
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.into())
    }

    /// Returns the chunks of the body as they arrive. The stream ends with an error if the body is
    /// larger than the route allows, arrives too slowly, or breaks.
    pub(super) fn chunks(&mut self) -> impl Stream<Item = Result<Bytes, Problem>> + Send + Unpin {
        let limit = self.max_body;
        let too_large = move || Problem::new(Code::BodyTooLarge, format!("at most {limit} bytes"));
        let slow = || Problem::new(Code::RequestTimeout, "the body did not arrive in time");
        let broken = || Problem::new(Code::MalformedJson, "the body was cut short");
        let end = Instant::now() + BODY_TIMEOUT;
        let declared = self.content_length().unwrap_or_default();
        let chunks = stream::try_unfold((&mut self.body, 0), move |(body, before)| async move {
            if declared > limit {
                discard(body, limit).await;
                return Err(too_large());
            }
            let deadline = end.min(Instant::now() + CHUNK_TIMEOUT);
            let chunk = timeout_at(deadline, body.next()).await.map_err(|_| slow())?;
            let Some(chunk) = chunk else { return Ok(None) };
            let chunk = chunk.map_err(|_| broken())?;
            let read = before + chunk.len();
            if read > limit {
                discard(body, limit).await;
                return Err(too_large());
            }
            Ok(Some((chunk, (body, read))))
        });
        Box::pin(chunks)
    }

    /// Returns the length of the body that `Content-Length` declares, in bytes.
    fn content_length(&self) -> Option<usize> {
        self.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }
}

/// Parses a body. `expected` describes it.
fn parse<T: DeserializeOwned>(body: &[u8], expected: &'static str) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        if error.is_data() {
            return Problem::violations(&[Fault::at_root(expected, error.to_string())], 1);
        }
        Problem::new(Code::MalformedJson, error.to_string())
    })
}

/// Reads the rest of a body that is too large, up to twice the limit: a client that still sends when its connection
/// closes cannot read the response (RFC 9112, 9.6).
async fn discard(body: &mut Body, limit: usize) {
    let most = MIN_DISCARDED + 2 * limit;
    let read = async {
        let mut read = 0;
        while read < most
            && let Some(Ok(chunk)) = body.next().await
        {
            read += chunk.len();
        }
    };
    // A client that is slower closes the connection itself, or finds it closed.
    let _ = timeout(DISCARD_TIMEOUT, read).await;
}

/// Returns the weight that a header such as `Accept` gives to `value`, if it names it (RFC 9110, 12.4.2).
pub(super) fn quality(headers: &HeaderMap, name: &HeaderName, value: &str) -> Option<f32> {
    let sent = headers.get_all(name).iter().filter_map(|sent| sent.to_str().ok());
    sent.flat_map(|sent| sent.split(',')).find_map(|item| {
        let mut parts = item.split(';').map(str::trim);
        let is_named = parts.next()?.eq_ignore_ascii_case(value);
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.trim().parse().ok());
        is_named.then(|| weight.unwrap_or(1.0))
    })
}
