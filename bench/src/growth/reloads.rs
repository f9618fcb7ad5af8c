//! A large file that comes again and again, each time with one of a hundred movies changed.

use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};

use super::{
    environment::Environment,
    sizes::{self, Comparison},
};
use crate::{
    files, movies,
    report::{Figures, median, text},
    stack::BUCKET,
};

/// How many movies the file has.
const MOVIES: usize = 36_000;

/// One of this many movies changes with each version.
const CHANGE_INTERVAL: usize = 100;

/// How many of the first and of the last versions are compared.
const COMPARED: usize = 10;

/// The target: the size of all tables and indexes at the end, times the size after the first load.
const MAX_GROWTH: f64 = 3.0;

const KEY: &str = "movies.ndjson";

/// Loads the file, then `reloads` further versions. Returns the sizes of all tables and indexes after
/// the first load and at the end. Autovacuum runs as it does by default.
pub(super) async fn measure(
    environment: &Environment,
    reloads: usize,
    figures: &mut Figures,
) -> Result<Comparison> {
    let part = environment.create("reloads").await?;
    let service = environment.service(&part).await?;
    let mut movies = movies::synthetic(MOVIES).movies;
    let mut times = Vec::new();
    let mut before = None;
    for version in 0..=reloads {
        if version > 0 {
            change(&mut movies, version)?;
        }
        files::put(&environment.s3, BUCKET, KEY, movies.join("\n").into_bytes()).await?;
        let time = service.ingest(&notification(version)).await?;
        if version > 0 {
            times.push(time);
        } else {
            figures.state(&format!("first load of {MOVIES} movies"), &text(time));
            before = Some(sizes::read(&part.sql).await?);
        }
    }
    service.stop().await?;
    let compared = COMPARED.min(times.len());
    let (first, _) = times.split_at(compared);
    let (_, last) = times.split_at(times.len() - compared);
    report(reloads, first, last, figures);
    let before = before.context("nothing was loaded")?;
    let comparison = Comparison { before, after: sizes::read(&part.sql).await? };
    figures.ratio(
        "all tables and indexes, times after the first load",
        comparison.ratio(),
        MAX_GROWTH,
    );
    Ok(comparison)
}

fn notification(version: usize) -> Value {
    let time = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
    let sequencer = format!("{version:016X}");
    json!({ "bucket": BUCKET, "key": KEY, "event_time": time, "sequencer": sequencer })
}

/// Changes the cast of one of a hundred movies; other ones for each of a hundred versions.
fn change(movies: &mut [String], version: usize) -> Result<()> {
    let changed = movies.iter_mut().skip(version % CHANGE_INTERVAL).step_by(CHANGE_INTERVAL);
    for text in changed {
        let mut movie: Value = serde_json::from_str(text)?;
        if let Some(cast) = movie["cast"].as_array_mut() {
            cast.truncate(5);
            cast.push(json!(format!("Version {version}")));
        }
        *text = movie.to_string();
    }
    Ok(())
}

fn report(reloads: usize, first: &[Duration], last: &[Duration], figures: &mut Figures) {
    let name = format!("{reloads} further versions with 1% changed: the first ones, median");
    figures.state(&name, &text(median(first.to_vec())));
    figures.state("the last ones, median", &text(median(last.to_vec())));
}
