//! The program `rest-api`: parses the command line, calls the library, and maps results to exit
//! codes.

mod cli;

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use aws::{environment, otlp};
use clap::Parser;
use rest_api::{
    Aws,
    config::Config,
    decisions::{self, DecisionError},
    enrich::{Enricher, fill},
    healthcheck,
    objects::ObjectStore,
    reconcile::{self, Event, Options, Printer},
    run,
    store::{self, Store, Undo},
    telemetry::{self, chain},
    users::{self, Change, UserError},
    validate,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use cli::{
    ApproveArguments, Arguments, Command, DecisionArguments, DecisionsCommand, EnrichArguments,
    ReconcileArguments, UndoArguments, UserArguments, UsersCommand, ValidateArguments,
};

/// The exit code of `reconcile` if files that could be queued were not.
const DIFFERENCES_LEFT: u8 = 3;

/// The exit code of `validate` if its report could not be written.
const REPORT_FAILED: u8 = 2;

/// The exit code of every subcommand if a variable is set that the program does not know. It is that of
/// an unknown argument.
const UNKNOWN_VARIABLE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let checked = environment::check("rest-api", &Config::variables(), environment::variables());
    if let Err(error) = checked {
        eprintln!("{error}");
        return UNKNOWN_VARIABLE.into();
    }
    match execute(command).await {
        Ok(status) => status,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn execute(command: Command) -> Result<ExitCode, String> {
    match command {
        Command::Validate(arguments) => return Ok(validate(arguments).await),
        Command::Reconcile(arguments) => return reconcile(arguments).await,
        Command::Undo(arguments) => undo(arguments, Undo::Undo).await?,
        Command::Redo(arguments) => undo(arguments, Undo::Redo).await?,
        Command::Approve(arguments) => approve(arguments).await?,
        Command::Decisions(DecisionsCommand::Export) => export().await?,
        Command::Decisions(DecisionsCommand::Import { file, json }) => import(&file, json).await?,
        Command::Enrich(arguments) => enrich(&arguments).await?,
        Command::Users(command) => manage_users(command).await?,
        Command::Healthcheck { url } => {
            let listen = lookup("MRU_PROBE_LISTEN").filter(|address| !address.is_empty());
            healthcheck::check(url, listen.or_else(|| lookup("MRU_LISTEN"))).await?;
        }
        Command::Openapi => print_openapi().map_err(|error| format!("standard output: {error}"))?,
        Command::Migrate => migrate().await?,
        Command::Serve => serve().await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn lookup(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Reads the configuration from the environment, and starts logging.
async fn configure() -> Result<(Config, Aws), String> {
    let config = Config::from_lookup(lookup).map_err(|error| error.to_string())?;
    telemetry::init(&config.log_filter, config.log_format)?;
    Ok((config, Aws::from_env().await))
}

async fn serve() -> Result<(), String> {
    let (config, aws) = configure().await?;
    otlp::init(telemetry::SERVICE)?;
    let address = config.listen;
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| format!("MRU_LISTEN {address}: {error}"))?;
    let served = run(config, aws, listener, shutdown_signal()).await;
    otlp::flush(telemetry::FLUSH_TIMEOUT).await;
    served.map_err(|error| chain(&error))
}

async fn migrate() -> Result<(), String> {
    let (config, aws) = configure().await?;
    let migrated = store::migrate(&config.database, &aws.secrets).await;
    migrated.map_err(|error| chain(&error))
}

fn print_openapi() -> io::Result<()> {
    io::stdout().write_all(rest_api::openapi_document().as_bytes())
}

async fn validate(arguments: ValidateArguments) -> ExitCode {
    let ValidateArguments { json, files } = arguments;
    let mut out = BufWriter::new(io::stdout().lock());
    match validate::check_files(&files, json, &mut out).await {
        Ok(totals) => totals.exit_status().into(),
        Err(error) => {
            // The reader of a closed pipe, such as `head`, needs no more output.
            if error.kind() != io::ErrorKind::BrokenPipe {
                eprintln!("standard output: {error}");
            }
            REPORT_FAILED.into()
        }
    }
}

async fn reconcile(arguments: ReconcileArguments) -> Result<ExitCode, String> {
    let (config, aws) = configure().await?;
    let ReconcileArguments { bucket, prefix, apply, all_versions, retry_failed, json } = arguments;
    let bucket = bucket.or_else(|| config.only_bucket());
    let ignored_keys = config.ignored_keys.clone();
    let options = Options { bucket, prefix, apply, retry_failed, ignored_keys };
    let store = open(&config, &aws).await?;
    let mut printer = Printer::new(BufWriter::new(io::stdout()), io::stderr(), json);
    let objects = ObjectStore::new(aws.s3);
    let report = |event: Event<'_>| printer.event(event);
    let compared = if all_versions {
        reconcile::reconcile_versions(&store, &objects, options, report).await
    } else {
        reconcile::reconcile(&store, &objects, options, report).await
    };
    let summary = compared.map_err(|error| {
        format!("{}; files queued so far stay queued: run the command again", chain(&error))
    })?;
    printer.summary(&summary).map_err(|error| error.to_string())?;
    Ok(if summary.not_queued() > 0 { DIFFERENCES_LEFT.into() } else { ExitCode::SUCCESS })
}

/// Opens the database for a command.
async fn open(config: &Config, aws: &Aws) -> Result<Store, String> {
    let store = Store::new(&config.database, &aws.secrets, 0).await;
    store.map_err(|error| chain(&error))
}

async fn undo(arguments: UndoArguments, undo: Undo) -> Result<(), String> {
    let (config, aws) = configure().await?;
    let UndoArguments { id, dry_run, decision: DecisionArguments { by, json } } = arguments;
    let (store, by) = (open(&config, &aws).await?, by.unwrap_or_else(user));
    let undone = decisions::undo(&store, id, undo, &by, dry_run, json, io::stdout()).await;
    undone.map_err(describe)
}

async fn approve(arguments: ApproveArguments) -> Result<(), String> {
    let (config, aws) = configure().await?;
    let ApproveArguments { id, decision: DecisionArguments { by, json } } = arguments;
    let (store, by) = (open(&config, &aws).await?, by.unwrap_or_else(user));
    decisions::approve(&store, id, &by, json, io::stdout()).await.map_err(describe)
}

/// Returns who decides on the command line unless it is said.
fn user() -> String {
    let user =
        ["USER", "LOGNAME"].into_iter().find_map(|name| lookup(name).filter(|it| !it.is_empty()));
    user.unwrap_or_else(|| "command line".to_owned())
}

async fn export() -> Result<(), String> {
    let (config, aws) = configure().await?;
    let store = open(&config, &aws).await?;
    let exported = decisions::export(&store, BufWriter::new(io::stdout())).await;
    if exported.map_err(describe)? == 0 {
        eprintln!("there are no decisions");
    }
    Ok(())
}

async fn import(file: &Path, json: bool) -> Result<(), String> {
    let (config, aws) = configure().await?;
    let input: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(BufReader::new(io::stdin()))
    } else {
        let opened = File::open(file).map_err(|error| format!("{}: {error}", file.display()))?;
        Box::new(BufReader::new(opened))
    };
    let imported = decisions::import(&open(&config, &aws).await?, input).await.map_err(describe)?;
    let printed = decisions::print_imported(&imported, json, io::stdout());
    printed.map_err(|error| format!("standard output: {error}"))
}

async fn enrich(arguments: &EnrichArguments) -> Result<(), String> {
    let (config, aws) = configure().await?;
    let tmdb = config.tmdb.as_ref().ok_or("MRU_TMDB_TOKEN is not set")?;
    let store = open(&config, &aws).await?;
    let enricher = Enricher::new(store, tmdb, &aws.secrets, Arc::default()).await;
    let enricher = Arc::new(enricher.map_err(|error| chain(&error))?);
    let filled = fill(&enricher, arguments.json, io::stdout(), io::stderr()).await;
    filled.map(drop).map_err(|error| chain(&error))
}

async fn manage_users(command: UsersCommand) -> Result<(), String> {
    let (config, aws) = configure().await?;
    let store = open(&config, &aws).await?;
    let (user, change) = match command {
        UsersCommand::Add { name, roles, prefixes, json } => {
            let added = async {
                let password = users::read_password()?;
                let user = users::add(&store, &name, &password, &roles, prefixes).await?;
                Ok(users::print(&user, json, io::stdout())?)
            };
            return added.await.map_err(|error: UserError| chain(&error));
        }
        UsersCommand::List { json } => {
            let listed = users::list(&store, json, BufWriter::new(io::stdout())).await;
            return listed.map_err(|error| chain(&error));
        }
        UsersCommand::Roles { user, roles } => (user, Change::Roles(roles)),
        UsersCommand::Prefixes { user, prefixes } => (user, Change::Prefixes(prefixes)),
        UsersCommand::Password(user) => {
            let password = users::read_password().map_err(|error| chain(&error))?;
            (user, Change::Password(password))
        }
        UsersCommand::Disable(user) => (user, Change::Disabled(true)),
        UsersCommand::Enable(user) => (user, Change::Disabled(false)),
    };
    let UserArguments { name, json } = user;
    let changed = users::change(&store, &name, change).await.map_err(|error| chain(&error))?;
    let printed = users::print(&changed, json, io::stdout());
    printed.map_err(|error| format!("standard output: {error}"))
}

fn describe(error: DecisionError) -> String {
    chain(&error)
}

/// Completes when the process receives SIGTERM or SIGINT.
async fn shutdown_signal() {
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
