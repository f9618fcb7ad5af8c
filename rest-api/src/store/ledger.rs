//! The ledger: one ingest for each object version that the service was notified of.

use aws::trace::Trace;
use chrono::{DateTime, Utc};
use deadpool_postgres::{GenericClient, Transaction};
use futures_util::future::try_join_all;
use movie_file::Violation;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use tokio_postgres::Row;

use super::{
    Report, Store, StoreError, reads,
    sql::{ListQuery, execute, query_opt},
    version_order::{self, bounds},
};

/// The state of an ingest.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IngestState {
    /// It waits for a worker.
    Queued,
    /// A worker has claimed it.
    Running,
    /// Its movies are in the catalogue.
    Succeeded,
    /// The content of the file is at fault.
    Rejected,
    /// A newer version of the object had already been merged, or newer content had replaced it in the
    /// bucket.
    Superseded,
    /// The object was not there.
    Gone,
    /// A snapshot that would withdraw more movies than it may. It waits for an approval.
    Blocked,
    /// The infrastructure failed too often.
    Failed,
}

impl IngestState {
    const ALL: [(&'static str, Self); 8] = [
        ("queued", Self::Queued),
        ("running", Self::Running),
        ("succeeded", Self::Succeeded),
        ("rejected", Self::Rejected),
        ("superseded", Self::Superseded),
        ("gone", Self::Gone),
        ("blocked", Self::Blocked),
        ("failed", Self::Failed),
    ];

    /// Returns all states.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().map(|(_, state)| state)
    }

    /// Returns the state of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, state)| *state)
    }

    /// Returns the name that the API and the database use.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, state)| *state == self).map_or("", |(name, _)| name)
    }

    /// Whether the ingest has ended: without a request it does not change any more.
    pub fn ended(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// What a version of an object says about the movies that it does not name.
#[derive(Clone, Copy, Debug, Default, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Nothing: the older versions of the object count, too.
    #[default]
    Upsert,
    /// The version is all that its object says. Older versions do not count any more.
    Snapshot,
}

impl Mode {
    const ALL: [(&'static str, Self); 2] = [("upsert", Self::Upsert), ("snapshot", Self::Snapshot)];

    /// Returns the mode of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, mode)| *mode)
    }

    /// Returns the name that the API and the database use.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }
}

/// What a notification reports of an object.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// The version was created.
    Created,
    /// The object, or one version of it, was removed.
    Removed,
}

/// One ingest: an object version, and its result.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct Ingest {
    /// The number of the ingest, and of its page: `/ingests/{id}`.
    pub id: i64,
    /// The bucket of the object.
    pub bucket: String,
    /// The key of the object.
    pub key: String,
    /// The version of the object, in a bucket that keeps versions.
    pub version_id: Option<String>,
    /// The object's entity tag, without quotes. Null until it is known.
    pub etag: Option<String>,
    /// The object's size in bytes. Null until it is known.
    pub size: Option<i64>,
    /// What was notified of the object.
    pub event: Event,
    /// Whether the version is all that its object says. Of a removal: whether the object has snapshots, which
    /// are taken back; what upsert versions said stays. Null until the version has been seen.
    pub mode: Option<Mode>,
    /// Where the ingest is on its way.
    pub state: IngestState,
    /// Why it is superseded. `newer_version_merged`: a newer version of the object had been merged before.
    /// `content_replaced`: newer content had replaced it in the bucket, and nothing of it was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", extend("enum" = ["newer_version_merged", "content_replaced"]))]
    pub superseded_reason: Option<String>,
    /// How often a worker has begun it.
    pub attempts: i32,
    /// When the first notification of the version came.
    pub received_at: DateTime<Utc>,
    /// When the first attempt began.
    pub started_at: Option<DateTime<Utc>>,
    /// When the ingest ended. Null while it is queued or running.
    pub finished_at: Option<DateTime<Utc>>,
    /// How many movies were new. Null unless the ingest is succeeded or superseded.
    pub inserted: Option<i64>,
    /// How many movies changed.
    pub updated: Option<i64>,
    /// How many movies of the file the catalogue had already, with the same content.
    pub unchanged: Option<i64>,
    /// How many movies were withdrawn, because no version that counts contains them any more.
    pub withdrawn: Option<i64>,
    /// How many movies are back that had been withdrawn.
    pub restored: Option<i64>,
    /// How many movies stay as they are, because they are held.
    pub held: Option<i64>,
    /// Since when the version does not count, because it was undone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undone_at: Option<DateTime<Utc>>,
    /// Who has undone it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undone_by: Option<String>,
    /// When it was approved that the version withdraws as many movies as it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approved_at: Option<DateTime<Utc>>,
    /// Who has approved that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// How many violations the file has. Null until it has been read.
    pub violation_count: Option<i64>,
    /// The first 1,000 violations of a rejected file. Lists of ingests leave them out.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "raw")]
    #[schemars(with = "Vec<Violation>")]
    pub violations: Option<String>,
    /// The first 1,000 movies that stay as they are, because they are held. Lists of ingests leave them out.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "raw")]
    #[schemars(with = "Vec<HeldMovie>")]
    pub held_movies: Option<String>,
    /// Why the last attempt failed, or that the object is gone.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "raw")]
    #[schemars(schema_with = "problem")]
    pub error: Option<String>,
}

