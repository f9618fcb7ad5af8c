//! A process is killed at each step of an ingest, and another process completes the ingest.
//!
//! Proxies in front of the database and the bucket hold the bytes of one step; then the process gets
//! SIGKILL. Its successor claims the ingest when the lease has expired. The lease has its real
//! length, so all steps are tested concurrently.

use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{
    Service, eventually,
    movies::{ndjson, numbered_movies},
    notification,
    postgres::postgres,
    process::Process,
    proxy::{Action, Direction, Proxy, Upstream},
};

const KEY: &str = "step.ndjson";

/// The server whose proxy holds the bytes.
#[derive(Clone, Copy)]
enum Server {
    Database,
    Bucket,
}
use Direction::{ToClient, ToServer};
use Server::{Bucket, Database};

/// The bytes that are held: a server, a direction and a pattern.
type Held = (Server, Direction, &'static str);

/// A step of an ingest.
struct Step {
    name: &'static str,
    held: Held,
    /// Whether the movies are in the catalogue by then.
    committed: bool,
}

const fn step(name: &'static str, held: Held, committed: bool) -> Step {
    Step { name, held, committed }
}

/// The steps in their order. Each SQL statement begins with its name.
const STEPS: [Step; 11] = [
    step("claimed, before the response arrives", (Database, ToClient, KEY), false),
    step("claimed", (Bucket, ToServer, "GET /movies/"), false),
    step("half of the object read", (Bucket, ToClient, r#""title":"movie 25""#), false),
    step("object read", (Database, ToServer, "queue::observe"), false),
    step("observed", (Database, ToServer, "staging::new"), false),
    step("staging", (Database, ToServer, "staging::add */"), false),
    step("staged", (Database, ToServer, "merge::lock"), false),
    step("merged", (Database, ToServer, "merge::announce"), false),
    step("merged, before the commit", (Database, ToServer, "COMMIT"), false),
    step("committed, before the response arrives", (Database, ToClient, "COMMIT"), true),
    step("committed", (Database, ToServer, "maintenance::clean_indexes"), true),
];

fn movies(range: std::ops::Range<u32>) -> Vec<Value> {
    numbered_movies("movie", range, "Drama")
}

/// The state of the ingest and of the catalogue in the database.
#[derive(Debug, PartialEq)]
struct State {
    ingest: String,
    attempts: i32,
    movies: i64,
    revision: i64,
    assertions: i64,
    /// How many movies the assertions contain.
    asserted: i64,
}

async fn state(sql: &tokio_postgres::Client) -> State {
    let state = "select i.state, i.attempts, (select count(*) from movies),
            (select revision from catalogue), (select count(*) from merged_versions),
            (select coalesce(sum(cardinality(movie_ids)), 0)::bigint from version_movies)
        from ingests i order by id";
    let row = sql.query(state, &[]).await.unwrap().remove(0);
    State {
        ingest: row.get(0),
        attempts: row.get(1),
        movies: row.get(2),
        revision: row.get(3),
        assertions: row.get(4),
        asserted: row.get(5),
    }
}

/// Returns the state after so many attempts, before or after the commit.
fn expected(attempts: i32, committed: bool) -> State {
    let (ingest, movies, once) = if committed { ("succeeded", 50, 1) } else { ("running", 0, 0) };
    let ingest = ingest.to_owned();
    State { ingest, attempts, movies, revision: once, assertions: once, asserted: movies }
}

/// Starts a service without workers that has queued an ingest, and proxies in front of its database
/// and its bucket.
async fn start() -> (Service, Proxy, Proxy) {
    let around = Service::start_without_workers().await;
    around.put(KEY, ndjson(&movies(0..50))).await;
    let notification = notification::bare(KEY).to_string();
    let recorded = around.send(around.post("/notify", notification)).await;
    assert_eq!(recorded.status, StatusCode::ACCEPTED);
    let socket = postgres().await.socket_dir().to_owned();
    let database = Proxy::to(Upstream::Postgres(socket)).await;
    let bucket = Proxy::to(Upstream::Tcp(around.s3_address)).await;
    (around, database, bucket)
}

async fn kill_at(step: &Step) {
    let Step { name, held: (server, direction, pattern), committed } = step;
    let (around, database, bucket) = start().await;
    let sql = around.sql().await;
    let proxy = match server {
        Database => &database,
        Bucket => &bucket,
    };
    let held = proxy.on(*direction, pattern, 1, Action::Hold);
    let mut process = Process::serve_behind(&around, database.address, bucket.address);
    held.wait_for_matches(1).await;
    process.kill();
    // What the process has sent is lost, and its connections are closed.
    database.reset();
    bucket.reset();
    assert_eq!(state(&sql).await, expected(1, *committed), "{name}");

    let _successor = Process::serve_behind(&around, database.address, bucket.address);
    eventually(async || state(&sql).await.ingest == "succeeded").await;
    let attempts = if *committed { 1 } else { 2 };
    assert_eq!(state(&sql).await, expected(attempts, true), "{name}");
    assert_eq!(around.movies_without_ids("").await, movies(0..50), "{name}");

    // The next ingest is not affected.
    let next = around.ingest("next.ndjson", ndjson(&movies(40..60))).await;
    let counts = json!([next["attempts"], next["inserted"], next["updated"], next["unchanged"]]);
    assert_eq!(counts, json!([1, 10, 0, 10]), "{name}: {next}");
    assert_eq!(state(&sql).await.revision, 2, "{name}");
    let left = "select count(*) from pg_stat_activity where datname = current_database()
        and state like 'idle in transaction%'";
    let left = async || -> i64 { sql.query_one(left, &[]).await.unwrap().get(0) };
    eventually(async || left().await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ingest_whose_process_is_killed_at_any_step_is_completed_by_another_process() {
    join_all(STEPS.iter().map(kill_at)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_response_is_lost_is_released_by_its_own_worker() {
    let (around, database, bucket) = start().await;
    let sql = around.sql().await;
    let held = database.on(ToClient, KEY, 1, Action::Hold);
    let _process = Process::serve_behind(&around, database.address, bucket.address);
    held.wait_for_matches(1).await;
    assert_eq!(state(&sql).await, expected(1, false));
    database.reset();
    // If the lease had expired, there would be two attempts.
    eventually(async || state(&sql).await.ingest == "succeeded").await;
    assert_eq!(state(&sql).await, expected(1, true));
}
