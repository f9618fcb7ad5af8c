//! `GET /` and `GET /schema/movies.json`: documents for people and tools.

use http::{HeaderValue, StatusCode, header};

use super::{
    params,
    request::Request,
    response::{Answer, body},
};

/// `GET /`: the homepage.
pub(super) async fn home(request: Request) -> Answer {
    params::none(&request.query)?;
    let page = include_str!("home.html");
    let mut response = body(StatusCode::OK, "text/html; charset=utf-8", page.into());
    let policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
                  form-action 'self'; frame-ancestors 'none'";
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    Ok(response)
}

/// `GET /schema/movies.json`: the JSON schema of movies and notifications.
pub(super) async fn schema(request: Request) -> Answer {
    params::none(&request.query)?;
    Ok(body(StatusCode::OK, "application/schema+json", schema::SCHEMA.into()))
}
