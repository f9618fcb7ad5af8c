//! Movies that a decision or a snapshot affects, as people are shown them.

use deadpool_postgres::Transaction;
use roaring::RoaringTreemap;
use schemars::JsonSchema;
use serde::Serialize;
use tokio_postgres::types::ToSql;

use super::StoreError;

/// How many of them are listed.
pub(super) const MAX_LISTED: usize = 100;

/// A movie that a decision or a snapshot affects.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct AffectedMovie {
    /// Its id.
    pub id: i64,
    /// Its title.
    pub title: String,
    /// Its year.
    pub year: i64,
    /// `withdrawn`, `restored` or `changed`.
    #[schemars(extend("enum" = ["withdrawn", "restored", "changed"]))]
    pub effect: &'static str,
}

/// Returns the first hundred of these movies with their titles.
pub(super) async fn list(
    transaction: &Transaction<'_>,
    ids: &RoaringTreemap,
    effect: &'static str,
) -> Result<Vec<AffectedMovie>, StoreError> {
    let list = "
        /* affected::list */
        select id, doc::json ->> 'title' as title, (doc::json ->> 'year')::bigint as year
        from (
            select id, doc from movies where id = any($1)
            union all
            select id, doc from withdrawn_movies where id = any($1)
        ) affected
        order by id";
    let ids: Vec<i64> = ids.iter().take(MAX_LISTED).map(u64::cast_signed).collect();
    let params: [&(dyn ToSql + Sync); 1] = [&ids];
    let rows = transaction.query(list, &params).await?;
    let movie = |row: &tokio_postgres::Row| AffectedMovie {
        id: row.get("id"),
        title: row.get("title"),
        year: row.get("year"),
        effect,
    };
    Ok(rows.iter().map(movie).collect())
}
