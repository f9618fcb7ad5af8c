//! Running statements, and building one that grows with the filters it is given.
//!
//! A statement is prepared once for each connection: over a network, preparing takes as long as
//! running it.

use deadpool_postgres::GenericClient;
use tokio_postgres::{Error, Row, types::ToSql};

/// Returns how many rows were affected.
pub(super) async fn execute(
    on: &impl GenericClient,
    text: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<u64, Error> {
    on.execute(&on.prepare_cached(text).await?, params).await
}

/// Returns the only row.
pub(super) async fn query_one(
    on: &impl GenericClient,
    text: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Row, Error> {
    on.query_one(&on.prepare_cached(text).await?, params).await
}

/// Returns the only row, if there is one.
pub(super) async fn query_opt(
    on: &impl GenericClient,
    text: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Option<Row>, Error> {
    on.query_opt(&on.prepare_cached(text).await?, params).await
}

/// SQL text and its parameters.
pub(super) struct Sql {
    pub(super) text: String,
    params: Vec<Box<dyn ToSql + Send + Sync>>,
}

impl Sql {
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), params: Vec::new() }
    }

    pub(super) fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Adds a parameter; returns how the text refers to it.
    pub(super) fn bind(&mut self, param: impl ToSql + Send + Sync + 'static) -> String {
        self.params.push(Box::new(param));
        format!("${}", self.params.len())
    }

    pub(super) fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.params.iter().map(|param| &**param as &(dyn ToSql + Sync)).collect()
    }
}
