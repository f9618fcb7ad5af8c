//! What people have decided about versions, to be carried from one database to another: the bucket does not have it.
//!
//! A decision names its version by the version id, in a bucket without versions by the etag. So it holds for the
//! versions of any database that reads the same bucket, also for those that are merged later (`merged_versions`).
//! Of the decisions about one version the newest of a kind holds; `undo` and `redo` are one kind.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use serde::{Deserialize, Serialize};
use tokio_postgres::{Row, types::ToSql};

use super::{
    MovieDecision, Store, StoreError, Undo, merge, movie_decisions,
    sql::{execute, query_one},
    undo,
};

/// How many decisions one statement adds or reads.
const BATCH: usize = 1000;

/// An SQL condition: whether the decision `d` is about the version `$v`, which has the columns of a merged version.
macro_rules! is_about {
    ($v:literal) => {
        concat!(
            "(d.key = ",
            $v,
            ".key and d.bucket = ",
            $v,
            ".bucket and d.removal = ",
            $v,
            ".removal
                and d.version_id is not distinct from ",
            $v,
            ".version_id and (d.version_id is not null or d.etag is not distinct from ",
            $v,
            ".etag)
                and (d.version_id is not null and not d.removal or d.sequencer = '' or ",
            $v,
            ".sequencer in ('', d.sequencer)))"
        )
    };
}
pub(super) use is_about;

/// What was decided.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decided {
    /// The version does not count.
    Undo,
    /// It counts again.
    Redo,
    /// The snapshot may withdraw as many movies as it does.
    Approve,
}

impl Decided {
    const ALL: [(&'static str, Self); 3] =
        [("undo", Self::Undo), ("redo", Self::Redo), ("approve", Self::Approve)];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, decided)| *decided == self).map_or("", |(name, _)| name)
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, decided)| *decided)
    }
}

/// What somebody has decided about a version.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// What was decided.
    pub decision: Decided,
    /// The bucket of the object.
    pub bucket: String,
    /// The key of the object.
    pub key: String,
    /// The version, in a bucket that keeps versions.
    pub version_id: Option<String>,
    /// The entity tag of its content, without quotes.
    pub etag: Option<String>,
    /// Whether it is the removal of the object.
    #[serde(default)]
    pub removal: bool,
    /// The padded sequencer of its event; empty if unknown. It tells removals apart.
    #[serde(default)]
    pub sequencer: String,
    /// When it was decided.
    pub decided_at: DateTime<Utc>,
    /// Who has decided.
    pub decided_by: String,
}

/// What an import has changed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Imported {
    /// Decisions that were added.
    pub added: u64,
    /// Decisions that were there already.
    pub known: u64,
    /// Merged versions that count now, and did not, or the reverse.
    pub changed: u64,
    /// Blocked ingests that were approved, and queued.
    pub approved: u64,
    /// Movies that were changed, deleted or held.
    pub movies: u64,
}

impl Store {
    /// Returns whether anything was decided.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn has_decisions(&self) -> Result<bool, StoreError> {
        let any = "
            /* decisions::has_decisions */
            select exists (select from decisions) or exists (select from edits)
                or exists (select from holds)";
        Ok(query_one(&self.writer().await?, any, &[]).await?.get(0))
    }

    /// Calls `visit` with all decisions, the oldest first.
    ///
    /// # Errors
    /// If the database is unavailable, or `visit` fails.
    pub async fn visit_decisions<E: From<StoreError>>(
        &self,
        mut visit: impl FnMut(Decision) -> Result<(), E>,
    ) -> Result<(), E> {
        let page = "
            /* decisions::visit_decisions */
            select decision, bucket, key, version_id, etag, removal, sequencer, decided_at, decided_by, id
            from decisions
            where (decided_at, id) > ($1, $2)
            order by decided_at, id
            limit $3";
        let connection = self.bulk().await?;
        let mut after = (DateTime::UNIX_EPOCH, 0_i64);
        loop {
            let params: [&(dyn ToSql + Sync); 3] = [&after.0, &after.1, &(BATCH as i64)];
            let rows = connection.query(page, &params).await.map_err(StoreError::from)?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = (last.get("decided_at"), last.get("id"));
            for row in &rows {
                visit(Decision {
                    // The table allows no other.
                    decision: Decided::from_name(row.get("decision")).unwrap_or(Decided::Undo),
                    bucket: row.get("bucket"),
                    key: row.get("key"),
                    version_id: row.get("version_id"),
                    etag: row.get("etag"),
                    removal: row.get("removal"),
                    sequencer: row.get("sequencer"),
                    decided_at: row.get("decided_at"),
                    decided_by: row.get("decided_by"),
                })?;
            }
        }
    }

    /// Adds the decisions that are not there, and applies them to what is merged or blocked already: those about versions
    /// all or none, then those about movies in parts.
    ///
    /// # Errors
    /// If the database is unavailable, or other merges take too long. The rest is not changed then; the import can be
    /// repeated.
    pub async fn import_decisions(
        &self,
        decisions: &[Decision],
        on_movies: &[MovieDecision],
    ) -> Result<Imported, StoreError> {
        let mut connection = self.bulk().await?;
        let transaction = connection.transaction().await?;
        merge::lock_for_request(&transaction).await?;
        let mut imported = Imported::default();
        for batch in decisions.chunks(BATCH) {
            imported.added += add(&transaction, batch).await?;
        }
        imported.known = decisions.len() as u64 - imported.added;
        let (mut changes_movies, mut queued) = (false, false);
        let keys: BTreeSet<&str> = decisions.iter().map(|decision| &*decision.key).collect();
        let keys: Vec<&str> = keys.into_iter().collect();
        for keys in keys.chunks(BATCH) {
            imported.approved += approve(&transaction, keys).await?;
            for (version, undo, by) in contradicting(&transaction, keys).await? {
                let applied = undo::apply(&transaction, version, undo).await?;
                undo::show(&transaction, undo, &by, &applied).await?;
                imported.changed += applied.decided.len() as u64;
                changes_movies |= applied.changes_movies;
                queued |= applied.queued;
            }
        }
        let revision = merge::increment_revision(&transaction, changes_movies).await?;
        transaction.commit().await?;
        self.learn_own(revision);
        if queued || imported.approved > 0 {
            self.hints().announce_queued();
        }
        drop(connection);
        // In parts, which do not depend on each other, so that merges get their turn.
        for part in on_movies.chunks(BATCH) {
            self.import_movie_decisions(part, &mut imported).await?;
        }
        Ok(imported)
    }

    async fn import_movie_decisions(
        &self,
        decisions: &[MovieDecision],
        imported: &mut Imported,
    ) -> Result<(), StoreError> {
        let mut connection = self.bulk().await?;
        let transaction = connection.transaction().await?;
        merge::lock_for_request(&transaction).await?;
        let before = imported.movies;
        for decision in decisions {
            match movie_decisions::import(&transaction, decision).await? {
                None => imported.known += 1,
                Some(is_changed) => {
                    imported.added += 1;
                    imported.movies += u64::from(is_changed);
                }
            }
        }
        let changed = imported.movies > before;
        let revision = merge::increment_revision(&transaction, changed).await?;
        transaction.commit().await?;
        self.learn_own(revision);
        Ok(())
    }
}

