//! Rows on their way into the catalogue.
//!
//! They go to a temporary table, in pieces, while their file is still being read. Those that the
//! catalogue is known to hold already do not even go there.

use deadpool_postgres::{Object, Transaction};
use futures_util::pin_mut;
use tokio_postgres::{binary_copy::BinaryCopyInWriter, types::Type};

use super::{CatalogueRow, Claim, Store, StoreError, known::Known};

/// Rows on their way into the catalogue, in a temporary table of one connection.
#[derive(Debug)]
pub struct Staging {
    /// None only once the connection has been given back.
    connection: Option<Object>,
    /// The index of the next record.
    record: i64,
    /// How many rows were sent.
    pub(super) staged: i64,
    pub(super) known: Known,
}

/// Whoever abandons a staging half way leaves its connection in a state that nobody should meet.
impl Drop for Staging {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(Object::take(connection));
        }
    }
}

impl Store {
    /// An empty staging table for the file of `claim`. If the object was taken before, what the
    /// catalogue holds of it is read first, so that only changes need to be sent; unless
    /// `compare` is false.
    ///
    /// # Errors
    /// If no connection can be had in time.
    pub async fn staging(&self, claim: &Claim, compare: bool) -> Result<Staging, StoreError> {
        let mut staging = Staging::on(self.worker().await?).await?;
        if compare {
            let transaction = staging.transaction().await?;
            let known = Known::read(&transaction, &claim.bucket, &claim.key).await?;
            transaction.rollback().await?;
            staging.known = known;
        }
        Ok(staging)
    }

    /// An empty staging table for a request.
    ///
    /// # Errors
    /// If no connection can be had in time.
    pub async fn staging_for_request(&self) -> Result<Staging, StoreError> {
        Staging::on(self.writer().await?).await
    }
}

impl Staging {
    async fn on(connection: Object) -> Result<Self, StoreError> {
        connection
            .batch_execute(
                r#"/* merge::staging */
                set client_min_messages = warning;
                create temporary table if not exists staging (
                    record bigint, identity uuid, title_lc text collate "C", year int,
                    cast_lc text collate "C", genres_lc text[] collate "C", content_hash bigint,
                    doc text);
                truncate staging"#,
            )
            .await?;
        Ok(Staging { connection: Some(connection), record: 0, staged: 0, known: Known::default() })
    }

    /// Adds `rows`, in the order in which they stand in the file.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn add(&mut self, rows: &[CatalogueRow]) -> Result<(), StoreError> {
        const COLUMNS: [Type; 8] = [
            Type::INT8,
            Type::UUID,
            Type::TEXT,
            Type::INT4,
            Type::TEXT,
            Type::TEXT_ARRAY,
            Type::INT8,
            Type::TEXT,
        ];
        let first = self.record;
        self.record += rows.len() as i64;
        let news = (first..).zip(rows).filter(|(_, row)| !self.known.has(row));
        let news: Vec<(i64, &CatalogueRow)> = news.collect();
        if news.is_empty() {
            return Ok(());
        }
        self.staged += news.len() as i64;
        let connection = self.connection.as_ref().ok_or_else(given_back)?;
        let copy = "/* merge::stage */ copy staging from stdin (format binary)";
        let copy = connection.prepare_cached(copy).await?;
        let writer = BinaryCopyInWriter::new(connection.copy_in(&copy).await?, &COLUMNS);
        pin_mut!(writer);
        for (record, row) in news {
            let CatalogueRow { identity, title_lc, year, cast_lc, genres_lc, content_hash, doc } =
                row;
            writer
                .as_mut()
                .write(&[&record, identity, title_lc, year, cast_lc, genres_lc, content_hash, doc])
                .await?;
        }
        writer.finish().await?;
        Ok(())
    }

    /// Drops what was added.
    pub async fn discard(mut self) {
        self.give_back().await;
    }

    pub(super) async fn give_back(&mut self) {
        let truncate = "/* merge::truncate */ truncate staging";
        if let Some(connection) = self.connection.take() {
            // On failure the connection is broken, and the pool will find out.
            let _ = connection.batch_execute(truncate).await;
        }
    }

    pub(super) async fn transaction(&mut self) -> Result<Transaction<'_>, StoreError> {
        Ok(self.connection.as_mut().ok_or_else(given_back)?.transaction().await?)
    }
}

fn given_back() -> StoreError {
    StoreError::Setup("staging was given back".to_owned())
}
