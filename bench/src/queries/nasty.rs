//! Expensive queries: how long each takes, and what others notice meanwhile.

use std::time::Duration;

use anyhow::Result;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rest_api::store::MovieQuery;

use super::{
    load::{Requests, closed},
    mix::path,
};
use crate::{process::Process, report::Figures};

/// The longest time that any of them may take.
const MOST: Duration = Duration::from_millis(500);

/// By how much they may slow others down.
const SLOWER: f64 = 2.0;

/// How many clients send nothing else.
const ATTACKERS: usize = 8;

/// Returns path and query of each, with a name.
fn requests() -> Vec<(&'static str, String)> {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let many = (0..16).map(|n| format!("title=night{n}&actor=john{n}")).collect::<Vec<_>>();
    vec![
        ("two rare letters", "/movies?title=qx".to_owned()),
        ("two rare letters, by title", "/movies?title=qx&sort=title".to_owned()),
        ("two rare letters, by title downwards", "/movies?title=qx&sort=-title".to_owned()),
        ("two rare letters, by year downwards", "/movies?actor=qx&sort=-year".to_owned()),
        ("two unindexed filters, by title", "/movies?title=%25&actor=%25&sort=title".to_owned()),
        ("% alone", "/movies?title=%25".to_owned()),
        ("% alone, by year", "/movies?title=%25&sort=year".to_owned()),
        ("the most common word", "/movies?title=the".to_owned()),
        ("the most common word, by title", "/movies?title=the&sort=title".to_owned()),
        (
            "the most common word and a rare genre, by year",
            "/movies?title=the&genre=mystery&sort=-year".to_owned(),
        ),
        ("256 characters", format!("/movies?title={}", "night".repeat(51))),
        ("1,000 characters", format!("/movies?title={}", "night".repeat(200))),
        ("32 filters", format!("/movies?{}", many.join("&"))),
        ("emoji", format!("/movies?title={}", encode("🎬"))),
        ("a deep page", "/movies?after=aWQ6OTAwMDAw".to_owned()),
        ("q of nonsense", "/movies?q=xqzvkwpt".to_owned()),
        ("q of one letter", "/movies?q=a".to_owned()),
        ("q of an emoji", format!("/movies?q={}", encode("🎬"))),
        ("q of the most common word", "/movies?q=the".to_owned()),
        ("genres of the most common word", "/genres?title=the".to_owned()),
        ("genres of two rare letters", "/genres?title=qx".to_owned()),
        ("all genres", "/genres".to_owned()),
        ("years of the most common word", "/years?title=the".to_owned()),
        ("genres of a search for the most common word", "/genres?q=the".to_owned()),
    ]
}

/// Measures each alone, and the mix of others while clients send nothing else.
pub(super) async fn measure(
    service: &Process,
    others: &[MovieQuery],
    duration: Duration,
    figures: &mut Figures,
) -> Result<()> {
    for (name, path) in requests() {
        let slowest = slowest(service, &path).await?;
        figures.duration(&format!("{name}, the slowest of 3"), slowest, MOST);
    }
    let (usual, disturbed) = others.split_at(others.len() / 2);
    let [usual, disturbed] =
        [usual, disturbed].map(|queries| Requests::get(queries.iter().map(path), ""));
    let usual = closed(service.address, &usual, 1, duration).await?.all_served()?;
    figures.latencies("others (the mix without scans) before, one client", &usual, None)?;
    let attack = Requests::get((1..500).flat_map(variants), "");
    let attacked = closed(service.address, &attack, ATTACKERS, duration * 2);
    let disturbed = async {
        tokio::time::sleep(duration / 4).await;
        closed(service.address, &disturbed, 1, duration).await
    };
    let (attacked, disturbed) = tokio::join!(attacked, disturbed);
    let (attacked, disturbed) = (attacked?, disturbed?);
    figures.condition(format!(
        "{ATTACKERS} clients with expensive queries alone: statuses {:?}",
        attacked.statuses
    ));
    let refused = disturbed.statuses.values().sum::<usize>() - disturbed.served.len();
    figures.check("others meanwhile that were refused", &refused.to_string(), "0", refused == 0);
    figures.latencies("others meanwhile, one client", &disturbed, None)?;
    let ratio = disturbed.quantile(0.99)?.as_secs_f64() / usual.quantile(0.99)?.as_secs_f64();
    figures.ratio("p99 of others meanwhile, against before", ratio, SLOWER);
    Ok(())
}

/// The queries of [`requests`] with another limit or year, so that no cache answers.
fn variants(number: usize) -> Vec<String> {
    let vary = |(_, path): (_, String)| {
        let sign = if path.contains('?') { '&' } else { '?' };
        if path.starts_with("/movies") {
            format!("{path}{sign}limit={number}")
        } else {
            format!("{path}{sign}year={number}..")
        }
    };
    requests().into_iter().filter(|(name, _)| !name.contains("1,000")).map(vary).collect()
}

/// Returns the longest of three times. An answer of 400 counts, too.
async fn slowest(service: &Process, path: &str) -> Result<Duration> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    let mut slowest = Duration::ZERO;
    for number in 0..3 {
        let path = if path.starts_with("/movies") {
            format!("{path}&limit={}", 90 + number)
        } else {
            let sign = if path.contains('?') { '&' } else { '?' };
            format!("{path}{sign}year={number}..")
        };
        let started = std::time::Instant::now();
        let response = http.get(service.url(&path)).send().await?;
        let status = response.status();
        response.bytes().await?;
        slowest = slowest.max(started.elapsed());
        anyhow::ensure!(!status.is_server_error(), "{path}: {status} after {slowest:.1?}");
    }
    Ok(slowest)
}
