//! What 500 open streams of events cost: memory, and the latency of queries meanwhile.

use std::{
    fs::File,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use local_stack::postgres::Postgres;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    DATABASE,
    load::{Requests, closed, open},
    uncached::Effort,
};
use crate::{
    process::{Process, start_service},
    report::{Figures, median},
};

/// How many streams are open.
const STREAMS: usize = 500;

/// How many come from one address. The service allows 64.
const FROM_ADDRESS: usize = 50;

/// By how much memory may grow, in MB.
const TARGET_MB: u64 = 16;

/// How many times as long a page may take at the median.
const TARGET_RATIO: f64 = 1.25;

/// How many ingests end in a second, in the last part.
const ENDS: u32 = 2;

/// What the queries are: a page that is in memory.
const PAGE: &str = "/movies?title=the&limit=10";

/// How many pages are asked for in a second. Their times count from when they were due, so one that waits for the
/// streams to be served counts in full.
const RATE: f64 = 200.0;

/// What is timed, of one client.
const LOADS: [&str; 3] = ["one after the other, p50", "200/s, p50", "200/s, p99"];

/// Measures a page with no stream open and with [`STREAMS`]: while nothing happens, and while ingests end.
pub(super) async fn measure(
    postgres: &Postgres,
    directory: &Path,
    effort: Effort,
    figures: &mut Figures,
) -> Result<()> {
    let log = File::create(directory.join("streams.log"))?;
    // Each client is at an address of its own choice.
    let variables = [("MRU_TRUSTED_PROXIES", "1")];
    let service =
        start_service(postgres, DATABASE, "http://127.0.0.1:1", &variables, Stdio::from(log))
            .await?;
    let page = Requests::get([PAGE.to_owned()], "");
    let time = async || {
        let closed = closed(service.address, &page, 1, effort.duration).await?.all_served()?;
        let open = open(service.address, &page, 1, RATE, effort.duration).await?.all_served()?;
        anyhow::Ok([closed.quantile(0.5)?, open.quantile(0.5)?, open.quantile(0.99)?])
    };
    time().await?;
    let (before, _) = service.memory_mb()?;
    let mut grown = 0;
    // Without streams and with them.
    let (mut quiet, mut ending) = (<[Times; 2]>::default(), <[Times; 2]>::default());
    for _ in 0..effort.rounds {
        quiet[0].push(time().await?);
        let ends = Ends::begin(postgres).await?;
        ending[0].push(time().await?);
        ends.stop().await?;
        let streams = Streams::open(&service).await?;
        quiet[1].push(time().await?);
        let ends = Ends::begin(postgres).await?;
        ending[1].push(time().await?);
        let sent = ends.stop().await?;
        streams.have_read(sent).await?;
        grown = grown.max(service.memory_mb()?.0.saturating_sub(before));
    }
    let target = format!("at most {TARGET_MB} MB");
    let name = format!("growth of the resident memory, {STREAMS} open streams of events");
    figures.check(&name, &format!("{grown} MB"), &target, grown <= TARGET_MB);
    let ends = format!("{ENDS} ingests a second end");
    for (times, what) in [(quiet, "nothing happens"), (ending, &ends)] {
        for (nth, load) in LOADS.iter().enumerate() {
            let [without, with] = times.each_ref().map(|times| median_of(times, nth));
            let name = format!("a page from memory, {load}, {STREAMS} streams while {what}");
            let ratio = with.as_secs_f64() / without.as_secs_f64();
            let [without, with] = [without, with].map(|time| time.as_micros());
            let measured = format!("{ratio:.2}: {with} µs, {without} µs without streams");
            if load.ends_with("p50") {
                let target = format!("at most {TARGET_RATIO}");
                figures.check(&name, &measured, &target, ratio <= TARGET_RATIO);
            } else {
                figures.state(&name, &measured);
            }
        }
    }
    Ok(())
}

/// What [`LOADS`] names, of several rounds.
type Times = Vec<[Duration; LOADS.len()]>;

fn median_of(times: &Times, nth: usize) -> Duration {
    median(times.iter().map(|times| times[nth]).collect())
}

/// Open streams, which are read as they come.
struct Streams {
    reading: JoinSet<()>,
    /// How many ends all of them have read.
    ends: Arc<AtomicUsize>,
}

impl Streams {
    async fn open(service: &Process) -> Result<Self> {
        let (mut reading, ends) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
        for number in 0..STREAMS {
            let mut stream = TcpStream::connect(service.address).await?;
            let address = number / FROM_ADDRESS;
            let request = format!(
                "GET /events HTTP/1.1\r\nhost: bench\r\nx-forwarded-for: 10.0.0.{address}\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await?;
            let mut head = vec![0; 4096];
            let read = stream.read(&mut head).await?;
            ensure!(head[..read].starts_with(b"HTTP/1.1 200"), "a stream was refused");
            let ends = Arc::clone(&ends);
            reading.spawn(async move {
                let mut buffer = vec![0; 16 << 10];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    let told = memchr::memmem::find_iter(&buffer[..read], b"event: ingest");
                    ends.fetch_add(told.count(), Ordering::Relaxed);
                }
            });
        }
        Ok(Self { reading, ends })
    }

    /// Checks that each of them has read so many ends.
    async fn have_read(mut self, ends: usize) -> Result<()> {
        let started = Instant::now();
        while self.ends.load(Ordering::Relaxed) < ends * STREAMS {
            ensure!(started.elapsed() < Duration::from_secs(10), "ends are missing");
            sleep(Duration::from_millis(20)).await;
        }
        self.reading.shutdown().await;
        Ok(())
    }
}

/// Ingests that end, at a fixed rate.
struct Ends {
    stop: tokio::sync::oneshot::Sender<()>,
    ending: tokio::task::JoinHandle<Result<usize>>,
}

impl Ends {
    async fn begin(postgres: &Postgres) -> Result<Self> {
        let sql = postgres.connect(DATABASE).await?;
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let ending = tokio::spawn(async move {
            // As the end of a file that is not right, without its work.
            let end = "
                with ended as (
                    insert into ingests (bucket, key, state, finished_at, violation_count)
                    values ('movies', gen_random_uuid()::text, 'rejected', clock_timestamp(), 1)
                    returning id
                )
                select pg_notify('movies_r_us_finished', id::text) from ended";
            let mut ended = 0;
            loop {
                sql.query_one(end, &[]).await?;
                ended += 1;
                tokio::select! {
                    _ = &mut stopped => return Ok(ended),
                    () = sleep(Duration::from_secs(1) / ENDS) => {}
                }
            }
        });
        Ok(Self { stop, ending })
    }

    /// Returns how many have ended.
    async fn stop(self) -> Result<usize> {
        // The task ends in any case if it has failed.
        let _ = self.stop.send(());
        self.ending.await?
    }
}
