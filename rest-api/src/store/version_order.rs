//! The order of object versions.
//!
//! - Which version a notification means, and which position a new one gets: [`record`].
//! - Which of two versions wins for a movie: the order of [`VersionPosition`].
//!
//! Two reports mean the same version if their sequencers are equal; a report without a sequencer means a
//! version of the same content (etag, and version id where both have one) and event time, or, without an
//! event time, the newest version of the object if it has the same content and is at least as new.
//!
//! To take such a report for a new version would change nothing: its movies would lose against the newer
//! version of the same content. In all other cases it is a new version: an unchanged file is cheap, a
//! lost one is not. Without an event time, a report has the `LastModified` of the object: in whole
//! seconds, and of a multipart upload when it began.

use aws::trace::Trace;
use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use schema::{Notification, Timestamp};
use tokio_postgres::{Row, types::ToSql};

use super::{StoreError, sql::query_one};

/// Sequencers are compared as text of this length, padded on the right with zeros.
///
/// Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>
const SEQUENCER_LENGTH: usize = 64;

/// The largest small object, in bytes. Small ones are processed in batches.
const MAX_SMALL: i64 = 64 << 10;

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
    /// Returns a position before those of all versions.
    pub(super) fn first() -> Self {
        let [key, bucket, sequencer] = [const { String::new() }; 3];
        // The year 1, as far back as the database and this type both reach.
        let ordered_at = DateTime::from_timestamp_secs(-62_135_596_800).unwrap_or_default();
        Self { ordered_at, key, bucket, sequencer }
    }

    /// Returns the position of an edit at this time: that of an object with an empty key.
    pub(super) fn of_edit(ordered_at: DateTime<Utc>) -> Self {
        Self { ordered_at, ..Self::first() }
    }

    /// Returns the position of the columns of the same names.
    pub(super) fn from_row(row: &Row) -> Self {
        let [key, bucket, sequencer] = ["key", "bucket", "sequencer"].map(|column| row.get(column));
        Self { ordered_at: row.get("ordered_at"), key, bucket, sequencer }
    }

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

/// What is known about a version: what was notified, and what the object store reports where that lacks
/// something.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    /// The notification.
    pub notification: &'a Notification,
    /// What the object store reports. It may be empty.
    pub observed: ObservedVersion,
}

/// Pads a sequencer for comparisons.
pub(super) fn padded(sequencer: &str) -> String {
    format!("{sequencer:0<SEQUENCER_LENGTH$}")
}

