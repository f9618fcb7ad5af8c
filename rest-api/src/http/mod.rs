//! HTTP: the route table, the handlers, and the accept loop.
//!
//! - `routes` is the table: method, path, who may call, body limit, handler.
//! - `server` accepts connections, passes requests through its layers to the routes, and bounds
//!   connections and responses.
//! - `request`, `params` and `query` read what a handler needs, `response` builds what it returns.
//! - `cache` keeps answers, and knows what clients have already.
//! - `page` is the page for people, at `/`.
//! - `openapi` describes the routes; `docs` shows the description; `pages` serves it, and other documents.
//! - The other modules are the handlers, one file a resource.
//!
//! A handler returns a response or a [`Problem`](crate::problem::Problem), never a rejection of
//! warp: a rejection would fall through to the next routes.

mod accounts;
mod cache;
mod counts;
mod details;
mod docs;
mod edits;
mod events;
mod export;
mod health;
mod history;
mod ingests;
mod metrics;
mod movie;
mod movies;
mod notify;
mod openapi;
mod page;
mod pages;
mod params;
mod query;
mod request;
mod response;
mod routes;
mod server;
mod sessions;
mod suggest;
mod uploads;
mod users;
mod validate;
mod wait;

use std::{sync::Arc, time::Duration};

use movie_file::DecodePool;
use tokio::sync::watch;

use crate::{
    accounts::{Accounts, Attempts, Passwords},
    config::IgnoredKeys,
    enrich::Enricher,
    events::Events,
    metrics::Metrics,
    objects::ObjectStore,
    store::{Store, StoreError},
};
use cache::ResponseCache;
pub(crate) use openapi::document;
use page::Pictures;
use pages::Document;
pub(crate) use routes::{probe_routes, routes};
pub(crate) use server::{Listener, serve};
use validate::Validations;

/// How long the database may take for one request, the wait for a connection included.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(4);

/// What handlers work with.
pub(crate) struct App {
    pub(crate) store: Store,
    pub(crate) objects: ObjectStore,
    /// The threads that decode bodies.
    decode_pool: DecodePool,
    pub(crate) access: Access,
    pub(crate) metrics: Arc<Metrics>,
    /// What has happened.
    pub(crate) events: Arc<Events>,
    /// True after the service was asked to stop.
    pub(crate) stopping: watch::Receiver<bool>,
    validations: Validations,
    cache: ResponseCache,
    passwords: Passwords,
    /// The limits of failed attempts to sign in.
    attempts: Attempts,
    /// None if no request goes to TMDB.
    enricher: Option<Arc<Enricher>>,
    /// The page at `/`.
    index: Document,
}

/// Who may call, what a notification may name, and which files may be put.
pub(crate) struct Access {
    /// Who is calling.
    pub(crate) accounts: Arc<Accounts>,
    /// The buckets that a notification may name; all if empty.
    pub(crate) buckets: Vec<String>,
    /// The keys whose notifications are ignored.
    pub(crate) ignored_keys: IgnoredKeys,
    /// What the keys of uploads begin with.
    pub(crate) upload_prefix: String,
    /// The origin that uploads go to, if there is a bucket.
    pub(crate) upload_origin: Option<String>,
    /// How many proxies in front of the service append to `X-Forwarded-For`.
    pub(crate) trusted_proxies: usize,
}

impl App {
    pub(crate) fn new(
        store: Store,
        objects: ObjectStore,
        decode_pool: DecodePool,
        access: Access,
        metrics: Arc<Metrics>,
        stopping: watch::Receiver<bool>,
        cache_bytes: u64,
    ) -> Self {
        let (validations, cache) = (Validations::default(), ResponseCache::new(cache_bytes));
        let passwords = Passwords::default().counted_by(metrics.password_hashes());
        let index = index(Pictures::default(), &access);
        Self {
            store,
            objects,
            decode_pool,
            access,
            metrics,
            events: Arc::default(),
            stopping,
            validations,
            cache,
            passwords,
            attempts: Attempts::default(),
            enricher: None,
            index,
        }
    }

    /// Returns the same with what TMDB says of movies, and a page that shows its pictures, and those that movies name if
    /// `thumbnails` says so.
    pub(crate) fn with_pictures(self, enricher: Option<Arc<Enricher>>, thumbnails: bool) -> Self {
        let pictures = Pictures { details: enricher.is_some(), thumbnails };
        let index = index(pictures, &self.access);
        Self { enricher, index, ..self }
    }
}

fn index(pictures: Pictures, access: &Access) -> Document {
    page::index(pictures, access.upload_origin.as_deref(), &access.upload_prefix)
}

/// Waits for the store at most [`DATABASE_TIMEOUT`].
async fn in_time<T>(
    operation: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let result = tokio::time::timeout(DATABASE_TIMEOUT, operation).await;
    result.unwrap_or_else(|elapsed| Err(elapsed.into()))
}
