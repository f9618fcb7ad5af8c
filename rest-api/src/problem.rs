//! Errors as clients see them: `application/problem+json` (RFC 9457) with a stable `code`.

use std::{borrow::Cow, time::Duration};

use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use tracing::error;
use warp::reply::Response;

use crate::{store::StoreError, telemetry::chain};

/// What kind of problem it is. The one table of codes, statuses and titles is [`Code::row`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the titles say it")]
pub enum Code {
    InvalidParameter,
    MalformedJson,
    Unauthorized,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    NotFailed,
    BodyTooLarge,
    UnsupportedMediaType,
    Violations,
    Internal,
    Unavailable,
}

impl Code {
    /// Status, code and title.
    fn row(self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::InvalidParameter => {
                (S::BAD_REQUEST, "invalid_parameter", "A query parameter is not right")
            }
            Self::MalformedJson => (S::BAD_REQUEST, "malformed_json", "The body is not JSON"),
            Self::Unauthorized => (S::UNAUTHORIZED, "unauthorized", "This needs the API token"),
            Self::NotFound => (S::NOT_FOUND, "not_found", "There is nothing here"),
            Self::MethodNotAllowed => {
                (S::METHOD_NOT_ALLOWED, "method_not_allowed", "Not with this method")
            }
            Self::RequestTimeout => {
                (S::REQUEST_TIMEOUT, "request_timeout", "The request took too long to arrive")
            }
            Self::NotFailed => (S::CONFLICT, "not_failed", "This ingest has not failed"),
            Self::BodyTooLarge => (S::PAYLOAD_TOO_LARGE, "body_too_large", "The body is too large"),
            Self::UnsupportedMediaType => {
                (S::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "The body has the wrong type")
            }
            Self::Violations => {
                (S::UNPROCESSABLE_ENTITY, "violations", "The body does not fit the schema")
            }
            Self::Internal => {
                (S::INTERNAL_SERVER_ERROR, "internal", "Something went wrong on our side")
            }
            Self::Unavailable => {
                (S::SERVICE_UNAVAILABLE, "unavailable", "Not now; please try again")
            }
        }
    }
}

/// A problem on its way to a client.
#[derive(Debug)]
pub struct Problem(Box<Particulars>);

#[derive(Debug)]
struct Particulars {
    code: Code,
    detail: Cow<'static, str>,
    violations: Option<(serde_json::Value, u64)>,
    header: Option<(header::HeaderName, HeaderValue)>,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    violation_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    violations: Option<&'a serde_json::Value>,
}

impl Problem {
    /// A problem with a sentence for the client: what is wrong, and what would be right.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        let detail = detail.into();
        Self(Box::new(Particulars { code, detail, violations: None, header: None }))
    }

    fn with_header(mut self, name: header::HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.0.header = Some((name, value.into()));
        self
    }

    /// A query parameter that is not right.
    pub fn parameter(name: &str, problem: &str) -> Self {
        Self::new(Code::InvalidParameter, format!("query parameter \"{name}\": {problem}"))
    }

    /// Another method would do: one of `allow`.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        Self::new(Code::MethodNotAllowed, format!("use {allow}"))
            .with_header(header::ALLOW, HeaderValue::from_static(allow))
    }

    /// No token, or the wrong one.
    pub fn unauthorized() -> Self {
        let detail = "send the header \"Authorization: Bearer\" and the service's API token";
        Self::new(Code::Unauthorized, detail)
            .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }

    /// Overload, or a database that is away: worth another try after `retry_after`.
    pub fn unavailable(detail: &'static str, retry_after: Duration) -> Self {
        Self::new(Code::Unavailable, detail).with_header(header::RETRY_AFTER, retry_after.as_secs())
    }

    /// A body with these violations, of which there are `count` in all.
    pub fn violations(violations: &(impl Serialize + ?Sized), count: u64) -> Self {
        let listed = serde_json::to_value(violations).unwrap_or_default();
        let plural = if count == 1 { "" } else { "s" };
        let mut problem =
            Self::new(Code::Violations, format!("{count} violation{plural}; nothing was stored"));
        problem.0.violations = Some((listed, count));
        problem
    }

    /// The answer.
    pub fn into_response(self) -> Response {
        let (parts, json) = self.into_parts();
        Response::from_parts(parts, json.into())
    }

    /// The answer's head and body, for those who build their own.
    pub(crate) fn into_parts(self) -> (http::response::Parts, Vec<u8>) {
        let Particulars { code, detail, violations, header } = *self.0;
        let (status, code, title) = code.row();
        let body = Body {
            r#type: "about:blank",
            title,
            status: status.as_u16(),
            code,
            detail: &detail,
            violation_count: violations.as_ref().map(|(_, count)| *count),
            violations: violations.as_ref().map(|(listed, _)| listed),
        };
        let json = serde_json::to_vec(&body).unwrap_or_default();
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.status = status;
        let problem_json = HeaderValue::from_static("application/problem+json");
        parts.headers.insert(header::CONTENT_TYPE, problem_json);
        parts.headers.extend(header);
        (parts, json)
    }
}

/// Logs the fault, and keeps its particulars from the client.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        error!(error = chain(&error), "the store failed");
        match error {
            StoreError::Unavailable(_) | StoreError::Migrations { .. } => {
                Self::unavailable("the database is not available", Duration::from_secs(5))
            }
            _ => Self::new(Code::Internal, "the log knows more, by the header x-request-id"),
        }
    }
}
