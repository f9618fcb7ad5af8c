//! Random interleavings of workers, compared with a model.
//!
//! Each schedule has a few uploads: keys that share movies, corrections, rejected files. Their
//! notifications arrive in random order, some repeatedly. Three workers interleave their steps at
//! random; their leases expire, and they continue nevertheless or die. In the end the catalogue must
//! equal the model, which applies the uploads in version order, and each ingest must have ended once.
//!
//! `MRU_TEST_SCHEDULES` is the number of schedules (300), `MRU_TEST_SEED` the first seed.

use std::{collections::BTreeMap, time::Duration};

use fastrand::Rng;
use rest_api::store::{Claim, ObservedVersion, Stage, Staging, Store, StoreError, VersionPosition};
use schema::Notification;
use serde_json::{Value, json};

use crate::support::{
    BUCKET, Service,
    ledger::{LEASE, parse, record, row},
    movies::movie,
};

/// A version of an object.
struct Upload {
    notification: Notification,
    movies: Vec<Value>,
    rejected: bool,
}

/// Returns random uploads in version order: by time, then by key.
fn uploads(random: &mut Rng, schedule: u64) -> Vec<Upload> {
    let mut second = 0;
    let mut uploads: Vec<(u32, String, Upload)> = (0..random.usize(2..7))
        .map(|number| {
            second += random.u32(0..3);
            let key = format!("{schedule}/{}.json", random.u8(0..3));
            let notification = json!({
                "bucket": BUCKET, "key": key, "version_id": format!("v{number}"),
                "event_time": format!("2026-01-01T00:00:{second:02}Z"),
                "sequencer": format!("{number:04X}"),
            });
            let rejected = random.u8(0..5) == 0;
            let movies = (0..4).filter(|_| random.bool()).collect::<Vec<_>>();
            let movies = movies.into_iter().map(|number| {
                movie(&format!("{schedule}-{number}"), ["a", "b", "c"][random.usize(0..3)])
            });
            let movies = movies.collect();
            let notification = parse(&notification);
            (second, key, Upload { notification, movies, rejected })
        })
        .collect();
    // A stable sort: versions of one key stay in the order of their sequencers.
    uploads.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
    uploads.into_iter().map(|(.., upload)| upload).collect()
}

/// Returns the catalogue after the uploads in version order.
fn model(uploads: &[Upload]) -> Vec<Value> {
    let accepted = uploads.iter().filter(|upload| !upload.rejected);
    let movies = accepted.flat_map(|upload| &upload.movies);
    let by_title: BTreeMap<String, Value> =
        movies.map(|movie| (movie["title"].to_string(), movie.clone())).collect();
    by_title.into_values().collect()
}

/// The progress of a worker.
enum Worker {
    Idle,
    Claimed(Claim),
    /// With the rows to stage.
    Observed(Claim, VersionPosition, Stage),
    Staged(Claim, VersionPosition, Box<Staging>),
}

impl Worker {
    /// Does one step. Returns false if there was none to do. Adds an ingest that it ends to `ended`.
    async fn step(
        &mut self,
        store: &Store,
        uploads: &[Upload],
        lease: Duration,
        ended: &mut Vec<i64>,
    ) -> Result<bool, StoreError> {
        match std::mem::replace(self, Self::Idle) {
            Self::Idle => {
                let Some(claim) = store.claim(lease).await? else { return Ok(false) };
                *self = Self::Claimed(claim);
            }
            Self::Claimed(claim) => {
                let position = store.observe(&claim, &ObservedVersion::default()).await?;
                *self = Self::Observed(claim, position, Stage::Changes);
            }
            Self::Observed(claim, position, stage) => {
                let version = claim.version_id.as_deref();
                let mut versions = uploads.iter();
                let upload = versions.find(|upload| {
                    *upload.notification.key == claim.key
                        && upload.notification.version_id.as_deref() == version
                });
                let upload = upload.unwrap();
                if upload.rejected {
                    store.reject(&claim, "[]", 1).await?;
                    ended.push(claim.id);
                    return Ok(true);
                }
                let rows: Vec<_> = upload.movies.iter().map(row).collect();
                let mut staging = store.staging(&claim, stage).await?;
                staging.add(&rows).await?;
                *self = Self::Staged(claim, position, Box::new(staging));
            }
            Self::Staged(claim, position, staging) => {
                match staging.merge_ingest(&position, &claim).await {
                    Err(StoreError::CatalogueChanged) => {
                        *self = Self::Observed(claim, position, Stage::Everything)
                    }
                    merged => {
                        merged?;
                        ended.push(claim.id);
                    }
                }
            }
        }
        Ok(true)
    }
}

/// Delivers all notifications and runs the workers to the end, in random order. Returns the ingests
/// that ended, each as often as it ended.
async fn run(store: &Store, uploads: &[Upload], random: &mut Rng) -> Vec<i64> {
    let mut deliveries: Vec<&Upload> = uploads.iter().collect();
    deliveries.extend(uploads.iter().filter(|_| random.bool()));
    random.shuffle(&mut deliveries);
    let mut workers = [Worker::Idle, Worker::Idle, Worker::Idle];
    let has_stepped = |result: Result<bool, StoreError>| match result {
        Ok(has_stepped) => has_stepped,
        // Expected: another worker has claimed the ingest.
        Err(StoreError::LeaseLost) => true,
        Err(error) => panic!("{error:?}"),
    };
    let mut ended = Vec::new();
    while !deliveries.is_empty() || workers.iter().any(|worker| !matches!(worker, Worker::Idle)) {
        let worker = &mut workers[random.usize(0..3)];
        match random.u8(0..8) {
            0..3 => {
                if let Some(upload) = deliveries.pop() {
                    record(store, &upload.notification).await;
                }
            }
            3 => *worker = Worker::Idle,
            _ => {
                // A lease that expires at once lets another worker take over between two steps.
                let lease = if random.bool() { Duration::ZERO } else { Duration::from_millis(10) };
                has_stepped(worker.step(store, uploads, lease, &mut ended).await);
            }
        }
    }
    // The leases of dead workers expire.
    tokio::time::sleep(Duration::from_millis(12)).await;
    let [mut last, ..] = workers;
    while has_stepped(last.step(store, uploads, LEASE, &mut ended).await) {}
    ended.sort_unstable();
    ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_version_of_each_object_wins_in_every_schedule() {
    let setting = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let count = setting("MRU_TEST_SCHEDULES").unwrap_or(300);
    let first = setting("MRU_TEST_SEED").unwrap_or_else(|| fastrand::u64(0..1 << 32));
    let service = Service::start_without_workers().await;
    let store = service.store(4).await;
    for seed in first..first + count {
        let mut random = Rng::with_seed(seed);
        let uploads = uploads(&mut random, seed);
        let ended = run(&store, &uploads, &mut random).await;
        assert_eq!(ended.len(), uploads.len(), "MRU_TEST_SEED={seed}: an ingest did not end");
        let twice = ended.windows(2).any(|pair| pair[0] == pair[1]);
        assert!(!twice, "MRU_TEST_SEED={seed}: an ingest ended twice: {ended:?}");
        let found = service.movies_without_ids(&format!("title={seed}-&sort=title")).await;
        assert_eq!(found, model(&uploads), "MRU_TEST_SEED={seed}");
    }
    let open = service.get("/ingests?state=queued").await.json();
    assert_eq!(open, json!([]), "an ingest is still queued");
}
