//! Events: what S3 would send for each change of an object.
//!
//! The transaction that makes a change writes its event into the outbox. The event leaves the outbox when
//! its consumer has acknowledged it. A start therefore begins with the events that the last run has not
//! delivered; a consumer sees an event again if the acknowledgement was lost.
//!
//! Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>

use chrono::{DateTime, SecondsFormat, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::S3Result;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    index::{Index, OUTBOX, Transaction, decode, encode, internal},
    records::{Version, Versioning},
};

/// The characters that S3 encodes in keys.
const ENCODED: AsciiSet =
    NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b'/');

/// How an object changed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Put,
    Post,
    Copy,
    Completed,
    MarkerCreated,
    Deleted,
}

impl Change {
    fn name(self) -> &'static str {
        match self {
            Self::Put => "ObjectCreated:Put",
            Self::Post => "ObjectCreated:Post",
            Self::Copy => "ObjectCreated:Copy",
            Self::Completed => "ObjectCreated:CompleteMultipartUpload",
            Self::MarkerCreated => "ObjectRemoved:DeleteMarkerCreated",
            Self::Deleted => "ObjectRemoved:Delete",
        }
    }
}

/// Records the event of a change in the transaction that makes it. `version` has the time of the change;
/// `sequence` is its number, which only grows and therefore may be ahead of the clock.
pub(crate) fn record(
    transaction: &Transaction,
    change: Change,
    (bucket, key): (&str, &str),
    version: &Version,
    sequence: u64,
    versioning: Versioning,
) -> S3Result<()> {
    let mut object = json!({ "key": encode_key(key), "sequencer": format!("{sequence:016X}") });
    if let Some(described) = &version.object {
        object["size"] = described.size.into();
        object["eTag"] = described.etag.as_str().into();
    }
    if versioning == Versioning::Enabled {
        object["versionId"] = version.id().into();
    }
    let time = i64::try_from(version.modified.0).ok().and_then(DateTime::from_timestamp_millis);
    let time = time.unwrap_or_else(Utc::now);
    // The identities, the source address and the request ids are fixed: the format requires them.
    let event = json!({ "Records": [{
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": transaction.region(),
        "eventTime": time.to_rfc3339_opts(SecondsFormat::Millis, true),
        "eventName": change.name(),
        "userIdentity": { "principalId": "local" },
        "requestParameters": { "sourceIPAddress": "127.0.0.1" },
        "responseElements": { "x-amz-request-id": "local", "x-amz-id-2": "local" },
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "local",
            "bucket": {
                "name": bucket,
                "ownerIdentity": { "principalId": "local" },
                "arn": format!("arn:aws:s3:::{bucket}"),
            },
            "object": object,
        },
    }] });
    let mut outbox = transaction.table(OUTBOX)?;
    outbox.insert(sequence, encode(&event)?.as_slice()).map_err(internal)?;
    Ok(())
}

/// Encodes `key` as S3 does in listings and events. As in HTML forms, a space becomes a plus.
pub(crate) fn encode_key(key: &str) -> String {
    utf8_percent_encode(key, &ENCODED).to_string().replace("%20", "+")
}

/// An event that waits for its acknowledgement.
#[derive(Clone)]
pub struct Event {
    /// What S3 would send.
    pub body: Value,
    index: Index,
    /// The place in the outbox.
    place: u64,
}

impl Event {
    /// Returns the name of the bucket.
    pub fn bucket(&self) -> &str {
        self.body["Records"][0]["s3"]["bucket"]["name"].as_str().unwrap_or_default()
    }

    /// Removes the event from the outbox: it is never sent again.
    pub async fn acknowledge(&self) {
        let place = self.place;
        // If it fails, the next start sends the event again.
        let remove = move |transaction: &Transaction| {
            transaction.table(OUTBOX)?.remove(place).map_err(internal)?;
            Ok(())
        };
        let _ = self.index.write_later(remove).await;
    }
}

/// The events of a store in their order, beginning with those of earlier runs that nobody has
/// acknowledged.
pub struct Events {
    index: Index,
    commits: watch::Receiver<u64>,
    /// The place after the last event that was returned.
    next: u64,
}

impl Events {
    pub(crate) fn new(index: Index) -> Self {
        Self { commits: index.commits(), index, next: 0 }
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// If the store is closed, or its index cannot be read.
    pub async fn next(&mut self) -> S3Result<Event> {
        loop {
            self.commits.mark_unchanged();
            if let Some(event) = self.first()? {
                return Ok(event);
            }
            self.commits.changed().await.map_err(|_| internal("the store is closed"))?;
        }
    }

    fn first(&mut self) -> S3Result<Option<Event>> {
        let outbox = self.index.table(OUTBOX)?;
        let mut rows = outbox.range(self.next..).map_err(internal)?;
        let Some(row) = rows.next() else { return Ok(None) };
        let (place, body) = row.map_err(internal)?;
        self.next = place.value() + 1;
        let (index, place) = (self.index.clone(), place.value());
        Ok(Some(Event { body: decode(body.value())?, index, place }))
    }
}
