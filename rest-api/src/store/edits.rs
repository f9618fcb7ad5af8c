//! What clients write about single movies: new content, or that the movie is deleted.
//!
//! The newest edit of each movie is kept with its content, so that the movie can fall back to it. It has a place in the
//! order of versions, like a file of this time: versions before it do not change the movie, one after it does
//! (docs/adr/0015-edits-and-holds.md).

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use roaring::RoaringTreemap;
use tokio_postgres::types::ToSql;

use super::{
    CatalogueRow, StoreError, VersionPosition,
    batch_movies::{Part, apply, read_movies, write_movies},
    merged_versions::MergedVersion,
    sql::execute,
    withdrawn::{self, Cause, Reason},
};

/// Up to so many movies are looked up by their ids. For more of them all edits are read.
const MAX_LOOKED_UP: u64 = 100_000;

/// Returns the edits after `position` of the movies `ids`: the movie and the position of each.
pub(super) async fn after(
    transaction: &Transaction<'_>,
    position: &VersionPosition,
    ids: &RoaringTreemap,
) -> Result<Vec<(u64, VersionPosition)>, StoreError> {
    let of_movies = "
        /* edits::after */
        select movie_id, ordered_at from edits where movie_id = any($2) and ordered_at > $1";
    let all = "
        /* edits::after */
        select movie_id, ordered_at from edits where ordered_at > $1";
    let rows = if ids.len() <= MAX_LOOKED_UP {
        let ids: Vec<i64> = ids.iter().map(u64::cast_signed).collect();
        let statement = transaction.prepare_cached(of_movies).await?;
        transaction.query(&statement, &[&position.ordered_at, &ids]).await?
    } else {
        let statement = transaction.prepare_cached(all).await?;
        transaction.query(&statement, &[&position.ordered_at]).await?
    };
    let edits = rows
        .iter()
        .map(|row| (row.get::<_, i64>(0).cast_unsigned(), VersionPosition::of_edit(row.get(1))));
    Ok(edits.filter(|(id, _)| ids.contains(*id)).collect())
}

/// Records edits of this client: of each movie the time and the content, none if it is deleted. Of each movie a newer
/// edit stays.
pub(super) async fn record(
    transaction: &Transaction<'_>,
    times: &[DateTime<Utc>],
    by: &str,
    ids: &[i64],
    docs: &[Option<&str>],
) -> Result<(), StoreError> {
    let record = "
        /* edits::record */
        insert into edits (movie_id, ordered_at, doc, edited_by)
        select id, ordered_at, doc, $2
        from unnest($1::timestamptz[], $3::bigint[], $4::text[]) as edit (ordered_at, id, doc)
        on conflict (movie_id) do update
            -- Equal content is not stored again.
            set ordered_at = excluded.ordered_at, edited_by = excluded.edited_by,
                doc = case when edits.doc = excluded.doc then edits.doc else excluded.doc end
            where edits.ordered_at <= excluded.ordered_at";
    let params: [&(dyn ToSql + Sync); 4] = [&times, &by, &ids, &docs];
    execute(transaction, record, &params).await?;
    Ok(())
}

/// Gives movies the content of their edits, or withdraws those that were deleted. Returns these.
pub(super) async fn restore(
    transaction: &Transaction<'_>,
    ids: &RoaringTreemap,
) -> Result<RoaringTreemap, StoreError> {
    let edits = "
        /* edits::restore */
        select edited_by, array_agg(movie_id) filter (where doc is null) as deleted,
            array_agg(doc) filter (where doc is not null) as docs
        from edits
        where movie_id = any($1)
        group by edited_by";
    let ids: Vec<i64> = ids.iter().map(u64::cast_signed).collect();
    let mut all_deleted = RoaringTreemap::new();
    let statement = transaction.prepare_cached(edits).await?;
    for row in transaction.query(&statement, &[&ids]).await? {
        let by: &str = row.get("edited_by");
        if let Some(deleted) = row.get::<_, Option<Vec<i64>>>("deleted") {
            let deleted = deleted.into_iter().map(i64::cast_unsigned).collect();
            withdrawn::withdraw(transaction, &deleted, cause_of_deletion(by)).await?;
            all_deleted |= deleted;
        }
        let docs: Vec<&str> = row.get::<_, Option<_>>("docs").unwrap_or_default();
        let rows: Result<Vec<CatalogueRow>, _> =
            docs.into_iter().map(CatalogueRow::from_doc).collect();
        write(transaction, &rows?, by).await?;
    }
    Ok(all_deleted)
}

/// Writes content into the catalogue, whatever versions contain.
pub(super) async fn write(
    transaction: &Transaction<'_>,
    rows: &[CatalogueRow],
    by: &str,
) -> Result<(), StoreError> {
    let position = VersionPosition::first();
    let part = Part::of_edits(MergedVersion::of_client(&position), rows, by);
    let mut movies = read_movies(transaction, std::iter::once(&part)).await?;
    let mut new_movies = Vec::new();
    apply(&part, &mut movies, &mut new_movies, &mut Vec::new());
    write_movies(transaction, &mut movies, &new_movies).await
}

/// Returns why a movie is withdrawn that a client has deleted.
pub(super) fn cause_of_deletion(by: &str) -> Cause<'_> {
    Cause { reason: Reason::Deleted, ingest_id: None, by: Some(by) }
}

/// Gives the edits of movies to others: `replaced` has the new id of each. Of each movie the newest edit stays.
pub(super) async fn replace(
    transaction: &Transaction<'_>,
    replaced: &HashMap<u64, u64>,
) -> Result<(), StoreError> {
    let replace = "
        /* edits::replace */
        with moved as (
            delete from edits e
            using unnest($1::bigint[], $2::bigint[]) as replaced (old, new)
            where e.movie_id = replaced.old
            returning replaced.new, e.*
        )
        insert into edits (movie_id, ordered_at, doc, edited_by)
        select distinct on (new) new, ordered_at, doc, edited_by
        from moved
        order by new, ordered_at desc
        on conflict (movie_id) do update
            set ordered_at = excluded.ordered_at, doc = excluded.doc, edited_by = excluded.edited_by
            where edits.ordered_at < excluded.ordered_at";
    let (old, new): (Vec<i64>, Vec<i64>) =
        replaced.iter().map(|(old, new)| (old.cast_signed(), new.cast_signed())).unzip();
    execute(transaction, replace, &[&old, &new]).await?;
    Ok(())
}
