//! How fast movies-r-us is, in ratios against named limits, measured side by side in one run.
//!
//! ```sh
//! cargo run --release -p bench -- ingest --data FOLDER
//! cargo run --release -p bench -- producers
//! ```
//!
//! Absolute times are the machine's; the ratios are ours. A limit is the least that anybody would
//! have to do for the same end: see [`limit`].

mod decode;
mod ingest;
mod limit;
mod memory;
mod movies;
mod producers;
mod report;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use local_stack::{
    function::{FUNCTION_COMMAND, run_function},
    postgres::{Postgres, Purpose},
};

/// Measures movies-r-us against named limits.
///
/// Starts a Postgres of its own, whose files are in the folder for temporary files and deleted at
/// the end.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One large file: for the first time, again, and again with changes
    ///
    /// Prints one table; "at most" says what is aimed at.
    Ingest {
        /// Folder of movie files (JSON arrays) to measure with, beside the synthetic movies
        #[arg(long, value_name = "FOLDER")]
        data: Option<PathBuf>,

        /// How many synthetic movies; always the same ones
        #[arg(long, default_value_t = 1_000_000)]
        movies: usize,

        /// How often each step is measured; the median counts
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
    /// Many small files at once, through all of the local stack
    Producers {
        /// How many producers put files at the same time
        #[arg(long, default_value_t = 8)]
        producers: usize,

        /// How many files they put in all
        #[arg(long, default_value_t = 2_000)]
        files: usize,
    },
    /// Be the Lambda: what the local stack starts this program as
    #[command(name = FUNCTION_COMMAND, hide = true)]
    Lambda,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Ingest { data, movies, rounds } => {
            let folder = std::env::temp_dir().join(format!("mru-bench-{}", std::process::id()));
            // Commits as in production; only the disk is spared.
            let settings = ["synchronous_commit=on".to_owned()];
            let postgres = Postgres::start_with(&folder, Purpose::Test, 5432, &settings).await?;
            let outcome = measure_ingest(data, movies, rounds, &postgres).await;
            postgres.stop().await;
            outcome
        }
        Command::Producers { producers, files } => producers::measure(producers, files).await,
        Command::Lambda => run_function().await,
    }
}

async fn measure_ingest(
    data: Option<PathBuf>,
    movies: usize,
    rounds: usize,
    postgres: &Postgres,
) -> Result<()> {
    let mut report = report::Report::new();
    if let Some(folder) = data {
        let file = movies::read(&folder)?;
        decode::measure("real", &file, rounds, &mut report).await?;
        ingest::measure("real", &file, rounds, postgres, &mut report).await?;
    }
    if movies > 0 {
        let file = movies::synthetic(movies);
        decode::measure("synthetic", &file, rounds, &mut report).await?;
        ingest::measure("synthetic", &file, rounds, postgres, &mut report).await?;
    }
    report.print();
    Ok(())
}
