//! Measures many producers that put small files concurrently through the whole local stack: S3
//! endpoint, events, Lambda, API, workers.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::Client;
use local_stack::{Stack, client};
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    files::{self, Genres, movie},
    ledger::{self, Ended},
    report::{Figures, text},
    stack::{BUCKET, connect, with_directory, with_stack},
};

/// The number of movies in a file.
pub(crate) const MOVIES_PER_FILE: usize = 5;

/// One of this many puts is a new version of the previous file.
const CORRECTION_INTERVAL: usize = 10;

/// The targets: files settled a second after a burst, and the longest wait at a steady rate.
const MIN_SETTLED: f64 = 250.0;
const MAX_WAIT: Duration = Duration::from_secs(3);

/// What the producers put.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// The number of producers.
    pub(crate) producers: usize,
    /// The number of files that all of them put together.
    pub(crate) files: usize,
    /// How many files they put a second together; as fast as they can if `None`.
    pub(crate) rate: Option<f64>,
}

/// Lets producers put files, waits until every ingest has ended, and checks every movie. Prints the
/// figures.
pub(crate) async fn measure(load: Load) -> Result<()> {
    let figures = with_directory(async |directory| {
        with_stack(directory, async |stack| run(stack, load).await).await
    });
    figures.await?.print();
    Ok(())
}

/// What one producer has done.
#[derive(Default)]
struct Produced {
    /// The genre of each title put last.
    genres: Genres,
    /// The key and the time of each put, in order.
    puts: Vec<(String, SystemTime)>,
    /// When the last put had ended.
    ended_at: Option<SystemTime>,
}

async fn run(stack: &Stack, load: Load) -> Result<Figures> {
    let Load { producers, files, .. } = load;
    let sql = connect(stack).await?;
    let mut figures = Figures::default();
    figures.condition(ledger::durability(&sql).await?);
    let pace =
        load.rate.map_or("as fast as they can".to_owned(), |rate| format!("{rate} a second"));
    figures.condition(format!(
        "{producers} producers put {files} files of {MOVIES_PER_FILE} movies, {pace}, through the \
         whole local stack."
    ));

    let mut producing = JoinSet::new();
    let start = Instant::now();
    for producer in 0..producers {
        producing.spawn(produce(client(stack.s3), producer, load, start));
    }
    let (mut produced, mut depth) = (Produced::default(), 0);
    ledger::settle(&sql, files, |pending| {
        depth = depth.max(pending.queued);
        while let Some(ended) = producing.try_join_next() {
            let Produced { genres, puts, ended_at } = ended??;
            produced.genres.extend(genres);
            produced.puts.extend(puts);
            produced.ended_at = produced.ended_at.max(ended_at);
        }
        Ok(())
    })
    .await?;

    let states = ledger::count_states(&sql).await?;
    let is_correct = files::read_catalogue(&sql).await? == produced.genres;
    ensure!(is_correct, "the catalogue differs from the files put last: {states}");
    report(&mut figures, load, &produced, &ledger::ended(&sql, 0).await?)?;
    figures.state("most ingests queued at once", &depth.to_string());
    figures.state("ingests", &states);
    figures.state("movies, all as put last", &produced.genres.len().to_string());
    Ok(figures)
}

/// Puts the share of one producer. Returns what it put.
async fn produce(s3: Client, producer: usize, load: Load, start: Instant) -> Result<Produced> {
    let Load { producers, files, rate } = load;
    let mut produced = Produced::default();
    for (file, number) in (producer..files).step_by(producers).enumerate() {
        if let Some(rate) = rate {
            sleep_until(start + Duration::from_secs_f64(number as f64 / rate)).await;
        }
        let is_correction = file % CORRECTION_INTERVAL == CORRECTION_INTERVAL - 1;
        let name = format!("{producer}/{}", if is_correction { file - 1 } else { file });
        let genre = if is_correction { "Corrected" } else { "First" };
        let titles = (0..MOVIES_PER_FILE).map(|movie| format!("{name}/{movie}"));
        let movies: Vec<Value> = titles.clone().map(|title| movie(&title, genre)).collect();
        let (key, body) = (format!("{name}.json"), serde_json::to_vec(&movies)?);
        produced.puts.push((key.clone(), SystemTime::now()));
        files::put(&s3, BUCKET, &key, body).await?;
        produced.genres.extend(titles.map(|title| (title, genre.to_owned())));
    }
    produced.ended_at = Some(SystemTime::now());
    Ok(produced)
}

/// Adds the rates and the times from put to settled.
fn report(figures: &mut Figures, load: Load, produced: &Produced, ended: &[Ended]) -> Result<()> {
    let first_put = produced.puts.iter().map(|(_, at)| *at).min().context("nothing was put")?;
    let last_put = produced.ended_at.context("nothing was put")?;
    let put = load.files as f64 / last_put.duration_since(first_put)?.as_secs_f64();
    figures.state("files put", &format!("{put:.0}/s"));
    let settled = load.files as f64 / ledger::span(ended, |_| first_put).as_secs_f64();
    let times = put_to_settled(&produced.puts, ended)?;
    let waits = ended.iter().map(|ended| ended.started_at.duration_since(ended.received_at));
    let longest_wait = waits.filter_map(Result::ok).max().unwrap_or_default();
    match load.rate {
        None => {
            figures.rate("files settled", settled, MIN_SETTLED);
            figures.state("longest time in the queue", &text(longest_wait));
        }
        Some(_) => {
            figures.state("files settled", &format!("{settled:.0}/s"));
            figures.duration("longest time in the queue", longest_wait, MAX_WAIT);
        }
    }
    figures.percentiles("put to settled", &times, None, None)?;
    figures
        .state("put to settled, longest", &text(times.iter().max().copied().unwrap_or_default()));
    Ok(())
}

/// Returns the time from each put to the end of its ingest. `ended` has the versions of one key in the
/// order of their puts.
fn put_to_settled(puts: &[(String, SystemTime)], ended: &[Ended]) -> Result<Vec<Duration>> {
    let mut puts_of_key: HashMap<&str, Vec<SystemTime>> = HashMap::new();
    for (key, at) in puts {
        puts_of_key.entry(key).or_default().push(*at);
    }
    let mut times = Vec::with_capacity(ended.len());
    for versions in ended.chunk_by(|one, next| one.key == next.key) {
        let key = versions.first().map_or("", |version| &*version.key);
        let puts = puts_of_key.get(key).map_or(&[][..], Vec::as_slice);
        ensure!(puts.len() == versions.len(), "{key}: the ledger lacks a version, or has too many");
        for (put, version) in puts.iter().zip(versions) {
            times.push(version.finished_at.duration_since(*put)?);
        }
    }
    Ok(times)
}
