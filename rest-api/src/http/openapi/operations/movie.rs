//! `/movies/{id}`.

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    super::Schemas, Answer, CACHED, MOVIES, Operation, Parameter, example, id, if_none_match,
    not_modified, paging,
};
use crate::{
    http::{
        details::MovieDetails,
        edits::{MAX_KEY, MEDIA_TYPE, PATCH_MEDIA_TYPE},
        history::MovieChange,
    },
    problem::Code,
    store::{Hold, HoldState, Provenance},
};

/// Why a change of a movie may fail.
const FAILURES: [Code; 7] = [
    Code::InvalidHeader,
    Code::NotFound,
    Code::Withdrawn,
    Code::PreconditionFailed,
    Code::PreconditionRequired,
    Code::IdempotencyKeyReused,
    Code::AnotherMovie,
];

/// `GET /movies/{id}`.
pub(in crate::http) fn read_movie(schemas: &mut Schemas) -> Operation {
    let description = "\
        Returns one movie, and the provenance of its content: to callers without a role only since when it has it. \
        Its `ETag` changes with the movie alone.";
    schemas.of::<Provenance>();
    schemas.of::<Hold>();
    let answer = Answer::new("The movie.").headers(&CACHED).json(movie());
    Operation::new("readMovie", MOVIES, "Read a movie", description)
        .parameters([movie_id(), if_none_match()])
        .answer(StatusCode::OK, answer)
        .answer(StatusCode::NOT_MODIFIED, not_modified())
        .fails(&[Code::NotFound, Code::Withdrawn])
}

/// `PUT /movies/{id}`.
pub(in crate::http) fn replace_movie(_: &mut Schemas) -> Operation {
    let description = "\
        Replaces the content of a movie. It counts like a file of the present time: older files do not change the \
        movie, a newer one does. Title, year and `href` tell movies apart and stay. What `GET` shows beside the \
        content is ignored.";
    let body = json!({ MEDIA_TYPE: {
        "schema": { "$ref": "#/components/schemas/Movie" }, "example": example(),
    } });
    changed("replaceMovie", "Replace a movie", description)
        .body("The whole movie.", body)
        .answer(StatusCode::OK, changed_movie())
        .fails(&[Code::MalformedJson, Code::Violations])
}

/// `PATCH /movies/{id}`.
pub(in crate::http) fn patch_movie(_: &mut Schemas) -> Operation {
    let description = "\
        Changes some properties of a movie (RFC 7396): those in the body are replaced, those that are `null` there \
        are removed. Otherwise it is as `PUT`.";
    let body = json!({ PATCH_MEDIA_TYPE: {
        "schema": { "type": "object", "description": "The properties that change." },
        "example": { "genres": ["Crime", "Drama"], "extract": null },
    } });
    changed("patchMovie", "Change properties of a movie", description)
        .body("The change.", body)
        .answer(StatusCode::OK, changed_movie())
        .fails(&[Code::MalformedJson, Code::Violations])
}

/// `DELETE /movies/{id}`.
pub(in crate::http) fn delete_movie(_: &mut Schemas) -> Operation {
    let description = "\
        Deletes a movie. Older files that arrive later do not bring it back; a newer one does, unless it is held.";
    changed("deleteMovie", "Delete a movie", description)
        .answer(StatusCode::NO_CONTENT, Answer::new("The movie is deleted."))
}

/// `GET /movies/{id}/details`.
pub(in crate::http) fn read_details(schemas: &mut Schemas) -> Operation {
    let description = "\
        Returns what The Movie Database (TMDB) says of a movie: of the film that fits title, year and cast, or of none. It \
        is kept for some time. Whoever shows it also shows the `attribution`, and the logo of TMDB. If TMDB does not \
        answer, `state` is `unavailable`: that is no fault of the service.";
    let answer = Answer::new("What is known, or that TMDB does not answer.");
    Operation::new("readDetails", MOVIES, "Read what TMDB says of a movie", description)
        .parameters([movie_id()])
        .answer(StatusCode::OK, answer.json(schemas.of::<MovieDetails>()))
        .fails(&[Code::NotFound, Code::NoDetails, Code::DetailsOff, Code::Withdrawn])
}

/// `GET /movies/{id}/history`.
pub(in crate::http) fn list_changes(schemas: &mut Schemas) -> Operation {
    let description = "\
        Lists the changes of a movie, newest first; also of one that was withdrawn. Older changes are forgotten \
        (`MRU_HISTORY_DAYS`).";
    let page = Answer::new("A page of its changes.").headers(&["Link"]);
    Operation::new("listChanges", MOVIES, "List the changes of a movie", description)
        .parameters([movie_id()])
        .parameters(paging())
        .answer(StatusCode::OK, page.json(schemas.of::<Vec<MovieChange>>()))
        .fails(&[Code::NotFound])
}

/// `PUT /movies/{id}/hold`.
pub(in crate::http) fn hold_movie(schemas: &mut Schemas) -> Operation {
    let description = "\
        Holds a movie: files do not change it, nor bring it back if it is withdrawn or deleted. Their ingests count \
        it as `held`. People may change it.";
    held(schemas, "holdMovie", "Hold a movie", description, "The movie is held.")
}

/// `DELETE /movies/{id}/hold`.
pub(in crate::http) fn release_movie(schemas: &mut Schemas) -> Operation {
    let description = "\
        Releases a movie: it becomes what it would be without its hold. If it follows a file, that is read again.";
    held(schemas, "releaseMovie", "Release a movie", description, "The movie is not held.")
}

fn held(
    schemas: &mut Schemas,
    name: &str,
    summary: &str,
    description: &str,
    answer: &str,
) -> Operation {
    let state = schemas.of::<HoldState>();
    Operation::new(name, MOVIES, summary, description)
        .parameters([movie_id()])
        .answer(StatusCode::OK, Answer::new(answer).json(state))
        .fails(&[Code::NotFound])
}

/// Returns the description of a change of a movie.
fn changed(name: &str, summary: &str, description: &str) -> Operation {
    let text = json!({ "type": "string" });
    let if_match = Parameter::header(
        "If-Match",
        "The `ETag` of the movie that the change is of, or `*`.",
        text,
    )
    .required();
    let key = Parameter::header(
        "Idempotency-Key",
        "Any text. A request that is repeated with it within a day changes nothing, and gets the same answer.",
        json!({ "type": "string", "minLength": 1, "maxLength": MAX_KEY }),
    );
    let hold = Parameter::query(
        "hold",
        "Whether files do not change the movie from now on.",
        json!({ "type": "boolean", "default": false }),
    );
    Operation::new(name, MOVIES, summary, description)
        .parameters([movie_id(), if_match, key, hold])
        .fails(&FAILURES)
}

fn changed_movie() -> Answer {
    Answer::new("The movie as it is now.").headers(&["ETag"]).json(movie())
}

fn movie() -> Value {
    json!({ "$ref": "#/components/schemas/MovieWithProvenance" })
}

fn movie_id() -> Parameter {
    id("The number of the movie.")
}
