//! `GET /movies/{id}/details`: what TMDB says of a movie.

use chrono::{DateTime, Utc};
use http::{HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    in_time, movie, params,
    request::Request,
    response::{self, Answer, NO_STORE},
};
use crate::{
    enrich::{Details, Film},
    problem::{Code, Problem},
    store::FoundById,
};

/// The notice that the terms of TMDB demand (<https://www.themoviedb.org/api-terms-of-use>).
const NOTICE: &str = "This product uses TMDB and the TMDB APIs but is not endorsed, certified, or otherwise approved by TMDB.";
const TMDB: &str = "https://www.themoviedb.org";
const LOGOS: &str = "https://www.themoviedb.org/about/logos-attribution";

/// For how long clients may use an answer without asking again. It is kept much longer here. What a caller gets is for
/// that client's own cache alone.
const PUBLIC: HeaderValue = HeaderValue::from_static("public, max-age=3600");
const PRIVATE: HeaderValue = HeaderValue::from_static("private, max-age=3600");

/// Whether there are details.
#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
enum DetailsState {
    /// A film of TMDB is this movie.
    Found,
    /// TMDB does not answer, or nobody may ask now.
    Unavailable,
}

/// What TMDB says of a movie. What it says of the film is there only if `state` is `found`.
#[derive(Debug, JsonSchema, Serialize)]
pub(super) struct MovieDetails {
    state: DetailsState,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    film: Option<Film>,
    /// When TMDB was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DateTime<Utc>")]
    asked_at: Option<DateTime<Utc>>,
    /// After how many seconds to ask again. Only if it is `unavailable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    retry_after: Option<u64>,
    attribution: Attribution,
}

/// What whoever shows details must show with them.
#[derive(Debug, JsonSchema, Serialize)]
struct Attribution {
    /// A notice.
    text: &'static str,
    /// Where it leads.
    url: &'static str,
    /// Where the logos are, one of which must be shown, too.
    logos: &'static str,
}

/// `GET /movies/{id}/details`: what TMDB says of a movie.
pub(super) async fn read(request: Request) -> Answer {
    params::none(&request.query)?;
    let app = &request.app;
    let Some(enricher) = &app.enricher else {
        let detail =
            "the operator has not set MRU_TMDB_TOKEN, so there are no details of any movie";
        return Err(Problem::new(Code::DetailsOff, detail));
    };
    let id = request.id().ok_or_else(movie::missing)?;
    let found = in_time(async {
        let revision = app.store.revision().await?;
        app.store.movie(id, revision).await
    });
    let movie = match found.await?.1 {
        FoundById::Movie(movie) => movie.movie,
        FoundById::Withdrawn(withdrawal) => {
            return Err(movie::withdrawn(withdrawal, request.reads_ledger()));
        }
        FoundById::Nothing => return Err(movie::missing()),
    };
    let attribution = Attribution { text: NOTICE, url: TMDB, logos: LOGOS };
    let (details, caching) = match enricher.details(&movie).await? {
        Details::Found(film, asked_at) => {
            let (film, asked_at) = (Some(*film), Some(asked_at));
            let state = DetailsState::Found;
            let caching = if request.caller.is_some() { PRIVATE } else { PUBLIC };
            (MovieDetails { state, film, asked_at, retry_after: None, attribution }, caching)
        }
        Details::Unavailable(after) => {
            let (state, retry_after) = (DetailsState::Unavailable, Some(after.as_secs().max(1)));
            (MovieDetails { state, film: None, asked_at: None, retry_after, attribution }, NO_STORE)
        }
        Details::None => {
            let detail = "TMDB has no film with this title, year and cast, or several";
            return Err(Problem::new(Code::NoDetails, detail));
        }
    };
    let mut response = response::json(StatusCode::OK, &details)?;
    response.headers_mut().insert(header::CACHE_CONTROL, caching);
    Ok(response)
}
