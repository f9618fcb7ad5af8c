//! Movies, and files of them.

use std::ops::Range;

use serde_json::{Value, json};

/// A file with one movie.
pub(crate) const MOVIE: &str = r#"{"title":"A","year":2000}"#;

/// Returns a movie as the API returns it, without its id.
pub(crate) fn movie(title: &str, genre: &str) -> Value {
    json!({ "title": title, "year": 2000, "cast": [], "genres": [genre] })
}

/// Returns a movie whose cast has `names` names of a thousand bytes each.
pub(crate) fn large_movie(title: &str, names: usize) -> Value {
    json!({ "title": title, "year": 2000, "cast": vec!["x".repeat(1000); names], "genres": [] })
}

/// Returns the movies "`prefix` N" of one genre.
pub(crate) fn numbered_movies(prefix: &str, range: Range<u32>, genre: &str) -> Vec<Value> {
    range.map(|number| movie(&format!("{prefix} {number}"), genre)).collect()
}

/// Returns a file with one movie a line.
pub(crate) fn ndjson(movies: &[Value]) -> String {
    movies.iter().map(|movie| format!("{movie}\n")).collect()
}

/// Returns a movie of the API without its id.
pub(crate) fn without_id(movie: &Value) -> Value {
    let mut movie = movie.clone();
    movie.as_object_mut().unwrap().remove("id").unwrap();
    movie
}
