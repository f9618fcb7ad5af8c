//! The events that S3 sends for created objects.
//!
//! Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>

use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{SecondsFormat, Utc};
use s3s::dto::HeadObjectOutput;
use serde_json::{Value, json};

use super::keys;
use crate::local_aws::REGION;

/// Builds events, and gives each a sequencer.
#[derive(Default)]
pub(super) struct EventBuilder {
    last_sequencer: AtomicU64,
}

impl EventBuilder {
    /// Returns the event `name` (`ObjectCreated:...`) for the object that `head` describes.
    pub(super) fn build(
        &self,
        name: &str,
        bucket: &str,
        key: &str,
        head: &HeadObjectOutput,
    ) -> Value {
        let now = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let etag = head.e_tag.as_ref().map(|etag| etag.value());
        // The identities, the source address and the request ids are fixed: the format requires
        // them, and the function does not use them.
        json!({ "Records": [{
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "awsRegion": REGION,
            "eventTime": now,
            "eventName": name,
            "userIdentity": { "principalId": "local" },
            "requestParameters": { "sourceIPAddress": "127.0.0.1" },
            "responseElements": { "x-amz-request-id": "local", "x-amz-id-2": "local" },
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "movies-r-us",
                "bucket": {
                    "name": bucket,
                    "ownerIdentity": { "principalId": "local" },
                    "arn": format!("arn:aws:s3:::{bucket}"),
                },
                "object": {
                    "key": keys::encode(key),
                    "size": head.content_length,
                    "eTag": etag,
                    "sequencer": self.next_sequencer(),
                },
            },
        }] })
    }

    /// Returns a sequencer greater than all before it. It is based on the clock, so that this holds
    /// across restarts.
    fn next_sequencer(&self) -> String {
        let now = Utc::now().timestamp_nanos_opt().unwrap_or_default().cast_unsigned();
        let next = |last: u64| Some(now.max(last + 1));
        let order = Ordering::Relaxed;
        let last = self.last_sequencer.fetch_update(order, order, next).unwrap_or_default();
        format!("{:016X}", now.max(last + 1))
    }
}
