//! What the page of the API may send from a browser to this endpoint, another origin (CORS): files, by presigned
//! requests. On AWS the bucket has the same rule.

use std::net::{Ipv4Addr, SocketAddr};

use hyper::{
    Method, Request, Response,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
        ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue, ORIGIN, VARY,
    },
};

/// The headers of a presigned request that its client sets.
const HEADERS: [&str; 2] = ["content-type", "x-amz-checksum-sha256"];

/// The origins of the page.
#[derive(Clone, Debug, Default)]
pub(super) struct PageOrigins(Vec<String>);

impl PageOrigins {
    /// Returns the origins under which the API at `address` is opened on this machine.
    pub(super) fn of(address: SocketAddr) -> Self {
        let port = address.port();
        let ip =
            if address.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { address.ip() };
        let own = SocketAddr::new(ip, port);
        Self(vec![format!("http://{own}"), format!("http://localhost:{port}")])
    }

    /// Returns the origin of a request that the page may send.
    pub(super) fn allowed<B>(&self, request: &Request<B>) -> Option<HeaderValue> {
        let headers = request.headers();
        let mut origins = headers.get_all(ORIGIN).iter();
        let (Some(origin), None) = (origins.next(), origins.next()) else { return None };
        let is_own = self.0.iter().any(|own| own.as_bytes() == origin.as_bytes());
        let may_send = *request.method() == Method::PUT || is_preflight(request);
        (is_own && may_send).then(|| origin.clone())
    }
}

/// Returns whether a browser asks whether it may send a file.
pub(super) fn is_preflight<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let asks = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let are_known = |names: &str| {
        let mut names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.all(|name| HEADERS.iter().any(|known| known.eq_ignore_ascii_case(name)))
    };
    *request.method() == Method::OPTIONS
        && asks(ACCESS_CONTROL_REQUEST_METHOD) == Some("PUT")
        && asks(ACCESS_CONTROL_REQUEST_HEADERS).is_none_or(are_known)
}

/// Returns the response to a preflight request of the page.
pub(super) fn preflight_response<B: Default>(origin: HeaderValue) -> Response<B> {
    let mut response = Response::new(B::default());
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("PUT"));
    let allowed = HeaderValue::from_static("content-type, x-amz-checksum-sha256");
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("3600"));
    let varies = "origin, access-control-request-method, access-control-request-headers";
    headers.insert(VARY, HeaderValue::from_static(varies));
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    response
}

/// Lets the page read a response to its request.
pub(super) fn expose(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("etag"));
    headers.append(VARY, HeaderValue::from_static("origin"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_alone_may_put_files() {
        let page = PageOrigins::of("127.0.0.1:8080".parse().unwrap());
        let allowed = |method: &str, headers: &[(&str, &str)]| {
            let mut request = Request::builder().method(method);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            page.allowed(&request.body(()).unwrap()).is_some()
        };
        for own in ["http://127.0.0.1:8080", "http://localhost:8080"] {
            assert!(allowed("PUT", &[("origin", own)]), "{own}");
            let asks = ("access-control-request-method", "PUT");
            assert!(allowed("OPTIONS", &[("origin", own), asks]), "{own}");
            let names = "content-type,X-Amz-Checksum-SHA256";
            let names = ("access-control-request-headers", names);
            assert!(allowed("OPTIONS", &[("origin", own), asks, names]), "{own}");
            let names = ("access-control-request-headers", "authorization");
            assert!(!allowed("OPTIONS", &[("origin", own), asks, names]));
            assert!(!allowed("OPTIONS", &[("origin", own), (asks.0, "DELETE")]));
            for method in ["GET", "POST", "DELETE", "OPTIONS"] {
                assert!(!allowed(method, &[("origin", own)]), "{method}");
            }
            assert!(!allowed("PUT", &[("origin", own), ("origin", "http://evil.example")]));
        }
        for foreign in [
            "http://evil.example",
            "null",
            "",
            "http://localhost:3000",
            "https://localhost:8080",
            "http://localhost:8080.evil.example",
            "http://[::1]:8080",
        ] {
            assert!(!allowed("PUT", &[("origin", foreign)]), "{foreign}");
        }
        let everywhere = PageOrigins::of("0.0.0.0:8080".parse().unwrap());
        let request = Request::builder().method("PUT").header("origin", "http://127.0.0.1:8080");
        assert!(everywhere.allowed(&request.body(()).unwrap()).is_some());
        let nowhere = PageOrigins::default();
        let request = Request::builder().method("PUT").header("origin", "http://127.0.0.1:8080");
        assert!(nowhere.allowed(&request.body(()).unwrap()).is_none());
    }
}
