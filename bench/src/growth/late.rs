//! A file that is older than many others. The limit is the same file in order.

use std::time::Duration;

use anyhow::{Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use roaring::RoaringTreemap;
use serde_json::{Value, json};

use super::environment::{Environment, Part};
use crate::{
    files::{self, movie},
    report::{Figures, percentile},
    service::Service,
    stack::BUCKET,
};

/// How many movies the catalogue has.
const MOVIES: i64 = 50_000;

/// How many movies a small file has.
const SMALL: usize = 5;

/// How many movies a large file has.
const LARGE: u64 = 36_000;

/// By how much the movies of one large file are shifted against the one before.
const SHIFT: u64 = 10;

/// How many pairs of files are merged before the first one that is measured.
const WARM_UP: usize = 5;

/// The target: how much longer a late file takes than one in order.
const MAX_BEYOND: Duration = Duration::from_millis(30);

/// When the catalogue was put, when the late files were put, and when the first of the versions was put
/// that are newer than them.
const LOADED: &str = "2020-01-01T00:00:00Z";
const LATE: &str = "2021-01-01T00:00:00Z";
const LATER: &str = "2022-01-01T00:00:00Z";

/// Measures late files behind `versions` versions of small files, and, in another database, behind
/// `dumps` versions of large files.
pub(super) async fn measure(
    environment: &Environment,
    versions: i64,
    dumps: usize,
    probes: usize,
    figures: &mut Figures,
) -> Result<()> {
    let small = load(environment, "late_small").await?;
    let covered = fill_small(&small, versions).await?;
    let name = format!("behind {versions} versions of {SMALL} movies");
    measure_late(environment, &small, &name, probes, figures).await?;
    verify(&small, &covered).await?;

    let large = load(environment, "late_large").await?;
    let covered = fill_large(&large, dumps).await?;
    let name = format!("behind {dumps} versions of {LARGE} movies");
    measure_late(environment, &large, &name, probes, figures).await?;
    verify(&large, &covered).await
}

/// Creates a database whose catalogue has [`MOVIES`] movies, with the ids from 1.
async fn load(environment: &Environment, name: &str) -> Result<Part> {
    let part = environment.create(name).await?;
    let movies: Vec<String> =
        (0..MOVIES).map(|number| movie(&title(number), "First").to_string()).collect();
    files::put(&environment.s3, BUCKET, "catalogue.ndjson", movies.join("\n").into_bytes()).await?;
    let service = environment.service(&part).await?;
    service.ingest(&notification("catalogue.ndjson", LOADED, 0)).await?;
    service.stop().await?;
    let ids = part.sql.query_one("select min(id), max(id), count(*) from movies", &[]).await?;
    let ids: (i64, i64, i64) = (ids.get(0), ids.get(1), ids.get(2));
    ensure!(ids == (1, MOVIES, MOVIES), "unexpected ids of movies: {ids:?}");
    Ok(part)
}

fn title(number: i64) -> String {
    format!("Movie {number}")
}

fn notification(key: &str, event_time: &str, sequencer: usize) -> Value {
    json!({
        "bucket": BUCKET, "key": key, "event_time": event_time,
        "sequencer": format!("{sequencer:016X}"),
    })
}

/// Writes `versions` merged versions of as many small files. Returns the ids of their movies.
async fn fill_small(part: &Part, versions: i64) -> Result<Vec<i64>> {
    let of_versions = format!(
        "insert into merged_versions (ordered_at, key, bucket, sequencer)
        select timestamptz '{LATER}' + n * interval '1 minute', 'small-' || n, '{BUCKET}',
            rpad(lpad(to_hex(n), 16, '0'), 64, '0')
        from generate_series(1, {versions}) n"
    );
    part.fill("merged_versions", &of_versions).await?;
    // The movies of a version differ, and are spread over the catalogue.
    let of_movies = format!(
        "insert into version_movies (version_id, movie_ids)
        select id, array(
            select distinct 1 + abs(hashint8extended(id * {SMALL} + n, 0) % {MOVIES})
            from generate_series(1, {SMALL}) n
            order by 1)
        from merged_versions
        where key like 'small-%'"
    );
    part.fill("version_movies", &of_movies).await?;
    let covered = "select coalesce(array_agg(distinct id), '{}')
        from version_movies, unnest(movie_ids) id
        where version_id in (select id from merged_versions where key like 'small-%')";
    Ok(part.sql.query_one(covered, &[]).await?.get(0))
}

/// Writes `dumps` merged versions of as many large files. Each key has a date, so no version covers
/// another one. Returns the ids of their movies.
async fn fill_large(part: &Part, dumps: usize) -> Result<Vec<i64>> {
    let version = "insert into merged_versions (ordered_at, key, bucket, sequencer)
        values (timestamptz '2022-01-01T00:00:00Z' + $1::bigint * interval '1 day',
            'dump-' || $1::bigint, $2, rpad(lpad(to_hex($1::bigint), 16, '0'), 64, '0'))
        returning id";
    let movies = "insert into version_movies (version_id, bitmap) values ($1, $2)";
    let mut covered = RoaringTreemap::new();
    for dump in 0..dumps as u64 {
        let id: i64 = part.sql.query_one(version, &[&dump.cast_signed(), &BUCKET]).await?.get(0);
        let ids = (0..LARGE).map(|movie| 1 + (dump * SHIFT + movie) % MOVIES.cast_unsigned());
        let (ids, mut bitmap) = (ids.collect::<RoaringTreemap>(), Vec::new());
        ids.serialize_into(&mut bitmap)?;
        covered |= ids;
        part.sql.execute(movies, &[&id, &bitmap]).await?;
    }
    let vacuum = ["vacuum (analyze) merged_versions", "vacuum (analyze) version_movies"];
    for statement in vacuum {
        part.sql.batch_execute(statement).await?;
    }
    Ok(covered.into_iter().map(u64::cast_signed).collect())
}

/// Checks that no late file has changed a movie that a later version has.
async fn verify(part: &Part, covered: &[i64]) -> Result<()> {
    let changed = "select count(*) from movies where id = any($1) and genres_lc[1] like 'late %'";
    let changed: i64 = part.sql.query_one(changed, &[&covered]).await?.get(0);
    ensure!(changed == 0, "late files have changed {changed} movies that later versions have");
    Ok(())
}

/// Merges files in order and late ones by turns, and compares their times from claim to end.
async fn measure_late(
    environment: &Environment,
    part: &Part,
    name: &str,
    probes: usize,
    figures: &mut Figures,
) -> Result<()> {
    let service = environment.service(part).await?;
    let late: DateTime<Utc> = LATE.parse()?;
    let (mut in_order, mut late_ones) = (Vec::new(), Vec::new());
    for number in 0..probes + WARM_UP {
        let in_order_time = probe(environment, &service, "in-order", Utc::now(), number).await?;
        let time = late + TimeDelta::seconds(number as i64);
        let late_time = probe(environment, &service, "late", time, number).await?;
        if number >= WARM_UP {
            in_order.push(in_order_time);
            late_ones.push(late_time);
        }
    }
    service.stop().await?;
    figures.percentiles(&format!("file in order, {name}"), &in_order, None, None)?;
    figures.percentiles(&format!("late file, {name}"), &late_ones, None, None)?;
    for percent in [50, 99] {
        let beyond =
            percentile(&late_ones, percent)?.saturating_sub(percentile(&in_order, percent)?);
        figures.duration(&format!("beyond the one in order, p{percent}"), beyond, MAX_BEYOND);
    }
    Ok(())
}

/// Puts a small file with changed movies, and waits until it is merged. Returns the time from claim to
/// end.
async fn probe(
    environment: &Environment,
    service: &Service,
    kind: &str,
    time: DateTime<Utc>,
    number: usize,
) -> Result<Duration> {
    // Other movies for each kind: a file in order is newer than all late ones.
    let seed = number + if kind == "late" { 1_000_000 } else { 0 };
    let mut random = fastrand::Rng::with_seed(seed as u64);
    let movies: Vec<Value> = (0..SMALL)
        .map(|_| movie(&title(random.i64(0..MOVIES)), &format!("{kind} {number}")))
        .collect();
    let key = format!("{kind}-{number}.json");
    files::put(&environment.s3, BUCKET, &key, serde_json::to_vec(&movies)?).await?;
    service.ingest(&notification(&key, &time.to_rfc3339(), number + 1)).await
}
