//! Taking a file, against raw COPY of the same movies.
//!
//! Measured is what the service does with the rows of a decoded file: staging, comparing, merging,
//! and tidying up afterwards. The rows are made in batches, as in the service, while the watch
//! stands still.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use local_stack::postgres::Postgres;
use rest_api::store::{self, CatalogueRow, Observed, Store};
use schema::Notification;
use serde_json::json;

use crate::{
    limit, memory,
    movies::File,
    report::{Line, Report, Stopwatch, median},
};

/// About as many rows as the service stages at once.
pub(crate) const BATCH: usize = 5_000;

/// Measures the first load of `file`, the same again, and again with one movie in a hundred
/// changed.
pub(crate) async fn measure(
    name: &str,
    file: &File,
    rounds: usize,
    postgres: &Postgres,
    report: &mut Report,
) -> Result<()> {
    let count = file.movies.len();
    let steps = [
        ("first load", &file.movies, 22.0),
        ("identical reload", &file.movies, 0.5),
        ("1% changed", &file.changed, 1.2),
    ];
    let (mut limits, mut ours) = (Vec::new(), [const { Vec::new() }; 3]);
    let mut peaks = [None; 3];
    for round in 0..rounds {
        let store = fresh(postgres, &format!("{name}_{round}")).await?;
        for (number, (_, movies, _)) in steps.iter().enumerate() {
            limits.push(limit::copy(postgres, &file.movies).await?);
            let (took, peak) = take(&store, number, movies).await?;
            ours[number].push(took);
            peaks[number] = peaks[number].max(peak);
        }
    }
    let limit = median(limits);
    for ((what, _, target), (times, memory_mb)) in
        steps.into_iter().zip(ours.into_iter().zip(peaks))
    {
        let what = format!("{what}, {count} {name} movies, against raw COPY");
        report.add(Line { what, ours: median(times), limit, target, memory_mb });
    }
    Ok(())
}

async fn fresh(postgres: &Postgres, name: &str) -> Result<Store> {
    postgres.create_database(name).await?;
    let database = postgres.database(name);
    let nobody = aws::SecretsManager::new(&local_stack::sdk(([127, 0, 0, 1], 1).into()));
    store::migrate(&database, &nobody).await?;
    Ok(Store::new(&database, &nobody, 2).await?)
}

/// Takes `movies` as the `version`th version of one file. Returns how long that took, and by how
/// many MB it made the process grow.
async fn take(store: &Store, version: usize, movies: &[String]) -> Result<(Duration, Option<u64>)> {
    let notification = json!({
        "bucket": "bench", "key": "movies.ndjson", "sequencer": format!("{version:04X}"),
        "event_time": format!("2026-01-01T00:00:0{version}Z"), "etag": format!("{version}"),
    });
    let notification: Notification = serde_json::from_value(notification)?;
    store.record(&notification, &Observed::default(), "", None).await?;
    let claim = store.claim(Duration::from_secs(3600)).await?.context("nothing to claim")?;
    let place = store.observe(&claim, &Observed::default()).await?;

    let before = memory::peak_now();
    let mut watch = Stopwatch::default();
    let run = watch.start();
    let mut staging = store.staging(&claim, true).await?;
    watch.stop(run);
    for batch in movies.chunks(BATCH) {
        let rows = batch.iter().filter_map(|movie| limit::parse(movie));
        let rows: Vec<_> = rows.map(|movie| CatalogueRow::new(&movie)).collect();
        let run = watch.start();
        staging.add(&rows).await?;
        watch.stop(run);
    }
    let run = watch.start();
    let merged = staging.merge(&place, &claim).await?;
    if store.tidy(&merged).await? {
        store.vacuum().await?;
    }
    watch.stop(run);
    let grown = memory::grown_since(before);
    let changed = (merged.inserted > 0, merged.updated > 0);
    ensure!(changed == (version == 0, version == 2), "version {version} came to {merged:?}");
    let most = if version == 2 { movies.len() as i64 / 100 + 1 } else { 0 };
    ensure!(merged.updated <= most, "version {version} came to {merged:?}");
    Ok((watch.total(), grown))
}
