//! The client of TMDB (<https://developer.themoviedb.org/reference>): every request waits for its turn, and every answer
//! is bounded.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use reqwest::Client;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error},
};
use serde_json::Value;
use tracing::warn;

use crate::{
    fetch,
    metrics::{Metrics, TmdbAnswer},
    store::{Store, StoreError, Turn},
    telemetry::chain,
    terminal::excerpt,
};

/// The time between two requests of all replicas. TMDB allows about 40 a second: what is late on its way must not come
/// together with what follows.
const APART: Duration = Duration::from_millis(30);

/// How long a request waits for its turn.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The largest answer, in bytes: a film with all its names has some hundreds of KiB.
const MAX_ANSWER: usize = 2 << 20;

/// After so many failures one after another TMDB is taken to be down. Fewer are the fault of one film.
const FAILURES: u32 = 3;

/// The most characters of an error that are shown.
const MAX_SHOWN: usize = 200;

/// For how long nobody asks when TMDB does not answer, or says "too many" without a time.
const PAUSE: Duration = Duration::from_secs(10);

/// The longest pause that TMDB may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);

/// What is appended to a film, so that it takes one request.
const APPENDED: &str = "alternative_titles,credits,external_ids,translations,videos";

/// A client of TMDB.
pub(super) struct Tmdb {
    store: Store,
    metrics: Arc<Metrics>,
    http: Client,
    url: String,
    token: HeaderValue,
    /// How many requests have failed since the last answer.
    failures: AtomicU32,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// The token does not hold.
    #[error("TMDB refuses the token: status {0}")]
    Refused(StatusCode),
    /// Not now: others have the next turns, or TMDB is given a pause.
    #[error("TMDB is not asked for {0:?}")]
    Later(Duration),
    /// TMDB says that these are too many requests.
    #[error("TMDB asks for a pause of {0:?}")]
    TooMany(Duration),
    /// TMDB cannot be reached, or is in trouble.
    #[error("TMDB does not answer")]
    Down(#[source] reqwest::Error),
    #[error("TMDB is in trouble: status {0}")]
    Trouble(StatusCode),
    /// The answer to this request is of no use.
    #[error("the answer of TMDB is of no use: {0}")]
    Unusable(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The first page of a search.
#[derive(Debug, Deserialize)]
pub(super) struct Found {
    #[serde(deserialize_with = "usable")]
    pub(super) results: Vec<FoundFilm>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) total_pages: u32,
}

/// A film that a search has found.
#[derive(Debug, Deserialize)]
pub(super) struct FoundFilm {
    pub(super) id: u64,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) title: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) original_title: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) release_date: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) adult: bool,
}

