//! What the database knows about the versions that a bucket lists, for reconciling all of them.

use chrono::{DateTime, Utc};
use tokio_postgres::types::ToSql;

use super::{
    IngestState, ObservedVersion, Store, StoreError,
    sql::{query_one, query_opt},
};

/// A version of an object, or a delete marker, that the bucket lists.
#[derive(Clone, Copy, Debug)]
pub struct VersionInBucket<'a> {
    /// Its key.
    pub key: &'a str,
    /// What the bucket reports about it.
    pub observed: &'a ObservedVersion,
    /// Whether it is the newest of its key.
    pub is_latest: bool,
    /// Whether it is a delete marker.
    pub is_marker: bool,
}

/// What the database knows about a listed version.
#[derive(Clone, Copy, Debug)]
pub struct KnownVersion {
    /// Its ingest; none if that was removed from the ledger, and only what it has merged is known.
    pub ingest: Option<i64>,
    /// The state of the ingest.
    pub state: IngestState,
    /// Its position in time; none before its object was observed.
    pub ordered_at: Option<DateTime<Utc>>,
    /// Whether [`Store::recorded_versions`] counts it.
    pub is_recorded: bool,
}

impl Store {
    /// Returns what the database knows about `versions` of `bucket`, in the same order. `before` is that of
    /// [`Self::recorded_versions`].
    ///
    /// A version is known by its id. If either lacks it, an ingest of the same content that is at least as new is
    /// the same: another one would change nothing.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn known_versions(
        &self,
        bucket: &str,
        versions: &[VersionInBucket<'_>],
        before: DateTime<Utc>,
    ) -> Result<Vec<Option<KnownVersion>>, StoreError> {
        // Content that was replaced before it was read is not known. The ingest that says most decides.
        let known = "
            /* known_versions::known_versions */
            select known.*
            from unnest($2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::bool[], $7::bool[])
                with ordinality
                as listed (key, version_id, etag, last_modified, is_latest, is_marker, nth)
            left join lateral (
                select id, state, ordered_at, bool_or(is_recorded) over () as is_recorded
                from (
                    (
                        select id, state, ordered_at, superseded_reason,
                            not removal and state <> 'gone' and received_at < $8 as is_recorded
                        from ingests
                        where key = listed.key and bucket = $1 and version_id = listed.version_id
                            and removal = listed.is_marker
                    )
                    union all
                    (
                        select id, state, ordered_at, superseded_reason, false
                        from ingests
                        where key = listed.key and bucket = $1
                            and ordered_at >= listed.last_modified
                            and (version_id is null or version_id = 'null')
                            and removal = listed.is_marker
                            and (removal and listed.version_id is null or etag = listed.etag)
                        order by ordered_at
                        limit 1
                    )
                    union all
                    -- Without a time it is whatever its worker will read.
                    (
                        select id, state, ordered_at, superseded_reason, false
                        from ingests
                        where key = listed.key and bucket = $1 and ordered_at is null
                            and version_id is null and not removal and state in ('queued', 'running')
                            and listed.is_latest and not listed.is_marker
                            and (etag is null or etag = listed.etag)
                        limit 1
                    )
                    union all
                    (
                        select null, 'succeeded', ordered_at, null, false
                        from merged_versions
                        where key = listed.key and bucket = $1 and version_id = listed.version_id
                            and removal = listed.is_marker and not deletion
                        limit 1
                    )
                ) found
                where superseded_reason is distinct from 'content_replaced'
                order by id is null,
                    array_position('{gone,failed,queued,running}'::text[], state) desc nulls first
                limit 1
            ) known on true
            order by nth";
        let keys: Vec<&str> = versions.iter().map(|version| version.key).collect();
        let observed = || versions.iter().map(|version| version.observed);
        let ids: Vec<_> = observed().map(|observed| observed.version_id.as_deref()).collect();
        let etags: Vec<_> = observed().map(|observed| observed.etag.as_deref()).collect();
        let times: Vec<_> = observed().map(|observed| observed.last_modified).collect();
        let latest: Vec<bool> = versions.iter().map(|version| version.is_latest).collect();
        let markers: Vec<bool> = versions.iter().map(|version| version.is_marker).collect();
        let params: [&(dyn ToSql + Sync); 8] =
            [&bucket, &keys, &ids, &etags, &times, &latest, &markers, &before];
        // Each is planned for its values: some objects have very many versions.
        let rows = self.bulk().await?.query(known, &params).await?;
        let known = rows.iter().map(|row| {
            let state = IngestState::from_name(row.get::<_, Option<&str>>("state")?);
            Some(KnownVersion {
                ingest: row.get("id"),
                state: state.unwrap_or(IngestState::Failed),
                ordered_at: row.get("ordered_at"),
                is_recorded: row.get("is_recorded"),
            })
        });
        Ok(known.collect())
    }

    /// Returns how many versions of `bucket` the ledger has by their ids, of keys that begin with `prefix`. Those
    /// recorded at `before` or later do not count, nor those that were gone.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn recorded_versions(
        &self,
        bucket: &str,
        prefix: &str,
        before: DateTime<Utc>,
    ) -> Result<u64, StoreError> {
        let count = "
            /* known_versions::recorded_versions */
            select count(*)
            from (
                select distinct key, version_id
                from ingests
                where bucket = $1 and starts_with(key, $2) and version_id <> 'null' and not removal
                    and state <> 'gone' and superseded_reason is distinct from 'content_replaced'
                    and received_at < $3
            ) versions";
        let row = query_one(&self.bulk().await?, count, &[&bucket, &prefix, &before]).await?;
        Ok(row.get::<_, i64>(0).cast_unsigned())
    }

    /// Returns whether the ledger has an ingest.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn has_ingests(&self) -> Result<bool, StoreError> {
        let any = "
            /* known_versions::has_ingests */
            select from ingests limit 1";
        Ok(query_opt(&self.writer().await?, any, &[]).await?.is_some())
    }
}
