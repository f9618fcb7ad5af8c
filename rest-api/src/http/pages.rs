//! What there is to read: the homepage and the schema.

use http::{HeaderValue, StatusCode, header};

use super::{Answer, body, params, request::Request};

/// `GET /`: what this is, and what it serves.
pub(super) async fn home(request: Request) -> Answer {
    request.get()?;
    params::parse(&request.query, &[])?;
    let page = include_str!("home.html");
    let mut response = body(StatusCode::OK, "text/html; charset=utf-8", page.into());
    let policy =
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'self'";
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    Ok(response)
}

/// `GET /schema/movies.json`: the schema that files are held against.
pub(super) async fn schema(request: Request) -> Answer {
    request.get()?;
    params::parse(&request.query, &[])?;
    Ok(body(StatusCode::OK, "application/schema+json", schema::SCHEMA.into()))
}
