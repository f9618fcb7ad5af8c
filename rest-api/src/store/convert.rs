//! Converts `assertions`, in which releases before migration 9 kept what each version contains.

use std::collections::BTreeMap;

use futures_util::{TryStreamExt, pin_mut};
use roaring::RoaringTreemap;
use tokio_postgres::Client;
use tracing::info;

use super::{StoreError, VersionPosition, movie_sets::stored};

/// How many versions are converted in one transaction, and how many ids they have: less if they have more.
const MAX_VERSIONS: i64 = 500;
const MAX_IDS: i64 = 1_000_000;

/// How many versions are linked to their ingests at once.
const MAX_LINKED: i64 = 10_000;

/// Converts all rows, in steps. A conversion that is interrupted continues where it ended.
pub(super) async fn convert_assertions(client: &mut Client) -> Result<(), StoreError> {
    stop_earlier_releases(client).await?;
    let mut versions = 0;
    loop {
        match convert_batch(client).await? {
            0 => break,
            converted => {
                versions += converted;
                info!(versions, "converting what merged versions contain");
            }
        }
    }
    Ok(())
}

/// Finds the ingests of versions that were merged before migration 14, in steps: so they can be undone, and read again.
pub(super) async fn link_versions(client: &Client) -> Result<(), StoreError> {
    let link = "
        /* convert::link_versions */
        with walked as materialized (
            select id, key, bucket, ordered_at, sequencer
            from merged_versions
            where id > $1 and ingest_id is null and key <> ''
            order by id
            limit $2
        ),
        linked as (
            update merged_versions v
            set ingest_id = i.id, version_id = nullif(i.version_id, 'null'), etag = i.etag
            from walked w
            join lateral (
                select id, version_id, etag
                from ingests i
                where i.key = w.key and i.bucket = w.bucket and i.ordered_at = w.ordered_at
                    and coalesce(rpad(i.sequencer, 64, '0'), '') = w.sequencer
                    and i.inserted is not null and not i.removal
                order by id desc
                limit 1
            ) i on true
            where v.id = w.id
        )
        select max(id) from walked";
    let mut after = Some(0_i64);
    while let Some(id) = after {
        after = client.query_one(link, &[&id, &MAX_LINKED]).await?.get(0);
    }
    Ok(())
}

/// Keeps replicas of earlier releases from merging: they would write here, and not know the sets. For them
/// the database counts as unavailable, so they requeue their files.
async fn stop_earlier_releases(client: &Client) -> Result<(), StoreError> {
    let create = "
        /* convert::stop_earlier_releases */
        create or replace function refuse_assertions() returns trigger language plpgsql as $$
        begin
            raise exception 'a newer release ingests the files'
                using errcode = 'cannot_connect_now';
        end $$";
    let attach = "
        /* convert::stop_earlier_releases */
        create or replace trigger refuse_assertions before insert or update on assertions
            for each statement execute function refuse_assertions()";
    client.execute(create, &[]).await?;
    client.execute(attach, &[]).await?;
    Ok(())
}

/// Converts the oldest versions. Returns their number.
async fn convert_batch(client: &mut Client) -> Result<usize, StoreError> {
    let take = "
        /* convert::convert_batch */
        with versions as (
            select ordered_at, key, bucket, sequencer, sum(cardinality(movie_ids)) as ids
            from assertions
            group by ordered_at, key, bucket, sequencer
            order by ordered_at, key, bucket, sequencer
            limit $1
        ),
        counted as (
            select *, sum(ids) over oldest_first as total, row_number() over oldest_first as nth
            from versions
            window oldest_first as (order by ordered_at, key, bucket, sequencer)
        )
        delete from assertions a
        using counted v
        where (total <= $2::bigint or nth = 1)
            and (a.ordered_at, a.key, a.bucket, a.sequencer)
                = (v.ordered_at, v.key, v.bucket, v.sequencer)
        returning a.ordered_at, a.key, a.bucket, a.sequencer, a.movie_ids";
    let insert = "
        /* convert::convert_batch */
        with version as (
            insert into merged_versions (ordered_at, key, bucket, sequencer)
            values ($1, $2, $3, $4)
            returning id
        )
        insert into version_movies (version_id, movie_ids, bitmap)
        select id, $5::text::bigint[], $6
        from version
        where num_nonnulls($5::text, $6::bytea) = 1";
    let transaction = client.transaction().await?;
    let mut versions: BTreeMap<VersionPosition, RoaringTreemap> = BTreeMap::new();
    {
        let rows = transaction.query_raw(take, [MAX_VERSIONS, MAX_IDS]).await?;
        pin_mut!(rows);
        while let Some(row) = rows.try_next().await? {
            let [key, bucket, sequencer] = [1, 2, 3].map(|column| row.get(column));
            let position = VersionPosition { ordered_at: row.get(0), key, bucket, sequencer };
            let ids: Vec<i64> = row.get(4);
            versions.entry(position).or_default().extend(ids.into_iter().map(i64::cast_unsigned));
        }
    }
    let insert = transaction.prepare(insert).await?;
    for (position, movies) in &versions {
        let (ids, bitmap) = stored(movies);
        let [ordered_at, key, bucket, sequencer] = position.params();
        transaction.execute(&insert, &[ordered_at, key, bucket, sequencer, &ids, &bitmap]).await?;
    }
    transaction.commit().await?;
    Ok(versions.len())
}
