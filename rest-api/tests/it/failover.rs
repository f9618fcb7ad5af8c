//! Outages of the database under load.
//!
//! Clients query and upload files during each outage. The client of the Lambda sends the
//! notifications, and is called again until it succeeds. The Postgres belongs to this test; the
//! service reaches it through a proxy.

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
use ingest_lambda::{ApiClient, Token};
use local_stack::postgres::{Postgres, Purpose, restrict_to_postgres};
use reqwest::StatusCode;
use rest_api::config::{Database, Retry};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::support::{
    Response, Service, TOKEN,
    builder::no_secrets,
    function::{function, notify},
    ledger::parse,
    notification,
    postgres::migrate,
    proxy::{Action, Direction, Proxy, Upstream},
};

/// The longest time until a response.
const MAX_RESPONSE_TIME: Duration = Duration::from_secs(5);

/// The longest time from the end of an outage until everything works.
const MAX_RECOVERY_TIME: Duration = Duration::from_secs(10);

/// What the clients request.
const QUERIES: [&str; 4] =
    ["/movies?title=movie&sort=-year", "/movies/1", "/ingests?limit=20", "/ingests/1"];

#[derive(Clone, Copy, Debug)]
enum Outage {
    /// Postgres and all its connections freeze, and continue.
    Frozen,
    /// Postgres freezes, and another one replaces it: all connections are lost.
    Lost,
    /// Connections are refused.
    Refused,
    /// All connections are reset once.
    Reset,
    /// Postgres restarts as a standby, which is read-only, and is promoted.
    Demoted,
}

const OUTAGES: [Outage; 5] =
    [Outage::Frozen, Outage::Lost, Outage::Refused, Outage::Reset, Outage::Demoted];

/// The response to a query.
struct Observation {
    sent_at: Instant,
    took: Duration,
    status: StatusCode,
    has_retry_after: bool,
}

