//! The ledger of ingests, which is also the queue of work.
//!
//! A row is claimed with a lease: a token that its holder must show to change anything, and an
//! expiry that its holder must keep pushing back. A worker that died or stalled loses the lease,
//! and another one starts over.

use std::time::Duration;

use chrono::{DateTime, Utc};
use deadpool_postgres::{GenericClient as _, Transaction};
use schema::Notification;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Merged, Place, Store, StoreError, listen, sql::Sql};

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
    const COLUMNS: &str = "id, bucket, key, version_id, etag, size, state, attempts, received_at, \
        started_at, finished_at, inserted, updated, unchanged, violation_count, error::text";

    fn from_row(row: &Row) -> Self {
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

/// An ingest that this worker holds.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields are the ledger's")]
pub struct Claim {
    pub id: i64,
    pub bucket: String,
    pub key: String,
    pub version_id: Option<String>,
    pub etag: Option<String>,
    pub attempts: i32,
    pub request_id: Option<String>,
    sequencer: Option<String>,
    lease_token: Uuid,
}

impl Store {
    /// Records the version that `notification` tells of; the same version again gives the same
    /// ingest. One that had `failed` is queued anew: whoever repeats a notification means it.
    ///
    /// `observed` fills in what the notification leaves open. `request_id` ties log lines together.
    ///
    /// # Errors
    /// If the database is away; then nothing is recorded.
    pub async fn record(
        &self,
        notification: &Notification,
        observed: &Observed,
        request_id: &str,
    ) -> Result<Ingest, StoreError> {
        let mut connection = self.writer().await?;
        let transaction = connection.transaction().await?;
        // The ledger of one object is changed by one caller at a time.
        let lock = "/* ingests::lock */ select pg_advisory_xact_lock(hashtextextended($1, 0))";
        let object = format!("{}/{}", &*notification.bucket, &*notification.key);
        transaction.execute(lock, &[&object]).await?;
        let id = match find_version(&transaction, notification, observed).await? {
            Some(id) => id,
            None => insert(&transaction, notification, observed, request_id).await?,
        };
        let revive = "/* ingests::revive */ update ingests set state = 'queued', attempts = 0, \
            run_after = now(), finished_at = null, error = null where id = $1 and state = 'failed'";
        transaction.execute(revive, &[&id]).await?;
        let notify = "/* ingests::announce */ select pg_notify($1, '')";
        transaction.execute(notify, &[&listen::QUEUED]).await?;
        let ingest = one(&transaction, id).await?;
        transaction.commit().await?;
        self.hints().queued.send_replace(());
        ingest.ok_or_else(|| StoreError::Setup(format!("ingest {id} is gone")))
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

    /// Takes the ingest that has waited longest, for `lease`; also one whose holder let its lease
    /// expire. None if there is nothing to do.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn claim(&self, lease: Duration) -> Result<Option<Claim>, StoreError> {
        let claim = "/* ingests::claim */ update ingests set state = 'running', \
                attempts = attempts + 1, started_at = coalesce(started_at, now()), \
                lease_token = $1, lease_expires_at = now() + make_interval(secs => $2) \
            where id = (select id from ingests where state = 'queued' and run_after <= now() \
                or state = 'running' and lease_expires_at < now() \
                order by run_after, id limit 1 for update skip locked) \
            returning id, bucket, key, version_id, etag, sequencer, attempts, request_id";
        let lease_token = Uuid::new_v4();
        let connection = self.writer().await?;
        let row = connection.query_opt(claim, &[&lease_token, &lease.as_secs_f64()]).await?;
        Ok(row.map(|row| Claim {
            id: row.get("id"),
            bucket: row.get("bucket"),
            key: row.get("key"),
            version_id: row.get("version_id"),
            etag: row.get("etag"),
            attempts: row.get("attempts"),
            request_id: row.get("request_id"),
            sequencer: row.get("sequencer"),
            lease_token,
        }))
    }

    /// Pushes the expiry of a lease back.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker holds the ingest by now.
    pub async fn renew(&self, claim: &Claim, lease: Duration) -> Result<(), StoreError> {
        let renew = "/* ingests::renew */ update ingests \
            set lease_expires_at = now() + make_interval(secs => $3) \
            where id = $1 and lease_token = $2";
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&claim.id, &claim.lease_token, &lease.as_secs_f64()];
        held(self.writer().await?.execute(renew, &params).await?)
    }

    /// Records what the object store says of the claimed version, where the ledger did not know
    /// it yet. Returns the version's place in the order.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker holds the ingest by now.
    pub async fn observe(&self, claim: &Claim, observed: &Observed) -> Result<Place, StoreError> {
        let observe = "/* ingests::observe */ update ingests set etag = coalesce(etag, $3), \
            size = coalesce(size, $4), ordered_at = coalesce(ordered_at, $5, received_at) \
            where id = $1 and lease_token = $2 returning ordered_at";
        let Observed { etag, last_modified, size, .. } = observed;
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&claim.id, &claim.lease_token, etag, size, last_modified];
        let row = self.writer().await?.query_opt(observe, &params).await?;
        Ok(Place {
            ordered_at: row.ok_or(StoreError::LeaseLost)?.get(0),
            key: claim.key.clone(),
            bucket: claim.bucket.clone(),
            sequencer: claim.sequencer.as_deref().map(padded).unwrap_or_default(),
        })
    }

    /// Ends an ingest whose content is at fault. `violations` is a JSON array, `count` how many
    /// there are in all.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker holds the ingest by now.
    pub async fn reject(
        &self,
        claim: &Claim,
        violations: &str,
        count: i64,
    ) -> Result<(), StoreError> {
        let set = "state = 'rejected', violations = $3::text::json, violation_count = $4";
        self.end(claim, set, &[&violations, &count]).await
    }

    /// Ends an ingest of content that the bucket does not hold any more, newer content being there.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker holds the ingest by now.
    pub async fn supersede(&self, claim: &Claim) -> Result<(), StoreError> {
        let set =
            "state = 'superseded', inserted = 0, updated = 0, unchanged = 0, violation_count = 0";
        self.end(claim, set, &[]).await
    }

    /// Ends an ingest that the infrastructure has failed too often. `error` is a problem object.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker holds the ingest by now.
    pub async fn fail(&self, claim: &Claim, error: &str) -> Result<(), StoreError> {
        self.end(claim, "state = 'failed', error = $3::text::json", &[&error]).await
    }

    async fn end(
        &self,
        claim: &Claim,
        set: &str,
        values: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<(), StoreError> {
        let end = format!(
            "/* ingests::end */ with ended as (update ingests set {set}, \
                finished_at = clock_timestamp(), lease_token = null, lease_expires_at = null \
                where id = $1 and lease_token = $2 returning id) \
             select pg_notify('{}', '') from ended",
            listen::FINISHED
        );
        let mut params: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> =
            vec![&claim.id, &claim.lease_token];
        params.extend(values);
        held(self.writer().await?.execute(&end, &params).await?)
    }

    /// Puts a claimed ingest back into the queue, to be claimed again after `delay`. `attempted`
    /// is false where nothing went wrong and the attempt shall not count.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another worker holds the ingest by now.
    pub async fn requeue(
        &self,
        claim: &Claim,
        delay: Duration,
        attempted: bool,
    ) -> Result<(), StoreError> {
        let requeue = "/* ingests::requeue */ update ingests set state = 'queued', \
            run_after = now() + make_interval(secs => $3), attempts = attempts - $4, \
            lease_token = null, lease_expires_at = null where id = $1 and lease_token = $2";
        let uncounted = i32::from(!attempted);
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&claim.id, &claim.lease_token, &delay.as_secs_f64(), &uncounted];
        held(self.writer().await?.execute(requeue, &params).await?)
    }
}

