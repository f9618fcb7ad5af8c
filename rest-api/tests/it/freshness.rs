//! The age of answers: several replicas, whose connections to the database are cut at random.
//!
//! `MRU_TEST_SECONDS` sets how long the test runs.

use std::{
    collections::HashMap,
    io::Read,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use flate2::read::GzDecoder;
use reqwest::{Client, StatusCode};
use rest_api::config::Config;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{
    Service,
    postgres::postgres,
    proxy::{Proxy, Upstream},
};

/// How old an answer may be about what another replica has written: the bound that README states, and what
/// the measurement itself takes.
const BOUND: Duration = Duration::from_millis(2_000 + 500);

/// A request takes longer than this only while its connection is cut. Its answer may be from its beginning.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What is asked for. The movie is the first one.
const PATHS: [&str; 5] =
    ["/movies", "/movies?title=counter", "/movies?q=counter", "/movies/1", "/genres"];

const TOKEN: &str = crate::support::TOKEN;

/// When each value was written: the number of the movie's genre, and when the write had been answered.
#[derive(Default)]
struct Written(Mutex<Vec<(u64, Instant, usize)>>);

impl Written {
    /// Returns the least value that an answer of `replica` to a request at `asked` may have.
    fn least(&self, asked: Instant, replica: usize) -> u64 {
        let written = self.0.lock().unwrap();
        let counts = |(_, at, by): &&(u64, Instant, usize)| {
            if *by == replica { *at <= asked } else { *at + BOUND <= asked }
        };
        written.iter().filter(counts).map(|(value, ..)| *value).max().unwrap_or(0)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_older_than_the_bound_and_no_tag_has_two_contents() {
    let seconds = std::env::var("MRU_TEST_SECONDS").map_or(20, |text| text.parse().unwrap());
    let proxies = [start_proxy().await, start_proxy().await];
    let first = Service::builder().config(through(&proxies[0])).start().await;
    let second = first.replica(through(&proxies[1])).await;
    let addresses = [first.address, second.address];
    let (written, tags) = (Arc::new(Written::default()), Arc::new(Mutex::new(HashMap::new())));
    let (next, answers) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicU64::new(0)));
    let compressed = AtomicU64::new(0);
    let end = Instant::now() + Duration::from_secs(seconds);
    let http = Client::builder().no_proxy().timeout(TIMEOUT).build().unwrap();

    let write = async || {
        let mut random = Rng::with_seed(1);
        while Instant::now() < end {
            let replica = random.usize(0..2);
            let value = next.fetch_add(1, Ordering::Relaxed);
            // Long enough to be compressed.
            let movie = json!({ "title": "Counter", "year": 2000, "genres": [value.to_string()],
                "extract": "a counter ".repeat(200) });
            let url = format!("http://{}/movies", addresses[replica]);
            let posted = http.post(url).bearer_auth(TOKEN).json(&movie).send().await;
            if posted.is_ok_and(|response| response.status() == StatusCode::CREATED) {
                written.0.lock().unwrap().push((value, Instant::now(), replica));
            }
            sleep(Duration::from_millis(random.u64(0..60))).await;
        }
    };
    let read = async |seed: u64| {
        let mut random = Rng::with_seed(seed);
        let mut latest = HashMap::new();
        while Instant::now() < end {
            let replica = random.usize(0..2);
            let path = random.choice(PATHS).unwrap();
            let asked = Instant::now();
            let url = format!("http://{}{path}", addresses[replica]);
            let coding = if random.bool() { "gzip" } else { "identity" };
            let mut request = http.get(url).header("accept-encoding", coding);
            let known: Option<&(String, u64)> = latest.get(&(replica, path));
            if let Some((etag, _)) = known {
                request = request.header("if-none-match", etag);
            }
            let Ok(response) = request.send().await else { continue };
            let status = response.status();
            let etag = response.headers().get("etag").map(|tag| tag.to_str().unwrap().to_owned());
            let is_compressed = response.headers().contains_key("content-encoding");
            // A connection that is cut has no whole body.
            let Ok(body) = response.bytes().await else { continue };
            let mut text = String::new();
            if is_compressed {
                GzDecoder::new(&*body).read_to_string(&mut text).unwrap();
                compressed.fetch_add(1, Ordering::Relaxed);
            } else {
                text = String::from_utf8(body.to_vec()).unwrap();
            }
            let value = match status {
                StatusCode::NOT_MODIFIED => known.unwrap().1,
                StatusCode::OK => {
                    let etag = etag.unwrap();
                    let known = tags.lock().unwrap().insert((path, etag.clone()), text.clone());
                    assert!(known.is_none_or(|known| known == text), "{etag} has two contents");
                    let json: Value = serde_json::from_str(&text).unwrap();
                    let first = if json.is_array() { &json[0] } else { &json };
                    let genre = &first[if path == "/genres" { "genre" } else { "genres" }];
                    let genre = genre.as_str().or(genre[0].as_str());
                    let value = genre.map_or(0, |text| text.parse().unwrap());
                    latest.insert((replica, path), (etag, value));
                    value
                }
                // Nothing has been written.
                StatusCode::NOT_FOUND => 0,
                StatusCode::SERVICE_UNAVAILABLE => continue,
                other => panic!("{other}: {text}"),
            };
            answers.fetch_add(1, Ordering::Relaxed);
            let least = written.least(asked, replica);
            assert!(value >= least, "{path} of replica {replica}: {value}, at least {least}");
        }
    };
    let cut = async || {
        let mut random = Rng::with_seed(2);
        while Instant::now() < end {
            sleep(Duration::from_millis(random.u64(500..2_500))).await;
            let proxy = random.choice(&proxies).unwrap();
            if random.bool() {
                proxy.reset();
            } else {
                proxy.freeze();
                sleep(Duration::from_millis(random.u64(100..4_000))).await;
                proxy.thaw();
            }
        }
        proxies.iter().for_each(Proxy::thaw);
    };
    tokio::join!(write(), read(3), read(4), read(5), cut());
    let (answers, writes) = (answers.load(Ordering::Relaxed), written.0.lock().unwrap().len());
    eprintln!("{answers} answers checked against {writes} writes");
    let compressed = compressed.load(Ordering::Relaxed);
    assert!(answers > 100 && writes > 10, "{answers} answers, {writes} writes");
    assert!(compressed > 10, "{compressed} compressed answers");
}

async fn start_proxy() -> Proxy {
    Proxy::to(Upstream::Postgres(postgres().await.socket_dir().to_owned())).await
}

fn through(proxy: &Proxy) -> impl FnOnce(&mut Config) + use<> {
    let address = proxy.address;
    move |config| {
        config.database.host = address.ip().to_string();
        config.database.port = address.port();
    }
}
