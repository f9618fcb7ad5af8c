//! `POST /notify`: a file was put into the bucket.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use schema::{Fault, Notification, Timestamp};
use serde::de::IgnoredAny;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info};

use super::{
    App, in_time, params,
    request::Request,
    response::{Answer, json},
};
use crate::{
    problem::{Code, Problem},
    store::{Ingest, ObservedVersion, Report},
    terminal::printable,
};

/// The largest body, in bytes.
pub(super) const MAX_BODY: usize = 64 << 10;

/// The longest time that a response is held for `Prefer: wait`, in seconds.
const MAX_WAIT: u64 = 30;

/// How often a waiting request reads the ledger, in addition to its hints.
const POLL: Duration = Duration::from_secs(1);

/// How much later than the service's clock the time of an event may be.
const MAX_CLOCK_SKEW: TimeDelta = TimeDelta::minutes(5);

/// How long S3 may take to describe an object.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// `POST /notify`: records the ingest, and responds when it is durable.
pub(super) async fn notify(mut request: Request) -> Answer {
    request.require_media_type(&["application/json"])?;
    params::none(&request.query)?;
    let wait = wait_preference(&request.headers);
    let notification = parse(&request.body().await?)?;
    let app = &request.app;
    check(&notification, &app.access.buckets)?;
    let observed = describe_version(app, &notification).await;
    let (id, trace_id) = (request.request_id(), request.trace_id);
    let report = Report { notification: &notification, observed: &observed };
    let ingest = in_time(app.store.record(report, &id, trace_id)).await?;
    info!(ingest = ingest.id, bucket = ingest.bucket, key = ingest.key, "ingest recorded");
    let Some(seconds) = wait else { return accepted(&ingest, None) };
    let ingest = wait_for(app, ingest, Duration::from_secs(seconds)).await?;
    accepted(&ingest, Some(seconds))
}

fn parse(body: &[u8]) -> Result<Notification, Problem> {
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(body) {
        return Err(Problem::new(Code::MalformedJson, error.to_string()));
    }
    let mut notification: Notification =
        schema::parse(body).map_err(|faults| Problem::violations(&*faults, faults.count()))?;
    // S3's events have the etag without quotes, its responses with quotes.
    let etag = notification.etag.take().map(|etag| etag.trim_matches('"').to_owned());
    notification.etag = etag.and_then(|etag| etag.try_into().ok());
    Ok(notification)
}

/// Checks what the schema cannot: a forged notification must not decide the order of versions, or
/// fill the ledger with buckets that nobody reads.
///
/// # Errors
/// If the bucket is not one of `buckets`, the time is in the future, or the sequencer is not
/// hexadecimal.
fn check(notification: &Notification, buckets: &[String]) -> Result<(), Problem> {
    let Notification { bucket, sequencer, event_time, .. } = notification;
    let mut faults = Vec::new();
    if !buckets.is_empty() && !buckets.iter().any(|allowed| **allowed == **bucket) {
        let found = format!("\"{}\"", printable(bucket));
        faults.push(Fault::new(&["bucket"], "a bucket of MRU_BUCKETS", found));
    }
    if let Some(sequencer) = sequencer
        && !sequencer.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        let found = format!("\"{}\"", printable(sequencer));
        faults.push(Fault::new(&["sequencer"], "hexadecimal digits", found));
    }
    if let Some(time) = event_time.map(Timestamp::get)
        && time > Utc::now() + MAX_CLOCK_SKEW
    {
        let minutes = MAX_CLOCK_SKEW.num_minutes();
        let expected = format!("a time at most {minutes} minutes in the future");
        faults.push(Fault::new(&["event_time"], expected, time.to_rfc3339()));
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(Problem::violations(&faults, faults.len() as u64))
}

/// Returns the response: 200 for an ingest that was waited for and has ended, else 202.
fn accepted(ingest: &Ingest, waited: Option<u64>) -> Answer {
    let ended = waited.is_some() && ingest.state.ended();
    let status = if ended { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut response = json(status, ingest)?;
    let headers = response.headers_mut();
    let value = |text: String| HeaderValue::try_from(text).ok();
    let location = value(format!("/ingests/{}", ingest.id));
    headers.extend(location.map(|location| (header::LOCATION, location)));
    if let Some(seconds) = waited {
        let preference_applied = HeaderName::from_static("preference-applied");
        let wait = value(format!("wait={seconds}"));
        headers.extend(wait.map(|wait| (preference_applied, wait)));
    }
    Ok(response)
}

/// Asks S3 about the version, unless the notification identifies the version and its time. Returns
/// an empty [`ObservedVersion`] if S3 does not respond, or reports another etag. The worker asks
/// again.
async fn describe_version(app: &App, notification: &Notification) -> ObservedVersion {
    let Notification { bucket, key, version_id, etag, sequencer, event_time, .. } = notification;
    if event_time.is_some() && (sequencer.is_some() || etag.is_some()) {
        return ObservedVersion::default();
    }
    let head = app.objects.head(bucket, key, version_id.as_deref());
    match timeout(HEAD_TIMEOUT, head).await {
        Ok(Ok(observed)) if etag.is_some() && etag.as_deref() != observed.etag.as_deref() => {
            ObservedVersion::default()
        }
        Ok(Ok(observed)) => observed,
        Ok(Err(error)) => {
            debug!(%error, "the object cannot be described yet");
            ObservedVersion::default()
        }
        Err(_) => ObservedVersion::default(),
    }
}

/// Returns the seconds of `Prefer: wait=N` (RFC 7240, 4.3), at most [`MAX_WAIT`].
fn wait_preference(headers: &HeaderMap) -> Option<u64> {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    for preference in values.flat_map(|value| value.split([',', ';'])) {
        let Some((name, value)) = preference.split_once('=') else { continue };
        if name.trim().eq_ignore_ascii_case("wait") {
            // A malformed preference is ignored (RFC 7240, 2).
            return value.trim().trim_matches('"').parse().ok().map(|n: u64| n.min(MAX_WAIT));
        }
    }
    None
}

/// Waits until the ingest has ended, at most for `wait`. Returns the ingest as it is then.
async fn wait_for(app: &App, mut ingest: Ingest, wait: Duration) -> Result<Ingest, Problem> {
    let deadline = Instant::now() + wait;
    let mut stopping = app.stopping.clone();
    while !ingest.state.ended() && Instant::now() < deadline && !*stopping.borrow() {
        let id = ingest.id;
        let mut end = app.store.hints().end_of(id);
        ingest = in_time(app.store.ingest(id)).await?.unwrap_or(ingest);
        if ingest.state.ended() {
            break;
        }
        let hint = async {
            tokio::select! {
                () = end.received() => {}
                _ = stopping.changed() => {}
            }
        };
        // Whichever comes first: a hint, the next poll, or the deadline.
        let _ = timeout_at(deadline.min(Instant::now() + POLL), hint).await;
    }
    Ok(ingest)
}
