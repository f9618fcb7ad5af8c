//! Random interleavings of changes in a bucket, deliveries and workers, compared with a model.
//!
//! Each schedule has a few changes: puts in both modes, of keys that share movies; corrections, equal content,
//! multipart uploads, rejected files; removals of objects, of versions and of delete markers; into a bucket that
//! keeps versions, or one that does not. They are reported by events, some repeatedly; by notifications with the
//! etag alone or without anything; and by reconciling. Reports arrive in random order. Three workers interleave
//! their steps at random, one file or a batch at a time; their leases expire, and they continue nevertheless or die.
//! Versions that were merged are undone and redone. People post, replace, delete, hold and release single movies.
//!
//! In the end the catalogue must equal the model, which applies the merged versions that count in their order. If
//! the bucket keeps versions, that is the order of the changes, unless the times of the events contradict it;
//! versions of one object are in the order of their sequencers even then. In a bucket without versions, content that
//! was replaced is gone: there nothing is undone, and if nothing is removed each ingest must have ended once.
//!
//! `MRU_TEST_SCHEDULES` is the number of schedules (300), `MRU_TEST_SEED` the first seed.

mod people;

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use fastrand::Rng;
use rest_api::store::{
    Claim, Lane, Mode, ObservedVersion, Removal, Report, SmallFile, Stage, Staging, Store,
    StoreError, Undo, VersionPosition,
};
use schema::Notification;
use serde_json::{Value, json};

use crate::support::{
    BUCKET, Service,
    ledger::{LEASE, parse, row},
    movies::movie,
};
use people::People;

/// A change of an object: a version of it, or the removal of the object, of a version or of a delete marker.
struct Change {
    key: String,
    /// Determined by the content, as S3 does.
    etag: String,
    /// Of a removal: that of the delete marker, or of what was removed.
    version_id: Option<String>,
    sequencer: String,
    event_time: DateTime<Utc>,
    last_modified: DateTime<Utc>,
    size: i64,
    mode: Mode,
    removal: bool,
    /// Whether it is the removal of a version or of a delete marker.
    deletion: bool,
    movies: Vec<Value>,
    rejected: bool,
}

impl Change {
    /// What S3 reports of it.
    fn observed(&self) -> ObservedVersion {
        ObservedVersion {
            etag: Some(self.etag.clone()),
            version_id: self.version_id.clone(),
            last_modified: Some(self.last_modified),
            size: Some(self.size),
        }
    }

    fn event(&self) -> Notification {
        if self.removal {
            return parse(&json!({
                "bucket": BUCKET, "key": self.key, "version_id": self.version_id,
                "event_time": self.event_time, "sequencer": self.sequencer, "event": "removed",
            }));
        }
        parse(&json!({
            "bucket": BUCKET, "key": self.key, "version_id": self.version_id, "etag": self.etag,
            "event_time": self.event_time, "sequencer": self.sequencer, "size": self.size,
        }))
    }
}