/// A movie that a file does not change, because it is held.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it describes JSON that the database makes")]
struct HeldMovie {
    /// The number of the movie.
    id: i64,
    /// The index of its record in the file. Absent if the file does not name it any more.
    record: Option<i64>,
    /// Its title.
    title: String,
    /// Its year.
    year: i64,
    /// Its `href`, if it has one.
    href: Option<String>,
}

/// Returns the schema of a stored error, a problem object, by its name: this module does not know more of it.
fn problem(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "$ref": "#/components/schemas/Problem" })
}

/// Serializes text that is JSON already.
fn raw<S: Serializer>(json: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    let json = json.as_deref().unwrap_or("null");
    serde_json::from_str::<&RawValue>(json)
        .map_err(serde::ser::Error::custom)?
        .serialize(serializer)
}

impl Ingest {
    /// Reads a row with all columns of an ingest but its violations.
    pub(super) fn from_row(row: &Row) -> Self {
        Self {
            id: row.get("id"),
            bucket: row.get("bucket"),
            key: row.get("key"),
            version_id: row.get("version_id"),
            etag: row.get("etag"),
            size: row.get("size"),
            event: if row.get("removal") { Event::Removed } else { Event::Created },
            mode: row.get::<_, Option<&str>>("mode").and_then(Mode::from_name),
            state: IngestState::from_name(row.get("state")).unwrap_or(IngestState::Failed),
            superseded_reason: row.get("superseded_reason"),
            attempts: row.get("attempts"),
            received_at: row.get("received_at"),
            started_at: row.get("started_at"),
            finished_at: row.get("finished_at"),
            inserted: row.get("inserted"),
            updated: row.get("updated"),
            unchanged: row.get("unchanged"),
            withdrawn: row.get("withdrawn"),
            restored: row.get("restored"),
            held: row.get("held"),
            undone_at: row.get("undone_at"),
            undone_by: row.get("undone_by"),
            approved_at: row.get("approved_at"),
            approved_by: row.get("approved_by"),
            violation_count: row.get("violation_count"),
            violations: None,
            held_movies: None,
            error: row.get("error"),
        }
    }
}

/// Selects ingests to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct IngestQuery {
    /// Only of this bucket.
    pub bucket: Option<String>,
    /// Only of this object key.
    pub key: Option<String>,
    /// Only of object keys that begin with one of these; all if there is none.
    pub prefixes: Vec<String>,
    /// Only in this state.
    pub state: Option<IngestState>,
    /// The largest number of ingests.
    pub limit: i64,
    /// The id of the last ingest of the previous page.
    pub after: Option<i64>,
}

