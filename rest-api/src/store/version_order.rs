//! The order of object versions.
//!
//! - Which version a notification means: [`find`].
//! - Which position a new version gets: [`insert`].
//! - Which version of one object is the newest: `newest_version!`.
//! - Which of two versions wins for a movie: the order of [`VersionPosition`].

use aws::trace::TraceId;
use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use schema::{Notification, Timestamp};
use tokio_postgres::types::ToSql;

use super::{
    StoreError,
    sql::{query_one, query_opt},
};

/// Sequencers are compared as text of this length, padded on the right with zeros.
///
/// Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>
const SEQUENCER_LENGTH: usize = 64;

/// The position of an object version in the order of all versions: by time, ties by key, bucket and
/// sequencer. For each movie the version with the greatest position wins.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct VersionPosition {
    /// When the version was written.
    pub ordered_at: DateTime<Utc>,
    /// Its object key.
    pub key: String,
    /// Its bucket.
    pub bucket: String,
    /// Its padded sequencer; empty if unknown.
    pub sequencer: String,
}

impl VersionPosition {
    /// Returns the position as the parameters `$1` (`ordered_at`), `$2` (`key`), `$3` (`bucket`) and
    /// `$4` (`sequencer`) of a statement.
    pub(super) fn params(&self) -> [&(dyn ToSql + Sync); 4] {
        [&self.ordered_at, &self.key, &self.bucket, &self.sequencer]
    }
}

/// What the object store reports about a version of an object.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ObservedVersion {
    /// Its entity tag, without quotes.
    pub etag: Option<String>,
    /// Its version id, in a bucket with versioning.
    pub version_id: Option<String>,
    /// When it was written, in whole seconds.
    pub last_modified: Option<DateTime<Utc>>,
    /// Its size in bytes.
    pub size: Option<i64>,
}

/// Pads a sequencer for comparisons.
pub(super) fn padded(sequencer: &str) -> String {
    format!("{sequencer:0<SEQUENCER_LENGTH$}")
}

/// The end of a query over the versions of one object in `ingests`: selects the newest one.
///
/// A superseded version does not count. The position of a version may be unknown until its object is
/// read. Such a version counts as the newest before that, and as the oldest after it has failed.
macro_rules! newest_version {
    () => {
        "state <> 'superseded'
            order by
                coalesce(ordered_at,
                    (case when state = 'failed' then '-infinity' else 'infinity' end)::timestamptz) desc,
                rpad(sequencer, 64, '0') desc nulls last,
                id desc
            limit 1"
    };
}
pub(super) use newest_version;

/// A condition on a row of `ingests`, the newest version of its object: whether it is the version
/// that the object store reports by these SQL expressions. It is used if either version has no
/// sequencer.
///
/// Etag and version id must be the same, and the object must not have been written since. The object
/// store rounds the time to the second, up or down. The ledger may have it to the millisecond.
macro_rules! same_version {
    ($etag:literal, $version_id:literal, $last_modified:literal) => {
        concat!(
            "etag is not distinct from ",
            $etag,
            " and (version_id = ",
            $version_id,
            " or version_id is null or ",
            $version_id,
            " is null)",
            " and (",
            $last_modified,
            " is null or ordered_at is null",
            " or ordered_at > ",
            $last_modified,
            " - interval '1 second')",
        )
    };
}
pub(super) use same_version;

/// The statement of [`find`].
pub(super) const FIND: &str = concat!(
    "
    /* version_order::find */
    with known as materialized (
        select id, sequencer, etag, version_id, ordered_at, state
        from ingests
        where bucket = $1 and key = $2
    ),
    newest as (
        select * from known where ",
    newest_version!(),
    "
    ),
    same as (
        select id from known where sequencer = $3
        union all
        select id from newest where (sequencer is null or $3::text is null) and ",
    same_version!("$4", "$5", "$6::timestamptz"),
    "
        limit 1
    )
    update ingests set sequencer = coalesce(ingests.sequencer, $3)
    from same where ingests.id = same.id
    returning ingests.id",
);

/// Returns the ingest of the version that `notification` means, if the ledger has it. Fills in its
/// sequencer, if the ledger lacks it.
///
/// Equal sequencers mean the same version. If either has none, the version can only be the newest
/// one in the ledger: before that, the object may have changed and changed back.
pub(super) async fn find(
    transaction: &Transaction<'_>,
    notification: &Notification,
    observed: &ObservedVersion,
) -> Result<Option<i64>, StoreError> {
    let Notification { bucket, key, sequencer, etag, version_id, .. } = notification;
    let sequencer = sequencer.as_deref();
    let etag = etag.as_deref().or(observed.etag.as_deref());
    let version_id = version_id.as_deref().or(observed.version_id.as_deref());
    let last_modified = &observed.last_modified;
    let params: [&(dyn ToSql + Sync); 6] =
        [&&**bucket, &&**key, &sequencer, &etag, &version_id, last_modified];
    let row = query_opt(transaction, FIND, &params).await?;
    Ok(row.map(|row| row.get(0)))
}

/// Adds a version to the ledger with its position, and returns its ingest.
///
/// The position goes by time, and is never more than five minutes in the future. There are two
/// exceptions for versions of the same object. Sequencers order
/// two versions whatever their times are. A version that is known only by its `LastModified`, which
/// has whole seconds, was the current one when it was observed: it goes after all known versions of
/// the same second. Versions of exactly the same time keep it, and their sequencers order them. A
/// failed ingest does not count here: its notification may be forged.
pub(super) async fn insert(
    transaction: &Transaction<'_>,
    notification: &Notification,
    observed: &ObservedVersion,
    request_id: &str,
    trace_id: Option<TraceId>,
) -> Result<i64, StoreError> {
    let insert = "
        /* version_order::insert */
        with known as materialized (
            select rpad(sequencer, 64, '0') as sequencer, ordered_at
            from ingests
            where bucket = $1 and key = $2 and ordered_at is not null and state <> 'failed'
        ),
        bounds as (
            select
                (select max(ordered_at) from known where sequencer < rpad($5, 64, '0')) as not_before,
                (select min(ordered_at) - interval '1 microsecond'
                    from known
                    where sequencer > rpad($5, 64, '0')
                        and ordered_at < coalesce($6, $7::timestamptz + interval '1 second')
                ) as not_after,
                (select max(ordered_at) + interval '1 microsecond'
                    from known
                    where $6::timestamptz is null
                        and ordered_at >= $7
                        and ordered_at < $7 + interval '1 second'
                ) as after_same_second
        )
        insert into ingests
            (bucket, key, version_id, etag, sequencer, size, request_id, trace_id, ordered_at)
        select $1, $2, $3, $4, $5, $8, $9, $10,
            case when position is not null then least(position, now() + interval '5 minutes') end
        from (
            select least(greatest(coalesce($6, after_same_second, $7), not_before), not_after)
                as position
            from bounds
        ) positions
        returning id";
    let Notification { bucket, key, sequencer, version_id, etag, event_time, size } = notification;
    let params: [&(dyn ToSql + Sync); 10] = [
        &&**bucket,
        &&**key,
        &version_id.as_deref().or(observed.version_id.as_deref()),
        &etag.as_deref().or(observed.etag.as_deref()),
        &sequencer.as_deref(),
        &event_time.map(Timestamp::get),
        &observed.last_modified,
        &size.map(|size| size.get()).or(observed.size),
        &request_id,
        &trace_id.map(|id| id.to_string()),
    ];
    Ok(query_one(transaction, insert, &params).await?.get(0))
}
