//! The ledger: one entry for each version of an object that the service was told of.

use aws::trace::TraceId;
use chrono::{DateTime, Utc};
use deadpool_postgres::{GenericClient, Transaction};
use schema::{Notification, Timestamp};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use tokio_postgres::{Row, types::ToSql};

use super::{
    Store, StoreError, listen,
    sql::{Sql, execute, query_one, query_opt},
};

/// Where an ingest is on its way.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IngestState {
    /// Waits for a worker.
    Queued,
    /// A worker holds its lease.
    Running,
    /// The file is in the catalogue.
    Succeeded,
    /// The file's content is at fault.
    Rejected,
    /// A newer version of the object was taken before.
    Superseded,
    /// The infrastructure was at fault, for too long.
    Failed,
}

impl IngestState {
    const ALL: [(&'static str, Self); 6] = [
        ("queued", Self::Queued),
        ("running", Self::Running),
        ("succeeded", Self::Succeeded),
        ("rejected", Self::Rejected),
        ("superseded", Self::Superseded),
        ("failed", Self::Failed),
    ];

    /// Every state.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().map(|(_, state)| state)
    }

    /// The state of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, state)| *state)
    }

    /// The state's name, as the API and the database write it.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, state)| *state == self).map_or("", |(name, _)| name)
    }

    /// Whether nothing more will happen by itself.
    pub fn ended(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// One version of an object, and what became of it.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the fields are the API's, described there")]
pub struct Ingest {
    pub id: i64,
    pub bucket: String,
    pub key: String,
    pub version_id: Option<String>,
    pub etag: Option<String>,
    pub size: Option<i64>,
    pub state: IngestState,
    pub attempts: i32,
    pub received_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub inserted: Option<i64>,
    pub updated: Option<i64>,
    pub unchanged: Option<i64>,
    pub violation_count: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "raw")]
    pub violations: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "raw")]
    pub error: Option<String>,
}

/// Writes text that is JSON already.
fn raw<S: Serializer>(json: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    let json = json.as_deref().unwrap_or("null");
    serde_json::from_str::<&RawValue>(json)
        .map_err(serde::ser::Error::custom)?
        .serialize(serializer)
}

impl Ingest {
    pub(super) const COLUMNS: &str = "id, bucket, key, version_id, etag, size, state, attempts, \
        received_at, started_at, finished_at, inserted, updated, unchanged, violation_count, \
        error::text";

    pub(super) fn from_row(row: &Row) -> Self {
        Self {
            id: row.get("id"),
            bucket: row.get("bucket"),
            key: row.get("key"),
            version_id: row.get("version_id"),
            etag: row.get("etag"),
            size: row.get("size"),
            state: IngestState::from_name(row.get("state")).unwrap_or(IngestState::Failed),
            attempts: row.get("attempts"),
            received_at: row.get("received_at"),
            started_at: row.get("started_at"),
            finished_at: row.get("finished_at"),
            inserted: row.get("inserted"),
            updated: row.get("updated"),
            unchanged: row.get("unchanged"),
            violation_count: row.get("violation_count"),
            violations: None,
            error: row.get("error"),
        }
    }
}

/// Which ingests to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct IngestQuery {
    /// Of this bucket only.
    pub bucket: Option<String>,
    /// Of this key only.
    pub key: Option<String>,
    /// In this state only.
    pub state: Option<IngestState>,
    /// How many at most.
    pub limit: i64,
    /// The id of the last ingest of the page before.
    pub after: Option<i64>,
}

/// What the object store says of an object.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Observed {
    /// Its entity tag, without quotes.
    pub etag: Option<String>,
    /// Its version, in a bucket with versioning.
    pub version_id: Option<String>,
    /// When it was written, in whole seconds.
    pub last_modified: Option<DateTime<Utc>>,
    /// Its size in bytes.
    pub size: Option<i64>,
}

