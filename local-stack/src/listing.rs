//! What the file system backend's listings lack: etags, and keys encoded on request.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::{
    S3, S3ErrorCode, S3Result,
    dto::{EncodingType, HeadObjectInput, ListObjectsV2Output, Object},
    s3_error,
};
use s3s_fs::FileSystem;

use crate::s3::request;

/// What S3 leaves as it is in the keys of listings and events.
const IN_KEYS: AsciiSet =
    NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b'/');

/// As in forms: a space is a plus.
pub(crate) fn encoded(key: &str) -> String {
    utf8_percent_encode(key, &IN_KEYS).to_string().replace("%20", "+")
}

/// Completes a page of a listing by `files`. An object that is deleted meanwhile is left out.
pub(crate) async fn complete(files: &FileSystem, page: &mut ListObjectsV2Output) -> S3Result<()> {
    let bucket = page.name.clone().unwrap_or_default();
    let encode = page.encoding_type.as_ref().map(EncodingType::as_str) == Some(EncodingType::URL);
    for object in page.contents.take().into_iter().flatten() {
        let Object { key: Some(key), .. } = &object else { continue };
        let head = HeadObjectInput::builder().bucket(bucket.clone()).key(key.clone()).build();
        let head = head.map_err(|error| s3_error!(error, InternalError))?;
        let head = match files.head_object(request(head)).await {
            Ok(head) => head.output,
            Err(error) if *error.code() == S3ErrorCode::NoSuchKey => continue,
            Err(error) => return Err(error),
        };
        let key = if encode { encoded(key) } else { key.clone() };
        let object = Object { key: Some(key), e_tag: head.e_tag, ..object };
        page.contents.get_or_insert_default().push(object);
    }
    if encode {
        let names = [&mut page.prefix, &mut page.delimiter, &mut page.start_after];
        for name in names.into_iter().flatten() {
            *name = encoded(name);
        }
        for common in page.common_prefixes.iter_mut().flatten() {
            common.prefix = common.prefix.as_deref().map(encoded);
        }
    }
    Ok(())
}
