//! Computing the folded text of a large catalogue anew, after the rules of equal text have changed.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use chrono::Utc;
use rest_api::store;
use serde_json::json;

use super::environment::{Environment, Part};
use crate::{
    files, movies,
    report::{Figures, text},
    service::no_secrets,
    stack::BUCKET,
};

const KEY: &str = "movies.ndjson";

/// One of this many movies has a twin in another normal form.
const TWIN_INTERVAL: i64 = 100;

/// The targets: the time in multiples of an UPDATE of all rows. Reading all of them, and changing all of
/// them.
const MAX_READ: f64 = 1.0;
const MAX_CHANGE: f64 = 2.0;

/// Measures the migration of a catalogue of `count` movies: no text changes, some movies become one, all
/// text changes.
pub(super) async fn measure(
    environment: &Environment,
    count: i64,
    figures: &mut Figures,
) -> Result<()> {
    let part = environment.create("folding").await?;
    load(environment, &part, count).await?;
    let limit = update_all(&part).await?;
    figures.state(&format!("{count} movies: an UPDATE of all rows, the limit"), &text(limit));
    let mut line = |name: &str, measured: Duration, target| {
        figures.state(name, &text(measured));
        figures.ratio(
            "in multiples of the limit",
            measured.as_secs_f64() / limit.as_secs_f64(),
            target,
        );
    };
    line("no text changes", refold(&part).await?, MAX_READ);
    let twins = add_twins(&part).await?;
    line(&format!("{twins} movies become one with another"), refold(&part).await?, MAX_READ);
    ensure!(movies(&part).await? == count, "movies were not merged");
    let lower = "update movies set title_lc = upper(title_lc), cast_lc = upper(cast_lc)";
    part.fill("movies", lower).await?;
    line("all text changes", refold(&part).await?, MAX_CHANGE);
    Ok(())
}

/// Loads `count` movies through the service.
async fn load(environment: &Environment, part: &Part, count: i64) -> Result<()> {
    let file = movies::synthetic(usize::try_from(count)?).movies.join("\n");
    files::put(&environment.s3, BUCKET, KEY, file.into_bytes()).await?;
    let service = environment.service(part).await?;
    let event_time = Utc::now().to_rfc3339();
    let notification =
        json!({ "bucket": BUCKET, "key": KEY, "event_time": event_time, "sequencer": "01" });
    service.ingest(&notification).await?;
    service.stop().await
}

/// Returns the time of an UPDATE that changes an indexed column of all rows.
async fn update_all(part: &Part) -> Result<Duration> {
    let started = Instant::now();
    part.sql.batch_execute("update movies set title_lc = title_lc || ' '").await?;
    let time = started.elapsed();
    part.fill("movies", "update movies set title_lc = rtrim(title_lc)").await?;
    Ok(time)
}

/// Adds decomposed twins of some movies, in a version of its own. Returns their number.
async fn add_twins(part: &Part) -> Result<i64> {
    let composed = format!(
        "update movies set doc = replace(doc, '\"title\":\"', '\"title\":\"é') where id % {TWIN_INTERVAL} = 0"
    );
    part.fill("movies", &composed).await?;
    let of_movies = format!(
        "insert into movies (identity, title_lc, year, cast_lc, genres_lc, content_hash, doc)
        select gen_random_uuid(), title_lc, year, cast_lc, genres_lc, -content_hash,
            replace(doc, 'é', U&'e\\0301')
        from movies where id % {TWIN_INTERVAL} = 0"
    );
    part.fill("movies", &of_movies).await?;
    let of_version = "with version as (
            insert into merged_versions (ordered_at, key, bucket, sequencer)
            values (now() + interval '1 second', 'twins', 'bench', '')
            returning id
        )
        insert into version_movies (version_id, movie_ids)
        select version.id, array(select id from movies where ingest_id is null) from version";
    part.sql.batch_execute(of_version).await?;
    let twins = "select count(*) from movies where ingest_id is null";
    Ok(part.sql.query_one(twins, &[]).await?.get(0))
}

async fn movies(part: &Part) -> Result<i64> {
    Ok(part.sql.query_one("select count(*) from movies", &[]).await?.get(0))
}

/// Returns the time of the migration.
async fn refold(part: &Part) -> Result<Duration> {
    part.sql.batch_execute("update catalogue set folding = 'earlier'; checkpoint").await?;
    let started = Instant::now();
    store::migrate(&part.database, &no_secrets()).await?;
    Ok(started.elapsed())
}
