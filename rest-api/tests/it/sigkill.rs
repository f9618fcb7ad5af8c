//! The service is killed at every boundary of an ingest, and another one takes over.
//!
//! The service is a process of its own here. Proxies before its database and its bucket hold what
//! it says, or what it is told, at the boundary; then it gets SIGKILL. Its successor finds the
//! ingest when the lease has run out: the real lease, so that all boundaries are tried at once.

use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    process::Process,
    proxy::{Act, Proxy, Upstream, Way},
    service::{BUCKET, Service, eventually, postgres, without_id},
};

const KEY: &str = "boundary.ndjson";

/// Before whom the proxy stands that sees the boundary.
#[derive(Clone, Copy)]
enum Before {
    Database,
    Bucket,
}
use Before::{Bucket, Database};

/// A boundary, and the bytes that are held there.
struct Boundary {
    name: &'static str,
    place: (Before, Way, &'static str),
    /// Whether the movies are in the catalogue by then.
    committed: bool,
}

const fn boundary(
    name: &'static str,
    place: (Before, Way, &'static str),
    committed: bool,
) -> Boundary {
    Boundary { name, place, committed }
}

/// In their order. Statements open with their names.
const BOUNDARIES: [Boundary; 11] = [
    boundary("claimed, and not told so", (Database, Way::Down, KEY), false),
    boundary("claimed", (Bucket, Way::Up, "GET /movies/"), false),
    boundary("half fetched", (Bucket, Way::Down, r#""title":"movie 25""#), false),
    boundary("fetched", (Database, Way::Up, "ingests::observe"), false),
    boundary("observed", (Database, Way::Up, "merge::staging"), false),
    boundary("staging", (Database, Way::Up, "merge::stage */"), false),
    boundary("staged", (Database, Way::Up, "merge::lock"), false),
    boundary("merged", (Database, Way::Up, "merge::announce"), false),
    boundary("merged, and about to commit", (Database, Way::Up, "COMMIT"), false),
    boundary("committed, and not told so", (Database, Way::Down, "COMMIT"), true),
    boundary("committed", (Database, Way::Up, "merge::tidy"), true),
];

fn movies(range: std::ops::Range<u32>) -> Vec<Value> {
    let movie = |number| json!({ "title": format!("movie {number}"), "year": 2000, "cast": [], "genres": ["Drama"] });
    range.map(movie).collect()
}

fn file(movies: &[Value]) -> String {
    movies.iter().map(|movie| format!("{movie}\n")).collect()
}

/// The catalogue as its database holds it.
#[derive(Debug, PartialEq)]
struct State {
    ingest: String,
    attempts: i32,
    movies: i64,
    revision: i64,
    /// How many versions the catalogue was told of, and how many movies they held.
    assertions: i64,
    asserted: i64,
}

async fn state(sql: &tokio_postgres::Client) -> State {
    let state = "select i.state, i.attempts, (select count(*) from movies),
            (select revision from catalogue), (select count(*) from assertions),
            (select coalesce(sum(cardinality(movie_ids)), 0)::bigint from assertions)
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

/// What is to be found, by attempts, and whether the movies are in the catalogue.
fn expected(attempts: i32, committed: bool) -> State {
    let (ingest, movies, once) = if committed { ("succeeded", 50, 1) } else { ("running", 0, 0) };
    let ingest = ingest.to_owned();
    State { ingest, attempts, movies, revision: once, assertions: once, asserted: movies }
}

/// A service that works on nothing, with a file in its queue, and proxies before its database and
/// its bucket.
async fn start() -> (Service, Proxy, Proxy) {
    let around = Service::start_with(|config| config.workers = 0).await;
    around.put(KEY, file(&movies(0..50))).await;
    let notification = json!({ "bucket": BUCKET, "key": KEY }).to_string();
    let recorded = around.send(around.post("/notify", notification)).await;
    assert_eq!(recorded.status, StatusCode::ACCEPTED);
    let socket = postgres().await.socket_dir().to_owned();
    let database = Proxy::to(Upstream::Postgres(socket)).await;
    let bucket = Proxy::to(Upstream::Tcp(around.s3_address)).await;
    (around, database, bucket)
}

async fn kill_at(boundary: &Boundary) {
    let Boundary { name, place: (before, way, pattern), committed } = boundary;
    let (around, database, bucket) = start().await;
    let sql = around.sql().await;
    let proxy = match before {
        Database => &database,
        Bucket => &bucket,
    };
    let held = proxy.on(*way, pattern, 1, Act::Hold);
    let mut process = Process::serve_behind(&around, database.address, bucket.address);
    held.passed(1).await;
    process.kill();
    // What the process sent is lost with it, and its sockets are closed.
    database.reset();
    bucket.reset();
    assert_eq!(state(&sql).await, expected(1, *committed), "{name}");

    let _successor = Process::serve_behind(&around, database.address, bucket.address);
    eventually(async || state(&sql).await.ingest == "succeeded").await;
    let attempts = if *committed { 1 } else { 2 };
    assert_eq!(state(&sql).await, expected(attempts, true), "{name}");
    let found: Vec<Value> = around.movies("").await.iter().map(without_id).collect();
    assert_eq!(found, movies(0..50), "{name}");

    // And whatever comes next is taken as usual.
    let next = around.ingest("next.ndjson", file(&movies(40..60))).await;
    let counts = json!([next["attempts"], next["inserted"], next["updated"], next["unchanged"]]);
    assert_eq!(counts, json!([1, 10, 0, 10]), "{name}: {next}");
    assert_eq!(state(&sql).await.revision, 2, "{name}");
    let left = "select count(*) from pg_stat_activity where datname = current_database()
        and state like 'idle in transaction%'";
    let left = async || -> i64 { sql.query_one(left, &[]).await.unwrap().get(0) };
    eventually(async || left().await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_killed_at_any_boundary_leaves_its_ingest_to_the_next_one() {
    join_all(BOUNDARIES.iter().map(kill_at)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_answer_is_lost_is_given_back_by_the_worker_that_made_it() {
    let (around, database, bucket) = start().await;
    let sql = around.sql().await;
    let held = database.on(Way::Down, KEY, 1, Act::Hold);
    let _process = Process::serve_behind(&around, database.address, bucket.address);
    held.passed(1).await;
    assert_eq!(state(&sql).await, expected(1, false));
    database.reset();
    // One attempt: had the lease run out, it would be two.
    eventually(async || state(&sql).await.ingest == "succeeded").await;
    assert_eq!(state(&sql).await, expected(1, true));
}