/// Which of the versions of one object is the newest, as the end of a query over them. What was
/// superseded does not count. What nobody has seen yet may be anything, so that it goes first while
/// it waits for a worker, and last once it has failed.
pub(super) const NEWEST: &str = "state <> 'superseded' order by coalesce(ordered_at, \
    (case when state = 'failed' then '-infinity' else 'infinity' end)::timestamptz) desc, \
    rpad(sequencer, 64, '0') desc nulls last, id desc limit 1";

/// Whether a version of the ledger, the newest of its object, is the one that the object store
/// tells of in these SQL expressions, where no sequencers settle it: etag and version are the same,
/// and the object has not been written since. The store rounds the time of writing to the second,
/// up or down, and the ledger may have it to the millisecond.
pub(super) fn same(etag: &str, version_id: &str, last_modified: &str) -> String {
    format!(
        "etag is not distinct from {etag} \
         and (version_id = {version_id} or version_id is null or {version_id} is null) \
         and ({last_modified} is null or ordered_at is null \
            or ordered_at > {last_modified} - interval '1 second')"
    )
}

/// Puts an ingest that has failed back into the queue, as if it had never been tried.
const REVIVE: &str = "/* ingests::revive */ update ingests set state = 'queued', attempts = 0, \
    run_after = now(), finished_at = null, error = null where id = $1 and state = 'failed'";

impl Store {
    /// Records the version that `notification` tells of; the same version again gives the same
    /// ingest. One that had `failed` is queued anew: whoever repeats a notification means it.
    ///
    /// `observed` fills in what the notification leaves open. `request_id` and `trace_id` tie log
    /// lines together; a version that was known before keeps those that it came with.
    ///
    /// # Errors
    /// If the database is away; then nothing is recorded.
    pub async fn record(
        &self,
        notification: &Notification,
        observed: &Observed,
        request_id: &str,
        trace_id: Option<TraceId>,
    ) -> Result<Ingest, StoreError> {
        let mut connection = self.writer().await?;
        let transaction = connection.transaction().await?;
        // The ledger of one object is changed by one caller at a time.
        let lock = "/* ingests::lock */ select pg_advisory_xact_lock(hashtextextended($1, 0))";
        let object = format!("{}/{}", &*notification.bucket, &*notification.key);
        execute(&transaction, lock, &[&object]).await?;
        let id = match find_version(&transaction, notification, observed).await? {
            Some(id) => id,
            None => insert(&transaction, notification, observed, request_id, trace_id).await?,
        };
        execute(&transaction, REVIVE, &[&id]).await?;
        let notify = "/* ingests::announce */ select pg_notify($1, '')";
        execute(&transaction, notify, &[&listen::QUEUED]).await?;
        let ingest = one(&transaction, id).await?;
        transaction.commit().await?;
        self.hints().queued.send_replace(());
        ingest.ok_or_else(|| StoreError::Setup(format!("ingest {id} is gone")))
    }

    /// Queues an ingest anew if it has `failed`. Returns whether it had, and the ingest as it is
    /// now; none if there is no such ingest.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn retry(&self, id: i64) -> Result<Option<(bool, Ingest)>, StoreError> {
        let connection = self.writer().await?;
        let revived = execute(&connection, REVIVE, &[&id]).await? == 1;
        if revived {
            let notify = "/* ingests::announce */ select pg_notify($1, '')";
            execute(&connection, notify, &[&listen::QUEUED]).await?;
        }
        Ok(one(&connection, id).await?.map(|ingest| (revived, ingest)))
    }

    /// The ingest with this id, violations included.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn ingest(&self, id: i64) -> Result<Option<Ingest>, StoreError> {
        one(&self.writer().await?, id).await
    }

    /// The ingests that match `query`, newest first; one more than its limit if there are more.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn ingests(&self, query: &IngestQuery) -> Result<Vec<Ingest>, StoreError> {
        let columns = Ingest::COLUMNS;
        let mut sql =
            Sql::new(&format!("/* ingests::list */ select {columns} from ingests where true"));
        let state = query.state.map(|state| state.name().to_owned());
        for (column, value) in [("bucket", &query.bucket), ("key", &query.key), ("state", &state)] {
            if let Some(value) = value {
                let value = sql.bind(value.clone());
                sql.push(&format!(" and {column} = {value}"));
            }
        }
        if let Some(after) = query.after {
            let after = sql.bind(after);
            sql.push(&format!(" and id < {after}"));
        }
        let limit = sql.bind(query.limit + 1);
        sql.push(&format!(" order by id desc limit {limit}"));
        let rows = self.writer().await?.query(&sql.text, &sql.params()).await?;
        Ok(rows.iter().map(Ingest::from_row).collect())
    }
}

