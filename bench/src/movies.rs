//! The movies that the benchmarks ingest.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use fastrand::Rng;
use schema::Movie;
use serde_json::{Value, json};

/// The number of rows in a batch, about as in the service.
pub(crate) const BATCH: usize = 5_000;

/// Two versions of a file. Each string is one movie as JSON.
pub(crate) struct File {
    pub(crate) movies: Vec<String>,
    /// The same movies, with an additional cast member in one of a hundred.
    pub(crate) changed: Vec<String>,
}

/// Returns the valid movie in `json`.
pub(crate) fn parse(json: &str) -> Option<Movie> {
    schema::parse(json.as_bytes()).ok()
}

/// Reads the movies of every JSON array in `directory`.
pub(crate) fn read(directory: &Path) -> Result<File> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut paths: Vec<_> =
        entries.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    let mut movies: Vec<Value> = Vec::new();
    for path in paths {
        let file = fs::read(&path)?;
        movies.extend(
            serde_json::from_slice::<Vec<Value>>(&file)
                .with_context(|| format!("{} is not a JSON array", path.display()))?,
        );
    }
    Ok(with_changes(movies.into_iter()))
}

/// Generates `count` movies that resemble real ones in size and repetition: about three cast
/// members, most of whom occur in several movies; one or two genres; a title of one to four words;
/// an extract.
pub(crate) fn synthetic(count: usize) -> File {
    let mut random = Rng::with_seed(2026);
    let words = vocabulary(&mut random, 20_000);
    let pick = move |random: &mut Rng| {
        // As in a language, some words are far more common than others.
        let rank = random.f64().powi(3) * words.len() as f64;
        words[rank as usize % words.len()].clone()
    };
    let movies = (0..count).map(move |number| {
        let text = |words: usize, random: &mut Rng| {
            (0..words).map(|_| pick(random)).collect::<Vec<_>>().join(" ")
        };
        let random = &mut Rng::with_seed(number as u64);
        let cast: Vec<String> = (0..random.usize(1..6)).map(|_| text(2, random)).collect();
        let genres = ["Drama", "Comedy", "Western", "Horror", "Crime", "Documentary", "Animated"];
        let genres: Vec<_> =
            (0..random.usize(1..3)).map(|_| genres[random.usize(0..genres.len())]).collect();
        json!({
            "title": text(random.usize(1..5), random), "year": random.u32(1900..2026),
            "cast": cast, "genres": genres, "href": format!("{number}"),
            "extract": text(20, random),
        })
    });
    with_changes(movies)
}

/// Generates `count` movies of the words of `movies`, which are as common as there: titles of as many words,
/// names of a first and a last name. One word of twenty is made of parts of two.
pub(crate) fn recombined(movies: &[String], count: usize) -> Result<Vec<String>> {
    let (mut words, mut lengths, mut names) = (Vec::new(), Vec::new(), Vec::new());
    let mut casts = Vec::new();
    for movie in movies {
        let movie: Value = serde_json::from_str(movie)?;
        let title: Vec<&str> = movie["title"].as_str().unwrap_or_default().split(' ').collect();
        lengths.push(title.len());
        words.extend(title.into_iter().map(str::to_owned));
        let cast = movie["cast"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let cast: Vec<&str> = cast.collect();
        casts.push(cast.len());
        names.extend(cast.into_iter().filter_map(|name| {
            let (first, last) = name.split_once(' ')?;
            Some((first.to_owned(), last.to_owned()))
        }));
    }
    let genres = ["Drama", "Comedy", "Western", "Horror", "Crime", "Documentary", "Animated"];
    let movie = |number| {
        let random = &mut Rng::with_seed(number);
        let any = |texts: &[String], random: &mut Rng| texts[random.usize(..texts.len())].clone();
        let half = |text: String, is_first| {
            let middle = text.chars().count().div_ceil(2);
            let half: String = if is_first {
                text.chars().take(middle).collect()
            } else {
                text.chars().skip(middle).collect()
            };
            half
        };
        let word = |random: &mut Rng| match random.u8(..20) {
            0 => half(any(&words, random), true) + &half(any(&words, random), false).to_lowercase(),
            _ => any(&words, random),
        };
        let length = lengths[random.usize(..lengths.len())];
        let title: Vec<String> = (0..length).map(|_| word(random)).collect();
        let name = |random: &mut Rng| {
            let (first, last) = (random.usize(..names.len()), random.usize(..names.len()));
            format!("{} {}", names[first].0, names[last].1)
        };
        let cast: Vec<String> =
            (0..casts[random.usize(..casts.len())]).map(|_| name(random)).collect();
        let genre = genres[random.usize(..genres.len())];
        json!({
            "title": title.join(" "), "year": random.u32(1900..2026), "cast": cast,
            "genres": [genre], "href": number.to_string(),
            "extract": (0..20).map(|_| word(random)).collect::<Vec<_>>().join(" "),
        })
        .to_string()
    };
    Ok((0..count as u64).map(movie).collect())
}

fn vocabulary(random: &mut Rng, count: usize) -> Vec<String> {
    let syllables = ["ka", "ro", "mi", "ten", "la", "su", "der", "no", "vi", "an", "go", "es"];
    let mut word = || -> String {
        (0..random.usize(1..5)).map(|_| syllables[random.usize(0..syllables.len())]).collect()
    };
    (0..count).map(|_| word()).collect()
}

/// Returns the two versions of a file with `movies`.
fn with_changes(movies: impl Iterator<Item = Value>) -> File {
    let (mut original, mut changed) = (Vec::new(), Vec::new());
    for (number, mut movie) in movies.enumerate() {
        original.push(movie.to_string());
        let is_changed = number % 100 == 7;
        if let Some(cast) = movie["cast"].as_array_mut().filter(|_| is_changed) {
            cast.push(json!("One More"));
        }
        changed.push(movie.to_string());
    }
    File { movies: original, changed }
}
