//! What the ledger knows about the objects of a bucket, for reconciling the two.

use chrono::{DateTime, Utc};

use super::{
    IngestState, ObservedVersion, Store, StoreError, reads,
    sql::{execute, query_one},
};

/// The newest version of an object in the ledger.
#[derive(Clone, Copy, Debug)]
pub struct LedgerVersion {
    /// The ingest's id.
    pub id: i64,
    /// Its state.
    pub state: IngestState,
    /// When it was recorded.
    pub received_at: DateTime<Utc>,
    /// Its position in time; none before its object was observed.
    pub ordered_at: Option<DateTime<Utc>>,
    /// Whether its etag is known. If not, it is whatever version its worker will read.
    pub has_etag: bool,
    /// Whether it is the version that the bucket holds, by the rule of [`Store::record`].
    pub is_current: bool,
    /// The state of the version that the bucket holds, by the same rule; none if the ledger lacks it.
    pub listed_state: Option<IngestState>,
}

/// An object with a succeeded ingest.
#[derive(Clone, Debug)]
pub struct IngestedObject {
    /// Its key.
    pub key: String,
    /// Its last ingest that succeeded.
    pub ingest_id: i64,
}

/// The last comparisons of the buckets with the ledger.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LastReconcile {
    /// The age of the oldest of them, in seconds.
    pub age: f64,
    /// How many files were not in the catalogue, and were not queued.
    pub missing: i64,
}

