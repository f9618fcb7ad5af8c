//! All movies that match, as they arrive from the database.

use std::pin::Pin;

use futures_util::TryStreamExt;
use tokio_postgres::RowStream;

use super::{
    MovieDocument, MovieQuery, Store, StoreError,
    catalogue::push_order,
    reads::{self, Cost, Lent},
    sql::{self, ListQuery},
};

/// The movies of one statement, and so of one state of the catalogue. While it exists, Postgres keeps the
/// rows that have changed since. If it is dropped before its end, the statement is cancelled.
pub struct Export {
    /// None if there are no further movies.
    source: Option<(Pin<Box<RowStream>>, Lent)>,
}

impl Store {
    /// Returns all movies that match `query`, whatever its limit and start.
    ///
    /// # Errors
    /// If the database is unavailable, or other exports have all connections.
    pub async fn export(&self, query: &MovieQuery) -> Result<Export, StoreError> {
        let Some(sql) = export_query(query) else { return Ok(Export { source: None }) };
        let connection = self.pools.exports.lend(Cost::Index).await?;
        let rows = Box::pin(sql::query_raw(&*connection, &sql).await?);
        Ok(Export { source: Some((rows, connection)) })
    }
}

impl Export {
    /// Returns the next movie. None after the last one.
    ///
    /// # Errors
    /// If the statement fails.
    pub async fn next(&mut self) -> Result<Option<MovieDocument>, StoreError> {
        let Some((rows, _)) = &mut self.source else { return Ok(None) };
        if let Some(row) = rows.try_next().await? {
            return Ok(Some(MovieDocument { id: row.get("id"), json: row.get("doc") }));
        }
        if let Some((_, connection)) = self.source.take() {
            reads::finish(connection);
        }
        Ok(None)
    }
}

/// Composes the statement. None if no movie can match.
pub(super) fn export_query(query: &MovieQuery) -> Option<ListQuery> {
    let mut sql = ListQuery::new(
        "
        /* export::export_query */
        select id, doc from movies where true",
    );
    query.filters.push_to(&mut sql)?;
    push_order(&mut sql, query.sort, None, Cost::Index);
    Some(sql)
}
