//! Movies, and files of them.

use std::ops::Range;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::Service;

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

/// Posts movies, and then enlarges each in the database by an extract of `bytes` bytes, which may be
/// more than the schema allows.
pub(crate) async fn insert_large(service: &Service, count: u32, bytes: usize) {
    let movies = json!(numbered_movies("Large", 0..count, "Drama"));
    let response = service.send(service.post("/movies", movies.to_string())).await;
    assert_eq!(response.status, StatusCode::CREATED, "{}", response.text);
    let enlarge =
        "update movies set doc = rtrim(doc, '}') || ',\"extract\":\"' || repeat('x', $1) || '\"}'";
    let bytes = i32::try_from(bytes).unwrap();
    assert_eq!(service.sql().await.execute(enlarge, &[&bytes]).await.unwrap(), u64::from(count));
}
