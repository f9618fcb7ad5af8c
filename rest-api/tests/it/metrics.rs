//! `/metrics` agrees with what the service has done.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, Instant},
};

use futures_util::future::{join, join_all};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{
    BUCKET, Service, eventually, movies::MOVIE, notification, postgres::postgres,
};

/// The values of one scrape, by name and labels.
#[derive(Debug)]
struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    async fn of(service: &Service) -> Self {
        let response = service.get("/metrics").await;
        assert_eq!(response.status, StatusCode::OK, "{}", response.text);
        assert_eq!(response.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
        Self::parse(&response.text)
    }

    /// Parses and checks the text by the rules of <https://prometheus.io/docs/instrumenting/exposition_formats/>.
    fn parse(text: &str) -> Self {
        let (mut series, mut known) = (BTreeMap::new(), BTreeSet::new());
        let (mut helped, mut family, mut kind) = (String::new(), String::new(), String::new());
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, text) = help.split_once(' ').unwrap();
                assert!(is_name(name) && name.starts_with("mru_") && !text.is_empty(), "{line}");
                assert!(known.insert(name.to_owned()), "described twice: {line}");
                helped = name.to_owned();
            } else if let Some(described) = line.strip_prefix("# TYPE ") {
                let (name, of) = described.split_once(' ').unwrap();
                assert_eq!(name, helped, "HELP before TYPE: {line}");
                assert!(["counter", "gauge", "histogram"].contains(&of), "{line}");
                assert_eq!(of == "counter", name.ends_with("_total"), "{line}");
                (family, kind) = (name.to_owned(), of.to_owned());
            } else {
                let (labelled, value) = line.rsplit_once(' ').unwrap();
                let name = labelled.split('{').next().unwrap();
                let suffix = name.strip_prefix(&family).unwrap_or("not of the family above");
                let suffixes: &[&str] =
                    if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                assert!(suffixes.contains(&suffix), "a sample without its TYPE: {line}");
                labels(labelled.strip_prefix(name).unwrap(), line);
                let value: f64 = value.parse().unwrap();
                assert!(value >= 0.0, "{line}");
                assert_eq!(series.insert(labelled.to_owned(), value), None, "twice: {line}");
            }
        }
        let scrape = Self(series);
        scrape.check_histograms();
        scrape
    }

    /// Checks that buckets are cumulative, and that the last one equals the count.
    fn check_histograms(&self) {
        for (series, count) in self.0.iter().filter(|(series, _)| series.contains("_count")) {
            let (name, labels) = series.split_once("_count").unwrap();
            let labels = labels.trim_start_matches('{').trim_end_matches('}');
            let of = |(bucket, count): (&String, &f64)| {
                let bucket = bucket.strip_prefix(name)?.strip_prefix("_bucket{le=\"")?;
                let (bound, rest) = bucket.split_once('"')?;
                let same = rest.trim_start_matches(',').trim_end_matches('}') == labels;
                same.then(|| (bound.parse::<f64>().unwrap(), *count))
            };
            let mut buckets: Vec<(f64, f64)> = self.0.iter().filter_map(of).collect();
            buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
            assert!(buckets.len() > 5, "{series}: {buckets:?}");
            assert!(buckets.is_sorted_by_key(|(_, count)| *count), "{series}: {buckets:?}");
            assert_eq!(buckets.last(), Some(&(f64::INFINITY, *count)), "{series}");
        }
    }

    fn get(&self, series: &str) -> f64 {
        *self.0.get(series).unwrap_or_else(|| panic!("no {series} in {self:#?}"))
    }

    fn has(&self, name: &str) -> bool {
        self.0.keys().any(|series| series.split('{').next() == Some(name))
    }
}

fn is_name(name: &str) -> bool {
    let letters = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    letters && !name.starts_with(|first: char| first.is_ascii_digit())
}

/// Checks that label names are valid and unique, and that values need no escapes.
fn labels(labels: &str, line: &str) {
    if labels.is_empty() {
        return;
    }
    let inner = labels.strip_prefix('{').and_then(|labels| labels.strip_suffix('}')).unwrap();
    let mut names = BTreeSet::new();
    for label in inner.split("\",") {
        let (name, value) = label.split_once("=\"").unwrap();
        assert!(is_name(name) && names.insert(name), "{line}");
        assert!(!value.trim_end_matches('"').contains(['"', '\\', '\n']), "{line}");
    }
}

