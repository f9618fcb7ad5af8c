//! Random histories of uploads, told of in random schedules, against a model.
//!
//! Each schedule draws a few uploads (keys that share movies, corrections, rejected files), and
//! delivers their notifications permuted and repeated to three workers, whose steps interleave at
//! random, who lose their leases, go on as zombies, or die. In the end the catalogue must be what
//! the uploads in their order make of it, and each ingest must have ended once.
//!
//! `MRU_TEST_SCHEDULES` says how many (300), `MRU_TEST_SEED` where to begin.

use std::{collections::BTreeMap, time::Duration};

use fastrand::Rng;
use rest_api::store::{CatalogueRow, Claim, Observed, Place, Staging, Store, StoreError};
use schema::{Movie, Notification};
use serde_json::{Value, json};

use crate::service::{BUCKET, Service, no_secrets, without_id};

/// A version of an object.
struct Upload {
    notification: Notification,
    movies: Vec<Value>,
    rejected: bool,
}

/// Uploads in their order: by time, then by key.
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
            let movies = movies.into_iter().map(|movie| {
                let genres = [["a", "b", "c"][random.usize(0..3)]];
                json!({ "title": format!("{schedule}-{movie}"), "year": 2000, "cast": [], "genres": genres })
            });
            let movies = movies.collect();
            let notification = schema::parse(notification.to_string().as_bytes()).unwrap();
            (second, key, Upload { notification, movies, rejected })
        })
        .collect();
    // Stable: versions of one key stay in the order of their sequencers.
    uploads.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
    uploads.into_iter().map(|(.., upload)| upload).collect()
}

/// What the uploads make of the catalogue, one after the other.
fn model(uploads: &[Upload]) -> Vec<Value> {
    let taken = uploads.iter().filter(|upload| !upload.rejected);
    let movies = taken.flat_map(|upload| &upload.movies);
    let by_title: BTreeMap<String, Value> =
        movies.map(|movie| (movie["title"].to_string(), movie.clone())).collect();
    by_title.into_values().collect()
}

/// How far a worker has come.
enum Worker {
    Idle,
    Claimed(Claim),
    /// To be compared with what the catalogue has, or not.
    Placed(Claim, Place, bool),
    Staged(Claim, Place, Box<Staging>),
}

impl Worker {
    /// Takes one step. Returns whether there was one to take. An ingest that it ends is added to
    /// `ended`.
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
                let place = store.observe(&claim, &Observed::default()).await?;
                *self = Self::Placed(claim, place, true);
            }
            Self::Placed(claim, place, compare) => {
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
                let rows = upload.movies.iter().map(|movie| {
                    let movie: Movie = schema::parse(movie.to_string().as_bytes()).unwrap();
                    CatalogueRow::new(&movie)
                });
                let rows: Vec<_> = rows.collect();
                let mut staging = store.staging(&claim, compare).await?;
                staging.add(&rows).await?;
                *self = Self::Staged(claim, place, Box::new(staging));
            }
            Self::Staged(claim, place, staging) => match staging.merge(&place, &claim).await {
                Err(StoreError::Moved) => *self = Self::Placed(claim, place, false),
                merged => {
                    merged?;
                    ended.push(claim.id);
                }
            },
        }
        Ok(true)
    }
}

/// Delivers everything, lets the workers work in any order, and then to the end. Returns the ingests
/// that somebody was allowed to end, each as often as that was so.
async fn run(store: &Store, uploads: &[Upload], random: &mut Rng) -> Vec<i64> {
    let mut deliveries: Vec<&Upload> = uploads.iter().collect();
    deliveries.extend(uploads.iter().filter(|_| random.bool()));
    random.shuffle(&mut deliveries);
    let mut workers = [Worker::Idle, Worker::Idle, Worker::Idle];
    let settled = |result: Result<bool, StoreError>| match result {
        Ok(went) => went,
        // Somebody else has the ingest: as it should be.
        Err(StoreError::LeaseLost) => true,
        Err(error) => panic!("{error:?}"),
    };
    let mut ended = Vec::new();
    while !deliveries.is_empty() || workers.iter().any(|worker| !matches!(worker, Worker::Idle)) {
        let worker = &mut workers[random.usize(0..3)];
        match random.u8(0..8) {
            0..3 => {
                if let Some(upload) = deliveries.pop() {
                    store
                        .record(&upload.notification, &Observed::default(), "", None)
                        .await
                        .unwrap();
                }
            }
            3 => *worker = Worker::Idle,
            _ => {
                // A lease that is over at once lets another worker take over in the middle.
                let lease = if random.bool() { Duration::ZERO } else { Duration::from_millis(10) };
                settled(worker.step(store, uploads, lease, &mut ended).await);
            }
        }
    }
    // What the dead have left is free when its lease is over.
    tokio::time::sleep(Duration::from_millis(12)).await;
    let [mut last, ..] = workers;
    let lease = Duration::from_secs(60);
    while settled(last.step(store, uploads, lease, &mut ended).await) {}
    ended.sort_unstable();
    ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_schedule_the_newest_version_of_each_file_wins() {
    let setting = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let count = setting("MRU_TEST_SCHEDULES").unwrap_or(300);
    let first = setting("MRU_TEST_SEED").unwrap_or_else(|| fastrand::u64(0..1 << 32));
    let service = Service::start_with(|config| config.workers = 0).await;
    let store = Store::new(&service.database, &no_secrets(), 4).await.unwrap();
    for seed in first..first + count {
        let mut random = Rng::with_seed(seed);
        let uploads = uploads(&mut random, seed);
        let ended = run(&store, &uploads, &mut random).await;
        assert_eq!(ended.len(), uploads.len(), "MRU_TEST_SEED={seed}: every ingest ends");
        let twice = ended.windows(2).any(|pair| pair[0] == pair[1]);
        assert!(!twice, "MRU_TEST_SEED={seed}: {ended:?}: an ingest ends once");
        let found = service.movies(&format!("title={seed}-&sort=title")).await;
        let found: Vec<Value> = found.iter().map(without_id).collect();
        assert_eq!(found, model(&uploads), "MRU_TEST_SEED={seed}");
    }
    let open = service.get("/ingests?state=queued").await.json();
    assert_eq!(open, json!([]), "nothing is left over");
}
