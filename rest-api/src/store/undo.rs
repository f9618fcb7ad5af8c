//! What people decide about merged versions: that one does not count, that it counts again, that a snapshot may
//! withdraw as many movies as it does.
//!
//! Decisions are kept beside the ledger, by the version that they are about: a catalogue that is rebuilt from the
//! bucket takes them over (`decisions`).

use std::collections::HashSet;

use deadpool_postgres::Transaction;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    AffectedMovie, Ingest, Store, StoreError, affected, counting,
    ledger::read,
    merge,
    sql::{execute, query_opt},
    withdrawn,
};
use crate::config::MaxWithdraw;

/// Whether a version counts, by the decision of somebody.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Undo {
    /// It does not count any more, as if it had never come.
    Undo,
    /// It counts again.
    Redo,
}

impl Undo {
    fn name(self) -> &'static str {
        match self {
            Self::Undo => "undo",
            Self::Redo => "redo",
        }
    }
}

/// What a decision changes.
#[derive(Clone, Debug, Default, JsonSchema, Serialize)]
pub struct Effect {
    /// Whether it was only asked what would change.
    pub dry_run: bool,
    /// How many movies no version contains any more: they are withdrawn.
    pub withdrawn: u64,
    /// How many movies had been withdrawn, and are back when their file has been read again.
    pub restored: u64,
    /// How many movies get the content of another version when its file has been read again.
    pub changed: u64,
    /// The first hundred of these movies.
    pub movies: Vec<AffectedMovie>,
}

/// An ingest, and what a decision about it changes.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct DecidedIngest {
    /// The ingest.
    #[serde(flatten)]
    pub ingest: Ingest,
    /// What the decision changes.
    pub effect: Effect,
}

impl Store {
    /// Decides whether the version of an ingest counts. Returns the ingest and what that changes; none if there is
    /// no such ingest. With `dry_run` it changes nothing.
    ///
    /// What becomes of each movie is decided at once. Content of other versions comes when their objects have been
    /// read again; so do the movies of a version whose movies are not known yet.
    ///
    /// # Errors
    /// [`StoreError::NotMerged`] if the ingest has merged nothing, or is the removal of a version: the bucket does not
    /// have that any more. If the database is unavailable, or other merges take too long. Nothing is changed then.
    pub async fn undo(
        &self,
        id: i64,
        undo: Undo,
        by: &str,
        dry_run: bool,
    ) -> Result<Option<DecidedIngest>, StoreError> {
        let mut connection = self.bulk().await?;
        let transaction = connection.transaction().await?;
        merge::lock_for_request(&transaction).await?;
        let version = "
            /* undo::undo */
            select id from merged_versions where ingest_id = $1 and not deletion";
        let Some(ingest) = read(&transaction, id).await? else { return Ok(None) };
        let version = query_opt(&transaction, version, &[&id]).await?;
        let version: i64 = version.ok_or(StoreError::NotMerged)?.get(0);
        let mut applied = apply(&transaction, version, undo).await?;
        applied.effect.dry_run = dry_run;
        if dry_run || applied.decided.is_empty() {
            transaction.rollback().await?;
            return Ok(Some(DecidedIngest { ingest, effect: applied.effect }));
        }
        // By the clock: the transaction may have begun before the one of the decision before.
        let decide = "
            /* undo::undo */
            insert into decisions
                (decision, bucket, key, version_id, etag, removal, sequencer, decided_at, decided_by)
            select $2, bucket, key, version_id, etag, removal, sequencer, clock_timestamp(), $3
            from merged_versions
            where id = $1";
        execute(&transaction, decide, &[&version, &undo.name(), &by]).await?;
        show(&transaction, undo, by, &applied).await?;
        let Applied { effect, changes_movies, queued, .. } = applied;
        let revision = merge::increment_revision(&transaction, changes_movies).await?;
        let ingest = read(&transaction, id).await?.unwrap_or(ingest);
        transaction.commit().await?;
        self.learn_own(revision);
        if queued {
            self.hints().announce_queued();
        }
        Ok(Some(DecidedIngest { ingest, effect }))
    }

