//! Movies that are withdrawn: no version that counts contains them, or a client has deleted them.
//!
//! They leave `movies`, so that queries need not know of them. Their ids stay theirs.

use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use roaring::RoaringTreemap;
use schemars::JsonSchema;
use serde::Serialize;
use tokio_postgres::types::ToSql;

use super::{
    StoreError,
    sql::{execute, query_one},
};

/// How many movies one statement withdraws.
const BATCH: usize = 100_000;

/// Why a movie was withdrawn.
#[derive(Clone, Copy, Debug, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// A newer version of the object does not contain it.
    Corrected,
    /// The object, or this version of it, was removed from the bucket.
    Removed,
    /// The version that contained it was undone.
    Undone,
    /// A client has deleted it.
    Deleted,
    /// Its hold was released, and no version contains it.
    Released,
}

impl Reason {
    const ALL: [(&'static str, Self); 5] = [
        ("corrected", Self::Corrected),
        ("removed", Self::Removed),
        ("undone", Self::Undone),
        ("deleted", Self::Deleted),
        ("released", Self::Released),
    ];

    /// Returns the name that the API and the database use.
    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, reason)| *reason == self).map_or("", |(name, _)| name)
    }

    pub(super) fn from_name(name: &str) -> Self {
        let known = Self::ALL.iter().find(|(known, _)| *known == name);
        known.map_or(Self::Corrected, |(_, reason)| *reason)
    }
}

/// That a movie was withdrawn, and by what.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Withdrawal {
    /// Why.
    pub reason: Reason,
    /// When.
    pub withdrawn_at: DateTime<Utc>,
    /// The ingest that withdrew it, or that was undone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingest: Option<i64>,
    /// The bucket of its object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// The key of its object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The version of its object, in a bucket that keeps versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// Who has deleted it, or released its hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withdrawn_by: Option<String>,
}

/// Why movies are withdrawn, and by what ingest or by whom.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Cause<'a> {
    pub(super) reason: Reason,
    pub(super) ingest_id: Option<i64>,
    pub(super) by: Option<&'a str>,
}

/// Withdraws movies. Returns how many of them the catalogue had.
pub(super) async fn withdraw(
    transaction: &Transaction<'_>,
    ids: &RoaringTreemap,
    cause: Cause<'_>,
) -> Result<i64, StoreError> {
    let withdraw = "
        /* withdrawn::withdraw */
        with gone as (
            delete from movies where id = any($1) returning id, identity, doc::json as doc
        ),
        withdrawn as (
            insert into withdrawn_movies
                (id, identity, doc, ingest_id, reason, withdrawn_by)
            select id, identity, json_strip_nulls(json_build_object('title', doc -> 'title',
                'year', doc -> 'year', 'href', doc -> 'href')), $2, $3, $4
            from gone
            returning id
        )
        select count(*) from withdrawn";
    let mut count = 0;
    let ids: Vec<i64> = ids.iter().map(u64::cast_signed).collect();
    for ids in ids.chunks(BATCH) {
        let params: [&(dyn ToSql + Sync); 4] =
            [&ids, &cause.ingest_id, &cause.reason.name(), &cause.by];
        let row = query_one(transaction, withdraw, &params).await?;
        count += row.get::<_, i64>(0);
    }
    Ok(count)
}

/// Returns which of these movies are withdrawn.
pub(super) async fn those_of(
    transaction: &Transaction<'_>,
    ids: &RoaringTreemap,
) -> Result<RoaringTreemap, StoreError> {
    let those = "
        /* withdrawn::those_of */
        select id from withdrawn_movies where id = any($1)";
    let statement = transaction.prepare_cached(those).await?;
    let mut withdrawn = RoaringTreemap::new();
    let ids: Vec<i64> = ids.iter().map(u64::cast_signed).collect();
    for ids in ids.chunks(BATCH) {
        let rows = transaction.query(&statement, &[&ids]).await?;
        withdrawn.extend(rows.iter().map(|row| row.get::<_, i64>(0).cast_unsigned()));
    }
    Ok(withdrawn)
}

/// Whether any movie is withdrawn.
pub(super) async fn exist(transaction: &Transaction<'_>) -> Result<bool, StoreError> {
    let exist = "
        /* withdrawn::exist */
        select exists (select from withdrawn_movies)";
    Ok(query_one(transaction, exist, &[]).await?.get(0))
}

/// Forgets withdrawn movies that the catalogue has again.
pub(super) async fn restored(transaction: &Transaction<'_>, ids: &[i64]) -> Result<(), StoreError> {
    let restored = "
        /* withdrawn::restored */
        delete from withdrawn_movies where id = any($1)";
    execute(transaction, restored, &[&ids]).await?;
    Ok(())
}