/// Returns random changes in the order of their events. With `skew` their times contradict it.
fn changes(random: &mut Rng, schedule: u64, versioned: bool, skew: bool) -> Vec<Change> {
    // What people write meanwhile comes before, among or after them.
    let mut time: DateTime<Utc> = Utc::now() - TimeDelta::milliseconds(random.i64(0..8000));
    let mut changes: Vec<Change> = Vec::new();
    for number in 0..random.usize(2..9) {
        time += TimeDelta::milliseconds(random.i64(1..1500));
        let key = format!("{schedule}/{}.json", random.u8(0..3));
        let rejected = random.u8(0..6) == 0;
        let numbers: Vec<u32> = (0..4).filter(|_| random.bool()).collect();
        let movies = numbers.into_iter().map(|number| {
            movie(&format!("{schedule}-{number}"), ["a", "b", "c"][random.usize(0..3)])
        });
        let movies: Vec<Value> = movies.collect();
        let skew = TimeDelta::milliseconds(if skew { random.i64(-2000..2000) } else { 0 });
        let event_time = time + skew;
        let multipart = if random.u8(0..4) == 0 { random.i64(0..5) } else { 0 };
        let mut change = Change {
            etag: format!("{rejected} {}", json!(movies)),
            key,
            version_id: versioned.then(|| format!("v{number}")),
            sequencer: format!("{number:04X}"),
            event_time,
            // Of a multipart upload it is when the upload began.
            last_modified: event_time.trunc_subsecs(0) - TimeDelta::seconds(multipart),
            size: if random.bool() { 100 } else { 1 << 20 },
            // Without versions what a movie falls back to may be gone.
            mode: if versioned && random.bool() { Mode::Snapshot } else { Mode::Upsert },
            removal: random.u8(0..4) == 0,
            deletion: false,
            movies,
            rejected,
        };
        if change.removal {
            (change.movies, change.rejected) = (Vec::new(), false);
            // The current version or a delete marker is removed. The content of an upsert would be gone.
            let left: Vec<&Change> = changes
                .iter()
                .filter(|other| {
                    let times = changes.iter().filter(|same| same.version_id == other.version_id);
                    other.key == change.key && times.count() == 1
                })
                .collect();
            let removable = left.iter().enumerate().filter(|(index, other)| {
                let is_current = left[index + 1..].iter().all(|newer| newer.removal);
                let is_snapshot = other.mode == Mode::Snapshot && !other.rejected;
                other.removal || is_current && is_snapshot
            });
            let removable: Vec<&Change> = removable.map(|(_, other)| *other).collect();
            if versioned && random.bool() && !removable.is_empty() {
                change.version_id = removable[random.usize(0..removable.len())].version_id.clone();
                change.deletion = true;
            }
            change.mode = Mode::Upsert;
        }
        changes.push(change);
    }
    changes
}

/// The bucket: the changes so far.
struct Bucket<'a> {
    changes: &'a [Change],
    made: usize,
}

impl<'a> Bucket<'a> {
    /// Returns the current version of an object; none if it was removed.
    fn current(&self, key: &str) -> Option<&'a Change> {
        let made = &self.changes[..self.made];
        let mut versions = made.iter().rev().filter(|change| change.key == key);
        // A version or marker that was removed is not there any more, nor is its removal a version.
        let newest = versions.find(|change| {
            let same = made.iter().filter(|same| same.version_id == change.version_id);
            change.version_id.is_none() || same.count() == 1
        });
        newest.filter(|newest| !newest.removal)
    }

    /// Returns what a GET returns; none if there is no such object.
    fn get(&self, claim: &Claim) -> Option<&'a Change> {
        let Some(id) = &claim.version_id else { return self.current(&claim.key) };
        let made = &self.changes[..self.made];
        let mut same = made.iter().filter(|change| change.version_id.as_ref() == Some(id));
        let version = same.next().filter(|version| !version.removal);
        if same.next().is_some() { None } else { version }
    }

    /// Returns what was removed: the object, if the bucket has a delete marker of this id or keeps no versions.
    fn removal(&self, claim: &Claim) -> Removal {
        let Some(id) = &claim.version_id else { return Removal::Object };
        let made = &self.changes[..self.made];
        let mut same = made.iter().filter(|change| change.version_id.as_ref() == Some(id));
        match (same.next(), same.next()) {
            (Some(marker), None) if marker.removal => Removal::Object,
            _ => Removal::Version,
        }
    }

    /// Reports a change in a random way.
    async fn report(&self, store: &Store, change: &Change, random: &mut Rng) {
        let mut notification = change.event();
        let mut observed = ObservedVersion::default();
        let current = self.current(&change.key).map(Change::observed);
        if random.u8(0..3) == 0
            && !change.removal
            && let Some(current) = current
        {
            // Without details. S3 is asked, if it responds.
            notification.sequencer = None;
            notification.event_time = None;
            notification.version_id = None;
            notification.size = None;
            if random.bool() {
                notification.etag = None;
            }
            let etag = notification.etag.as_ref().map(|etag| etag.to_string());
            if random.u8(0..5) > 0 && (etag.is_none() || etag == current.etag) {
                observed = current;
            }
            if random.bool() {
                // A listing has no version ids.
                observed.version_id = None;
            }
        }
        let report = Report { notification: &notification, observed };
        store.record(&report, "", None).await.unwrap();
    }
}

