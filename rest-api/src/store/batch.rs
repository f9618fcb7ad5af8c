//! Merges batches of small files into the catalogue.
//!
//! The movies of a batch are in memory. What the catalogue has of them is read under the merge lock, the
//! files are applied in the order of their versions, and what results is written: one transaction and a
//! few statements, however many files there are. Each file has its own counts, as if it had been merged
//! alone.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::Transaction;
use tokio::try_join;

use super::{
    CatalogueRow, Claim, Merged, Mode, Store, StoreError, VersionPosition,
    batch_movies::{Part, apply, read_movies, read_newest, write_movies},
    counting::{self, Recount},
    holds, listen, merge,
    merged_versions::{self, MergedVersion, RecordedVersion, Removal},
    queue,
};
use crate::config::MaxWithdraw;

/// A small file that was read and has no violations, or the removal of an object.
#[derive(Debug)]
pub struct SmallFile {
    /// The claim on its ingest.
    pub claim: Claim,
    /// The position of its version.
    pub position: VersionPosition,
    /// Its mode. That of a removal does not matter.
    pub mode: Mode,
    /// What was removed; none if the object was created.
    pub removal: Option<Removal>,
    /// Its movies in the order of its records.
    pub rows: Vec<CatalogueRow>,
}

impl SmallFile {
    /// Returns the bytes that its movies take, uncompressed.
    pub fn size(&self) -> u64 {
        self.rows.iter().map(CatalogueRow::size).sum()
    }
}

impl Store {
    /// Merges `files` in the order of their versions, and ends their ingests in the same transaction.
    /// Returns the result of each file, in the same order; none if its lease was lost. Nothing of such a
    /// file is merged.
    ///
    /// # Errors
    /// If the database is unavailable or a statement fails. Nothing is changed then.
    pub async fn merge_batch(
        &self,
        files: &[SmallFile],
    ) -> Result<Vec<Option<Merged>>, StoreError> {
        let mut connection = self.worker().await?;
        let transaction = connection.transaction().await?;
        merge::lock(&transaction).await?;
        let claims: Vec<&Claim> = files.iter().map(|file| &file.claim).collect();
        let held = queue::lock_held(&transaction, &claims).await?;
        let held = files.iter().filter(|file| held.contains(&file.claim.id));
        let held: Vec<&SmallFile> = held.collect();
        let parts: Vec<Part> = held
            .iter()
            .map(|file| {
                let SmallFile { claim, position, mode, removal, rows } = file;
                let version = claim.merged_version(position, *mode, *removal);
                Part::new(version, rows, claim.is_approved)
            })
            .collect();
        let BatchMerge { merged, changes_movies: changed, queued } =
            merge(&transaction, &parts, self.max_withdraw).await?;
        let ended: HashMap<i64, Merged> =
            held.iter().zip(merged).map(|(file, merged)| (file.claim.id, merged)).collect();
        queue::complete(&transaction, &ended, self.outbox).await?;
        let ids: Vec<i64> = ended.keys().copied().collect();
        let (revision, ()) = try_join!(
            merge::increment_revision(&transaction, changed),
            listen::announce_ended(&transaction, &ids)
        )?;
        transaction.commit().await?;
        self.learn_own(revision);
        self.hints().announce_ended(ids);
        if queued {
            self.hints().announce_queued();
        }
        ended.values().for_each(|merged| self.add_changes(merged));
        Ok(files.iter().map(|file| ended.get(&file.claim.id).copied()).collect())
    }
}

/// What merging a batch has resulted in.
struct BatchMerge {
    /// Of each file, in the order of the files.
    merged: Vec<Merged>,
    changes_movies: bool,
    /// Whether objects were queued to be read again.
    queued: bool,
}

