//! Tests of all statements: each names its module and function, and fits the migrated database.
//!
//! The statements are the string literals of this directory that begin with a comment.

use std::{
    collections::BTreeSet,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use local_stack::postgres::{Postgres, Purpose, USER};
use syn::visit::{self, Visit};
use tokio_postgres::{
    Client,
    types::{FromSql, ToSql, Type},
};

use super::{
    IngestQuery, IngestState, Store, claim, counting, decisions, folding::FOLDING, ledger,
    merged_versions, migrate, observe, page, pools::SHORT_OPTIONS, reads, revision, search,
    version_order,
};
use crate::config::{Database, Login, Secret, Tls};

/// A statement in the source code.
struct Statement {
    module: String,
    function: String,
    text: String,
}

/// Collects the statements of one module.
struct Collector<'a> {
    module: String,
    function: String,
    statements: &'a mut Vec<Statement>,
}

impl Collector<'_> {
    fn within(&mut self, function: &syn::Ident, visit: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.function, function.to_string());
        visit(self);
        self.function = outer;
    }
}

impl<'ast> Visit<'ast> for Collector<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.within(&item.sig.ident, |this| visit::visit_item_fn(this, item));
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.within(&item.sig.ident, |this| visit::visit_impl_item_fn(this, item));
    }

    fn visit_lit_str(&mut self, literal: &'ast syn::LitStr) {
        let text = literal.value();
        // Those of constants are listed in `statements`.
        if !self.function.is_empty() && text.trim_start().starts_with("/*") {
            let (module, function) = (self.module.clone(), self.function.clone());
            self.statements.push(Statement { module, function, text });
        }
    }
}

/// Returns the files of a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.is_file()).collect()
}

/// Returns the statements of all modules of the store, but this one.
fn statements() -> Vec<Statement> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store");
    let mut statements = Vec::new();
    for path in [files(&directory), files(&directory.join("search"))].concat() {
        let module = path.file_stem().unwrap().to_string_lossy().into_owned();
        if module == "statements" {
            continue;
        }
        let file = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
        let function = String::new();
        Collector { module, function, statements: &mut statements }.visit_file(&file);
    }
    let composed = [
        ("version_order", "record", version_order::RECORD),
        ("claim", "claim", claim::CLAIM),
        ("counting", "recount", counting::RECOUNT),
        ("ledger", "revive", ledger::REVIVE),
        ("observe", "observe", observe::OBSERVE),
        ("merged_versions", "record", merged_versions::RECORD),
        ("decisions", "contradicting", decisions::CONTRADICTING),
        ("decisions", "approve", decisions::APPROVE),
        ("revision", "read", revision::READ),
    ];
    for (module, function, text) in composed {
        let [module, function, text] = [module, function, text].map(str::to_owned);
        statements.push(Statement { module, function, text });
    }
    statements
}

/// Runs `test` with a connection to a migrated database, and a store on it, in a Postgres of its own.
pub(super) async fn with_database(name: &str, test: impl AsyncFnOnce(&Client, &Store)) {
    let name = format!("mru-statements-{name}-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    let postgres = Postgres::start(&directory, Purpose::Test).await.unwrap();
    postgres.create_database("test").await.unwrap();
    let login = Login::Fixed { user: USER.to_owned(), password: Secret::new("unused") };
    let database = Database {
        host: postgres.socket_dir().display().to_string(),
        port: 5432,
        login,
        service_login: None,
        name: "test".to_owned(),
        read_host: None,
        tls: Tls::Disable,
    };
    let no_secrets = local_stack::sdk(([127, 0, 0, 1], 1).into());
    let no_secrets = aws::SecretsManager::new(&no_secrets);
    migrate(&database, &no_secrets).await.unwrap();
    let store = Store::new(&database, &no_secrets, 0).await.unwrap();
    test(&postgres.connect("test").await.unwrap(), &store).await;
    drop(store);
    postgres.stop().await;
}

#[test]
fn each_statement_names_its_module_and_function() {
    let statements = statements();
    assert!(statements.len() > 50, "{}", statements.len());
    for Statement { module, function, text } in statements {
        let name = format!("/* {module}::{function} */");
        assert!(text.trim_start().starts_with(&name), "in {module}::{function}: {text}");
    }
}

#[tokio::test]
async fn each_statement_fits_the_migrated_database() {
    with_database("each", async |client, _| {
        let mut statements = statements();
        // The others need the temporary table that this one creates.
        statements
            .sort_by_key(|statement| statement.module != "staging" || statement.function != "new");
        let mut batches = BTreeSet::new();
        for Statement { module, function, text } in &statements {
            // The beginning of a composed query, which is tested as a whole.
            if text.matches('(').count() > text.matches(')').count() {
                continue;
            }
            let fits = if text.contains(";\n") {
                batches.insert(format!("{module}::{function}"));
                client.batch_execute(text).await
            } else {
                client.prepare(text).await.map(|_| ())
            };
            // Databases of earlier releases alone have this table.
            if !text.contains("from schema_migrations") {
                fits.unwrap_or_else(|error| panic!("{module}::{function}: {error:?}: {text}"));
            }
        }
        let expected = ["convert::stop_earlier_releases", "staging::new"];
        assert_eq!(batches.into_iter().collect::<Vec<_>>(), expected);
    })
    .await;
}

#[tokio::test]
async fn each_composed_query_fits_the_migrated_database() {
    with_database("composed", async |client, _| {
        let queries = [page::tests::composed_queries(), search::tests::composed_queries()];
        for text in queries.concat() {
            client.prepare(&text).await.unwrap_or_else(|error| panic!("{error}: {text}"));
        }
    })
    .await;
}

/// A value of the type json.
struct Json(serde_json::Value);

impl FromSql<'_> for Json {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(serde_json::from_slice(raw)?))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSON
    }
}

