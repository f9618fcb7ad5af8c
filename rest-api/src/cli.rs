//! The command line: its arguments and help texts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, builder::NonEmptyStringValueParser};

/// Ingests movie files from S3 into Postgres, and serves queries on the movies.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, after_help = ENVIRONMENT)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Serve the API and process ingests, until SIGTERM or SIGINT
    Serve,
    /// Apply all pending migrations to the database, then exit
    Migrate,
    /// Compare the bucket with the ledger, and report the differences
    #[command(after_help = RECONCILE)]
    Reconcile(ReconcileArguments),
    /// Undo an ingest: what its version said does not count any more
    #[command(after_help = UNDO)]
    Undo(UndoArguments),
    /// Redo an ingest that was undone: what its version said counts again
    #[command(after_help = UNDO)]
    Redo(UndoArguments),
    /// Let a blocked snapshot withdraw as many movies as it does, and queue it
    #[command(after_help = APPROVE)]
    Approve(ApproveArguments),
    /// Carry what people decided about versions and movies from one database to another
    #[command(subcommand)]
    Decisions(DecisionsCommand),
    /// Ask TMDB in advance about all movies, so that GET /movies/{id}/details finds its answers
    #[command(after_help = ENRICH)]
    Enrich(EnrichArguments),
    /// Add, list and change the users that sign in with a password
    #[command(subcommand, after_help = USERS)]
    Users(UsersCommand),
    /// Check movie files as the service does, before you put them into the bucket
    #[command(after_help = VALIDATE)]
    Validate(ValidateArguments),
    /// Print the OpenAPI document of the API, as a running service has it at /openapi.json
    Openapi,
    /// Request the health of a running service; fail unless the status is 2xx
    Healthcheck {
        /// URL to request [default: /healthz of the service on this machine, by MRU_PROBE_LISTEN or
        /// MRU_LISTEN]
        #[arg(long)]
        url: Option<String>,
    },
}

#[derive(Args)]
pub(crate) struct ReconcileArguments {
    /// The bucket [default: the only one of MRU_BUCKETS, else of the ledger]
    #[arg(long, value_name = "NAME")]
    pub(crate) bucket: Option<String>,
    /// Compare only keys that begin with this prefix
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Queue missing and stale files; the running service ingests them
    #[arg(long)]
    pub(crate) apply: bool,
    /// Compare all versions and delete markers, instead of the current objects
    #[arg(long)]
    pub(crate) all_versions: bool,
    /// Queue failed files, too
    #[arg(long, requires = "apply")]
    pub(crate) retry_failed: bool,
    /// Print one JSON object a line, the summary last
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct UndoArguments {
    /// The number of the ingest, as GET /ingests has it
    pub(crate) id: i64,
    /// Only print what would change
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) decision: DecisionArguments,
}

#[derive(Args)]
pub(crate) struct ApproveArguments {
    /// The number of the ingest, as GET /ingests?state=blocked has it
    pub(crate) id: i64,
    #[command(flatten)]
    pub(crate) decision: DecisionArguments,
}

