//! Queries that reach Postgres. The limit of title queries is Postgres without the service, that of the mix a plain
//! service. A query comes again only after more than the cache holds.

use std::{fs::File, path::Path, time::Duration};

use anyhow::Result;
use local_stack::postgres::Postgres;
use rest_api::store::{MovieQuery, Store};

use super::{
    load::{Outcome, Requests, closed, open},
    mix::path,
    plain,
    sql::{self, Statements, Way},
};
use crate::{
    process::{Process, start_helper},
    report::{Figures, Rounds, text},
};

/// The number of clients at once.
const CLIENTS: usize = 8;

/// The targets of the ratios, and of one client on a million movies.
const TITLE: f64 = 0.8;
const MIX: f64 = 2.0;
const P50: Duration = Duration::from_millis(3);
const P99: Duration = Duration::from_millis(25);

/// What is measured how often, and for how long each.
#[derive(Clone, Copy)]
pub(super) struct Effort {
    pub(super) rounds: usize,
    pub(super) duration: Duration,
}

/// Title queries beside the same statements without the service.
pub(super) async fn title(
    service: &Process,
    (postgres, store): (&Postgres, &Store),
    queries: &[MovieQuery],
    effort: Effort,
    figures: &mut Figures,
) -> Result<()> {
    let requests = Requests::get(queries.iter().map(path), "");
    let statements = [
        (Way::Plain, "the plain statement, prepared", Some(TITLE)),
        (Way::Service, "the service's own statements without the service", None),
    ];
    for (way, limit, target) in statements {
        let statements = Statements::new(store, queries, way).await?;
        let mut rounds = Rounds::default();
        for _ in 0..effort.rounds {
            let limit = sql::closed(postgres, &statements, CLIENTS, effort.duration).await?;
            let served = closed(service.address, &requests, CLIENTS, effort.duration).await?;
            rounds.limit.push(limit.all_served()?.rate());
            rounds.measured.push(served.all_served()?.rate());
        }
        let name = format!("an uncached title query (10 movies), 8 clients, against {limit}");
        figures.share(&name, &rounds, target);
    }
    Ok(())
}

/// The mix beside a service with plain statements.
pub(super) async fn mix(
    service: &Process,
    (postgres, directory): (&Postgres, &Path),
    queries: &[MovieQuery],
    effort: Effort,
    figures: &mut Figures,
) -> Result<()> {
    let file = directory.join("socket");
    std::fs::write(&file, postgres.socket_dir().as_os_str().as_encoded_bytes())?;
    let plain = start_helper(plain::COMMAND, File::open(&file)?).await?;
    let requests = [(); 2].map(|()| Requests::get(queries.iter().map(path), ""));
    let mut rounds = Rounds::default();
    for _ in 0..effort.rounds {
        let limit = closed(plain.address, &requests[0], CLIENTS, effort.duration).await?;
        let served = closed(service.address, &requests[1], CLIENTS, effort.duration).await?;
        rounds.limit.push(limit.all_served()?.rate());
        rounds.measured.push(served.all_served()?.rate());
    }
    let name = "the mix, 8 clients, against a service with plan_cache_mode = auto and rows to JSON by serde";
    figures.share(name, &rounds, Some(MIX));
    Ok(())
}

/// The latencies of the mix: of one client, of many, and at a fixed rate.
pub(super) async fn latencies(
    service: &Process,
    queries: &[MovieQuery],
    duration: Duration,
    is_large: bool,
    figures: &mut Figures,
) -> Result<()> {
    let requests = Requests::get(queries.iter().map(path), "");
    let one = closed(service.address, &requests, 1, duration).await?.all_served()?;
    let targets = is_large.then_some((P50, P99));
    figures.latencies("the mix, one client", &one, targets)?;
    let many = closed(service.address, &requests, 32, duration).await?;
    figures.latencies("the mix, 32 clients", &many, None)?;
    let rate = many.rate() * 0.5;
    let half = open(service.address, &requests, 256, rate, duration).await?;
    figures.latencies(&format!("the mix, open loop at {rate:.0}/s (half of that)"), &half, None)
}

/// The latencies of the mix with searches in place of filters of titles, of one client.
pub(super) async fn search_latencies(
    service: &Process,
    paths: Vec<String>,
    duration: Duration,
    figures: &mut Figures,
) -> Result<()> {
    let requests = Requests::get(paths, "");
    let one = closed(service.address, &requests, 1, duration).await?.all_served()?;
    figures.latencies("the mix with q in place of title, one client", &one, None)
}

impl Figures {
    /// Adds the latencies of a load, which are to be at most the targets of p50 and p99.
    ///
    /// # Errors
    /// If nothing was served.
    pub(super) fn latencies(
        &mut self,
        name: &str,
        load: &Outcome,
        targets: Option<(Duration, Duration)>,
    ) -> Result<()> {
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| load.quantile(share));
        let (p50, p99, p999) = (p50?, p99?, p999?);
        let measured = [p50, p99, p999].map(text).join(" / ");
        let mut measured = format!("{measured}, {:.0}/s", load.rate());
        if let Some(refused) = load.statuses.get(&503) {
            measured += &format!(", {refused} times 503");
        }
        let name = format!("{name}, p50 / p99 / p99.9");
        match targets {
            None => self.state(&name, &measured),
            Some((most50, most99)) => {
                let target = format!("at most {} / {}", text(most50), text(most99));
                self.check(&name, &measured, &target, p50 <= most50 && p99 <= most99);
            }
        }
        Ok(())
    }
}
