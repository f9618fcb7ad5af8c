//! Stages rows on their way into the catalogue.
//!
//! Rows go to a temporary table in batches, while their file is still being read. Rows that the
//! catalogue already has are not staged.

use deadpool_postgres::{Object, Transaction};
use futures_util::pin_mut;
use tokio_postgres::{binary_copy::BinaryCopyInWriter, types::Type};

use super::{
    CatalogueRow, Claim, Store, StoreError, outbox::Outbox, previous_version::PreviousVersion,
};

/// Which rows of a file are staged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// Those that differ from the previous version of the object.
    Changes,
    /// All.
    Everything,
}

/// Rows on their way into the catalogue, in a temporary table of one connection.
#[derive(Debug)]
pub struct Staging {
    /// None only after the rows were merged or discarded.
    connection: Option<Object>,
    /// The index of the next record.
    next_record: i64,
    /// How many rows were staged.
    pub(super) staged: i64,
    pub(super) previous: PreviousVersion,
    pub(super) outbox: Outbox,
}

/// A staging that is dropped half way leaves its connection in an unknown state. The connection is
/// closed, and does not return to the pool.
impl Drop for Staging {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(Object::take(connection));
        }
    }
}

impl Store {
    /// Returns an empty staging for the file of `claim`.
    ///
    /// # Errors
    /// If no connection is available in time.
    pub async fn staging(&self, claim: &Claim, stage: Stage) -> Result<Staging, StoreError> {
        let mut staging = Staging::new(self.worker().await?, self.outbox).await?;
        if stage == Stage::Changes {
            let transaction = staging.transaction().await?;
            let previous = PreviousVersion::read(&transaction, &claim.bucket, &claim.key).await?;
            transaction.rollback().await?;
            staging.previous = previous;
        }
        Ok(staging)
    }

    /// Returns an empty staging for the movies of a request.
    ///
    /// # Errors
    /// If no connection is available in time.
    pub async fn staging_for_request(&self) -> Result<Staging, StoreError> {
        Staging::new(self.writer().await?, self.outbox).await
    }
}

impl Staging {
    async fn new(connection: Object, outbox: Outbox) -> Result<Self, StoreError> {
        let create = r#"
            /* staging::new */
            set client_min_messages = warning;
            create temporary table if not exists staging (
                record bigint, identity uuid, title_lc text collate "C", year int,
                cast_lc text collate "C", genres_lc text[] collate "C", content_hash bigint,
                doc text
            );
            truncate staging"#;
        connection.batch_execute(create).await?;
        let previous = PreviousVersion::default();
        Ok(Self { connection: Some(connection), next_record: 0, staged: 0, previous, outbox })
    }

    /// Stages `rows`, the next records of the file, unless the catalogue already has them.
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
        let first = self.next_record;
        self.next_record += rows.len() as i64;
        let changes = (first..).zip(rows).filter(|(_, row)| !self.previous.is_unchanged(row));
        let changes: Vec<(i64, &CatalogueRow)> = changes.collect();
        if changes.is_empty() {
            return Ok(());
        }
        self.staged += changes.len() as i64;
        let connection = self.connection.as_ref().ok_or_else(no_connection)?;
        let copy = "
            /* staging::add */
            copy staging from stdin (format binary)";
        let copy = connection.prepare_cached(copy).await?;
        let writer = BinaryCopyInWriter::new(connection.copy_in(&copy).await?, &COLUMNS);
        pin_mut!(writer);
        for (record, row) in changes {
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

    /// Discards the staged rows.
    pub async fn discard(mut self) {
        self.truncate().await;
    }

    /// Empties the temporary table, and returns the connection to its pool.
    pub(super) async fn truncate(&mut self) {
        let truncate = "
            /* staging::truncate */
            truncate staging";
        if let Some(connection) = self.connection.take() {
            // On failure the connection is broken, and the pool replaces it.
            let _ = connection.batch_execute(truncate).await;
        }
    }

    pub(super) async fn transaction(&mut self) -> Result<Transaction<'_>, StoreError> {
        Ok(self.connection.as_mut().ok_or_else(no_connection)?.transaction().await?)
    }
}

fn no_connection() -> StoreError {
    StoreError::Setup("the staged rows were merged or discarded before".to_owned())
}
