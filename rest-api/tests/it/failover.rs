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

use aws::{Secret, trace::TraceParent};
use futures_util::future::join_all;
use ingest_lambda::{ApiClient, Notify, Token};
use local_stack::postgres::{Postgres, Purpose, restrict_to_postgres};
use reqwest::StatusCode;
use rest_api::config::{Database, Retry};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    proxy::{Act, Proxy, Upstream, Way},
    service::{Answer, BUCKET, Service, TOKEN, no_secrets},
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

    async fn restart(&mut self) {
        if let Some(postgres) = self.postgres.take() {
            postgres.stop().await;
        }
        // The machine does not fail here, and flushing to its disk would take most of the time.
        let settings = ["fsync=off", "shared_buffers=32MB", "max_connections=100"];
        let settings = settings.map(str::to_owned);
        let data = self.folder.join("data");
        let started = Postgres::start_with(&data, Purpose::Keep, 5432, &settings).await;
        self.postgres = Some(started.unwrap());
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
                sleep(Duration::from_secs(6)).await;
                if let Self::Lost = self {
                    proxy.reset();
                }
                proxy.thaw();
            }
            Self::Refused => {
                proxy.refuse().await;
                proxy.reset();
                sleep(Duration::from_secs(3)).await;
                proxy.accept().await;
            }
            Self::Reset => proxy.reset(),
            Self::Demoted => {
                let signal = server.folder.join("data/standby.signal");
                std::fs::write(&signal, "").unwrap();
                restrict_to_postgres(&signal).unwrap();
                server.restart().await;
                proxy.lead_to(server.upstream());
                sleep(Duration::from_secs(2)).await;
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
        sleep(Duration::from_millis(50)).await;
    }
}

/// Puts a file with one movie into the bucket, and tells of it until that is accepted.
async fn upload(service: &Service, lambda: &ApiClient, key: &str) {
    service.put(key, movie(key).to_string()).await;
    let notification = json!({ "bucket": BUCKET, "key": key }).to_string();
    let notification = schema::parse(notification.as_bytes()).unwrap();
    while lambda.notify(&notification, "drill", &TraceParent::random()).await.is_err() {
        sleep(Duration::from_millis(200)).await;
    }
}

/// Uploads one file after another, each when the one before it is in the catalogue.
async fn upload_on(service: &Service, lambda: &ApiClient, log: &Log, uploader: usize) {
    for number in 0.. {
        if log.stopped() {
            return;
        }
        let key = format!("{uploader}-{number}");
        upload(service, lambda, &key).await;
        while !log.stopped() && !succeeded(service, &key).await {
            sleep(Duration::from_millis(100)).await;
        }
        log.accepted.lock().unwrap().push(key);
    }
}

/// Whether the file is in the catalogue, as far as the service can tell now.
async fn succeeded(service: &Service, key: &str) -> bool {
    let answer = service.get(&format!("/ingests?state=succeeded&key={key}")).await;
    ok(&answer) && answer.json()[0].is_object()
}

/// How many of the ingests that were received before `id` have not ended.
async fn open_before(sql: &tokio_postgres::Client, id: i64) -> i64 {
    let open = "select count(*) from ingests where id <= $1 and finished_at is null";
    sql.query_one(open, &[&id]).await.unwrap().get(0)
}

/// All that is drilled.
struct Drill {
    server: Server,
    /// Before the database.
    proxy: Proxy,
    /// Before the bucket.
    bucket: Proxy,
    service: Arc<Service>,
    lambda: Arc<ApiClient>,
    log: Arc<Log>,
}

impl Drill {
    async fn start() -> Self {
        let server = Server::start().await;
        server.postgres().create_database("drill").await.unwrap();
        let database = server.postgres().database("drill");
        rest_api::store::migrate(&database, &no_secrets()).await.unwrap();
        let (proxy, bucket) = (Proxy::to(server.upstream()).await, Proxy::start().await);
        let (host, port) = (proxy.address.ip().to_string(), proxy.address.port());
        let endpoint = format!("http://{}", bucket.address);
        let service = Service::start_with_reading(
            |config| {
                config.database = Database { host, port, ..database };
                // As in production.
                config.retry = Retry::default();
                config.lease = Duration::from_secs(15);
            },
            |s3| s3.config().to_builder().endpoint_url(endpoint).build(),
        )
        .await;
        bucket.lead_to(Upstream::Tcp(service.s3_address));
        let token = Token::Fixed(Secret::new(TOKEN));
        let api_url = service.url("/notify").parse().unwrap();
        let config = ingest_lambda::Config { api_url, token, log_filter: String::new() };
        let lambda = Arc::new(ApiClient::new(&config, no_secrets()).await.unwrap());
        service.ingest("first", movie("first").to_string()).await;
        Self { server, proxy, bucket, service: Arc::new(service), lambda, log: Arc::default() }
    }

