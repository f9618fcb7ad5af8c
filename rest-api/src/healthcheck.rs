//! Asking a running service for its health: for a container's health check and for `helm test`,
//! where there is no other HTTP client.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

const TIMEOUT: Duration = Duration::from_secs(4);

/// Asks `url`, or by default `/healthz` of the service that listens on `listen`.
///
/// # Errors
/// If the answer is not 2xx, or none comes within 4 s; the text says which.
pub async fn ask(url: Option<String>, listen: Option<String>) -> Result<(), String> {
    let url = match url {
        Some(url) => url,
        None => format!("http://{}/healthz", local(listen.as_deref().unwrap_or("0.0.0.0:8080"))?),
    };
    let answer = timeout(TIMEOUT, get(&url)).await;
    let status = answer.map_err(|_| format!("{url}: no answer in {} s", TIMEOUT.as_secs()))?;
    let status = status.map_err(|error| format!("{url}: {error}"))?;
    if status.is_success() { Ok(()) } else { Err(format!("{url}: {status}")) }
}

/// Where to reach, from here, a service that listens on `listen`.
fn local(listen: &str) -> Result<SocketAddr, String> {
    let mut address: SocketAddr = listen
        .parse()
        .map_err(|_| format!("MRU_LISTEN must be an address and a port: {listen}"))?;
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    Ok(address)
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

async fn get(url: &str) -> Result<http::StatusCode, Fault> {
    let uri: Uri = url.parse()?;
    if uri.scheme_str() != Some("http") {
        return Err("only http:// is spoken".into());
    }
    let host = uri.host().ok_or("there is no host")?;
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(80)));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream.await?)).await?;
    tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or(host, |authority| authority.as_str());
    let request = Request::get(path).header(header::HOST, authority).body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?.status())
}
