//! Stages rows on their way into the catalogue.
//!
//! Rows go to a temporary table in batches, while their file is still being read. Rows that the
//! catalogue already has are not staged. A movie that occurs again and again is deduplicated as the
//! table grows: it holds at most [`GROWTH`] times the bytes of the distinct movies, and
//! [`COMPACT_FROM`] bytes.

use deadpool_postgres::{Object, Transaction};
use futures_util::pin_mut;
use tokio_postgres::{
    binary_copy::BinaryCopyInWriter,
    types::{ToSql, Type},
};

use super::{
    CatalogueRow, Claim, Store, StoreError,
    catalogue_row::{FoldedText, ROW_OVERHEAD},
    previous_version::PreviousVersion,
    search::SearchText,
    sql::query_one,
};
use crate::config::Budget;

/// The staged rows are deduplicated when they take so many bytes, and again whenever they have grown
/// to [`GROWTH`] times what was left and so many bytes more. Each time reads all of them.
const COMPACT_FROM: u64 = 8 << 20;
const GROWTH: u64 = 4;

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
    /// How many rows are staged.
    pub(super) staged: i64,
    /// How many bytes they take, uncompressed.
    staged_bytes: u64,
    /// How many they may take before they are deduplicated.
    compact_at: u64,
    budget: Budget,
    pub(super) previous: PreviousVersion,
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
        let mut staging = Staging::new(self.bulk().await?, self.budget).await?;
        if stage == Stage::Changes {
            let transaction = staging.transaction().await?;
            let previous = PreviousVersion::read(&transaction, &claim.bucket, &claim.key).await?;
            transaction.rollback().await?;
            staging.previous = previous;
        }
        Ok(staging)
    }

    /// Whether a file of these movies is surely within its budget.
    pub fn is_within_budget(&self, rows: &[CatalogueRow]) -> bool {
        rows.len() as u64 <= self.budget.records
            && rows.iter().map(CatalogueRow::size).sum::<u64>() <= self.budget.staged_bytes
    }
}

impl Staging {
    async fn new(connection: Object, budget: Budget) -> Result<Self, StoreError> {
        let create = r#"
            /* staging::new */
            set client_min_messages = warning;
            create temporary table if not exists staging (
                record bigint, identity uuid, title_lc text collate "C", year int,
                cast_lc text collate "C", genres_lc text[] collate "C", content_hash bigint,
                doc text, title_key text collate "C", terms text collate "C"
            )"#;
        connection.batch_execute(create).await?;
        Ok(Self {
            connection: Some(connection),
            next_record: 0,
            staged: 0,
            staged_bytes: 0,
            compact_at: COMPACT_FROM,
            budget,
            previous: PreviousVersion::default(),
        })
    }