/// The progress of a worker.
enum Worker<'a> {
    Idle,
    Claimed(Claim),
    /// With the content that was read.
    Observed(Claim, VersionPosition, &'a Change, Stage),
    Staged(Claim, VersionPosition, &'a Change, Box<Staging>),
    ClaimedBatch(Vec<Claim>),
    ReadBatch(Vec<SmallFile>),
}

impl<'a> Worker<'a> {
    /// Does one step. Returns false if there was none to do. Adds the ingests that it ends to `ended`.
    async fn step(
        &mut self,
        store: &Store,
        bucket: &Bucket<'a>,
        lane: Lane,
        lease: Duration,
        ended: &mut Vec<i64>,
    ) -> Result<bool, StoreError> {
        match std::mem::replace(self, Self::Idle) {
            Self::Idle if lane == Lane::Small => match store.claim(lane, 4, lease).await? {
                claims if claims.is_empty() => return Ok(false),
                claims => *self = Self::ClaimedBatch(claims),
            },
            Self::Idle => match store.claim(lane, 1, lease).await?.pop() {
                None => return Ok(false),
                Some(claim) if claim.removal => *self = Self::ClaimedBatch(vec![claim]),
                Some(claim) => *self = Self::Claimed(claim),
            },
            Self::Claimed(claim) => {
                if let Some((claim, position, change)) = read(store, bucket, claim, ended).await? {
                    *self = Self::Observed(claim, position, change, Stage::Changes);
                }
            }
            Self::Observed(claim, position, change, stage) => {
                let rows: Vec<_> = change.movies.iter().map(row).collect();
                let mut staging = store.staging(&claim, stage).await?;
                staging.add(&rows).await?;
                *self = Self::Staged(claim, position, change, Box::new(staging));
            }
            Self::Staged(claim, position, change, staging) => {
                match store.merge_staged(*staging, &position, change.mode, &claim).await {
                    Err(StoreError::CatalogueChanged) => {
                        *self = Self::Observed(claim, position, change, Stage::Everything)
                    }
                    merged => {
                        merged?;
                        ended.push(claim.id);
                    }
                }
            }
            Self::ClaimedBatch(claims) => {
                let mut files = Vec::new();
                for claim in claims {
                    if claim.removal {
                        let nothing = ObservedVersion::default();
                        match store.observe(&claim, &nothing).await {
                            Ok(position) => {
                                let removal = Some(bucket.removal(&claim));
                                let (mode, rows) = (Mode::Upsert, Vec::new());
                                files.push(SmallFile { claim, position, mode, removal, rows });
                            }
                            Err(StoreError::LeaseLost) => {}
                            Err(error) => return Err(error),
                        }
                        continue;
                    }
                    match read(store, bucket, claim, ended).await {
                        Ok(Some((claim, position, change))) => {
                            let (mode, rows) =
                                (change.mode, change.movies.iter().map(row).collect());
                            let removal = None;
                            files.push(SmallFile { claim, position, mode, removal, rows });
                        }
                        Ok(None) | Err(StoreError::LeaseLost) => {}
                        Err(error) => return Err(error),
                    }
                }
                *self = Self::ReadBatch(files);
            }
            Self::ReadBatch(files) => {
                let merged = store.merge_batch(&files).await?;
                let merged = files.iter().zip(merged).filter(|(_, merged)| merged.is_some());
                ended.extend(merged.map(|(file, _)| file.claim.id));
            }
        }
        Ok(true)
    }
}

/// Reads the object of a claim. Returns the claim with what was observed, the position of its version and what was
/// read, unless that ends the ingest.
async fn read<'a>(
    store: &Store,
    bucket: &Bucket<'a>,
    mut claim: Claim,
    ended: &mut Vec<i64>,
) -> Result<Option<(Claim, VersionPosition, &'a Change)>, StoreError> {
    match bucket.get(&claim) {
        None => store.gone(&claim, "{}").await?,
        Some(change) if claim.etag.as_ref().is_some_and(|etag| *etag != change.etag) => {
            store.supersede(&claim).await?;
        }
        Some(change) => {
            let position = store.observe(&claim, &change.observed()).await?;
            if !change.rejected {
                claim.version_id.clone_from(&change.version_id);
                claim.etag = Some(change.etag.clone());
                return Ok(Some((claim, position, change)));
            }
            store.reject(&claim, "[]", 1).await?;
        }
    }
    ended.push(claim.id);
    Ok(None)
}

