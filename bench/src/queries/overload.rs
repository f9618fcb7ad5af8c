//! Memory, and more requests than the service can serve.

use std::{
    env,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use local_stack::postgres::Postgres;
use rest_api::store::MovieQuery;
use tokio::time::sleep;

use super::{
    DATABASE,
    load::{Requests, closed, open},
    mix::path,
};
use crate::{
    process::{Process, start_program},
    report::Figures,
};

/// How long the service has been ready when its memory is measured.
const SETTLING: Duration = Duration::from_secs(2);

/// The targets of the resident memory, in MB.
const IDLE_MB: u64 = 25;
const STREAM_MB: u64 = 64;

/// How many connections the load has at most.
const CLIENTS: usize = 512;

/// By how much more is asked than the service can serve.
const EXCESS: f64 = 1.5;

/// For how long is measured what the service can serve.
const CAPACITY_TIME: Duration = Duration::from_secs(10);

/// By how many MB the memory may grow in the second half of an overload.
const GROWTH_MB: u64 = 8;

/// How often the queries of an overload come at most, each time with another limit.
const MAX_PASSES: i64 = 40;

/// Measures the resident memory of the idle service: of the program `rest-api` beside this one. This one
/// has the service and more.
pub(super) async fn idle(postgres: &Postgres, figures: &mut Figures) -> Result<()> {
    let name = "resident memory of rest-api, idle";
    let program = env::current_exe()?.with_file_name("rest-api");
    if !program.exists() {
        figures.state(name, "not measured: `cargo build --release -p rest-api` builds it");
        return Ok(());
    }
    let mut command = Command::new(program);
    command.arg("serve");
    let log = Stdio::null();
    let service =
        start_program(command, postgres, DATABASE, "http://127.0.0.1:1", &[], log).await?;
    sleep(SETTLING).await;
    let (now, _) = service.memory_mb()?;
    let target = format!("at most {IDLE_MB} MB");
    figures.check(name, &format!("{now} MB"), &target, now <= IDLE_MB);
    Ok(())
}

/// Measures by how much the whole catalogue as NDJSON raises the memory, for a client that reads 4 MB a second.
pub(super) async fn slow_stream(
    service: &Process,
    duration: Duration,
    figures: &mut Figures,
) -> Result<()> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    let request = http.get(service.url("/movies")).header("accept", "application/x-ndjson");
    let mut lines = request.send().await?.error_for_status()?.bytes_stream();
    let (started, mut read, mut most) = (Instant::now(), 0, 0);
    while started.elapsed() < duration {
        let Some(chunk) = lines.next().await else { break };
        read += chunk?.len();
        most = most.max(service.memory_mb()?.0);
        let due = started + Duration::from_secs_f64(read as f64 / 4e6);
        sleep(due.saturating_duration_since(Instant::now())).await;
    }
    let measured = format!("{most} MB, after {} MB of the stream", read >> 20);
    let target = format!("at most {STREAM_MB} MB");
    let name = "resident memory, an NDJSON stream to a slow client";
    figures.check(name, &measured, &target, most <= STREAM_MB);
    Ok(())
}

/// Asks for more than the service can serve: 1.5 times of what it serves to 32 clients that never pause. No query
/// comes twice, so that memory answers few. Then asks as before.
pub(super) async fn overload(
    service: &Process,
    queries: &[MovieQuery],
    duration: Duration,
    figures: &mut Figures,
) -> Result<()> {
    let requests = Requests::get(queries.iter().map(path), "");
    let capacity = closed(service.address, &requests, 32, CAPACITY_TIME).await?.rate();
    let rate = capacity * EXCESS;
    let number = (rate * duration.as_secs_f64()) as usize;
    let requests = Requests::get(distinct(queries).take(number), "");
    let (before, _) = service.memory_mb()?;
    let mut load = open(service.address, &requests, CLIENTS, rate, duration / 2).await?;
    let (middle, _) = service.memory_mb()?;
    let second = open(service.address, &requests, CLIENTS, rate, duration / 2).await?;
    load.elapsed += second.elapsed;
    load.add(second);
    let (after, peak) = service.memory_mb()?;
    let other = load.statuses.keys().any(|status| !matches!(status, 200 | 503));
    let measured = format!("{:?}, {} without a response", load.statuses, load.broken);
    let name =
        format!("open loop at {rate:.0}/s (1.5 times capacity) for {} s", duration.as_secs());
    let target = "200 and 503 alone";
    figures.check(&name, &measured, target, !other && load.broken == 0);
    let served = load.served.len() as f64 / duration.as_secs_f64() / capacity;
    figures.state("served meanwhile, against what 32 clients get", &format!("{served:.2}"));
    figures.latencies("what was served meanwhile", &load, None)?;
    let recovered = closed(service.address, &requests, 1, Duration::from_secs(2)).await?;
    let share = recovered.served.len() as f64 / recovered.statuses.values().sum::<usize>() as f64;
    let measured = format!("{:.1}% served", share * 100.0);
    figures.check("at once afterwards, one client", &measured, "all", share >= 1.0);
    figures.check(
        "resident memory before, half way, after, and at the peak",
        &format!("{before} / {middle} / {after} / {peak} MB"),
        &format!("at most {GROWTH_MB} MB more after than half way"),
        after <= middle + GROWTH_MB,
    );
    Ok(())
}

/// Returns the paths of the queries again and again, each time with another limit.
fn distinct(queries: &[MovieQuery]) -> impl Iterator<Item = String> {
    (0..MAX_PASSES).flat_map(move |pass| {
        queries
            .iter()
            .map(move |query| path(&MovieQuery { limit: query.limit + pass, ..query.clone() }))
    })
}

/// Measures cheap requests while the service has more than it can serve.
pub(super) async fn cheap_meanwhile(
    service: &Process,
    queries: &[MovieQuery],
    duration: Duration,
    figures: &mut Figures,
) -> Result<()> {
    let cached = "/movies?title=the&limit=10";
    let http = reqwest::Client::builder().no_proxy().build()?;
    let known = http.get(service.url(cached)).send().await?.error_for_status()?;
    let etag = known.headers().get("etag").context("no entity tag")?.to_str()?.to_owned();
    let expensive = Requests::get(queries.iter().map(path), "");
    let load = closed(service.address, &expensive, 64, duration * 4);
    let cheap = async {
        sleep(duration / 2).await;
        for (name, path, headers) in [
            ("a cached page", cached, String::new()),
            ("304", cached, format!("if-none-match: {etag}\r\n")),
            ("/healthz", "/healthz", String::new()),
        ] {
            let requests = Requests::get([path.to_owned()], &headers);
            let served =
                open(service.address, &requests, 16, 200.0, duration).await?.all_served()?;
            figures.latencies(&format!("{name} while 64 clients send the mix"), &served, None)?;
        }
        anyhow::Ok(())
    };
    let (load, cheap) = tokio::join!(load, cheap);
    cheap?;
    ensure!(load?.broken == 0, "some requests of the mix got no response");
    Ok(())
}
