//! Conditions of requests: `If-Match` and its relatives.

use s3s::{
    S3Error, S3ErrorCode, S3Result,
    dto::{ETagCondition, Timestamp},
    s3_error,
};

use crate::records::{Object, Time, Version};

/// The conditions of a request that reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadConditions {
    pub(crate) if_match: Option<ETagCondition>,
    pub(crate) if_none_match: Option<ETagCondition>,
    pub(crate) if_modified_since: Option<Timestamp>,
    pub(crate) if_unmodified_since: Option<Timestamp>,
}

impl ReadConditions {
    /// # Errors
    /// `PreconditionFailed` or `NotModified`.
    pub(crate) fn check(&self, object: &Object, modified: Time) -> S3Result<()> {
        let modified = modified.to_dto();
        // As HTTP demands, a condition on the entity tag stands before one on the time.
        let is_unmet = match (&self.if_match, &self.if_unmodified_since) {
            (Some(condition), _) => !matches(condition, object),
            (None, Some(time)) => modified > *time,
            (None, None) => false,
        };
        if is_unmet {
            return Err(failed());
        }
        let is_unchanged = match (&self.if_none_match, &self.if_modified_since) {
            (Some(condition), _) => matches(condition, object),
            (None, Some(time)) => modified <= *time,
            (None, None) => false,
        };
        if is_unchanged { Err(s3_error!(NotModified, "Not Modified")) } else { Ok(()) }
    }
}

/// The conditions of a request that writes a key.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteConditions {
    pub(crate) if_match: Option<ETagCondition>,
    pub(crate) if_none_match: Option<ETagCondition>,
    pub(crate) if_size: Option<i64>,
    pub(crate) if_modified_at: Option<Timestamp>,
}

impl WriteConditions {
    /// Checks them against the newest version of the key.
    ///
    /// # Errors
    /// `PreconditionFailed`; `NoSuchKey` if there is nothing to match.
    pub(crate) fn check(&self, newest: Option<&Version>) -> S3Result<()> {
        let current = newest.and_then(|version| Some((version.object.as_ref()?, version.modified)));
        let Some((object, modified)) = current else {
            let is_met =
                self.if_match.is_none() && self.if_size.is_none() && self.if_modified_at.is_none();
            let missing = || s3_error!(NoSuchKey, "The specified key does not exist.");
            return if is_met { Ok(()) } else { Err(missing()) };
        };
        let is_unmet = self.if_match.as_ref().is_some_and(|condition| !matches(condition, object))
            || self.if_none_match.as_ref().is_some_and(|condition| matches(condition, object))
            || self.if_size.is_some_and(|size| u64::try_from(size) != Ok(object.size))
            || self.if_modified_at.as_ref().is_some_and(|time| *time != modified.to_dto());
        if is_unmet { Err(failed()) } else { Ok(()) }
    }

    /// Checks them against the version to delete. Of a delete marker only "any" is true.
    pub(crate) fn check_deletion(&self, version: &Version) -> S3Result<()> {
        if version.object.is_some() {
            return self.check(Some(version));
        }
        let is_any = self.if_match.as_ref().is_none_or(ETagCondition::is_any);
        let is_met = is_any && self.if_size.is_none() && self.if_modified_at.is_none();
        if is_met { Ok(()) } else { Err(failed()) }
    }
}

/// Returns the error of a condition on the source of a copy: an unchanged source is a failure there.
pub(crate) fn of_source(error: S3Error) -> S3Error {
    if *error.code() == S3ErrorCode::NotModified { failed() } else { error }
}

fn matches(condition: &ETagCondition, object: &Object) -> bool {
    condition.as_etag().is_none_or(|etag| etag.value() == object.etag)
}

fn failed() -> S3Error {
    s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold")
}
