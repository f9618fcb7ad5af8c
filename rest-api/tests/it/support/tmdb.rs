//! A stand-in for TMDB, which answers as its documentation says, or as a test tells it
//! (<https://developer.themoviedb.org/reference>).

#![expect(clippy::disallowed_methods, reason = "limits and timeouts do not matter in a test")]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use http::{HeaderMap, StatusCode};
use rest_api::config::{Config, Secret, Tmdb, TmdbToken};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Notify};
use warp::{
    Filter,
    reply::{Reply, Response},
};

/// The token that the stand-in accepts.
pub(crate) const TMDB_TOKEN: &str = "a-token-for-tmdb";

/// How many films a page of a search has.
const PAGE: usize = 20;

/// A film of the stand-in.
#[derive(Clone, Debug)]
pub(crate) struct TmdbFilm {
    pub(crate) id: u64,
    pub(crate) title: String,
    pub(crate) original_title: String,
    pub(crate) year: i32,
    /// Its other titles.
    pub(crate) also: Vec<String>,
    pub(crate) cast: Vec<String>,
    /// What replaces, in the answer to a request for the film, what is there else.
    pub(crate) changes: Value,
}

impl TmdbFilm {
    pub(crate) fn new(id: u64, title: &str, year: i32, cast: &[&str]) -> Self {
        Self {
            id,
            title: title.to_owned(),
            original_title: title.to_owned(),
            year,
            also: Vec::new(),
            cast: cast.iter().map(|name| (*name).to_owned()).collect(),
            changes: json!({}),
        }
    }

    /// Returns whether a search finds it: one of its titles has all words of the text, or the other way round.
    fn is_found_by(&self, text: &str) -> bool {
        let sought = words(text);
        let titles = [&self.title, &self.original_title].into_iter().chain(&self.also);
        titles.map(|title| words(title)).any(|title| {
            let contains =
                |all: &[String], some: &[String]| some.iter().all(|word| all.contains(word));
            contains(&title, &sought)
                || contains(&sought, &title)
                || title.concat() == sought.concat()
        })
    }

    /// Returns what a search says of it.
    fn found(&self) -> Value {
        json!({
            "adult": false, "backdrop_path": null, "genre_ids": [18], "id": self.id,
            "original_language": "en", "original_title": self.original_title, "overview": "",
            "popularity": 1.5, "poster_path": null, "release_date": format!("{}-03-14", self.year),
            "title": self.title, "video": false, "vote_average": 6.1, "vote_count": 12,
        })
    }

    fn details(&self) -> Value {
        let titles: Vec<Value> = self
            .also
            .iter()
            .map(|title| json!({ "iso_3166_1": "US", "title": title, "type": "" }))
            .collect();
        // The order of the credits is another one.
        let cast: Vec<Value> =
            self.cast.iter().rev().map(|name| json!({ "name": name, "id": 1 })).collect();
        let mut details = self.found();
        let more = json!({
            "overview": format!("About {}.", self.title), "runtime": 97, "imdb_id": "tt0123456",
            "poster_path": "/aPoster.jpg", "backdrop_path": "/aBackdrop.jpg",
            "alternative_titles": { "titles": titles },
            "translations": { "translations": [{ "iso_639_1": "en", "data": { "title": "" } }] },
            "credits": { "cast": cast, "crew": [] },
            "external_ids": { "imdb_id": "tt0123456", "wikidata_id": null },
            "videos": { "results": [
                { "site": "YouTube", "type": "Trailer", "key": "a-trailer", "official": true },
            ] },
        });
        for changes in [&more, &self.changes] {
            for (name, value) in changes.as_object().unwrap() {
                details[name] = value.clone();
            }
        }
        details
    }
}

fn words(text: &str) -> Vec<String> {
    rest_api::store::search_key(text).split(' ').map(str::to_owned).collect()
}

/// What the stand-in does with all requests.
#[derive(Clone, Debug)]
pub(crate) enum Behaviour {
    /// It answers.
    Normal,
    /// It answers with this status and body.
    Status(StatusCode, String),
    /// It answers 429, with this `Retry-After`.
    TooMany(&'static str),
    /// It redirects to this address.
    Redirect(String),
    /// It answers after this time.
    Slow(Duration),
    /// It answers when [`Standin::release`] is called.
    Held,
}

/// A request that the stand-in has received.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) at: Instant,
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
}

