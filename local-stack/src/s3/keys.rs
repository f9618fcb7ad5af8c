//! Object keys: which ones the backend can keep, and how S3 encodes them.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::{S3Result, s3_error};

/// The most bytes that a bucket and a key may have together.
///
/// The backend keeps metadata in a file whose name contains bucket and key in base64, and a file
/// name has at most 255 bytes.
const MAX_BUCKET_AND_KEY: usize = 130;

/// The characters that S3 encodes in keys.
const ENCODED: AsciiSet =
    NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b'/');

/// Encodes `key` as S3 does in listings and events. As in HTML forms, a space becomes a plus.
pub(super) fn encode(key: &str) -> String {
    utf8_percent_encode(key, &ENCODED).to_string().replace("%20", "+")
}

/// # Errors
/// If the backend would keep `key` outside the bucket, in the file of another key, or under a file
/// name that is too long.
pub(super) fn check(bucket: &str, key: &str) -> S3Result<()> {
    let path = key.strip_suffix('/').unwrap_or(key);
    if path.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        let message = "this endpoint keeps objects as files: use a key without empty, . and .. \
                       segments";
        return Err(s3_error!(InvalidArgument, "{message}"));
    }
    if bucket.len() + key.len() > MAX_BUCKET_AND_KEY {
        let message = "this endpoint keeps objects as files: use a bucket and a key of at most \
                       130 bytes together";
        return Err(s3_error!(KeyTooLongError, "{message}"));
    }
    Ok(())
}
