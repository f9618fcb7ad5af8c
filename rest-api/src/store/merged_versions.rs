//! The merged versions of each object: their places in the order, and whether they count.
//!
//! Each version has a small row, and refers to the set of its movies (`movie_sets`). A file that comes again with
//! the same movies shares the set of the version before it. A version whose movies the next one of the same
//! object contains need not be asked any more: it is covered.

use std::collections::HashMap;

use deadpool_postgres::Transaction;
use roaring::RoaringTreemap;
use tokio_postgres::{Row, types::ToSql};

use super::{
    Mode, StoreError, VersionPosition,
    decisions::is_about,
    movie_sets::{movies, stored},
    sql::execute,
};

/// A version that is merged.
#[derive(Clone, Copy, Debug)]
pub(super) struct MergedVersion<'a> {
    pub(super) position: &'a VersionPosition,
    pub(super) ingest_id: Option<i64>,
    pub(super) version_id: Option<&'a str>,
    pub(super) etag: Option<&'a str>,
    /// Whether it is all that its object says.
    pub(super) snapshot: bool,
    /// What it is the removal of; none if it was created.
    pub(super) removal: Option<Removal>,
}

/// What was removed from a bucket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Removal {
    /// The object. In a bucket that keeps versions it got a delete marker, with a version id.
    Object,
    /// One version of the object, or a delete marker of it. It has the id of that version.
    Version,
}

impl<'a> MergedVersion<'a> {
    /// Returns the version of what a client writes, which belongs to no object.
    pub(super) fn of_client(position: &'a VersionPosition) -> Self {
        Self {
            position,
            ingest_id: None,
            version_id: None,
            etag: None,
            snapshot: false,
            removal: None,
        }
    }

    /// Returns the mode of the version. That of a removal is the mode of the object's other versions.
    pub(super) fn mode(&self, recorded: &RecordedVersion) -> Mode {
        if self.snapshot || self.removal.is_some() && recorded.has_snapshots {
            Mode::Snapshot
        } else {
            Mode::Upsert
        }
    }
}

/// The row of a version that is merged.
#[derive(Debug)]
pub(super) struct RecordedVersion {
    pub(super) id: i64,
    /// Whether a newer version of the object had been merged.
    pub(super) superseded: bool,
    /// Whether it counts, unless a snapshot or removal of the object says otherwise.
    pub(super) counts: bool,
    /// Whether the object has snapshots.
    pub(super) has_snapshots: bool,
    /// Whether its movies are known: it has been merged before.
    pub(super) is_known: bool,
    /// Whether somebody has approved that it withdraws as many movies as it does.
    pub(super) is_approved: bool,
    is_snapshot: bool,
    /// The counting version before it.
    before: Option<VersionBefore>,
}

/// The counting version before one that is merged.
#[derive(Debug)]
struct VersionBefore {
    id: i64,
    is_snapshot: bool,
    /// Where its set is.
    set_id: i64,
    movies: RoaringTreemap,
}

