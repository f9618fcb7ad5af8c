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
use tokio_postgres::Client;

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
/// changed; the same as a snapshot; and the snapshot with changes against one that lacks one of a hundred movies, and
/// against the same without search.
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
    let (mut growths, mut withdrawals, mut without_search) = ([None; 5], Vec::new(), Vec::new());
    for round in 0..rounds {
        let database = format!("{name}_{round}");
        let store = create_store(postgres, &database).await?;
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
        let hundredth = count.div_ceil(100) as i64;
        let (merged, time, _) = ingest(&store, steps.len(), &without, Mode::Snapshot).await?;
        let found = (merged.updated, merged.withdrawn);
        ensure!(found == (0, hundredth), "unexpected {merged:?}");
        withdrawals.push(time);

        let (merged, ..) = ingest(&store, steps.len() + 1, movies, Mode::Snapshot).await?;
        ensure!(merged.restored == hundredth, "unexpected {merged:?}");
        drop_search(&postgres.connect(&database).await?).await?;
        let (merged, time, _) = ingest(&store, steps.len() + 2, changed, Mode::Snapshot).await?;
        ensure!(merged.updated == hundredth, "unexpected {merged:?}");
        without_search.push(time);
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
    report.add(Line {
        name: format!("1% changed, {count} {name} movies, against the same without search"),
        measured: changes,
        limit: median(without_search),
        target: 1.5,
        memory_growth_mb: None,
    });
    Ok(())
}

/// Takes from a catalogue what a merge writes for search. The service still computes it, and looks up the words.
async fn drop_search(client: &Client) -> Result<()> {
    client
        .batch_execute(
            "drop index movies_terms, movies_by_title_key, words_by_key;
            -- Maintenance expects it.
            create index movies_terms on movies using gin (terms) where false;
            create function drop_terms() returns trigger language plpgsql as
                $$ begin new.terms = ''; return new; end $$;
            create trigger drop_terms before insert or update on movies
                for each row execute function drop_terms()",
        )
        .await?;
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
