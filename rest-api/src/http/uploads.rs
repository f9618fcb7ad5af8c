//! `POST /uploads`: a presigned request that puts one file into the bucket.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use http::{HeaderValue, StatusCode};
use schema::Fault;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::info;

use super::{
    Access, params,
    request::Request,
    response::{Answer, json},
};
use crate::{
    objects::Upload,
    problem::{Code, Problem},
    terminal::excerpt,
};

/// The largest body, in bytes. It has room for a key of which JSON escapes every character.
pub(super) const MAX_BODY: usize = 16 << 10;

/// The largest file that one request can put, in bytes. Larger ones are put in parts, with credentials.
///
/// Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/upload-objects.html>
pub(super) const MAX_SIZE: u64 = 5 << 30;

/// The longest key, in bytes.
///
/// Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html>
pub(super) const MAX_KEY: usize = 1024;

/// The longest media type, in bytes.
pub(super) const MAX_CONTENT_TYPE: usize = 128;

/// How long the request may be sent.
pub(super) const LIFETIME: TimeDelta = TimeDelta::minutes(5);

/// The most characters of a text that a problem shows.
const MAX_SHOWN: usize = 100;

/// When a client may ask again if there were no credentials.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// A file that somebody wants to put.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    key: String,
    size: u64,
    content_type: String,
    checksum_sha256: String,
}

/// The answer: a request that puts this file, and no other one.
#[derive(JsonSchema, Serialize)]
#[schemars(rename = "Upload")]
pub(super) struct Signed {
    /// The address to send it to.
    url: String,
    /// Its method.
    method: String,
    /// The headers that it must have, with these values. A client sets `Content-Length` itself, by the size of the
    /// file; it is signed, too.
    headers: BTreeMap<String, String>,
    /// The key of the object.
    key: String,
    /// Until when it may be sent, at most. It ends earlier if the credentials of the service do.
    expires_at: DateTime<Utc>,
}

/// `POST /uploads`: signs a request that puts one file.
pub(super) async fn create(mut request: Request) -> Answer {
    params::none(&request.query)?;
    let expected = "an object with key, size, content_type and checksum_sha256";
    let wanted: Wanted = request.json(expected).await?;
    let access = &request.app.access;
    let faults = wanted.faults(access);
    if !faults.is_empty() {
        return Err(Problem::violations(&faults, faults.len() as u64));
    }
    if !request.prefixes().contain(&wanted.key) {
        let detail = "key: your account is bound to other keys; GET /auth/me lists their prefixes";
        return Err(Problem::forbidden(detail.to_owned()));
    }
    let Some(bucket) = access.buckets.first() else {
        let detail = "no bucket takes uploads: MRU_BUCKETS must name one";
        return Err(Problem::new(Code::NotFound, detail));
    };
    let upload = Upload {
        bucket,
        key: &wanted.key,
        size: wanted.size.try_into().unwrap_or(i64::MAX),
        content_type: &wanted.content_type,
        checksum_sha256: &wanted.checksum_sha256,
    };
    let expires_at = Utc::now() + LIFETIME;
    let lifetime = LIFETIME.to_std().unwrap_or_default();
    let signed = request.app.objects.presign_put(&upload, lifetime).await.map_err(|error| {
        let detail = "the service has no credentials to sign with";
        Problem::unavailable(detail, RETRY_AFTER).with_cause(error.to_string())
    })?;
    let caller = &request.caller()?.name;
    info!(bucket, key = wanted.key, size = wanted.size, caller = &**caller, "upload signed");
    let is_set_by_client = |name: &String| name.eq_ignore_ascii_case("content-length");
    let headers = signed.headers.into_iter().filter(|(name, _)| !is_set_by_client(name));
    let signed = Signed {
        url: signed.url,
        method: signed.method,
        headers: headers.collect(),
        key: wanted.key,
        expires_at,
    };
    json(StatusCode::CREATED, &signed)
}

impl Wanted {
    /// Returns what is wrong with it.
    fn faults(&self, access: &Access) -> Vec<Fault> {
        let Self { key, size, content_type, checksum_sha256 } = self;
        let mut faults = Vec::new();
        if let Some((expected, found)) = key_fault(key, access) {
            faults.push(Fault::new(&["key"], expected, found));
        }
        if !(1..=MAX_SIZE).contains(size) {
            let expected =
                format!("a number of bytes from 1 to {MAX_SIZE}; put a larger file in parts");
            faults.push(Fault::new(&["size"], expected, size.to_string()));
        }
        if !is_media_type(content_type) {
            let expected = "a media type such as application/json, of at most 128 ASCII characters";
            faults.push(Fault::new(&["content_type"], expected, shown(content_type)));
        }
        // Only the canonical text of a digest decodes.
        if !BASE64_STANDARD.decode(checksum_sha256).is_ok_and(|digest| digest.len() == 32) {
            let expected = "the base64 of the SHA-256 digest of the file, 44 characters";
            faults.push(Fault::new(&["checksum_sha256"], expected, shown(checksum_sha256)));
        }
        faults
    }
}

/// Returns what is expected of a key instead of this one, and what was found; none if it is right.
fn key_fault(key: &str, access: &Access) -> Option<(String, String)> {
    let Access { ignored_keys, upload_prefix, .. } = access;
    let is_relative = key.split('/').any(|segment| segment == "." || segment == "..");
    let fault = |expected: &str, found: String| Some((expected.to_owned(), found));
    if key.is_empty() {
        fault("a key", "an empty text".to_owned())
    } else if key.len() > MAX_KEY {
        fault("a key of at most 1,024 bytes", format!("{} bytes", key.len()))
    } else if key.chars().any(char::is_control) {
        fault("a key without control characters", shown(key))
    } else if is_relative {
        // Clients remove such segments from an address.
        fault("a key without a segment . or ..", shown(key))
    } else if !key.starts_with(upload_prefix) {
        fault(&format!("a key that begins with {upload_prefix}"), shown(key))
    } else {
        ignored_keys.reason(key, None).and_then(|why| fault("a key that names a file", why))
    }
}

fn is_media_type(text: &str) -> bool {
    let is_token = |text: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
        !text.is_empty() && text.bytes().all(is_allowed)
    };
    let essence = text.split(';').next().unwrap_or_default().trim_end();
    let parts = essence.split_once('/');
    text.len() <= MAX_CONTENT_TYPE
        && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
        && text.trim() == text
        && HeaderValue::from_str(text).is_ok()
        && parts.is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype))
}

/// Returns a text in quotes, as a client may show it.
fn shown(text: &str) -> String {
    format!("\"{}\"", excerpt(text, MAX_SHOWN))
}