/// The statement of [`record`].
pub(super) const RECORD: &str = concat!(
    "
    /* merged_versions::record */
    with given as materialized (
        select v.*, coalesce(known.set_known, false) as is_known,
            coalesce(known.id, nextval(pg_get_serial_sequence('merged_versions', 'id'))) as id,
            known.id is null as is_new, known.counts as counted,
            coalesce(known.undone, (
                select d.decision = 'undo'
                from decisions d
                where d.decision in ('undo', 'redo') and ",
    is_about!("v"),
    "
                order by d.decided_at desc, d.id desc
                limit 1
            ), false) as undone,
            exists (select from decisions d where d.decision = 'approve' and ",
    is_about!("v"),
    ") as is_approved
        from unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::bigint[],
            $6::text[], $7::text[], $8::bool[], $9::bool[], $10::bool[]) with ordinality as v
            (ordered_at, key, bucket, sequencer, ingest_id, version_id, etag, snapshot, removal,
            deletion, nth)
        left join merged_versions known on known.ingest_id = v.ingest_id
    ),
    decided as materialized (
        select *, not undone and not removal and not deletion and coalesce(counted, true) as counts
        from given
    ),
    inserted as (
        insert into merged_versions (id, ordered_at, key, bucket, sequencer, ingest_id, version_id,
            etag, snapshot, removal, deletion, undone, set_known, counts)
        overriding system value
        select id, ordered_at, key, bucket, sequencer, ingest_id, version_id, etag, snapshot,
            removal, deletion, undone, counts, counts
        from decided
        where is_new
    )
    select v.id, v.is_known, v.snapshot, v.counts, v.is_approved,
        exists (
            select
            from merged_versions newer
            where newer.key = v.key and newer.bucket = v.bucket
                and (newer.ordered_at, newer.sequencer) > (v.ordered_at, v.sequencer)
                and not newer.removal and not newer.deletion and not newer.undone
        ) as superseded,
        v.snapshot or exists (
            select
            from merged_versions other
            where other.key = v.key and other.bucket = v.bucket and other.snapshot
        ) as has_snapshots,
        before.id as before_id, before.snapshot as before_snapshot, before.set_id,
        contents.movie_ids, contents.bitmap
    from decided v
    left join lateral (
        select m.id, m.snapshot, coalesce(m.set_id, m.id) as set_id
        from merged_versions m
        where m.key = v.key and m.bucket = v.bucket and m.counts and m.set_known
            and m.id <> v.id
            and (m.ordered_at, m.sequencer) <= (v.ordered_at, v.sequencer)
        order by m.ordered_at desc, m.sequencer desc
        limit 1
    ) before on true
    left join version_movies contents on contents.version_id = before.set_id
    order by nth",
);

