//! A sample of the catalogue: how many movies match a filter, and how soon one comes in the order of ids.
//!
//! It chooses plans alone ([`super::plan`]). No result depends on it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use deadpool_postgres::GenericClient;
use memchr::memmem;
use tokio::{sync::Mutex as AsyncMutex, time::Instant};
use tracing::debug;

use super::{
    Revision, Store, StoreError,
    reads::{self, Cost},
};
use crate::telemetry::chain;

/// How many movies a sample has at least, if there are so many; at most twice as many.
const SIZE: i64 = 2000;

/// How many characters of the names of a cast a sample has, and how many genres of a movie.
const MAX_CAST: i32 = 1000;
const MAX_GENRES: i32 = 20;

/// How long a sample is used, and how long it is used at least while the catalogue changes.
const MAX_AGE: Duration = Duration::from_secs(60);
const MIN_AGE: Duration = Duration::from_secs(1);

/// Separates texts. No text of a movie contains it.
const END: char = '\0';

/// Some movies, whose ids have about the same distance from each other, in ascending order.
#[derive(Debug, Default)]
pub(super) struct Sample {
    /// How many movies of the catalogue each of them stands for.
    pub(super) weight: f64,
    pub(super) ids: Vec<i64>,
    pub(super) years: Vec<i32>,
    pub(super) titles: Texts,
    pub(super) casts: Texts,
    /// Each genre between two [`END`].
    genres: Texts,
}

/// A text of each movie, one after another: to search all of them at once is fast.
#[derive(Debug, Default)]
pub(super) struct Texts {
    all: String,
    /// Where each text ends.
    ends: Vec<usize>,
}

impl Texts {
    fn push(&mut self, text: &str) {
        self.all.push_str(text);
        self.all.push(END);
        self.ends.push(self.all.len());
    }

    /// Returns which texts contain `part`.
    pub(super) fn containing(&self, part: &str) -> Vec<bool> {
        let mut containing = vec![false; self.ends.len()];
        let finder = memmem::Finder::new(part);
        let mut place = 0;
        while let Some(found) = finder.find(&self.all.as_bytes()[place..]) {
            let text = self.ends.partition_point(|end| *end <= place + found);
            let Some(is_containing) = containing.get_mut(text) else { break };
            *is_containing = true;
            // Further matches in the same text say nothing.
            place = self.ends[text];
        }
        containing
    }
}

impl Sample {
    /// Returns which movies have this folded genre.
    pub(super) fn with_genre(&self, genre: &str) -> Vec<bool> {
        self.genres.containing(&format!("{END}{genre}{END}"))
    }

    async fn read(client: &impl GenericClient) -> Result<Self, StoreError> {
        let read = "
            /* sample::read */
            select distinct on (m.id) m.id, m.year, m.title_lc, left(m.cast_lc, $2) as cast_lc, m.genres_lc,
                (select reltuples from pg_class where oid = 'movies'::regclass)::float8 as movies
            from (select min(id) as first, max(id) as last from movies) bounds
            cross join generate_series(first, last, greatest((last - first) / $1, 1)) at
            cross join lateral (
                select id, year, title_lc, cast_lc, genres_lc[:$3] as genres_lc from movies
                where id >= at order by id limit 1
            ) m
            order by m.id";
        let statement = client.prepare_cached(read).await?;
        let rows = client.query(&statement, &[&SIZE, &MAX_CAST, &MAX_GENRES]).await?;
        // Before the first ANALYZE the number of movies is unknown.
        let known = rows.first().map_or(0.0, |row| row.get("movies"));
        let mut sample = Self::default();
        for row in &rows {
            let genres: Vec<&str> = row.get("genres_lc");
            sample.push(
                row.get("id"),
                row.get("year"),
                row.get("title_lc"),
                row.get("cast_lc"),
                &genres,
            );
        }
        let span =
            sample.ids.last().zip(sample.ids.first()).map_or(0, |(last, first)| last - first + 1);
        let movies = if known > 0.0 { known } else { span as f64 };
        sample.weight = (movies / sample.ids.len().max(1) as f64).max(1.0);
        Ok(sample)
    }

    /// Adds a movie with a larger id.
    pub(super) fn push(&mut self, id: i64, year: i32, title: &str, cast: &str, genres: &[&str]) {
        self.ids.push(id);
        self.years.push(year);
        self.titles.push(title);
        self.casts.push(cast);
        let separator = END.encode_utf8(&mut [0; 4]).to_owned();
        self.genres.push(&format!("{END}{}", genres.join(&separator)));
    }
}

/// The sample that was read last.
#[derive(Debug, Default)]
pub(super) struct KnownSample {
    known: Mutex<Option<Known>>,
    /// Held while a sample is read.
    reading: Arc<AsyncMutex<()>>,
}

#[derive(Clone, Debug)]
struct Known {
    sample: Arc<Sample>,
    read_at: Instant,
    /// The state of the catalogue when it was read.
    at: Revision,
}

impl Known {
    fn is_recent(&self, at: Revision) -> bool {
        let age = self.read_at.elapsed();
        age < MIN_AGE || age < MAX_AGE && self.at == at
    }
}

impl Store {
    /// Returns the sample of the catalogue that is known. If it is old, or the catalogue was not in the state `at` then,
    /// another one is read meanwhile.
    pub(super) fn sample(&self, at: Revision) -> Option<Arc<Sample>> {
        let known = self.sample.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !known.as_ref().is_some_and(|known| known.is_recent(at))
            && let Ok(reading) = Arc::clone(&self.sample.reading).try_lock_owned()
        {
            let store = self.clone();
            tokio::spawn(async move {
                if let Err(error) = store.read_sample(at).await {
                    debug!(error = chain(&error), "the sample of the catalogue stays old");
                }
                drop(reading);
            });
        }
        known.map(|known| known.sample)
    }

    /// Reads a sample of the catalogue, which is in the state `at`.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn read_sample(&self, at: Revision) -> Result<(), StoreError> {
        let connection = self.reader(Cost::Index).await?;
        let sample = Arc::new(Sample::read(&*connection).await?);
        reads::finish(connection);
        let known = Known { sample, read_at: Instant::now(), at };
        *self.sample.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        Ok(())
    }
}
