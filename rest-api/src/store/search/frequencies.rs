//! How common the terms of movies are, for the choice of plans alone. No result depends on it.
//!
//! Postgres knows the most common ones from its last ANALYZE.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use deadpool_postgres::GenericClient;
use tokio::time::Instant;

use super::condition::Condition;
use crate::store::StoreError;

/// How long frequencies are used.
const MAX_AGE: Duration = Duration::from_secs(30);

/// Most terms are less common than the rarest of the most common ones by more than this factor.
const RARER: f64 = 50.0;

/// Few movies have the same title, or two words side by side, unless these are among the most common terms.
const JOINED: f64 = 2.0;

/// At least this share of the movies that have the rarest of several terms is assumed to have all of them.
const TOGETHER: f64 = 0.01;

/// The frequencies that were read last, and when.
#[derive(Debug, Default)]
pub(in crate::store) struct KnownFrequencies(Mutex<Option<(Instant, Arc<Frequencies>)>>);

impl KnownFrequencies {
    /// Returns the frequencies, from the database if those that are known are old.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub(super) async fn get(
        &self,
        client: &impl GenericClient,
    ) -> Result<Arc<Frequencies>, StoreError> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, known)) = known.filter(|(read_at, _)| read_at.elapsed() < MAX_AGE) {
            return Ok(known);
        }
        let read = Arc::new(Frequencies::read(client).await?);
        let known = Some((Instant::now(), Arc::clone(&read)));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(read)
    }
}

/// How common terms are.
#[derive(Debug, Default)]
pub(super) struct Frequencies {
    /// The number of movies.
    movies: f64,
    /// The share of the movies that have a term, for the most common terms.
    common: HashMap<String, f64>,
    /// A share that all other terms are below.
    rare: f64,
}

impl Frequencies {
    async fn read(client: &impl GenericClient) -> Result<Self, StoreError> {
        // After the shares of the elements, Postgres stores the smallest and the largest one.
        let read = "
            /* frequencies::read */
            select c.reltuples::float8 as movies, s.most_common_elems::text::text[] as terms,
                s.most_common_elem_freqs as shares
            from pg_class c
            left join pg_stats s on s.schemaname = c.relnamespace::regnamespace::text
                and s.tablename = c.relname and s.attname = 'terms'
            where c.oid = 'movies'::regclass";
        let row = client.query_one(&client.prepare_cached(read).await?, &[]).await?;
        let terms: Option<Vec<String>> = row.get("terms");
        let shares: Option<Vec<f32>> = row.get("shares");
        let shares = shares.unwrap_or_default().into_iter().map(f64::from);
        let common: HashMap<String, f64> =
            terms.unwrap_or_default().into_iter().zip(shares).collect();
        let rare = common.values().copied().reduce(f64::min).unwrap_or_default();
        Ok(Self { movies: row.get::<_, f64>("movies").max(0.0), common, rare })
    }

    /// Returns frequencies by which all terms are common.
    #[cfg(test)]
    pub(super) fn all_common() -> Self {
        Self { movies: 1e9, common: HashMap::new(), rare: 1.0 }
    }

    /// Returns about how many movies meet `condition`.
    pub(super) fn movies(&self, condition: &Condition) -> f64 {
        self.movies * self.share(condition)
    }

    /// Returns the share that so many movies are of all.
    pub(super) fn share_of(&self, movies: f64) -> f64 {
        movies / self.movies.max(1.0)
    }

    fn share(&self, condition: &Condition) -> f64 {
        match condition {
            Condition::Term(term) => {
                self.common.get(term).copied().unwrap_or_else(|| match term.as_bytes().first() {
                    Some(b'=' | b'C' | b'T') => JOINED / self.movies.max(1.0),
                    _ => self.rare / RARER,
                })
            }
            Condition::Beginning(term) => {
                let with = self.common.iter().filter(|(common, _)| common.starts_with(term));
                with.map(|(_, share)| share).sum::<f64>().max(self.rare / RARER).min(1.0)
            }
            Condition::All(all) => {
                let shares = all.iter().map(|condition| self.share(condition));
                // Words that often come together are not independent.
                let smallest = shares.clone().reduce(f64::min).unwrap_or(1.0);
                shares.product::<f64>().max(smallest * TOGETHER)
            }
            Condition::Any(any) => {
                any.iter().map(|condition| self.share(condition)).sum::<f64>().min(1.0)
            }
        }
    }
}
