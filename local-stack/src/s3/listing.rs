//! Completes the listings of the file-system backend: it omits etags, and does not encode keys.

use s3s::{
    S3ErrorCode, S3Result,
    dto::{EncodingType, ListObjectsV2Output, Object},
};
use s3s_fs::FileSystem;

use super::{files::head_object, keys};

/// Adds etags to `page`, and encodes its keys if the client requested that. Leaves out objects that
/// have been deleted since `page` was made.
pub(super) async fn complete(files: &FileSystem, page: &mut ListObjectsV2Output) -> S3Result<()> {
    let bucket = page.name.clone().unwrap_or_default();
    let encode = page.encoding_type.as_ref().map(EncodingType::as_str) == Some(EncodingType::URL);
    for object in page.contents.take().into_iter().flatten() {
        let Object { key: Some(key), .. } = &object else { continue };
        let head = match head_object(files, &bucket, key).await {
            Ok(head) => head,
            Err(error) if *error.code() == S3ErrorCode::NoSuchKey => continue,
            Err(error) => return Err(error),
        };
        let key = if encode { keys::encode(key) } else { key.clone() };
        let object = Object { key: Some(key), e_tag: head.e_tag, ..object };
        page.contents.get_or_insert_default().push(object);
    }
    if encode {
        let names = [&mut page.prefix, &mut page.delimiter, &mut page.start_after];
        for name in names.into_iter().flatten() {
            *name = keys::encode(name);
        }
        for common in page.common_prefixes.iter_mut().flatten() {
            common.prefix = common.prefix.as_deref().map(keys::encode);
        }
    }
    Ok(())
}