impl Claim {
    /// Ends the ingest within the transaction that merged its movies.
    pub(super) async fn complete(
        &self,
        transaction: &Transaction<'_>,
        merged: &Merged,
    ) -> Result<(), StoreError> {
        let complete = "/* ingests::complete */ update ingests set state = $3, inserted = $4, \
            updated = $5, unchanged = $6, violation_count = 0, finished_at = clock_timestamp(), \
            lease_token = null, lease_expires_at = null where id = $1 and lease_token = $2";
        let state =
            if merged.superseded { IngestState::Superseded } else { IngestState::Succeeded };
        let Merged { inserted, updated, unchanged, .. } = merged;
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
            [&self.id, &self.lease_token, &state.name(), inserted, updated, unchanged];
        held(transaction.execute(complete, &params).await?)
    }
}

fn held(rows: u64) -> Result<(), StoreError> {
    if rows == 1 { Ok(()) } else { Err(StoreError::LeaseLost) }
}

/// Sequencers are compared as text of one length.
/// Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>
fn padded(sequencer: &str) -> String {
    format!("{sequencer:0<64}")
}

async fn one(
    client: &impl deadpool_postgres::GenericClient,
    id: i64,
) -> Result<Option<Ingest>, StoreError> {
    let columns = Ingest::COLUMNS;
    let one = format!(
        "/* ingests::one */ select {columns}, coalesce(violations::text, '[]') violations \
         from ingests where id = $1"
    );
    Ok(client
        .query_opt(&one, &[&id])
        .await?
        .map(|row| Ingest { violations: row.get("violations"), ..Ingest::from_row(&row) }))
}

