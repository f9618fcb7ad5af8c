//! Keeps web pages away from the listeners of the stack.
//!
//! A page in the developer's browser can send requests to loopback, and by DNS rebinding under a host
//! name of its own. [`HostCheck`] refuses both kinds. A listener that only programs use also has a
//! [`SecretPath`].

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use tracing::warn;
use uuid::Uuid;
use warp::{
    Filter,
    filters::BoxedFilter,
    http::{HeaderMap, Response, StatusCode, header, uri::Authority},
};

/// The most characters of a header that the log shows.
const MAX_LOGGED: usize = 100;

/// The first segment of every path of a listener that only programs use: 122 random bits. `Display`
/// writes it.
#[derive(Clone)]
pub struct SecretPath(String);

impl SecretPath {
    /// Returns a new path.
    pub fn random() -> Self {
        Self(Uuid::new_v4().simple().to_string())
    }

    /// Returns `routes` below this path.
    pub(crate) fn before(
        &self,
        routes: BoxedFilter<(warp::reply::Response,)>,
    ) -> BoxedFilter<(warp::reply::Response,)> {
        warp::path(self.0.clone()).and(routes).boxed()
    }
}

impl fmt::Display for SecretPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks which host a request names, and which web page sends it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostCheck {
    own: IpAddr,
    /// Whether names below `localhost` are names of the listener: those of buckets.
    has_bucket_hosts: bool,
}

/// What is wrong with a request, and what would be right.
pub(crate) struct Refusal(String);

/// Host and port.
#[derive(Eq, PartialEq)]
struct Target {
    /// In lower case.
    host: String,
    port: u16,
}

impl Target {
    /// Parses `host[:port]`.
    fn parse(text: &str) -> Option<Self> {
        let authority = Authority::try_from(text).ok().filter(|_| !text.contains('@'))?;
        let host = authority.host().to_ascii_lowercase();
        Some(Self { host, port: authority.port_u16().unwrap_or(80) })
    }

    fn ip(&self) -> Option<IpAddr> {
        self.host.trim_start_matches('[').trim_end_matches(']').parse().ok()
    }
}

