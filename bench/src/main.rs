//! Benchmarks of movies-r-us, as ratios to named limits measured in the same run.
//!
//! ```sh
//! cargo run --release -p bench -- ingest --data DIRECTORY
//! cargo run --release -p bench -- producers
//! cargo run --release -p bench -- attack
//! ```
//!
//! Times depend on the machine, so each is compared with a limit: the time of the least work that
//! any program needs for the same purpose. For the database the limit is a raw COPY (see [`limit`]);
//! for a file, serde_json with the whole file in memory (see [`decode`]).
//!
//! Imports go one way. A module imports only from modules above it:
//!
//! ```text
//! memory, movies, report
//! limit      uses movies, report
//! decode     uses memory, movies, report
//! ingest     uses limit, memory, movies, report
//! attack     uses movies
//! producers
//! main       uses attack, decode, ingest, movies, producers, report
//! ```

mod attack;
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
/// Starts a Postgres whose data is in the directory for temporary files, and deletes it at the end.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure one large file: a first load, the same file again, and a changed version
    ///
    /// Prints one table. The column "at most" holds the target of the ratio.
    Ingest {
        /// Directory of movie files (JSON arrays) to measure in addition to the synthetic movies
        #[arg(long, value_name = "DIRECTORY")]
        data: Option<PathBuf>,

        /// Number of synthetic movies, which are the same in every run
        #[arg(long, default_value_t = 1_000_000)]
        movies: usize,

        /// Number of times that each step is measured; the table shows the median
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
    /// Measure many small files, put concurrently through the whole local stack
    Producers {
        /// Number of concurrent producers
        #[arg(long, default_value_t = 8)]
        producers: usize,

        /// Number of files that all producers put together
        #[arg(long, default_value_t = 2_000)]
        files: usize,
    },
    /// Measure what clients notice while others send files that are expensive to check
    ///
    /// Prints one table: latencies, memory, and leases lost.
    Attack,
    /// Run the service alone; the command `attack` starts this program with it
    #[command(name = attack::SERVICE_COMMAND, hide = true)]
    Service,
    /// Run the Lambda function; the local stack starts this program with this command
    #[command(name = FUNCTION_COMMAND, hide = true)]
    Lambda,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Ingest { data, movies, rounds } => {
            let directory = std::env::temp_dir().join(format!("mru-bench-{}", std::process::id()));
            // Commits wait as in production. The other settings of `Purpose::Test` stay: nothing is
            // flushed to disk.
            let settings = ["synchronous_commit=on".to_owned()];
            let postgres = Postgres::start_with(&directory, Purpose::Test, 5432, &settings).await?;
            let outcome = measure_ingest(data, movies, rounds, &postgres).await;
            postgres.stop().await;
            outcome
        }
        Command::Producers { producers, files } => producers::measure(producers, files).await,
        Command::Attack => attack::measure().await,
        Command::Service => attack::run_service().await,
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
    if let Some(directory) = data {
        let file = movies::read(&directory)?;
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
