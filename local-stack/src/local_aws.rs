//! The region, the credentials and the SDK configuration of the local endpoints.

use std::net::SocketAddr;

use aws_config::SdkConfig;
use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider},
};

/// The access key that clients must sign requests to the S3 endpoint with.
pub const ACCESS_KEY: &str = "local";

/// The secret key that belongs to [`ACCESS_KEY`].
pub const SECRET_KEY: &str = "localsecret";

/// The region in events and ARNs. The endpoints accept signatures for any region.
pub(crate) const REGION: &str = "eu-west-1";

/// The account in ARNs.
pub(crate) const ACCOUNT_ID: &str = "000000000000";

/// Returns an S3 client for the local endpoint at `address`.
pub fn client(address: SocketAddr) -> Client {
    let config = aws_sdk_s3::config::Builder::from(&sdk(address));
    Client::from_conf(config.force_path_style(true).build())
}

/// Returns the AWS SDK configuration for the local endpoint at `address`.
pub fn sdk(address: SocketAddr) -> SdkConfig {
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws::http_client())
        .timeout_config(aws::timeouts())
        .region(Region::new(REGION))
        .endpoint_url(format!("http://{address}"))
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
            ACCESS_KEY, SECRET_KEY, None, None, "local",
        )))
        .build()
}
