//! Errors as clients see them: `application/problem+json` (RFC 9457) with a stable `code`.
//!
//! [`Code`] is the one table of codes, statuses and titles: of error responses, and of the `error`
//! of a failed ingest. What a client reads and what the log holds are kept apart: a [`Problem`]
//! carries the internal cause for the log, and never shows it.

use std::{borrow::Cow, time::Duration};

use http::{HeaderName, HeaderValue, StatusCode, header};
use movie_file::{Violation, Violations};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, Serializer};

use crate::{
    accounts::PasswordError,
    store::{AffectedMovie, StoreError, Withdrawal},
    telemetry::chain,
    terminal::excerpt,
};

/// The longest name of a query parameter in a detail, in characters.
const MAX_NAME: usize = 64;

/// The kind of a problem.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename = "ProblemCode", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the titles in `Code::row` describe them")]
pub enum Code {
    // Of error responses.
    InvalidParameter,
    InvalidHeader,
    MalformedJson,
    Unauthorized,
    WrongCredentials,
    SessionEnded,
    Forbidden,
    NotFound,
    NoDetails,
    DetailsOff,
    MethodNotAllowed,
    RequestTimeout,
    NotFailed,
    NotBlocked,
    NotMerged,
    AnotherMovie,
    NameTaken,
    LastAdmin,
    Withdrawn,
    PreconditionFailed,
    BodyTooLarge,
    UnsupportedMediaType,
    Violations,
    CheckTooExpensive,
    IdempotencyKeyReused,
    PreconditionRequired,
    TooManyAttempts,
    Internal,
    Unavailable,
    // Of failed and gone ingests.
    ObjectGone,
    ObjectRefused,
    ObjectStoreUnavailable,
    DatabaseUnavailable,
    DatabaseFull,
    WorkerDied,
    // Of blocked ingests.
    TooManyWithdrawn,
}

impl Code {
    /// The codes of failures after which an ingest is attempted again.
    pub const RETRIED: [Self; 4] = [
        Self::ObjectGone,
        Self::ObjectRefused,
        Self::ObjectStoreUnavailable,
        Self::DatabaseUnavailable,
    ];

    /// All codes, in the order of their declaration.
    pub const ALL: [Self; 36] = [
        Self::InvalidParameter,
        Self::InvalidHeader,
        Self::MalformedJson,
        Self::Unauthorized,
        Self::WrongCredentials,
        Self::SessionEnded,
        Self::Forbidden,
        Self::NotFound,
        Self::NoDetails,
        Self::DetailsOff,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::NotFailed,
        Self::NotBlocked,
        Self::NotMerged,
        Self::AnotherMovie,
        Self::NameTaken,
        Self::LastAdmin,
        Self::Withdrawn,
        Self::PreconditionFailed,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::Violations,
        Self::CheckTooExpensive,
        Self::IdempotencyKeyReused,
        Self::PreconditionRequired,
        Self::TooManyAttempts,
        Self::Internal,
        Self::Unavailable,
        Self::ObjectGone,
        Self::ObjectRefused,
        Self::ObjectStoreUnavailable,
        Self::DatabaseUnavailable,
        Self::DatabaseFull,
        Self::WorkerDied,
        Self::TooManyWithdrawn,
    ];

