//! The limit of a cached answer: hyper with nothing but a fixed body.

use std::{
    convert::Infallible,
    io::{Read, stdin},
    net::SocketAddr,
};

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// The hidden command that runs it.
pub(crate) const COMMAND: &str = "bare";

/// Responds to each request with what standard input has, until it is killed.
pub(crate) async fn run(address: SocketAddr) -> Result<()> {
    let mut body = Vec::new();
    stdin().read_to_end(&mut body)?;
    let body = Bytes::from(body);
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let body = body.clone();
        let service = service_fn(move |_request| {
            let mut response = Response::new(Full::new(body.clone()));
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            async { Ok::<_, Infallible>(response) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}
