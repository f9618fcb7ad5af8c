//! The limit of an uncached title query: prepared statements, sent to Postgres without the service. Each client has a
//! connection of its own and prepared statements. (pgbench takes numbers as parameters, no text.)

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
use rest_api::store::{MovieQuery, PageStatement, Revision, Store, fold, page_session};
use tokio_postgres::{NoTls, Statement, types::ToSql};

use super::{
    DATABASE,
    load::{Outcome, run},
    plain::containing,
};

/// What the clients send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// The statement that one writes for a filter of the title, in a session with the default options of Postgres.
    Plain,
    /// The statements of the service, in sessions with its options.
    Service,
}

/// A statement and its parameters.
struct Prepared {
    text: String,
    params: Vec<Box<dyn ToSql + Send + Sync>>,
}

/// The statements of queries.
pub(super) struct Statements {
    way: Way,
    all: Vec<Prepared>,
    next: AtomicUsize,
}

impl Statements {
    /// Returns those of queries with a filter of the title alone.
    pub(super) async fn new(store: &Store, queries: &[MovieQuery], way: Way) -> Result<Arc<Self>> {
        store.read_sample(Revision::default()).await?;
        let mut all = Vec::with_capacity(queries.len());
        for query in queries {
            all.extend(match way {
                Way::Plain => plain(query),
                Way::Service => {
                    let statement = store.page_statement(query, Revision::default());
                    statement.map(|PageStatement { sql, .. }| Prepared {
                        text: sql.text.clone(),
                        params: sql.into_params(),
                    })
                }
            });
        }
        Ok(Arc::new(Self { way, all, next: AtomicUsize::new(0) }))
    }

    fn options(&self) -> String {
        match self.way {
            Way::Plain => String::new(),
            Way::Service => page_session(),
        }
    }
}

fn plain(query: &MovieQuery) -> Option<Prepared> {
    let text = "select id, doc from movies where title_lc like $1 order by id limit $2".to_owned();
    let title = containing(&fold(query.filters.titles.first()?));
    Some(Prepared { text, params: vec![Box::new(title), Box::new(query.limit + 1)] })
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
    config.host_path(directory).user(USER).dbname(DATABASE).options(statements.options());
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
        client.query(&statement, &params).await?;
        outcome.record(200, started.elapsed());
    }
    Ok(())
}
