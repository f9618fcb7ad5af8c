//! Measures search: whether what was meant is among the first ten results, and how long it takes, also to count all
//! results.
//!
//! Typing errors come from a seed. A query is never repeated, so no answer comes from the cache.

use std::{
    collections::HashSet,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use fastrand::Rng;
use serde_json::{Value, json};

use crate::{
    files,
    growth::environment::Environment,
    movies,
    report::{Figures, SearchTarget as Target, text},
    stack::BUCKET,
};

/// The number of queries of each kind.
const QUERIES: usize = 300;

/// The shortest title or name that gets typing errors, in letters.
const MIN_LETTERS: usize = 8;

/// The shortest word that gets one of two typing errors, in letters.
const MIN_WORD: usize = 4;

/// The longest time of any query.
const MAX_TIME: Duration = Duration::from_millis(500);

/// The longest time to count the results of any query: that of its statement.
const MAX_COUNT: Duration = Duration::from_millis(3500);

/// Of so many queries of a kind the results are counted.
const COUNTED: usize = 30;

/// A query, and what one of its first ten results must have.
struct Query {
    text: String,
    meant: Meant,
}

/// A name, the queries, and the share of hits that they must reach.
type Kind = (&'static str, Vec<Query>, Option<f64>);

enum Meant {
    Title(String),
    Name(String),
    Anything,
}

/// Measures search in the movies of `data` and in `synthetic` movies made of their words.
pub(crate) async fn measure(data: &Path, synthetic: usize) -> Result<()> {
    let directory = std::env::temp_dir().join(format!("mru-bench-{}", std::process::id()));
    let environment = Environment::start(&directory).await?;
    let mut figures = Figures::default();
    figures.condition(format!("One client; {}", environment.durability().await?));
    let real = movies::read(data)?.movies;
    let ms = Duration::from_millis;
    let outcome = async {
        run(&environment, "real", &real, (ms(3), ms(12)), &mut figures).await?;
        let large = movies::recombined(&real, synthetic)?;
        run(&environment, "synthetic", &large, (ms(8), ms(60)), &mut figures).await
    };
    let outcome = outcome.await;
    environment.stop().await;
    std::fs::remove_dir_all(&directory)?;
    figures.print();
    outcome
}

async fn run(
    environment: &Environment,
    name: &str,
    movies: &[String],
    (p50, p99): (Duration, Duration),
    figures: &mut Figures,
) -> Result<()> {
    let part = environment.create(&format!("search_{name}")).await?;
    files::put(&environment.s3, BUCKET, name, movies.join("\n").into_bytes()).await?;
    let service = environment.service(&part).await?;
    let notification = json!({ "bucket": BUCKET, "key": name, "sequencer": "01" });
    let loaded = service.ingest(&notification).await?;
    for statement in ["vacuum (analyze) movies", "vacuum (analyze) words", "checkpoint"] {
        part.sql.batch_execute(statement).await?;
    }
    let size = "select format('%s movies, %s words; terms %s, titles %s, corrections %s',
            (select count(*) from movies), (select count(*) from words),
            pg_size_pretty(pg_relation_size('movies_terms')),
            pg_size_pretty(pg_relation_size('movies_by_title_key')),
            pg_size_pretty(pg_total_relation_size('words')))";
    let size: String = part.sql.query_one(size, &[]).await?.get(0);
    figures.state(&format!("{name}: {size}"), &format!("loaded in {}", text(loaded)));
    let mut counted = Vec::new();
    for (kind, queries, hits) in kinds(movies)? {
        let mut times = Vec::new();
        let mut found = 0;
        for query in &queries {
            let path = path("/movies", &[("q", query.text.as_str()), ("limit", "10")])?;
            let started = Instant::now();
            let response = service.get(&path).await?;
            times.push(started.elapsed());
            found += usize::from(query.meant.is_in(&response.body));
        }
        for query in queries.iter().take(COUNTED) {
            let path = path("/genres", &[("q", query.text.as_str())])?;
            let started = Instant::now();
            service.get(&path).await?;
            counted.push((started.elapsed(), query.text.clone()));
        }
        let share = found as f64 / queries.len() as f64;
        let target = Target { hits, p50, p99, longest: MAX_TIME };
        figures.search(&format!("{name}: {kind}"), share, &times, target)?;
    }
    let times: Vec<Duration> = counted.iter().map(|(time, _)| *time).collect();
    figures.percentiles(&format!("{name}: genres of all results"), &times, None, None)?;
    let (longest, text) = counted.iter().max().context("nothing was counted")?;
    let longest_name = format!("{name}: genres of all results, the longest ({text})");
    figures.duration(&longest_name, *longest, MAX_COUNT);
    service.stop().await
}

/// Returns the path and the query of a request.
fn path(path: &str, parameters: &[(&str, &str)]) -> Result<String> {
    let url = reqwest::Url::parse_with_params("http://localhost", parameters)?;
    Ok(format!("{path}?{}", url.query().unwrap_or_default()))
}

impl Meant {
    /// Whether one of the movies has it.
    fn is_in(&self, movies: &Value) -> bool {
        let mut movies = movies.as_array().into_iter().flatten();
        match self {
            Self::Title(title) => movies.any(|movie| same(movie["title"].as_str(), title)),
            Self::Name(name) => movies.any(|movie| {
                let mut cast = movie["cast"].as_array().into_iter().flatten();
                cast.any(|known| same(known.as_str(), name))
            }),
            Self::Anything => true,
        }
    }
}

fn same(found: Option<&str>, meant: &str) -> bool {
    found.is_some_and(|found| found.to_lowercase() == meant.to_lowercase())
}

/// Returns the kinds of queries, each with its queries and the share of hits that it must reach.
fn kinds(movies: &[String]) -> Result<Vec<Kind>> {
    let random = &mut Rng::with_seed(20_261_127);
    let mut titles = Vec::new();
    let mut names = Vec::new();
    for _ in 0..20 * QUERIES {
        let movie = movies.get(random.usize(..movies.len())).context("no movies")?;
        let movie: Value = serde_json::from_str(movie)?;
        titles.extend(movie["title"].as_str().map(str::to_owned));
        let cast = movie["cast"].as_array().cloned().unwrap_or_default();
        names.extend(random.choice(cast).and_then(|name| Some(name.as_str()?.to_owned())));
    }
    let is_long = |text: &&String| letters(text).len() >= MIN_LETTERS;
    let titles: Vec<String> = titles.iter().filter(is_long).cloned().collect();
    let names: Vec<String> = names.iter().filter(is_long).cloned().collect();
    let mut kind = |texts: &[String],
                    meant: fn(String) -> Meant,
                    change: fn(&str, &mut Rng) -> Option<String>| {
        let mut asked = HashSet::new();
        let queries = texts.iter().filter_map(|text| {
            let query = change(text, random).filter(|query| asked.insert(query.clone()))?;
            Some(Query { text: query, meant: meant(text.clone()) })
        });
        queries.take(QUERIES).collect::<Vec<_>>()
    };
    let anything = |_| Meant::Anything;
    Ok(vec![
        ("title", kind(&titles, Meant::Title, |text, _| Some(text.to_owned())), Some(1.0)),
        ("title, one typo", kind(&titles, Meant::Title, one_error), Some(0.98)),
        (
            "title, one typo in each of two words",
            kind(&titles, Meant::Title, two_errors),
            Some(0.97),
        ),
        ("title, two typos anywhere", kind(&titles, Meant::Title, two_errors_anywhere), None),
        ("name", kind(&names, Meant::Name, |text, _| Some(text.to_owned())), Some(1.0)),
        ("name, one typo", kind(&names, Meant::Name, one_error), Some(0.98)),
        ("name, one typo in each of two words", kind(&names, Meant::Name, two_errors), Some(0.97)),
        ("the beginning of a title", kind(&titles, anything, beginning), None),
        ("one word of a title", kind(&titles, anything, one_word), None),
        (
            "one word of each of two titles",
            kind(&titles, anything, |text, _| {
                let words: Vec<&str> = text.split(' ').collect();
                Some(format!("{} {}", words.first()?, words.last()?))
            }),
            None,
        ),
        (
            "nonsense",
            kind(&titles, anything, |_, random| {
                Some((0..random.usize(5..12)).map(|_| random.lowercase()).collect())
            }),
            None,
        ),
        (
            "one letter, two letters, an emoji, punctuation",
            kind(&titles, anything, |_, random| {
                Some(match random.u8(..4) {
                    0 => random.lowercase().to_string(),
                    1 => format!("{}{}", random.lowercase(), random.lowercase()),
                    2 => char::from_u32(0x1f300 + random.u32(..400))?.to_string(),
                    _ => "%_'\\?".chars().take(random.usize(1..5)).collect(),
                })
            }),
            None,
        ),
        (
            "the most common words",
            ["the", "of", "a", "and", "the of", "of the", "a the", "man", "love"]
                .map(|text| Query { text: text.to_owned(), meant: Meant::Anything })
                .into(),
            None,
        ),
        (
            "250 characters",
            kind(&titles, anything, |text, _| {
                Some(format!("{text} ").repeat(30).chars().take(250).collect())
            }),
            None,
        ),
    ])
}

/// Returns the positions of the letters of a text.
fn letters(text: &str) -> Vec<usize> {
    let letters = text.chars().enumerate().filter(|(_, c)| c.is_alphabetic());
    letters.map(|(position, _)| position).collect()
}

/// Makes one typing error at the character at `position`.
fn error_at(text: &str, position: usize, random: &mut Rng) -> String {
    let mut text: Vec<char> = text.chars().collect();
    let next_is_letter = text.get(position + 1).is_some_and(|c| c.is_alphabetic());
    match random.u8(..4) {
        0 => text.insert(position, random.lowercase()),
        1 => drop(text.remove(position)),
        2 if next_is_letter => text.swap(position, position + 1),
        _ => text[position] = random.lowercase(),
    }
    text.into_iter().collect()
}

/// Makes one typing error. None if the text has no letter.
pub(crate) fn one_error(text: &str, random: &mut Rng) -> Option<String> {
    let position = random.choice(letters(text))?;
    Some(error_at(text, position, random))
}

fn two_errors_anywhere(text: &str, random: &mut Rng) -> Option<String> {
    one_error(&one_error(text, random)?, random)
}

/// Makes one typing error in each of two words.
fn two_errors(text: &str, random: &mut Rng) -> Option<String> {
    let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    let mut long: Vec<usize> =
        (0..words.len()).filter(|at| letters(&words[*at]).len() >= MIN_WORD).collect();
    random.shuffle(&mut long);
    let [first, second, ..] = long[..] else { return None };
    for at in [first, second] {
        words[at] = one_error(&words[at], random)?;
    }
    Some(words.join(" "))
}

fn beginning(text: &str, random: &mut Rng) -> Option<String> {
    let length = random.usize(3..MIN_LETTERS);
    Some(text.chars().take(length).collect())
}

fn one_word(text: &str, random: &mut Rng) -> Option<String> {
    random.choice(text.split(' ').map(str::to_owned).collect::<Vec<_>>())
}
