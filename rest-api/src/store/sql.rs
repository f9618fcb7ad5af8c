//! Runs statements, and composes those whose filters a client chooses.
//!
//! Each statement is prepared once for each connection. Over a network, preparing takes as long as
//! running.

use deadpool_postgres::GenericClient;
use futures_util::TryStreamExt;
use tokio_postgres::{Error, Row, RowStream, types::ToSql};

/// Runs a statement. Returns the number of rows that it changed or selected.
pub(super) async fn execute(
    on: &impl GenericClient,
    text: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<u64, Error> {
    on.execute(&on.prepare_cached(text).await?, params).await
}

/// Runs a statement. Returns its only row.
pub(super) async fn query_one(
    on: &impl GenericClient,
    text: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Row, Error> {
    on.query_one(&on.prepare_cached(text).await?, params).await
}

/// Runs a statement. Returns its only row, if there is one.
pub(super) async fn query_opt(
    on: &impl GenericClient,
    text: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Option<Row>, Error> {
    on.query_opt(&on.prepare_cached(text).await?, params).await
}

/// Runs a query that a client has composed. Returns its rows as they arrive.
pub(super) async fn query_raw(
    on: &impl GenericClient,
    query: &ListQuery,
) -> Result<RowStream, Error> {
    let statement = on.prepare_cached(&query.text).await?;
    on.query_raw(&statement, query.params()).await
}

/// Runs a query that a client has composed. Returns all its rows.
pub(super) async fn query(on: &impl GenericClient, query: &ListQuery) -> Result<Vec<Row>, Error> {
    query_raw(on, query).await?.try_collect().await
}

/// A list query under composition: its text and its parameters.
pub struct ListQuery {
    /// The statement.
    pub text: String,
    params: Vec<Box<dyn ToSql + Send + Sync>>,
}

impl ListQuery {
    /// Returns a query that begins with `text` and has no parameters yet.
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), params: Vec::new() }
    }

    /// Appends `text`.
    pub(super) fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Adds a parameter. Returns its placeholder, for [`Self::push`].
    pub(super) fn bind(&mut self, param: impl ToSql + Send + Sync + 'static) -> String {
        self.params.push(Box::new(param));
        format!("${}", self.params.len())
    }

    /// Returns the parameters themselves.
    pub fn into_params(self) -> Vec<Box<dyn ToSql + Send + Sync>> {
        self.params
    }

    /// Returns the parameters.
    pub(super) fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.params.iter().map(|param| &**param as &(dyn ToSql + Sync)).collect()
    }
}
