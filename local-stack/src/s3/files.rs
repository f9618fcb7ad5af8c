//! Calls of the endpoint itself to the file-system backend.

use s3s::{
    S3, S3Request, S3Result,
    dto::{HeadBucketInput, HeadObjectInput, HeadObjectOutput},
    s3_error,
};
use s3s_fs::FileSystem;

/// # Errors
/// If the bucket does not exist.
pub(super) async fn head_bucket(files: &FileSystem, bucket: &str) -> S3Result<()> {
    let input = HeadBucketInput::builder().bucket(bucket.to_owned()).build();
    let input = input.map_err(|error| s3_error!(error, InternalError))?;
    files.head_bucket(request(input)).await?;
    Ok(())
}

/// # Errors
/// If the object does not exist.
pub(super) async fn head_object(
    files: &FileSystem,
    bucket: &str,
    key: &str,
) -> S3Result<HeadObjectOutput> {
    let input = HeadObjectInput::builder().bucket(bucket.to_owned()).key(key.to_owned()).build();
    let input = input.map_err(|error| s3_error!(error, InternalError))?;
    Ok(files.head_object(request(input)).await?.output)
}

/// Returns a request without credentials: the backend does not check them.
fn request<T>(input: T) -> S3Request<T> {
    S3Request {
        input,
        method: Default::default(),
        uri: Default::default(),
        headers: Default::default(),
        extensions: Default::default(),
        credentials: None,
        region: None,
        service: None,
        trailing_headers: None,
    }
}