/// Adds rows for versions that have none. Returns the rows of all, in the same order.
pub(super) async fn record(
    transaction: &Transaction<'_>,
    versions: &[MergedVersion<'_>],
) -> Result<Vec<RecordedVersion>, StoreError> {
    let columns = Columns::new(versions.iter().map(|version| version.position));
    let [ordered_at, key, bucket, sequencer] = columns.params();
    let ingests: Vec<_> = versions.iter().map(|version| version.ingest_id).collect();
    let version_ids: Vec<_> = versions.iter().map(|version| version.version_id).collect();
    let etags: Vec<_> = versions.iter().map(|version| version.etag).collect();
    let snapshots: Vec<_> = versions.iter().map(|version| version.snapshot).collect();
    let is = |removal| -> Vec<bool> {
        versions.iter().map(|version| version.removal == Some(removal)).collect()
    };
    let (removals, deletions) = (is(Removal::Object), is(Removal::Version));
    let params: [&(dyn ToSql + Sync); 10] = [
        ordered_at,
        key,
        bucket,
        sequencer,
        &ingests,
        &version_ids,
        &etags,
        &snapshots,
        &removals,
        &deletions,
    ];
    let statement = transaction.prepare_cached(RECORD).await?;
    let rows = transaction.query(&statement, &params).await?;
    rows.iter().map(RecordedVersion::new).collect()
}

impl RecordedVersion {
    fn new(row: &Row) -> Result<Self, StoreError> {
        let before = match row.get("before_id") {
            None => None,
            Some(id) => Some(VersionBefore {
                id,
                is_snapshot: row.get("before_snapshot"),
                set_id: row.get("set_id"),
                movies: movies(row)?,
            }),
        };
        Ok(Self {
            id: row.get("id"),
            superseded: row.get("superseded"),
            counts: row.get("counts"),
            has_snapshots: row.get("has_snapshots"),
            is_known: row.get("is_known"),
            is_approved: row.get("is_approved"),
            is_snapshot: row.get("snapshot"),
            before,
        })
    }
}

/// Records the movies of versions that count. The versions of one object are in their order.
pub(super) async fn write_sets(
    transaction: &Transaction<'_>,
    versions: Vec<(&MergedVersion<'_>, RecordedVersion, RoaringTreemap)>,
) -> Result<(), StoreError> {
    let mut sets = Sets::default();
    let mut last: HashMap<(&str, &str), VersionBefore> = HashMap::new();
    for (version, recorded, movies) in versions {
        // What a version contains never changes.
        if recorded.is_known {
            continue;
        }
        let object = (&*version.position.bucket, &*version.position.key);
        let before = last.remove(&object).or(recorded.before);
        let (id, is_snapshot) = (recorded.id, recorded.is_snapshot);
        last.insert(
            object,
            sets.add(before, VersionBefore { id, is_snapshot, set_id: id, movies }),
        );
    }
    sets.write(transaction).await
}

/// The sets that are to be written.
#[derive(Default)]
struct Sets {
    /// Versions with a set of their own, and these sets as they are stored.
    own: Vec<i64>,
    arrays: Vec<Option<String>>,
    bitmaps: Vec<Option<Vec<u8>>>,
    /// Versions that share a set, and where that is.
    sharing: Vec<i64>,
    shared: Vec<i64>,
    /// Versions whose movies another one contains, and that one.
    covered: Vec<i64>,
    covering: Vec<i64>,
}

impl Sets {
    /// Adds the set of `version`, which comes after `before`. Returns it for the next version.
    fn add(&mut self, before: Option<VersionBefore>, version: VersionBefore) -> VersionBefore {
        let mut version = version;
        if let Some(before) = before {
            // A snapshot silences the versions before it anyway.
            if !before.is_snapshot
                && !version.is_snapshot
                && before.movies.is_subset(&version.movies)
            {
                self.covered.push(before.id);
                self.covering.push(version.id);
            }
            if before.movies == version.movies {
                version.set_id = before.set_id;
                self.sharing.push(version.id);
                self.shared.push(before.set_id);
                return version;
            }
        }
        let (array, bitmap) = stored(&version.movies);
        self.own.push(version.id);
        self.arrays.push(array);
        self.bitmaps.push(bitmap);
        version
    }

    async fn write(self, transaction: &Transaction<'_>) -> Result<(), StoreError> {
        let own = "
            /* merged_versions::write */
            with known as (
                update merged_versions set set_known = true where id = any($1) and not set_known
            )
            insert into version_movies (version_id, movie_ids, bitmap)
            select id, movie_ids::bigint[], bitmap
            from unnest($1::bigint[], $2::text[], $3::bytea[]) as v (id, movie_ids, bitmap)
            where num_nonnulls(movie_ids, bitmap) = 1";
        let share = "
            /* merged_versions::write */
            update merged_versions m
            set set_known = true, set_id = v.set_id
            from unnest($1::bigint[], $2::bigint[]) as v (id, set_id)
            where m.id = v.id";
        let cover = "
            /* merged_versions::write */
            update merged_versions m
            set covered_by = v.covering, counts = false
            from unnest($1::bigint[], $2::bigint[]) as v (id, covering)
            where m.id = v.id";
        if !self.own.is_empty() {
            execute(transaction, own, &[&self.own, &self.arrays, &self.bitmaps]).await?;
        }
        if !self.sharing.is_empty() {
            execute(transaction, share, &[&self.sharing, &self.shared]).await?;
        }
        if !self.covered.is_empty() {
            execute(transaction, cover, &[&self.covered, &self.covering]).await?;
        }
        Ok(())
    }
}

/// Positions as arrays, one for each column.
struct Columns<'a> {
    ordered_at: Vec<chrono::DateTime<chrono::Utc>>,
    key: Vec<&'a str>,
    bucket: Vec<&'a str>,
    sequencer: Vec<&'a str>,
}

impl<'a> Columns<'a> {
    fn new(positions: impl Iterator<Item = &'a VersionPosition> + Clone) -> Self {
        Self {
            ordered_at: positions.clone().map(|position| position.ordered_at).collect(),
            key: positions.clone().map(|position| &*position.key).collect(),
            bucket: positions.clone().map(|position| &*position.bucket).collect(),
            sequencer: positions.map(|position| &*position.sequencer).collect(),
        }
    }

    fn params(&self) -> [&(dyn ToSql + Sync); 4] {
        [&self.ordered_at, &self.key, &self.bucket, &self.sequencer]
    }
}
