//! The records of the index.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use s3s::{
    S3Result,
    dto::{ChecksumType, ETag, Owner, Tag, Timestamp},
    s3_error,
};
use serde::{Deserialize, Serialize};

use crate::{
    checksums::{Algorithm, Sum, hex},
    contents::Content,
};

/// A bucket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Bucket {
    pub(crate) created: Time,
    pub(crate) versioning: Versioning,
    /// The canned ACL.
    pub(crate) acl: Option<String>,
}

/// Whether a bucket keeps replaced objects.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) enum Versioning {
    /// It was never enabled.
    Never,
    Enabled,
    Suspended,
}

/// A time in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Time(pub(crate) u64);

impl Time {
    pub(crate) fn now() -> Self {
        SystemTime::now().into()
    }

    /// Returns the time in whole seconds, as S3 reports it.
    pub(crate) fn to_dto(self) -> Timestamp {
        Timestamp::from(UNIX_EPOCH + Duration::from_secs(self.0 / 1000))
    }
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Self {
        let elapsed = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }
}

/// A version of an object, or a delete marker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Version {
    pub(crate) sequence: u64,
    /// Whether it was written while versioning was not enabled.
    pub(crate) is_null: bool,
    pub(crate) modified: Time,
    /// `None` for a delete marker.
    pub(crate) object: Option<Object>,
}

impl Version {
    pub(crate) fn id(&self) -> String {
        if self.is_null { "null".to_owned() } else { format_id(self.sequence) }
    }

    /// Returns the id if the version has one of its own, as S3 reports it with an object.
    pub(crate) fn shown_id(&self) -> Option<String> {
        (!self.is_null).then(|| self.id())
    }
}

/// The content of an object, and what is known about it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Object {
    pub(crate) content: String,
    pub(crate) size: u64,
    pub(crate) etag: String,
    pub(crate) sum: Option<Sum>,
    /// Empty unless the object was uploaded in parts.
    pub(crate) parts: Vec<Part>,
    /// The upload that it was, so that a client can repeat the end of the upload.
    pub(crate) upload: Option<u64>,
    pub(crate) headers: Headers,
}

impl Object {
    /// Returns an object that was put as a whole, with the checksum of an algorithm.
    pub(crate) fn whole(content: &Content, algorithm: Algorithm, headers: Headers) -> Self {
        let (id, etag, sum) = (content.id.clone(), hex(&content.md5), algorithm.of(&content.sums));
        Self {
            content: id,
            size: content.size,
            etag,
            sum,
            parts: Vec::new(),
            upload: None,
            headers,
        }
    }

    pub(crate) fn etag(&self) -> ETag {
        ETag::Strong(self.etag.clone())
    }
}

/// What a client sends with an object, and gets back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Headers {
    pub(crate) cache_control: Option<String>,
    pub(crate) content_disposition: Option<String>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) content_language: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) expires: Option<Timestamp>,
    pub(crate) metadata: Option<HashMap<String, String>>,
    pub(crate) storage_class: Option<String>,
    pub(crate) website_redirect_location: Option<String>,
    pub(crate) tags: Vec<Tag>,
    /// The canned ACL.
    pub(crate) acl: Option<String>,
}

impl Headers {
    /// Returns the storage class if it is not the standard one, as S3 reports it with an object.
    pub(crate) fn unusual_class(&self) -> Option<&str> {
        self.storage_class.as_deref().filter(|class| *class != "STANDARD")
    }

    /// Returns the storage class as S3 reports it in listings.
    pub(crate) fn class(&self) -> String {
        self.storage_class.clone().unwrap_or_else(|| "STANDARD".to_owned())
    }
}

/// A multipart upload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Upload {
    pub(crate) sequence: u64,
    pub(crate) initiated: Time,
    pub(crate) headers: Headers,
    pub(crate) algorithm: Algorithm,
    pub(crate) is_composite: bool,
    /// Whether the client named the algorithm.
    pub(crate) is_named: bool,
}

impl Upload {
    pub(crate) fn id(&self) -> String {
        format_id(self.sequence)
    }

    pub(crate) fn kind(&self) -> ChecksumType {
        let composite =
            if self.is_composite { ChecksumType::COMPOSITE } else { ChecksumType::FULL_OBJECT };
        ChecksumType::from_static(composite)
    }
}

/// A part of a multipart upload, or of the object that it became.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) number: u16,
    pub(crate) content: String,
    pub(crate) size: u64,
    pub(crate) md5: [u8; 16],
    pub(crate) sums: Vec<Sum>,
    pub(crate) modified: Time,
}

impl Part {
    pub(crate) fn new(number: u16, content: &Content, algorithms: &[Algorithm]) -> Self {
        let sums = algorithms.iter().filter_map(|algorithm| algorithm.of(&content.sums)).collect();
        let Content { size, md5, .. } = *content;
        Self { number, content: content.id.clone(), size, md5, sums, modified: Time::now() }
    }

    pub(crate) fn etag(&self) -> ETag {
        ETag::Strong(hex(&self.md5))
    }

    /// Returns its checksum of an algorithm.
    pub(crate) fn sum(&self, algorithm: Algorithm) -> Option<&Sum> {
        self.sums.iter().find(|sum| sum.algorithm == algorithm)
    }
}

/// Returns the id of a version or an upload.
pub(crate) fn format_id(sequence: u64) -> String {
    format!("{sequence:016x}")
}

/// Returns the number in a version id or an upload id.
pub(crate) fn parse_id(id: &str) -> Option<u64> {
    u64::from_str_radix(id, 16).ok().filter(|_| id.len() == 16)
}

/// Returns the owner of everything.
pub(crate) fn owner(name: &str) -> Owner {
    Owner { display_name: Some(name.to_owned()), id: Some(name.to_owned()) }
}

/// # Errors
/// If a tag is longer than S3 allows, or there are too many.
pub(crate) fn check_tags(tags: &[Tag]) -> S3Result<()> {
    let length = |text: &Option<String>| text.as_ref().map_or(0, |text| text.chars().count());
    if tags.len() > 10 {
        return Err(s3_error!(InvalidTag, "Object tags cannot be greater than 10"));
    }
    if tags.iter().any(|tag| length(&tag.key) > 128 || length(&tag.value) > 256) {
        return Err(s3_error!(InvalidTag, "The TagKey or TagValue you have provided is too long"));
    }
    Ok(())
}
