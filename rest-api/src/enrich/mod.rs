//! What TMDB says of movies: asked for when somebody wants to see it, or in advance, and kept for some time
//! (docs/adr/0018-details.md).
//!
//! - `tmdb` is the client, which waits for its turn among all replicas.
//! - `matching` says which film a movie is, or none.
//! - `film` is what an answer shows.
//! - `fill` asks in advance.
//!
//! An [`Enricher`] gives what is kept. If there is nothing, or it is old, it asks; of equal questions at once only one.

mod fill;
mod film;
mod matching;
mod tmdb;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use http::HeaderValue;
use scopeguard::guard;
use serde::Deserialize;
use tokio::time::{Instant, timeout};
use tracing::{error, warn};

use crate::{
    config::Tmdb as TmdbConfig,
    metrics::Metrics,
    secrets,
    store::{KeptDetails, MovieDocument, NewDetails, Store, StoreError},
    telemetry::chain,
};
use aws::{SecretError, SecretsManager};
pub use fill::{FillError, Filled, fill};
use film::Images;
pub use film::{Film, IMAGE_ORIGIN, Rating};
use matching::{Best, Candidate, Fit, Subject};
use tmdb::{AskError, FoundFilm, Tmdb, TmdbFilm};

/// When a film is asked about again, and how long it is shown if that fails. The terms of TMDB allow six months.
const ASK_AFTER: TimeDelta = TimeDelta::days(30);
const KEEP_FOR: TimeDelta = TimeDelta::days(180);

/// When a movie is asked about again that no film matches.
const ASK_AFTER_NONE: TimeDelta = TimeDelta::days(7);

/// When a movie is asked about again whose answer was of no use.
const ASK_AFTER_UNUSABLE: TimeDelta = TimeDelta::hours(1);

/// When a movie is asked about again for which TMDB failed, while it answers for others.
const ASK_AFTER_FAILURE: TimeDelta = TimeDelta::minutes(10);

/// What a client is told then.
const RETRY_UNUSABLE: Duration = Duration::from_secs(10 * 60);

/// When a token is tried again that was refused.
const RETRY_TOKEN: Duration = Duration::from_secs(10 * 60);

/// How long a request waits for what is asked. It goes on afterwards, and is kept.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How many movies are asked about at once.
const MAX_ASKED: usize = 100;

/// How many films a page of a search has, and how many of them are looked at.
const PAGE: usize = 20;
const MAX_LOOKED_AT: usize = 5;

/// How many titles and names of a film are compared.
const MAX_TITLES: usize = 300;
const MAX_NAMES: usize = 300;

/// How long the configuration of TMDB is used, and one that is of no use.
const CONFIGURATION_AGE: Duration = Duration::from_secs(24 * 60 * 60);
const UNUSABLE_CONFIGURATION_AGE: Duration = Duration::from_secs(60 * 60);

/// What is known of a movie at TMDB.
#[derive(Clone, Debug)]
pub enum Details {
    /// This film, and when TMDB was asked.
    Found(Box<Film>, DateTime<Utc>),
    /// No film matches.
    None,
    /// It cannot be asked now. Perhaps after this time.
    Unavailable(Duration),
}

/// Why details cannot be had at all.
#[derive(Debug, thiserror::Error)]
pub enum EnricherError {
    /// The secret with the token cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The token has characters that no token has.
    #[error("the token for TMDB is not one: it is the API read access token, without spaces")]
    Token,
    /// The root certificates cannot be loaded.
    #[error("the client of TMDB: {0}")]
    Client(#[source] reqwest::Error),
}

/// Asks TMDB, and keeps what it says.
pub struct Enricher {
    store: Store,
    tmdb: Tmdb,
    /// What is being asked, by the numbers of the movies.
    asking: Mutex<HashMap<i64, Asking>>,
    images: tokio::sync::Mutex<Option<KnownImages>>,
    token: TokenState,
}

type Asking = Shared<BoxFuture<'static, Details>>;

/// Where images are, and until when that is used.
struct KnownImages {
    images: Option<Images>,
    until: Instant,
}

/// Whether TMDB refuses the token.
#[derive(Default)]
struct TokenState {
    refused_until: Mutex<Option<Instant>>,
    is_logged: AtomicBool,
}

/// A movie, as far as TMDB is asked about it.
#[derive(Clone, Debug)]
struct Question {
    id: i64,
    title: String,
    subject: Subject,
}

impl Enricher {
    /// Returns an enricher with the token that `config` names.
    ///
    /// # Errors
    /// If the token cannot be read, or is not one.
    pub async fn new(
        store: Store,
        config: &TmdbConfig,
        secrets: &SecretsManager,
        metrics: Arc<Metrics>,
    ) -> Result<Self, EnricherError> {
        let token = secrets::tmdb_token(&config.token, secrets).await?;
        let token = HeaderValue::try_from(format!("Bearer {}", token.expose().trim()));
        let token = token.map_err(|_| EnricherError::Token)?;
        let tmdb = Tmdb::new(store.clone(), metrics, config.url.clone(), token);
        let (asking, images, token) =
            (Mutex::default(), tokio::sync::Mutex::default(), TokenState::default());
        Ok(Self { store, tmdb: tmdb.map_err(EnricherError::Client)?, asking, images, token })
    }