/// The ingest of the same version of the same object, if the ledger has it.
///
/// Two sequencers settle it. Without one of them the newest known version is the same if its etag
/// and version are: in between, the object may have changed and changed back.
async fn find_version(
    transaction: &Transaction<'_>,
    notification: &Notification,
    observed: &Observed,
) -> Result<Option<i64>, StoreError> {
    let find = "/* ingests::find_version */ with known as materialized ( \
            select id, sequencer, etag, version_id, ordered_at from ingests \
            where bucket = $1 and key = $2), \
        newest as (select * from known order by ordered_at desc nulls first, \
            rpad(sequencer, 64, '0') desc nulls last, id desc limit 1) \
        select id from known where sequencer = $3 \
        union all \
        select id from newest where (sequencer is null or $3::text is null) \
            and etag is not distinct from $4 \
            and (version_id is not distinct from $5 or version_id is null or $5 is null) \
        limit 1";
    let Notification { bucket, key, sequencer, etag, version_id, .. } = notification;
    let sequencer = sequencer.as_deref();
    let etag = etag.as_deref().or(observed.etag.as_deref());
    let version_id = version_id.as_deref().or(observed.version_id.as_deref());
    let row =
        transaction.query_opt(find, &[&&**bucket, &&**key, &sequencer, &etag, &version_id]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// Adds a version to the ledger and gives it its place in the order.
///
/// The place goes by time, but never against what is known of the same object: two sequencers
/// order two versions whatever the clocks said; and a version known only by the time in its
/// metadata, which has whole seconds, was the current one when it was looked at, so that it goes
/// behind those known of the same second.
async fn insert(
    transaction: &Transaction<'_>,
    notification: &Notification,
    observed: &Observed,
    request_id: &str,
) -> Result<i64, StoreError> {
    let insert = "/* ingests::insert */ with known as materialized ( \
            select rpad(sequencer, 64, '0') sequencer, ordered_at from ingests \
            where bucket = $1 and key = $2 and ordered_at is not null), \
        bounds as (select \
            (select max(ordered_at) from known where sequencer < rpad($5, 64, '0')) no_sooner, \
            (select min(ordered_at) from known where sequencer > rpad($5, 64, '0')) no_later, \
            (select max(ordered_at) + interval '1 microsecond' from known \
                where $6::timestamptz is null and ordered_at >= $7 \
                and ordered_at < $7 + interval '1 second') after_same_second) \
        insert into ingests \
            (bucket, key, version_id, etag, sequencer, size, request_id, ordered_at) \
        select $1, $2, $3, $4, $5, $8, $9, least(greatest( \
            coalesce($6, after_same_second, $7), no_sooner), no_later) from bounds \
        returning id";
    let Notification { bucket, key, sequencer, version_id, etag, event_time, size } = notification;
    let row = transaction
        .query_one(
            insert,
            &[
                &&**bucket,
                &&**key,
                &version_id.as_deref().or(observed.version_id.as_deref()),
                &etag.as_deref().or(observed.etag.as_deref()),
                &sequencer.as_deref(),
                event_time,
                &observed.last_modified,
                &size.map(|size| size.get()).or(observed.size),
                &request_id,
            ],
        )
        .await?;
    Ok(row.get(0))
}