    /// Returns status, code and title. A code of failed ingests alone has no status.
    #[rustfmt::skip] // one row a line
    fn row(self) -> (Option<StatusCode>, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::InvalidParameter => (Some(S::BAD_REQUEST), "invalid_parameter", "A query parameter is not right"),
            Self::InvalidHeader => (Some(S::BAD_REQUEST), "invalid_header", "A header is not right"),
            Self::MalformedJson => (Some(S::BAD_REQUEST), "malformed_json", "The body is not JSON"),
            Self::Unauthorized => (Some(S::UNAUTHORIZED), "unauthorized", "This needs a token that holds"),
            Self::WrongCredentials => (Some(S::UNAUTHORIZED), "wrong_credentials", "The name or the password is wrong"),
            Self::SessionEnded => (Some(S::UNAUTHORIZED), "session_ended", "The session has ended"),
            Self::Forbidden => (Some(S::FORBIDDEN), "forbidden", "Your roles do not allow this"),
            Self::NotFound => (Some(S::NOT_FOUND), "not_found", "There is nothing here"),
            Self::NoDetails => (Some(S::NOT_FOUND), "no_details", "No film of TMDB matches the movie"),
            Self::DetailsOff => (Some(S::NOT_FOUND), "details_off", "This service does not ask TMDB"),
            Self::MethodNotAllowed => (Some(S::METHOD_NOT_ALLOWED), "method_not_allowed", "Not with this method"),
            Self::RequestTimeout => (Some(S::REQUEST_TIMEOUT), "request_timeout", "The request took too long to arrive"),
            Self::NotFailed => (Some(S::CONFLICT), "not_failed", "This ingest is neither failed nor gone"),
            Self::NotBlocked => (Some(S::CONFLICT), "not_blocked", "This ingest is not blocked"),
            Self::NotMerged => (Some(S::CONFLICT), "not_merged", "This ingest has merged nothing"),
            Self::AnotherMovie => (Some(S::CONFLICT), "another_movie", "This would be another movie"),
            Self::NameTaken => (Some(S::CONFLICT), "name_taken", "Another user has this name"),
            Self::LastAdmin => (Some(S::CONFLICT), "last_admin", "No admin would be left"),
            Self::Withdrawn => (Some(S::GONE), "withdrawn", "The movie was withdrawn"),
            Self::PreconditionFailed => (Some(S::PRECONDITION_FAILED), "precondition_failed", "The movie has changed meanwhile"),
            Self::BodyTooLarge => (Some(S::PAYLOAD_TOO_LARGE), "body_too_large", "The body is too large"),
            Self::UnsupportedMediaType => (Some(S::UNSUPPORTED_MEDIA_TYPE), "unsupported_media_type", "The body has the wrong type"),
            Self::Violations => (Some(S::UNPROCESSABLE_ENTITY), "violations", "The body does not fit the schema"),
            Self::CheckTooExpensive => (Some(S::UNPROCESSABLE_ENTITY), "check_too_expensive", "Checking the body takes too long"),
            Self::IdempotencyKeyReused => (Some(S::UNPROCESSABLE_ENTITY), "idempotency_key_reused", "The idempotency key was that of another request"),
            Self::PreconditionRequired => (Some(S::PRECONDITION_REQUIRED), "precondition_required", "This needs the header If-Match"),
            Self::TooManyAttempts => (Some(S::TOO_MANY_REQUESTS), "too_many_attempts", "Too many failed attempts"),
            Self::Internal => (Some(S::INTERNAL_SERVER_ERROR), "internal", "Something went wrong on our side"),
            Self::Unavailable => (Some(S::SERVICE_UNAVAILABLE), "unavailable", "Not now; please try again"),
            Self::ObjectGone => (None, "object_gone", "The object is not there"),
            Self::ObjectRefused => (None, "object_refused", "The object store refuses access to the object"),
            Self::ObjectStoreUnavailable => (None, "object_store_unavailable", "The object store was not available"),
            Self::DatabaseUnavailable => (None, "database_unavailable", "The database did not store the movies"),
            Self::DatabaseFull => (None, "database_full", "The database has no storage left"),
            Self::WorkerDied => (None, "worker_died", "Every worker that claimed the file died or stalled"),
            Self::TooManyWithdrawn => (None, "too_many_withdrawn", "The snapshot would withdraw too many movies"),
        }
    }

    /// Returns the stable code that clients and metrics use.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Returns the status of an error response. None if only failed ingests have this code.
    pub fn status(self) -> Option<StatusCode> {
        self.row().0
    }

    /// Returns what the code means.
    pub fn title(self) -> &'static str {
        self.row().2
    }
}

/// A problem, to be sent to a client or stored with a failed ingest.
#[derive(Debug)]
pub struct Problem(Box<Content>);

#[derive(Debug)]
struct Content {
    code: Code,
    detail: Cow<'static, str>,
    violations: Option<(serde_json::Value, u64)>,
    withdrawal: Option<Withdrawal>,
    movies: Option<Vec<AffectedMovie>>,
    header: Option<(HeaderName, HeaderValue)>,
    /// The internal error, for the log alone.
    cause: Option<String>,
}

