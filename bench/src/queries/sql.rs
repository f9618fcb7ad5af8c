//! The limits of uncached queries: Postgres itself, without the service. Each client has a connection of its own and
//! prepared statements. (pgbench takes numbers as parameters, no text.)

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use local_stack::postgres::{Postgres, USER};
use rest_api::store::{MovieQuery, page_query};
use serde::Serialize;
use tokio_postgres::{NoTls, Row, Statement, types::ToSql};

use super::{
    DATABASE,
    load::{Outcome, run},
};

/// What the clients do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// The statements and the session of the service; the rows are read.
    Same,
    /// The same filters, with Postgres's own choice of plans; rows of columns become JSON by serde.
    Plain,
}

impl Way {
    fn options(self) -> &'static str {
        match self {
            Self::Same => {
                "-c plan_cache_mode=force_custom_plan -c jit=off -c max_parallel_workers_per_gather=0"
            }
            Self::Plain => "-c plan_cache_mode=auto",
        }
    }
}

/// A statement and its parameters.
struct Prepared {
    text: String,
    params: Vec<Box<dyn ToSql + Send + Sync>>,
}

/// The statements of `queries`.
pub(super) struct Statements {
    way: Way,
    all: Vec<Prepared>,
    next: AtomicUsize,
}

impl Statements {
    pub(super) fn new(queries: &[MovieQuery], way: Way) -> Arc<Self> {
        let prepared = queries.iter().filter_map(page_query).map(|query| {
            let text = match way {
                Way::Same => query.text.clone(),
                Way::Plain => plain(&query.text),
            };
            Prepared { text, params: query.into_params() }
        });
        Arc::new(Self { way, all: prepared.collect(), next: AtomicUsize::new(0) })
    }
}

/// Returns the statement that selects columns instead of the rendered document.
fn plain(text: &str) -> String {
    let movies = text.find("(select id, doc from movies").map_or(text, |at| &text[at..]);
    let movies = movies.trim().trim_start_matches('(').trim_end_matches(')');
    let columns = "select id, title_lc, year, cast_lc, genres_lc from movies";
    format!("/* sql::plain */ {}", movies.replacen("select id, doc from movies", columns, 1))
}

/// Lets `clients` clients run statements for `duration`.
///
/// # Errors
/// If the generator cannot be started.
pub(super) async fn closed(
    postgres: &Postgres,
    statements: &Arc<Statements>,
    clients: usize,
    duration: Duration,
) -> Result<Outcome> {
    let end = Instant::now() + duration;
    let (directory, statements) =
        (Arc::<Path>::from(postgres.socket_dir()), Arc::clone(statements));
    run(clients, move || {
        let (directory, statements) = (Arc::clone(&directory), Arc::clone(&statements));
        async move {
            let mut outcome = Outcome::default();
            if client(&directory, &statements, end, &mut outcome).await.is_err() {
                outcome.broken += 1;
            }
            outcome
        }
    })
    .await
}

async fn client(
    directory: &Path,
    statements: &Statements,
    end: Instant,
    outcome: &mut Outcome,
) -> Result<()> {
    let mut config = tokio_postgres::Config::new();
    config.host_path(directory).user(USER).dbname(DATABASE).options(statements.way.options());
    let (client, connection) = config.connect(NoTls).await?;
    tokio::task::spawn_local(connection);
    let mut prepared: HashMap<&str, Statement> = HashMap::new();
    while Instant::now() < end {
        let number = statements.next.fetch_add(1, Ordering::Relaxed) % statements.all.len();
        let Prepared { text, params } = &statements.all[number];
        let started = Instant::now();
        let statement = match prepared.get(&**text) {
            Some(statement) => statement.clone(),
            None => {
                let statement = client.prepare(text).await?;
                prepared.insert(text, statement.clone());
                statement
            }
        };
        let params: Vec<&(dyn ToSql + Sync)> =
            params.iter().map(|param| &**param as &(dyn ToSql + Sync)).collect();
        let rows = client.query(&statement, &params).await?;
        if statements.way == Way::Plain {
            std::hint::black_box(json(&rows)?);
        }
        outcome.record(200, started.elapsed());
    }
    Ok(())
}

fn json(rows: &[Row]) -> Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Movie<'a> {
        id: i64,
        title: &'a str,
        year: i32,
        cast: Vec<&'a str>,
        genres: Vec<&'a str>,
    }
    let movie = |row: &'_ Row| -> Result<Vec<u8>> {
        let cast: &str = row.get("cast_lc");
        let movie = Movie {
            id: row.get("id"),
            title: row.get("title_lc"),
            year: row.get("year"),
            cast: cast.split('\u{1f}').collect(),
            genres: row.get("genres_lc"),
        };
        Ok(serde_json::to_vec(&movie)?)
    };
    let movies: Vec<Vec<u8>> = rows.iter().map(movie).collect::<Result<_>>()?;
    Ok(movies.join(&b','))
}