impl Store {
    /// Records the version that `report` means, and returns its ingest. The same version again gives the
    /// same ingest. If that has failed, or its object was gone, it is queued again: a repeated notification
    /// asks for it.
    ///
    /// `request_id` and `trace` connect log lines and spans; a known version keeps those of its first
    /// notification.
    ///
    /// # Errors
    /// If the database is unavailable. Nothing is recorded then.
    pub async fn record(
        &self,
        report: &Report<'_>,
        request_id: &str,
        trace: Option<Trace>,
    ) -> Result<Ingest, StoreError> {
        let mut connection = self.writer().await?;
        let transaction = connection.transaction().await?;
        let report = std::slice::from_ref(report);
        let (ids, queued) = record(&transaction, report, request_id, trace).await?;
        let ingest = match ids.first() {
            Some(id) => read(&transaction, *id).await?,
            None => None,
        };
        transaction.commit().await?;
        if queued {
            self.hints().announce_queued();
        }
        ingest.ok_or_else(|| StoreError::Setup("the ingest is gone".to_owned()))
    }

    /// Records each report, as [`Self::record`] does, in one transaction. Returns one ingest for each, in
    /// the order of `reports`, without its violations.
    ///
    /// # Errors
    /// If the database is unavailable. Nothing is recorded then.
    pub async fn record_all(
        &self,
        reports: &[Report<'_>],
        request_id: &str,
        trace: Option<Trace>,
    ) -> Result<Vec<Ingest>, StoreError> {
        let mut connection = self.writer().await?;
        let transaction = connection.transaction().await?;
        let (ids, queued) = record(&transaction, reports, request_id, trace).await?;
        let ingests = read_each(&transaction, &ids).await?;
        transaction.commit().await?;
        if queued {
            self.hints().announce_queued();
        }
        Ok(ingests)
    }

    /// Queues an ingest again that has failed, or whose object was gone. Returns whether it was in such a
    /// state, and the ingest as it is now; none if there is no such ingest.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn retry(&self, id: i64) -> Result<Option<(bool, Ingest)>, StoreError> {
        let connection = self.writer().await?;
        let revived = revive(&connection, id).await?;
        if revived {
            self.hints().announce_queued();
        }
        Ok(read(&connection, id).await?.map(|ingest| (revived, ingest)))
    }

    /// Returns the ingest with this id, violations included.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn ingest(&self, id: i64) -> Result<Option<Ingest>, StoreError> {
        let connection = self.ledger_reader().await?;
        let ingest = read(&*connection, id).await?;
        reads::finish(connection);
        Ok(ingest)
    }

    /// Returns the ingests with these ids, in the order of `ids`, without their violations.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub(crate) async fn ingests_by_id(&self, ids: &[i64]) -> Result<Vec<Ingest>, StoreError> {
        read_each(&self.worker().await?, ids).await
    }

    /// Returns the ingests that match `query`, newest first; one more than its limit if there are
    /// more.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn ingests(&self, query: &IngestQuery) -> Result<Vec<Ingest>, StoreError> {
        let sql = list_query(query);
        let connection = self.ledger_reader().await?;
        let statement = connection.prepare_cached(&sql.text).await?;
        let rows = connection.query(&statement, &sql.params()).await?;
        reads::finish(connection);
        Ok(rows.iter().map(Ingest::from_row).collect())
    }
}

/// Records each report. Returns the ids of their ingests in order, and whether any was queued.
async fn record(
    transaction: &Transaction<'_>,
    reports: &[Report<'_>],
    request_id: &str,
    trace: Option<Trace>,
) -> Result<(Vec<i64>, bool), StoreError> {
    // One caller at a time changes the versions of one object. All callers lock in the same order.
    let lock = "
        /* ledger::record */
        select pg_advisory_xact_lock(object)
        from (
            select distinct hashtextextended(name, 0) as object
            from unnest($1::text[]) name
            order by object
        ) objects";
    let object = |Report { notification, .. }: &Report<'_>| {
        format!("{}/{}", &*notification.bucket, &*notification.key)
    };
    let objects: Vec<String> = reports.iter().map(object).collect();
    execute(transaction, lock, &[&objects]).await?;
    transaction.prepare_cached(version_order::RECORD).await?;
    let record = |report| version_order::record(transaction, report, request_id, trace);
    // Sent together, processed one after another.
    let recorded = try_join_all(reports.iter().map(record)).await?;
    let queued = recorded.iter().any(|(_, queued)| *queued);
    Ok((recorded.into_iter().map(|(id, _)| id).collect(), queued))
}

