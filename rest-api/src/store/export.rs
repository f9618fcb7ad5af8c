//! All movies that match, as they arrive from the database.

use std::{pin::Pin, vec};

use futures_util::{FutureExt, TryStreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio_postgres::RowStream;

use super::{
    MovieDocument, MovieQuery, SearchQuery, Store, StoreError,
    page::push_order,
    reads::{Cost, Lent},
    search::{self, Results},
    sql::{self, ListQuery},
};

/// The movies of one state of the catalogue. While it exists, Postgres keeps the rows that have changed since. If it
/// is dropped before its end, its statement is cancelled.
pub struct Export {
    /// None if there are no further movies.
    source: Option<Source>,
}

/// A movie, and how well it matches if it was searched for.
pub struct ExportedMovie {
    /// The movie.
    pub movie: MovieDocument,
    /// At most 1, larger is better.
    pub score: Option<f64>,
}

type Rows = Pin<Box<RowStream>>;

/// Statements that are under way.
struct Source {
    rows: Rows,
    /// What follows their last row.
    further: vec::IntoIter<ListQuery>,
    /// Whether the rows have ranks.
    is_search: bool,
    /// Held until the first movie: a statement that reads the whole catalogue has done most of its work by then, and
    /// the client decides how fast it reads the rest.
    turn: Option<OwnedSemaphorePermit>,
    // Dropped after the rows.
    snapshot: Snapshot,
}

/// A connection in a transaction whose statements all read one state of the catalogue.
struct Snapshot(Lent);

impl Snapshot {
    async fn begin(connection: Lent) -> Result<Self, StoreError> {
        let snapshot = Self(connection);
        let begin = "
            /* export::begin */
            begin isolation level repeatable read read only";
        snapshot.0.batch_execute(begin).await?;
        Ok(snapshot)
    }

    /// Returns the rows of a statement that are movies. Of a search the first row is the state of the catalogue.
    async fn rows(&self, sql: &ListQuery, is_search: bool) -> Result<Rows, StoreError> {
        let mut rows = Box::pin(sql::query_raw(&*self.0, sql).await?);
        if is_search {
            rows.try_next().await?;
        }
        Ok(rows)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let end = "
            /* export::drop */
            rollback";
        // It is sent, and ends before the next statement of the connection. Nobody waits for its end.
        let _ = self.0.batch_execute(end).now_or_never();
    }
}

impl Store {
    /// Returns all movies that match `query`, whatever its limit and start.
    ///
    /// # Errors
    /// If the database is unavailable, or other exports have all connections.
    pub async fn export(&self, query: &MovieQuery) -> Result<Export, StoreError> {
        let Some(sql) = export_query(query) else { return Ok(Export { source: None }) };
        let turn = self.pools.exports.scan_turn(query.filters.cost()).await?;
        let snapshot = Snapshot::begin(self.pools.exports.lend(Cost::Index).await?).await?;
        Export::begin(snapshot, vec![sql], false, turn).await
    }

    /// Returns all results of a search, whatever its limit and start, the best match first.
    ///
    /// # Errors
    /// If the database is unavailable, or other exports have all connections.
    pub async fn export_search(&self, query: &SearchQuery) -> Result<Export, StoreError> {
        let turn = self.pools.exports.scan_turn(query.filters.cost()).await?;
        let snapshot = Snapshot::begin(self.pools.exports.lend(Cost::Index).await?).await?;
        // The statements of a search have the plans that they are made for in sessions with these options.
        let options = "
            /* export::export_search */
            select set_config('enable_sort', 'on', true), set_config('enable_seqscan', 'off', true)";
        sql::query_one(&*snapshot.0, options, &[]).await?;
        let (_, results) = Results::decide(&*snapshot.0, query, &self.frequencies).await?;
        let statements = results.map(|results| results.statements()).unwrap_or_default();
        Export::begin(snapshot, statements, true, turn).await
    }
}

impl Export {
    async fn begin(
        snapshot: Snapshot,
        statements: Vec<ListQuery>,
        is_search: bool,
        turn: Option<OwnedSemaphorePermit>,
    ) -> Result<Self, StoreError> {
        let mut further = statements.into_iter();
        let Some(first) = further.next() else { return Ok(Self { source: None }) };
        let rows = snapshot.rows(&first, is_search).await?;
        Ok(Self { source: Some(Source { rows, further, is_search, turn, snapshot }) })
    }

    /// Returns the next movie. None after the last one.
    ///
    /// # Errors
    /// If a statement fails.
    pub async fn next(&mut self) -> Result<Option<ExportedMovie>, StoreError> {
        let Some(source) = &mut self.source else { return Ok(None) };
        let movie = source.next().await?;
        if movie.is_none() {
            self.source = None;
        }
        Ok(movie)
    }
}

impl Source {
    async fn next(&mut self) -> Result<Option<ExportedMovie>, StoreError> {
        loop {
            if let Some(row) = self.rows.try_next().await? {
                self.turn = None;
                let movie = MovieDocument { id: row.get("id"), json: row.get("doc") };
                let score = self.is_search.then(|| search::score(row.get("rank")));
                return Ok(Some(ExportedMovie { movie, score }));
            }
            let Some(sql) = self.further.next() else { return Ok(None) };
            self.rows = self.snapshot.rows(&sql, self.is_search).await?;
        }
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
    push_order(&mut sql, query.sort, None, query.filters.cost());
    Some(sql)
}