#[tokio::test]
async fn every_metric_counts_what_the_service_has_done() {
    let service = Service::start().await;
    let before = Scrape::of(&service).await;
    for state in ["succeeded", "rejected", "superseded", "gone", "failed"] {
        assert_eq!(before.get(&format!("mru_ingests_ended_total{{state=\"{state}\"}}")), 0.0);
    }
    assert_eq!(before.get("mru_movies_merged_total{outcome=\"inserted\"}"), 0.0);
    assert_eq!(before.get("mru_build_info{version=\"0.1.0\"}"), 1.0);

    let good = r#"[{"title":"A","year":2000},{"title":"B","year":2001},{"title":"C","year":2002}]"#;
    let better = r#"[{"title":"A","year":2000},{"title":"B","year":2001,"genres":["x"]}]"#;
    let bad = r#"{"title":"A"}"#;
    assert_eq!(service.ingest("1", good).await["state"], "succeeded");
    assert_eq!(service.ingest("2", better).await["state"], "succeeded");
    assert_eq!(service.ingest("3", bad).await["state"], "rejected");
    // Refused in both attempts.
    let failed = service.notify(&json!({ "bucket": "nowhere", "key": "k" })).await;
    assert_eq!((&failed["state"], &failed["attempts"]), (&json!("failed"), &json!(2)));
    let posted = service.post("/movies", r#"{"title":"D","year":2003}"#);
    assert_eq!(service.send(posted).await.status, StatusCode::CREATED);

    // The end of an ingest is in the ledger a moment before it is counted.
    eventually(async || {
        Scrape::of(&service).await.get("mru_ingests_ended_total{state=\"failed\"}") == 1.0
    })
    .await;
    let scrape = Scrape::of(&service).await;
    for (series, value) in [
        ("mru_ingests_ended_total{state=\"succeeded\"}", 2.0),
        ("mru_ingests_ended_total{state=\"rejected\"}", 1.0),
        ("mru_ingests_ended_total{state=\"superseded\"}", 0.0),
        ("mru_ingest_duration_seconds_count{state=\"succeeded\"}", 2.0),
        ("mru_ingest_duration_seconds_count{state=\"failed\"}", 1.0),
        ("mru_ingest_retries_total{code=\"object_refused\"}", 1.0),
        ("mru_ingest_retries_total{code=\"database_unavailable\"}", 0.0),
        ("mru_ingest_leases_lost_total", 0.0),
        ("mru_ingest_takeovers_total", 0.0),
        ("mru_movies_merged_total{outcome=\"inserted\"}", 4.0),
        ("mru_movies_merged_total{outcome=\"updated\"}", 1.0),
        ("mru_movies_merged_total{outcome=\"unchanged\"}", 1.0),
        ("mru_ingests{state=\"queued\"}", 0.0),
        ("mru_ingests{state=\"running\"}", 0.0),
        ("mru_queue_oldest_age_seconds", 0.0),
        ("mru_database_up", 1.0),
        ("mru_database_pool_max_connections{pool=\"workers\"}", 8.0),
        ("mru_database_pool_waiting{pool=\"writer\"}", 0.0),
        // The scrape itself.
        ("mru_http_requests_in_flight", 1.0),
    ] {
        assert_eq!(scrape.get(series), value, "{series}");
    }
    let read = u32::try_from(good.len() + better.len() + bad.len()).unwrap();
    assert_eq!(scrape.get("mru_ingest_read_bytes_total"), f64::from(read));
    for pool in ["workers", "writer", "ledger"] {
        let of = |what: &str| scrape.get(&format!("mru_database_pool_{what}{{pool=\"{pool}\"}}"));
        let (open, idle) = (of("connections"), of("available_connections"));
        assert!(open >= 1.0 && idle <= open && open <= of("max_connections"), "{scrape:#?}");
    }
}

#[tokio::test]
async fn requests_are_counted_by_route_and_never_by_path() {
    let service = Service::start().await;
    for path in ["/movies?title=x", "/movies", "/movies/7", "/movies/seven", "/ingests/1/retry"] {
        service.get(path).await;
    }
    for (method, path) in [(Method::HEAD, "/movies"), (Method::DELETE, "/movies/1")] {
        service.send(service.request(method, path)).await;
    }
    for path in ["/nowhere", "/movies/1/2/3", "/%2e%2e/secret?key=bucket"] {
        service.get(path).await;
    }
    let unknown = Method::from_bytes(b"BREW").unwrap();
    service.send(service.request(unknown, "/healthz")).await;

    let scrape = Scrape::of(&service).await;
    let requests = |route: &str, method: &str, status: &str| {
        scrape.get(&format!(
            "mru_http_requests_total{{route=\"{route}\",method=\"{method}\",status=\"{status}\"}}"
        ))
    };
    assert_eq!(requests("/movies", "GET", "2xx"), 2.0);
    assert_eq!(requests("/movies/{id}", "GET", "4xx"), 2.0);
    assert_eq!(requests("/movies", "HEAD", "2xx"), 1.0);
    assert_eq!(requests("/movies/{id}", "DELETE", "4xx"), 1.0);
    assert_eq!(requests("/ingests/{id}/retry", "GET", "4xx"), 1.0);
    assert_eq!(requests("/healthz", "other", "4xx"), 1.0);
    assert_eq!(requests("none", "GET", "4xx"), 3.0);
    let durations = "mru_http_request_duration_seconds_count{route=\"/movies\",method=\"GET\"}";
    assert_eq!(scrape.get(durations), 2.0);
    for series in scrape.0.keys() {
        let raw = ["nowhere", "seven", "secret", "BREW", "title", "%"];
        let raw = raw.iter().find(|raw| series.contains(*raw) && !series.contains("\"/movies"));
        assert_eq!(raw, None, "{series}");
    }

    // Another service in the same process has metrics of its own.
    let other = Service::start().await;
    assert!(!Scrape::of(&other).await.has("mru_http_requests_total"));

    let post = service.send(service.post("/metrics", "")).await;
    assert_eq!((post.status, post.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD"));
    assert_eq!(service.get("/metrics?x=1").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn requests_that_write_do_not_hide_the_queue() {
    let service = Service::start_without_workers().await;
    let sql = service.sql().await;
    // Merges wait for this lock, with all connections of their pool.
    sql.batch_execute("begin; select from catalogue for update").await.unwrap();
    let writes = (0..100).map(|_| service.send(service.post("/movies", MOVIE)));
    let writes = join_all(writes);
    let scrape = async {
        let observer = service.sql().await;
        let busy = "select count(*) from pg_stat_activity \
            where datname = current_database() and wait_event_type = 'Lock'";
        eventually(async || observer.query_one(busy, &[]).await.unwrap().get::<_, i64>(0) > 0)
            .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let scrape = Scrape::of(&service).await;
        sql.batch_execute("commit").await.unwrap();
        scrape
    };
    let (_, scrape) = join(writes, scrape).await;
    assert_eq!(scrape.get("mru_ingests{state=\"queued\"}"), 0.0);
}

#[tokio::test]
async fn queued_and_running_ingests_are_counted_and_ended_ones_are_not() {
    let service = Service::start_without_workers().await;
    let sql = service.sql().await;
    // 1,000 ended ingests, three queued ones of which the oldest is an hour old, and a running one.
    sql.batch_execute(
        "insert into ingests (bucket, key, state, finished_at, violation_count)
             select 'b', 'ended', 'rejected', now(), 1 from generate_series(1, 1000);
         insert into ingests (bucket, key, received_at)
             select 'b', 'k' || n, now() - n * interval '20 minutes'
             from generate_series(3, 1, -1) n;
         insert into ingests (bucket, key, received_at, state, lease_token, lease_expires_at)
             values ('b', 'r', now() - interval '1 day', 'running', gen_random_uuid(), now())",
    )
    .await
    .unwrap();
    let scrape = Scrape::of(&service).await;
    assert_eq!(scrape.get("mru_ingests{state=\"queued\"}"), 3.0);
    assert_eq!(scrape.get("mru_ingests{state=\"running\"}"), 1.0);
    let age = scrape.get("mru_queue_oldest_age_seconds");
    assert!((3600.0..3900.0).contains(&age), "{age}");
}

#[tokio::test]
async fn lost_leases_and_takeovers_are_counted() {
    let service = Service::start().await;
    let mut sql = service.sql().await;
    // The row that a killed worker leaves.
    sql.execute(
        "insert into ingests (bucket, key, state, attempts, lease_token, lease_expires_at)
         values ($1, 'gone', 'running', 1, gen_random_uuid(), now())",
        &[&BUCKET],
    )
    .await
    .unwrap();
    eventually(async || Scrape::of(&service).await.get("mru_ingest_takeovers_total") == 1.0).await;

    // While the merge waits for its lock, another worker claims the ingest.
    let lock = sql.transaction().await.unwrap();
    lock.execute("select revision from catalogue for no key update", &[]).await.unwrap();
    service.put("k", MOVIE).await;
    let notify = notification::bare("k").to_string();
    let id = service.send(service.post("/notify", notify)).await.json()["id"].as_i64().unwrap();
    let claim = "update ingests set lease_token = gen_random_uuid(), \
        lease_expires_at = now() + interval '1 hour' where id = $1 and state = 'running'";
    let other = service.sql().await;
    eventually(async || other.execute(claim, &[&id]).await.unwrap() == 1).await;
    lock.commit().await.unwrap();
    eventually(async || Scrape::of(&service).await.get("mru_ingest_leases_lost_total") == 1.0)
        .await;
    let scrape = Scrape::of(&service).await;
    assert_eq!(scrape.get("mru_movies_merged_total{outcome=\"inserted\"}"), 0.0);
    assert_eq!(scrape.get("mru_ingests_ended_total{state=\"succeeded\"}"), 0.0);
    assert_eq!(scrape.get("mru_ingests{state=\"running\"}"), 1.0);
}

#[tokio::test]
async fn during_a_database_outage_the_other_metrics_are_served_in_time() {
    let service = Service::start().await;
    service.ingest("k", MOVIE).await;
    let admin = postgres().await.connect("postgres").await.unwrap();
    let name = &service.database.name;
    admin.batch_execute(&format!("alter database {name} allow_connections false")).await.unwrap();
    let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = $1";
    admin.execute(end, &[name]).await.unwrap();
    let started = Instant::now();
    eventually(async || Scrape::of(&service).await.get("mru_database_up") == 0.0).await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let scrape = Scrape::of(&service).await;
    assert_eq!(scrape.get("mru_ingests_ended_total{state=\"succeeded\"}"), 1.0);
    assert!(scrape.has("mru_database_pool_connections"));
    assert!(!scrape.has("mru_ingests") && !scrape.has("mru_queue_oldest_age_seconds"));

    admin.batch_execute(&format!("alter database {name} allow_connections true")).await.unwrap();
    eventually(async || Scrape::of(&service).await.get("mru_database_up") == 1.0).await;
}

#[tokio::test]
async fn a_slow_database_does_not_delay_the_scrape() {
    let service = Service::start_without_workers().await;
    let mut sql = service.sql().await;
    let lock = sql.transaction().await.unwrap();
    lock.batch_execute("lock table ingests in access exclusive mode").await.unwrap();
    let started = Instant::now();
    assert_eq!(Scrape::of(&service).await.get("mru_database_up"), 0.0);
    assert!(started.elapsed() < Duration::from_millis(2500), "{:?}", started.elapsed());
    lock.rollback().await.unwrap();
    assert_eq!(Scrape::of(&service).await.get("mru_database_up"), 1.0);
}

#[tokio::test]
async fn every_metric_in_the_manual_exists() {
    let service = Service::start().await;
    service.ingest("k", MOVIE).await;
    service.store(1).await.record_reconcile(BUCKET, 0).await.unwrap();
    eventually(async || Scrape::of(&service).await.has("mru_ingest_duration_seconds_count")).await;
    let scrape = Scrape::of(&service).await;
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let manual = std::fs::read_to_string(manual).unwrap();
    let words = manual.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names: BTreeSet<&str> = words.filter(|word| word.starts_with("mru_")).collect();
    assert!(names.len() >= 8, "{names:?}");
    for name in names {
        assert!(scrape.has(name) || scrape.has(&format!("{name}_count")), "{name}");
    }
}
