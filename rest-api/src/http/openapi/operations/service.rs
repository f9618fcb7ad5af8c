//! The state of the service, and its documents.

use http::StatusCode;
use serde_json::json;

use super::{
    super::Schemas, Answer, CACHED, Operation, Parameter, SERVICE, if_none_match, not_modified,
};
use crate::{
    http::{docs, health::Health, page},
    problem::Code,
};

/// `GET /`.
pub(in crate::http) fn home(_: &mut Schemas) -> Operation {
    let description = "A page for people: to find movies, to change them, and to follow files.";
    document("readHome", "Read the page for people", description, "text/html", "string")
}

/// `GET /page/{version}/{file}`.
pub(in crate::http) fn page_file(_: &mut Schemas) -> Operation {
    let names = json!({ "type": "string", "enum": page::file_names().collect::<Vec<_>>() });
    let version = json!({ "type": "string", "minLength": 1 });
    let description =
        "The programs and styles of the page. It names them by the version of their content.";
    let version = Parameter::path("version", "The version that the page names.", version);
    let file = Parameter::path("file", "The name of the file.", names);
    let content = Answer::new("The file.")
        .headers(&CACHED)
        .content("text/css", json!({ "type": "string" }))
        .content("text/javascript", json!({ "type": "string" }));
    Operation::new("readPageFile", SERVICE, "Read a file of the page", description)
        .parameters([version, file, if_none_match()])
        .answer(StatusCode::OK, content)
        .answer(StatusCode::NOT_MODIFIED, not_modified())
        .fails(&[Code::NotFound])
}

/// `GET /docs`.
pub(in crate::http) fn docs(_: &mut Schemas) -> Operation {
    let description = "A page that shows this document, and sends requests to try it.";
    document("readDocs", "Read the reference", description, "text/html", "string")
}

/// `GET /docs/{file}`.
pub(in crate::http) fn docs_file(_: &mut Schemas) -> Operation {
    let names = json!({ "type": "string", "enum": docs::file_names().collect::<Vec<_>>() });
    let description =
        "The programs and styles of the reference, and the manual for operators (`operations`).";
    let file = Parameter::path("file", "The name of the file.", names);
    let content = Answer::new("The file.")
        .headers(&CACHED)
        .content("text/css", json!({ "type": "string" }))
        .content("text/html", json!({ "type": "string" }))
        .content("text/javascript", json!({ "type": "string" }));
    Operation::new("readDocsFile", SERVICE, "Read a file of the reference", description)
        .parameters([file, if_none_match()])
        .answer(StatusCode::OK, content)
        .answer(StatusCode::NOT_MODIFIED, not_modified())
        .fails(&[Code::NotFound])
}

/// `GET /openapi.json`.
pub(in crate::http) fn openapi(_: &mut Schemas) -> Operation {
    let description = "This document (OpenAPI 3.1), to generate clients from.";
    document("readOpenapi", "Read this document", description, "application/json", "object")
}

/// `GET /schema/movies.json`.
pub(in crate::http) fn read_schema(_: &mut Schemas) -> Operation {
    let description = "The JSON schema (2020-12) of files and notifications.";
    let media_type = "application/schema+json";
    document("readSchema", "Read the schema of files", description, media_type, "object")
}

/// A document that is part of the program.
fn document(id: &str, summary: &str, about: &str, media_type: &str, kind: &str) -> Operation {
    let content = Answer::new("The document.").headers(&CACHED);
    let content = content.content(media_type, json!({ "type": kind }));
    Operation::new(id, SERVICE, summary, about)
        .parameters([if_none_match()])
        .answer(StatusCode::OK, content)
        .answer(StatusCode::NOT_MODIFIED, not_modified())
}

/// `GET /healthz`.
pub(in crate::http) fn alive(schemas: &mut Schemas) -> Operation {
    let description = "Whether the process is alive. It does not ask the database.";
    let answer = Answer::new("It is alive.").json(schemas.of::<Health>());
    Operation::new("readHealth", SERVICE, "Is the process alive?", description)
        .answer(StatusCode::OK, answer)
}

/// `GET /readyz`.
pub(in crate::http) fn ready(schemas: &mut Schemas) -> Operation {
    let description = "\
        Whether the service can serve: the database is available and migrated, and the service is not stopping. \
        Else the answer is `503`.";
    let answer = Answer::new("It can serve.").json(schemas.of::<Health>());
    Operation::new("readReadiness", SERVICE, "Can the service serve?", description)
        .answer(StatusCode::OK, answer)
}

/// `GET /metrics`.
pub(in crate::http) fn metrics(_: &mut Schemas) -> Operation {
    let description = "Metrics in the Prometheus text format.";
    let answer = Answer::new("The metrics.")
        .content(crate::metrics::MEDIA_TYPE, json!({ "type": "string" }));
    Operation::new("readMetrics", SERVICE, "Read metrics", description)
        .answer(StatusCode::OK, answer)
}