/// Reads these ingests, in the order of `ids`, without their violations.
async fn read_each(client: &impl GenericClient, ids: &[i64]) -> Result<Vec<Ingest>, StoreError> {
    let read_each = "
        /* ledger::read_each */
        select id, bucket, key, version_id, etag, size, removal, mode, state, superseded_reason,
            attempts, received_at, started_at, finished_at, inserted, updated, unchanged, withdrawn,
            restored, held, undone_at, undone_by, approved_at, approved_by, violation_count, error::text
        from unnest($1::bigint[]) with ordinality as named (id, nth)
        join ingests using (id)
        order by nth";
    let statement = client.prepare_cached(read_each).await?;
    let rows = client.query(&statement, &[&ids]).await?;
    Ok(rows.iter().map(Ingest::from_row).collect())
}

/// Composes the query of a list. Migration 7 has an index for each combination of filters.
pub(super) fn list_query(query: &IngestQuery) -> ListQuery {
    let mut sql = ListQuery::new(
        "
        /* ledger::list_query */
        select id, bucket, key, version_id, etag, size, removal, mode, state, superseded_reason,
            attempts, received_at, started_at, finished_at, inserted, updated, unchanged, withdrawn,
            restored, held, undone_at, undone_by, approved_at, approved_by, violation_count, error::text
        from ingests
        where true",
    );
    let state = query.state.map(|state| state.name().to_owned());
    for (column, value) in [("bucket", &query.bucket), ("key", &query.key), ("state", &state)] {
        if let Some(value) = value {
            let value = sql.bind(value.clone());
            sql.push(&format!(" and {column} = {value}"));
        }
    }
    if !query.prefixes.is_empty() {
        let prefixes = sql.bind(query.prefixes.clone());
        sql.push(&format!(" and key ^@ any({prefixes})"));
    }
    if let Some(after) = query.after {
        let after = sql.bind(after);
        sql.push(&format!(" and id < {after}"));
    }
    let limit = sql.bind(query.limit + 1);
    sql.push(&format!(" order by id desc limit {limit}"));
    sql
}

/// The statement of [`revive`].
pub(super) const REVIVE: &str = concat!(
    "
    /* ledger::revive */
    with neighbors as (
        select id, ",
    bounds!("ingests.key", "ingests.bucket", "ingests.sequencer"),
    "
        from ingests
        where id = $1
    )
    update ingests
    set state = 'queued', attempts = 0, run_after = now(), finished_at = null, error = null,
        ordered_at = case when ordered_at is not null and inserted is null
            then least(greatest(ordered_at, not_before), not_after) else ordered_at end
    from neighbors
    where ingests.id = neighbors.id and state in ('failed', 'gone')",
);

/// Puts an ingest that has failed, or whose object was gone, back into the queue, as if it had never been
/// attempted. Returns whether it was in such a state.
async fn revive(client: &impl GenericClient, id: i64) -> Result<bool, StoreError> {
    Ok(execute(client, REVIVE, &[&id]).await? == 1)
}

/// Reads an ingest with its violations.
pub(super) async fn read(
    client: &impl GenericClient,
    id: i64,
) -> Result<Option<Ingest>, StoreError> {
    let read = "
        /* ledger::read */
        select id, bucket, key, version_id, etag, size, removal, mode, state, superseded_reason,
            attempts, received_at, started_at, finished_at, inserted, updated, unchanged, withdrawn,
            restored, held, undone_at, undone_by, approved_at, approved_by, violation_count, error::text,
            coalesce(violations::text, '[]') as violations, held_movies::text
        from ingests
        where id = $1";
    let row = query_opt(client, read, &[&id]).await?;
    Ok(row.map(|row| Ingest {
        violations: row.get("violations"),
        held_movies: row.get("held_movies"),
        ..Ingest::from_row(&row)
    }))
}
