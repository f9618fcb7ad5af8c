//! Which versions of an object count, and what follows when that changes (docs/adr/0013-counting-versions.md).
//!
//! - A version that was undone does not count. Nor does a snapshot that was deleted from its bucket while it was the
//!   current version: the expiry of an older one says nothing, whatever became of those after it.
//! - A snapshot silences all older versions of its object.
//! - The removal of an object silences its older snapshots.
//!
//! So it does not matter in which order versions arrive: whether one counts is a function of all that are known.
//! Each movie has the content of the newest counting version that contains it. If none does any more, it is
//! withdrawn. If an older version is the newest one now, its object is read again.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::Transaction;
use roaring::RoaringTreemap;

use super::{
    StoreError, VersionPosition, affected, edits,
    holds::{self, HeldMovie},
    movie_sets::{self, movies},
    queue,
    withdrawn::{self, Cause, Reason},
};
use crate::config::MaxWithdraw;

/// An SQL condition: whether the version `$m` was not undone nor, unless it is an upsert, deleted from its bucket. The
/// deletion of a version that was not the current one does not count: in between another one was put, which was not
/// deleted before. For a delete marker it always counts.
macro_rules! is_active {
    ($m:literal) => {
        concat!(
            "(not ",
            $m,
            ".undone and not ",
            $m,
            ".deletion and (",
            $m,
            ".version_id is null or not ",
            $m,
            ".snapshot and not ",
            $m,
            ".removal
                or not exists (
                    select
                    from merged_versions d
                    where d.key = ",
            $m,
            ".key and d.bucket = ",
            $m,
            ".bucket and d.version_id = ",
            $m,
            ".version_id
                        and d.deletion and (",
            $m,
            ".removal or not exists (
                            select
                            from ingests later
                            where later.key = d.key and later.bucket = d.bucket
                                and later.ordered_at >= ",
            $m,
            ".ordered_at
                                and later.ordered_at <= d.ordered_at
                                and not later.removal and later.state <> 'gone'
                                and later.version_id <> d.version_id
                                and (later.ordered_at, coalesce(rpad(later.sequencer, 64, '0'), ''))
                                    > (",
            $m,
            ".ordered_at, ",
            $m,
            ".sequencer)
                                and (later.ordered_at, coalesce(rpad(later.sequencer, 64, '0'), ''))
                                    < (d.ordered_at, d.sequencer)
                                and not exists (
                                    select
                                    from merged_versions deleted
                                    where deleted.key = d.key and deleted.bucket = d.bucket
                                        and deleted.version_id = later.version_id
                                        and deleted.deletion
                                        and (deleted.ordered_at, deleted.sequencer)
                                            <= (d.ordered_at, d.sequencer)
                                )
                        ))
                )))"
        )
    };
}

/// The statement of [`recount`].
///
/// All versions before the newest active snapshot are silent and stay so. It reads the versions after it, and
/// those that count.
pub(super) const RECOUNT: &str = concat!(
    "
    /* counting::recount */
    with object as (
        select distinct key, bucket from unnest($1::text[], $2::text[]) as object (key, bucket)
    ),
    newest as (
        select o.key, o.bucket, s.ordered_at, s.sequencer
        from object o
        left join lateral (
            select m.ordered_at, m.sequencer
            from merged_versions m
            where m.key = o.key and m.bucket = o.bucket and m.snapshot and ",
    is_active!("m"),
    "
            order by m.ordered_at desc, m.sequencer desc
            limit 1
        ) s on true
    ),
    candidate as materialized (
        select m.*, ", is_active!("m"), " as active
        from newest n
        join merged_versions m on m.key = n.key and m.bucket = n.bucket
            and (m.ordered_at, m.sequencer)
                >= (coalesce(n.ordered_at, '-infinity'), coalesce(n.sequencer, ''))
        union all
        select m.*, ", is_active!("m"), "
        from newest n
        join merged_versions m on m.key = n.key and m.bucket = n.bucket and m.counts
            and (m.ordered_at, m.sequencer) < (n.ordered_at, n.sequencer)
    ),
    silencer as materialized (
        select * from candidate where active and (snapshot or removal)
    ),
    decided as (
        select c.*, silencer.id as silencer,
            silencer.ingest_id as silenced_by, silencer.removal as by_removal,
            c.active and not c.removal and c.covered_by is null and silencer.id is null as is_counting
        from candidate c
        left join lateral (
            select s.id, s.ingest_id, s.removal
            from silencer s
            where s.key = c.key and s.bucket = c.bucket
                and (s.ordered_at, s.sequencer) > (c.ordered_at, c.sequencer)
                and (s.snapshot or s.removal and c.snapshot)
            order by s.ordered_at desc, s.sequencer desc
            limit 1
        ) silencer on true
    ),
    changed as (
        update merged_versions m
        set counts = d.is_counting, set_known = m.set_known and m.id <> all($3::bigint[])
        from decided d
        where m.id = d.id and d.is_counting <> d.counts
    )
    select d.id, d.ordered_at, d.key, d.bucket, d.sequencer, d.is_counting, d.undone, d.silencer,
        d.set_known, d.by_removal, contents.movie_ids, contents.bitmap,
        case when d.undone then d.ingest_id else coalesce(d.silenced_by, (
            select removed.ingest_id
            from merged_versions removed
            where removed.key = d.key and removed.bucket = d.bucket
                and removed.version_id = d.version_id and removed.deletion
            limit 1
        )) end as cause
    from decided d
    left join version_movies contents on contents.version_id = coalesce(d.set_id, d.id)
    where d.is_counting <> d.counts",
);

