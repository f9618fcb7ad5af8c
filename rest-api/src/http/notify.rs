//! Notifications: a file has been put into the bucket.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use schema::Notification;
use serde::de::IgnoredAny;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info};

use super::{Answer, App, json, params, request::Request};
use crate::{
    problem::{Code, Problem},
    store::{Ingest, Observed},
};

const MAX_BODY: usize = 64 << 10;

/// The longest that an answer is held for `Prefer: wait`.
const MAX_WAIT: u64 = 30;

/// How often a waiting request looks at the ledger when nobody says that it has changed.
const POLL: Duration = Duration::from_secs(1);

/// How long the object store may take to describe an object that a notification leaves open.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// `POST /notify`: records the ingest, and answers once it is durable.
pub(super) async fn notify(mut request: Request) -> Answer {
    if request.method != Method::POST {
        return Err(Problem::method_not_allowed("POST"));
    }
    request.authorized()?;
    request.media_type(&["application/json"])?;
    params::parse(&request.query, &[])?;
    let wait = wait(&request.headers);
    let raw = request.body(MAX_BODY).await?;
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(&raw) {
        return Err(Problem::new(Code::MalformedJson, error.to_string()));
    }
    let mut notification: Notification =
        schema::parse(&raw).map_err(|faults| Problem::violations(&*faults, faults.count()))?;

    // Events have it without quotes, answers of S3 with them.
    let etag = notification.etag.take().map(|etag| etag.trim_matches('"').to_owned());
    notification.etag = etag.and_then(|etag| etag.try_into().ok());

    let app = &request.app;
    let observed = look(app, &notification).await;
    let (id, trace_id) = (request.id(), request.trace_id);
    let recorded = app.store.record(&notification, &observed, &id, trace_id).await?;
    info!(ingest = recorded.id, bucket = recorded.bucket, key = recorded.key, "recorded");
    let Some(seconds) = wait else { return accepted(&recorded, None) };
    let ingest = wait_for(app, recorded, Duration::from_secs(seconds)).await?;
    accepted(&ingest, Some(seconds))
}

/// The answer: 200 for an ingest that was waited for and has ended, else 202.
fn accepted(ingest: &Ingest, waited: Option<u64>) -> Answer {
    let ended = waited.is_some() && ingest.state.ended();
    let status = if ended { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut response = json(status, ingest)?;
    let headers = response.headers_mut();
    let header = |text: String| HeaderValue::try_from(text).ok();
    headers.extend(header(format!("/ingests/{}", ingest.id)).map(|to| (header::LOCATION, to)));
    if let Some(seconds) = waited {
        let applied = header::HeaderName::from_static("preference-applied");
        headers.extend(header(format!("wait={seconds}")).map(|wait| (applied, wait)));
    }
    Ok(response)
}

/// What the object store says of the version that the notification means, where the notification
/// does not say enough itself. Nothing if the store says nothing: the worker will find out.
async fn look(app: &App, notification: &Notification) -> Observed {
    let Notification { bucket, key, version_id, etag, sequencer, event_time, .. } = notification;
    if event_time.is_some() && (sequencer.is_some() || etag.is_some()) {
        return Observed::default();
    }
    let look = app.objects.look(bucket, key, version_id.as_deref());
    match timeout(LOOK_TIMEOUT, look).await {
        // Another version by now: what is said of it is not true of the one meant.
        Ok(Ok(observed)) if etag.is_some() && etag.as_deref() != observed.etag.as_deref() => {
            Observed::default()
        }
        Ok(Ok(observed)) => observed,
        Ok(Err(error)) => {
            debug!(%error, "cannot look at the object yet");
            Observed::default()
        }
        Err(_) => Observed::default(),
    }
}

/// The seconds of `Prefer: wait=N` (RFC 7240, 4.3), at most [`MAX_WAIT`].
fn wait(headers: &HeaderMap) -> Option<u64> {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    for preference in values.flat_map(|value| value.split([',', ';'])) {
        let Some((name, value)) = preference.split_once('=') else { continue };
        if name.trim().eq_ignore_ascii_case("wait") {
            // A preference that is not understood is ignored (RFC 7240, 2).
            return value.trim().trim_matches('"').parse().ok().map(|n: u64| n.min(MAX_WAIT));
        }
    }
    None
}

/// The ingest once it has ended, or as it is after `patience`.
async fn wait_for(app: &App, mut ingest: Ingest, patience: Duration) -> Result<Ingest, Problem> {
    let deadline = Instant::now() + patience;
    let mut finished = app.store.hints().finished.subscribe();
    let mut stopping = app.stopping.clone();
    while !ingest.state.ended() && Instant::now() < deadline && !*stopping.borrow() {
        finished.borrow_and_update();
        let id = ingest.id;
        ingest = app.store.ingest(id).await?.unwrap_or(ingest);
        if ingest.state.ended() {
            break;
        }
        let hint = async {
            tokio::select! {
                _ = finished.changed() => {}
                _ = stopping.changed() => {}
            }
        };
        // Whichever comes first: a hint, the time to look for oneself, or the end of patience.
        let _ = timeout_at(deadline.min(Instant::now() + POLL), hint).await;
    }
    Ok(ingest)
}
