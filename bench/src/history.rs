//! Measures what the history of movies costs an ingest. The limit is the same ingest without the triggers that keep
//! it.

use std::{array, time::Duration};

use anyhow::{Result, ensure};
use local_stack::postgres::Postgres;
use rest_api::store::{Mode, Store};

use crate::{
    ingest::{create_store, ingest},
    movies::File,
    report::{Line, Report, median},
};

/// What is ingested, one after another, as versions of one object.
struct Step<'a> {
    /// The row of the table that it belongs to.
    row: usize,
    movies: &'a [String],
    mode: Mode,
}

/// The rows of the table, with the largest ratio.
const ROWS: [(&str, f64); 5] = [
    ("first load", 1.02),
    ("identical reload", 1.02),
    ("1% changed", 1.1),
    ("1% withdrawn by a snapshot", 1.5),
    ("1% restored by a snapshot", 1.5),
];

/// Measures each step with the triggers and without them, in turn.
pub(crate) async fn measure(
    file: &File,
    rounds: usize,
    postgres: &Postgres,
    report: &mut Report,
) -> Result<()> {
    let File { movies, changed } = file;
    let kept = movies.iter().enumerate().filter(|(number, _)| number % 100 != 0);
    let without: Vec<String> = kept.map(|(_, movie)| movie.clone()).collect();
    let step = |row, movies, mode| Step { row, movies, mode };
    let steps = [
        step(0, movies, Mode::Upsert),
        step(1, movies, Mode::Upsert),
        step(2, changed, Mode::Upsert),
        step(2, movies, Mode::Upsert),
        step(2, changed, Mode::Upsert),
        step(2, movies, Mode::Upsert),
        step(3, &without, Mode::Snapshot),
        step(4, movies, Mode::Snapshot),
    ];
    let mut times: [[Vec<Duration>; 2]; ROWS.len()] = array::from_fn(|_| Default::default());
    for round in 0..rounds {
        let mut stores = [
            (0, create_store(postgres, &format!("with_{round}")).await?),
            (1, without_history(postgres, &format!("without_{round}")).await?),
        ];
        for (version, step) in steps.iter().enumerate() {
            // Neither of the two is always the first, which finds the caches of the step before.
            stores.reverse();
            for (number, store) in &stores {
                let (merged, time, _) = ingest(store, version, step.movies, step.mode).await?;
                let touched = merged.inserted + merged.updated + merged.restored + merged.withdrawn;
                let expected = match step.row {
                    0 => movies.len(),
                    1 => 0,
                    _ => movies.len() / 100,
                };
                ensure!(touched == expected as i64, "step {version}: unexpected {merged:?}");
                times[step.row][*number].push(time);
            }
        }
    }
    for ((row, target), [with, without]) in ROWS.into_iter().zip(times) {
        report.add(Line {
            name: format!("{row}, {} movies, against no history", movies.len()),
            measured: median(with),
            limit: median(without),
            target,
            memory_growth_mb: None,
        });
    }
    Ok(())
}

/// Creates a database in which no trigger keeps former states.
async fn without_history(postgres: &Postgres, name: &str) -> Result<Store> {
    let store = create_store(postgres, name).await?;
    let disable = "alter table movies disable trigger keep_changed, disable trigger keep_withdrawn;
        alter table withdrawn_movies disable trigger keep_restored";
    postgres.connect(name).await?.batch_execute(disable).await?;
    Ok(store)
}
