//! Random interleavings of puts, deliveries and workers, compared with a model.
//!
//! Each schedule has a few uploads: keys that share movies, corrections, equal content, multipart uploads,
//! rejected files; into a bucket that keeps versions, or one that does not. They are reported by events,
//! some repeatedly; by notifications with the etag alone or without anything; and by reconciling. Reports
//! arrive in random order. Three workers interleave their steps at random, one file or a batch at a time;
//! their leases expire, and they continue nevertheless or die.
//!
//! In the end each ingest must have ended once, and the catalogue must equal the model, which applies the
//! merged versions in their order. If the bucket keeps versions, that is the order of the uploads, unless
//! the times of the events contradict it; versions of one object are in the order of their sequencers even
//! then.
//!
//! `MRU_TEST_SCHEDULES` is the number of schedules (300), `MRU_TEST_SEED` the first seed.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use fastrand::Rng;
use rest_api::store::{
    Claim, Lane, ObservedVersion, Report, SmallFile, Stage, Staging, Store, StoreError,
    VersionPosition,
};
use schema::Notification;
use serde_json::{Value, json};

use crate::support::{
    BUCKET, Service,
    ledger::{LEASE, parse, row},
    movies::movie,
};

/// A version of an object.
struct Upload {
    key: String,
    /// Determined by the content, as S3 does.
    etag: String,
    version_id: Option<String>,
    sequencer: String,
    event_time: DateTime<Utc>,
    last_modified: DateTime<Utc>,
    size: i64,
    movies: Vec<Value>,
    rejected: bool,
}

impl Upload {
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
        parse(&json!({
            "bucket": BUCKET, "key": self.key, "version_id": self.version_id, "etag": self.etag,
            "event_time": self.event_time, "sequencer": self.sequencer, "size": self.size,
        }))
    }
}

/// Returns random uploads in the order of their events. With `skew` their times contradict it.
fn uploads(random: &mut Rng, schedule: u64, versioned: bool, skew: bool) -> Vec<Upload> {
    let mut time: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
    (0..random.usize(2..8))
        .map(|number| {
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
            Upload {
                etag: format!("{rejected} {}", json!(movies)),
                key,
                version_id: versioned.then(|| format!("v{number}")),
                sequencer: format!("{number:04X}"),
                event_time,
                // Of a multipart upload it is when the upload began.
                last_modified: event_time.trunc_subsecs(0) - TimeDelta::seconds(multipart),
                size: if random.bool() { 100 } else { 1 << 20 },
                movies,
                rejected,
            }
        })
        .collect()
}

/// The bucket: the uploads that were put so far.
struct Bucket<'a> {
    uploads: &'a [Upload],
    put: usize,
}