    /// Clients that ask and upload until the log's `stop`.
    fn clients(&self) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        for path in QUERIES {
            let (service, log) = (Arc::clone(&self.service), Arc::clone(&self.log));
            clients.spawn(async move { query(&service, &log, path).await });
        }
        for uploader in 0..2 {
            let (service, log) = (Arc::clone(&self.service), Arc::clone(&self.log));
            let lambda = Arc::clone(&self.lambda);
            clients.spawn(async move { upload_on(&service, &lambda, &log, uploader).await });
        }
        clients
    }

    /// Goes through an outage, with a file half read when it begins. Returns the moment from which
    /// Postgres answered again, and how long it took from there until all was well: queries,
    /// writes, a new file, and all the files from before.
    async fn go_through(&mut self, outage: Outage) -> (Instant, Duration) {
        let key = format!("half-read-in-{outage:?}");
        let half_read = self.bucket.on(Way::Down, &format!("movie {key}"), 1, Act::Hold);
        upload(&self.service, &self.lambda, &key).await;
        half_read.passed(1).await;
        tokio::spawn(async move {
            sleep(Duration::from_millis(500)).await;
            half_read.release();
        });
        let answering = outage.happen(&mut self.server, &mut self.proxy).await;

        let sql = self.server.sql().await;
        let last = "select coalesce(max(id), 0) from ingests";
        let last: i64 = sql.query_one(last, &[]).await.unwrap().get(0);
        let key = format!("after-{outage:?}");
        upload(&self.service, &self.lambda, &key).await;
        while self.write(outage).await != StatusCode::CREATED
            || !join_all(QUERIES.map(|path| self.service.get(path))).await.iter().all(ok)
            || open_before(&sql, last).await > 0
            || !succeeded(&self.service, &key).await
        {
            assert!(answering.elapsed() < Duration::from_secs(120), "{outage:?}: no recovery");
            sleep(Duration::from_millis(20)).await;
        }
        (answering, answering.elapsed())
    }

    /// No connection that the outage has spoilt is left.
    async fn all_is_well(&self, outage: Outage) {
        join_all(QUERIES.map(async |path| {
            for number in 0..50 {
                let answer = self.service.get(path).await;
                assert!(ok(&answer), "{outage:?}, {path} {number}: {}", answer.text);
            }
        }))
        .await;
        for _ in 0..10 {
            assert_eq!(self.write(outage).await, StatusCode::CREATED, "{outage:?}");
        }
    }

    async fn write(&self, outage: Outage) -> StatusCode {
        let movie = movie(&format!("written after {outage:?}")).to_string();
        self.service.send(self.service.post("/movies", movie)).await.status
    }
}

fn ok(answer: &Answer) -> bool {
    answer.status == StatusCode::OK
}

/// Says what clients have seen since `start`, and checks it.
fn check(outage: Outage, log: &Log, start: Instant, answering: Instant, recovered: Duration) {
    let answers = log.answers.lock().unwrap();
    let answers = || answers.iter().filter(|answer| answer.at >= start);
    let refused = || answers().filter(|answer| answer.status != StatusCode::OK);
    let slowest = answers().map(|answer| answer.took).max().unwrap_or_default();
    let last = refused().map(|answer| answer.at + answer.took).max();
    let last = last.map_or(Duration::ZERO, |last| last.saturating_duration_since(answering));
    eprintln!(
        "{outage:?}: {} queries, {} of them 503, all within {slowest:.1?}; the last 503 {last:.1?} \
         after Postgres answered again, all well after {recovered:.1?}",
        answers().count(),
        refused().count(),
    );
    for answer in refused() {
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{outage:?}");
        assert!(answer.retry_after, "{outage:?}: without Retry-After");
    }
    assert!(slowest <= ANSWERED_WITHIN, "{outage:?}: an answer after {slowest:?}");
    assert!(last.max(recovered) <= RECOVERED_WITHIN, "{outage:?}: {last:?}, {recovered:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_lives_through_every_outage_of_its_database() {
    let mut drill = Drill::start().await;
    let mut clients = drill.clients();
    for outage in OUTAGES {
        sleep(Duration::from_secs(1)).await;
        let start = Instant::now();
        let (answering, recovered) = drill.go_through(outage).await;
        drill.all_is_well(outage).await;
        check(outage, &drill.log, start, answering, recovered);
    }
    drill.log.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    every_accepted_file_is_there(&drill.server, &drill.log).await;
    if let Some(postgres) = drill.server.postgres.take() {
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
