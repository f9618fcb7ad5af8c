//! The mix of queries, whose terms come from the catalogue, so that they are as common as its words.

use std::collections::HashSet;

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use fastrand::Rng;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rest_api::store::{Filters, MovieQuery, Sort, Years, is_indexable};
use serde_json::Value;

use crate::search::one_error;

/// How many movies of the catalogue the terms come from.
const SAMPLES: usize = 20_000;

/// The share of pages that begin somewhere in the result.
const DEEP: f64 = 0.08;

/// Terms in other scripts, some of which no title has.
const NON_LATIN: [&str; 6] = ["сын", "ночь", "七人", "映画", "اردو", "שלום"];

/// Which filters a query has, and how many of a hundred have these.
const KINDS: [(&str, u32); 10] = [
    ("", 5),
    ("t", 33),
    ("a", 20),
    ("y", 7),
    ("g", 7),
    ("ty", 7),
    ("yg", 8),
    ("ag", 5),
    ("ta", 3),
    ("tayg", 5),
];

/// A source of queries. The same seed makes the same ones.
pub(super) struct Mix {
    movies: Vec<Value>,
    random: Rng,
    count: usize,
}

impl Mix {
    pub(super) fn new(movies: &[String], seed: u64) -> Result<Self> {
        let step = (movies.len() / SAMPLES).max(1);
        let sampled = movies.iter().step_by(step).map(|movie| serde_json::from_str(movie));
        let sampled = sampled.collect::<Result<_, _>>()?;
        Ok(Self { movies: sampled, random: Rng::with_seed(seed), count: movies.len() })
    }

    /// Returns queries of the mix, no two of which are equal: none is answered from memory.
    pub(super) fn queries(&mut self, number: usize) -> Result<Vec<MovieQuery>> {
        self.distinct(number, Self::query)
    }

    /// Returns queries of the mix that an index serves, no two of which are equal.
    pub(super) fn indexed_queries(&mut self, number: usize) -> Result<Vec<MovieQuery>> {
        let mut queries = self.queries(number * 2)?;
        queries.retain(|MovieQuery { filters, .. }| {
            filters.titles.iter().chain(&filters.actors).all(|text| is_indexable(text))
        });
        queries.truncate(number);
        Ok(queries)
    }

    /// Returns queries for about ten movies with the longest word of a title, no two of which are equal.
    pub(super) fn title_queries(&mut self, number: usize) -> Result<Vec<MovieQuery>> {
        self.distinct(number, |mix| {
            let title = mix.movie()["title"].as_str().context("no title")?.to_owned();
            let longest = title.split(' ').max_by_key(|word| word.chars().count());
            let titles = vec![longest.unwrap_or(&title).to_owned()];
            let filters = Filters { titles, ..Filters::default() };
            Ok(MovieQuery { filters, sort: Sort::Id, limit: mix.random.i64(10..=40), after: None })
        })
    }

    /// Returns paths of the mix that search for what is a filter of the title otherwise, no two of which are equal. Half
    /// of these texts have a typing error.
    pub(super) fn searches(&mut self, number: usize) -> Result<Vec<String>> {
        let queries = self.distinct(number, |mix| {
            let mut query = mix.query()?;
            for text in &mut query.filters.titles {
                if mix.random.bool() {
                    *text = one_error(text, &mut mix.random).unwrap_or_else(|| text.clone());
                }
            }
            Ok(query)
        })?;
        Ok(queries.iter().map(search_path).collect())
    }

    fn distinct(
        &mut self,
        number: usize,
        query: impl Fn(&mut Self) -> Result<MovieQuery>,
    ) -> Result<Vec<MovieQuery>> {
        let (mut known, mut queries) = (HashSet::new(), Vec::with_capacity(number));
        while queries.len() < number {
            let query = query(self)?;
            if known.insert(path(&query)) {
                queries.push(query);
            }
        }
        Ok(queries)
    }

    fn query(&mut self) -> Result<MovieQuery> {
        let mut place = self.random.u32(0..KINDS.iter().map(|(_, share)| share).sum());
        let mut kind = "";
        for (name, share) in KINDS {
            kind = name;
            if place < share {
                break;
            }
            place -= share;
        }
        // Filters of one query come from one movie, so that something matches.
        let movie = self.movie().clone();
        let mut filters = Filters::default();
        if kind.contains('t') {
            filters.titles.push(self.term(movie["title"].as_str().unwrap_or_default()));
        }
        if kind.contains('a') {
            let name = movie["cast"][0].as_str().unwrap_or("john").to_owned();
            let whole = self.random.bool();
            filters.actors.push(if whole { name } else { self.term(&name) });
        }
        if kind.contains('y') {
            let year = movie["year"].as_i64().context("no year")?;
            let last = if self.random.u8(0..4) == 0 { year + 9 } else { year };
            filters.years.push(Years(year, last));
        }
        if kind.contains('g') {
            filters.genres.push(movie["genres"][0].as_str().unwrap_or("Drama").to_owned());
        }
        let deep = self.random.f64() < DEEP;
        let after = deep.then(|| self.random.i64(1..self.count.max(2) as i64));
        Ok(MovieQuery { filters, sort: Sort::Id, limit: self.random.i64(10..=60), after })
    }

    /// Returns a term of a text: mostly one of its words, else its rarest (the longest), the first one or two
    /// letters, or one in another script.
    fn term(&mut self, text: &str) -> String {
        let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
        let word = *self.random.choice(&words).unwrap_or(&"a");
        match self.random.u8(0..100) {
            0..75 => word.to_owned(),
            75..92 => words.iter().max_by_key(|word| word.len()).unwrap_or(&word).to_string(),
            92..97 => word.chars().take(self.random.usize(1..=2)).collect(),
            _ => NON_LATIN[self.random.usize(0..NON_LATIN.len())].to_owned(),
        }
    }

    fn movie(&mut self) -> &Value {
        let number = self.random.usize(0..self.movies.len());
        &self.movies[number]
    }
}

/// Returns path and query of a request for this page.
pub(super) fn path(query: &MovieQuery) -> String {
    path_with(query, "title", "id")
}

/// Returns path and query of a request that searches for what is a filter of the title otherwise.
fn search_path(query: &MovieQuery) -> String {
    // A page that does not begin at the best match begins among those with all words in their title.
    let order = if query.filters.titles.is_empty() { "id" } else { "score:20" };
    path_with(query, "q", order)
}

/// Returns path and query of a request whose parameter `title` has this name, and its cursor this order.
fn path_with(query: &MovieQuery, title: &str, order: &str) -> String {
    let mut path = format!("/movies?limit={}", query.limit);
    let Filters { titles, actors, genres, years } = &query.filters;
    for (name, values) in [(title, titles), ("actor", actors), ("genre", genres)] {
        for value in values {
            path += &format!("&{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
        }
    }
    for Years(first, last) in years {
        path += &format!("&year={first}..{last}");
    }
    if let Some(id) = query.after {
        path += &format!("&after={}", URL_SAFE_NO_PAD.encode(format!("{order}:{id}")));
    }
    path
}
