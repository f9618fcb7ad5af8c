//! The service's program: parses the command line, and calls the library.

use std::{
    io::{self, BufWriter},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use rest_api::{
    Aws,
    config::Config,
    healthcheck,
    objects::ObjectStore,
    reconcile::{self, Options, Printer},
    run,
    store::{self, Store},
    telemetry, validate,
};
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
    /// Compare the bucket with the ledger, and report what differs
    #[command(after_help = RECONCILE)]
    Reconcile(Reconcile),
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

#[derive(Args)]
struct Reconcile {
    /// The bucket [default: MRU_BUCKET, else the only one in the ledger]
    #[arg(long, value_name = "NAME")]
    bucket: Option<String>,
    /// Only keys that begin with this
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Queue what is missing or stale, for the running service to take
    #[arg(long)]
    apply: bool,
    /// Queue what has failed, too
    #[arg(long, requires = "apply")]
    retry_failed: bool,
    /// Report as JSON: an object a line, the summary last
    #[arg(long)]
    json: bool,
}

const RECONCILE: &str = "\
A file of the bucket is
  missing   no version of it is in the ledger
  stale     the bucket holds a newer version than the ledger
  failed    the infrastructure has kept this version from being taken
  vanished  it was taken, and is not in the bucket any more; its movies stay
  reverted  the newest version was deleted, an older one is back; nothing changes
  unusable  its key is none that a notification may have

Exit status: 0 nothing is left to do, 1 error, 2 usage, 3 something is missing,
stale or failed, and was not queued. Safe to repeat, and to run beside others.";

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
  MRU_BUCKET        bucket that is reconciled [the only one in the ledger]
  MRU_LISTEN        address and port [0.0.0.0:8080]
  MRU_WORKERS       ingests at once, 0 for none [2]
  MRU_RESULTS_TOPIC_ARN
                    topic in SNS that is told of each ingest that has ended,
                    its violations included [none]
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
The first 1,000 violations of a file are listed. After those, each bad record
counts as one violation.

With --json: {\"file\", \"valid\", \"movies\", \"violation_count\", \"violations\"},
the violations as in GET /ingests/{id}; or {\"file\", \"error\"}.

Exit status: 0 all files are valid, 1 some are not, 2 some could not be read

Examples:
  rest-api validate movies.json new/*.ndjson.gz
  jq '.movies' export.json | rest-api validate -
  rest-api validate --json movies.json | jq .violations";

#[tokio::main]
async fn main() -> ExitCode {
    match start(Arguments::parse().command).await {
        Ok(status) => status,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn start(command: Command) -> Result<ExitCode, String> {
    match command {
        Command::Validate { json, files } => return Ok(check(&files, json).await),
        Command::Healthcheck { url } => healthcheck::ask(url, lookup("MRU_LISTEN")).await?,
        Command::Migrate => {
            let (config, aws) = configured().await?;
            let migrated = store::migrate(&config.database, &aws.secrets).await;
            migrated.map_err(|error| telemetry::chain(&error))?;
        }
        Command::Reconcile(arguments) => return reconcile(arguments).await,
        Command::Serve => serve().await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn lookup(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What the environment says, and the log as it says.
async fn configured() -> Result<(Config, Aws), String> {
    let config = Config::from_lookup(lookup).map_err(|error| error.to_string())?;
    telemetry::init(&config.log_filter, config.log_format)?;
    Ok((config, Aws::from_env().await))
}

async fn serve() -> Result<(), String> {
    let (config, aws) = configured().await?;
    let address = config.listen;
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| format!("MRU_LISTEN {address}: {error}"))?;
    run(config, aws, listener, shutdown()).await.map_err(|error| telemetry::chain(&error))
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

async fn reconcile(arguments: Reconcile) -> Result<ExitCode, String> {
    let (config, aws) = configured().await?;
    let Reconcile { bucket, prefix, apply, retry_failed, json } = arguments;
    let bucket = bucket.or(config.bucket);
    let options = Options { bucket, prefix, apply, retry_failed };
    let store = Store::new(&config.database, &aws.secrets, 0).await;
    let store = store.map_err(|error| telemetry::chain(&error))?;
    let mut printer = Printer::new(io::BufWriter::new(io::stdout()), io::stderr(), json);
    let objects = ObjectStore::new(aws.s3);
    let compared = reconcile::reconcile(&store, &objects, options, |event| printer.event(event));
    let summary = compared.await.map_err(|error| {
        format!("{}; what was queued stays queued, run it again", telemetry::chain(&error))
    })?;
    printer.summary(&summary).map_err(|error| error.to_string())?;
    Ok(ExitCode::from(if summary.left() > 0 { 3 } else { 0 }))
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