/// The problem object of RFC 9457, with our extension members.
#[derive(JsonSchema, Serialize)]
struct Body<'a> {
    /// Always `about:blank`: `code` tells the kinds of problems apart.
    r#type: &'static str,
    /// What the code means.
    title: &'static str,
    /// The status of the response. Absent in the error of an ingest that no response has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u16")]
    status: Option<u16>,
    /// The kind of the problem. A code keeps its meaning; later releases may add codes.
    #[schemars(with = "Code")]
    code: &'static str,
    /// What is wrong here, and what would be right.
    detail: &'a str,
    /// How many violations the body has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    violation_count: Option<u64>,
    /// The first 1,000 violations.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<Violation>")]
    violations: Option<&'a serde_json::Value>,
    /// What withdrew the movie.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Withdrawal")]
    withdrawal: Option<&'a Withdrawal>,
    /// The first hundred of the movies that the snapshot would withdraw.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<AffectedMovie>")]
    movies: Option<&'a [AffectedMovie]>,
}

impl JsonSchema for Problem {
    fn schema_name() -> Cow<'static, str> {
        "Problem".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Body::json_schema(generator)
    }
}

impl Problem {
    /// Returns a problem. `detail` is a sentence for the client: what is wrong, and what would be
    /// right.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        let detail = detail.into();
        Self(Box::new(Content {
            code,
            detail,
            violations: None,
            withdrawal: None,
            movies: None,
            header: None,
            cause: None,
        }))
    }

    fn with_header(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.0.header = Some((name, value.into()));
        self
    }

    /// Returns the same problem with its internal cause, for the log alone.
    pub fn with_cause(mut self, cause: String) -> Self {
        self.0.cause = Some(cause);
        self
    }

    /// Returns the same problem with what withdrew the movie.
    pub fn with_withdrawal(mut self, withdrawal: Withdrawal) -> Self {
        self.0.withdrawal = Some(withdrawal);
        self
    }

    /// Returns the same problem with the movies that a snapshot would withdraw.
    pub fn with_movies(mut self, movies: &[AffectedMovie]) -> Self {
        self.0.movies = Some(movies.to_vec());
        self
    }

    /// An error of the service itself. Only the log shows its `cause`.
    pub fn internal(cause: &dyn std::error::Error) -> Self {
        let detail = "see the service's log, by the header x-request-id";
        Self::new(Code::Internal, detail).with_cause(chain(cause))
    }

    /// The query as a whole is malformed.
    pub fn query(problem: &str) -> Self {
        Self::new(Code::InvalidParameter, format!("the query: {problem}"))
    }

    /// A query parameter is unknown or malformed.
    pub fn parameter(name: &str, problem: &str) -> Self {
        let name = excerpt(name, MAX_NAME);
        Self::new(Code::InvalidParameter, format!("query parameter \"{name}\": {problem}"))
    }

    /// The path has no such method. `allow` lists the methods that it has.
    pub fn method_not_allowed(allow: HeaderValue) -> Self {
        let methods = allow.to_str().unwrap_or_default();
        Self::new(Code::MethodNotAllowed, format!("use {methods}"))
            .with_header(header::ALLOW, allow)
    }

    /// The request has no token.
    pub fn unauthorized() -> Self {
        let detail =
            "send the header \"Authorization: Bearer\" with an access token, or the API token";
        Self::new(Code::Unauthorized, detail).with_challenge("")
    }

    /// The token of the request does not hold, for this `reason`: ASCII without quotes.
    pub fn invalid_token(reason: &'static str) -> Self {
        let error = format!(", error=\"invalid_token\", error_description=\"{reason}\"");
        Self::new(Code::Unauthorized, reason).with_challenge(&error)
    }

    /// The caller lacks a role, or is bound to other keys. `detail` is ASCII without quotes.
    pub fn forbidden(detail: String) -> Self {
        let error = format!(", error=\"insufficient_scope\", error_description=\"{detail}\"");
        Self::new(Code::Forbidden, detail).with_challenge(&error)
    }

    /// Adds how to authenticate (RFC 6750, 3). A request without a token gets no `error`.
    fn with_challenge(self, error: &str) -> Self {
        let challenge = HeaderValue::try_from(format!("Bearer realm=\"movies-r-us\"{error}"));
        let challenge = challenge.unwrap_or(HeaderValue::from_static("Bearer"));
        self.with_header(header::WWW_AUTHENTICATE, challenge)
    }

    /// Nobody can sign in like this. It does not tell whether there is such a user.
    pub fn wrong_credentials() -> Self {
        let detail = "there is no active user with this name and this password";
        Self::new(Code::WrongCredentials, detail).with_challenge("")
    }

    /// The refresh token does not hold.
    pub fn session_ended() -> Self {
        let detail = "this refresh token holds no more; sign in again: POST /auth/login";
        Self::new(Code::SessionEnded, detail).with_challenge("")
    }

    /// Too many attempts with a wrong password. The client may try again after `retry_after`.
    pub fn too_many_attempts(retry_after: Duration) -> Self {
        let seconds = retry_after.as_secs() + 1;
        let detail = format!("too many wrong passwords; try again in {seconds} s");
        Self::new(Code::TooManyAttempts, detail).with_header(header::RETRY_AFTER, seconds)
    }

    /// The service is overloaded, or its database is away. The client may retry after
    /// `retry_after`.
    pub fn unavailable(detail: &'static str, retry_after: Duration) -> Self {
        Self::new(Code::Unavailable, detail).with_header(header::RETRY_AFTER, retry_after.as_secs())
    }

    /// The body has these violations, and `count` in all.
    pub fn violations(violations: &(impl Serialize + ?Sized), count: u64) -> Self {
        let listed = serde_json::to_value(violations).unwrap_or_default();
        let plural = if count == 1 { "" } else { "s" };
        let mut problem =
            Self::new(Code::Violations, format!("{count} violation{plural}; nothing was stored"));
        problem.0.violations = Some((listed, count));
        problem
    }

    /// Returns the internal error, for the log alone.
    pub fn cause(&self) -> Option<&str> {
        self.0.cause.as_deref()
    }

    /// Returns the status of a response with this problem.
    pub fn status(&self) -> StatusCode {
        self.0.code.row().0.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Returns the problem object as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Returns the header that goes with a response with this problem.
    pub fn header(&self) -> Option<(&HeaderName, &HeaderValue)> {
        self.0.header.as_ref().map(|(name, value)| (name, value))
    }
}