/// Returns the largest number of rows that any node of a plan has read, kept or not.
fn rows_read(node: &serde_json::Value) -> f64 {
    let figure = |name: &str| node[name].as_f64().unwrap_or_default();
    let read = figure("Actual Rows") + figure("Rows Removed by Filter");
    let children = node["Plans"].as_array().into_iter().flatten().map(rows_read);
    children.fold(read * figure("Actual Loops").max(1.0), f64::max)
}

#[tokio::test]
async fn no_list_of_ingests_reads_more_than_a_few_hundred_rows() {
    with_database("ledger", async |client, store| {
        // Half of the versions are of one object, a tenth of another bucket, few have failed: all of
        // them long ago.
        let generate = "
            insert into ingests (bucket, key, state, finished_at, ordered_at, inserted, updated,
                unchanged, error)
            select case when n <= 10000 then 'other' else 'movies' end,
                case when n <= 50000 then 'daily.json' else 'file-' || n end,
                case when n <= 50 then 'failed' else 'succeeded' end,
                now(), now(), 0, 0, 0, case when n <= 50 then '{}'::json end
            from generate_series(1, 100000) n";
        client.batch_execute(generate).await.unwrap();
        let reader = store.ledger_reader().await.unwrap();
        for statistics in ["", "analyze ingests"] {
            client.batch_execute(statistics).await.unwrap();
            for query in list_queries() {
                let sql = ledger::list_query(&query);
                let explain = format!("explain (analyze, format json) {}", sql.text);
                let plan = reader.query_one(&explain, &sql.params()).await.unwrap();
                let Json(plan) = plan.get(0);
                let rows = rows_read(&plan[0]["Plan"]);
                assert!(rows <= 300.0, "{statistics}: {query:?}: {rows} rows: {plan:#}");
            }
        }
        reads::finish(reader);
    })
    .await;
}

/// Returns a list for each combination of filters, with values that are frequent, rare and absent.
fn list_queries() -> Vec<IngestQuery> {
    let text = |values: [&str; 3]| {
        let values = values.map(|value| Some(value.to_owned()));
        Vec::from_iter(values.into_iter().chain([None]))
    };
    let states = [IngestState::Succeeded, IngestState::Failed, IngestState::Running];
    let states = Vec::from_iter(states.map(Some).into_iter().chain([None]));
    let mut queries = Vec::new();
    for bucket in text(["movies", "other", "nope"]) {
        for key in text(["daily.json", "file-99999", "nope"]) {
            for state in &states {
                for after in [None, Some(30_000)] {
                    let (bucket, key) = (bucket.clone(), key.clone());
                    let state = *state;
                    let query = IngestQuery {
                        bucket,
                        key,
                        state,
                        limit: 100,
                        after,
                        ..IngestQuery::default()
                    };
                    queries.push(query);
                }
            }
        }
    }
    queries
}

