//! `POST /notify`: files were put into the bucket.
//!
//! The body is one notification, or an array of them. Each element of an array has a result of its
//! own: a bad one is refused alone.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use schema::{Fault, MAX_NOTIFICATIONS, Notification, Timestamp};
use serde::{Serialize, de::IgnoredAny};
use serde_json::value::RawValue;
use tokio::{
    task::yield_now,
    time::{Instant, timeout_at},
};
use tracing::{debug, info};
use warp::reply::Response;

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

/// The largest body, in bytes. It has room for [`MAX_NOTIFICATIONS`] of the longest that S3's events
/// cause: a key and a version id of 1,024 bytes each, of which JSON escapes some.
pub(super) const MAX_BODY: usize = 1 << 20;

/// The largest body of a notification that is not in an array, in bytes.
const MAX_SINGLE_BODY: usize = 64 << 10;

/// How many violations are listed for one element of an array. All are counted.
const MAX_LISTED: usize = 10;

/// How many objects of an array S3 is asked about at once.
const MAX_HEADS: usize = 16;

/// The longest time that a response is held for `Prefer: wait`, in seconds.
const MAX_WAIT: u64 = 30;

/// How often a waiting request reads the ledger, in addition to its hints.
const POLL: Duration = Duration::from_secs(1);

/// How much later than the service's clock the time of an event may be.
const MAX_CLOCK_SKEW: TimeDelta = TimeDelta::minutes(5);

/// How long S3 may take to describe the objects of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// `POST /notify`: records the ingests, and responds when they are durable.
pub(super) async fn notify(mut request: Request) -> Answer {
    request.require_media_type(&["application/json"])?;
    params::none(&request.query)?;
    let wait = wait_preference(&request.headers);
    let body = request.body().await?;
    if body.trim_ascii_start().first() == Some(&b'[') {
        return notify_each(request, &body, wait).await;
    }
    if body.len() > MAX_SINGLE_BODY {
        return Err(Problem::new(Code::BodyTooLarge, format!("at most {MAX_SINGLE_BODY} bytes")));
    }
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(&body) {
        return Err(Problem::new(Code::MalformedJson, error.to_string()));
    }
    let app = &request.app;
    let notification = parse(&body, usize::MAX)?;
    check(&notification, &app.access.buckets)?;
    let observed = describe_version(app, &notification, Instant::now() + HEAD_TIMEOUT).await;
    let (id, trace_id) = (request.request_id(), request.trace_id);
    let report = Report { notification: &notification, observed };
    let ingest = in_time(app.store.record(&report, &id, trace_id)).await?;
    info!(ingest = ingest.id, bucket = ingest.bucket, key = ingest.key, "ingest recorded");
    let Some(seconds) = wait else { return accepted(&ingest, None) };
    let ingest = wait_for(app, ingest, Instant::now() + Duration::from_secs(seconds)).await?;
    accepted(&ingest, Some(seconds))
}

/// The result for one notification of an array.
#[derive(Serialize)]
struct ElementResult {
    /// The status of a response to this notification alone.
    status: u16,
    #[serde(flatten)]
    outcome: Outcome,
}

/// What became of a notification of an array.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    /// It is recorded. As in a list of ingests, the violations are left out.
    Ingest(Box<Ingest>),
    /// It is refused.
    Problem(Problem),
}

/// Records the notifications of the array `body` that are right. Returns one result for each element,
/// in order.
///
/// # Errors
/// If the body is not an array of 1 to [`MAX_NOTIFICATIONS`] elements, or the database is unavailable.
/// The client then sends all of it again: recording is idempotent.
async fn notify_each(request: Request, body: &[u8], wait: Option<u64>) -> Answer {
    let app = &request.app;
    let mut checked = Vec::new();
    for element in elements(body)? {
        let notification = parse(element.get().as_bytes(), MAX_LISTED);
        checked.push(notification.and_then(|notification| {
            check(&notification, &app.access.buckets)?;
            Ok(notification)
        }));
        // The search for violations takes time that other requests should not wait for.
        yield_now().await;
    }
    let reports = describe_each(app, checked.iter().flatten().collect()).await;
    let (id, trace_id) = (request.request_id(), request.trace_id);
    let mut ingests = in_time(app.store.record_all(&reports, &id, trace_id)).await?;
    for ingest in &ingests {
        info!(ingest = ingest.id, bucket = ingest.bucket, key = ingest.key, "ingest recorded");
    }
    if let Some(seconds) = wait {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        ingests = wait_for_each(app, ingests, deadline).await?;
    }
    let mut ingests = ingests.into_iter();
    let results = checked.into_iter().filter_map(|checked| {
        let (status, outcome) = match checked {
            Ok(_) => {
                let ingest = ingests.next()?;
                (status(&ingest, wait), Outcome::Ingest(Box::new(ingest)))
            }
            Err(problem) => (problem.status(), Outcome::Problem(problem)),
        };
        Some(ElementResult { status: status.as_u16(), outcome })
    });
    let results: Vec<ElementResult> = results.collect();
    Ok(with_preference_applied(json(StatusCode::ACCEPTED, &results)?, wait))
}

