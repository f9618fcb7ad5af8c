//! Measures a backlog: files that were put and recorded while no worker ran. The limit is fetching the
//! same objects with the same client, and one raw COPY of their movies.

use std::{path::Path, time::Instant};

use anyhow::{Context, Result, ensure};
use local_stack::{
    DATABASE, Stack, client,
    postgres::{Postgres, Purpose},
    s3::Endpoint,
};
use rest_api::store::{ObservedVersion, Store};
use schema::Notification;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    files::{self, movie},
    ledger, limit,
    producers::MOVIES_PER_FILE,
    report::{Figures, text},
    service::{no_secrets, record_all},
    stack::{BUCKET, connect, postgres, with_directory, with_stack},
};

/// The default number of objects fetched at once for the limit.
pub(crate) const FETCHES: usize = 16;

/// The targets: files settled a second, and the ratio to the limit.
const MIN_SETTLED: f64 = 600.0;
const MAX_RATIO: f64 = 3.0;

/// Records `files` files, then starts the whole local stack, waits until every ingest has ended, and
/// checks every movie. Measures the limit with `fetches` objects fetched at once. Prints the figures.
pub(crate) async fn measure(files: usize, fetches: usize) -> Result<()> {
    let figures = with_directory(async |directory| {
        // Creates the cluster, the database and the bucket.
        with_stack(directory, async |_| Ok(())).await?;
        record(directory, files).await?;
        with_stack(directory, async |stack| run(stack, files, fetches).await).await
    });
    figures.await?.print();
    Ok(())
}

/// Puts the files, and records their notifications. Neither the service nor the function runs.
async fn record(directory: &Path, files: usize) -> Result<()> {
    let endpoint = Endpoint::new(&directory.join("s3"))?;
    let mut events = endpoint.events();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let s3 = client(listener.local_addr()?);
    let serving = tokio::spawn(endpoint.serve(listener, std::future::pending()));
    files::put_all(&s3, BUCKET, (0..files).map(|file| (key(file), body(file)))).await?;
    serving.abort();
    let mut notifications = Vec::with_capacity(files);
    for _ in 0..files {
        notifications
            .push(notification(&events.next().await.context("an event is missing")?.body)?);
    }

    let postgres = Postgres::start(&directory.join("postgres"), Purpose::Keep).await?;
    let recorded = async {
        let store = Store::new(&postgres.database(DATABASE), &no_secrets(), 0).await?;
        record_all(&store, &notifications, &ObservedVersion::default()).await
    };
    let recorded = recorded.await;
    postgres.stop().await;
    recorded
}

fn key(file: usize) -> String {
    format!("{file}.json")
}

fn titles(file: usize) -> impl Iterator<Item = String> {
    (0..MOVIES_PER_FILE).map(move |movie| format!("{file}/{movie}"))
}

fn body(file: usize) -> Vec<u8> {
    let movies: Vec<String> =
        titles(file).map(|title| movie(&title, "First").to_string()).collect();
    format!("[{}]", movies.join(",")).into_bytes()
}

/// Returns the notification that the function makes of an event.
fn notification(event: &Value) -> Result<Notification> {
    let record = &event["Records"][0];
    let object = &record["s3"]["object"];
    let notification = json!({
        "bucket": BUCKET, "key": object["key"], "etag": object["eTag"], "size": object["size"],
        "sequencer": object["sequencer"], "event_time": record["eventTime"],
    });
    Ok(serde_json::from_value(notification)?)
}

async fn run(stack: &Stack, files: usize, fetches: usize) -> Result<Figures> {
    let sql = connect(stack).await?;
    ledger::settle(&sql, files, |_| Ok(())).await?;
    let mut figures = Figures::default();
    figures.condition(ledger::durability(&sql).await?);
    figures.condition(format!(
        "{files} files of {MOVIES_PER_FILE} movies were recorded before the local stack started."
    ));
    let states = ledger::count_states(&sql).await?;
    let expected = (0..files).flat_map(titles).map(|title| (title, "First".to_owned())).collect();
    ensure!(files::read_catalogue(&sql).await? == expected, "the catalogue is wrong: {states}");
    let settled = ledger::span(&ledger::ended(&sql, 0).await?, |ended| ended.started_at);
    figures.rate("files settled", files as f64 / settled.as_secs_f64(), MIN_SETTLED);
    figures.state("from the first claim to the last end", &text(settled));

    let keys: Vec<String> = (0..files).map(key).collect();
    let started = Instant::now();
    let bodies = files::fetch_all(&client(stack.s3), BUCKET, &keys, fetches).await?;
    let fetched = started.elapsed();
    ensure!(bodies.len() == files, "objects are missing");
    let movies = (0..files).flat_map(titles).map(|title| movie(&title, "First").to_string());
    let copied = limit::copy(postgres(stack)?, &movies.collect::<Vec<_>>()).await?;
    let name = format!("fetching the same objects, {fetches} at once");
    figures.state(&name, &text(fetched));
    figures.state("one raw COPY of their movies", &text(copied));
    let ratio = settled.as_secs_f64() / (fetched + copied).as_secs_f64();
    figures.ratio("times fetching and the COPY", ratio, MAX_RATIO);
    figures.state("ingests", &states);
    Ok(figures)
}