    /// Returns what is kept of a movie; if that is nothing, or old, what TMDB says. If it says nothing now, something old.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn details(self: &Arc<Self>, movie: &MovieDocument) -> Result<Details, StoreError> {
        Ok(match self.present(movie).await? {
            (Details::Unavailable(_), Some(old @ Details::Found(..))) => old,
            (asked, _) => asked,
        })
    }

    /// Returns what is kept of a movie if it is not old, else what TMDB says; and what was kept.
    async fn present(
        self: &Arc<Self>,
        movie: &MovieDocument,
    ) -> Result<(Details, Option<Details>), StoreError> {
        let kept = self.store.kept_details(movie.id).await?;
        let known = kept.as_ref().and_then(known);
        if let (true, Some(known)) = (kept.is_some_and(|kept| kept.is_fresh), &known) {
            return Ok((known.clone(), None));
        }
        let Some(question) = Question::new(movie) else { return Ok((Details::None, None)) };
        Ok((self.ask(question).await, known))
    }

    /// Asks TMDB, or joins who does, and waits some time.
    async fn ask(self: &Arc<Self>, question: Question) -> Details {
        let busy = Details::Unavailable(Duration::from_secs(5));
        let asking = {
            let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
            if asking.len() >= MAX_ASKED && !asking.contains_key(&question.id) {
                return busy;
            }
            let start = || Arc::clone(self).start(question.clone());
            asking.entry(question.id).or_insert_with(start).clone()
        };
        timeout(LONGEST_WAIT, asking).await.unwrap_or(busy)
    }

    /// Asks TMDB in a task of its own, so that what is asked is kept whoever waits for it.
    fn start(self: Arc<Self>, question: Question) -> Asking {
        let task = tokio::spawn(async move {
            let _end = guard(question.id, |id| {
                self.asking.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            });
            self.find_and_keep(&question).await
        });
        let panicked = Details::Unavailable(Duration::from_secs(5));
        task.map(|asked| asked.unwrap_or(panicked)).boxed().shared()
    }

    async fn find_and_keep(&self, question: &Question) -> Details {
        if let Some(after) = self.token.refused_for() {
            return Details::Unavailable(after);
        }
        let found = match self.find(question).await {
            Ok(found) => found,
            Err(error) => return self.failed(question.id, &error).await,
        };
        self.token.is_logged.store(false, Ordering::Relaxed);
        let json = found.as_ref().and_then(|film| serde_json::to_string(film).ok());
        let new = match &json {
            Some(json) => NewDetails { json: Some(json), ask_after: ASK_AFTER, keep_for: KEEP_FOR },
            None => NewDetails { json: None, ask_after: ASK_AFTER_NONE, keep_for: ASK_AFTER_NONE },
        };
        let asked_at = self.store.keep_details(question.id, new).await.unwrap_or_else(|error| {
            warn!(error = chain(&error), movie = question.id, "details are not kept");
            Utc::now()
        });
        found.map_or(Details::None, |film| Details::Found(Box::new(film), asked_at))
    }

    /// Logs why there is no answer, and does what keeps the next request from the same.
    async fn failed(&self, movie: i64, error: &AskError) -> Details {
        let after = match error {
            AskError::Later(after) | AskError::TooMany(after) => *after,
            AskError::Refused(_) => RETRY_TOKEN,
            _ => Duration::from_secs(10),
        };
        // What fails for one movie alone must not be asked again and again.
        let ask_after = match error {
            AskError::Unusable(_) => Some(ASK_AFTER_UNUSABLE),
            AskError::Down(_) | AskError::Trouble(_) if !self.tmdb.is_down() => {
                Some(ASK_AFTER_FAILURE)
            }
            _ => None,
        };
        match error {
            AskError::Later(_) => {}
            AskError::Refused(_) => {
                self.token.refuse();
                if !self.token.is_logged.swap(true, Ordering::Relaxed) {
                    error!(
                        error = chain(error),
                        "movies are shown without details: check the token"
                    );
                }
            }
            _ => warn!(error = chain(error), movie, "no details"),
        }
        if let Some(ask_after) = ask_after
            && let Err(error) = self.store.note_unusable(movie, ask_after).await
        {
            warn!(error = chain(&error), movie, "that is not noted");
        }
        Details::Unavailable(after.max(Duration::from_secs(1)))
    }

