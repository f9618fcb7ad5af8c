//! Measures an ingest. The limit is a raw COPY of the same movies.
//!
//! The time is that of the service's work on the rows of a decoded file: stage, compare, merge and
//! clean up. The rows are built in batches, as in the service; that time is not included.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use local_stack::postgres::Postgres;
use rest_api::store::{self, CatalogueRow, Lane, Mode, ObservedVersion, Stage, Store};
use schema::Notification;
use serde_json::json;

use crate::{
    limit, memory,
    movies::{self, BATCH, File},
    report::{Line, Report, Stopwatch, median},
};

/// Measures a first load of `file`, an identical reload, and a version with one of a hundred movies
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
    let (mut limits, mut times) = (Vec::new(), [const { Vec::new() }; 3]);
    let mut growths = [None; 3];
    for round in 0..rounds {
        let store = create_store(postgres, &format!("{name}_{round}")).await?;
        for (number, (_, movies, _)) in steps.iter().enumerate() {
            limits.push(limit::copy(postgres, &file.movies).await?);
            let (time, growth) = ingest(&store, number, movies).await?;
            times[number].push(time);
            growths[number] = growths[number].max(growth);
        }
    }
    let limit = median(limits);
    for ((step, _, target), (times, memory_growth_mb)) in
        steps.into_iter().zip(times.into_iter().zip(growths))
    {
        let name = format!("{step}, {count} {name} movies, against raw COPY");
        report.add(Line { name, measured: median(times), limit, target, memory_growth_mb });
    }
    Ok(())
}

/// Creates the database `name` with its schema, and connects to it.
pub(crate) async fn create_store(postgres: &Postgres, name: &str) -> Result<Store> {
    postgres.create_database(name).await?;
    let database = postgres.database(name);
    let nobody = aws::SecretsManager::new(&local_stack::sdk(([127, 0, 0, 1], 1).into()));
    store::migrate(&database, &nobody).await?;
    Ok(Store::new(&database, &nobody, 2).await?)
}

/// Ingests `movies` as version number `version` of one object. Returns the time, and by how many MB
/// the peak memory of the process grew.
pub(crate) async fn ingest(
    store: &Store,
    version: usize,
    movies: &[String],
) -> Result<(Duration, Option<u64>)> {
    let notification = json!({
        "bucket": "bench", "key": "movies.ndjson", "sequencer": format!("{version:04X}"),
        "event_time": format!("2026-01-01T00:00:0{version}Z"), "etag": format!("{version}"),
    });
    let notification: Notification = serde_json::from_value(notification)?;
    let reported =
        store::Report { notification: &notification, observed: ObservedVersion::default() };
    store.record(&reported, "", None).await?;
    let claimed = store.claim(Lane::Large, 1, Duration::from_secs(3600)).await?;
    let claim = claimed.into_iter().next().context("nothing to claim")?;
    let position = store.observe(&claim, &ObservedVersion::default()).await?;

    let before = memory::reset_peak();
    let mut watch = Stopwatch::default();
    let run = watch.start();
    let mut staging = store.staging(&claim, Stage::Changes).await?;
    watch.stop(run);
    for batch in movies.chunks(BATCH) {
        let rows = batch.iter().filter_map(|movie| movies::parse(movie));
        let rows: Vec<_> = rows.map(|movie| CatalogueRow::new(&movie)).collect();
        let run = watch.start();
        staging.add(&rows).await?;
        watch.stop(run);
    }
    let run = watch.start();
    let merged = store.merge_staged(staging, &position, Mode::Upsert, &claim).await?;
    store.maintain_now().await?;
    watch.stop(run);
    let growth = memory::peak_growth(before);
    let changed = (merged.inserted > 0, merged.updated > 0);
    ensure!(changed == (version == 0, version == 2), "version {version}: unexpected {merged:?}");
    let max_updated = if version == 2 { movies.len() as i64 / 100 + 1 } else { 0 };
    ensure!(merged.updated <= max_updated, "version {version}: unexpected {merged:?}");
    Ok((watch.total(), growth))
}
