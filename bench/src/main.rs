//! How fast movies-r-us is, in ratios against named limits, measured side by side in one run.
//!
//! ```sh
//! cargo run --release -p bench -- --data FOLDER
//! ```
//!
//! Absolute times are the machine's; the ratios are ours. A limit is the least that anybody would
//! have to do for the same end: see [`limit`].

mod ingest;
mod limit;
mod memory;
mod movies;
mod report;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use local_stack::postgres::{Postgres, Purpose};

/// Measures movies-r-us against named limits, and prints one table.
///
/// Starts a Postgres of its own, whose files are in the folder for temporary files and deleted at
/// the end. The target of a ratio is what the design promises.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Folder of movie files (JSON arrays) to measure with, beside the synthetic movies
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,

    /// How many synthetic movies; always the same ones
    #[arg(long, default_value_t = 1_000_000)]
    movies: usize,

    /// How often each ingest is measured; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let folder = std::env::temp_dir().join(format!("mru-bench-{}", std::process::id()));
    let postgres = Postgres::start(&folder, Purpose::Test).await?;
    let outcome = measure(&arguments, &postgres).await;
    postgres.stop().await;
    outcome
}

async fn measure(arguments: &Arguments, postgres: &Postgres) -> Result<()> {
    let mut report = report::Report::new();
    if let Some(folder) = &arguments.data {
        let file = movies::read(folder)?;
        ingest::measure("real", &file, arguments.rounds, postgres, &mut report).await?;
    }
    if arguments.movies > 0 {
        let file = movies::synthetic(arguments.movies);
        ingest::measure("synthetic", &file, arguments.rounds, postgres, &mut report).await?;
    }
    report.print();
    Ok(())
}
