//! The OpenAPI document, which clients generate code from.
//!
//! It is composed of what the service itself uses, so that the two cannot differ: the route table, the Rust
//! types that are serialized (their doc comments are its texts), the limits, the error codes, and the schema
//! file. Each row of the route table names a function of `operations`, which adds what a client needs to know
//! beyond that.
//!
//! `rest-api/openapi.json` is the document as committed. A test compares the two.

mod components;
mod operation;
pub(super) mod operations;

use schemars::{
    JsonSchema, Schema, SchemaGenerator,
    generate::{Contract, SchemaSettings},
};
use serde_json::{Map, Value, json};

use super::routes;
pub(super) use operation::Operation;

/// The function that describes a route.
pub(super) type Describe = fn(&mut Schemas) -> Operation;

/// The schemas of the answers, by name, as far as the descriptions have used them.
pub(super) struct Schemas(SchemaGenerator);

impl Schemas {
    fn new() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.contract = Contract::Serialize;
            settings.meta_schema = None;
        });
        Self(settings.into_generator())
    }

    /// Returns a schema that refers to the one of `T`.
    fn of<T: JsonSchema>(&mut self) -> Schema {
        self.0.subschema_for::<T>()
    }
}

/// Returns the document.
pub(crate) fn document() -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for route in &routes::ROUTES {
        let operation = (route.describe)(&mut schemas);
        let operation = operation.finish(route.access, route.max_body);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation;
    }
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "movies-r-us",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "A catalogue of movies, made from files in an S3 bucket",
            "description": DESCRIPTION,
        },
        "servers": [{ "url": "/", "description": "The service that this document comes from" }],
        "tags": operations::tags(),
        "paths": paths,
        "components": components::components(schemas),
    });
    // The same text whether or not another crate lets serde_json keep the order of insertion.
    document.sort_all_objects();
    document
}

/// What holds for all operations.
const DESCRIPTION: &str = "\
Producers put files of movies into a bucket. The service checks each file against one schema, takes it whole or \
not at all, and answers queries on the movies.

**Reading movies needs no token.** Other operations need the header `Authorization: Bearer` with a token, and a role: \
`401` if there is no token or it does not hold, `403` without the role. `WWW-Authenticate` tells why (RFC 6750).

**Errors** are `application/problem+json` (RFC 9457). Their `code` is stable; the schema `ProblemCode` lists all \
codes. An unknown query parameter is an error, so that a misspelled filter does not go unnoticed. A parameter \
without a value counts as absent.

**Methods.** Each path that has GET also has HEAD, with the same headers and no body. OPTIONS answers `204`, \
another method `405` (`method_not_allowed`); both list the methods of the path in `Allow`.

**Pages.** A list that goes on has the header `Link` with `rel=\"next\"`. Follow it until it is absent.

**Caching.** Answers about the catalogue have a strong `ETag`, which changes with the catalogue. Send it as \
`If-None-Match` to get `304` if nothing changed. Clients that accept gzip get it.

**Later releases** may add members to objects, values to `ProblemCode` and to the states of ingests, and \
operations. Ignore what you do not know.";
