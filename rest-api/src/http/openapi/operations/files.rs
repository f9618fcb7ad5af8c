//! `/uploads` and `/events`: files on their way in, and what becomes of them.

use http::StatusCode;
use serde_json::json;

use super::{super::Schemas, Answer, INGESTS, Operation, Parameter};
use crate::{
    http::{
        events::MEDIA_TYPE,
        uploads::{LIFETIME, MAX_CONTENT_TYPE, MAX_KEY, MAX_SIZE, Signed},
    },
    problem::Code,
    store::Ingest,
};

/// `POST /uploads`.
pub(in crate::http) fn create_upload(schemas: &mut Schemas) -> Operation {
    let description = format!(
        "Returns a presigned request that puts one file into the bucket, without passing through this service. It is \
         bound to this key, size, media type and checksum: the bucket refuses any other file. It can be sent for {} \
         minutes, or until the credentials of the service end if that is earlier.\n\n\
         A producer may be bound to prefixes of keys, and the service to one (`MRU_UPLOAD_PREFIX`). Keys that name no \
         file are refused. Whether the file is right is checked when it has arrived: see `GET /ingests`, or check it \
         before with `POST /validate`.",
        LIFETIME.num_minutes()
    );
    let schema = json!({
        "type": "object",
        "required": ["key", "size", "content_type", "checksum_sha256"],
        "additionalProperties": false,
        "properties": {
            "key": { "type": "string", "minLength": 1, "description": format!("The key of the object, at most {MAX_KEY} bytes.") },
            "size": { "type": "integer", "format": "int64", "minimum": 1, "maximum": MAX_SIZE, "description": "The size of the file in bytes." },
            "content_type": { "type": "string", "maxLength": MAX_CONTENT_TYPE, "description": "The media type of the file." },
            "checksum_sha256": {
                "type": "string",
                "pattern": "^[A-Za-z0-9+/]{43}=$",
                "description": "The base64 of the SHA-256 digest of the file.",
            },
        },
    });
    let example = json!({
        "key": "incoming/1950s.json",
        "size": 16,
        "content_type": "application/json",
        "checksum_sha256": "n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=",
    });
    let content = json!({ "application/json": { "schema": schema, "example": example } });
    Operation::new("createUpload", INGESTS, "Get a request that uploads a file", &description)
        .body("The file.", content)
        .answer(
            StatusCode::CREATED,
            Answer::new("The request to send.").json(schemas.of::<Signed>()),
        )
        .fails(&[Code::MalformedJson, Code::NotFound, Code::Violations])
}

/// `GET /events`.
pub(in crate::http) fn follow_events(schemas: &mut Schemas) -> Operation {
    // The document has the schema of what `data` holds.
    let _ = schemas.of::<Ingest>();
    let description = "\
        Tells what happens, as server-sent events (`text/event-stream`), until the client closes the connection. Each \
        `data` is a JSON object; later releases may add events.\n\n\
        - `revision`: `{\"revision\": 7}`, the number of the catalogue's state. It comes first, and after each change. \
        Quick changes come as one.\n\
        - `ingest`: an ingest that has begun or ended, as in a list of ingests (schema `Ingest`). One that takes less \
        than about a second may come only when it has ended. Those that run come first.\n\
        - `reset`: events may be missing before this one. Ask again for what you show.\n\n\
        Ingests are for whoever may read them: any role, or everybody with a public ledger; a producer who is bound to \
        prefixes sees its own keys. Others get `revision` alone.\n\n\
        Every end of an ingest has an `id`. A client that comes back with the last one in `Last-Event-ID` gets each end \
        since then at least once, from any replica, or `reset` if the replica does not know them all. It knows the \
        last 4,096 events since it began to listen to the database.\n\n\
        A comment comes every 15 seconds. The stream ends with the token, when the service stops, and after an hour; \
        then come back. Too many streams: `503` with `Retry-After`; ask every few seconds instead.";
    let last_id = Parameter::header(
        "Last-Event-ID",
        "The `id` of the last event that the client has. Browsers send it by themselves.",
        json!({ "type": "string" }),
    );
    let events =
        Answer::new("The events, as they happen.").content(MEDIA_TYPE, json!({ "type": "string" }));
    Operation::new("followEvents", INGESTS, "Follow what happens", description)
        .parameters([last_id])
        .answer(StatusCode::OK, events)
}
