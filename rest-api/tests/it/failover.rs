//! The database goes away in every way it can, and comes back, while the service is at work.
//!
//! All the while clients query and files arrive, told of by the Lambda's own client, which repeats
//! what was not accepted. The Postgres is the test's own; the service reaches it through a proxy.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aws::Secret;
use futures_util::future::join_all;
use ingest_lambda::{ApiClient, Notify, Token};
use local_stack::postgres::{Postgres, Purpose, give};
use reqwest::StatusCode;
use rest_api::config::{Database, Retry};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    proxy::{Proxy, Upstream},
    service::{BUCKET, Service, TOKEN, no_secrets},
};

/// What the issue asks for.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
const RECOVERED_WITHIN: Duration = Duration::from_secs(10);

/// What clients ask for.
const QUERIES: [&str; 4] =
    ["/movies?title=movie&sort=-year", "/movies/1", "/ingests?limit=20", "/ingests/1"];

/// An outage.
#[derive(Clone, Copy, Debug)]
enum Outage {
    /// Postgres stands still with all its connections, and goes on.
    Frozen,
    /// It stands still, and then another one takes its place: the connections lead nowhere.
    Lost,
    /// Nobody listens.
    Refused,
    /// Connections break, once.
    Reset,
    /// It stops, comes back as a replica that takes no writes, and is promoted.
    Demoted,
}

const OUTAGES: [Outage; 5] =
    [Outage::Frozen, Outage::Lost, Outage::Refused, Outage::Reset, Outage::Demoted];

/// An answer to a query.
struct Answered {
    at: Instant,
    took: Duration,
    status: StatusCode,
    retry_after: bool,
}