/// Makes the changes, delivers their reports and runs the workers to the end, in random order. Returns the ingests
/// that ended, each as often as it ended.
async fn run(
    store: &Store,
    sql: &tokio_postgres::Client,
    schedule: u64,
    changes: &[Change],
    people: &mut People,
    random: &mut Rng,
) -> Vec<i64> {
    let versioned = changes.iter().any(|change| change.version_id.is_some());
    let mut bucket = Bucket { changes, made: 0 };
    // Each event is delivered at least once.
    let mut events: Vec<&Change> = Vec::new();
    let mut reported: Vec<&Change> = Vec::new();
    let mut workers = [Worker::Idle, Worker::Idle, Worker::Idle];
    let has_stepped = |result: Result<bool, StoreError>| match result {
        Ok(has_stepped) => has_stepped,
        // Expected: another worker has claimed the ingest.
        Err(StoreError::LeaseLost) => true,
        Err(error) => panic!("{error:?}"),
    };
    let mut ended = Vec::new();
    while bucket.made < changes.len()
        || !events.is_empty()
        || workers.iter().any(|worker| !matches!(worker, Worker::Idle))
    {
        let worker = &mut workers[random.usize(0..3)];
        match random.u8(0..14) {
            0..2 if bucket.made < changes.len() => {
                let change = &changes[bucket.made];
                bucket.made += 1;
                events.push(change);
                if random.bool() {
                    events.push(change);
                }
                reported.push(change);
                random.shuffle(&mut events);
            }
            2..4 => {
                if let Some(change) = events.pop() {
                    let event = change.event();
                    let report =
                        Report { notification: &event, observed: ObservedVersion::default() };
                    store.record(&report, "", None).await.unwrap();
                }
            }
            4 if random.bool() && !reported.is_empty() => {
                let change = reported[random.usize(0..reported.len())];
                bucket.report(store, change, random).await;
            }
            5 => *worker = Worker::Idle,
            6 if versioned && random.bool() && !reported.is_empty() => {
                let change = reported[random.usize(0..reported.len())];
                decide(store, sql, change, random).await;
            }
            7 if random.bool() => people.act(store, sql, schedule, versioned, random).await,
            _ => {
                // A lease that expires at once lets another worker take over between two steps.
                let lease = if random.bool() { Duration::ZERO } else { Duration::from_millis(10) };
                let lane = if random.bool() { Lane::Small } else { Lane::Large };
                has_stepped(worker.step(store, &bucket, lane, lease, &mut ended).await);
            }
        }
    }
    let [mut last, ..] = workers;
    if versioned && random.bool() {
        settle(store, &bucket, &mut last, &mut ended).await;
        for change in changes {
            if random.u8(0..3) == 0 {
                decide(store, sql, change, random).await;
            }
            if random.u8(0..3) == 0 {
                people.act(store, sql, schedule, versioned, random).await;
            }
        }
    }
    settle(store, &bucket, &mut last, &mut ended).await;
    ended.sort_unstable();
    ended
}