    /// Stages `rows`, the next records of the file, unless the catalogue already has them.
    ///
    /// # Errors
    /// [`StoreError::OverBudget`] if the file has more records than its budget, or movies that take
    /// more bytes. If the connection breaks.
    pub async fn add(&mut self, rows: &[CatalogueRow]) -> Result<(), StoreError> {
        const COLUMNS: [Type; 10] = [
            Type::INT8,
            Type::UUID,
            Type::TEXT,
            Type::INT4,
            Type::TEXT,
            Type::TEXT_ARRAY,
            Type::INT8,
            Type::TEXT,
            Type::TEXT,
            Type::TEXT,
        ];
        let first = self.next_record;
        self.next_record += rows.len() as i64;
        check_records(self.next_record, self.budget)?;
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
            let CatalogueRow { folded, year, content_hash, doc } = row;
            let FoldedText { identity, title_lc, cast_lc, genres_lc } = folded;
            let SearchText { title_key, terms } = SearchText::new(title_lc, *year, cast_lc);
            self.staged_bytes += row.size() + (title_key.len() + terms.len()) as u64;
            let columns: [&(dyn ToSql + Sync); 10] = [
                &record,
                identity,
                title_lc,
                year,
                cast_lc,
                genres_lc,
                content_hash,
                doc,
                &title_key,
                &terms,
            ];
            writer.as_mut().write(&columns).await?;
        }
        writer.finish().await?;
        let budget = self.budget.staged_bytes;
        let is_full = self.staged_bytes > budget;
        if is_full || self.staged_bytes > self.compact_at {
            self.compact().await?;
        }
        // If little was freed, it would soon be full again, and each time all of it is read.
        if is_full && self.staged_bytes > budget - budget / 4 {
            let limit = format!("{} MiB of new and changed movies in a file", budget >> 20);
            return Err(StoreError::OverBudget { limit });
        }
        Ok(())
    }

    /// Deduplicates the staged rows, and frees what they took.
    async fn compact(&mut self) -> Result<(), StoreError> {
        let transaction = self.transaction().await?;
        let memory = "
            /* staging::compact */
            set local work_mem = '64MB'";
        transaction.batch_execute(memory).await?;
        let (rows, bytes) = deduplicate(&transaction).await?;
        transaction.commit().await?;
        if rows > 0 {
            let vacuum = "
                /* staging::compact */
                vacuum staging";
            self.connection.as_ref().ok_or_else(no_connection)?.batch_execute(vacuum).await?;
        }
        self.staged -= rows;
        self.staged_bytes = self.staged_bytes.saturating_sub(bytes.cast_unsigned());
        self.compact_at = self.staged_bytes * GROWTH + COMPACT_FROM;
        Ok(())
    }

    /// Discards the staged rows.
    pub async fn discard(self) {
        self.release().await;
    }

    /// Empties the temporary table, and returns the connection to its pool.
    pub(super) async fn release(mut self) {
        let truncate = "
            /* staging::release */
            truncate staging";
        if let Some(connection) = self.connection.take()
            && self.staged > 0
        {
            // On failure the connection is broken, and the pool replaces it.
            let _ = connection.batch_execute(truncate).await;
        }
    }

    pub(super) async fn transaction(&mut self) -> Result<Transaction<'_>, StoreError> {
        Ok(self.connection.as_mut().ok_or_else(no_connection)?.transaction().await?)
    }
}

/// Checks that a file may have so many records.
pub(super) fn check_records(records: i64, budget: Budget) -> Result<(), StoreError> {
    if records.cast_unsigned() <= budget.records {
        return Ok(());
    }
    Err(StoreError::OverBudget { limit: format!("{} records in a file", budget.records) })
}

/// Deletes the staged rows that later records of the file replace. Returns their number, and the bytes
/// they took.
pub(super) async fn deduplicate(transaction: &Transaction<'_>) -> Result<(i64, i64), StoreError> {
    // The planner knows little about the table. If it expects few rows, it would join them in quadratic
    // time.
    let nested_loops = "
        /* staging::deduplicate */
        select set_config('enable_nestloop', $1, true)";
    query_one(transaction, nested_loops, &[&"off"]).await?;
    let deduplicate = "
        /* staging::deduplicate */
        with replaced as (
            delete from staging s
            using (
                select identity, max(record) as last
                from staging
                group by identity
                having count(*) > 1
            ) d
            where s.identity = d.identity and s.record < d.last
            returning $1 + octet_length(title_lc) + octet_length(cast_lc) + octet_length(doc)
                + octet_length(array_to_string(genres_lc, '')) + octet_length(title_key)
                + octet_length(terms) as size
        )
        select count(*), coalesce(sum(size), 0)::bigint from replaced";
    let overhead = ROW_OVERHEAD as i32;
    let row = query_one(transaction, deduplicate, &[&overhead]).await?;
    query_one(transaction, nested_loops, &[&"on"]).await?;
    Ok((row.get(0), row.get(1)))
}

fn no_connection() -> StoreError {
    StoreError::Setup("the staged rows were merged or discarded before".to_owned())
}
