//! What the operations refer to by name.

use serde_json::{Map, Value, json};

use super::{Schemas, operation::failure, operations::example};
use crate::problem::{Code, Problem};

/// The properties that every movie of the catalogue has, beside its id. A list may leave them out.
const ALWAYS: [&str; 4] = ["title", "year", "cast", "genres"];

/// Returns the components: first what the schema file defines, then what the answers consist of.
pub(super) fn components(mut schemas: Schemas) -> Value {
    // Also if no description has named them.
    schemas.of::<Problem>();
    let mut definitions = movie_schemas();
    definitions.extend(schemas.0.take_definitions(true));
    definitions.values_mut().for_each(name_values);
    if let Some(Value::Object(code)) = definitions.get_mut("ProblemCode") {
        code.insert("description".into(), code_list().into());
    }
    let responses = Code::ALL.into_iter().filter(|code| code.status().is_some());
    let mut responses: Map<String, Value> =
        responses.map(|code| (code.name().into(), failure(&[code]))).collect();
    let head_too_large =
        "The head of the request has more than 16 KiB or 100 fields. Without a body.";
    responses.insert("head_too_large".into(), json!({ "description": head_too_large }));
    json!({
        "schemas": definitions,
        "responses": responses,
        "headers": headers(),
        "securitySchemes": {
            "bearer": {
                "type": "http",
                "scheme": "bearer",
                "description": "An access token, or the API token of the service (`MRU_API_TOKEN`). An operation \
                                lists the roles of which the caller needs one.",
            },
        },
    })
}

/// Returns the definitions of the schema file as they are, but for the place that references lead to; and the
/// movies of answers, which are made of its movie.
fn movie_schemas() -> Map<String, Value> {
    let text = schema::SCHEMA.replace("\"#/$defs/", "\"#/components/schemas/");
    let mut file: Value = serde_json::from_str(&text).unwrap_or_default();
    let Value::Object(mut definitions) = file["$defs"].take() else { return Map::new() };
    let movie = |required: &[&str], description: &str| {
        let mut properties = file_properties(&definitions["Movie"]);
        let id = json!({
            "description": "The number of the movie, and of its page: `/movies/{id}`.",
            "type": "integer", "format": "int64",
        });
        properties.insert("id".into(), id);
        let mut example = example();
        example["id"] = 7.into();
        let required = [&["id"], required].concat();
        json!({
            "type": "object",
            "description": description,
            "required": required,
            "properties": properties,
            "examples": [example],
        })
    };
    let mut listed = movie(
        &[],
        "A movie of the catalogue. It has `id` and the properties that `fields` names; without `fields` also \
         `title`, `year`, `cast` and `genres`, and the others if they are known.",
    );
    listed["properties"]["score"] = json!({
        "description": "How well the movie matches `q`: larger is better. Only with `q`.",
        "type": "number", "minimum": 0, "maximum": 1,
    });
    let mut origin = movie(&ALWAYS, "A movie of the catalogue, and where its content comes from.");
    origin["properties"]["provenance"] = json!({ "$ref": "#/components/schemas/Provenance" });
    if let Some(required) = origin["required"].as_array_mut() {
        required.extend(["provenance".into(), "held".into()]);
    }
    origin["properties"]["held"] = json!({
        "description": "Whether files do not change the movie.", "type": "boolean",
    });
    origin["properties"]["hold"] = json!({ "$ref": "#/components/schemas/Hold" });
    origin["examples"][0]["provenance"] = json!({
        "ingest": 3,
        "bucket": "movies-r-us",
        "key": "my/movies.json",
        "version_id": null,
        "record": 0,
        "changed_at": "2026-11-27T10:00:00Z",
    });
    origin["examples"][0]["held"] = false.into();
    definitions.insert("CatalogueMovie".into(), listed);
    definitions.insert("MovieWithProvenance".into(), origin);
    definitions
}