/// What has changed about which versions count.
#[derive(Debug, Default)]
pub(super) struct Recount {
    /// Versions that counted and do not count any more.
    silenced: Vec<SilencedVersion>,
    /// Versions that count again, and their movies; none if these are not known.
    revived: HashMap<i64, Option<RoaringTreemap>>,
}

#[derive(Debug)]
struct SilencedVersion {
    id: i64,
    position: VersionPosition,
    movies: RoaringTreemap,
    /// The version that silences it; none if it was undone or deleted.
    silencer: Option<i64>,
    /// Why it does not count any more.
    cause: Cause<'static>,
}

impl Recount {
    /// Whether a version counts that `counted` before.
    pub(super) fn counts(&self, id: i64, counted: bool) -> bool {
        self.revived.contains_key(&id)
            || counted && !self.silenced.iter().any(|version| version.id == id)
    }
}

/// Decides which versions of these objects (keys and buckets) count. `new` are versions that are merged now and
/// had no row.
pub(super) async fn recount(
    transaction: &Transaction<'_>,
    keys: &[&str],
    buckets: &[&str],
    new: &[i64],
) -> Result<Recount, StoreError> {
    let mut recount = Recount::default();
    let statement = transaction.prepare_cached(RECOUNT).await?;
    for row in transaction.query(&statement, &[&keys, &buckets, &new]).await? {
        let id: i64 = row.get("id");
        if row.get("is_counting") {
            let movies = row.get::<_, bool>("set_known").then(|| movies(&row)).transpose()?;
            recount.revived.insert(id, movies);
            continue;
        }
        let silencer: Option<i64> = row.get("silencer");
        let reason = match row.get::<_, Option<bool>>("by_removal") {
            _ if row.get("undone") => Reason::Undone,
            Some(false) => Reason::Corrected,
            _ => Reason::Removed,
        };
        let position = VersionPosition::from_row(&row);
        let cause = Cause { reason, ingest_id: row.get("cause"), by: None };
        let movies = movies(&row)?;
        recount.silenced.push(SilencedVersion { id, position, movies, silencer, cause });
    }
    Ok(recount)
}

/// What became of the movies of silenced versions.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// How many movies each ingest has withdrawn.
    pub(super) withdrawn: HashMap<i64, i64>,
    /// How many were withdrawn in all.
    pub(super) total: i64,
    /// The movies that were withdrawn, and those whose content becomes that of an older version.
    pub(super) gone: RoaringTreemap,
    pub(super) fallen_back: RoaringTreemap,
    /// The movies that versions name which count again, and no newer one.
    pub(super) named_again: RoaringTreemap,
    /// The movies that are held, and would have been withdrawn or changed.
    pub(super) held: Vec<HeldMovie>,
    /// Whether movies have the content of edits again.
    restored_edits: bool,
    /// Whether objects were queued to be read again.
    pub(super) queued: bool,
}

impl Settled {
    /// Returns how many movies an ingest does not change because they are held.
    pub(super) fn held_by(&self, ingest: i64) -> i64 {
        self.held.iter().filter(|movie| movie.ingest_id == Some(ingest)).count() as i64
    }

    /// Whether the catalogue was changed.
    pub(super) fn changes_movies(&self) -> bool {
        self.total > 0 || self.restored_edits
    }
}