/// A film, with what is appended to it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TmdbFilm {
    pub(super) id: u64,
    #[serde(deserialize_with = "or_default")]
    pub(super) title: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) original_title: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) release_date: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) overview: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) runtime: Option<u32>,
    #[serde(deserialize_with = "or_default")]
    pub(super) vote_average: Option<f64>,
    #[serde(deserialize_with = "or_default")]
    pub(super) vote_count: Option<u64>,
    #[serde(deserialize_with = "or_default")]
    pub(super) poster_path: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) backdrop_path: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) imdb_id: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) adult: bool,
    #[serde(deserialize_with = "or_default")]
    pub(super) alternative_titles: AlternativeTitles,
    #[serde(deserialize_with = "or_default")]
    pub(super) translations: Translations,
    #[serde(deserialize_with = "or_default")]
    pub(super) credits: Credits,
    #[serde(deserialize_with = "or_default")]
    pub(super) external_ids: ExternalIds,
    #[serde(deserialize_with = "or_default")]
    pub(super) videos: Videos,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AlternativeTitles {
    #[serde(deserialize_with = "usable")]
    pub(super) titles: Vec<AlternativeTitle>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AlternativeTitle {
    #[serde(deserialize_with = "or_default")]
    pub(super) title: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Translations {
    #[serde(deserialize_with = "usable")]
    pub(super) translations: Vec<Translation>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Translation {
    #[serde(deserialize_with = "or_default")]
    pub(super) data: AlternativeTitle,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Credits {
    #[serde(deserialize_with = "usable")]
    pub(super) cast: Vec<Credit>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Credit {
    #[serde(deserialize_with = "or_default")]
    pub(super) name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ExternalIds {
    #[serde(deserialize_with = "or_default")]
    pub(super) imdb_id: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Videos {
    #[serde(deserialize_with = "usable")]
    pub(super) results: Vec<Video>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Video {
    #[serde(deserialize_with = "or_default")]
    pub(super) site: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) key: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) r#type: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) official: bool,
}

/// Returns a value, or the default of its type if it is null or of another type: what one property says is not worth
/// the whole answer.
fn or_default<'de, D: Deserializer<'de>, T: Default + DeserializeOwned>(
    deserializer: D,
) -> Result<T, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

/// Returns the values of a list that are of use. It is an error if none of them is.
fn usable<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let values: Option<Vec<Value>> = Deserialize::deserialize(deserializer)?;
    let values = values.unwrap_or_default();
    let is_empty = values.is_empty();
    let usable = values.into_iter().filter_map(|value| serde_json::from_value(value).ok());
    let usable: Vec<T> = usable.collect();
    if usable.is_empty() && !is_empty {
        return Err(D::Error::custom("nothing in a list is of use"));
    }
    Ok(usable)
}

/// Where images are, and in which sizes.
#[derive(Debug, Deserialize)]
pub(super) struct Configuration {
    pub(super) images: ImageConfiguration,
}

#[derive(Debug, Deserialize)]
pub(super) struct ImageConfiguration {
    pub(super) secure_base_url: String,
    #[serde(default)]
    pub(super) poster_sizes: Vec<String>,
    #[serde(default)]
    pub(super) backdrop_sizes: Vec<String>,
}

impl Tmdb {
    /// Returns a client that sends `token` with each request.
    ///
    /// # Errors
    /// If the root certificates cannot be loaded.
    pub(super) fn new(
        store: Store,
        metrics: Arc<Metrics>,
        url: String,
        mut token: HeaderValue,
    ) -> Result<Self, reqwest::Error> {
        token.set_sensitive(true);
        let (http, failures) = (fetch::client(TIMEOUT)?, AtomicU32::new(0));
        Ok(Self { store, metrics, http, url, token, failures })
    }

    /// Returns the first page of the films of a year that fit a title. TMDB also compares alternative and translated
    /// titles, and forgives much.
    ///
    /// # Errors
    /// If there is no answer.
    pub(super) async fn search(&self, title: &str, year: i32) -> Result<Found, AskError> {
        let year = year.to_string();
        let query = [
            ("query", title),
            ("primary_release_year", &year),
            ("include_adult", "false"),
            ("language", "en-US"),
            ("page", "1"),
        ];
        let found: Option<Found> = self.get("search/movie", &query).await?;
        found.ok_or_else(|| AskError::Unusable("a search has the status 404".to_owned()))
    }

    /// Returns a film; none if it has been removed.
    ///
    /// # Errors
    /// If there is no answer.
    pub(super) async fn film(&self, id: u64) -> Result<Option<TmdbFilm>, AskError> {
        let query = [("append_to_response", APPENDED), ("language", "en-US")];
        let film: Option<TmdbFilm> = self.get(&format!("movie/{id}"), &query).await?;
        match film {
            Some(film) if film.id != id => {
                Err(AskError::Unusable(format!("film {} instead of {id}", film.id)))
            }
            film => Ok(film),
        }
    }

    /// Returns where images are.
    ///
    /// # Errors
    /// If there is no answer.
    pub(super) async fn configuration(&self) -> Result<Option<Configuration>, AskError> {
        self.get("configuration", &[]).await
    }

    /// Whether the last requests have all failed.
    pub(super) fn is_down(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= FAILURES
    }

    /// Sends a request when it is its turn. Returns none for the status 404.
    async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Option<T>, AskError> {
        match self.store.next_turn(APART, LONGEST_WAIT).await? {
            Turn::In(wait) => tokio::time::sleep(wait).await,
            Turn::NotWithin(wait) => return Err(AskError::Later(wait)),
        }
        // An answer to others may have asked for a pause meanwhile.
        if let Some(pause) = self.store.request_pause().await? {
            return Err(AskError::Later(pause));
        }
        let answered = self.send(path, query).await;
        self.metrics.tmdb_request(outcome(&answered));
        let pause = match &answered {
            Err(AskError::TooMany(pause)) => *pause,
            Err(AskError::Down(_) | AskError::Trouble(_)) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                if !self.is_down() {
                    return answered;
                }
                PAUSE
            }
            _ => {
                self.failures.store(0, Ordering::Relaxed);
                return answered;
            }
        };
        if let Err(error) = self.store.pause_requests(pause).await {
            warn!(error = chain(&error), "requests to TMDB are not paused");
        }
        answered
    }

    async fn send<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Option<T>, AskError> {
        let request = self.http.get(format!("{}/{path}", self.url)).query(query);
        let request = request.header(header::AUTHORIZATION, self.token.clone());
        // The URL has the title; it says nothing that the error does not.
        let down = |error: reqwest::Error| AskError::Down(error.without_url());
        let mut response = request.send().await.map_err(down)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                return Err(AskError::Refused(status));
            }
            StatusCode::TOO_MANY_REQUESTS => {
                return Err(AskError::TooMany(retry_after(response.headers())));
            }
            status if status.is_server_error() => return Err(AskError::Trouble(status)),
            status => return Err(AskError::Unusable(format!("status {status}"))),
        }
        let body = fetch::body(&mut response, MAX_ANSWER).await.map_err(down)?;
        let body = body.ok_or_else(|| AskError::Unusable("it is larger than 2 MiB".to_owned()))?;
        let parsed = serde_json::from_slice(&body);
        parsed.map(Some).map_err(|error| AskError::Unusable(excerpt(&error.to_string(), MAX_SHOWN)))
    }
}

fn outcome<T>(answered: &Result<T, AskError>) -> TmdbAnswer {
    match answered {
        Ok(_) => TmdbAnswer::Answered,
        Err(AskError::Refused(_)) => TmdbAnswer::Refused,
        Err(AskError::TooMany(_)) => TmdbAnswer::Limited,
        Err(AskError::Unusable(_)) => TmdbAnswer::Unusable,
        Err(_) => TmdbAnswer::Failed,
    }
}

/// Returns how long to wait by `Retry-After`, in seconds.
fn retry_after(headers: &HeaderMap) -> Duration {
    let value = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let seconds = value.and_then(|value| value.trim().parse().ok());
    seconds.map_or(PAUSE, Duration::from_secs).clamp(Duration::from_secs(1), LONGEST_PAUSE)
}
