//! `GET /events`: ingests that begin and end, and states of the catalogue, as server-sent events.
//!
//! Source: <https://html.spec.whatwg.org/multipage/server-sent-events.html>

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::Utc;
use futures_util::{Stream, stream};
use http::{HeaderName, HeaderValue, header};
use tokio::time::{Instant, sleep_until, timeout};
use warp::reply::{Reply, Response};

use super::{
    App, params,
    request::Request,
    response::{Answer, NO_STORE, ResponseDeadline},
};
use crate::{
    accounts::Caller,
    events::{Follower, Scope, TooMany},
    problem::Problem,
    shutdown,
};

/// The media type.
pub(super) const MEDIA_TYPE: &str = "text/event-stream";

/// The header in which a client that comes back names the last event that it has.
pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// How often something is sent. A load balancer closes a connection on which nothing was sent for 60 s.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How long a stream lasts. Then the client comes back, maybe to another replica.
const LIFETIME: Duration = Duration::from_secs(3600);

/// How much longer the connection may take to send the end of the stream.
const GRACE: Duration = Duration::from_secs(30);

/// When a client may come back that found no place.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// `GET /events`: tells what happens until the client goes, the token ends, or the service stops.
pub(super) async fn follow(request: Request) -> Answer {
    params::none(&request.query)?;
    let app = &request.app;
    if *app.stopping.borrow() {
        return Err(Problem::unavailable("the service is stopping", Duration::from_secs(1)));
    }
    let last_id = request.headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    let follower = app.events.follow(scope(&request), request.client_address(), last_id);
    let follower = follower.map_err(|too_many| {
        let detail = match too_many {
            TooMany::InAll => "too many clients follow the events; ask every few seconds instead",
            TooMany::FromAddress => {
                "too many clients of your address follow the events; ask every few seconds instead"
            }
        };
        Problem::unavailable(detail, RETRY_AFTER)
    })?;
    let caller = request.caller.clone();
    let of_token = caller.as_ref().and_then(|caller| caller.ends_at);
    let of_token = of_token.map(|end| (end - Utc::now()).to_std().unwrap_or_default());
    let lifetime = of_token.unwrap_or(LIFETIME).min(LIFETIME);
    let told = Told { follower, caller, end: Instant::now() + lifetime, app: Arc::clone(app) };
    Ok(respond(told.into_stream(), lifetime + GRACE))
}

/// Returns what the sender of the request sees: of the ingests what `GET /ingests` lists.
fn scope(request: &Request) -> Scope {
    let accounts = &request.app.access.accounts;
    let has_role = request.caller.as_ref().is_some_and(|caller| !caller.roles.is_empty());
    if has_role || accounts.has_public_ledger() {
        return Scope::Ingests(request.prefixes().clone());
    }
    Scope::Revision
}

fn respond(
    text: impl Stream<Item = Result<Bytes, Infallible>> + Send + Sync + 'static,
    deadline: Duration,
) -> Response {
    let mut response = warp::reply::stream(text).into_response();
    response.extensions_mut().insert(ResponseDeadline(deadline));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    // nginx, as a proxy, would else collect the events.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// A stream to one client.
struct Told {
    app: Arc<App>,
    follower: Follower,
    caller: Option<Arc<Caller>>,
    end: Instant,
}

impl Told {
    fn into_stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + Sync {
        stream::unfold(self, |mut told| async move {
            let text = told.next().await?;
            Some((Ok(text), told))
        })
    }

    /// Returns what is sent next; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let mut stopping = self.app.stopping.clone();
        let text = tokio::select! {
            biased;
            () = shutdown::requested(&mut stopping) => return None,
            () = sleep_until(self.end) => return None,
            text = timeout(HEARTBEAT, self.follower.next()) => text,
        };
        // The token may have been revoked.
        let accounts = &self.app.access.accounts;
        if self.caller.as_ref().is_some_and(|caller| accounts.revocations.contain(caller)) {
            return None;
        }
        // A line that begins with a colon says nothing.
        Some(text.unwrap_or(Bytes::from_static(b":\n\n")))
    }
}
