//! Measures an ingest. The limit is a raw COPY of the same movies.
//!
//! The time is that of the service's work on the rows of a decoded file: stage, compare, merge and
//! clean up. The rows are built in batches, as in the service; that time is not included.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use local_stack::postgres::Postgres;
use rest_api::store::{self, CatalogueRow, Lane, Merged, Mode, ObservedVersion, Stage, Store};
use schema::Notification;
use serde_json::json;

use crate::{
    limit, memory,
    movies::{self, BATCH, File},
    report::{Line, Report, Stopwatch, median},
};

/// What is ingested, one after another, as versions of one object.
struct Step<'a> {
    name: &'static str,
    movies: &'a [String],
    mode: Mode,
    /// The largest ratio to the raw COPY.
    target: f64,
}

/// Measures a first load of `file`, an identical reload, and a version with one of a hundred movies
/// changed; the same as a snapshot; and a snapshot that lacks one of a hundred movies, against the one with changes.
pub(crate) async fn measure(
    name: &str,
    file: &File,
    rounds: usize,
    postgres: &Postgres,
    report: &mut Report,
) -> Result<()> {
    let count = file.movies.len();
    let without: Vec<String> = file
        .movies
        .iter()
        .enumerate()
        .filter(|(number, _)| number % 100 != 0)
        .map(|(_, movie)| movie.clone())
        .collect();
    let step = |name, movies, mode, target| Step { name, movies, mode, target };
    let (movies, changed) = (&file.movies[..], &file.changed[..]);
    let steps = [
        step("first load", movies, Mode::Upsert, 22.0),
        step("identical reload", movies, Mode::Upsert, 0.5),
        step("1% changed", changed, Mode::Upsert, 1.2),
        step("identical reload of a snapshot", changed, Mode::Snapshot, 0.5),
        step("1% changed of a snapshot", movies, Mode::Snapshot, 1.2),
    ];
    let (mut limits, mut times) = (Vec::new(), [const { Vec::new() }; 5]);
    let (mut growths, mut withdrawals) = ([None; 5], Vec::new());
    for round in 0..rounds {
        let store = create_store(postgres, &format!("{name}_{round}")).await?;
        for (number, Step { movies, mode, .. }) in steps.iter().enumerate() {
            limits.push(limit::copy(postgres, &file.movies).await?);
            let (merged, time, growth) = ingest(&store, number, movies, *mode).await?;
            let updated = if number == 2 || number == 4 { count.div_ceil(100) } else { 0 } as i64;
            let expected = (if number == 0 { count as i64 } else { 0 }, updated, 0);
            let found = (merged.inserted, merged.updated, merged.withdrawn);
            ensure!(found == expected, "step {number}: unexpected {merged:?}");
            times[number].push(time);
            growths[number] = growths[number].max(growth);
        }
        let (merged, time, _) = ingest(&store, steps.len(), &without, Mode::Snapshot).await?;
        let expected = (0, count.div_ceil(100) as i64);
        ensure!((merged.updated, merged.withdrawn) == expected, "unexpected {merged:?}");
        withdrawals.push(time);
    }
    let (limit, [.., changes]) = (median(limits), &times);
    let changes = median(changes.clone());
    for ((Step { name: step, target, .. }, times), memory_growth_mb) in
        steps.into_iter().zip(times).zip(growths)
    {
        let name = format!("{step}, {count} {name} movies, against raw COPY");
        report.add(Line { name, measured: median(times), limit, target, memory_growth_mb });
    }
    report.add(Line {
        name: format!("1% withdrawn, {count} {name} movies, against 1% changed"),
        measured: median(withdrawals),
        limit: changes,
        target: 1.5,
        memory_growth_mb: None,
    });
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

/// Ingests `movies` as version number `version` of one object. Returns what was merged, the time, and by how many
/// MB the peak memory of the process grew.
pub(crate) async fn ingest(
    store: &Store,
    version: usize,
    movies: &[String],
    mode: Mode,
) -> Result<(Merged, Duration, Option<u64>)> {
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
    let merged = store.merge_staged(staging, &position, mode, &claim).await?;
    store.maintain_now().await?;
    watch.stop(run);
    let growth = memory::peak_growth(before);
    Ok((merged, watch.total(), growth))
}
