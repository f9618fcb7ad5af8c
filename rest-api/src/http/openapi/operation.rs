//! The parts of the description of one operation.

use std::collections::BTreeMap;

use http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{accounts::Role, http::routes::Access, problem::Code};

/// The media type of problems.
const PROBLEM: &str = "application/problem+json";

/// The description of one operation: of one method of one path.
pub(in crate::http) struct Operation {
    texts: Map<String, Value>,
    parameters: Vec<Parameter>,
    body: Option<Value>,
    answers: BTreeMap<u16, Answer>,
    failures: Vec<Code>,
}

impl Operation {
    /// Returns the description of an operation without parameters. `id` names it in generated code.
    pub(super) fn new(id: &str, tag: &str, summary: &str, description: &str) -> Self {
        let mut texts = Map::new();
        texts.insert("operationId".into(), id.into());
        texts.insert("tags".into(), json!([tag]));
        texts.insert("summary".into(), summary.into());
        texts.insert("description".into(), description.into());
        // An unknown parameter is refused everywhere. Any request can meet a fault or an overload.
        let failures = vec![Code::InvalidParameter, Code::Internal, Code::Unavailable];
        let (parameters, answers) = (Vec::new(), BTreeMap::new());
        Self { texts, parameters, body: None, answers, failures }
    }

    pub(super) fn parameters(mut self, parameters: impl IntoIterator<Item = Parameter>) -> Self {
        self.parameters.extend(parameters);
        self
    }

    /// Adds the body that the operation requires. `content` has a schema for each media type.
    pub(super) fn body(mut self, description: &str, content: Value) -> Self {
        self.body = Some(json!({
            "description": description, "required": true, "content": content,
        }));
        self
    }

    /// Adds a body that may be absent.
    pub(super) fn optional_body(mut self, description: &str, content: Value) -> Self {
        self.body = Some(json!({
            "description": description, "required": false, "content": content,
        }));
        self
    }

    /// Adds an answer.
    pub(super) fn answer(mut self, status: StatusCode, answer: Answer) -> Self {
        self.answers.insert(status.as_u16(), answer);
        self
    }

    /// Adds answers with these codes, to those that every operation has.
    pub(super) fn fails(mut self, codes: &[Code]) -> Self {
        self.failures.extend(codes);
        self
    }

    /// Returns the operation as the document has it, with what its route says.
    pub(super) fn finish(mut self, access: Access, max_body: usize) -> Value {
        if !matches!(access, Access::Unchecked) {
            self.failures.push(Code::Unauthorized);
        }
        if let Some(roles) = access.roles(false) {
            let names: Vec<&str> = roles.iter().map(Role::name).collect();
            self.texts.insert("security".into(), json!([{ "bearer": names }]));
            self.failures.push(Code::Forbidden);
        } else if matches!(access, Access::SignedIn) {
            self.texts.insert("security".into(), json!([{ "bearer": [] }]));
        }
        if max_body > 0 {
            let codes = [Code::RequestTimeout, Code::BodyTooLarge, Code::UnsupportedMediaType];
            self.failures.extend(codes);
        }
        let mut responses: BTreeMap<u16, Value> =
            self.answers.into_iter().map(|(status, answer)| (status, answer.finish())).collect();
        for status in self.failures.iter().filter_map(|code| code.status()) {
            let codes: Vec<Code> = self
                .failures
                .iter()
                .copied()
                .filter(|code| code.status() == Some(status))
                .collect();
            let response = match &codes[..] {
                [code] => json!({ "$ref": format!("#/components/responses/{}", code.name()) }),
                codes => failure(codes),
            };
            responses.insert(status.as_u16(), response);
        }
        // The server answers this before it knows the route.
        let head_too_large = json!({ "$ref": "#/components/responses/head_too_large" });
        responses.insert(431, head_too_large);
        let mut operation = self.texts;
        if !self.parameters.is_empty() {
            operation.insert("parameters".into(), json!(self.parameters));
        }
        operation.extend(self.body.map(|body| ("requestBody".into(), body)));
        let responses: Map<String, Value> =
            responses.into_iter().map(|(status, answer)| (status.to_string(), answer)).collect();
        operation.insert("responses".into(), responses.into());
        operation.into()
    }
}

