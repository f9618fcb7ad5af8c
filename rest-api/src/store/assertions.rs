//! Assertions: which movies each merged object version contains.
//!
//! A merge leaves a row of `movies` untouched if a newer version has the same content again. So the
//! row cannot tell that an older version, which arrives late, must not change it. The assertions can
//! (docs/adr/0001-order-by-assertions.md).

use deadpool_postgres::Transaction;

use super::{
    StoreError, VersionPosition,
    sql::{execute, query_one},
};

/// The largest number of movie ids in one assertion, so that no value grows without bound.
const BATCH: usize = 100_000;

/// Returns whether a newer version of the same object has already been merged.
pub(super) async fn is_superseded(
    transaction: &Transaction<'_>,
    position: &VersionPosition,
) -> Result<bool, StoreError> {
    let is_superseded = "
        /* assertions::is_superseded */
        select exists (
            select
            from assertions
            where key = $2 and bucket = $3 and (ordered_at, sequencer) > ($1, $4)
        )";
    Ok(query_one(transaction, is_superseded, &position.params()).await?.get(0))
}

/// Removes from the staged rows the movies that a newer version contains. Returns their number.
pub(super) async fn remove_outdated(
    transaction: &Transaction<'_>,
    position: &VersionPosition,
) -> Result<i64, StoreError> {
    let is_late = "
        /* assertions::remove_outdated */
        select exists (
            select
            from assertions
            where (ordered_at, key, bucket, sequencer) > ($1, $2, $3, $4)
        )";
    if !query_one(transaction, is_late, &position.params()).await?.get::<_, bool>(0) {
        return Ok(0);
    }
    let remove = "
        /* assertions::remove_outdated */
        delete from staging s
        using movies m
        where m.identity = s.identity
            and m.id in (
                select unnest(movie_ids)
                from assertions
                where (ordered_at, key, bucket, sequencer) > ($1, $2, $3, $4)
            )";
    Ok(execute(transaction, remove, &position.params()).await?.cast_signed())
}

/// Moves `assertions` of an older version of the same object to this version, which contains exactly
/// the same movies. The older version is not needed any more. Returns whether it did: it does
/// nothing if there are no assertions, or they are not older.
pub(super) async fn move_to(
    transaction: &Transaction<'_>,
    position: &VersionPosition,
    assertions: &[i64],
) -> Result<bool, StoreError> {
    if assertions.is_empty() {
        return Ok(false);
    }
    let move_to = "
        /* assertions::move_to */
        update assertions
        set ordered_at = $1, sequencer = $4
        where key = $2 and bucket = $3 and (ordered_at, sequencer) <= ($1, $4) and id = any($5)";
    let [ordered_at, key, bucket, sequencer] = position.params();
    let params = [ordered_at, key, bucket, sequencer, &assertions];
    Ok(execute(transaction, move_to, &params).await? > 0)
}

/// Records that this version contains these movies.
pub(super) async fn insert(
    transaction: &Transaction<'_>,
    position: &VersionPosition,
    movie_ids: &[i64],
) -> Result<(), StoreError> {
    let insert = "
        /* assertions::insert */
        insert into assertions (ordered_at, key, bucket, sequencer, movie_ids)
        values ($1, $2, $3, $4, $5)";
    let [ordered_at, key, bucket, sequencer] = position.params();
    for batch in movie_ids.chunks(BATCH) {
        let params = [ordered_at, key, bucket, sequencer, &batch];
        execute(transaction, insert, &params).await?;
    }
    Ok(())
}

/// Records that this version was merged and contains no movies.
pub(super) async fn insert_empty(
    transaction: &Transaction<'_>,
    position: &VersionPosition,
) -> Result<(), StoreError> {
    let insert = "
        /* assertions::insert_empty */
        insert into assertions (ordered_at, key, bucket, sequencer, movie_ids)
        values ($1, $2, $3, $4, '{}')";
    execute(transaction, insert, &position.params()).await?;
    Ok(())
}

/// Records that this version contains the staged movies. Returns their number.
pub(super) async fn insert_staged(
    transaction: &Transaction<'_>,
    position: &VersionPosition,
) -> Result<i64, StoreError> {
    let insert = "
        /* assertions::insert_staged */
        with ids as (
            select m.id, row_number() over (order by m.id) / $5 as batch
            from staging s join movies m using (identity)
        ),
        recorded as (
            insert into assertions (ordered_at, key, bucket, sequencer, movie_ids)
            select $1, $2, $3, $4, array_agg(id order by id) from ids group by batch
        )
        select count(*) from ids";
    let [ordered_at, key, bucket, sequencer] = position.params();
    let params = [ordered_at, key, bucket, sequencer, &(BATCH as i64)];
    Ok(query_one(transaction, insert, &params).await?.get(0))
}