#[derive(Args)]
pub(crate) struct DecisionArguments {
    /// Who decides, for the record [default: the user of the operating system, else "command line"]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) by: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Subcommand)]
pub(crate) enum DecisionsCommand {
    /// Print all decisions, one JSON object a line, the oldest first
    #[command(after_help = EXPORT)]
    Export,
    /// Add decisions that the database lacks, and apply them
    #[command(after_help = IMPORT)]
    Import {
        /// What `decisions export` printed; - is standard input
        #[arg(value_name = "FILE", default_value = "-", hide_default_value = true)]
        file: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
pub(crate) enum UsersCommand {
    /// Add a user; the password comes from standard input
    Add {
        /// The name; case makes no difference
        name: String,
        /// A role: producer, editor or admin; repeat it for several
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// The beginning of the keys that the user is bound to; repeat it for several
        #[arg(long = "prefix", value_name = "PREFIX")]
        prefixes: Vec<String>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print all users, one a line
    List {
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Give a user these roles and no others
    Roles {
        #[command(flatten)]
        user: UserArguments,
        /// The roles: producer, editor, admin
        #[arg(value_name = "ROLE")]
        roles: Vec<String>,
    },
    /// Bind a user to keys with these beginnings and no others; without any, to all keys
    Prefixes {
        #[command(flatten)]
        user: UserArguments,
        /// The beginnings of keys
        #[arg(value_name = "PREFIX")]
        prefixes: Vec<String>,
    },
    /// Set the password of a user; it comes from standard input
    Password(UserArguments),
    /// Keep a user from signing in, and end its sessions
    Disable(UserArguments),
    /// Let a user sign in that was disabled
    Enable(UserArguments),
}

#[derive(Args)]
pub(crate) struct UserArguments {
    /// The name of the user; case makes no difference
    pub(crate) name: String,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct EnrichArguments {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct ValidateArguments {
    /// Print one JSON object a line for each file, instead of text
    #[arg(long)]
    pub(crate) json: bool,
    /// Files to check; - is standard input
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

const ENVIRONMENT: &str = "\
Environment:
  MRU_DB_HOST       host name, address or socket directory of Postgres (required)
  MRU_DB_NAME       database (required)
  MRU_DB_USER       user (required with MRU_DB_PASS) [the secret's username]
  MRU_DB_PASS       password; set either this or MRU_DB_SECRET_ARN
  MRU_DB_SECRET_ARN secret in AWS Secrets Manager in the format of RDS (username
                    and password); it is read again after a rotation
  MRU_DB_SERVICE_USER
                    role that migrate makes for the service, with no more rights than
                    serving needs [none: the service has those of MRU_DB_USER]
  MRU_DB_SERVICE_PASS
                    its password; set either this or MRU_DB_SERVICE_SECRET_ARN
  MRU_DB_SERVICE_SECRET_ARN
                    secret like MRU_DB_SECRET_ARN that holds user and password; the
                    service itself gets both as MRU_DB_SECRET_ARN
  MRU_DB_PORT       port [5432]
  MRU_DB_TLS        verify-full, or disable (loopback and Unix sockets only)
                    [verify-full]
  MRU_DB_CA_FILE    trusted certificate authorities, PEM [the system's]
  MRU_DB_READ_HOST  reader endpoint for queries [MRU_DB_HOST]
  MRU_API_TOKEN     bearer token of programs, which /notify requires; set either this
                    or MRU_API_TOKEN_SECRET_ARN
  MRU_API_TOKEN_SECRET_ARN
                    secret in AWS Secrets Manager that holds the token; the token
                    before the last rotation is accepted, too
  MRU_JWT_KEY       Ed25519 private key in PEM that signs access tokens, as openssl
                    genpkey -algorithm ed25519 prints it; tokens of further keys
                    behind it are accepted, too [none: no access tokens]
  MRU_JWT_KEY_SECRET_ARN
                    secret in AWS Secrets Manager that holds the key; the key before
                    the last rotation is accepted, too
  MRU_OIDC_ISSUER   OpenID Connect issuer whose access tokens are accepted [none]
  MRU_OIDC_AUDIENCE audiences that its tokens must be for, separated by commas
                    (required with MRU_OIDC_ISSUER)
  MRU_OIDC_ROLES_CLAIM
                    claim with the roles: a name, or a path such as
                    realm_access.roles [roles]
  MRU_OIDC_NAME_CLAIM
                    claim with the name of the caller; without it the subject
                    [preferred_username]
  MRU_TMDB_TOKEN    API read access token of The Movie Database (TMDB), from which
                    GET /movies/{id}/details comes [none: it is never asked]
  MRU_TMDB_TOKEN_SECRET_ARN
                    secret in AWS Secrets Manager that holds it
  MRU_TMDB_URL      address of its API [https://api.themoviedb.org/3]
  MRU_IMAGES        on lets the page show the pictures that movies name as thumbnail, of
                    any host with https [off: it draws them]
  MRU_PUBLIC_LEDGER true lets everybody read the ingests: object keys, and pieces of
                    rejected files [false]
  MRU_BUCKETS       buckets that a notification may name, separated by commas
                    [all]
  MRU_IGNORE_KEYS   glob patterns of keys that are no files, separated by commas; none
                    if it is empty [**/_*,**/.*,**/*$folder$,**/*/]
  MRU_UPLOAD_PREFIX what the keys of uploaded files begin with; they go to the first
                    bucket of MRU_BUCKETS [any keys]
  MRU_SNAPSHOT_PREFIXES
                    objects that are snapshots: bucket/prefix entries, separated by
                    commas; bucket/ is the whole bucket [none]
  MRU_MAX_WITHDRAW  largest number of movies that a snapshot may withdraw before it
                    is blocked: 1000, or 50% of those that the object named, at
                    least 100 [50%]
  MRU_LISTEN        address and port [0.0.0.0:8080]
  MRU_TRUSTED_PROXIES
                    number of proxies in front that append their client's address to
                    X-Forwarded-For; failed sign-ins and streams of events are
                    limited by address [0]
  MRU_PROBE_LISTEN  address and port of a second listener, which serves /healthz,
                    /readyz and /metrics only [none]
  MRU_WORKERS       number of large files to process at once, beside batches of
                    small ones; 0 for no files at all [2]
  MRU_MAX_RECORDS   largest number of records of a file [20000000]
  MRU_MAX_STAGED_MB largest size of the new and changed movies of a file, in MiB
                    [32768]
  MRU_LEDGER_DAYS   number of days after which an ended ingest is removed from the
                    ledger, unless it is the newest of its object; 0 for never [365]
  MRU_HISTORY_DAYS  number of days after which a former state of a movie is removed
                    from its history; 0 for never [365]
  MRU_CORS_ORIGINS  origins whose pages may read, separated by commas; empty for
                    none [*, any]
  MRU_CACHE_MB      largest size of the answers that are kept in memory, in MiB [64]
  MRU_RESULTS_TOPIC_ARN
                    SNS topic to which each ended ingest is published, with its
                    violations [none]
  MRU_LOG           tracing filter [info]
  MRU_LOG_FORMAT    json or text [json]
  AWS_REGION        region of the bucket (required)
  AWS_*             further variables of the AWS SDK, such as AWS_ENDPOINT_URL_S3
  OTEL_EXPORTER_OTLP_ENDPOINT
                    collector of OpenTelemetry, to which spans are sent by OTLP over
                    HTTP, such as http://localhost:4318 [none]
  OTEL_*            further variables of the OpenTelemetry SDK, such as
                    OTEL_SERVICE_NAME and OTEL_TRACES_SAMPLER";

const RECONCILE: &str = "\
A file differs in one of these ways:
  missing   the ledger has no version of it
  stale     the ledger lacks the version that the bucket holds
  failed    the ingest of this version failed on the infrastructure
  vanished  it was ingested, and is no longer in the bucket; its movies stay
            until the event of its removal arrives, if it is a snapshot
  reverted  the newest version was deleted, and an older one that was ingested
            before is current again; the movies do not change
  unusable  its key is not allowed in a notification
Objects whose keys MRU_IGNORE_KEYS matches are counted as ignored.

With --all-versions every version and delete marker of the bucket is compared. Those
that the ledger lacks are missing, and --apply queues them, of each key the oldest
first. Versions of the ledger that are not in the bucket are only counted, as
vanished. To rebuild the catalogue in an empty database:
  rest-api migrate
  rest-api decisions import decisions.ndjson
  rest-api reconcile --all-versions --apply
What people decided is not in the bucket: rest-api decisions export prints it.

Exit status: 0 nothing is left to do, 1 error, 2 wrong usage, 3 at least one
missing, stale or failed file was not queued.
The command is safe to repeat, and to run at the same time as others.";

const UNDO: &str = "\
Each movie of the version falls back to what the next newest version says, or is
withdrawn if none contains it. Which movies change is printed, the first hundred with
their titles. Content of other versions comes when the running service has read their
files again. Undoing twice changes nothing; redo takes it back.

Exit status: 0 done, or there was nothing to do, 1 error, 2 wrong usage

Examples:
  rest-api undo 7 --dry-run
  rest-api undo 7 --by 'Ann, wrong year in all titles'
  rest-api redo 7";

const APPROVE: &str = "\
A snapshot that would withdraw more movies than MRU_MAX_WITHDRAW ends as blocked: it
may be truncated. GET /ingests/{id} says how many it would withdraw.

Exit status: 0 approved and queued, 1 the ingest is not blocked, or an error, 2 wrong
usage";

const EXPORT: &str = "\
Each line is one decision. One about a version (undo, redo or approve) is
{\"decision\", \"bucket\", \"key\", \"version_id\", \"etag\", \"removal\", \"sequencer\",
\"decided_at\", \"decided_by\"}. It names the version by its version id, in a bucket
without versions by its etag. One about a movie (edit, delete or hold) is
{\"decision\", \"movie\", \"decided_at\", \"decided_by\"}; a hold may also have \"withdrawn\"
and \"edited_at\". Keep the output with the backups: the bucket and the decisions
together rebuild the catalogue.

Example:
  rest-api decisions export > decisions.ndjson";

const IMPORT: &str = "\
All decisions are imported, or none: an error names the line. One that is there
already is not added twice. What was decided holds for versions that are merged
already, and for those that are merged later. So import into an empty database before
the files are queued, and nothing has to be changed afterwards.

Exit status: 0 imported, 1 error, 2 wrong usage

Examples:
  rest-api decisions import decisions.ndjson
  rest-api decisions export | MRU_DB_NAME=rebuilt rest-api decisions import";

const USERS: &str = "\
A password is never an argument: a terminal is asked for it twice, without showing it;
else it is the first line of standard input. It has at least 12 characters and at most
1,024 bytes.

To set a password, to disable a user, or to change its roles or prefixes ends its
sessions: the refresh token is refused at once, access tokens within a few seconds. The
last active admin cannot be disabled, nor lose the role. A user is never removed, since
the history of movies names it.

Exit status: 0 done, 1 error, 2 wrong usage

Examples:
  rest-api users add ann --role admin --role editor
  rest-api users add studio --role producer --prefix studio/ < password.txt
  rest-api users roles ann editor producer
  rest-api users disable ann";

const ENRICH: &str = "\
Movies are asked about whose details are not kept yet, or are older than 30 days (7
days if no film matched). What is kept is kept in the database: whatever ends the
command, the next time it goes on from there. It shares the limit of requests with
the running service: at most 33 a second, of which a movie takes at least two. It needs
MRU_TMDB_TOKEN. Progress goes to standard error.

With --json: {\"movies\", \"asked\", \"found\", \"none\", \"unusable\"}. The last are
movies whose answer was of no use; after an hour they can be asked about again.

Exit status: 0 done, 1 error, 2 wrong usage";

const VALIDATE: &str = "\
A file is a JSON array of movies, one movie, or NDJSON (one movie a line); plain
or gzip; UTF-8. The check uses the code and the schema of the service: a file that
passes here is not rejected there for its content, unless the service has a lower
MRU_MAX_RECORDS, or its new and changed movies exceed MRU_MAX_STAGED_MB. It needs no
database and no environment variable.

Each violation is printed with the record (counted from 0), the byte at which the
record begins in the decompressed file, a JSON Pointer into the record, what was
expected and what was found. The line is shown if the file is not compressed.
The first 1,000 violations of a file are listed. After those, each bad record
counts as one violation.

With --json: {\"file\", \"valid\", \"movies\", \"violation_count\", \"violations\"},
with the violations as in GET /ingests/{id}; or {\"file\", \"error\"}.

Exit status: 0 all files are valid, 1 some are not, 2 some could not be read

Examples:
  rest-api validate movies.json new/*.ndjson.gz
  jq '.movies' export.json | rest-api validate -
  rest-api validate --json movies.json | jq .violations";
