//! `/notify` and `/ingests`.

use http::StatusCode;
use schema::MAX_NOTIFICATIONS;
use serde_json::json;

use super::{super::Schemas, Answer, INGESTS, Operation, Parameter, id, paging};
use crate::{
    http::{
        notify::{ElementResult, Ignored},
        wait::MAX_WAIT,
    },
    problem::Code,
    store::{DecidedIngest, Ingest, IngestState},
};

/// `POST /notify`.
pub(in crate::http) fn notify(schemas: &mut Schemas) -> Operation {
    let description = format!(
        "Tells the service that an object was put into the bucket, or removed from it (`event`). The answer comes when \
         the ingest is durable. The same notification again answers the same ingest, and queues it again if it had \
         failed or was gone.\n\n\
         An array of up to {MAX_NOTIFICATIONS} notifications gets `202` and an array of results, in the same order. \
         A notification that is not right is refused alone; the schema then does not bind the others.\n\n\
         A key that names no file, such as `_SUCCESS` or a folder marker, is ignored: `200` with the reason."
    );
    let prefer = Parameter::header(
        "Prefer",
        &format!(
            "`wait=N` holds the answer until the ingest has ended, at most N seconds and at most {MAX_WAIT} (RFC \
             7240)."
        ),
        json!({ "type": "string" }),
    )
    .example("wait=5");
    let notification = json!({ "$ref": "#/components/schemas/Notification" });
    let body = json!({
        "application/json": {
            "schema": {
                "anyOf": [
                    notification,
                    {
                        "type": "array",
                        "items": notification,
                        "minItems": 1,
                        "maxItems": MAX_NOTIFICATIONS,
                    },
                ],
            },
            "examples": {
                "one": { "value": { "bucket": "movies-r-us", "key": "my/movies.json" } },
                "removed": {
                    "value": { "bucket": "movies-r-us", "key": "my/movies.json", "event": "removed" },
                },
                "array": { "value": [{ "bucket": "movies-r-us", "key": "my/movies.json" }] },
            },
        },
    });
    let (ingest, ignored) = (schemas.of::<Ingest>(), schemas.of::<Ignored>());
    let results = schemas.of::<Vec<ElementResult>>();
    let ended = Answer::new(
        "The ingest, which has ended while the request waited; or why the key is ignored.",
    )
    .headers(&["Location", "Preference-Applied"])
    .json(json!({ "anyOf": [ingest, ignored] }));
    let accepted = Answer::new("The ingest, which is durable; or the results of an array.")
        .headers(&["Location", "Preference-Applied"])
        .json(json!({ "anyOf": [ingest, results] }));
    Operation::new("notify", INGESTS, "Notify of an object in the bucket", &description)
        .parameters([prefer])
        .body("A notification, or an array of them.", body)
        .answer(StatusCode::OK, ended)
        .answer(StatusCode::ACCEPTED, accepted)
        .fails(&[Code::MalformedJson, Code::Violations])
}

/// `GET /ingests`.
pub(in crate::http) fn list_ingests(schemas: &mut Schemas) -> Operation {
    let text = json!({ "type": "string", "pattern": "^[^\\u0000]*$" });
    let filters = [
        Parameter::query("bucket", "Ingests of this bucket.", text.clone()).example("movies-r-us"),
        Parameter::query("key", "Ingests of this object key.", text).example("my/movies.json"),
        Parameter::query("state", "Ingests in this state.", schemas.of::<IngestState>().into())
            .example("rejected"),
    ];
    let page = Answer::new("A page of ingests, without their violations.")
        .headers(&["Link"])
        .json(schemas.of::<Vec<Ingest>>());
    let description = "Lists ingests, newest first.";
    Operation::new("listIngests", INGESTS, "List ingests", description)
        .parameters(filters)
        .parameters(paging())
        .answer(StatusCode::OK, page)
}

/// `GET /ingests/{id}`.
pub(in crate::http) fn read_ingest(schemas: &mut Schemas) -> Operation {
    let description = "\
        Returns one ingest: with its violations if it is rejected, with its error if it failed.\n\n\
        An ingest is `queued`, then `running`, and ends as `succeeded`, `rejected`, `superseded`, `gone`, `blocked` or \
        `failed`.";
    Operation::new("readIngest", INGESTS, "Read an ingest", description)
        .parameters([id("The number of the ingest.")])
        .answer(StatusCode::OK, Answer::new("The ingest.").json(schemas.of::<Ingest>()))
        .fails(&[Code::NotFound])
}

/// `POST /ingests/{id}/retry`.
pub(in crate::http) fn retry_ingest(schemas: &mut Schemas) -> Operation {
    let queued = Answer::new("The ingest, which is queued again.").json(schemas.of::<Ingest>());
    let description = "Queues an ingest again that is failed or gone. The request has no body.";
    Operation::new("retryIngest", INGESTS, "Retry an ingest", description)
        .parameters([id("The number of the ingest.")])
        .answer(StatusCode::ACCEPTED, queued)
        .fails(&[Code::NotFound, Code::NotFailed])
}

/// `POST /ingests/{id}/approve`.
pub(in crate::http) fn approve_ingest(schemas: &mut Schemas) -> Operation {
    let queued = Answer::new("The ingest, which is queued again.").json(schemas.of::<Ingest>());
    let description = "\
        Lets a blocked snapshot withdraw as many movies as it does (`MRU_MAX_WITHDRAW`), and queues it. The request \
        has no body.";
    Operation::new("approveIngest", INGESTS, "Approve a blocked ingest", description)
        .parameters([id("The number of the ingest.")])
        .answer(StatusCode::ACCEPTED, queued)
        .fails(&[Code::NotFound, Code::NotBlocked])
}

/// `POST /ingests/{id}/undo`.
pub(in crate::http) fn undo_ingest(schemas: &mut Schemas) -> Operation {
    let description = "\
        What this version of the object said does not count any more, as if it had never come. Each movie falls back \
        to the newest other version that names it, or is withdrawn. To undo it twice changes nothing. The request has \
        no body.";
    decision(schemas, "undoIngest", "Undo an ingest", description)
}

/// `POST /ingests/{id}/redo`.
pub(in crate::http) fn redo_ingest(schemas: &mut Schemas) -> Operation {
    let description = "Takes back that an ingest was undone. The request has no body.";
    decision(schemas, "redoIngest", "Redo an ingest", description)
}

fn decision(schemas: &mut Schemas, name: &str, summary: &str, description: &str) -> Operation {
    let description = format!(
        "{description}\n\nMovies are withdrawn at once. Content of other versions comes when their objects have been \
         read again."
    );
    let dry_run = Parameter::query(
        "dry_run",
        "`true` changes nothing, and answers what would change.",
        json!({ "type": "boolean" }),
    );
    let decided = Answer::new("The ingest, and what changes.").json(schemas.of::<DecidedIngest>());
    Operation::new(name, INGESTS, summary, &description)
        .parameters([id("The number of the ingest."), dry_run])
        .answer(StatusCode::OK, decided)
        .fails(&[Code::NotFound, Code::NotMerged])
}
