//! Benchmarks of movies-r-us, as ratios to named limits measured in the same run.
//!
//! ```sh
//! cargo run --release -p bench -- ingest --data DIRECTORY
//! cargo run --release -p bench -- history
//! cargo run --release -p bench -- producers
//! cargo run --release -p bench -- producers --rate 200 --seconds 30
//! cargo run --release -p bench -- backlog
//! cargo run --release -p bench -- latency
//! cargo run --release -p bench -- growth
//! cargo run --release -p bench -- attack
//! cargo run --release -p bench -- search --data DIRECTORY
//! cargo run --release -p bench -- queries
//! ```
//!
//! Times depend on the machine, so each is compared with a limit where one can be named: the time of
//! the least work that any program needs for the same purpose. For the database the limit is a raw
//! COPY (see [`limit`]); for a file, serde_json with the whole file in memory (see [`decode`]); for a
//! backlog, fetching its objects and a raw COPY of their movies (see [`backlog`]).
//!
//! Imports go one way. A module imports only from modules above it:
//!
//! ```text
//! files, memory, movies, process, report, stack
//! ledger     uses report
//! limit      uses movies, report
//! service    uses files
//! decode     uses memory, movies, report
//! ingest     uses limit, memory, movies, report
//! history    uses ingest, movies, report
//! attack     uses ingest, movies, process, report
//! queries    uses ingest, movies, process, report, stack
//! producers  uses files, ledger, report, stack
//! backlog    uses files, ledger, limit, producers, report, service, stack
//! latency    uses files, ledger, movies, report, stack
//! growth     uses files, ledger, movies, report, service, stack
//! search     uses files, growth, movies, report, stack
//! main       uses attack, backlog, decode, growth, history, ingest, latency, movies, process, producers, queries, report,
//!            search
//! ```

mod attack;
mod backlog;
mod decode;
mod files;
mod growth;
mod history;
mod ingest;
mod latency;
mod ledger;
mod limit;
mod memory;
mod movies;
mod process;
mod producers;
mod queries;
mod report;
mod search;
mod service;
mod stack;

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Result;
use clap::{Parser, Subcommand};
use local_stack::{
    function::{FUNCTION_COMMAND, run_function},
    postgres::{Postgres, Purpose},
};
use producers::Load;

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
    /// Measure what the history of movies costs a large file, against none
    ///
    /// Prints one table. Both are measured in turn.
    History {
        /// Number of synthetic movies, a multiple of 100
        #[arg(long, default_value_t = 100_000)]
        movies: usize,

        /// Number of times that each step is measured; the table shows the median
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// Measure many small files, put concurrently through the whole local stack
    ///
    /// Without `--rate` the producers put a burst, as fast as they can.
    Producers {
        /// Number of concurrent producers
        #[arg(long, default_value_t = 8)]
        producers: usize,

        /// Number of files that all producers put together
        #[arg(long, default_value_t = 2_000)]
        files: usize,

        /// Number of files that all producers put together in a second
        #[arg(long, conflicts_with = "files")]
        rate: Option<u32>,

        /// For how many seconds they put files at this rate
        #[arg(long, default_value_t = 30, requires = "rate")]
        seconds: u32,
    },
    /// Measure files that were recorded while nothing ran, through the whole local stack
    ///
    /// The limit is fetching the same objects, and one raw COPY of their movies.
    Backlog {
        /// Number of files
        #[arg(long, default_value_t = 5_000)]
        files: usize,

        /// Number of objects that are fetched at once for the limit
        #[arg(long, default_value_t = backlog::FETCHES)]
        fetches: usize,
    },
    /// Measure the time from the put of a file to the query that has its movie, on an idle system
    Latency {
        /// Number of files
        #[arg(long, default_value_t = 200)]
        files: usize,

        /// Number of movies in the catalogue before
        #[arg(long, default_value_t = 20_000)]
        movies: usize,
    },
    /// Measure how costs grow with the ledger and the catalogue
    ///
    /// Writes what was there before by SQL, which takes minutes with the default numbers.
    Growth(growth::Options),
    /// Measure what clients notice while others send files that are expensive to check
    ///
    /// Prints one table: latencies, memory, and leases lost.
    Attack,
    /// Measure search: hits among the first ten results, and times, with typing errors
    Search {
        /// Directory of movie files (JSON arrays)
        #[arg(long, value_name = "DIRECTORY")]
        data: PathBuf,

        /// Number of synthetic movies, made of the words of these files
        #[arg(long, default_value_t = 1_000_000)]
        movies: usize,
    },
    /// Measure queries: cached, uncached, a mix, expensive ones, and overload
    ///
    /// Prints one table. Each figure stands beside its limit, measured in the same run.
    Queries(queries::Options),
    /// Run the service alone; other commands start this program with it
    #[command(name = process::SERVICE_COMMAND, hide = true)]
    Service,
    /// Respond with a fixed body; the command `queries` starts this program with it
    #[command(name = queries::bare::COMMAND, hide = true)]
    Bare {
        /// Address to listen at
        listen: SocketAddr,
    },
    /// Respond to queries by plain statements; the command `queries` starts this program with it
    #[command(name = queries::plain::COMMAND, hide = true)]
    Plain {
        /// Address to listen at
        listen: SocketAddr,
    },
    /// Run the Lambda function; the local stack starts this program with this command
    #[command(name = FUNCTION_COMMAND, hide = true)]
    Lambda,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Ingest { data, movies, rounds } => {
            with_postgres(async |postgres| measure_ingest(data, movies, rounds, postgres).await)
                .await
        }
        Command::History { movies, rounds } => {
            with_postgres(async |postgres| {
                let mut report = report::Report::new();
                let file = movies::synthetic(movies);
                history::measure(&file, rounds, postgres, &mut report).await?;
                report.print();
                Ok(())
            })
            .await
        }
        Command::Producers { producers, files, rate, seconds } => {
            let files = rate.map_or(files, |rate| (rate * seconds) as usize);
            producers::measure(Load { producers, files, rate: rate.map(f64::from) }).await
        }
        Command::Backlog { files, fetches } => backlog::measure(files, fetches).await,
        Command::Latency { files, movies } => latency::measure(files, movies).await,
        Command::Growth(options) => growth::measure(options).await,
        Command::Attack => attack::measure().await,
        Command::Search { data, movies } => search::measure(&data, movies).await,
        Command::Service => process::run_service().await,
        Command::Bare { listen } => queries::bare::run(listen).await,
        Command::Plain { listen } => queries::plain::run(listen).await,
        Command::Queries(options) => queries::measure(options).await,
        Command::Lambda => run_function().await,
    }
}

/// Runs `measure` with a Postgres of its own, whose commits wait as in production. The other settings of
/// [`Purpose::Test`] stay: nothing is flushed to disk.
async fn with_postgres(measure: impl AsyncFnOnce(&Postgres) -> Result<()>) -> Result<()> {
    let directory = std::env::temp_dir().join(format!("mru-bench-{}", std::process::id()));
    let settings = ["synchronous_commit=on".to_owned()];
    let postgres = Postgres::start_with(&directory, Purpose::Test, 5432, &settings).await?;
    let outcome = measure(&postgres).await;
    postgres.stop().await;
    outcome
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