/// Withdraws the movies that no counting version contains any more, and queues the objects whose content they
/// fall back to. `merged` are the versions that were merged in the same transaction. The sets of all counting
/// versions are written.
///
/// # Errors
/// [`StoreError::TooManyWithdrawn`] if a snapshot that was not `approved` withdraws more than `max`.
pub(super) async fn settle(
    transaction: &Transaction<'_>,
    recount: Recount,
    merged: &HashSet<i64>,
    approved: &HashSet<i64>,
    max: MaxWithdraw,
) -> Result<Settled, StoreError> {
    let mut settled = Settled::default();
    let Recount { silenced, revived } = recount;
    let mut again = needed(transaction, revived, &mut settled.named_again).await?;
    again.retain(|version| !merged.contains(version));

    let dropped = dropped(transaction, &silenced).await?;
    let newest = movie_sets::newest_of_each(transaction, &dropped).await?;
    let held = holds::contradict(transaction, &dropped).await?;
    let mut reported = RoaringTreemap::new();
    let mut restored = RoaringTreemap::new();
    let mut withdrawn: HashMap<Cause, RoaringTreemap> = HashMap::new();
    let mut named: HashMap<i64, RoaringTreemap> = HashMap::new();
    for version in &silenced {
        let Cause { reason, ingest_id, .. } = version.cause;
        if let (Reason::Corrected, Some(ingest)) = (reason, ingest_id) {
            *named.entry(ingest).or_default() |= &version.movies;
        }
        for id in &version.movies & &dropped {
            let newest = newest.get(&id);
            if newest.is_some_and(|newest| newest.position >= version.position) {
                continue;
            }
            match newest {
                _ if held.contains(id) => {
                    if reported.insert(id) {
                        let id = id.cast_signed();
                        settled.held.push(HeldMovie { ingest_id, record: None, id });
                    }
                }
                None if !settled.gone.insert(id) => {}
                None => {
                    withdrawn.entry(version.cause).or_default().insert(id);
                }
                Some(newest) => {
                    settled.fallen_back.insert(id);
                    match newest.id {
                        Some(newest) if merged.contains(&newest) => {}
                        Some(newest) => {
                            again.insert(newest);
                        }
                        None => {
                            restored.insert(id);
                        }
                    }
                }
            }
        }
    }
    if !restored.is_empty() {
        let deleted = edits::restore(transaction, &restored).await?;
        settled.fallen_back -= &deleted;
        settled.total += deleted.len().cast_signed();
        settled.gone |= deleted;
        settled.restored_edits = true;
    }
    for (cause, ids) in withdrawn {
        let Cause { reason, ingest_id, .. } = cause;
        if let (Reason::Corrected, Some(ingest)) = (reason, ingest_id) {
            let named = named.get(&ingest).map_or(0, RoaringTreemap::len);
            if !approved.contains(&ingest) && !max.allows(ids.len(), named) {
                let withdrawn = ids.len();
                let movies = affected::list(transaction, &ids, "withdrawn").await?;
                return Err(StoreError::TooManyWithdrawn { ingest, withdrawn, named, movies });
            }
        }
        let count = withdrawn::withdraw(transaction, &ids, cause).await?;
        settled.total += count;
        if let Some(ingest) = ingest_id {
            *settled.withdrawn.entry(ingest).or_default() += count;
        }
    }
    if !again.is_empty() {
        queue::read_again(transaction, &again.into_iter().collect::<Vec<_>>()).await?;
        settled.queued = true;
    }
    Ok(settled)
}

/// Returns the movies of silenced versions that the versions which silence them do not contain.
async fn dropped(
    transaction: &Transaction<'_>,
    silenced: &[SilencedVersion],
) -> Result<RoaringTreemap, StoreError> {
    let contents = "
        /* counting::dropped */
        select v.id, m.movie_ids, m.bitmap
        from merged_versions v join version_movies m on m.version_id = coalesce(v.set_id, v.id)
        where v.id = any($1) and v.counts";
    let silencers: HashSet<i64> = silenced.iter().filter_map(|version| version.silencer).collect();
    let silencers: Vec<i64> = silencers.into_iter().collect();
    let mut kept: HashMap<i64, RoaringTreemap> = HashMap::new();
    if !silencers.is_empty() {
        let statement = transaction.prepare_cached(contents).await?;
        for row in transaction.query(&statement, &[&silencers]).await? {
            kept.insert(row.get("id"), movies(&row)?);
        }
    }
    let mut dropped = RoaringTreemap::new();
    for version in silenced {
        match version.silencer.and_then(|silencer| kept.get(&silencer)) {
            Some(kept) => dropped |= &version.movies - kept,
            None => dropped |= &version.movies,
        }
    }
    Ok(dropped)
}

/// Returns those of the revived versions that must be read again: each is the newest one of some movie, or its movies
/// are not known. Adds these movies to `named`.
async fn needed(
    transaction: &Transaction<'_>,
    revived: HashMap<i64, Option<RoaringTreemap>>,
    named: &mut RoaringTreemap,
) -> Result<HashSet<i64>, StoreError> {
    let unknown = revived.iter().filter(|(_, movies)| movies.is_none());
    let mut needed: HashSet<i64> = unknown.map(|(id, _)| *id).collect();
    let mut movies = RoaringTreemap::new();
    revived.values().flatten().for_each(|contents| movies |= contents);
    for (id, newest) in movie_sets::newest_of_each(transaction, &movies).await? {
        if let Some(newest) = newest.id.filter(|newest| revived.contains_key(newest)) {
            needed.insert(newest);
            named.insert(id);
        }
    }
    Ok(needed)
}