/// Returns the answer that has one of `codes`, which have the same status.
pub(super) fn failure(codes: &[Code]) -> Value {
    let describe = |code: &Code| format!("`{}`: {}.", code.name(), code.title());
    let description: Vec<String> = codes.iter().map(describe).collect();
    let headers: &[&str] = match codes {
        [Code::Unauthorized | Code::WrongCredentials | Code::SessionEnded | Code::Forbidden] => {
            &["WWW-Authenticate"]
        }
        [Code::MethodNotAllowed] => &["Allow"],
        [Code::Unavailable | Code::TooManyAttempts] => &["Retry-After"],
        _ => &[],
    };
    let schema = json!({ "$ref": "#/components/schemas/Problem" });
    Answer::new(&description.join(" ")).headers(headers).content(PROBLEM, schema).finish()
}

/// A parameter.
#[derive(Clone, Serialize)]
pub(super) struct Parameter(Map<String, Value>);

impl Parameter {
    /// Returns a parameter of the query that may be absent.
    pub(super) fn query(name: &str, description: &str, schema: Value) -> Self {
        Self::new("query", name, description, schema)
    }

    /// Returns a header that may be absent.
    pub(super) fn header(name: &str, description: &str, schema: Value) -> Self {
        Self::new("header", name, description, schema)
    }

    /// Returns a part of the path.
    pub(super) fn path(name: &str, description: &str, schema: Value) -> Self {
        Self::new("path", name, description, schema).required()
    }

    /// Returns the same parameter, which may not be absent.
    pub(super) fn required(mut self) -> Self {
        self.0.insert("required".into(), true.into());
        self
    }

    fn new(place: &str, name: &str, description: &str, schema: Value) -> Self {
        let mut parameter = Map::new();
        parameter.insert("in".into(), place.into());
        parameter.insert("name".into(), name.into());
        parameter.insert("description".into(), description.into());
        parameter.insert("schema".into(), schema);
        Self(parameter)
    }

    pub(super) fn example(mut self, example: impl Into<Value>) -> Self {
        self.0.insert("example".into(), example.into());
        self
    }

    /// Lets the values of an array be separated by commas, instead of repeating the parameter.
    pub(super) fn with_commas(mut self) -> Self {
        self.0.insert("explode".into(), false.into());
        self
    }
}

/// An answer of one status.
pub(super) struct Answer {
    description: String,
    headers: Map<String, Value>,
    content: Map<String, Value>,
}

impl Answer {
    /// Returns an answer without content.
    pub(super) fn new(description: &str) -> Self {
        let answer =
            Self { description: description.to_owned(), headers: Map::new(), content: Map::new() };
        answer.headers(&["x-request-id"])
    }

    /// Adds headers of `components.headers`.
    pub(super) fn headers(mut self, names: &[&str]) -> Self {
        for name in names {
            let reference = json!({ "$ref": format!("#/components/headers/{name}") });
            self.headers.insert((*name).into(), reference);
        }
        self
    }

    pub(super) fn json(self, schema: impl Into<Value>) -> Self {
        self.content("application/json", schema)
    }

    pub(super) fn content(mut self, media_type: &str, schema: impl Into<Value>) -> Self {
        self.content.insert(media_type.into(), json!({ "schema": schema.into() }));
        self
    }

    fn finish(self) -> Value {
        let Self { description, headers, content } = self;
        let mut answer = json!({ "description": description, "headers": headers });
        if !content.is_empty() {
            answer["content"] = content.into();
        }
        answer
    }
}