/// Two SQL expressions of type `timestamptz`, as the columns `not_before` and `not_after`: the positions
/// between which a version of an object must be, so that sequencers order its versions whatever their
/// times are. Null if there is no such bound. They read one index entry each.
///
/// A failed or gone ingest that has merged nothing does not count: its notification may be forged. So it gets a
/// place between its neighbors when it is queued again.
macro_rules! bounds {
    ($key:literal, $bucket:literal, $sequencer:literal) => {
        concat!(
            "(select ordered_at from ingests older
                where older.key = ",
            $key,
            " and older.bucket = ",
            $bucket,
            " and older.sequencer is not null
                    and rpad(older.sequencer, 64, '0') < rpad(",
            $sequencer,
            ", 64, '0') and older.ordered_at is not null
                    and (older.state not in ('failed', 'gone') or older.inserted is not null)
                order by rpad(older.sequencer, 64, '0') desc
                limit 1
            ) as not_before,
            (select ordered_at from ingests newer
                where newer.key = ",
            $key,
            " and newer.bucket = ",
            $bucket,
            " and newer.sequencer is not null
                    and rpad(newer.sequencer, 64, '0') > rpad(",
            $sequencer,
            ", 64, '0') and newer.ordered_at is not null
                    and (newer.state not in ('failed', 'gone') or newer.inserted is not null)
                order by rpad(newer.sequencer, 64, '0')
                limit 1
            ) as not_after",
        )
    };
}
pub(super) use bounds;

/// The statement of [`record`].
///
/// Each of its selects has the order of the index that it needs, and a range instead of an equality, with
/// which the order would not matter. So the planner takes that index (it must not sort), also if its
/// statistics do not know yet that the object has a million versions.
pub(super) const RECORD: &str = concat!(
    "
    /* version_order::record */
    with same as (
        (
            select id from ingests
            where key = $2 and bucket = $1 and sequencer is not null and removal = $12
                and rpad(sequencer, 64, '0') between rpad($5, 64, '0') and rpad($5, 64, '0')
            order by rpad(sequencer, 64, '0')
            limit 1
        )
        union all
        (
            select id from ingests
            where $5 is null and key = $2 and bucket = $1 and removal = $12
                and ordered_at between $6::timestamptz and $6::timestamptz
                and etag is not distinct from $4
                and (version_id = $3 or version_id is null or $3 is null)
            order by ordered_at
            limit 1
        )
        union all
        (
            select id
            from (
                select id, etag, version_id, removal
                from (
                    select id, etag, version_id, sequencer, removal
                    from ingests
                    where $5 is null and $6 is null and key = $2 and bucket = $1
                        and ordered_at >= case when $12 then coalesce($7::timestamptz, '-infinity')
                            else $7::timestamptz end
                        and state <> 'gone' and not deletion
                        and (state <> 'superseded'
                            or superseded_reason = 'newer_version_merged')
                    order by ordered_at desc
                    fetch first row with ties
                ) newest
                order by rpad(sequencer, 64, '0') desc nulls last
                limit 1
            ) newest
            where removal = $12 and (removal or etag = $4)
                and (version_id = $3 or version_id is null or $3 is null)
        )
        union all
        -- Neither has a time: what was not read yet is the same if the rest is.
        (
            select id from ingests
            where $5 is null and coalesce($6, $7) is null and key = $2 and bucket = $1
                and ordered_at is null and sequencer is null and not $12 and not removal
                and state in ('queued', 'failed', 'gone')
                and etag is not distinct from $4 and version_id is not distinct from $3
            limit 1
        )
        limit 1
    ),
    bounds as (
        select ",
    bounds!("$2", "$1", "$5"),
    ",
            (select max(ordered_at) + interval '1 microsecond'
                from ingests
                where $6::timestamptz is null and key = $2 and bucket = $1
                    and ordered_at >= $7 and ordered_at < $7 + interval '1 second'
                    and state not in ('failed', 'gone')
            ) as after_same_second
    ),
    inserted as (
        insert into ingests
            (bucket, key, version_id, etag, sequencer, size, request_id, trace_id, traceparent,
            removal, large, ordered_at)
        select $1, $2, $3, $4, $5, $8, $9, $10, $13, $12,
            not $12 and coalesce($8::bigint > $11::bigint, true), case when position is not null then least(position, now() + interval '5 minutes') end
        from (
            select least(
                greatest(coalesce($6, after_same_second, $7, case when $12 then clock_timestamp() end),
                    not_before),
                case when not_after < coalesce($6, $7 + interval '1 second') then not_after end
            ) as position
            from bounds
        ) positions
        where not exists (select from same)
        returning id
    ),
    revived as (
        update ingests
        set state = 'queued', attempts = 0, run_after = now(), finished_at = null, error = null,
            ordered_at = case when ordered_at is not null and inserted is null
                then least(greatest(ordered_at, not_before), not_after) else ordered_at end
        from same, bounds
        where ingests.id = same.id and state in ('failed', 'gone')
        returning ingests.id
    )
    select id, true as queued from inserted
    union all
    select id, exists (select from revived) from same",
);

/// Finds the ingest of the version that `report` means. If the ledger has none, adds the version with
/// its position. A failed or gone ingest is queued again. Returns the id of the ingest, and whether this has
/// queued it.
///
/// The caller holds the lock of the object.
///
/// The position goes by time, and is never more than five minutes in the future. There are two
/// exceptions for versions of the same object. Sequencers order two versions whatever their times are.
/// A version that is known only by its `LastModified`, which has whole seconds, was the current one when
/// it was observed: it goes after all known versions of the same second. Versions of exactly the same
/// time keep it, and their sequencers order them.
///
/// What is not promised: if times contradict the sequencers of one object, or a report without event
/// time and events of the same object fall into the same second, the place of these versions among those
/// of other objects depends on the order of arrival, within the times that contradict each other.
pub(super) async fn record(
    connection: &impl GenericClient,
    report: &Report<'_>,
    request_id: &str,
    trace: Option<Trace>,
) -> Result<(i64, bool), StoreError> {
    let Report { notification, observed } = report;
    let Notification { bucket, key, sequencer, version_id, etag, event_time, size, .. } =
        notification;
    let params: [&(dyn ToSql + Sync); 13] = [
        &&**bucket,
        &&**key,
        &version_id.as_deref().or(observed.version_id.as_deref()),
        &etag.as_deref().or(observed.etag.as_deref()),
        &sequencer.as_deref(),
        &event_time.map(Timestamp::get),
        &observed.last_modified,
        &size.map(|size| size.get()).or(observed.size),
        &request_id,
        &trace.map(|trace| trace.id.to_string()),
        &MAX_SMALL,
        &notification.is_removal(),
        &trace.and_then(|trace| trace.span).map(|span| span.to_string()),
    ];
    let row = query_one(connection, RECORD, &params).await?;
    Ok((row.get(0), row.get(1)))
}
