//! Asks TMDB in advance about all movies, for the command `rest-api enrich`.

use std::{
    io::{self, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use serde::Serialize;
use serde_json::json;
use tokio::time::sleep;

use super::{Details, Enricher};
use crate::store::{MovieDocument, StoreError};

/// How many movies are read, and asked about, at once.
const BATCH: i64 = 200;
const AT_ONCE: usize = 8;

/// The shortest time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// How long TMDB is waited for with one movie, before the command gives up.
const LONGEST_OUTAGE: Duration = Duration::from_secs(15 * 60);

/// Why not all movies could be asked about. What was asked is kept.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// TMDB does not answer.
    #[error(
        "TMDB has not answered for 15 minutes, or wants a longer pause: run the command again later, it goes on from here"
    )]
    NoAnswer,
    /// TMDB refuses the token.
    #[error("TMDB refuses the token: check MRU_TMDB_TOKEN")]
    Refused,
    /// The output cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What was asked.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Filled {
    /// How many movies the catalogue has.
    pub movies: u64,
    /// How many of them were asked about.
    pub asked: u64,
    /// Of these, how many a film matches.
    pub found: u64,
    /// How many no film matches.
    pub none: u64,
    /// How many have an answer that is of no use. They can be asked about again after an hour.
    pub unusable: u64,
}

/// Asks TMDB about all movies of which nothing is kept, or something old. Writes the result to `out`, and the progress to
/// `progress`. Whatever ends it, the next time it goes on from there.
///
/// # Errors
/// If the database is unavailable, TMDB does not answer for long, or the output cannot be written.
pub async fn fill(
    enricher: &Arc<Enricher>,
    json: bool,
    mut out: impl Write,
    mut progress: impl Write,
) -> Result<Filled, FillError> {
    let store = &enricher.store;
    store.ready().await?;
    let movies = u64::try_from(store.count_movies().await?).unwrap_or_default();
    let mut filled = Filled { movies, ..Filled::default() };
    let (mut after, mut last_progress) = (0, Instant::now());
    loop {
        let batch = store.movies_to_ask_about(after, BATCH).await?;
        let Some(last) = batch.last() else { break };
        after = last.id;
        let asked = batch.iter().map(|movie| ask(enricher, movie));
        let mut asked = stream::iter(asked).buffer_unordered(AT_ONCE);
        while let Some(details) = asked.next().await {
            filled.add(&details?);
            if last_progress.elapsed() >= PROGRESS_INTERVAL {
                last_progress = Instant::now();
                let Filled { asked, found, .. } = filled;
                writeln!(progress, "{asked} asked about, {found} found, of {movies} movies")?;
            }
        }
    }
    if json {
        writeln!(out, "{}", json!(filled))?;
    } else {
        let Filled { asked, found, none, unusable, .. } = filled;
        writeln!(
            out,
            "{movies} movies: {} were known; {asked} asked about: {found} found, {none} without a film, \
             {unusable} without an answer of use",
            movies.saturating_sub(asked)
        )?;
    }
    out.flush()?;
    Ok(filled)
}

/// Asks about a movie until there is an answer.
async fn ask(enricher: &Arc<Enricher>, movie: &MovieDocument) -> Result<Details, FillError> {
    let started = Instant::now();
    loop {
        let details = enricher.present(movie).await?.0;
        let Details::Unavailable(after) = details else { return Ok(details) };
        // It is noted, so that it is not asked again.
        if enricher.store.kept_details(movie.id).await?.is_some_and(|kept| kept.is_fresh) {
            return Ok(details);
        }
        if enricher.token.refused_for().is_some() {
            return Err(FillError::Refused);
        }
        if started.elapsed() + after > LONGEST_OUTAGE {
            return Err(FillError::NoAnswer);
        }
        sleep(after).await;
    }
}

impl Filled {
    fn add(&mut self, details: &Details) {
        self.asked += 1;
        match details {
            Details::Found(..) => self.found += 1,
            Details::None => self.none += 1,
            Details::Unavailable(_) => self.unusable += 1,
        }
    }
}