impl Store {
    /// Records that a bucket was compared completely, and how many files are missing that were not queued.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn record_reconcile(&self, bucket: &str, missing: u64) -> Result<(), StoreError> {
        let record = "
            /* reconcile::record_reconcile */
            insert into reconciliations (bucket, finished_at, missing)
            values ($1, clock_timestamp(), $2)
            on conflict (bucket) do update
                set finished_at = excluded.finished_at, missing = excluded.missing";
        let missing = i64::try_from(missing).unwrap_or(i64::MAX);
        execute(&self.writer().await?, record, &[&bucket, &missing]).await?;
        Ok(())
    }

    /// Returns the last comparisons of these buckets with the ledger, of all if none is named; none if there was none.
    ///
    /// # Errors
    /// If the database is unavailable, or takes too long.
    pub async fn last_reconcile(
        &self,
        buckets: &[String],
    ) -> Result<Option<LastReconcile>, StoreError> {
        let last = "
            /* reconcile::last_reconcile */
            select extract(epoch from clock_timestamp() - min(finished_at))::float8 as age,
                coalesce(sum(missing), 0)::bigint as missing
            from reconciliations
            where bucket = any($1) or cardinality($1) = 0";
        let connection = self.ledger_reader().await?;
        let row = query_one(&*connection, last, &[&buckets]).await;
        reads::finish(connection);
        let row = row?;
        let age: Option<f64> = row.get("age");
        Ok(age.map(|age| LastReconcile { age, missing: row.get("missing") }))
    }

    /// Returns the buckets of the ledger; two of them if there are more.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn buckets(&self) -> Result<Vec<String>, StoreError> {
        let buckets = "
            /* reconcile::buckets */
            select min(bucket) as first, max(bucket) as last from ingests";
        let row = self.writer().await?.query_one(buckets, &[]).await?;
        let mut buckets: Vec<String> =
            ["first", "last"].into_iter().filter_map(|column| row.get(column)).collect();
        buckets.dedup();
        Ok(buckets)
    }

    /// Returns the present time by the clock that the ledger uses.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn clock(&self) -> Result<DateTime<Utc>, StoreError> {
        let clock = "
            /* reconcile::clock */
            select clock_timestamp()";
        Ok(self.writer().await?.query_one(clock, &[]).await?.get(0))
    }

    /// Returns the newest version in the ledger of each of `objects` of `bucket`, by key, in the same
    /// order.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn newest_versions(
        &self,
        bucket: &str,
        objects: &[(&str, &ObservedVersion)],
    ) -> Result<Vec<Option<LedgerVersion>>, StoreError> {
        // A superseded version does not count, nor does one that was gone, nor the deletion of one. The position of a
        // version may be unknown until its object is read. Such a version counts as the newest before that, and as the oldest after it has failed.
        let newest = "
            /* reconcile::newest_versions */
            select newest.*, listed.state as listed_state
            from unnest($2::text[], $3::text[], $4::timestamptz[])
                with ordinality as object (key, etag, last_modified, nth)
            left join lateral (
                select id, state, received_at, ordered_at, etag is not null as has_etag,
                    coalesce(etag = object.etag and ordered_at >= object.last_modified, false)
                        as is_current
                from (
                    (
                        select *
                        from ingests
                        where bucket = $1 and ingests.key = object.key and ordered_at is not null
                            and state not in ('superseded', 'gone') and not deletion
                        order by ordered_at desc
                        fetch first row with ties
                    )
                    union all
                    (
                        select *
                        from ingests
                        where bucket = $1 and ingests.key = object.key and ordered_at is null
                            and state not in ('superseded', 'gone') and not deletion
                        order by id desc
                        limit 100
                    )
                ) versions
                order by
                    coalesce(ordered_at, (case when state = 'failed' then '-infinity'
                        else 'infinity' end)::timestamptz) desc,
                    rpad(sequencer, 64, '0') desc nulls last,
                    id desc
                limit 1
            ) newest on true
            left join lateral (
                select state
                from (
                    select state, etag
                    from ingests
                    where bucket = $1 and ingests.key = object.key
                        and ordered_at >= object.last_modified
                        and state <> 'gone'
                        and (state <> 'superseded'
                            or superseded_reason = 'newer_version_merged')
                    order by ordered_at desc
                    limit 100
                ) versions
                where etag = object.etag
                limit 1
            ) listed on true
            order by nth";
        let keys: Vec<&str> = objects.iter().map(|(key, _)| *key).collect();
        let etags: Vec<_> = objects.iter().map(|(_, version)| version.etag.as_deref()).collect();
        let times: Vec<_> = objects.iter().map(|(_, version)| version.last_modified).collect();
        // Each is planned for its values: some objects have very many versions.
        let connection = self.bulk().await?;
        let rows = connection.query(newest, &[&bucket, &keys, &etags, &times]).await?;
        let versions = rows.iter().map(|row| {
            let id: Option<i64> = row.get("id");
            id.map(|id| LedgerVersion {
                id,
                state: IngestState::from_name(row.get("state")).unwrap_or(IngestState::Failed),
                received_at: row.get("received_at"),
                ordered_at: row.get("ordered_at"),
                has_etag: row.get("has_etag"),
                is_current: row.get("is_current"),
                listed_state: row
                    .get::<_, Option<&str>>("listed_state")
                    .and_then(IngestState::from_name),
            })
        });
        Ok(versions.collect())
    }

    /// Returns the objects of `bucket` with a succeeded ingest that were not removed after it, ordered by the bytes of their keys:
    /// up to `limit` of those after the key `after`, or from the key `from` on if there is none.
    /// Ingests recorded at `before` or later do not count.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn ingested_objects(
        &self,
        bucket: &str,
        from: &str,
        after: Option<&str>,
        before: DateTime<Utc>,
        limit: i64,
    ) -> Result<Vec<IngestedObject>, StoreError> {
        let ingested = r#"
            /* reconcile::ingested_objects */
            select key collate "C" as key, max(id) as ingest_id
            from ingests
            where bucket = $1 and key collate "C" >= $2 and key collate "C" > $3
                and state = 'succeeded' and received_at < $4
            group by key collate "C"
            having not coalesce(
                (array_agg(removal order by ordered_at desc) filter (where not deletion))[1], true)
            order by key collate "C"
            limit $5"#;
        let connection = self.writer().await?;
        // No key is empty: all keys come after the empty one.
        let after = after.unwrap_or_default();
        let from = from.max(after);
        let rows = connection.query(ingested, &[&bucket, &from, &after, &before, &limit]).await?;
        Ok(rows
            .iter()
            .map(|row| IngestedObject { key: row.get("key"), ingest_id: row.get("ingest_id") })
            .collect())
    }
}
