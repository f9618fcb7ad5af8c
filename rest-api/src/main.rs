//! The service's program: parses the command line, and calls the library.

use std::{
    io::{self, BufWriter},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use rest_api::{Aws, config::Config, healthcheck, run, store, telemetry, validate};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// Takes movie files from S3 into Postgres, and answers queries about them.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, after_help = ENVIRONMENT)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API and work on ingests, until SIGTERM or SIGINT
    Serve,
    /// Bring the database to the newest migration, then exit
    Migrate,
    /// Check files of movies as the service does, before they are put
    #[command(after_help = VALIDATE)]
    Validate {
        /// Print a JSON object for each file, on a line of its own, instead of text
        #[arg(long)]
        json: bool,
        /// Files to check; - is standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Ask a running service for its health, and fail unless it answers 2xx
    Healthcheck {
        /// What to ask [default: /healthz of the service on this machine, by MRU_LISTEN]
        #[arg(long)]
        url: Option<String>,
    },
}

const ENVIRONMENT: &str = "\
Environment:
  MRU_DB_HOST       host, address or socket folder of Postgres (required)
  MRU_DB_NAME       database (required)
  MRU_DB_USER       user (required with MRU_DB_PASS) [the secret's]
  MRU_DB_PASS       password; or instead of it
  MRU_DB_SECRET_ARN secret in AWS Secrets Manager, of RDS's form (username
                    and password), read again when it was rotated
  MRU_DB_PORT       port [5432]
  MRU_DB_TLS        verify-full, or disable on this machine alone [verify-full]
  MRU_DB_CA_FILE    certificate authorities to trust, PEM [the system's]
  MRU_DB_READ_HOST  reader endpoint for queries [MRU_DB_HOST]
  MRU_API_TOKEN     bearer token that /notify and every write need; or instead
  MRU_API_TOKEN_SECRET_ARN
                    secret in AWS Secrets Manager, the token; the one before
                    the last rotation is accepted too
  MRU_LISTEN        address and port [0.0.0.0:8080]
  MRU_WORKERS       ingests at once, 0 for none [2]
  MRU_LOG           tracing filter [info]
  MRU_LOG_FORMAT    json or text [json]
  AWS_REGION        region of the bucket (required); further AWS_* variables
                    as the AWS SDK knows them, AWS_ENDPOINT_URL_S3 among them";

const VALIDATE: &str = "\
A file is a JSON array of movies, one movie, or NDJSON (one movie a line); plain
or gzip; UTF-8. It goes through the code and the schema that the service works
with, so that a file that passes here is not rejected there for its content.
Neither a database nor any environment variable is needed.

For each violation: the record it is in (counted from 0), where that begins in
the decompressed file, a JSON Pointer into the record, what was expected there
and what was found; and the line, where the file is not compressed.
The first 1,000 violations of a file are listed, all are counted.

With --json: {\"file\", \"valid\", \"movies\", \"violation_count\", \"violations\"},
the violations as in GET /ingests/{id}; or {\"file\", \"error\"}.

Exit status: 0 all files are valid, 1 some are not, 2 some could not be read

Examples:
  rest-api validate movies.json new/*.ndjson.gz
  jq '.movies' export.json | rest-api validate -
  rest-api validate --json movies.json | jq .violations";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Command::Validate { json, files } = &arguments.command {
        return check(files, *json).await;
    }
    match start(arguments.command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn check(files: &[PathBuf], json: bool) -> ExitCode {
    let mut out = BufWriter::new(io::stdout().lock());
    match validate::files(files, json, &mut out).await {
        Ok(totals) => totals.exit_status().into(),
        Err(error) => {
            // Whoever closed the pipe has read enough.
            if error.kind() != io::ErrorKind::BrokenPipe {
                eprintln!("standard output: {error}");
            }
            2.into()
        }
    }
}

async fn start(command: Command) -> Result<(), String> {
    let lookup = |name: &str| std::env::var(name).ok();
    if let Command::Healthcheck { url } = command {
        return healthcheck::ask(url, lookup("MRU_LISTEN")).await;
    }
    let config = Config::from_lookup(lookup).map_err(|error| error.to_string())?;
    telemetry::init(&config.log_filter, config.log_format)?;
    let aws = Aws::from_env().await;
    if let Command::Migrate = command {
        let migrated = store::migrate(&config.database, &aws.secrets).await;
        return migrated.map_err(|error| telemetry::chain(&error));
    }
    let address = config.listen;
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| format!("MRU_LISTEN {address}: {error}"))?;
    run(config, aws, listener, shutdown()).await.map_err(|error| telemetry::chain(&error))
}

/// Ends when the process is asked to stop.
async fn shutdown() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