impl<'a> Bucket<'a> {
    fn current(&self, key: &str) -> &'a Upload {
        self.uploads[..self.put].iter().rfind(|upload| upload.key == key).unwrap()
    }

    /// Returns what a GET returns.
    fn get(&self, claim: &Claim) -> &'a Upload {
        match &claim.version_id {
            Some(id) => {
                let mut uploads = self.uploads.iter();
                uploads.find(|upload| upload.version_id.as_ref() == Some(id)).unwrap()
            }
            None => self.current(&claim.key),
        }
    }

    /// Reports an upload in a random way.
    async fn report(&self, store: &Store, upload: &Upload, random: &mut Rng) {
        let mut notification = upload.event();
        let mut observed = ObservedVersion::default();
        if random.u8(0..3) == 0 {
            // Without details. S3 is asked, if it responds.
            notification.sequencer = None;
            notification.event_time = None;
            notification.version_id = None;
            notification.size = None;
            if random.bool() {
                notification.etag = None;
            }
            let current = self.current(&upload.key).observed();
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
    Observed(Claim, VersionPosition, &'a Upload, Stage),
    Staged(Claim, VersionPosition, &'a Upload, Box<Staging>),
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
                Some(claim) => *self = Self::Claimed(claim),
            },
            Self::Claimed(claim) => {
                if let Some((position, upload)) = read(store, bucket, &claim, ended).await? {
                    *self = Self::Observed(claim, position, upload, Stage::Changes);
                }
            }
            Self::Observed(claim, position, upload, stage) => {
                let rows: Vec<_> = upload.movies.iter().map(row).collect();
                let mut staging = store.staging(&claim, stage).await?;
                staging.add(&rows).await?;
                *self = Self::Staged(claim, position, upload, Box::new(staging));
            }
            Self::Staged(claim, position, upload, staging) => {
                match store.merge_staged(*staging, &position, &claim).await {
                    Err(StoreError::CatalogueChanged) => {
                        *self = Self::Observed(claim, position, upload, Stage::Everything)
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
                    match read(store, bucket, &claim, ended).await {
                        Ok(Some((position, upload))) => {
                            let rows = upload.movies.iter().map(row).collect();
                            files.push(SmallFile { claim, position, rows });
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

/// Reads the object of a claim. Returns the position of its version and what was read, unless that ends
/// the ingest.
async fn read<'a>(
    store: &Store,
    bucket: &Bucket<'a>,
    claim: &Claim,
    ended: &mut Vec<i64>,
) -> Result<Option<(VersionPosition, &'a Upload)>, StoreError> {
    let upload = bucket.get(claim);
    if claim.etag.as_ref().is_some_and(|etag| *etag != upload.etag) {
        store.supersede(claim).await?;
    } else {
        let position = store.observe(claim, &upload.observed()).await?;
        if !upload.rejected {
            return Ok(Some((position, upload)));
        }
        store.reject(claim, "[]", 1).await?;
    }
    ended.push(claim.id);
    Ok(None)
}

/// Puts the uploads, delivers their reports and runs the workers to the end, in random order. Returns
/// the ingests that ended, each as often as it ended.
async fn run(store: &Store, uploads: &[Upload], random: &mut Rng) -> Vec<i64> {
    let mut bucket = Bucket { uploads, put: 0 };
    // Each event is delivered at least once.
    let mut events: Vec<&Upload> = Vec::new();
    let mut reported: Vec<&Upload> = Vec::new();
    let mut workers = [Worker::Idle, Worker::Idle, Worker::Idle];
    let has_stepped = |result: Result<bool, StoreError>| match result {
        Ok(has_stepped) => has_stepped,
        // Expected: another worker has claimed the ingest.
        Err(StoreError::LeaseLost) => true,
        Err(error) => panic!("{error:?}"),
    };
    let mut ended = Vec::new();
    while bucket.put < uploads.len()
        || !events.is_empty()
        || workers.iter().any(|worker| !matches!(worker, Worker::Idle))
    {
        let worker = &mut workers[random.usize(0..3)];
        match random.u8(0..12) {
            0..2 if bucket.put < uploads.len() => {
                let upload = &uploads[bucket.put];
                bucket.put += 1;
                events.push(upload);
                if random.bool() {
                    events.push(upload);
                }
                reported.push(upload);
                random.shuffle(&mut events);
            }
            2..4 => {
                if let Some(upload) = events.pop() {
                    let event = upload.event();
                    let report =
                        Report { notification: &event, observed: ObservedVersion::default() };
                    store.record(&report, "", None).await.unwrap();
                }
            }
            4 if random.bool() && !reported.is_empty() => {
                let upload = reported[random.usize(0..reported.len())];
                bucket.report(store, upload, random).await;
            }
            5 => *worker = Worker::Idle,
            _ => {
                // A lease that expires at once lets another worker take over between two steps.
                let lease = if random.bool() { Duration::ZERO } else { Duration::from_millis(10) };
                let lane = if random.bool() { Lane::Small } else { Lane::Large };
                has_stepped(worker.step(store, &bucket, lane, lease, &mut ended).await);
            }
        }
    }
    // The leases of dead workers expire.
    tokio::time::sleep(Duration::from_millis(12)).await;
    let [mut last, ..] = workers;
    for lane in [Lane::Small, Lane::Large] {
        while has_stepped(last.step(store, &bucket, lane, LEASE, &mut ended).await) {}
    }
    ended.sort_unstable();
    ended
}

/// Returns the catalogue after `uploads` in this order.
fn model<'a>(uploads: impl Iterator<Item = &'a Upload>) -> Vec<Value> {
    let movies = uploads.filter(|upload| !upload.rejected).flat_map(|upload| &upload.movies);
    let by_title: BTreeMap<String, Value> =
        movies.map(|movie| (movie["title"].to_string(), movie.clone())).collect();
    by_title.into_values().collect()
}

/// Returns the uploads that were merged, in the order of their versions.
async fn merged<'a>(
    sql: &tokio_postgres::Client,
    schedule: u64,
    uploads: &'a [Upload],
) -> Vec<&'a Upload> {
    let merged = "select key, etag from ingests
        where key like $1 and (state = 'succeeded' or superseded_reason = 'newer_version_merged')
        order by ordered_at, key collate \"C\", bucket,
            rpad(coalesce(sequencer, ''), 64, '0') collate \"C\"";
    let rows = sql.query(merged, &[&format!("{schedule}/%")]).await.unwrap();
    let upload = |row: &tokio_postgres::Row| {
        let (key, etag): (&str, &str) = (row.get(0), row.get(1));
        uploads.iter().find(|upload| upload.key == key && upload.etag == etag).unwrap()
    };
    rows.iter().map(upload).collect()
}

/// Returns how many versions have a position before that of an older version of the same object.
async fn disordered(sql: &tokio_postgres::Client, schedule: u64) -> i64 {
    let disordered = "select count(*)
        from ingests older join ingests newer using (bucket, key)
        where key like $1 and older.sequencer < newer.sequencer
            and older.ordered_at > newer.ordered_at";
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
        let uploads = uploads(&mut random, seed, versioned, skew);
        let ended = run(&store, &uploads, &mut random).await;
        let twice = ended.windows(2).any(|pair| pair[0] == pair[1]);
        assert!(!twice, "MRU_TEST_SEED={seed}: an ingest ended twice: {ended:?}");
        let found = service.movies_without_ids(&format!("title={seed}-&sort=title")).await;
        let merged = merged(&sql, seed, &uploads).await;
        assert_eq!(found, model(merged.into_iter()), "MRU_TEST_SEED={seed}");
        let disordered = disordered(&sql, seed).await;
        assert_eq!(disordered, 0, "MRU_TEST_SEED={seed}: positions contradict sequencers");
        if versioned && !skew {
            assert_eq!(found, model(uploads.iter()), "MRU_TEST_SEED={seed}, versions kept");
        }
    }
    for state in ["queued", "running"] {
        let open = service.get(&format!("/ingests?state={state}")).await.json();
        assert_eq!(open, json!([]), "an ingest is still {state}");
    }
}
