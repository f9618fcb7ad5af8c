//! Completes what the ledger knows about a claimed version when its object is read.

use chrono::{DateTime, TimeDelta, Utc};
use tokio_postgres::types::ToSql;

use super::{
    Claim, ObservedVersion, Store, StoreError, VersionPosition,
    sql::{query_one, query_opt},
    version_order::{bounds, padded},
};

/// How much later than its object was written an event may be.
const MAX_LATENESS: TimeDelta = TimeDelta::minutes(5);

/// The statement of [`Store::observe`].
pub(super) const OBSERVE: &str = concat!(
    "
    /* observe::observe */
    with claimed as (
        select id, key, bucket, sequencer, received_at from ingests
        where id = $1 and lease_token = $2
    ),
    bounds as (
        select ",
    bounds!("claimed.key", "claimed.bucket", "claimed.sequencer"),
    ",
            (select max(same.ordered_at) + interval '1 microsecond'
                from ingests same
                where same.key = claimed.key and same.bucket = claimed.bucket
                    and same.ordered_at >= $5 and same.ordered_at < $5 + interval '1 second'
                    and same.state not in ('failed', 'gone') and same.id <> claimed.id
            ) as after_same_second,
            least(coalesce($5::timestamptz, claimed.received_at), now() + interval '5 minutes')
                as written
        from claimed
    )
    update ingests
    set etag = coalesce(etag, $3), size = coalesce(size, $4),
        version_id = coalesce(version_id, $7),
        ordered_at = case
            when ordered_at is null or $6
                then least(
                    greatest(
                        written,
                        not_before,
                        case when ordered_at is null then after_same_second end
                    ),
                    case when not_after < written + interval '1 second' then not_after end
                )
            else ordered_at
        end
    from bounds
    where id = $1 and lease_token = $2
    returning ordered_at",
);

impl Store {
    /// Returns the position in time of a version of an object; none if the ledger does not know it.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn version_time(
        &self,
        bucket: &str,
        key: &str,
        version_id: &str,
    ) -> Result<Option<DateTime<Utc>>, StoreError> {
        let time = "
            /* observe::version_time */
            select max(ordered_at)
            from ingests
            where key = $1 and bucket = $2 and version_id = $3 and not removal";
        Ok(query_one(&self.worker().await?, time, &[&key, &bucket, &version_id]).await?.get(0))
    }

    /// Records what the object store reports about the claimed version, where the ledger lacks it.
    /// Returns the position of the version.
    ///
    /// The time of the event does not count if it is more than five minutes later than the time at
    /// which the object was written: the notification may be forged. The position is then that time,
    /// but not before versions of the object with a smaller sequencer.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker has claimed the ingest.
    pub async fn observe(
        &self,
        claim: &Claim,
        observed: &ObservedVersion,
    ) -> Result<VersionPosition, StoreError> {
        let ObservedVersion { etag, version_id, last_modified, size } = observed;
        // The time of a multipart upload is when it began.
        let is_multipart = etag.as_ref().is_some_and(|etag| etag.contains('-'));
        let is_too_late = match (claim.ordered_at, last_modified) {
            (Some(ordered_at), Some(written)) => {
                !is_multipart && ordered_at > *written + MAX_LATENESS
            }
            _ => false,
        };
        let is_known = claim.etag.is_some()
            && claim.size.is_some()
            && (claim.version_id.is_some() || version_id.is_none());
        let ordered_at = match claim.ordered_at {
            Some(ordered_at) if is_known && !is_too_late => ordered_at,
            _ => {
                let params: [&(dyn ToSql + Sync); 7] = [
                    &claim.id,
                    &claim.lease_token,
                    etag,
                    size,
                    last_modified,
                    &is_too_late,
                    version_id,
                ];
                let row = query_opt(&self.worker().await?, OBSERVE, &params).await?;
                row.ok_or(StoreError::LeaseLost)?.get(0)
            }
        };
        Ok(VersionPosition {
            ordered_at,
            key: claim.key.clone(),
            bucket: claim.bucket.clone(),
            sequencer: claim.sequencer.as_deref().map(padded).unwrap_or_default(),
        })
    }
}