    /// Returns the film that a movie is, if there is one.
    async fn find(&self, question: &Question) -> Result<Option<Film>, AskError> {
        let year = question.subject.year;
        let mut best = self.best_of(question, &[year]).await?;
        if !best.has_any() && question.subject.may_be_of_another_year() {
            best = self.best_of(question, &[year - 1, year + 1]).await?;
        }
        let Some((score, film)) = best.film() else { return Ok(None) };
        let images = self.images().await?;
        Ok(Some(Film::new(score, &film, images.as_ref())))
    }

    /// Compares the films of these years that a search for the title finds: those with the same title first.
    async fn best_of(
        &self,
        question: &Question,
        years: &[i32],
    ) -> Result<Best<TmdbFilm>, AskError> {
        let fit = |film: &FoundFilm| question.subject.fit([&film.title, &film.original_title]);
        let mut best = Best::new();
        for year in years {
            let page = self.tmdb.search(&question.title, *year).await?;
            let mut found = page.results;
            found.truncate(PAGE);
            found.retain(|film| !film.adult && year_of(film.release_date.as_ref()) == Some(*year));
            found.sort_by_cached_key(fit);
            let is_left_out = found.get(MAX_LOOKED_AT).is_some_and(|film| fit(film) == Fit::Same);
            if page.total_pages > 1 || is_left_out {
                best.note_unseen();
            }
            for film in found.iter().take(MAX_LOOKED_AT) {
                // Those with other titles may have this one elsewhere.
                if best.is_certain() && fit(film) != Fit::Same {
                    break;
                }
                let Some(film) = self.tmdb.film(film.id).await?.filter(|film| !film.adult) else {
                    continue;
                };
                if let Some(points) = question.subject.points(&candidate(&film)) {
                    best.add(points, film);
                }
            }
        }
        Ok(best)
    }

    /// Returns where images are; none if TMDB does not say so in a way that is of use.
    async fn images(&self) -> Result<Option<Images>, AskError> {
        let mut known = self.images.lock().await;
        if let Some(known) = known.as_ref().filter(|known| Instant::now() < known.until) {
            return Ok(known.images.clone());
        }
        let images = match self.tmdb.configuration().await {
            Ok(configuration) => configuration.as_ref().and_then(Images::new),
            Err(AskError::Unusable(_)) => None,
            Err(error) => match known.as_ref().and_then(|known| known.images.clone()) {
                Some(images) => return Ok(Some(images)),
                None => return Err(error),
            },
        };
        if images.is_none() {
            warn!("movies are shown without images: the configuration of TMDB is of no use");
        }
        let age = if images.is_some() { CONFIGURATION_AGE } else { UNUSABLE_CONFIGURATION_AGE };
        *known = Some(KnownImages { images: images.clone(), until: Instant::now() + age });
        Ok(images)
    }
}

impl TokenState {
    fn refuse(&self) {
        *self.refused_until.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Instant::now() + RETRY_TOKEN);
    }

    /// Returns for how long the token is not tried.
    fn refused_for(&self) -> Option<Duration> {
        let until = *self.refused_until.lock().unwrap_or_else(PoisonError::into_inner);
        until?.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }
}

impl Question {
    /// Returns what is asked about a movie. None if its document is malformed.
    fn new(movie: &MovieDocument) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            title: String,
            year: i32,
            #[serde(default)]
            cast: Vec<String>,
        }
        let Content { title, year, cast } = serde_json::from_str(&movie.json).ok()?;
        let subject = Subject::new(&title, year, &cast);
        Some(Self { id: movie.id, title, subject })
    }
}

/// Returns what is kept. None if another release has kept it, in another form.
fn known(kept: &KeptDetails) -> Option<Details> {
    Some(match &kept.json {
        Some(json) => Details::Found(serde_json::from_str(json).ok()?, kept.asked_at),
        None if kept.unusable => Details::Unavailable(RETRY_UNUSABLE),
        None => Details::None,
    })
}

/// Returns what is compared of a film.
fn candidate(film: &TmdbFilm) -> Candidate {
    let alternative = film.alternative_titles.titles.iter();
    let translated = film.translations.translations.iter().map(|translation| &translation.data);
    let other_titles = alternative.chain(translated).filter_map(|title| title.title.clone());
    let cast = film.credits.cast.iter().filter_map(|credit| credit.name.clone());
    Candidate {
        year: year_of(film.release_date.as_ref()),
        titles: vec![film.title.clone(), film.original_title.clone()],
        other_titles: other_titles.take(MAX_TITLES).collect(),
        cast: cast.take(MAX_NAMES).collect(),
    }
}

/// Returns the year of a date such as 1959-03-14.
fn year_of(date: Option<&String>) -> Option<i32> {
    date?.split('-').next()?.parse().ok()
}