/// Runs a statement. Returns its plan with what it has read.
async fn plan(client: &Client, text: &str, params: &[&(dyn ToSql + Sync)]) -> serde_json::Value {
    let explain = format!("explain (analyze, buffers, format json) {text}");
    let Json(plan) = client.query_one(&explain, params).await.unwrap().get(0);
    plan[0]["Plan"].clone()
}

#[tokio::test]
async fn recording_reads_few_rows_however_many_versions_an_object_has() {
    with_database("recording", async |client, _| {
        let generate = "
            insert into ingests (bucket, key, etag, sequencer, state, finished_at, ordered_at,
                inserted, updated, unchanged)
            select 'movies', 'daily.json', 'etag ' || n % 10, to_hex(n + 1000000), 'succeeded',
                now(), '2026-01-01'::timestamptz + make_interval(secs => n * 0.001), 0, 0, 0
            from generate_series(1, 100000) n";
        client.batch_execute(generate).await.unwrap();
        // As the sessions do that record.
        for option in SHORT_OPTIONS.split("-c").filter(|option| !option.trim().is_empty()) {
            client.batch_execute(&format!("set {option}")).await.unwrap();
        }
        let types = "text, text, text, text, text, timestamptz, timestamptz, bigint, text, text, bigint, bool, \
                     text";
        let prepare = format!("prepare record ({types}) as {}", version_order::RECORD);
        client.batch_execute(&prepare).await.unwrap();
        let record = async |etag: &str, sequencer: Option<&str>, event: Option<&str>| {
            let text = |value: Option<&str>| value.map_or("null".to_owned(), |v| format!("'{v}'"));
            let written = event.is_none().then_some("2026-01-01T00:00:50Z");
            let (sequencer, event, written) = (text(sequencer), text(event), text(written));
            let execute = format!(
                "execute record ('movies', 'daily.json', null, '{etag}', {sequencer}, {event}, \
                 {written}, 1, '', null, 1, false, null)"
            );
            plan(client, &execute, &[]).await
        };
        let event = Some("2026-01-01T00:00:50.005Z");
        for statistics in ["", "analyze ingests"] {
            client.batch_execute(statistics).await.unwrap();
            for sequencer in [None, Some("f4241"), Some("f8000a"), Some("ff"), Some("01")] {
                for (etag, event) in [("etag 1", None), ("new", None), ("etag 1", event)] {
                    let plan = record(etag, sequencer, event).await;
                    let rows = rows_read(&plan);
                    assert!(rows <= 100.0, "{rows} rows: {statistics} {sequencer:?}: {plan:#}");
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_claim_does_not_walk_over_ended_ingests() {
    with_database("claim", async |client, store| {
        // What is older than an open transaction cannot be cleaned up.
        let reader = store.worker().await.unwrap();
        let snapshot = "begin isolation level repeatable read; select from ingests";
        reader.batch_execute(snapshot).await.unwrap();
        let generate = "
            insert into ingests (bucket, key, large, run_after)
            select 'movies', n::text, false, now() - interval '1 hour' + make_interval(secs => n * 0.03)
            from generate_series(1, 100000) n;
            update ingests set state = 'rejected', violation_count = 1, finished_at = now()
            where id <= 99900;
            analyze ingests";
        client.batch_execute(generate).await.unwrap();
        for option in SHORT_OPTIONS.split("-c").filter(|option| !option.trim().is_empty()) {
            client.batch_execute(&format!("set {option}")).await.unwrap();
        }
        let types = "uuid, float8, bool, timestamptz, bigint, text";
        let prepare = format!("prepare claim ({types}) as {}", claim::CLAIM);
        client.batch_execute(&prepare).await.unwrap();
        let claim = async |start: Option<DateTime<Utc>>| {
            let token = uuid::Uuid::new_v4();
            let start = start.map_or("null".to_owned(), |start| format!("'{start}'"));
            let execute = format!("execute claim ('{token}', 60, false, {start}, 10, '{FOLDING}')");
            let plan = plan(client, &execute, &[]).await;
            plan["Shared Hit Blocks"].as_i64().unwrap() + plan["Shared Read Blocks"].as_i64().unwrap()
        };
        let from_the_beginning = claim(None).await;
        let last = "select max(run_after) - interval '5 seconds' from ingests where state = 'running'";
        let last = client.query_one(last, &[]).await.unwrap().get(0);
        let from_the_cursor = claim(Some(last)).await;
        let blocks = (from_the_beginning, from_the_cursor);
        assert!(from_the_beginning > from_the_cursor + 1000, "{blocks:?} blocks");
    })
    .await;
}
