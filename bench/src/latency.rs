//! Measures how long a small file takes on an idle system: from its put to the response that has its
//! movie.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use local_stack::{Stack, client};
use tokio::time::sleep;

use crate::{
    files::{self, movie},
    ledger, movies,
    report::Figures,
    stack::{BUCKET, connect, with_directory, with_stack},
};

/// The targets of the time from put to queryable.
const MAX_P50: Duration = Duration::from_millis(25);
const MAX_P99: Duration = Duration::from_millis(80);

/// How many files are put before the first one that is measured: they open the connections.
const WARM_UP: usize = 10;

/// The delay between two queries for the movie.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// The delay between two files, so that the system is idle again.
const PAUSE: Duration = Duration::from_millis(100);

/// The longest time that a file may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Puts `files` files of one movie, one after the other, into a system with `movies` movies. Prints the
/// figures.
pub(crate) async fn measure(files: usize, movies: usize) -> Result<()> {
    let figures = with_directory(async |directory| {
        with_stack(directory, async |stack| run(stack, files, movies).await).await
    });
    figures.await?.print();
    Ok(())
}

async fn run(stack: &Stack, files: usize, movies: usize) -> Result<Figures> {
    let sql = connect(stack).await?;
    let mut figures = Figures::default();
    figures.condition(ledger::durability(&sql).await?);
    figures.condition(format!(
        "{files} files of one movie, one after the other, into a catalogue of {movies} movies."
    ));
    let s3 = client(stack.s3);
    if movies > 0 {
        let catalogue = movies::synthetic(movies).movies.join("\n");
        files::put(&s3, BUCKET, "catalogue.ndjson", catalogue.into_bytes()).await?;
        ledger::settle(&sql, 1, |_| Ok(())).await?;
    }
    let http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
    let (mut puts, mut totals) = (Vec::new(), Vec::new());
    for number in 0..files + WARM_UP {
        sleep(PAUSE).await;
        // A title that no other movie has, and that no earlier query has asked for.
        let title = format!("Idle{number}x");
        let body = movie(&title, "Drama").to_string().into_bytes();
        let url = format!("http://{}/movies?title={title}", stack.api);
        let started = Instant::now();
        files::put(&s3, BUCKET, &format!("{title}.json"), body).await?;
        let put = started.elapsed();
        wait_for_movie(&http, &url, started).await?;
        let total = started.elapsed();
        if number >= WARM_UP {
            puts.push(put);
            totals.push(total);
        }
    }
    figures.percentiles("put to queryable", &totals, Some(MAX_P50), Some(MAX_P99))?;
    figures.percentiles("the put alone", &puts, None, None)?;
    Ok(figures)
}

/// Requests `url` until the response has a movie.
async fn wait_for_movie(http: &reqwest::Client, url: &str, started: Instant) -> Result<()> {
    loop {
        let response = http.get(url).send().await?.error_for_status()?;
        if response.text().await? != "[]" {
            return Ok(());
        }
        ensure!(started.elapsed() < TIMEOUT, "no movie at {url}");
        sleep(POLL_INTERVAL).await;
    }
}
