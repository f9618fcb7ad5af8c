//! Requests the health of a running service: for a container's health check and for `helm test`,
//! which have no other HTTP client.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

const TIMEOUT: Duration = Duration::from_secs(4);

/// Requests `url`, by default `/healthz` of the service that listens on `listen`.
///
/// # Errors
/// If the status is not 2xx, or no response arrives within 4 s. The text says which.
pub async fn check(url: Option<String>, listen: Option<String>) -> Result<(), String> {
    let url = match url {
        Some(url) => url,
        None => {
            let address = local_address(listen.as_deref().unwrap_or("0.0.0.0:8080"))?;
            format!("http://{address}/healthz")
        }
    };
    let status = timeout(TIMEOUT, get_status(&url)).await;
    let status = status.map_err(|_| format!("{url}: no response in {} s", TIMEOUT.as_secs()))?;
    let status = status.map_err(|error| format!("{url}: {error}"))?;
    if status.is_success() { Ok(()) } else { Err(format!("{url}: {status}")) }
}

/// Returns the address at which this machine reaches a service that listens on `listen`.
fn local_address(listen: &str) -> Result<SocketAddr, String> {
    let mut address: SocketAddr = listen.parse().map_err(|_| {
        format!("MRU_PROBE_LISTEN or MRU_LISTEN must be an address and a port: {listen}")
    })?;
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    Ok(address)
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Sends a GET request and returns the status of the response. It does not read the body.
async fn get_status(url: &str) -> Result<StatusCode, BoxError> {
    let uri: Uri = url.parse()?;
    if uri.scheme_str() != Some("http") {
        return Err("the URL must begin with http://".into());
    }
    let host = uri.host().ok_or("the URL has no host")?;
    // `Uri` keeps the brackets of an IPv6 address.
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(80)));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream.await?)).await?;
    tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or(host, |authority| authority.as_str());
    let request = Request::get(path).header(header::HOST, authority).body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?.status())
}