/// Returns the properties of a movie as answers have them: never null, and without defaults.
fn file_properties(movie: &Value) -> Map<String, Value> {
    let mut properties = movie["properties"].as_object().cloned().unwrap_or_default();
    for property in properties.values_mut() {
        // ["array", "null"] becomes "array".
        if let Some(kind) = property["type"].get(0).cloned() {
            property["type"] = kind;
        }
        if let Value::Object(property) = property {
            property.remove("default");
        }
    }
    properties
}

/// Turns a choice of described constants into an enumeration whose description lists them: code generators make
/// a type of that.
fn name_values(definition: &mut Value) {
    let constant =
        |choice: &Value| Some((choice.get("const")?.clone(), choice.get("description")?.clone()));
    let choices = definition["oneOf"].as_array().map(Vec::as_slice).unwrap_or_default();
    let constants: Option<Vec<(Value, Value)>> = choices.iter().map(constant).collect();
    let Some(constants) = constants.filter(|constants| !constants.is_empty()) else { return };
    let line = |(name, about): &(Value, Value)| {
        let text = |value: &Value| value.as_str().unwrap_or_default().replace('\n', " ");
        format!("\n- `{}`: {}", text(name), text(about))
    };
    let lines: String = constants.iter().map(line).collect();
    let description = definition["description"].as_str().unwrap_or_default();
    let values: Vec<Value> = constants.into_iter().map(|(name, _)| name).collect();
    *definition = json!({ "description": format!("{description}\n{lines}"), "type": "string", "enum": values });
}

/// Returns the codes as a list in Markdown.
fn code_list() -> String {
    let line = |code: Code| {
        let status = code.status().map(|status| status.as_u16().to_string());
        let status = status.unwrap_or("in ingests".to_owned());
        format!("- `{}` ({status}): {}.\n", code.name(), code.title())
    };
    let lines: String = Code::ALL.into_iter().map(line).collect();
    format!("The kind of a problem, with the status of its answer:\n\n{lines}")
}

/// Returns the headers of answers. Those that are not required are there where they have a meaning.
fn headers() -> Value {
    let header = |required: bool, description: &str, example: &str| {
        json!({
            "description": description,
            "required": required,
            "schema": { "type": "string" },
            "example": example,
        })
    };
    json!({
        "Allow": header(true, "The methods of the path.", "GET, HEAD"),
        "Cache-Control": header(
            false,
            "Caches may keep the answer, and ask each time whether it is still the present one.",
            "public, no-cache",
        ),
        "ETag": header(
            false,
            "Names the content of the answer. Send it as `If-None-Match`.",
            "\"q2VzZW1wbGUgZXRhZyAx\"",
        ),
        "Link": header(
            false,
            "The next page, if there is one (RFC 8288). Relative to the request.",
            "</movies?genre=Drama&after=dGl0bGU6MTA0>; rel=\"next\"",
        ),
        "Location": header(false, "The page of the ingest or the user. Not in the answer to an array.", "/ingests/7"),
        "Preference-Applied": header(
            false,
            "For how many seconds the answer was held at most. Only if the request prefers to wait.",
            "wait=30",
        ),
        "Retry-After": header(true, "After how many seconds to try again.", "5"),
        "Set-Cookie": header(
            false,
            "The cookie with the refresh token. Only if the client asks for it.",
            "mru_refresh=...; Path=/auth; HttpOnly; SameSite=Strict; Secure",
        ),
        "Vary": header(
            false,
            "The headers of the request that the answer depends on.",
            "accept, accept-encoding",
        ),
        "WWW-Authenticate": header(
            true,
            "How to authenticate, and what is wrong with the token (RFC 6750).",
            "Bearer realm=\"movies-r-us\"",
        ),
        "x-request-id": header(
            true,
            "Names the request in the service's log. A client may choose it.",
            "0d0e1f4c-9f0c-4b5e-8d51-1c6b0a1f7e11",
        ),
    })
}
