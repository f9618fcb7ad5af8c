//! Converts `assertions`, in which releases before migration 9 kept what each version contains.

use std::collections::BTreeMap;

use roaring::RoaringTreemap;
use tokio_postgres::Client;
use tracing::info;

use super::{StoreError, VersionPosition, merged_versions::stored};

/// How many versions are converted in one transaction.
const BATCH: i64 = 500;

/// Converts all rows, in steps. A conversion that is interrupted continues where it ended.
pub(super) async fn convert_assertions(client: &mut Client) -> Result<(), StoreError> {
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

/// Converts the oldest versions. Returns their number.
async fn convert_batch(client: &mut Client) -> Result<usize, StoreError> {
    let take = "
        /* convert::convert_batch */
        with versions as (
            select distinct ordered_at, key, bucket, sequencer
            from assertions
            order by ordered_at, key, bucket, sequencer
            limit $1
        )
        delete from assertions a
        using versions v
        where (a.ordered_at, a.key, a.bucket, a.sequencer)
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
    for row in transaction.query(take, &[&BATCH]).await? {
        let [key, bucket, sequencer] = [1, 2, 3].map(|column| row.get(column));
        let position = VersionPosition { ordered_at: row.get(0), key, bucket, sequencer };
        let ids: Vec<i64> = row.get(4);
        versions.entry(position).or_default().extend(ids.into_iter().map(i64::cast_unsigned));
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
