//! Requests to other services: bounded in time and size, and answered by nobody but the host that is asked.

use std::time::Duration;

use reqwest::{Client, Response, redirect};

/// Returns a client whose requests take at most `timeout`.
///
/// # Errors
/// If the root certificates cannot be loaded.
pub(crate) fn client(timeout: Duration) -> Result<Client, reqwest::Error> {
    // Fails if the process already has a provider, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .connect_timeout(timeout)
        .timeout(timeout)
        .redirect(redirect::Policy::none())
        .user_agent(concat!("movies-r-us/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Reads the body of a response; none if it has more than `most` bytes.
///
/// # Errors
/// If it breaks, or takes too long.
pub(crate) async fn body(
    response: &mut Response,
    most: usize,
) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > most {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}
