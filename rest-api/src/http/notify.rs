//! `POST /notify`: files were put into the bucket, or removed from it.
//!
//! The body is one notification, or an array of them. Each element of an array has a result of its
//! own: a bad one is refused alone.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use futures_util::{StreamExt, stream};
use http::{HeaderName, HeaderValue, StatusCode, header};
use schema::{Fault, MAX_NOTIFICATIONS, Notification, Timestamp};
use schemars::JsonSchema;
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
    wait::{wait_for, wait_for_each, wait_preference},
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

/// How much later than the service's clock the time of an event may be.
const MAX_CLOCK_SKEW: TimeDelta = TimeDelta::minutes(5);

/// How long S3 may take to describe the objects of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// `POST /notify`: records the ingests, and responds when they are durable.
pub(super) async fn notify(mut request: Request) -> Answer {
    request.require_unbound()?;
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
    let report = match examine(app, &notification, Instant::now() + HEAD_TIMEOUT).await {
        Examined::Record(report) => report,
        Examined::Ignore(why) => return json(StatusCode::OK, &Ignored { ignored: why }),
    };
    let (id, trace) = (request.request_id(), request.trace);
    let ingest = in_time(app.store.record(&report, &id, trace)).await?;
    info!(ingest = ingest.id, bucket = ingest.bucket, key = ingest.key, "ingest recorded");
    let Some(seconds) = wait else { return accepted(&ingest, None) };
    let ingest = wait_for(app, ingest, Instant::now() + Duration::from_secs(seconds)).await?;
    accepted(&ingest, Some(seconds))
}

/// The answer to a notification whose key names no file. Nothing is recorded.
#[derive(JsonSchema, Serialize)]
pub(super) struct Ignored {
    /// Why.
    ignored: String,
}

/// The result for one notification of an array, with the status of a response to this notification alone.
#[derive(JsonSchema, Serialize)]
#[schemars(rename = "NotificationResult")]
#[serde(untagged)]
pub(super) enum ElementResult {
    /// The notification is recorded. As in a list of ingests, the violations are left out.
    #[schemars(title = "RecordedNotification")]
    Recorded { status: u16, ingest: Box<Ingest> },
    /// The key of the notification names no file, for this reason. Nothing is recorded.
    #[schemars(title = "IgnoredNotification")]
    Ignored { status: u16, ignored: String },
    /// The notification is refused.
    #[schemars(title = "RefusedNotification")]
    Refused { status: u16, problem: Problem },
}

/// What is to be done about a notification that is right.
enum Examined<'a> {
    /// Record it.
    Record(Report<'a>),
    /// Ignore it, for this reason.
    Ignore(String),
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
    let (mut reports, mut ignored) = (Vec::new(), Vec::new());
    for examined in examine_each(app, checked.iter().flatten().collect()).await {
        ignored.push(match examined {
            Examined::Record(report) => {
                reports.push(report);
                None
            }
            Examined::Ignore(why) => Some(why),
        });
    }
    let (id, trace) = (request.request_id(), request.trace);
    let mut ingests = match &reports[..] {
        [] => Vec::new(),
        reports => in_time(app.store.record_all(reports, &id, trace)).await?,
    };
    for ingest in &ingests {
        info!(ingest = ingest.id, bucket = ingest.bucket, key = ingest.key, "ingest recorded");
    }
    if let Some(seconds) = wait {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        ingests = wait_for_each(app, ingests, deadline).await?;
    }
    let (mut ingests, mut ignored) = (ingests.into_iter(), ignored.into_iter());
    let results = checked.into_iter().filter_map(|checked| {
        Some(match checked.map(|_| ignored.next()) {
            Ok(Some(Some(ignored))) => {
                ElementResult::Ignored { status: StatusCode::OK.as_u16(), ignored }
            }
            Ok(_) => {
                let ingest = ingests.next()?;
                let status = status(&ingest, wait).as_u16();
                ElementResult::Recorded { status, ingest: Box::new(ingest) }
            }
            Err(problem) => ElementResult::Refused { status: problem.status().as_u16(), problem },
        })
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

/// Examines notifications, with what S3 says about those that lack details. Returns one result for each,
/// in order.
async fn examine_each<'a>(app: &App, notifications: Vec<&'a Notification>) -> Vec<Examined<'a>> {
    let deadline = Instant::now() + HEAD_TIMEOUT;
    let examine = async |notification| examine(app, notification, deadline).await;
    let examined: Vec<_> = notifications.into_iter().map(examine).collect();
    stream::iter(examined).buffered(MAX_HEADS).collect().await
}

/// Decides whether the key of a notification names a file, and asks S3 about its version unless the
/// notification identifies the version and its time. About a removed object S3 knows nothing.
async fn examine<'a>(app: &App, notification: &'a Notification, deadline: Instant) -> Examined<'a> {
    let Notification { bucket, key, size, sequencer, etag, event_time, .. } = notification;
    let size = size.map(|size| size.get());
    let is_identified = event_time.is_some() && (sequencer.is_some() || etag.is_some());
    // A folder marker is empty.
    let lacks_size = key.ends_with('/') && size.is_none();
    let ignored_keys = &app.access.ignored_keys;
    let mut reason = ignored_keys.reason(key, size);
    let mut observed = ObservedVersion::default();
    let lacks_details = lacks_size || reason.is_none() && !is_identified;
    if lacks_details && !notification.is_removal() {
        observed = describe_version(app, notification, deadline).await;
        reason = ignored_keys.reason(key, size.or(observed.size));
    }
    if let Some(why) = reason {
        info!(bucket = &**bucket, key = &**key, why, "notification ignored");
        app.metrics.ignored();
        return Examined::Ignore(why);
    }
    if is_identified {
        // S3 may have described another version.
        observed = ObservedVersion::default();
    }
    Examined::Record(Report { notification, observed })
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

/// Asks S3 about the version. Returns an empty [`ObservedVersion`] if S3 does not respond before
/// `deadline`, or reports another etag. The worker asks again.
async fn describe_version(
    app: &App,
    notification: &Notification,
    deadline: Instant,
) -> ObservedVersion {
    let Notification { bucket, key, version_id, etag, .. } = notification;
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
