//! `/movies/{id}`: one movie, and how answers show it.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{
    cache::{self, Fresh},
    movies::push_movie,
    params,
    request::Request,
    response::Answer,
};
use crate::{
    problem::{Code, Problem},
    store::{FoundById, Hold, MovieWithProvenance, Provenance, Reason, Withdrawal},
};

/// What an answer shows of a movie beside its content.
#[derive(Serialize)]
struct About<'a> {
    provenance: Shown<'a>,
    held: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    hold: Option<&'a Hold>,
}

/// What an answer shows of where the content comes from.
#[derive(Serialize)]
#[serde(untagged)]
enum Shown<'a> {
    All(&'a Provenance),
    Time { changed_at: Option<DateTime<Utc>> },
}

/// `GET /movies/{id}`: one movie with the provenance of its content.
pub(super) async fn read(request: Request) -> Answer {
    params::none(&request.query)?;
    let app = &request.app;
    let id = request.id().ok_or_else(missing)?;
    let shows_all = request.reads_ledger();
    let movie = async |at_least| {
        let (revision, found) = app.store.movie(id, at_least).await?;
        let movie = match found {
            FoundById::Movie(movie) => movie,
            FoundById::Withdrawn(withdrawal) => return Err(withdrawn(withdrawal, shows_all)),
            FoundById::Nothing => return Err(missing()),
        };
        let tag = cache::movie_tag(id, &movie.state());
        let (json, tag) = if shows_all {
            (whole(&movie), tag)
        } else {
            (public(&movie), format!("{tag}.public"))
        };
        Ok(Fresh { revision, json: json?.into_bytes(), next: None, tag: Some(tag) })
    };
    cache::answer(&request, format!("movie {id} {shows_all}"), movie).await
}

/// Returns the problem of an id that no movie ever had.
pub(super) fn missing() -> Problem {
    Problem::new(Code::NotFound, "no such movie; GET /movies lists them")
}

/// Returns the problem of a movie that was withdrawn. By whom, and what object that concerns, it says only if it
/// `shows_all`.
pub(super) fn withdrawn(withdrawal: Withdrawal, shows_all: bool) -> Problem {
    let Withdrawal { reason, withdrawn_at, .. } = withdrawal;
    let shown = if shows_all {
        withdrawal
    } else {
        Withdrawal {
            reason,
            withdrawn_at,
            ingest: None,
            bucket: None,
            key: None,
            version_id: None,
            withdrawn_by: None,
        }
    };
    let object = match (&shown.bucket, &shown.key) {
        (Some(bucket), Some(key)) => format!("{bucket}/{key}"),
        _ => "its object".to_owned(),
    };
    let detail = match reason {
        Reason::Corrected => {
            format!("a newer version of {object} does not name it, and no other file names it")
        }
        Reason::Removed => format!("{object} was removed, and no other file names it"),
        Reason::Undone => {
            format!("a version of {object} that named it was undone, and no other file names it")
        }
        Reason::Deleted => "it was deleted; a newer file that names it brings it back".to_owned(),
        Reason::Released => "its hold was released, and no file names it".to_owned(),
    };
    Problem::new(Code::Withdrawn, detail).with_withdrawal(shown)
}

/// Returns a movie with all that is known of it.
///
/// # Errors
/// If it cannot be written as JSON.
pub(super) fn whole(found: &MovieWithProvenance) -> Result<String, Problem> {
    let MovieWithProvenance { provenance, hold, .. } = found;
    let provenance = Shown::All(provenance);
    render(found, &About { provenance, held: hold.is_some(), hold: hold.as_ref() })
}

/// Returns a movie as everybody may see it.
fn public(found: &MovieWithProvenance) -> Result<String, Problem> {
    let provenance = Shown::Time { changed_at: found.provenance.changed_at };
    render(found, &About { provenance, held: found.hold.is_some(), hold: None })
}

fn render(found: &MovieWithProvenance, about: &About<'_>) -> Result<String, Problem> {
    let about = serde_json::to_string(about).map_err(|error| Problem::internal(&error))?;
    let mut json = String::new();
    push_movie(&mut json, &found.movie);
    // In front of the closing brace.
    json.pop();
    json.push(',');
    json.push_str(about.strip_prefix('{').unwrap_or(&about));
    Ok(json)
}