async fn one(client: &impl GenericClient, id: i64) -> Result<Option<Ingest>, StoreError> {
    let columns = Ingest::COLUMNS;
    let one = format!(
        "/* ingests::one */ select {columns}, coalesce(violations::text, '[]') violations \
         from ingests where id = $1"
    );
    Ok(query_opt(client, &one, &[&id])
        .await?
        .map(|row| Ingest { violations: row.get("violations"), ..Ingest::from_row(&row) }))
}

/// The ingest of the same version of the same object, if the ledger has it.
///
/// Two sequencers settle it. Without one of them it can only be the newest known version: in between,
/// the object may have changed and changed back. A sequencer that the ledger lacks is then filled in.
async fn find_version(
    transaction: &Transaction<'_>,
    notification: &Notification,
    observed: &Observed,
) -> Result<Option<i64>, StoreError> {
    let same = same("$4", "$5", "$6::timestamptz");
    let find = format!(
        "/* ingests::find_version */ with known as materialized ( \
            select id, sequencer, etag, version_id, ordered_at, state from ingests \
            where bucket = $1 and key = $2), \
        newest as (select * from known where {NEWEST}), \
        same as (select id from known where sequencer = $3 \
            union all \
            select id from newest where (sequencer is null or $3::text is null) and {same} \
            limit 1) \
        update ingests set sequencer = coalesce(ingests.sequencer, $3) \
            from same where ingests.id = same.id returning ingests.id"
    );
    let Notification { bucket, key, sequencer, etag, version_id, .. } = notification;
    let sequencer = sequencer.as_deref();
    let etag = etag.as_deref().or(observed.etag.as_deref());
    let version_id = version_id.as_deref().or(observed.version_id.as_deref());
    let last_modified = &observed.last_modified;
    let params: [&(dyn ToSql + Sync); 6] =
        [&&**bucket, &&**key, &sequencer, &etag, &version_id, last_modified];
    let row = query_opt(transaction, &find, &params).await?;
    Ok(row.map(|row| row.get(0)))
}

/// Adds a version to the ledger and gives it its place in the order.
///
/// The place goes by time, but never against what is known of the same object: two sequencers
/// order two versions whatever the clocks said; and a version known only by the time in its
/// metadata, which has whole seconds, was the current one when it was looked at, so that it goes
/// behind those known of the same second. Versions of the very same time keep it: their sequencers
/// order them, and other objects of that time stay where they are between them.
async fn insert(
    transaction: &Transaction<'_>,
    notification: &Notification,
    observed: &Observed,
    request_id: &str,
    trace_id: Option<TraceId>,
) -> Result<i64, StoreError> {
    let insert = "/* ingests::insert */ with known as materialized ( \
            select rpad(sequencer, 64, '0') sequencer, ordered_at from ingests \
            where bucket = $1 and key = $2 and ordered_at is not null), \
        bounds as (select \
            (select max(ordered_at) from known where sequencer < rpad($5, 64, '0')) no_sooner, \
            (select min(ordered_at) - interval '1 microsecond' from known \
                where sequencer > rpad($5, 64, '0') \
                and ordered_at < coalesce($6, $7::timestamptz + interval '1 second')) no_later, \
            (select max(ordered_at) + interval '1 microsecond' from known \
                where $6::timestamptz is null and ordered_at >= $7 \
                and ordered_at < $7 + interval '1 second') after_same_second) \
        insert into ingests \
            (bucket, key, version_id, etag, sequencer, size, request_id, trace_id, ordered_at) \
        select $1, $2, $3, $4, $5, $8, $9, $10, least(greatest( \
            coalesce($6, after_same_second, $7), no_sooner), no_later) from bounds \
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
