//! Presigned requests: whoever has one may put one object.

use std::time::Duration;

use aws_sdk_s3::{
    Config, config::Credentials, error::SdkError, operation::put_object::PutObjectError,
    presigning::PresigningConfig,
};
use http::Uri;

use super::{ErrorCause, ObjectError, ObjectStore, classify};

/// A file that is to be put.
#[derive(Clone, Copy, Debug)]
pub struct Upload<'a> {
    /// The bucket that it goes to.
    pub bucket: &'a str,
    /// Its key.
    pub key: &'a str,
    /// Its size in bytes.
    pub size: i64,
    /// Its media type.
    pub content_type: &'a str,
    /// The base64 of its SHA-256 digest.
    pub checksum_sha256: &'a str,
}

/// A request that anybody may send for a while.
#[derive(Clone, Debug)]
pub struct PresignedPut {
    /// The address.
    pub url: String,
    /// The method.
    pub method: String,
    /// The headers that it must have, beside `Host`.
    pub headers: Vec<(String, String)>,
}

impl ObjectStore {
    /// Signs a request that puts exactly this file, for `lifetime`, or until the credentials of this process end if
    /// that is earlier.
    ///
    /// # Errors
    /// If there are no credentials.
    pub async fn presign_put(
        &self,
        upload: &Upload<'_>,
        lifetime: Duration,
    ) -> Result<PresignedPut, ObjectError> {
        let config = PresigningConfig::expires_in(lifetime).map_err(|error| {
            classify(SdkError::<PutObjectError, _>::construction_failure(error))
        })?;
        let put = self.client.put_object().bucket(upload.bucket).key(upload.key);
        let put = put.content_length(upload.size).content_type(upload.content_type);
        let put = put.checksum_sha256(upload.checksum_sha256);
        let signed = put.presigned(config).await.map_err(classify)?;
        // Without any source of credentials the SDK returns the address as it is. A key cannot contain this.
        if !signed.uri().contains("X-Amz-Signature=") {
            let text = "there are no credentials to sign with".to_owned();
            return Err(ObjectError::Refused(ErrorCause { code: text.clone(), text }));
        }
        let headers = signed.headers().map(|(name, value)| (name.to_owned(), value.to_owned()));
        Ok(PresignedPut {
            url: signed.uri().to_owned(),
            method: signed.method().to_owned(),
            headers: headers.collect(),
        })
    }

    /// Returns the origin of the addresses that [`Self::presign_put`] returns for a bucket; none if the client has
    /// no region.
    pub async fn upload_origin(&self, bucket: &str) -> Option<String> {
        // The address does not depend on them. The real ones may have to be fetched.
        let credentials = Credentials::new("none", "none", None, None, "none");
        let config = PresigningConfig::expires_in(Duration::from_secs(1)).ok()?;
        let put = self.client.put_object().bucket(bucket).key("none").customize();
        let put = put.config_override(Config::builder().credentials_provider(credentials));
        let address: Uri = put.presigned(config).await.ok()?.uri().parse().ok()?;
        Some(format!("{}://{}", address.scheme_str()?, address.authority()?))
    }
}
