//! Notifications, claims and lists with a large ledger.

use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use rest_api::store::Lane;
use serde_json::{Value, json};
use tokio_postgres::IsolationLevel;

use super::environment::{Environment, Part};
use crate::{
    report::{Figures, text},
    service::Service,
    stack::BUCKET,
};

/// How many keys the ended and the queued ingests are of.
const KEYS: i64 = 50_000;

/// The key that has as many versions as all of them.
const HOT_KEY: &str = "hot.json";

/// The targets at the 99th percentile.
const MAX_NOTIFY: Duration = Duration::from_millis(25);
const MAX_CLAIM: Duration = Duration::from_millis(3);
const MAX_LIST: Duration = Duration::from_millis(20);

/// The numbers of concurrent clients that send notifications.
const CLIENTS: [usize; 2] = [1, 8];

/// How often each list is requested.
const LIST_ROUNDS: usize = 3;

/// No worker takes over what the benchmark claims.
const LEASE: Duration = Duration::from_secs(3600);

pub(super) async fn measure(
    environment: &Environment,
    rows: i64,
    requests: usize,
    figures: &mut Figures,
) -> Result<()> {
    let part = environment.create("ledger").await?;
    fill(&part, rows).await?;
    figures.condition(format!(
        "ledger: {rows} ended ingests of {KEYS} keys, {rows} versions of another key, {rows} queued \
         ingests."
    ));
    let service = environment.service_without_workers(&part).await?;
    measure_notify(&service, requests, figures).await?;
    measure_lists(&service, figures).await?;
    service.stop().await?;
    measure_claims(environment, &part, requests, figures).await
}

/// Writes `rows` ended ingests of all keys, as many of one key, and as many queued ones. One of a
/// thousand ended ones was rejected, one of ten thousand has failed.
async fn fill(part: &Part, rows: i64) -> Result<()> {
    let ended = |key: &str, first: i64| {
        format!(
            "insert into ingests (bucket, key, etag, sequencer, size, state, attempts, ordered_at,
                received_at, run_after, started_at, finished_at, inserted, updated, unchanged,
                violation_count, violations, error)
            select '{BUCKET}', {key}, md5(n::text), lpad(to_hex({first} + n), 16, '0'), 1000,
                case when n % 10000 = 1 then 'failed' when n % 1000 = 2 then 'rejected'
                    else 'succeeded' end,
                1, at, at, at, at, at, 0, 0, 5,
                (n % 1000 = 2)::int, case when n % 1000 = 2 then '[]'::json end,
                case when n % 10000 = 1 then '{{}}'::json end
            from generate_series(1, {rows}) n,
                lateral (select now() - interval '1 day' - ({rows} - n) * interval '1 second') t (at)"
        )
    };
    let queued = format!(
        "insert into ingests (bucket, key, etag, sequencer, size, large, ordered_at,
            received_at, run_after)
        select '{BUCKET}', 'file-' || n % {KEYS}, md5(n::text), lpad(to_hex({rows} + n), 16, '0'),
            1000, false, at, at, at
        from generate_series(1, {rows}) n,
            lateral (select now() - interval '1 hour' + n * interval '1 hour' / {rows}) t (at)"
    );
    let ended_of_all = ended(&format!("'file-' || n % {KEYS}"), 0);
    let ended_of_one = ended(&format!("'{HOT_KEY}'"), 0);
    part.fill("ingests", &[ended_of_all, ended_of_one, queued].join(";")).await
}

/// A kind of notification.
#[derive(Clone, Copy)]
enum Kind {
    /// A new version of one of all keys.
    New,
    /// A new version of the key with the most versions.
    Hot,
    /// The same version once more.
    Again,
    /// A new version of that key, without a sequencer.
    HotWithoutSequencer,
}

impl Kind {
    const ALL: [Self; 4] = [Self::New, Self::Hot, Self::Again, Self::HotWithoutSequencer];

    fn name(self) -> &'static str {
        match self {
            Self::New => "a new version of one of all keys",
            Self::Hot => "a new version of the key with the most versions",
            Self::Again => "the same once more",
            Self::HotWithoutSequencer => "a new version of that key without a sequencer",
        }
    }

    /// Returns notification `number` of this kind. Higher numbers are newer, within one minute after
    /// `start`.
    fn notification(self, start: DateTime<Utc>, number: usize) -> Value {
        let time = start + TimeDelta::microseconds(number as i64);
        let key = match self {
            Self::New => format!("file-{}", number as i64 * 7919 % KEYS),
            _ => HOT_KEY.to_owned(),
        };
        let mut notification = json!({
            "bucket": BUCKET, "key": key, "event_time": time.to_rfc3339(), "size": 1000,
            "etag": format!("{number:032x}"),
            "sequencer": format!("{:016X}", (1_u64 << 48) + number as u64),
        });
        if let (Self::HotWithoutSequencer, Some(fields)) = (self, notification.as_object_mut()) {
            fields.remove("sequencer");
        }
        notification
    }
}

