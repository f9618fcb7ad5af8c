//! Browser posts: `${filename}` in the key.
//!
//! s3s parses the form, checks its policy and forgets the name of the file. So the key is expanded before:
//! the head of the form, which is all that precedes the content of the file, is read and rewritten. The
//! policy then applies to the expanded key, as on AWS.

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::{Method, header};
use s3s::{Body, HttpRequest, dto::StreamingBlob};

/// The most bytes of the head of a form.
const MAX_HEAD: usize = 1 << 20;

/// Expands `${filename}` in the key of a browser post. Returns other requests as they are.
pub async fn expand_filename(mut request: HttpRequest) -> HttpRequest {
    let media_type = request.headers().get(header::CONTENT_TYPE);
    let is_form = media_type.is_some_and(|form| form.as_bytes().starts_with(b"multipart/form-data"));
    if !is_form || request.method() != Method::POST {
        return request;
    }
    let mut body = StreamingBlob::from(std::mem::take(request.body_mut()));
    let mut head = BytesMut::new();
    let mut failed = None;
    while head.len() < MAX_HEAD && file_name(&head).is_none() {
        match body.next().await {
            Some(Ok(chunk)) => head.extend_from_slice(&chunk),
            Some(Err(error)) => failed = Some(Err(error)),
            None => break,
        }
        if failed.is_some() {
            break;
        }
    }
    let head = match file_name(&head) {
        Some(name) => Bytes::from(replace(&head, b"${filename}", &name)),
        None => head.freeze(),
    };
    let whole = stream::iter([Ok(head)].into_iter().chain(failed)).chain(body);
    *request.body_mut() = Body::from(StreamingBlob::wrap(whole.map(|chunk| chunk.map_err(std::io::Error::other))));
    // The length may be another one now.
    request.headers_mut().remove(header::CONTENT_LENGTH);
    request
}

/// Returns the name of the file once the head of the form is complete: from the last header
/// `Content-Disposition` with a file name. Browsers send the last segment of a path alone.
fn file_name(head: &[u8]) -> Option<Vec<u8>> {
    let start = find(head, b"name=\"file\"")?;
    let line = &head[start..start + find(&head[start..], b"\r\n\r\n")?];
    let name = &line[find(line, b"filename=\"")? + 10..];
    let name = &name[..find(name, b"\"")?];
    let last = name.rsplit(|byte| matches!(byte, b'/' | b'\\')).next()?;
    Some(last.to_vec())
}

fn find(text: &[u8], pattern: &[u8]) -> Option<usize> {
    text.windows(pattern.len()).position(|window| window == pattern)
}

fn replace(text: &[u8], pattern: &[u8], by: &[u8]) -> Vec<u8> {
    let (mut replaced, mut rest) = (Vec::new(), text);
    while let Some(at) = find(rest, pattern) {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(by);
        rest = &rest[at + pattern.len()..];
    }
    replaced.extend_from_slice(rest);
    replaced
}
