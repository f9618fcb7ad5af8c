//! `POST /validate`: checks a file before it is put into the bucket.

use std::{sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use http::StatusCode;
use movie_file::{Limits, Reader};
use serde_json::json;

use super::{
    movies::{MAX_BODY, MEDIA_TYPES},
    params,
    request::Request,
    response::{Answer, json},
};
use crate::problem::Problem;

/// The largest number of files that are checked at once. Everybody may call this route. Further
/// requests are asked to retry.
pub(super) const MAX_VALIDATIONS: usize = 32;

/// `POST /validate`: checks the body as the file of an ingest, while it arrives. Stores nothing.
pub(super) async fn validate(mut request: Request) -> Answer {
    request.require_media_type(&MEDIA_TYPES)?;
    params::none(&request.query)?;
    let app = Arc::clone(&request.app);
    let Ok(_permit) = app.validations.try_acquire() else {
        let detail = "too many files are being checked";
        return Err(Problem::unavailable(detail, Duration::from_secs(1)));
    };
    let encoding = request.content_encoding();
    let limits = Limits::with_max_file(MAX_BODY as u64);
    let reader = Reader::new(encoding.as_deref(), limits, request.chunks());
    let (file, mut rest) = reader.finish().await?;
    // Many clients read no response before they have sent the whole body.
    while rest.try_next().await?.is_some() {}
    let violations = &file.violations;
    if !violations.is_empty() {
        return Err(Problem::violations(violations.listed(), violations.count()));
    }
    json(StatusCode::OK, &json!({ "valid": true, "movies": file.movies }))
}
