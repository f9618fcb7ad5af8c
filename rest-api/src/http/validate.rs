//! Checking a file before it is put.

use std::{sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use http::StatusCode;
use serde_json::json;

use super::{
    Answer, json,
    movies::{MAX_BODY, MEDIA_TYPES},
    params,
    request::Request,
};
use crate::{
    ingest::{DecodeError, decode},
    problem::Problem,
};

/// So many files are checked at once, since anybody may ask for it; further ones come back later.
pub(crate) const MAX_VALIDATIONS: usize = 32;

/// `POST /validate`: checked as a file is, while it arrives, and not stored.
pub(super) async fn validate(mut request: Request) -> Answer {
    request.post()?;
    request.media_type(&MEDIA_TYPES)?;
    params::parse(&request.query, &[])?;
    let app = Arc::clone(&request.app);
    let Ok(_place) = app.validations.try_acquire() else {
        let detail = "too many files are being checked";
        return Err(Problem::unavailable(detail, Duration::from_secs(1)));
    };
    let encoding = request.content_encoding();
    let mut body = request.pieces(MAX_BODY);
    let decoding = decode(encoding.as_deref(), MAX_BODY as u64, &mut body, None);
    let decoded = match decoding.await {
        Ok(decoded) => decoded,
        Err(DecodeError::Read(problem)) => return Err(problem),
        Err(DecodeError::Store(error)) => return Err(error.into()),
    };
    // Many clients do not read an answer before they have sent all of their file.
    while body.try_next().await?.is_some() {}
    let violations = &decoded.violations;
    if violations.count() > 0 {
        return Err(Problem::violations(violations.listed(), violations.count()));
    }
    json(StatusCode::OK, &json!({ "valid": true, "movies": decoded.movies }))
}
