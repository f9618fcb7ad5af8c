//! The sample of real movies that the first start loads.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use aws_sdk_s3::{Client, primitives::ByteStream};
use serde_json::Value;

const SAMPLE: &[u8] = include_bytes!("../../sample/movies.json");

/// The object key of the sample.
pub(super) const KEY: &str = "sample/movies.json";

/// How long the ingest may take on a slow machine.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Puts the sample into `bucket`, and waits until it is ingested. Does nothing if it was ingested
/// before. `api` is the address of the service.
///
/// # Errors
/// If the sample cannot be put, or its ingest does not succeed in time.
pub(super) async fn load(api: SocketAddr, s3: &Client, bucket: &str) -> Result<()> {
    let url = format!("http://{api}/ingests?bucket={bucket}&key={KEY}&limit=1");
    // The service is on loopback: a proxy that the environment sets cannot reach it.
    let http = reqwest::Client::builder().no_proxy().build()?;
    let newest_ingest = async || -> Result<Value> {
        let ingests = http.get(&url).send().await?.error_for_status()?;
        Ok(ingests.json::<Value>().await?[0].clone())
    };
    if newest_ingest().await?["state"] == "succeeded" {
        return Ok(());
    }
    eprintln!("First start: putting a sample of real movies into the bucket ...");
    let started = Instant::now();
    let put = s3.put_object().bucket(bucket).key(KEY).body(ByteStream::from_static(SAMPLE));
    put.send().await.context("cannot put the sample (start with --no-sample to skip it)")?;
    let mut printed = String::new();
    while started.elapsed() < TIMEOUT {
        let ingest = newest_ingest().await?;
        let state = ingest["state"].as_str().unwrap_or("not yet received").to_owned();
        if state == "succeeded" {
            let (movies, ms) = (&ingest["inserted"], started.elapsed().as_millis());
            eprintln!("  succeeded: {movies} movies can be queried, {ms} ms after the put");
            return Ok(());
        }
        if matches!(state.as_str(), "rejected" | "gone" | "failed") {
            bail!("the sample was {state} (start with --no-sample to skip it): {ingest}");
        }
        if state != printed {
            eprintln!("  {state}");
            printed = state;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bail!(
        "the sample was not ingested within {} s: start again with MRU_LOG=debug to see why, or \
         with --no-sample to skip it",
        TIMEOUT.as_secs()
    )
}