/// What the clients have observed so far.
#[derive(Default)]
struct Log {
    observations: Mutex<Vec<Observation>>,
    /// The keys whose notifications were accepted.
    accepted: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Log {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// The Postgres, which can be restarted, and its directory.
struct Server {
    /// `None` only during a restart.
    postgres: Option<Postgres>,
    directory: PathBuf,
}

impl Server {
    async fn start() -> Self {
        let directory =
            std::env::temp_dir().join(format!("mru-test-failover-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let mut server = Self { postgres: None, directory };
        server.restart().await;
        server
    }

    async fn restart(&mut self) {
        if let Some(postgres) = self.postgres.take() {
            postgres.stop().await;
        }
        // Flushing to disk would take most of the time, and the machine does not fail in this test.
        let settings = ["fsync=off", "shared_buffers=32MB", "max_connections=100"];
        let settings = settings.map(str::to_owned);
        let data = self.directory.join("data");
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
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Outage {
    /// Causes the outage and ends it. Returns when Postgres was available again.
    async fn cause(self, server: &mut Server, proxy: &mut Proxy) -> Instant {
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
                let signal = server.directory.join("data/standby.signal");
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
    while !log.is_stopped() {
        let sent_at = Instant::now();
        let response = service.get(path).await;
        let (took, status) = (sent_at.elapsed(), response.status);
        let has_retry_after = response.header("retry-after").parse::<u64>().is_ok();
        let observation = Observation { sent_at, took, status, has_retry_after };
        log.observations.lock().unwrap().push(observation);
        sleep(Duration::from_millis(50)).await;
    }
}

/// Puts a file with one movie into the bucket, and notifies until the notification is accepted.
async fn upload(service: &Service, lambda: &ApiClient, key: &str) {
    service.put(key, movie(key).to_string()).await;
    let notification = parse(&notification::bare(key));
    while notify(lambda, &notification).await.is_err() {
        sleep(Duration::from_millis(200)).await;
    }
}

/// Uploads files, each as soon as the previous one is in the catalogue.
async fn upload_repeatedly(service: &Service, lambda: &ApiClient, log: &Log, uploader: usize) {
    for number in 0.. {
        if log.is_stopped() {
            return;
        }
        let key = format!("{uploader}-{number}");
        upload(service, lambda, &key).await;
        while !log.is_stopped() && !has_succeeded(service, &key).await {
            sleep(Duration::from_millis(100)).await;
        }
        log.accepted.lock().unwrap().push(key);
    }
}

/// Returns whether the ingest has succeeded, and the service can say so now.
async fn has_succeeded(service: &Service, key: &str) -> bool {
    let response = service.get(&format!("/ingests?state=succeeded&key={key}")).await;
    is_ok(&response) && response.json()[0].is_object()
}

/// Returns how many ingests up to `id` have not ended.
async fn count_open(sql: &tokio_postgres::Client, id: i64) -> i64 {
    let open = "select count(*) from ingests where id <= $1 and finished_at is null";
    sql.query_one(open, &[&id]).await.unwrap().get(0)
}

/// The service, and the servers whose outages are tested.
struct Drill {
    server: Server,
    /// In front of the database.
    proxy: Proxy,
    /// In front of the bucket.
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
        migrate(&database).await.unwrap();
        let (proxy, bucket) = (Proxy::to(server.upstream()).await, Proxy::start().await);
        let (host, port) = (proxy.address.ip().to_string(), proxy.address.port());
        let service = Service::builder()
            .config(|config| {
                config.database = Database { host, port, ..database };
                // As in production.
                config.retry = Retry::default();
                config.lease = Duration::from_secs(15);
            })
            .objects_through(&bucket)
            .start()
            .await;
        let token = Token::Fixed(Secret::new(TOKEN));
        let lambda = Arc::new(function(&service, token, no_secrets()).await);
        service.ingest("first", movie("first").to_string()).await;
        Self { server, proxy, bucket, service: Arc::new(service), lambda, log: Arc::default() }
    }

    /// Starts clients that query and upload until `log.stop`.
    fn start_clients(&self) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        for path in QUERIES {
            let (service, log) = (Arc::clone(&self.service), Arc::clone(&self.log));
            clients.spawn(async move { query(&service, &log, path).await });
        }
        for uploader in 0..2 {
            let (service, log) = (Arc::clone(&self.service), Arc::clone(&self.log));
            let lambda = Arc::clone(&self.lambda);
            clients
                .spawn(async move { upload_repeatedly(&service, &lambda, &log, uploader).await });
        }
        clients
    }

    /// Causes an outage while a file is being read. Returns when Postgres was available again, and
    /// how long it took from then until everything worked: queries, writes, a new file, and the
    /// ingests from before.
    async fn go_through(&mut self, outage: Outage) -> (Instant, Duration) {
        let key = format!("half-read-in-{outage:?}");
        let half_read =
            self.bucket.on(Direction::ToClient, &format!("movie {key}"), 1, Action::Hold);
        upload(&self.service, &self.lambda, &key).await;
        half_read.wait_for_matches(1).await;
        tokio::spawn(async move {
            sleep(Duration::from_millis(500)).await;
            half_read.release();
        });
        let available = outage.cause(&mut self.server, &mut self.proxy).await;

        let sql = self.server.sql().await;
        let last = "select coalesce(max(id), 0) from ingests";
        let last: i64 = sql.query_one(last, &[]).await.unwrap().get(0);
        let key = format!("after-{outage:?}");
        upload(&self.service, &self.lambda, &key).await;
        while self.write(outage).await != StatusCode::CREATED
            || !join_all(QUERIES.map(|path| self.service.get(path))).await.iter().all(is_ok)
            || count_open(&sql, last).await > 0
            || !has_succeeded(&self.service, &key).await
        {
            assert!(available.elapsed() < Duration::from_secs(120), "{outage:?}: no recovery");
            sleep(Duration::from_millis(20)).await;
        }
        (available, available.elapsed())
    }

    /// Checks that no broken connection is left.
    async fn check_all_connections(&self, outage: Outage) {
        join_all(QUERIES.map(async |path| {
            for number in 0..50 {
                let response = self.service.get(path).await;
                assert!(is_ok(&response), "{outage:?}, {path} {number}: {}", response.text);
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

fn is_ok(response: &Response) -> bool {
    response.status == StatusCode::OK
}

/// Prints and checks what the clients have observed since `start`.
fn check(outage: Outage, log: &Log, start: Instant, available: Instant, recovered: Duration) {
    let observations = log.observations.lock().unwrap();
    let observations = || observations.iter().filter(|observation| observation.sent_at >= start);
    let errors = || observations().filter(|observation| observation.status != StatusCode::OK);
    let slowest = observations().map(|observation| observation.took).max().unwrap_or_default();
    let last = errors().map(|observation| observation.sent_at + observation.took).max();
    let last = last.map_or(Duration::ZERO, |last| last.saturating_duration_since(available));
    eprintln!(
        "{outage:?}: {} queries, {} of them 503, all within {slowest:.1?}; the last 503 {last:.1?} \
         after Postgres was available again, everything recovered after {recovered:.1?}",
        observations().count(),
        errors().count(),
    );
    for error in errors() {
        assert_eq!(error.status, StatusCode::SERVICE_UNAVAILABLE, "{outage:?}");
        assert!(error.has_retry_after, "{outage:?}: no Retry-After");
    }
    assert!(slowest <= MAX_RESPONSE_TIME, "{outage:?}: a response took {slowest:?}");
    assert!(last.max(recovered) <= MAX_RECOVERY_TIME, "{outage:?}: {last:?}, {recovered:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_recovers_from_every_outage_of_its_database() {
    let mut drill = Drill::start().await;
    let mut clients = drill.start_clients();
    for outage in OUTAGES {
        sleep(Duration::from_secs(1)).await;
        let start = Instant::now();
        let (available, recovered) = drill.go_through(outage).await;
        drill.check_all_connections(outage).await;
        check(outage, &drill.log, start, available, recovered);
    }
    drill.log.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    check_accepted_files(&drill.server, &drill.log).await;
    if let Some(postgres) = drill.server.postgres.take() {
        postgres.stop().await;
    }
}

async fn check_accepted_files(server: &Server, log: &Log) {
    let sql = server.sql().await;
    while count_open(&sql, i64::MAX).await > 0 {
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
    eprintln!(
        "{} files accepted, all ingested, in {sum} attempts, at most {most} each",
        accepted.len()
    );
}
