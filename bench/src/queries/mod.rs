//! Measures queries: cached ones, uncached ones, a mix, expensive ones, memory and overload. Each ratio is to a
//! limit that is measured in turn with it, on the same machine: the load, the service and Postgres share its
//! processors, and so does the load with the limit.
//!
//! ```text
//! load, catalogue
//! mix       what is asked
//! bare, plain, sql   the limits
//! cached, tokens, streams, uncached, nasty, overload   the parts of the table
//! ```

pub(crate) mod bare;
mod cached;
mod catalogue;
mod load;
mod mix;
mod nasty;
mod overload;
pub(crate) mod plain;
mod sql;
mod streams;
mod tokens;
mod uncached;

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use local_stack::postgres::{Postgres, Purpose};

use crate::{
    ingest, movies,
    process::{Process, start_service},
    report::Figures,
    stack::with_directory,
};
use mix::Mix;
use uncached::Effort;

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Part {
    /// Answers from memory, against bare hyper
    Cached,
    /// Answers from memory with a token, against those without one
    Tokens,
    /// Answers from memory while 500 streams of events are open, against none
    Streams,
    /// Title queries and the mix, against Postgres without the service
    Uncached,
    /// Latencies of the mix
    Latencies,
    /// Expensive queries, and what others notice
    Nasty,
    /// Memory when idle, and while a slow client reads everything
    Memory,
    /// 1.5 times the requests that the service can serve, and cheap ones meanwhile
    Overload,
}

/// What to measure.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Parts to measure; all if none is named
    #[arg(value_enum)]
    parts: Vec<Part>,

    /// Directory of movie files (JSON arrays), instead of synthetic movies
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "movies")]
    data: Option<PathBuf>,

    /// Number of synthetic movies, which are the same in every run
    #[arg(long, default_value_t = 36_000)]
    movies: usize,

    /// Number of times that each ratio is measured; the table shows the median
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// For how many seconds each load lasts
    #[arg(long, default_value_t = 3)]
    seconds: u64,

    /// For how many seconds the overload lasts
    #[arg(long, default_value_t = 15)]
    overload: u64,
}

/// The database of all parts.
const DATABASE: &str = "queries";

/// A quarter of the memory of the instance that terraform creates by default (db.m7g.large, 8 GiB), as RDS sets it.
const SHARED_BUFFERS: &str = "shared_buffers=2GB";

/// From how many movies on the targets of a million apply.
const LARGE: usize = 1_000_000;

/// How many different queries each part has for a second.
const QUERIES: usize = 4_000;

/// Measures the parts that `options` name, and prints one table.
pub(crate) async fn measure(options: Options) -> Result<()> {
    // Fails if another part of the process has installed it, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let figures = with_directory(async |directory| {
        std::fs::create_dir_all(directory)?;
        let settings = [SHARED_BUFFERS.to_owned()];
        let directory_of_postgres = directory.join("postgres");
        let postgres =
            Postgres::start_with(&directory_of_postgres, Purpose::Test, 5432, &settings).await?;
        let outcome = run(&postgres, directory, &options).await;
        postgres.stop().await;
        outcome
    })
    .await?;
    figures.print();
    Ok(())
}

async fn run(postgres: &Postgres, directory: &Path, options: &Options) -> Result<Figures> {
    let mut figures = Figures::default();
    let catalogue = match &options.data {
        Some(data) => movies::read(data)?.movies,
        None => catalogue::synthetic(options.movies),
    };
    let store = ingest::create_store(postgres, DATABASE).await?;
    ingest::ingest(&store, 0, &catalogue, rest_api::store::Mode::Upsert).await?;
    postgres.connect(DATABASE).await?.batch_execute("vacuum analyze movies").await?;
    figures.condition(conditions(postgres, catalogue.len(), options).await?);
    let service = start(postgres, directory).await?;
    let duration = Duration::from_secs(options.seconds);
    let effort = Effort { rounds: options.rounds, duration };
    let includes = |part| options.parts.is_empty() || options.parts.contains(&part);

    if includes(Part::Memory) {
        overload::idle(postgres, &mut figures).await?;
        overload::slow_stream(&service, duration * 3, &mut figures).await?;
    }
    // Each part has queries of its own, so that no cache has them.
    let number = QUERIES * options.seconds as usize;
    let mix = |seed| Mix::new(&catalogue, seed);
    if includes(Part::Cached) {
        cached::measure(&service, directory, effort, &mut figures).await?;
    }
    if includes(Part::Tokens) {
        tokens::measure(postgres, directory, effort, &mut figures).await?;
    }
    if includes(Part::Streams) {
        streams::measure(postgres, directory, effort, &mut figures).await?;
    }
    if includes(Part::Uncached) {
        let queries = mix(1)?.title_queries(number * 4 * options.rounds)?;
        uncached::title(&service, (postgres, &store), &queries, effort, &mut figures).await?;
        let queries = mix(2)?.queries(number * options.rounds)?;
        uncached::mix(&service, (postgres, directory), &queries, effort, &mut figures).await?;
    }
    if includes(Part::Latencies) {
        let queries = mix(3)?.queries(number * 3)?;
        let is_large = catalogue.len() >= LARGE;
        uncached::latencies(&service, &queries, duration, is_large, &mut figures).await?;
        let searches = mix(7)?.searches(number)?;
        uncached::search_latencies(&service, searches, duration, &mut figures).await?;
    }
    if includes(Part::Nasty) {
        let queries = mix(4)?.indexed_queries(number)?;
        nasty::measure(&service, &queries, duration, &mut figures).await?;
    }
    if includes(Part::Overload) {
        let queries = mix(5)?.queries(number * 4)?;
        overload::cheap_meanwhile(&service, &queries, duration, &mut figures).await?;
        let duration = Duration::from_secs(options.overload);
        let queries = mix(6)?.queries(QUERIES * (options.overload as usize).min(60))?;
        overload::overload(&service, &queries, duration, &mut figures).await?;
    }
    Ok(figures)
}

/// Starts the service with its default configuration and log level. Its log goes to a file.
async fn start(postgres: &Postgres, directory: &Path) -> Result<Process> {
    let log = File::create(directory.join("service.log"))?;
    start_service(postgres, DATABASE, "http://127.0.0.1:1", &[], Stdio::from(log)).await
}

/// Describes the machine and what is measured on it.
async fn conditions(postgres: &Postgres, movies: usize, options: &Options) -> Result<String> {
    let sql = postgres.connect(DATABASE).await?;
    let version: String = sql.query_one("show server_version", &[]).await?.get(0);
    let cores = std::thread::available_parallelism()?;
    let load = std::fs::read_to_string("/proc/loadavg").context("no load average")?;
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    Ok(format!(
        "{cores} cores, which the load, the service and Postgres {version} share; load average {load} before. \
         {movies} movies. The service has its default configuration and log level. Each ratio is the median of \
         {} rounds (and their range), measured in turn with its limit for {} s each.",
        options.rounds, options.seconds
    ))
}
