//! The ledger, as it is compared with what a bucket holds.

use chrono::{DateTime, Utc};

use super::{
    IngestState, Observed, Store, StoreError,
    ingests::{NEWEST, same},
};

/// The newest version of an object that the ledger has.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The ingest's id.
    pub id: i64,
    /// What became of it.
    pub state: IngestState,
    /// When it was recorded.
    pub received_at: DateTime<Utc>,
    /// Its place in the order of versions, once that is known.
    pub ordered_at: Option<DateTime<Utc>>,
    /// Whether it is known by its etag. One that is not is whatever its worker will find.
    pub has_etag: bool,
    /// Whether it is the version that the bucket holds, by the rule of [`Store::record`].
    pub held: bool,
}

/// An object of which something is in the catalogue.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Its key.
    pub key: String,
    /// Its last ingest that succeeded.
    pub id: i64,
}

impl Store {
    /// The buckets of the ledger, two of them if there are more.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn buckets(&self) -> Result<Vec<String>, StoreError> {
        let buckets = "/* reconcile::buckets */ select min(bucket) a, max(bucket) z from ingests";
        let row = self.writer().await?.query_one(buckets, &[]).await?;
        let mut buckets: Vec<String> =
            ["a", "z"].into_iter().filter_map(|column| row.get(column)).collect();
        buckets.dedup();
        Ok(buckets)
    }

    /// The time by the clock that dates the ledger.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn clock(&self) -> Result<DateTime<Utc>, StoreError> {
        let clock = "/* reconcile::clock */ select clock_timestamp()";
        Ok(self.writer().await?.query_one(clock, &[]).await?.get(0))
    }

    /// For each of the objects that `bucket` holds, by key: the newest version that the ledger has,
    /// in the same order.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn newest_versions(
        &self,
        bucket: &str,
        held: &[(&str, &Observed)],
    ) -> Result<Vec<Option<Known>>, StoreError> {
        let same = same("held.etag", "null::text", "held.last_modified");
        let compare = format!(
            "/* reconcile::compare */ select newest.* from \
            unnest($2::text[], $3::text[], $4::timestamptz[]) \
                with ordinality held (key, etag, last_modified, nth) \
            left join lateral (select id, state, received_at, ordered_at, \
                etag is not null as has_etag, {same} as held from ingests where bucket = $1 and ingests.key = held.key and {NEWEST} \
            ) newest on true order by nth"
        );
        let keys: Vec<&str> = held.iter().map(|(key, _)| *key).collect();
        let etags: Vec<Option<&str>> = held.iter().map(|(_, seen)| seen.etag.as_deref()).collect();
        let written: Vec<_> = held.iter().map(|(_, seen)| seen.last_modified).collect();
        let connection = self.writer().await?;
        let rows = connection.query(&compare, &[&bucket, &keys, &etags, &written]).await?;
        let known = rows.iter().map(|row| {
            let id: Option<i64> = row.get("id");
            id.map(|id| Known {
                id,
                state: IngestState::from_name(row.get("state")).unwrap_or(IngestState::Failed),
                received_at: row.get("received_at"),
                ordered_at: row.get("ordered_at"),
                has_etag: row.get("has_etag"),
                held: row.get("held"),
            })
        });
        Ok(known.collect())
    }

    /// The objects of `bucket` of which something was taken, in the order of their keys' bytes: up
    /// to `limit` of those that come after `after`, or from `from` on if there is none. What was
    /// recorded at `before` or later is left out.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn taken(
        &self,
        bucket: &str,
        from: &str,
        after: Option<&str>,
        before: DateTime<Utc>,
        limit: i64,
    ) -> Result<Vec<Taken>, StoreError> {
        let taken = "/* reconcile::taken */ select key collate \"C\" key, max(id) id from ingests \
            where bucket = $1 and key collate \"C\" >= $2 and key collate \"C\" > $3 \
                and state = 'succeeded' and received_at < $4 \
            group by key collate \"C\" order by key collate \"C\" limit $5";
        let connection = self.writer().await?;
        // No key is empty, so that all of them come after the empty one.
        let after = after.unwrap_or_default();
        let from = from.max(after);
        let rows = connection.query(taken, &[&bucket, &from, &after, &before, &limit]).await?;
        Ok(rows.iter().map(|row| Taken { key: row.get("key"), id: row.get("id") }).collect())
    }
}