/// Runs a worker until there is nothing to do.
async fn settle<'a>(
    store: &Store,
    bucket: &Bucket<'a>,
    worker: &mut Worker<'a>,
    ended: &mut Vec<i64>,
) {
    // The leases of dead workers expire.
    tokio::time::sleep(Duration::from_millis(12)).await;
    let mut is_idle = false;
    while !is_idle {
        is_idle = true;
        for lane in [Lane::Small, Lane::Large] {
            loop {
                match worker.step(store, bucket, lane, LEASE, ended).await {
                    Ok(false) => break,
                    Ok(true) | Err(StoreError::LeaseLost) => is_idle = false,
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
    }
}

/// Undoes or redoes a version, if it has been merged.
async fn decide(store: &Store, sql: &tokio_postgres::Client, change: &Change, random: &mut Rng) {
    let ingests = "select id from ingests where key = $1 and sequencer = $2";
    let undo = if random.u8(0..3) == 0 { Undo::Redo } else { Undo::Undo };
    for row in sql.query(ingests, &[&change.key, &change.sequencer]).await.unwrap() {
        let before = random.bool();
        if before {
            let dry = store.undo(row.get(0), undo, "test", true).await;
            assert!(matches!(dry, Ok(Some(_)) | Err(StoreError::NotMerged)), "{dry:?}");
        }
        match store.undo(row.get(0), undo, "test", false).await {
            Ok(Some(_)) | Err(StoreError::NotMerged) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// A version that was merged.
#[derive(Clone, Copy)]
struct Merged<'a> {
    change: &'a Change,
    ordered_at: DateTime<Utc>,
    undone: bool,
}

impl std::fmt::Debug for Merged<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { change, ordered_at, undone } = self;
        let Change { key, version_id, sequencer, mode, removal, movies, .. } = change;
        let at = ordered_at.format("%S%.3f");
        let id = version_id.as_deref().unwrap_or("-");
        write!(f, "\n{key} {id} {sequencer} {at} {mode:?}")?;
        write!(f, " removal={removal} rejected={} undone={undone}", change.rejected)?;
        movies.iter().try_for_each(|movie| write!(f, " {}{}", movie["title"], movie["genres"]))
    }
}

/// Returns the catalogue after these versions, which are in their order, and what people have done.
fn model(versions: &[Merged<'_>], people: &People) -> Vec<Value> {
    let is_active = |index: usize| {
        let Merged { change, undone, .. } = versions[index];
        // A later removal with its id has removed this version, or delete marker.
        let is_deleted = || {
            let id = &change.version_id;
            let mut newer = versions[index + 1..].iter().map(|newer| newer.change);
            let is_same = |newer: &Change| newer.key == change.key && newer.version_id == *id;
            id.is_some() && newer.any(|newer| newer.deletion && is_same(newer))
        };
        let is_upsert = change.mode == Mode::Upsert && !change.removal;
        !undone && !change.rejected && !change.deletion && (is_upsert || !is_deleted())
    };
    let counts = |index: usize| {
        let change = versions[index].change;
        let newer = || (index + 1..versions.len()).filter(|newer| is_active(*newer));
        let is_silenced = newer().map(|newer| versions[newer].change).any(|newer| {
            newer.key == change.key
                && (newer.mode == Mode::Snapshot || newer.removal && change.mode == Mode::Snapshot)
        });
        !change.removal && is_active(index) && !is_silenced
    };
    let mut movies = BTreeMap::new();
    for index in (0..versions.len()).filter(|index| counts(*index)) {
        let Merged { change, ordered_at, .. } = versions[index];
        let title = |movie: &Value| movie["title"].as_str().unwrap().to_owned();
        let of_version = change.movies.iter();
        movies.extend(of_version.map(|movie| (title(movie), (ordered_at, movie.clone()))));
    }
    people.apply(movies).into_values().collect()
}

/// Returns the versions that were merged, in their order.
async fn merged<'a>(
    sql: &tokio_postgres::Client,
    schedule: u64,
    changes: &'a [Change],
) -> Vec<Merged<'a>> {
    let merged =
        "select i.key, i.etag, i.version_id, i.sequencer, i.removal, i.ordered_at, v.undone
        from ingests i left join merged_versions v on v.ingest_id = i.id
        where i.key like $1
            and (i.state = 'succeeded' or i.superseded_reason = 'newer_version_merged')
        order by i.ordered_at, i.key collate \"C\", i.bucket,
            rpad(coalesce(i.sequencer, ''), 64, '0') collate \"C\"";
    let rows = sql.query(merged, &[&format!("{schedule}/%")]).await.unwrap();
    let version = |row: &tokio_postgres::Row| {
        let (key, removal): (&str, bool) = (row.get("key"), row.get("removal"));
        let [etag, version_id, sequencer] =
            ["etag", "version_id", "sequencer"].map(|column| row.get::<_, Option<&str>>(column));
        let change = changes.iter().find(|change| {
            change.key == key
                && change.removal == removal
                && (removal || Some(&*change.etag) == etag)
                && (version_id.is_none() || change.version_id.as_deref() == version_id)
                && (!removal || Some(&*change.sequencer) == sequencer)
        });
        let (ordered_at, undone) = (row.get("ordered_at"), row.get("undone"));
        Merged { change: change.unwrap(), ordered_at, undone }
    };
    rows.iter().map(version).collect()
}

/// Returns how many versions have a position before that of an older version of the same object.
async fn disordered(sql: &tokio_postgres::Client, schedule: u64) -> i64 {
    let disordered = "select count(*)
        from ingests older join ingests newer using (bucket, key)
        where key like $1 and older.sequencer < newer.sequencer
            and older.ordered_at > newer.ordered_at
            and older.state <> 'gone' and newer.state <> 'gone'";
    sql.query_one(disordered, &[&format!("{schedule}/%")]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_version_of_each_object_wins_in_every_schedule() {
    let setting = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let count = setting("MRU_TEST_SCHEDULES").unwrap_or(300);
    let first = setting("MRU_TEST_SEED").unwrap_or_else(|| fastrand::u64(0..1 << 32));
    let service = Service::start_without_workers().await;
    let store = service.store(4).await;
    let sql = service.sql().await;
    for seed in first..first + count {
        let mut random = Rng::with_seed(seed);
        let (versioned, skew) = (random.bool(), random.u8(0..4) == 0);
        let changes = changes(&mut random, seed, versioned, skew);
        let mut people = People::default();
        let ended = run(&store, &sql, seed, &changes, &mut people, &mut random).await;
        let twice = ended.windows(2).any(|pair| pair[0] == pair[1]);
        let again = versioned || changes.iter().any(|change| change.removal);
        assert!(again || !twice, "MRU_TEST_SEED={seed}: an ingest ended twice: {ended:?}");
        let found = service.movies_without_ids(&format!("title={seed}-&sort=title")).await;
        let merged = merged(&sql, seed, &changes).await;
        assert_eq!(found, model(&merged, &people), "MRU_TEST_SEED={seed}: {merged:?} {people:?}");
        let disordered = disordered(&sql, seed).await;
        assert_eq!(disordered, 0, "MRU_TEST_SEED={seed}: positions contradict sequencers");
        if versioned && !skew {
            let all = changes.iter().map(|change| {
                let mut same = merged.iter().filter(|merged| std::ptr::eq(merged.change, change));
                let ordered_at = same.clone().map(|merged| merged.ordered_at).max();
                let ordered_at = ordered_at.unwrap_or(change.event_time);
                Merged { change, ordered_at, undone: same.any(|merged| merged.undone) }
            });
            let all: Vec<Merged> = all.collect();
            let expected = model(&all, &people);
            assert_eq!(
                found, expected,
                "MRU_TEST_SEED={seed}: {all:?}, merged {merged:?} {people:?}"
            );
        }
    }
    for state in ["queued", "running"] {
        let open = service.get(&format!("/ingests?state={state}")).await.json();
        assert_eq!(open, json!([]), "an ingest is still {state}");
    }
}