async fn measure_notify(service: &Service, requests: usize, figures: &mut Figures) -> Result<()> {
    let start = Utc::now();
    for kind in Kind::ALL {
        for (round, clients) in CLIENTS.into_iter().enumerate() {
            // The same numbers, and so the same versions, for `Again` as for `Hot`.
            let first = match kind {
                Kind::New | Kind::Hot | Kind::Again => round * requests,
                Kind::HotWithoutSequencer => (CLIENTS.len() + round) * requests,
            };
            let times = notify_all(service, clients, first..first + requests, |number| {
                kind.notification(start, number)
            });
            let name = format!("`/notify`, {}, {clients} at once", kind.name());
            figures.percentiles(&name, &times.await?, None, Some(MAX_NOTIFY))?;
        }
    }
    Ok(())
}

/// Sends notifications, `clients` at once. Returns the time of each.
async fn notify_all(
    service: &Service,
    clients: usize,
    numbers: Range<usize>,
    notification: impl Fn(usize) -> Value,
) -> Result<Vec<Duration>> {
    let send = async |number: usize| {
        let notification = notification(number);
        let started = Instant::now();
        service.notify(&notification).await?;
        anyhow::Ok(started.elapsed())
    };
    stream::iter(numbers.map(send)).buffer_unordered(clients).try_collect().await
}

/// Returns the lists to request, as the names of the filters and the path: one for each combination of
/// filters, with values that are frequent, rare and absent.
fn lists() -> Vec<(String, String)> {
    let buckets = ["", BUCKET, "absent"];
    let keys = ["", HOT_KEY, "file-7", "absent"];
    let states = ["", "succeeded", "queued", "rejected", "failed", "running"];
    let all = buckets.into_iter().flat_map(|bucket| keys.map(|key| (bucket, key)));
    let all = all.flat_map(|(bucket, key)| states.map(|state| [bucket, key, state]));
    let list = |values: [&str; 3]| {
        let filters = ["bucket", "key", "state"].into_iter().zip(values);
        let (names, pairs): (Vec<_>, Vec<_>) = filters
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name, format!("{name}={value}")))
            .unzip();
        let names = if names.is_empty() { "no filter".to_owned() } else { names.join(", ") };
        (names, format!("/ingests?{}", pairs.join("&")))
    };
    all.map(list).collect()
}

/// Requests the first and the second page of each list.
async fn measure_lists(service: &Service, figures: &mut Figures) -> Result<()> {
    let mut times_of_filters: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    let mut slowest = (Duration::ZERO, String::new());
    for (filters, path) in lists() {
        let times = list(service, &path).await?;
        slowest = slowest.max((times.iter().max().copied().unwrap_or_default(), path));
        times_of_filters.entry(filters).or_default().extend(times);
    }
    for (filters, times) in &times_of_filters {
        figures.percentiles(&format!("`GET /ingests`, {filters}"), times, None, Some(MAX_LIST))?;
    }
    let (time, path) = slowest;
    figures.state("the slowest of these lists", &format!("{}: `{path}`", text(time)));
    Ok(())
}

/// Requests the first and the second page of a list, several times. Returns the time of each request.
async fn list(service: &Service, path: &str) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..LIST_ROUNDS {
        let started = Instant::now();
        let page = service.get(path).await?;
        times.push(started.elapsed());
        let next = page.link.as_deref().and_then(|link| link.strip_prefix('<')?.split_once('>'));
        if let Some((next, _)) = next {
            let started = Instant::now();
            service.get(next).await?;
            times.push(started.elapsed());
        }
    }
    Ok(times)
}

/// Claims ingests, one after the other: first alone, then while a transaction keeps Postgres from
/// removing the dead entries of indexes.
async fn measure_claims(
    environment: &Environment,
    part: &Part,
    claims: usize,
    figures: &mut Figures,
) -> Result<()> {
    let store = part.store().await?;
    let claim_all = async || {
        let mut times = Vec::with_capacity(claims);
        for _ in 0..claims {
            let started = Instant::now();
            let claim = store.claim(Lane::Small, 1, LEASE).await?;
            times.push(started.elapsed());
            ensure!(!claim.is_empty(), "nothing is queued");
        }
        anyhow::Ok(times)
    };
    figures.percentiles("claim", &claim_all().await?, None, Some(MAX_CLAIM))?;
    let mut reader = environment.connect(part).await?;
    let old = reader.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
    let old = old.start().await?;
    old.execute("select from ingests limit 1", &[]).await?;
    let name = "claim, while an old transaction is open";
    figures.percentiles(name, &claim_all().await?, None, Some(MAX_CLAIM))?;
    Ok(old.rollback().await?)
}
