//! Measures how costs grow with the ledger and the catalogue. What is measured is reached through the
//! service or its store; what was there before is written by SQL, which takes minutes instead of days.
//!
//! | part | what grows |
//! | --- | --- |
//! | `ledger` | ended, queued and running ingests, and the versions of one key |
//! | `late` | the versions that are newer than a late file |
//! | `files` | the files that arrived in random order |
//! | `reloads` | the versions of one large file |
//! | `folding` | the movies whose folded text is computed anew |

pub(crate) mod environment;
mod files;
mod folding;
mod late;
mod ledger;
mod reloads;
mod sizes;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::{report::Figures, stack::with_directory};
use environment::Environment;

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Part {
    /// `/notify`, claims and lists with a large ledger
    Ledger,
    /// A file that is older than many others
    Late,
    /// Files in random order of their times
    Files,
    /// A large file that comes again and again
    Reloads,
    /// The migration of a catalogue whose text was folded by other rules
    Folding,
}

/// How much there is of everything.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Parts to measure; all if none is named
    #[arg(value_enum)]
    parts: Vec<Part>,

    /// ledger: number of ended ingests, of versions of one key, and of queued ingests, each
    #[arg(long, default_value_t = 1_000_000)]
    rows: i64,

    /// ledger: number of requests and claims of each kind
    #[arg(long, default_value_t = 2_000)]
    requests: usize,

    /// late: number of later versions of small files
    #[arg(long, default_value_t = 100_000)]
    versions: i64,

    /// late: number of later versions of large files
    #[arg(long, default_value_t = 365)]
    dumps: usize,

    /// late: number of files that are measured in order, and as many late ones
    #[arg(long, default_value_t = 100)]
    probes: usize,

    /// files: number of files
    #[arg(long, default_value_t = 100_000)]
    files: usize,

    /// reloads: number of versions of the large file, each with one of a hundred movies changed
    #[arg(long, default_value_t = 100)]
    reloads: usize,

    /// folding: number of movies
    #[arg(long, default_value_t = 1_000_000)]
    movies: i64,
}

/// Measures the parts that `options` name, and prints one table; for the part `reloads` also the sizes
/// of all tables.
pub(crate) async fn measure(options: Options) -> Result<()> {
    let (figures, sizes) = with_directory(async |directory| {
        let environment = Environment::start(directory).await?;
        let outcome = run(&environment, &options).await;
        environment.stop().await;
        outcome
    })
    .await?;
    figures.print();
    if let Some(sizes) = sizes {
        sizes.print();
    }
    Ok(())
}

async fn run(
    environment: &Environment,
    options: &Options,
) -> Result<(Figures, Option<sizes::Comparison>)> {
    let includes = |part| options.parts.is_empty() || options.parts.contains(&part);
    let mut figures = Figures::default();
    figures.condition(environment.durability().await?);
    if includes(Part::Ledger) {
        ledger::measure(environment, options.rows, options.requests, &mut figures).await?;
    }
    if includes(Part::Late) {
        let Options { versions, dumps, probes, .. } = *options;
        late::measure(environment, versions, dumps, probes, &mut figures).await?;
    }
    if includes(Part::Files) {
        files::measure(environment, options.files, &mut figures).await?;
    }
    let mut sizes = None;
    if includes(Part::Reloads) {
        sizes = Some(reloads::measure(environment, options.reloads, &mut figures).await?);
    }
    if includes(Part::Folding) {
        folding::measure(environment, options.movies, &mut figures).await?;
    }
    Ok((figures, sizes))
}