/// What clients have seen so far.
#[derive(Default)]
struct Log {
    answers: Mutex<Vec<Answered>>,
    /// The keys whose notifications were accepted.
    accepted: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Log {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// The Postgres, which outlives restarts, and its folder.
struct Server {
    /// None only in the middle of a restart.
    postgres: Option<Postgres>,
    folder: PathBuf,
}

impl Server {
    async fn start() -> Self {
        let folder = std::env::temp_dir().join(format!("mru-test-failover-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut server = Self { postgres: None, folder };
        server.restart().await;
        server
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    async fn restart(&mut self) {
        if let Some(postgres) = self.postgres.take() {
            postgres.stop().await;
        }
        let settings = ["shared_buffers=32MB".to_owned(), "max_connections=100".to_owned()];
        let start = Postgres::start_with(&self.data(), Purpose::Keep, 5432, &settings);
        self.postgres = Some(start.await.unwrap());
    }

    fn postgres(&self) -> &Postgres {
        self.postgres.as_ref().unwrap()
    }

    fn upstream(&self) -> Upstream {
        Upstream::Postgres(self.postgres().socket_dir().to_owned())
    }

    async fn sql(&self) -> tokio_postgres::Client {
        self.postgres().connect("drill").await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Outage {
    /// Goes through the outage; returns the moment from which Postgres answers again.
    async fn happen(self, server: &mut Server, proxy: &mut Proxy) -> Instant {
        match self {
            Self::Frozen | Self::Lost => {
                proxy.freeze();
                sleep(Duration::from_secs(7)).await;
                if let Self::Lost = self {
                    proxy.reset();
                }
                proxy.thaw();
            }
            Self::Refused => {
                proxy.refuse().await;
                proxy.reset();
                sleep(Duration::from_secs(4)).await;
                proxy.accept().await;
            }
            Self::Reset => proxy.reset(),
            Self::Demoted => {
                let signal = server.data().join("standby.signal");
                std::fs::write(&signal, "").unwrap();
                give(&signal).unwrap();
                server.restart().await;
                proxy.lead_to(server.upstream());
                sleep(Duration::from_secs(3)).await;
                let promote = "select pg_promote()";
                let promoted = server.sql().await.query_one(promote, &[]).await.unwrap();
                assert!(promoted.get::<_, bool>(0));
            }
        }
        Instant::now()
    }
}

fn movie(title: &str) -> Value {
    json!({ "title": format!("movie {title}"), "year": 2000 })
}

async fn query(service: &Service, log: &Log, path: &str) {
    while !log.stopped() {
        let at = Instant::now();
        let answer = service.get(path).await;
        let retry_after = answer.header("retry-after").parse::<u64>().is_ok();
        let answered = Answered { at, took: at.elapsed(), status: answer.status, retry_after };
        log.answers.lock().unwrap().push(answered);
        sleep(Duration::from_millis(20)).await;
    }
}

/// Puts a file with one movie into the bucket, and tells of it until that is accepted.
async fn upload(service: &Service, lambda: &ApiClient, key: &str) {
    service.put(key, movie(key).to_string()).await;
    let notification = json!({ "bucket": BUCKET, "key": key }).to_string();
    let notification = schema::parse(notification.as_bytes()).unwrap();
    while lambda.notify(&notification, "drill").await.is_err() {
        sleep(Duration::from_millis(200)).await;
    }
}

async fn upload_on(service: &Service, lambda: &ApiClient, log: &Log, uploader: usize) {
    for number in 0.. {
        if log.stopped() {
            return;
        }
        let key = format!("{uploader}-{number}");
        upload(service, lambda, &key).await;
        log.accepted.lock().unwrap().push(key);
        sleep(Duration::from_millis(150)).await;
    }
}

/// How many of the ingests that were received before `id` have not ended.
async fn open_before(sql: &tokio_postgres::Client, id: i64) -> i64 {
    let open = "select count(*) from ingests where id <= $1 and finished_at is null";
    sql.query_one(open, &[&id]).await.unwrap().get(0)
}

/// One outage; then how long it took until all was well again: queries, writes, a new file, and
/// the files that were under way.
async fn drill(
    outage: Outage,
    server: &mut Server,
    proxy: &mut Proxy,
    service: &Service,
    lambda: &ApiClient,
) -> (Instant, Duration) {
    let answering = outage.happen(server, proxy).await;
    let sql = server.sql().await;
    let last = "select coalesce(max(id), 0) from ingests";
    let last: i64 = sql.query_one(last, &[]).await.unwrap().get(0);
    let write = movie(&format!("written after {outage:?}")).to_string();
    let key = format!("after-{outage:?}");
    let written = async || service.send(service.post("/movies", write.clone())).await.status;
    let ended = |ingests: &Value| ingests[0]["state"] == "succeeded";
    upload(service, lambda, &key).await;
    let probe = format!("/ingests?key={key}");
    while written().await != StatusCode::CREATED
        || join_all(QUERIES.map(|path| service.get(path))).await.iter().any(|a| a.status != 200)
        || open_before(&sql, last).await > 0
        || !ended(&service.get(&probe).await.json())
    {
        assert!(answering.elapsed() < Duration::from_secs(120), "{outage:?}: no recovery");
        sleep(Duration::from_millis(20)).await;
    }
    let recovered = answering.elapsed();

    // No connection that the outage has spoilt is left.
    for number in 0..200 {
        let answer = service.get(QUERIES[number % QUERIES.len()]).await;
        assert_eq!(answer.status, StatusCode::OK, "{outage:?}, query {number}: {}", answer.text);
    }
    for _ in 0..20 {
        assert_eq!(written().await, StatusCode::CREATED, "{outage:?}");
    }
    (answering, recovered)
}

/// Says what clients saw from `start` to `end`, and checks it.
fn check(outage: Outage, log: &Log, start: Instant, answering: Instant, recovered: Duration) {
    let answers = log.answers.lock().unwrap();
    let during = || answers.iter().filter(|answer| answer.at >= start);
    let refused = || during().filter(|answer| answer.status != StatusCode::OK);
    let slowest = refused().map(|answer| answer.took).max().unwrap_or_default();
    let slowest_ok = during().map(|answer| answer.took).max().unwrap_or_default();
    let last = refused().map(|answer| answer.at + answer.took).max();
    let last = last.map_or(Duration::ZERO, |last| last.saturating_duration_since(answering));
    eprintln!(
        "{outage:?}: {} queries, {} of them 503 within {slowest:.1?}; the slowest of all took \
         {slowest_ok:.1?}; the last 503 came {last:.1?} after Postgres answered again, and \
         all was well after {recovered:.1?}",
        during().count(),
        refused().count(),
    );
    for answer in refused() {
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{outage:?}");
        assert!(answer.retry_after, "{outage:?}: without Retry-After");
    }
    assert!(slowest <= ANSWERED_WITHIN, "{outage:?}: a 503 after {slowest:?}");
    assert!(last.max(recovered) <= RECOVERED_WITHIN, "{outage:?}: {last:?}, {recovered:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_lives_through_every_outage_of_its_database() {
    let mut server = Server::start().await;
    server.postgres().create_database("drill").await.unwrap();
    let database = server.postgres().database("drill");
    rest_api::store::migrate(&database, &no_secrets()).await.unwrap();
    let mut proxy = Proxy::to(server.upstream()).await;
    let (host, port) = (proxy.address.ip().to_string(), proxy.address.port());
    let service = Service::start_with(|config| {
        config.database = Database { host, port, ..database };
        // As in production.
        config.retry = Retry::default();
        config.lease = Duration::from_secs(15);
    });
    let service = Arc::new(service.await);
    service.ingest("first", movie("first").to_string()).await;
    let token = Token::Fixed(Secret::new(TOKEN));
    let api_url = service.url("/notify").parse().unwrap();
    let config = ingest_lambda::Config { api_url, token, log_filter: String::new() };
    let lambda = Arc::new(ApiClient::new(&config, no_secrets()).await.unwrap());

    let log = Arc::new(Log::default());
    let mut clients = JoinSet::new();
    for path in QUERIES {
        let (service, log) = (Arc::clone(&service), Arc::clone(&log));
        clients.spawn(async move { query(&service, &log, path).await });
    }
    for uploader in 0..2 {
        let (service, lambda, log) = (Arc::clone(&service), Arc::clone(&lambda), Arc::clone(&log));
        clients.spawn(async move { upload_on(&service, &lambda, &log, uploader).await });
    }
    for outage in OUTAGES {
        sleep(Duration::from_secs(1)).await;
        let start = Instant::now();
        let (answering, recovered) =
            drill(outage, &mut server, &mut proxy, &service, &lambda).await;
        check(outage, &log, start, answering, recovered);
    }
    log.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    every_accepted_file_is_there(&server, &log).await;
    if let Some(postgres) = server.postgres.take() {
        postgres.stop().await;
    }
}

async fn every_accepted_file_is_there(server: &Server, log: &Log) {
    let sql = server.sql().await;
    while open_before(&sql, i64::MAX).await > 0 {
        sleep(Duration::from_millis(50)).await;
    }
    let accepted = std::mem::take(&mut *log.accepted.lock().unwrap());
    assert!(accepted.len() > 10, "{accepted:?}");
    let missing = "select key from unnest($1::text[]) key where not exists (
            select from ingests i where i.key = key.key and state = 'succeeded')
        or not exists (select from movies where title_lc = 'movie ' || key)";
    let missing = sql.query(missing, &[&accepted]).await.unwrap();
    let missing: Vec<String> = missing.iter().map(|row| row.get(0)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let attempts = "select sum(attempts)::bigint, max(attempts) from ingests";
    let attempts = sql.query_one(attempts, &[]).await.unwrap();
    let (sum, most): (i64, i32) = (attempts.get(0), attempts.get(1));
    eprintln!("{} files accepted, all there, in {sum} attempts, {most} at most", accepted.len());
}