/// Adds the decisions that are not there. Returns their number.
async fn add(transaction: &Transaction<'_>, decisions: &[Decision]) -> Result<u64, StoreError> {
    let add = "
        /* decisions::add */
        insert into decisions (decision, bucket, key, version_id, etag, removal, sequencer, decided_at,
            decided_by)
        select distinct on (decided_at, v) v.*
        from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bool[], $7::text[],
            $8::timestamptz[], $9::text[])
            as v (decision, bucket, key, version_id, etag, removal, sequencer, decided_at, decided_by)
        where not exists (
            select
            from decisions d
            where d.key = v.key and d.bucket = v.bucket and d.decision = v.decision
                and d.version_id is not distinct from v.version_id
                and d.etag is not distinct from v.etag and d.removal = v.removal
                and d.sequencer = v.sequencer and d.decided_at = v.decided_at
                and d.decided_by = v.decided_by
        )
        order by decided_at, v";
    let text = |text: fn(&Decision) -> &str| -> Vec<&str> { decisions.iter().map(text).collect() };
    let optional = |text: fn(&Decision) -> Option<&str>| -> Vec<Option<&str>> {
        decisions.iter().map(text).collect()
    };
    let removals: Vec<bool> = decisions.iter().map(|decision| decision.removal).collect();
    let times: Vec<_> = decisions.iter().map(|decision| decision.decided_at).collect();
    let params: [&(dyn ToSql + Sync); 9] = [
        &text(|decision| decision.decision.name()),
        &text(|decision| &decision.bucket),
        &text(|decision| &decision.key),
        &optional(|decision| decision.version_id.as_deref()),
        &optional(|decision| decision.etag.as_deref()),
        &removals,
        &text(|decision| &decision.sequencer),
        &times,
        &text(|decision| &decision.decided_by),
    ];
    Ok(execute(transaction, add, &params).await?)
}

/// The statement of [`contradicting`].
pub(super) const CONTRADICTING: &str = concat!(
    "
    /* decisions::contradicting */
    select v.id, newest.decision = 'undo' as undone, newest.decided_by
    from merged_versions v
    cross join lateral (
        select d.decision, d.decided_by
        from decisions d
        where d.decision in ('undo', 'redo') and ",
    is_about!("v"),
    "
        order by d.decided_at desc, d.id desc
        limit 1
    ) newest
    where v.key = any($1) and not v.deletion and v.undone <> (newest.decision = 'undo')
    order by v.id",
);

/// Returns the merged versions of these keys that count although they were undone, or the reverse: their rows, and
/// what was decided by whom.
async fn contradicting(
    transaction: &Transaction<'_>,
    keys: &[&str],
) -> Result<Vec<(i64, Undo, String)>, StoreError> {
    let statement = transaction.prepare_cached(CONTRADICTING).await?;
    let rows = transaction.query(&statement, &[&keys]).await?;
    let version = |row: &Row| {
        let undo = if row.get("undone") { Undo::Undo } else { Undo::Redo };
        (row.get("id"), undo, row.get("decided_by"))
    };
    Ok(rows.iter().map(version).collect())
}

/// The statement of [`approve`].
pub(super) const APPROVE: &str = concat!(
    "
    /* decisions::approve */
    with approved as (
        update ingests i
        set state = 'queued', attempts = 0, run_after = now(), finished_at = null, error = null,
            approved_at = newest.decided_at, approved_by = newest.decided_by
        from (
            select distinct on (v.id) v.id, d.decided_at, d.decided_by
            from (
                select id, key, bucket, nullif(version_id, 'null') as version_id, etag, removal,
                    '' as sequencer
                from ingests
                where key = any($1) and state = 'blocked'
            ) v
            join decisions d on d.decision = 'approve' and ",
    is_about!("v"),
    "
            order by v.id, d.decided_at desc
        ) newest
        where i.id = newest.id
        returning i.id
    )
    select count(*) from approved",
);

/// Queues the blocked ingests of these keys that were approved. Returns their number.
async fn approve(transaction: &Transaction<'_>, keys: &[&str]) -> Result<u64, StoreError> {
    Ok(query_one(transaction, APPROVE, &[&keys]).await?.get::<_, i64>(0).cast_unsigned())
}