impl HostCheck {
    /// Returns the check of the listener at `address`.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { own: address.ip(), has_bucket_hosts: false }
    }

    /// Accepts the virtual hosts of buckets, too: `bucket.localhost`.
    pub(crate) fn with_bucket_hosts(self) -> Self {
        Self { has_bucket_hosts: true, ..self }
    }

    /// Checks a request for `host`.
    ///
    /// - `host` is a loopback name or address, or the listener's own address. A page that uses DNS
    ///   rebinding sends its own name. The port does not matter: behind a proxy or a forwarded port it
    ///   is another one.
    /// - `Origin`, if there is one, is that of `host`. Browsers add it to requests that may change
    ///   something; curl and SDKs do not.
    /// - `Sec-Fetch-Site`, if there is one, does not name another site, except for a link that the
    ///   user follows. Browsers add it to all requests to loopback.
    ///
    /// Source: <https://www.w3.org/TR/fetch-metadata/>
    pub(crate) fn check(&self, host: Option<&str>, headers: &HeaderMap) -> Result<(), Refusal> {
        let target = self.target(host)?;
        let text = |value: &header::HeaderValue| value.to_str().unwrap_or_default().to_owned();
        for origin in headers.get_all(header::ORIGIN).iter().map(text) {
            if origin.strip_prefix("http://").and_then(Target::parse).as_ref() != Some(&target) {
                warn!(origin = logged(&origin), "request refused, its origin is foreign");
                return Err(Refusal(
                    "the header Origin names another web page: only pages of this address may send requests to it"
                        .to_owned(),
                ));
            }
        }
        let header = |name: &str| headers.get(name).map(text).unwrap_or_default();
        let site = header("sec-fetch-site");
        let is_foreign = matches!(site.as_str(), "cross-site" | "same-site");
        if is_foreign && header("sec-fetch-dest") != "document" {
            warn!(site, "request refused, another site sends it");
            return Err(Refusal(
                "the header Sec-Fetch-Site names another web site: only pages of this address may send requests to it"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// Checks the host alone, of a request that another origin may send.
    pub(crate) fn check_host(self, host: Option<&str>) -> Result<(), Refusal> {
        self.target(host).map(|_| ())
    }

    fn target(self, host: Option<&str>) -> Result<Target, Refusal> {
        let target = host.and_then(Target::parse).filter(|target| self.is_own(target));
        target.ok_or_else(|| {
            warn!(host = logged(host.unwrap_or_default()), "request refused, its host is foreign");
            Refusal(
                "the header Host names another host: use localhost, 127.0.0.1 or [::1]".to_owned(),
            )
        })
    }

    /// Returns `routes` behind this check. A refusal is a 403.
    pub(crate) fn before(
        self,
        routes: BoxedFilter<(warp::reply::Response,)>,
    ) -> BoxedFilter<(warp::reply::Response,)> {
        let refuse =
            warp::header::headers_cloned().and_then(move |headers: HeaderMap| async move {
                let host = headers.get(header::HOST).map(|host| host.to_str().unwrap_or_default());
                match self.check(host, &headers) {
                    // Leaves the request to `routes`.
                    Ok(()) => Err(warp::reject::not_found()),
                    Err(refusal) => Ok(refusal.to_problem()),
                }
            });
        refuse.or(routes).unify().boxed()
    }

    fn is_own(&self, target: &Target) -> bool {
        match target.ip() {
            // DNS rebinding needs a name: an address cannot belong to a page and to this machine.
            Some(ip) => ip.is_loopback() || ip == self.own || self.own.is_unspecified(),
            None => {
                target.host == "localhost"
                    || self.has_bucket_hosts && target.host.ends_with(".localhost")
            }
        }
    }
}

impl Refusal {
    /// Returns the response of HTTP APIs: a problem (RFC 9457).
    fn to_problem(&self) -> warp::reply::Response {
        let problem = serde_json::json!({
            "type": "about:blank",
            "title": "This comes from another web site",
            "status": StatusCode::FORBIDDEN.as_u16(),
            "code": "foreign_site",
            "detail": self.0,
        });
        self.response("application/problem+json", problem.to_string())
    }

    /// Returns the response of S3.
    ///
    /// Source: <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>
    pub(crate) fn to_s3<B: From<String>>(&self) -> Response<B> {
        // The texts contain nothing that XML escapes.
        let xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
             <Error><Code>AccessDenied</Code><Message>{}</Message></Error>",
            self.0
        );
        self.response("application/xml", xml)
    }

    fn response<B: From<String>>(&self, media_type: &'static str, body: String) -> Response<B> {
        let mut response = Response::new(B::from(body));
        *response.status_mut() = StatusCode::FORBIDDEN;
        let media_type = header::HeaderValue::from_static(media_type);
        response.headers_mut().insert(header::CONTENT_TYPE, media_type);
        response
    }
}

/// Returns the start of `text`, escaped.
fn logged(text: &str) -> String {
    let start: String = text.chars().take(MAX_LOGGED).collect();
    format!("{start:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_accepted(check: HostCheck, host: &str, headers: &[(&'static str, &'static str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        check.check(Some(host), &map).is_ok()
    }

    #[test]
    fn only_own_hosts_are_accepted() {
        let loopback = HostCheck::new("127.0.0.1:8080".parse().unwrap());
        let own = [
            "127.0.0.1:8080",
            "localhost:8080",
            "LOCALHOST:8080",
            "[::1]:8080",
            "127.9.9.9:8080",
            "localhost:3128",
            "127.0.0.1",
        ];
        for host in own {
            assert!(is_accepted(loopback, host, &[]), "{host}");
        }
        let foreign = [
            "",
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example:8080",
            "evil.localhost:8080",
            "a@localhost:8080",
            "192.168.0.7:8080",
            "0.0.0.0:8080",
            "localhost:8080, evil.example",
            "localhost.:8080",
            "127.0.0.1.nip.io:8080",
            "localhost:8080/",
            "\u{fc}:8080",
        ];
        for host in foreign {
            assert!(!is_accepted(loopback, host, &[]), "{host}");
        }
        assert!(loopback.check(None, &HeaderMap::new()).is_err());
        let buckets = loopback.with_bucket_hosts();
        assert!(is_accepted(buckets, "my.bucket.localhost:8080", &[]));
        assert!(!is_accepted(buckets, "my.bucketlocalhost:8080", &[]));
        assert!(!is_accepted(buckets, "localhost.evil.example:8080", &[]));
        let everywhere = HostCheck::new("0.0.0.0:80".parse().unwrap());
        assert!(is_accepted(everywhere, "192.168.0.7", &[]));
        assert!(is_accepted(everywhere, "localhost", &[]));
        assert!(!is_accepted(everywhere, "evil.example", &[]));
    }

    #[test]
    fn only_the_own_origin_is_accepted() {
        let check = HostCheck::new("127.0.0.1:8080".parse().unwrap());
        let host = "localhost:8080";
        for headers in [
            vec![("origin", "http://localhost:8080")],
            vec![("origin", "http://LocalHost:8080"), ("sec-fetch-site", "same-origin")],
            vec![("sec-fetch-site", "none"), ("sec-fetch-dest", "document")],
            vec![("sec-fetch-site", "cross-site"), ("sec-fetch-dest", "document")],
        ] {
            assert!(is_accepted(check, host, &headers), "{headers:?}");
        }
        for headers in [
            vec![("origin", "http://evil.example")],
            vec![("origin", "null")],
            vec![("origin", "")],
            vec![("origin", "http://localhost:3000")],
            vec![("origin", "https://localhost:8080")],
            vec![("origin", "http://127.0.0.1:8080")],
            vec![("origin", "http://localhost:8080"), ("origin", "http://evil.example")],
            vec![("sec-fetch-site", "cross-site"), ("sec-fetch-dest", "image")],
            vec![("sec-fetch-site", "cross-site")],
            vec![("sec-fetch-site", "same-site"), ("sec-fetch-dest", "empty")],
        ] {
            assert!(!is_accepted(check, host, &headers), "{headers:?}");
        }
    }
}
