//! HTTP around s3s: what clients expect and s3s leaves out.
//!
//! - The key of a browser post may contain `${filename}`. s3s forgets the name of the file, so the head of
//!   the form, which is all that precedes the content of the file, is rewritten before. The policy then
//!   applies to the expanded key, as on AWS.
//! - Every response has a request id, and an error names it.
//! - A form that its policy does not allow is refused with 403.
//! - The time of a presigned URL has a limit, and its signature covers all headers of S3 that are sent with it.
//! - `GetObjectAttributes` returns the entity tag without quotes.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::{Bytes, BytesMut};
use chrono::DateTime;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use percent_encoding::percent_decode_str;
use s3s::{
    Body, HttpError, HttpRequest, HttpResponse, S3Error, dto::StreamingBlob, s3_error,
    service::S3Service,
};
use serde_json::Value;
use uuid::Uuid;

/// The most bytes of the head of a form, and of an answer that is changed.
const MAX_BUFFERED: usize = 1 << 20;

/// The longest time in seconds for which a URL can be presigned: a week.
const MAX_PRESIGNED: u32 = 604_800;

/// Answers a request.
///
/// # Errors
/// If no answer can be made.
pub async fn call(
    service: &S3Service,
    mut request: HttpRequest,
) -> Result<HttpResponse, HttpError> {
    let query = request.uri().query().unwrap_or_default();
    let is_attributes = query.split('&').any(|pair| pair.split('=').next() == Some("attributes"));
    let presigned = parameter(query, "X-Amz-Expires");
    let is_in_range =
        |time: String| time.parse().is_ok_and(|time: u32| time > 0 && time <= MAX_PRESIGNED);
    let is_presigned = presigned.is_none_or(is_in_range);
    let media_type = request.headers().get(header::CONTENT_TYPE);
    let is_form = request.method() == Method::POST
        && media_type.is_some_and(|form| form.as_bytes().starts_with(b"multipart/form-data"));
    let mut refusal = None;
    if !is_presigned {
        refusal =
            Some(s3_error!(AccessDenied, "X-Amz-Expires must be between 1 and 604800 seconds"));
    } else if has_unsigned_headers(query, request.headers()) {
        let message = "There were headers present in the request which were not signed";
        refusal = Some(s3_error!(AccessDenied, "{message}"));
    }
    if is_form {
        let (expanded, wrong) = expand_filename(request).await;
        (request, refusal) = (expanded, refusal.or(wrong));
    }
    let mut response = match refusal {
        None => service.call(request).await?,
        Some(error) => error.to_http_response().map_err(|error| HttpError::new(Box::new(error)))?,
    };
    let id = Uuid::new_v4().simple().to_string();
    if response.status().is_client_error() || response.status().is_server_error() || is_attributes {
        let body = response.body_mut().store_all_limited(MAX_BUFFERED).await.unwrap_or_default();
        let mut text = String::from_utf8_lossy(&body).into_owned();
        if is_attributes {
            text = text.replace("&quot;", "");
        }
        text = text.replace("</Error>", &format!("<RequestId>{id}</RequestId></Error>"));
        if is_form && text.contains("InvalidPolicyDocument") && text.contains("Policy condition") {
            text = text.replace("InvalidPolicyDocument", "AccessDenied");
            *response.status_mut() = StatusCode::FORBIDDEN;
        }
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(text);
    }
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert("x-amz-request-id", id);
    }
    Ok(response)
}

/// Returns the value of a parameter. A client may encode its name, too.
fn parameter(query: &str, name: &str) -> Option<String> {
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.find_map(|(known, value)| (decode(known) == name).then_some(value));
    value.map(decode)
}

/// Returns whether a presigned request has headers of S3 that its signature does not cover. They would make another
/// request of it: metadata, for example.
fn has_unsigned_headers(query: &str, headers: &HeaderMap) -> bool {
    let Some(signed) = parameter(query, "X-Amz-SignedHeaders") else { return false };
    let is_signed = |name: &str| signed.split(';').any(|signed| signed == name);
    // s3s checks the digest of the content.
    let mut names = headers.keys().map(HeaderName::as_str);
    names.any(|name| {
        name.starts_with("x-amz-") && name != "x-amz-content-sha256" && !is_signed(name)
    })
}

/// Expands `${filename}` in the head of a form. Returns what is wrong with the form, too, if s3s would not
/// refuse it.
async fn expand_filename(mut request: HttpRequest) -> (HttpRequest, Option<S3Error>) {
    let mut body = StreamingBlob::from(std::mem::take(request.body_mut()));
    let (mut head, mut failed) = (BytesMut::new(), None);
    while failed.is_none() && head.len() < MAX_BUFFERED && file_name(&head).is_none() {
        match body.next().await {
            Some(Ok(chunk)) => head.extend_from_slice(&chunk),
            Some(Err(error)) => failed = Some(Err(error)),
            None => break,
        }
    }
    let refusal = check_policy(&head);
    let head = match file_name(&head) {
        Some((name, end)) => {
            let rest = head.split_off(end);
            let name = String::from_utf8_lossy(&name).into_owned();
            let expanded = String::from_utf8_lossy(&head).replace("${filename}", &name);
            [expanded.as_bytes(), &rest].concat().into()
        }
        None => head.freeze(),
    };
    let whole = stream::iter([Ok::<Bytes, _>(head)].into_iter().chain(failed)).chain(body);
    let whole = whole.map(|chunk| chunk.map_err(std::io::Error::other));
    *request.body_mut() = Body::from(StreamingBlob::wrap(whole));
    // The length may be another one now.
    request.headers_mut().remove(header::CONTENT_LENGTH);
    (request, refusal)
}

/// Checks that a form with a policy is signed, and that the time in the policy is one.
fn check_policy(head: &[u8]) -> Option<S3Error> {
    let field = |name: &str| {
        let head = String::from_utf8_lossy(head).into_owned();
        let start = head.find(&format!("name=\"{name}\""))?;
        let value = head[start..].split_once("\r\n\r\n")?.1.split("\r\n").next()?;
        Some(value.to_owned())
    };
    let policy = field("policy")?;
    if field("signature").or_else(|| field("x-amz-signature")).is_none() {
        return Some(s3_error!(InvalidArgument, "A form with a policy must have a signature"));
    }
    let policy: Value = serde_json::from_slice(&BASE64_STANDARD.decode(policy).ok()?).ok()?;
    let expiration = policy["expiration"].as_str()?;
    let is_time = expiration.contains('T') && DateTime::parse_from_rfc3339(expiration).is_ok();
    (!is_time).then(|| s3_error!(InvalidPolicyDocument, "The expiration is no ISO 8601 time"))
}

/// Returns the name of the file and the end of the head, once the head is complete. Browsers send the last
/// segment of a path alone.
fn file_name(form: &[u8]) -> Option<(Vec<u8>, usize)> {
    let start = find(form, b"name=\"file\"")?;
    let end = start + find(&form[start..], b"\r\n\r\n")?;
    let name = form[start..end].split_at_checked(find(&form[start..end], b"filename=\"")? + 10)?.1;
    let name = &name[..find(name, b"\"")?];
    Some((name.rsplit(|byte| matches!(byte, b'/' | b'\\')).next()?.to_vec(), end))
}

fn find(text: &[u8], pattern: &[u8]) -> Option<usize> {
    text.windows(pattern.len()).position(|window| window == pattern)
}