/// Returns the elements of the array `body`.
fn elements(body: &[u8]) -> Result<Vec<&RawValue>, Problem> {
    let elements: Vec<&RawValue> = serde_json::from_slice(body)
        .map_err(|error| Problem::new(Code::MalformedJson, error.to_string()))?;
    let found = match elements.len() {
        1..=MAX_NOTIFICATIONS => return Ok(elements),
        0 => "an empty array".to_owned(),
        more => format!("an array of {more}: send them in several requests"),
    };
    let expected = format!("an array of 1 to {MAX_NOTIFICATIONS} notifications");
    Err(Problem::violations(&[Fault::at_root(expected, found)], 1))
}

/// Returns the notifications, in order, with what S3 says about those that lack details.
async fn describe_each<'a>(app: &App, notifications: Vec<&'a Notification>) -> Vec<Report<'a>> {
    let deadline = Instant::now() + HEAD_TIMEOUT;
    let describe = async |notification| {
        let observed = describe_version(app, notification, deadline).await;
        Report { notification, observed }
    };
    let described: Vec<_> = notifications.into_iter().map(describe).collect();
    stream::iter(described).buffered(MAX_HEADS).collect().await
}

/// Parses a notification. At most `max_listed` violations are listed.
fn parse(json: &[u8], max_listed: usize) -> Result<Notification, Problem> {
    let mut notification: Notification = schema::parse(json).map_err(|faults| {
        Problem::violations(&faults[..faults.len().min(max_listed)], faults.count())
    })?;
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

/// Returns the response to a notification that was recorded.
fn accepted(ingest: &Ingest, waited: Option<u64>) -> Answer {
    let mut response = json(status(ingest, waited), ingest)?;
    let location = HeaderValue::try_from(format!("/ingests/{}", ingest.id)).ok();
    response.headers_mut().extend(location.map(|location| (header::LOCATION, location)));
    Ok(with_preference_applied(response, waited))
}

/// Returns 200 for an ingest that was waited for and has ended, else 202.
fn status(ingest: &Ingest, waited: Option<u64>) -> StatusCode {
    let ended = waited.is_some() && ingest.state.ended();
    if ended { StatusCode::OK } else { StatusCode::ACCEPTED }
}

/// Adds the header that says how many seconds the response was held for at most.
fn with_preference_applied(mut response: Response, waited: Option<u64>) -> Response {
    let wait = waited.and_then(|seconds| HeaderValue::try_from(format!("wait={seconds}")).ok());
    let preference_applied = HeaderName::from_static("preference-applied");
    response.headers_mut().extend(wait.map(|wait| (preference_applied, wait)));
    response
}

/// Asks S3 about the version, unless the notification identifies the version and its time. Returns
/// an empty [`ObservedVersion`] if S3 does not respond before `deadline`, or reports another etag. The
/// worker asks again.
async fn describe_version(
    app: &App,
    notification: &Notification,
    deadline: Instant,
) -> ObservedVersion {
    let Notification { bucket, key, version_id, etag, sequencer, event_time, .. } = notification;
    if event_time.is_some() && (sequencer.is_some() || etag.is_some()) {
        return ObservedVersion::default();
    }
    let head = app.objects.head(bucket, key, version_id.as_deref());
    match timeout_at(deadline, head).await {
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

/// Waits until all `ingests` have ended, at most until `deadline`. Returns them as they are then,
/// without violations.
async fn wait_for_each(
    app: &App,
    ingests: Vec<Ingest>,
    deadline: Instant,
) -> Result<Vec<Ingest>, Problem> {
    let mut waited = Vec::with_capacity(ingests.len());
    // One after another: those that end meanwhile are found ended.
    for ingest in ingests {
        waited.push(Ingest { violations: None, ..wait_for(app, ingest, deadline).await? });
    }
    Ok(waited)
}

/// Waits until the ingest has ended, at most until `deadline`. Returns the ingest as it is then.
async fn wait_for(app: &App, mut ingest: Ingest, deadline: Instant) -> Result<Ingest, Problem> {
    let mut stopping = app.stopping.clone();
    while !ingest.state.ended() {
        let id = ingest.id;
        let mut end = app.store.hints().end_of(id);
        ingest = in_time(app.store.ingest(id)).await?.unwrap_or(ingest);
        if ingest.state.ended() || Instant::now() >= deadline || *stopping.borrow() {
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
