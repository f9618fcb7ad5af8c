//! Which film a movie is: judged on some hundred real movies and films, many of which are easily taken for each other.
//!
//! `details/movies.jsonl` has titles, years and names. Each line is a film that TMDB has, or a movie of the catalogue,
//! or both: then the film is what is to be found. A movie without `film` is a film with the same facts; one whose `film`
//! is null is not at TMDB. The stand-in for TMDB gives the films numbers of its own.

use std::collections::BTreeMap;

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::{
    Service,
    process::{Output, environment, program},
    tmdb::{Standin, TMDB_TOKEN, TmdbFilm},
};

#[derive(Deserialize)]
struct Line {
    movie: Option<String>,
    year: Option<i32>,
    #[serde(default)]
    cast: Vec<String>,
    /// None if it is not there; null if there is no film.
    #[serde(default, deserialize_with = "some")]
    film: Option<Value>,
}

#[derive(Deserialize)]
struct Film {
    title: String,
    original: Option<String>,
    year: i32,
    #[serde(default)]
    also: Vec<String>,
    cast: Vec<String>,
}

fn some<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// A movie of the catalogue, and the number of the film that it is.
struct Expected {
    movie: Value,
    film: Option<u64>,
}

fn facts() -> (Vec<Expected>, Vec<TmdbFilm>) {
    let (mut movies, mut films) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(include_str!("details/movies.jsonl").lines()) {
        let Line { movie, year, cast, film } = serde_json::from_str(line).unwrap();
        let film: Option<Film> = match (film, &movie) {
            (Some(film), _) => serde_json::from_value(film).unwrap(),
            (None, Some(title)) => {
                let (title, cast) = (title.clone(), cast.clone());
                Some(Film { title, original: None, year: year.unwrap(), also: Vec::new(), cast })
            }
            (None, None) => panic!("line {number} has nothing"),
        };
        if let Some(title) = movie {
            // The href tells movies of the same title and year apart.
            let movie =
                json!({ "title": title, "year": year, "cast": cast, "href": number.to_string() });
            movies.push(Expected { movie, film: film.as_ref().map(|_| number) });
        }
        if let Some(Film { title, original, year, also, cast }) = film {
            let original_title = original.unwrap_or_else(|| title.clone());
            films.push(TmdbFilm {
                id: number,
                title,
                original_title,
                year,
                also,
                cast,
                changes: json!({}),
            });
        }
    }
    (movies, films)
}

/// Returns the films that are found for these movies, when TMDB has these films. All are asked about in advance.
async fn matches(movies: &[Expected], films: Vec<TmdbFilm>) -> Vec<Option<u64>> {
    let tmdb = Standin::start(films).await;
    let service = Service::builder().config(|config| tmdb.configure(config)).start().await;
    let body: Vec<&Value> = movies.iter().map(|expected| &expected.movie).collect();
    let posted = service.send(service.post("/movies", json!(body).to_string())).await;
    assert_eq!(posted.status, StatusCode::CREATED, "{}", posted.text);
    let mut environment = environment(&service);
    environment.insert("MRU_TMDB_TOKEN", TMDB_TOKEN.to_owned());
    environment.insert("MRU_TMDB_URL", tmdb.url());
    let mut program = program("enrich");
    program.envs(environment);
    let output = Output::of(program, &["--json"]).await;
    assert_eq!(output.status, 0, "{output:?}");
    let filled = output.json_lines().remove(0);
    assert_eq!((&filled["asked"], &filled["unusable"]), (&json!(movies.len()), &json!(0)));

    let href = |movie: &Value| movie["href"].as_str().unwrap().to_owned();
    let ids: BTreeMap<String, Value> =
        service.movies("").await.iter().map(|movie| (href(movie), movie["id"].clone())).collect();
    let count = tmdb.count();
    let mut matches = Vec::new();
    for expected in movies {
        let id = &ids[&href(&expected.movie)];
        let details = service.get(&format!("/movies/{id}/details")).await;
        let is_none =
            details.status == StatusCode::NOT_FOUND && details.json()["code"] == "no_details";
        assert!(is_none || details.status == StatusCode::OK, "{}", details.text);
        matches.push(details.json()["tmdb_id"].as_u64());
    }
    assert_eq!(tmdb.count(), count, "something was not kept");
    matches
}

/// Judges matches. Returns how many films were found, and how many movies have one.
fn judge(movies: &[Expected], matches: &[Option<u64>]) -> (usize, usize) {
    let (mut found, mut all) = (0, 0);
    let mut wrong = Vec::new();
    for (expected, matched) in movies.iter().zip(matches) {
        all += usize::from(expected.film.is_some());
        match matched {
            Some(_) if *matched == expected.film => found += 1,
            Some(film) => {
                wrong.push(format!("{} is taken for the film of line {film}", expected.movie))
            }
            None if expected.film.is_some() => eprintln!("not found: {}", expected.movie),
            None => {}
        }
    }
    let none = movies.len() - all;
    eprintln!("{all} movies with a film, {none} without: {found} found, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    (found, all)
}

#[tokio::test]
async fn no_movie_is_taken_for_another_film_and_nine_of_ten_are_found() {
    let (movies, films) = facts();
    let (found, all) = judge(&movies, &matches(&movies, films).await);
    assert!(all >= 200 && found * 10 >= all * 9, "{found} of {all} found");
}

/// The film that each movie is, is not at TMDB: then any match is a wrong one.
#[tokio::test]
async fn nothing_is_found_instead_of_a_film_that_is_not_there() {
    let (mut movies, films) = facts();
    // Those that were made several times, or have a double: what is left could be taken for what is missing.
    let mut missing = Vec::new();
    for expected in &mut movies {
        let number = expected.film.take();
        let same = |film: &&TmdbFilm| Some(film.id) == number;
        let film = films.iter().find(same);
        let has_double = film.is_some_and(|film| {
            let is_double = |other: &&TmdbFilm| other.id != film.id && other.title == film.title;
            films.iter().any(|other| is_double(&other))
        });
        if has_double {
            missing.extend(number);
        }
    }
    // Each second one, so that its doubles are there.
    let missing: Vec<u64> = missing.into_iter().step_by(2).collect();
    assert!(missing.len() > 80, "{}", missing.len());
    let left: Vec<TmdbFilm> =
        films.iter().filter(|film| !missing.contains(&film.id)).cloned().collect();
    let href =
        |expected: &Expected| expected.movie["href"].as_str().unwrap().parse::<u64>().unwrap();
    movies.retain(|expected| missing.contains(&href(expected)));
    judge(&movies, &matches(&movies, left).await);
}