    /// Lets a blocked snapshot withdraw as many movies as it does, and queues it. Returns whether it was blocked,
    /// and the ingest as it is now; none if there is no such ingest.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn approve(&self, id: i64, by: &str) -> Result<Option<(bool, Ingest)>, StoreError> {
        let approve = "
            /* undo::approve */
            with approved as (
                update ingests
                set state = 'queued', attempts = 0, run_after = now(), finished_at = null, error = null,
                    approved_at = now(), approved_by = $2
                where id = $1 and state = 'blocked'
                returning bucket, key, version_id, etag
            )
            insert into decisions (decision, bucket, key, version_id, etag, decided_by)
            select 'approve', bucket, key, nullif(version_id, 'null'), etag, $2 from approved";
        let connection = self.writer().await?;
        let approved = execute(&connection, approve, &[&id, &by]).await? == 1;
        if approved {
            self.hints().announce_queued();
        }
        Ok(read(&connection, id).await?.map(|ingest| (approved, ingest)))
    }
}

/// What came of a decision.
#[derive(Default)]
pub(super) struct Applied {
    /// The rows of the version that it has changed: none if it was so before.
    pub(super) decided: Vec<i64>,
    pub(super) effect: Effect,
    pub(super) changes_movies: bool,
    /// Whether objects were queued to be read again.
    pub(super) queued: bool,
}

/// Decides whether the version of this row counts. The caller holds the merge lock.
pub(super) async fn apply(
    transaction: &Transaction<'_>,
    version: i64,
    undo: Undo,
) -> Result<Applied, StoreError> {
    // Notifications of one version may have led to several ingests.
    let set = "
        /* undo::apply */
        update merged_versions v
        set undone = $2
        from merged_versions named
        where named.id = $1 and v.undone <> $2
            and (v.id = $1 or v.key = named.key and v.bucket = named.bucket
                and v.version_id is not distinct from named.version_id
                and (v.version_id is not null or v.etag = named.etag
                    and (v.sequencer = named.sequencer or '' in (v.sequencer, named.sequencer)))
                and not v.removal and not v.deletion and not named.removal)
        returning v.id, v.key, v.bucket";
    let uncover = "
        /* undo::apply */
        update merged_versions set covered_by = null where covered_by = any($1)";
    let undone = undo == Undo::Undo;
    let rows = transaction.query(set, &[&version, &undone]).await?;
    let Some(object) = rows.first() else { return Ok(Applied::default()) };
    let decided: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    let (key, bucket) = (object.get(1), object.get(2));
    if undone {
        execute(transaction, uncover, &[&decided]).await?;
    }
    let recount = counting::recount(transaction, &[key], &[bucket], &[]).await?;
    let unlimited = MaxWithdraw::Movies(u64::MAX);
    let none = HashSet::new();
    let settled = counting::settle(transaction, recount, &none, &none, unlimited).await?;
    let changes_movies = settled.changes_movies();
    let mut changed = settled.fallen_back | settled.named_again;
    let restored = withdrawn::those_of(transaction, &changed).await?;
    changed -= &restored;
    let mut effect = Effect {
        dry_run: false,
        withdrawn: settled.total.cast_unsigned(),
        restored: restored.len(),
        changed: changed.len(),
        movies: Vec::new(),
    };
    for (ids, name) in [(settled.gone, "withdrawn"), (restored, "restored"), (changed, "changed")] {
        effect.movies.extend(affected::list(transaction, &ids, name).await?);
    }
    effect.movies.truncate(affected::MAX_LISTED);
    Ok(Applied { decided, effect, changes_movies, queued: settled.queued })
}

/// Shows a decision in the ingests of the versions that it has changed.
pub(super) async fn show(
    transaction: &Transaction<'_>,
    undo: Undo,
    by: &str,
    applied: &Applied,
) -> Result<(), StoreError> {
    let show = "
        /* undo::show */
        update ingests
        set undone_at = case $1 when 'undo' then now() end,
            undone_by = case $1 when 'undo' then $2::text end
        where id in (select ingest_id from merged_versions where id = any($3))";
    execute(transaction, show, &[&undo.name(), &by, &applied.decided]).await?;
    Ok(())
}
