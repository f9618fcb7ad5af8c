//! Many small files in random order of their times, over the same movies.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use fastrand::Rng;
use rest_api::store::{ObservedVersion, Store};
use schema::Notification;
use serde_json::{Value, json};

use super::environment::{Environment, Part};
use crate::{
    files::{self, CONCURRENCY, Genres, movie},
    ledger,
    report::{Figures, text},
    service::record_all,
    stack::BUCKET,
};

/// How many movies the files are about.
const MOVIES: usize = 50_000;

/// How many files are measured together.
const CHUNK: usize = 1_000;

/// How many of the chunks are shown.
const SHOWN: usize = 10;

/// The target: how much longer the last chunk takes than the first one.
const MAX_RATIO: f64 = 1.5;

/// The time of the first file; the others follow, a second apart.
const FIRST: &str = "2023-01-01T00:00:00Z";

/// A file of one or two movies.
struct File {
    /// Its place in the order of times.
    place: usize,
    movies: Vec<usize>,
}

impl File {
    fn key(&self) -> String {
        format!("random-{}.json", self.place)
    }

    fn genre(&self) -> String {
        format!("Genre {}", self.place)
    }

    fn body(&self) -> Vec<u8> {
        let movies: Vec<Value> =
            self.movies.iter().map(|number| movie(&title(*number), &self.genre())).collect();
        json!(movies).to_string().into_bytes()
    }

    fn notification(&self, first: DateTime<Utc>) -> Result<Notification> {
        let time = first + TimeDelta::seconds(self.place as i64);
        let notification = json!({
            "bucket": BUCKET, "key": self.key(), "event_time": time.to_rfc3339(),
            "sequencer": format!("{:016X}", self.place), "size": self.body().len(),
        });
        Ok(serde_json::from_value(notification)?)
    }
}

fn title(number: usize) -> String {
    format!("Movie {number}")
}

/// Measures `count` files, [`CHUNK`] at a time, and checks the catalogue.
pub(super) async fn measure(
    environment: &Environment,
    count: usize,
    figures: &mut Figures,
) -> Result<()> {
    let part = environment.create("files").await?;
    let files = files_in_random_order(count);
    let store = part.store().await?;
    let service = environment.service(&part).await?;
    let (mut times, mut fetches, mut recorded) = (Vec::new(), Vec::new(), 0);
    for chunk in files.chunks(CHUNK) {
        let objects = chunk.iter().map(|file| (file.key(), file.body()));
        files::put_all(&environment.s3, BUCKET, objects).await?;
        recorded += chunk.len();
        times.push(settle_chunk(&part, &store, chunk, recorded).await?);
        if recorded == CHUNK.min(count) || recorded == count {
            fetches.push(fetch_chunk(environment, chunk).await?);
        }
    }
    service.stop().await?;
    let is_correct = files::read_catalogue(&part.sql).await? == expected(&files);
    ensure!(is_correct, "the catalogue differs from that of the files in order of their times");
    report(count, &times, &fetches, figures)
}

/// Returns the files in the order in which they are recorded; it is the same in every run.
fn files_in_random_order(count: usize) -> Vec<File> {
    let mut random = Rng::with_seed(2026);
    let mut places: Vec<usize> = (0..count).collect();
    random.shuffle(&mut places);
    let file = |place| {
        let movies = (0..random.usize(1..3)).map(|_| random.usize(0..MOVIES)).collect();
        File { place, movies }
    };
    places.into_iter().map(file).collect()
}

/// Returns the genre of each title after all files were merged in the order of their times.
fn expected(files: &[File]) -> Genres {
    let mut in_order: Vec<&File> = files.iter().collect();
    in_order.sort_by_key(|file| file.place);
    let genres = in_order
        .into_iter()
        .flat_map(|file| file.movies.iter().map(|number| (title(*number), file.genre())));
    genres.collect()
}

/// Records a chunk, and waits until all its ingests have ended. Returns the time from the first record
/// to the last end.
async fn settle_chunk(
    part: &Part,
    store: &Store,
    chunk: &[File],
    recorded: usize,
) -> Result<Duration> {
    let first: DateTime<Utc> = FIRST.parse()?;
    let notifications: Vec<Notification> =
        chunk.iter().map(|file| file.notification(first)).collect::<Result<_>>()?;
    let newest = "select coalesce(max(id), 0) from ingests";
    let newest: i64 = part.sql.query_one(newest, &[]).await?.get(0);
    record_all(store, &notifications, &ObservedVersion::default()).await?;
    ledger::settle(&part.sql, recorded, |_| Ok(())).await?;
    let ended = ledger::ended(&part.sql, newest).await?;
    ensure!(ended.len() == chunk.len(), "{} ingests of {} files", ended.len(), chunk.len());
    Ok(ledger::span(&ended, |ended| ended.received_at))
}

/// Returns how long fetching the objects of a chunk takes.
async fn fetch_chunk(environment: &Environment, chunk: &[File]) -> Result<Duration> {
    let keys: Vec<String> = chunk.iter().map(File::key).collect();
    let started = Instant::now();
    files::fetch_all(&environment.s3, BUCKET, &keys, CONCURRENCY).await?;
    Ok(started.elapsed())
}

fn report(
    count: usize,
    times: &[Duration],
    fetches: &[Duration],
    figures: &mut Figures,
) -> Result<()> {
    let first = *times.first().context("--files must be at least 1")?;
    let last = *times.last().unwrap_or(&first);
    let name = format!("{count} files in random order over {MOVIES} movies");
    figures.state(&format!("{name}: the first {CHUNK}"), &text(first));
    figures.state(&format!("the last {CHUNK}"), &text(last));
    let ratio = last.as_secs_f64() / first.as_secs_f64();
    figures.ratio("times the first ones", ratio, MAX_RATIO);
    let shown = times.iter().step_by(times.len().div_ceil(SHOWN)).copied().map(text);
    figures.state(&format!("{CHUNK} each, along the way"), &shown.collect::<Vec<_>>().join(", "));
    let fetches: Vec<String> = fetches.iter().copied().map(text).collect();
    figures.state("fetching their objects alone, first and last", &fetches.join(", "));
    Ok(())
}
