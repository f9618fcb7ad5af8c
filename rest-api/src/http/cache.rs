//! Cacheable answers: kept in memory, and named by entity tags.
//!
//! An answer belongs to one resource (a path and a normalised query) in one state of the catalogue. Its
//! entity tag names both, so a client that has it is answered without a query, even if the answer itself is
//! no longer in memory.

use std::{io::Write, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use quick_cache::{
    DefaultHashBuilder, Equivalent, Options, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};
use sha2::{Digest, Sha256};
use tokio::{task::spawn_blocking, time::Instant};
use warp::reply::Response;

use super::{
    App, DATABASE_TIMEOUT, export,
    request::{Request, quality},
    response::{self, Answer, link_next},
    routes::RouteLabel,
};
use crate::{
    accounts::{Caller, Known},
    metrics::CacheResult,
    problem::Problem,
    store::{MovieState, Revision},
};

/// A smaller body is not compressed: it fits into one packet anyway.
const MIN_COMPRESSED: usize = 1 << 10;

/// What an answer takes in memory beside its text, in bytes.
const OVERHEAD: usize = 300;

/// About how many headers a response has.
const HEADERS: usize = 12;

/// An expected size of an answer, in bytes, from which the number of answers is estimated.
const EXPECTED_SIZE: u64 = 8 << 10;

/// A shard of a cache keeps nothing that is larger than itself. The largest page has 2 MiB of movies.
const MIN_SHARD: u64 = 3 << 20;
const MAX_SHARDS: u64 = 256;

/// Caches keep an answer, and ask each time whether it is still the present one. What a caller gets is for that
/// client's own cache alone.
const PUBLIC: HeaderValue = HeaderValue::from_static("public, no-cache");
const PRIVATE: HeaderValue = HeaderValue::from_static("private, no-cache");

/// Changes when the same movies are rendered in another way.
const FORMAT: &str = concat!("1 ", env!("CARGO_PKG_VERSION"));

/// The body of a successful answer.
pub(super) struct Fresh {
    /// The state of the catalogue that it is of.
    pub(super) revision: Revision,
    pub(super) json: Vec<u8>,
    /// The cursor of the next page, if there is one.
    pub(super) next: Option<String>,
    /// What names this answer, if it does not change with each state of the catalogue.
    pub(super) tag: Option<String>,
}

/// An answer in one content coding.
struct Cached {
    revision: Revision,
    coding: Coding,
    body: Bytes,
    etag: HeaderValue,
    /// The cursor of the next page, if there is one.
    next: Option<String>,
    tag: Option<String>,
}

/// The answers in memory.
pub(super) struct ResponseCache {
    answers: Cache<Key, Arc<Cached>, Weight>,
    /// The same answers by the text of requests: who asks again in the same words is answered before the query
    /// is parsed.
    by_text: Cache<TextKey, Arc<ByText>, Weight>,
}

#[derive(Clone, Eq, Hash, PartialEq)]
struct Key {
    resource: Arc<str>,
    revision: Revision,
    coding: Coding,
}

/// Path and query of a request, and what else the answer depends on.
#[derive(Clone, Eq, Hash, PartialEq)]
struct TextKey(Box<str>, Client);

/// What an answer depends on beside path and query.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
struct Client {
    accepts_gzip: bool,
    /// Answers may show more to those who read the ledger.
    reads_ledger: bool,
}

/// A [`TextKey`] that is looked up.
#[derive(Hash)]
struct Text<'a>(&'a str, Client);

impl Equivalent<TextKey> for Text<'_> {
    fn equivalent(&self, key: &TextKey) -> bool {
        (self.0, self.1) == (&*key.0, key.1)
    }
}