/// A running stand-in.
#[derive(Clone)]
pub(crate) struct Standin {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

struct State {
    films: Mutex<Vec<TmdbFilm>>,
    behaviour: Mutex<Behaviour>,
    received: Mutex<Vec<Received>>,
    configuration: Mutex<Value>,
    release: Notify,
}

impl Standin {
    /// Starts a stand-in with these films.
    pub(crate) async fn start(films: Vec<TmdbFilm>) -> Self {
        let sizes = ["w92", "w342", "w500", "w780", "w1280", "original"];
        let configuration = json!({
            "images": {
                "base_url": "http://image.tmdb.org/t/p/",
                "secure_base_url": "https://image.tmdb.org/t/p/",
                "poster_sizes": sizes, "backdrop_sizes": sizes,
            },
            "change_keys": ["adult"],
        });
        let state = Arc::new(State {
            films: Mutex::new(films),
            behaviour: Mutex::new(Behaviour::Normal),
            received: Mutex::default(),
            configuration: Mutex::new(configuration),
            release: Notify::new(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let query = warp::query::<Vec<(String, String)>>().or(warp::any().map(Vec::new)).unify();
        let path = warp::path::full().map(|path: warp::path::FullPath| path.as_str().to_owned());
        let for_requests = Arc::clone(&state);
        let routes = warp::get().and(path).and(query).and(warp::header::headers_cloned()).then(
            move |path: String, query, headers: HeaderMap| {
                let state = Arc::clone(&for_requests);
                async move { state.answer(&path, query, &headers).await }
            },
        );
        tokio::spawn(warp::serve(routes).incoming(listener).run());
        Self { address, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/3", self.address)
    }

    /// Lets a service ask this stand-in.
    pub(crate) fn configure(&self, config: &mut Config) {
        self.configure_with(config, TMDB_TOKEN);
    }

    /// Lets a service ask this stand-in, with another token.
    pub(crate) fn configure_with(&self, config: &mut Config, token: &str) {
        let token = TmdbToken::Fixed(Secret::new(token));
        config.tmdb = Some(Tmdb { url: self.url(), token });
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        *self.state.behaviour.lock().unwrap() = behaviour;
    }

    pub(crate) fn set_films(&self, films: Vec<TmdbFilm>) {
        *self.state.films.lock().unwrap() = films;
    }

    pub(crate) fn set_configuration(&self, configuration: Value) {
        *self.state.configuration.lock().unwrap() = configuration;
    }

    /// Lets the requests go that are held.
    pub(crate) fn release(&self) {
        self.behave(Behaviour::Normal);
        self.state.release.notify_waiters();
    }

    /// Returns the requests so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    /// Returns how many requests there were so far.
    pub(crate) fn count(&self) -> usize {
        self.state.received.lock().unwrap().len()
    }
}

impl State {
    async fn answer(
        &self,
        path: &str,
        query: Vec<(String, String)>,
        headers: &HeaderMap,
    ) -> Response {
        let received = Received { at: Instant::now(), path: path.to_owned(), query: query.clone() };
        self.received.lock().unwrap().push(received);
        let released = self.release.notified();
        let behaviour = self.behaviour.lock().unwrap().clone();
        match behaviour {
            Behaviour::Normal => {}
            Behaviour::Status(status, body) => {
                return warp::reply::with_status(body, status).into_response();
            }
            Behaviour::TooMany(after) => {
                let body = json!({ "status_code": 25, "status_message": "Your request count is over the allowed limit." });
                let reply = warp::reply::with_status(
                    warp::reply::json(&body),
                    StatusCode::TOO_MANY_REQUESTS,
                );
                return warp::reply::with_header(reply, "retry-after", after).into_response();
            }
            Behaviour::Redirect(to) => {
                let reply = warp::reply::with_status("", StatusCode::FOUND);
                return warp::reply::with_header(reply, "location", to).into_response();
            }
            Behaviour::Slow(time) => tokio::time::sleep(time).await,
            Behaviour::Held => released.await,
        }
        let token = headers.get("authorization").map(|value| value.to_str().unwrap());
        if token != Some(&format!("Bearer {TMDB_TOKEN}")) {
            return failure(
                StatusCode::UNAUTHORIZED,
                7,
                "Invalid API key: You must be granted a valid key.",
            );
        }
        let value = |name: &str| {
            query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
        };
        match path.strip_prefix("/3/") {
            Some("configuration") => {
                warp::reply::json(&*self.configuration.lock().unwrap()).into_response()
            }
            Some("search/movie") => {
                let year = value("primary_release_year").and_then(|year| year.parse::<i32>().ok());
                self.search(value("query").unwrap(), year)
            }
            Some(film) => self.film(film, value("append_to_response")),
            None => {
                failure(StatusCode::NOT_FOUND, 34, "The resource you requested could not be found.")
            }
        }
    }

    fn search(&self, text: &str, year: Option<i32>) -> Response {
        let films = self.films.lock().unwrap();
        let found = films
            .iter()
            .filter(|film| film.is_found_by(text) && year.is_none_or(|year| year == film.year));
        // Those that were added last first: what is sought is seldom at the top.
        let mut results: Vec<Value> = found.map(TmdbFilm::found).collect();
        results.reverse();
        let total = results.len();
        results.truncate(PAGE);
        let page = json!({ "page": 1, "results": results, "total_pages": total.div_ceil(PAGE), "total_results": total });
        warp::reply::json(&page).into_response()
    }

    fn film(&self, path: &str, appended: Option<&str>) -> Response {
        let id = path.strip_prefix("movie/").and_then(|id| id.parse::<u64>().ok());
        let films = self.films.lock().unwrap();
        let Some(film) = films.iter().find(|film| Some(film.id) == id) else {
            return failure(
                StatusCode::NOT_FOUND,
                34,
                "The resource you requested could not be found.",
            );
        };
        let mut details = film.details();
        let appended: Vec<&str> = appended.unwrap_or_default().split(',').collect();
        for name in ["alternative_titles", "translations", "credits", "external_ids", "videos"] {
            if !appended.contains(&name) {
                details.as_object_mut().unwrap().remove(name);
            }
        }
        warp::reply::json(&details).into_response()
    }
}

/// Returns an error as TMDB gives it.
fn failure(status: StatusCode, code: u32, message: &str) -> Response {
    let body = json!({ "status_code": code, "status_message": message, "success": false });
    warp::reply::with_status(warp::reply::json(&body), status).into_response()
}
