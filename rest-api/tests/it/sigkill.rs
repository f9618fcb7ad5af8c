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

/// The object key of the file of each test.
const KEY: &str = "step.ndjson";

/// How many movies a file has.
const MOVIES: u32 = 50;

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

/// The steps of a large file in their order. Each SQL statement begins with its name.
const STEPS: [Step; 10] = [
    step("claimed, before the response arrives", (Database, ToClient, KEY), false),
    step("claimed", (Bucket, ToServer, "GET /movies/"), false),
    step("half of the object read", (Bucket, ToClient, r#""title":"movie 25""#), false),
    step("object read", (Database, ToServer, "staging::new"), false),
    step("staging", (Database, ToServer, "staging::add */"), false),
    step("staged", (Database, ToServer, "merge::lock"), false),
    step("merged", (Database, ToServer, "listen::announce_ended"), false),
    step("merged, before the commit", (Database, ToServer, "COMMIT"), false),
    step("committed, before the response arrives", (Database, ToClient, "COMMIT"), true),
    step("committed", (Database, ToServer, "maintenance::maintain"), true),
];

/// The steps of a batch of small files.
const BATCH_STEPS: [Step; 13] = [
    step("claimed, before the response arrives", (Database, ToClient, KEY), false),
    step("claimed", (Bucket, ToServer, "GET /movies/step"), false),
    step("half of an object read", (Bucket, ToClient, r#""title":"movie 25""#), false),
    step("read", (Database, ToServer, "merge::lock"), false),
    step("locked", (Database, ToServer, "queue::lock_held"), false),
    step("recorded", (Database, ToServer, "merged_versions::record"), false),
    step("compared", (Database, ToServer, "batch_movies::read_movies"), false),
    step("merged", (Database, ToServer, "merged_versions::write"), false),
    step("ended", (Database, ToServer, "queue::complete"), false),
    step("announced", (Database, ToServer, "listen::announce_ended"), false),
    step("ended, before the commit", (Database, ToServer, "COMMIT"), false),
    step("committed, before the response arrives", (Database, ToClient, "COMMIT"), true),
    step("committed", (Database, ToServer, "maintenance::maintain"), true),
];

fn movies(range: std::ops::Range<u32>) -> Vec<Value> {
    numbered_movies("movie", range, "Drama")
}

/// The state of the ingests and of the catalogue in the database.
#[derive(Debug, PartialEq)]
struct State {
    ingest: String,
    attempts: i32,
    movies: i64,
    revision: i64,
    versions: i64,
    /// How many movies the versions contain.
    contained: i64,
}

/// Returns the state. All ingests of the test must have the same.
async fn state(sql: &tokio_postgres::Client) -> State {
    let state = "select string_agg(distinct state, ', '), max(attempts),
            (select count(*) from movies), (select revision from catalogue),
            (select count(*) from merged_versions),
            (select coalesce(sum(cardinality(movie_ids)), 0)::bigint from version_movies)
        from ingests where key like 'step%'";
    let row = sql.query_one(state, &[]).await.unwrap();
    State {
        ingest: row.get(0),
        attempts: row.get(1),
        movies: row.get(2),
        revision: row.get(3),
        versions: row.get(4),
        contained: row.get(5),
    }
}

/// The files that are ingested.
#[derive(Clone, Copy)]
enum Files {
    /// One that is processed alone.
    Large,
    /// Three that are processed as a batch.
    Small,
}

impl Files {
    fn count(self) -> u32 {
        match self {
            Self::Large => 1,
            Self::Small => 3,
        }
    }

    /// Returns the state after so many attempts, before or after the commit.
    fn expected(self, attempts: i32, committed: bool) -> State {
        let (ingest, count) = if committed { ("succeeded", self.count()) } else { ("running", 0) };
        let movies = i64::from(count * MOVIES);
        // Files whose worker died are processed one by one.
        let revision = if committed && attempts == 1 { 1 } else { i64::from(count) };
        let (ingest, versions) = (ingest.to_owned(), i64::from(count));
        State { ingest, attempts, movies, revision, versions, contained: movies }
    }

    /// Starts a service without workers that has queued the files, and proxies in front of its database
    /// and its bucket.
    async fn start(self) -> (Service, Proxy, Proxy) {
        let around = Service::start_without_workers().await;
        for file in 0..self.count() {
            let key = if file == 0 { KEY.to_owned() } else { format!("step {file}.ndjson") };
            let mut content = ndjson(&movies(file * MOVIES..(file + 1) * MOVIES));
            if let Self::Large = self {
                content.push_str(&"\n".repeat(70_000));
            }
            around.put(&key, content).await;
            let notification = notification::bare(&key).to_string();
            let recorded = around.send(around.post("/notify", notification)).await;
            assert_eq!(recorded.status, StatusCode::ACCEPTED);
        }
        let socket = postgres().await.socket_dir().to_owned();
        let database = Proxy::to(Upstream::Postgres(socket)).await;
        let bucket = Proxy::to(Upstream::Tcp(around.s3_address)).await;
        (around, database, bucket)
    }
}

async fn kill_at(files: Files, step: &Step) {
    let Step { name, held: (server, direction, pattern), committed } = step;
    let (around, database, bucket) = files.start().await;
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
    assert_eq!(state(&sql).await, files.expected(1, *committed), "{name}");

    let _successor = Process::serve_behind(&around, database.address, bucket.address);
    eventually(async || state(&sql).await.ingest == "succeeded").await;
    let attempts = if *committed { 1 } else { 2 };
    assert_eq!(state(&sql).await, files.expected(attempts, true), "{name}");
    let all = files.count() * MOVIES;
    let mut found = around.movies_without_ids("limit=1000").await;
    found.sort_by_key(|movie| {
        let title = movie["title"].as_str().unwrap().to_owned();
        title.trim_start_matches("movie ").parse::<u32>().unwrap()
    });
    assert_eq!(found, movies(0..all), "{name}");

    // The next ingest is not affected.
    let revision = state(&sql).await.revision;
    let next = around.ingest("next.ndjson", ndjson(&movies(all - 10..all + 10))).await;
    let counts = json!([next["attempts"], next["inserted"], next["updated"], next["unchanged"]]);
    assert_eq!(counts, json!([1, 10, 0, 10]), "{name}: {next}");
    assert_eq!(state(&sql).await.revision, revision + 1, "{name}");
    let left = "select count(*) from pg_stat_activity where datname = current_database()
        and state like 'idle in transaction%'";
    let left = async || -> i64 { sql.query_one(left, &[]).await.unwrap().get(0) };
    eventually(async || left().await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ingest_whose_process_is_killed_at_any_step_is_completed_by_another_process() {
    join_all(STEPS.iter().map(|step| kill_at(Files::Large, step))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_process_is_killed_at_any_step_is_completed_by_another_process() {
    join_all(BATCH_STEPS.iter().map(|step| kill_at(Files::Small, step))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_response_is_lost_is_released_by_its_own_worker() {
    let (around, database, bucket) = Files::Large.start().await;
    let sql = around.sql().await;
    let held = database.on(ToClient, KEY, 1, Action::Hold);
    let _process = Process::serve_behind(&around, database.address, bucket.address);
    held.wait_for_matches(1).await;
    assert_eq!(state(&sql).await, Files::Large.expected(1, false));
    database.reset();
    // If the lease had expired, there would be two attempts.
    eventually(async || state(&sql).await.ingest == "succeeded").await;
    assert_eq!(state(&sql).await, Files::Large.expected(1, true));
}
