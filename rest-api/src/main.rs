//! The service's program: parses the command line, and calls the library.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rest_api::{Aws, config::Config, healthcheck, run, store, telemetry};
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
  MRU_RESULTS_TOPIC_ARN
                    topic in SNS that is told of each ingest that has ended,
                    its violations included [none]
  MRU_LOG           tracing filter [info]
  MRU_LOG_FORMAT    json or text [json]
  AWS_REGION        region of the bucket (required); further AWS_* variables
                    as the AWS SDK knows them, AWS_ENDPOINT_URL_S3 among them";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match start(arguments.command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
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