/// An answer, with what it has from the text of the request.
struct ByText {
    cached: Arc<Cached>,
    link: Option<HeaderValue>,
    route: RouteLabel,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Coding {
    Identity,
    Gzip,
}

const CODINGS: [Coding; 2] = [Coding::Identity, Coding::Gzip];

#[derive(Clone)]
struct Weight;

impl Weighter<Key, Arc<Cached>> for Weight {
    fn weight(&self, key: &Key, cached: &Arc<Cached>) -> u64 {
        (OVERHEAD + key.resource.len() + cached.body.len()) as u64
    }
}

impl Weighter<TextKey, Arc<ByText>> for Weight {
    fn weight(&self, key: &TextKey, by_text: &Arc<ByText>) -> u64 {
        // Counted again, since the other cache may have dropped it.
        let body = by_text.cached.body.len();
        (OVERHEAD + key.0.len() + by_text.link.as_ref().map_or(0, HeaderValue::len) + body) as u64
    }
}

impl ResponseCache {
    /// Returns a cache of at most `bytes` bytes.
    pub(super) fn new(bytes: u64) -> Self {
        let by_text = bytes / 4;
        let (hashes, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
        let answers = options(bytes - by_text);
        Self {
            answers: Cache::with_options(answers, Weight, hashes.clone(), lifecycle.clone()),
            by_text: Cache::with_options(
                options(by_text),
                Weight,
                hashes,
                DefaultLifecycle::default(),
            ),
        }
    }

    /// Returns the answer of `resource` in the state `revision` or a newer one. Of equal requests one alone
    /// computes it, with `compute`.
    async fn get(
        &self,
        resource: &Arc<str>,
        revision: Revision,
        compute: impl Future<Output = Result<Fresh, Problem>>,
    ) -> Result<(Arc<Cached>, CacheResult), Problem> {
        let key = Key { resource: Arc::clone(resource), revision, coding: Coding::Identity };
        let mut result = CacheResult::Hit;
        let computed = async {
            result = CacheResult::Miss;
            let Fresh { revision, mut json, next, tag } = compute.await?;
            // The cache counts the length.
            json.shrink_to_fit();
            let coding = Coding::Identity;
            let etag = match &tag {
                Some(tag) => own_etag(tag, coding),
                None => etag(resource, revision, coding),
            };
            let body = Bytes::from(json);
            Ok::<_, Problem>(Arc::new(Cached { revision, coding, body, etag, next, tag }))
        };
        let cached = self.answers.get_or_insert_async(&key, computed).await?;
        Ok((cached, result))
    }

    /// Returns the compressed form of an answer.
    async fn compressed(&self, resource: &Arc<str>, cached: Arc<Cached>) -> Arc<Cached> {
        let revision = cached.revision;
        let key = Key { resource: Arc::clone(resource), revision, coding: Coding::Gzip };
        let identity = Arc::clone(&cached);
        let compress = async {
            let body = cached.body.clone();
            let body = spawn_blocking(move || gzip(&body)).await.ok().flatten().ok_or(())?;
            let coding = Coding::Gzip;
            let (next, tag) = (cached.next.clone(), cached.tag.clone());
            let etag = match &tag {
                Some(tag) => own_etag(tag, coding),
                None => etag(resource, revision, coding),
            };
            Ok::<_, ()>(Arc::new(Cached { revision, coding, body, etag, next, tag }))
        };
        self.answers.get_or_insert_async(&key, compress).await.unwrap_or(identity)
    }
}

/// Returns the options of a cache of at most `bytes` bytes.
#[expect(clippy::expect_used, reason = "what may be missing is set")]
fn options(bytes: u64) -> Options {
    let shards = (bytes / MIN_SHARD).clamp(1, MAX_SHARDS).ilog2();
    OptionsBuilder::new()
        .shards(1 << shards)
        .estimated_items_capacity(usize::try_from(bytes / EXPECTED_SIZE).unwrap_or(usize::MAX))
        .weight_capacity(bytes)
        .build()
        .expect("both capacities are set")
}

/// Answers a request for `resource`, which names the path and the normalised query: from memory, with
/// `304`, or with what `compute` returns for the present state of the catalogue or a newer one.
///
/// # Errors
/// If the state of the catalogue cannot be read, or `compute` fails or takes too long.
pub(super) async fn answer<F>(
    request: &Request,
    resource: String,
    compute: impl FnOnce(Revision) -> F,
) -> Answer
where
    F: Future<Output = Result<Fresh, Problem>>,
{
    let (app, headers, caller) = (&request.app, &request.headers, request.caller.as_deref());
    let resource: Arc<str> = resource.into();
    let late = || Problem::unavailable("the query took too long", Duration::from_secs(5));
    let answered = async {
        let revision = app.store.revision().await?;
        if let Some(etag) = unchanged(headers, &resource, revision) {
            app.metrics.cache(CacheResult::NotModified);
            return Ok(response::not_modified(validators(etag, caller)));
        }
        let compute = compute(revision);
        let (mut cached, result) = app.cache.get(&resource, revision, compute).await?;
        if let Some(tag) = &cached.tag
            && let Some(etag) = matching(headers, CODINGS.map(|coding| own_etag(tag, coding)))
        {
            app.metrics.cache(CacheResult::NotModified);
            return Ok(response::not_modified(validators(etag, caller)));
        }
        app.metrics.cache(result);
        let accepts_gzip = accepts_gzip(headers);
        if cached.body.len() >= MIN_COMPRESSED && accepts_gzip {
            cached = app.cache.compressed(&resource, cached).await;
        }
        let path = &*request.path;
        let link = cached.next.as_ref().map(|next| link_next(path, &request.query, next));
        let by_text = ByText { cached, link: link.transpose()?, route: request.route };
        let response = by_text.response(caller);
        let query = Some(&*request.query).filter(|query| !query.is_empty());
        let text = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
        let client = Client { accepts_gzip, reads_ledger: request.reads_ledger() };
        app.cache.by_text.insert(TextKey(text.into(), client), Arc::new(by_text));
        Ok(response)
    };
    // Who waits for an equal request waits no longer than for a query of its own.
    tokio::time::timeout(DATABASE_TIMEOUT, answered).await.unwrap_or_else(|_| Err(late()))
}

/// Returns the answer to a request in the words of an earlier one, if it is in memory and of the present state
/// of the catalogue.
pub(super) fn at_once<B>(
    app: &App,
    request: &http::Request<B>,
    now: Instant,
) -> Option<(Response, RouteLabel)> {
    let headers = request.headers();
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    if !is_read || quality(headers, &header::ACCEPT, export::MEDIA_TYPE).is_some() {
        return None;
    }
    let accounts = &app.access.accounts;
    let caller = match accounts.known(headers) {
        Known::Nobody => None,
        Known::Caller(caller) => Some(caller),
        Known::Unknown => return None,
    };
    let caller = caller.as_deref();
    let text = request.uri().path_and_query()?.as_str();
    let accepts_gzip = accepts_gzip(headers);
    let client = Client { accepts_gzip, reads_ledger: accounts.reads_ledger(caller) };
    let by_text = app.cache.by_text.get(&Text(text, client))?;
    if app.store.known_revision(now)? != by_text.cached.revision {
        return None;
    }
    if !headers.contains_key(header::IF_NONE_MATCH) {
        app.metrics.cache(CacheResult::Hit);
        return Some((by_text.response(caller), by_text.route));
    }
    // The client may have another coding of the same answer, which takes longer to find out.
    let etag = matching(headers, [by_text.cached.etag.clone()])?;
    app.metrics.cache(CacheResult::NotModified);
    Some((response::not_modified(validators(etag, caller)), by_text.route))
}

impl ByText {
    fn response(&self, caller: Option<&Caller>) -> Response {
        let mut response = self.cached.response(caller);
        response.headers_mut().extend(self.link.clone().map(|link| (header::LINK, link)));
        response
    }
}

impl Cached {
    fn response(&self, caller: Option<&Caller>) -> Response {
        let mut response = Response::new(self.body.clone().into());
        let headers = response.headers_mut();
        headers.reserve(HEADERS);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(validators(self.etag.clone(), caller));
        if self.coding == Coding::Gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}

/// Returns the headers by which caches keep an answer to `caller`; none if it is the same for everybody.
pub(super) fn validators(
    etag: HeaderValue,
    caller: Option<&Caller>,
) -> [(HeaderName, HeaderValue); 3] {
    [
        (header::ETAG, etag),
        (header::CACHE_CONTROL, if caller.is_some() { PRIVATE } else { PUBLIC }),
        (header::VARY, HeaderValue::from_static("accept, accept-encoding")),
    ]
}

/// Returns the entity tag of an answer (RFC 9110, 8.8.3): a strong one, of everything that the bytes depend on.
fn etag(resource: &str, revision: Revision, coding: Coding) -> HeaderValue {
    let Revision { number, tag } = revision;
    let digest = Sha256::digest(format!("{FORMAT}\n{number} {tag}\n{coding:?}\n{resource}"));
    let name = URL_SAFE_NO_PAD.encode(&digest[..15]);
    HeaderValue::try_from(format!("\"{name}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Returns the entity tag of an answer that its own tag names.
fn own_etag(tag: &str, coding: Coding) -> HeaderValue {
    let coding = if coding == Coding::Gzip { ".gzip" } else { "" };
    HeaderValue::try_from(format!("\"{tag}{coding}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Returns a tag for the state of one movie, whatever answer shows it.
pub(super) fn movie_tag(id: i64, state: &MovieState) -> String {
    let digest = Sha256::digest(format!("{FORMAT}\n{id}\n{state:?}"));
    URL_SAFE_NO_PAD.encode(&digest[..15])
}

/// Returns the entity tag of the present answer that the client has, if it has one.
fn unchanged(headers: &HeaderMap, resource: &str, revision: Revision) -> Option<HeaderValue> {
    if !headers.contains_key(header::IF_NONE_MATCH) {
        return None;
    }
    let etag = |coding| etag(resource, revision, coding);
    matching(headers, CODINGS.map(etag))
}

/// Returns the entity tag that the client has, if it has one of these (`If-None-Match`).
pub(super) fn matching<const N: usize>(
    headers: &HeaderMap,
    etags: [HeaderValue; N],
) -> Option<HeaderValue> {
    let sent = headers.get_all(header::IF_NONE_MATCH);
    let sent = || sent.iter().filter_map(|value| value.to_str().ok());
    // A weak comparison: a proxy that compresses makes a tag weak.
    let has = |etag: &HeaderValue| {
        let mut tags = sent().flat_map(|value| value.split(',')).map(str::trim);
        tags.any(|tag| tag.strip_prefix("W/").unwrap_or(tag) == etag)
    };
    etags.into_iter().find(has)
}

/// Returns whether the client accepts gzip (RFC 9110, 12.5.3).
pub(super) fn accepts_gzip(headers: &HeaderMap) -> bool {
    if !headers.contains_key(header::ACCEPT_ENCODING) {
        return false;
    }
    let quality = |coding| quality(headers, &header::ACCEPT_ENCODING, coding);
    ["gzip", "x-gzip", "*"].into_iter().find_map(quality).is_some_and(|quality| quality > 0.0)
}

/// Compresses a body. Returns none if writing to memory fails, which it does not.
pub(super) fn gzip(body: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 3), Compression::new(5));
    encoder.write_all(body).ok()?;
    let mut compressed = encoder.finish().ok()?;
    compressed.shrink_to_fit();
    Some(compressed.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_used_if_the_client_accepts_it() {
        for (accepted, expected) in [
            ("gzip", true),
            ("br, GZIP;q=0.5", true),
            ("deflate, gzip ; q=1.0", true),
            ("*", true),
            ("gzip;q=0, *", false),
            ("identity", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(accepted));
            assert_eq!(accepts_gzip(&headers), expected, "{accepted}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn an_entity_tag_is_of_resource_revision_and_coding() {
        let (one, two) = (Revision { number: 1, tag: 7 }, Revision { number: 2, tag: 7 });
        let other_copy = Revision { number: 1, tag: 8 };
        let tags = [
            etag("a", one, Coding::Identity),
            etag("b", one, Coding::Identity),
            etag("a", two, Coding::Identity),
            etag("a", other_copy, Coding::Identity),
            etag("a", one, Coding::Gzip),
        ];
        let distinct: std::collections::HashSet<_> = tags.iter().collect();
        assert_eq!(distinct.len(), tags.len());
    }
}
