//! What is measured with.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use fastrand::Rng;
use serde_json::{Value, json};

/// A file of movies as NDJSON, and the same with one movie in a hundred changed.
pub(crate) struct File {
    pub(crate) movies: Vec<String>,
    pub(crate) changed: Vec<String>,
}

/// The movies of every JSON array in `folder`.
pub(crate) fn read(folder: &Path) -> Result<File> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths: Vec<_> =
        entries.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    let mut movies: Vec<Value> = Vec::new();
    for path in paths {
        let file = fs::read(&path)?;
        movies.extend(
            serde_json::from_slice::<Vec<Value>>(&file)
                .with_context(|| path.display().to_string())?,
        );
    }
    Ok(file(movies.into_iter()))
}

/// `count` movies of the size and the repetition of real ones: some 3 cast members, most of whom
/// play in several, one or two genres, a title of one to four words, an extract.
pub(crate) fn synthetic(count: usize) -> File {
    let mut random = Rng::with_seed(2026);
    let words = vocabulary(&mut random, 20_000);
    let pick = move |random: &mut Rng| {
        // Some words are far more common than others, as in any language.
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
    file(movies)
}

fn vocabulary(random: &mut Rng, count: usize) -> Vec<String> {
    let syllables = ["ka", "ro", "mi", "ten", "la", "su", "der", "no", "vi", "an", "go", "es"];
    let mut word = || -> String {
        (0..random.usize(1..5)).map(|_| syllables[random.usize(0..syllables.len())]).collect()
    };
    (0..count).map(|_| word()).collect()
}

fn file(movies: impl Iterator<Item = Value>) -> File {
    let (mut plain, mut changed) = (Vec::new(), Vec::new());
    for (number, mut movie) in movies.enumerate() {
        plain.push(movie.to_string());
        let changes = number % 100 == 7;
        if let Some(cast) = movie["cast"].as_array_mut().filter(|_| changes) {
            cast.push(json!("One More"));
        }
        changed.push(movie.to_string());
    }
    File { movies: plain, changed }
}
