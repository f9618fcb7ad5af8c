//! The descriptions of the operations: a function for each row of the route table, one file a resource.

mod accounts;
mod files;
mod ingests;
mod movie;
mod movies;
mod service;
mod users;

use serde_json::{Value, json};

use super::operation::{Answer, Operation, Parameter};
use crate::http::params;

pub(super) use movies::example;

pub(in crate::http) use accounts::{read_keys, read_me};
pub(in crate::http) use files::{create_upload, follow_events};
pub(in crate::http) use ingests::{
    approve_ingest, list_ingests, notify, read_ingest, redo_ingest, retry_ingest, undo_ingest,
};
pub(in crate::http) use movie::{
    delete_movie, hold_movie, list_changes, patch_movie, read_details, read_movie, release_movie,
    replace_movie,
};
pub(in crate::http) use movies::{
    count_genres, count_years, create_movies, list_movies, suggest, validate_file,
};
pub(in crate::http) use service::{
    alive, docs, docs_file, home, metrics, openapi, page_file, read_schema, ready,
};
pub(in crate::http) use users::{
    change_password, change_user, create_user, list_users, login, logout, read_user, refresh,
};

const MOVIES: &str = "Movies";
const INGESTS: &str = "Ingests";
const ACCOUNTS: &str = "Accounts";
const SERVICE: &str = "Service";

/// Returns the groups of operations.
pub(super) fn tags() -> Value {
    json!([
        { "name": MOVIES, "description": "The catalogue." },
        { "name": INGESTS, "description": "Files of the bucket on their way into the catalogue." },
        { "name": ACCOUNTS, "description": "Who is calling, with which tokens, and users." },
        { "name": SERVICE, "description": "The service itself: its state and its documents." },
    ])
}

/// The parameters of the pages of a list.
fn paging() -> [Parameter; 2] {
    [
        Parameter::query(
            "limit",
            "The largest number of results of a page.",
            json!({
                "type": "integer",
                "minimum": 1,
                "maximum": params::MAX_LIMIT,
                "default": params::DEFAULT_LIMIT,
            }),
        )
        .example(20),
        Parameter::query(
            "after",
            "Where the page begins. Take it from the link to the next page, and keep the other parameters.",
            json!({ "type": "string" }),
        ),
    ]
}

/// The number of a movie or an ingest, in a path.
fn id(description: &str) -> Parameter {
    Parameter::path("id", description, json!({ "type": "integer", "format": "int64" })).example(1)
}

/// The header by which a client says what it has already.
fn if_none_match() -> Parameter {
    Parameter::header(
        "If-None-Match",
        "The `ETag` of the answer that the client has. If it is still the present one, the answer is `304`.",
        json!({ "type": "string" }),
    )
}

/// The headers of an answer that caches may keep.
const CACHED: [&str; 3] = ["ETag", "Cache-Control", "Vary"];

/// The answer to a client that has the present one already.
fn not_modified() -> Answer {
    Answer::new("The client has the present answer already.").headers(&CACHED)
}