/// Merges `parts`. The caller holds the merge lock.
async fn merge(
    transaction: &Transaction<'_>,
    parts: &[Part<'_>],
    max_withdraw: MaxWithdraw,
) -> Result<BatchMerge, StoreError> {
    let mut in_order: Vec<(usize, &Part)> = parts.iter().enumerate().collect();
    in_order.sort_by_key(|(_, part)| part.version.position);
    let versions: Vec<MergedVersion> = in_order.iter().map(|(_, part)| part.version).collect();
    let recorded = merged_versions::record(transaction, &versions).await?;
    let with_snapshots = with_snapshots(&versions, &recorded);
    let recount = recount(transaction, &with_snapshots, &recorded).await?;
    let counting: HashSet<usize> = in_order
        .iter()
        .zip(&recorded)
        .filter(|(_, recorded)| recount.counts(recorded.id, recorded.counts))
        .map(|((index, _), _)| *index)
        .collect();
    let merging = || in_order.iter().filter(|(index, _)| counting.contains(index));

    let mut movies = read_movies(transaction, merging().map(|(_, part)| *part)).await?;
    if let Some((_, first)) = merging().next() {
        read_newest(transaction, first.version.position, &mut movies).await?;
    }
    let mut merged = vec![Merged::default(); parts.len()];
    let (mut new_movies, mut held) = (Vec::new(), Vec::new());
    for (index, part) in merging() {
        merged[*index] = apply(part, &mut movies, &mut new_movies, &mut held);
    }
    write_movies(transaction, &mut movies, &new_movies).await?;

    let numbers: HashSet<i64> = recorded.iter().map(|recorded| recorded.id).collect();
    let approved = in_order
        .iter()
        .zip(&recorded)
        .filter(|((_, part), recorded)| part.is_approved || recorded.is_approved);
    let approved = approved.filter_map(|((_, part), _)| part.version.ingest_id).collect();
    let mut sets = Vec::with_capacity(counting.len());
    let id = |row: &CatalogueRow| movies.get(&row.folded.identity)?.id.map(i64::cast_unsigned);
    for ((index, part), recorded) in in_order.iter().zip(recorded) {
        let counts = counting.contains(index);
        merged[*index].superseded =
            recorded.superseded || !counts && part.version.removal.is_none();
        merged[*index].mode = Some(part.version.mode(&recorded));
        merged[*index].is_deletion = part.version.removal == Some(Removal::Version);
        if counts {
            let movies = part.rows.iter().filter_map(|(_, row)| id(row)).collect();
            sets.push((&part.version, recorded, movies));
        }
    }
    merged_versions::write_sets(transaction, sets).await?;
    let settled = counting::settle(transaction, recount, &numbers, &approved, max_withdraw).await?;
    for (merged, part) in merged.iter_mut().zip(parts) {
        let Some(ingest) = part.version.ingest_id else { continue };
        merged.withdrawn = settled.withdrawn.get(&ingest).copied().unwrap_or_default();
        merged.held += settled.held_by(ingest);
    }
    held.extend(&settled.held);
    holds::report(transaction, &held).await?;
    let (keys, buckets) = keys_and_buckets(&with_snapshots);
    let queued = !keys.is_empty() && queue::retry_blocked(transaction, &keys, &buckets).await?;
    let changes_movies = settled.changes_movies() || merged.iter().any(Merged::changes_movies);
    Ok(BatchMerge { merged, changes_movies, queued: queued || settled.queued })
}

/// Returns the positions of the versions whose objects have snapshots.
fn with_snapshots<'a>(
    versions: &[MergedVersion<'a>],
    recorded: &[RecordedVersion],
) -> Vec<&'a VersionPosition> {
    let object = |version: &MergedVersion<'a>| (&version.position.key, &version.position.bucket);
    let with = versions.iter().zip(recorded).filter(|(_, recorded)| recorded.has_snapshots);
    let with: HashSet<_> = with.map(|(version, _)| object(version)).collect();
    let found = versions.iter().filter(|version| with.contains(&object(version)));
    found.map(|version| version.position).collect()
}

fn keys_and_buckets<'a>(positions: &[&'a VersionPosition]) -> (Vec<&'a str>, Vec<&'a str>) {
    positions.iter().map(|position| (&*position.key, &*position.bucket)).unzip()
}

/// Decides which versions of the objects at these positions count.
async fn recount(
    transaction: &Transaction<'_>,
    with_snapshots: &[&VersionPosition],
    recorded: &[RecordedVersion],
) -> Result<Recount, StoreError> {
    if with_snapshots.is_empty() {
        return Ok(Recount::default());
    }
    let (keys, buckets) = keys_and_buckets(with_snapshots);
    let new = recorded.iter().filter(|recorded| !recorded.is_known);
    let new: Vec<i64> = new.map(|recorded| recorded.id).collect();
    counting::recount(transaction, &keys, &buckets, &new).await
}