/// Serializes to the problem object.
impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Content { code, detail, violations, withdrawal, movies, .. } = &*self.0;
        let (status, code, title) = code.row();
        let body = Body {
            r#type: "about:blank",
            title,
            status: status.map(|status| status.as_u16()),
            code,
            detail,
            violation_count: violations.as_ref().map(|(_, count)| *count),
            violations: violations.as_ref().map(|(listed, _)| listed),
            withdrawal: withdrawal.as_ref(),
            movies: movies.as_deref(),
        };
        body.serialize(serializer)
    }
}

impl From<PasswordError> for Problem {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => {
                Self::unavailable("too many passwords are being checked", Duration::from_secs(1))
            }
            PasswordError::Hash(_) => Self::internal(&error),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if let Some(fault) = error.fault_of_file() {
            let violations = Violations::of_file(fault);
            return Self::violations(violations.listed(), violations.count());
        }
        match &error {
            StoreError::Unavailable(_)
            | StoreError::Full(_)
            | StoreError::Migrations { .. }
            | StoreError::MigrationUnfinished
            | StoreError::Folding { .. } => {
                Self::unavailable("the database is not available", Duration::from_secs(5))
                    .with_cause(chain(&error))
            }
            StoreError::Busy => {
                Self::unavailable("too many queries wait; retry", Duration::from_secs(1))
            }
            StoreError::NotMerged => Self::new(
                Code::NotMerged,
                "only a version that was merged can be undone, not the removal of one, nor one of which only the \
                 ledger is left; GET /ingests/{id} shows its state",
            ),
            StoreError::MovieChanged => Self::new(
                Code::PreconditionFailed,
                "the movie has changed: GET it again, and send its present ETag as If-Match",
            ),
            StoreError::KeyReused => Self::new(
                Code::IdempotencyKeyReused,
                "send a new Idempotency-Key with each change, and the same one with its repetition alone",
            ),
            StoreError::LastAdmin => Self::new(
                Code::LastAdmin,
                "this is the last active user with the role admin; give it to another one first",
            ),
            StoreError::CursorGone => {
                Self::parameter("after", "the movie at the end of that page is gone; begin again")
            }
            _ => Self::internal(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_codes_are_listed_by_their_names() {
        let names: Vec<&str> = Code::ALL.into_iter().map(Code::name).collect();
        let variants = schemars::schema_for!(Code);
        assert_eq!(variants.get("enum"), Some(&serde_json::json!(names)));
    }
}
