//! A statement that grows with the filters it is given.

use tokio_postgres::types::ToSql;

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
