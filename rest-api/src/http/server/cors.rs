//! What pages of other origins may read (CORS).

use std::{borrow::Cow, convert::Infallible, future::ready, time::Duration};

use futures_util::FutureExt;
use http::{HeaderMap, Method, Request, header};
use tower::{Layer, Service, service_fn};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};
use warp::reply::Response;

use super::layers::X_REQUEST_ID;
use crate::{config::CorsOrigins, http::events::LAST_EVENT_ID};

/// For how long a browser may remember what a page may send.
const PREFLIGHT_AGE: Duration = Duration::from_secs(3600);

/// Which origins may read, and what their browsers are told.
pub(super) struct Cors {
    layer: CorsLayer,
    /// What a response to a request without an origin has.
    without_origin: HeaderMap,
}

impl Cors {
    /// Lets pages of these origins read, and learn what they need for it.
    pub(super) fn new(origins: &CorsOrigins) -> Self {
        let layer = CorsLayer::new()
            .allow_methods([Method::GET, Method::HEAD])
            .allow_headers([
                header::ACCEPT,
                header::AUTHORIZATION,
                header::IF_NONE_MATCH,
                LAST_EVENT_ID,
            ])
            .expose_headers([header::LINK, header::ETAG, header::RETRY_AFTER, X_REQUEST_ID])
            .max_age(PREFLIGHT_AGE);
        let layer = match origins {
            // Responses are the same for all origins.
            CorsOrigins::Any => layer.allow_origin(Any).vary([]),
            CorsOrigins::Listed(origins) => {
                let origins = origins.iter().filter_map(|origin| origin.parse().ok());
                layer.allow_origin(AllowOrigin::list(origins))
            }
        };
        let without_origin = headers(&layer, Request::new(()));
        Self { layer, without_origin }
    }

    /// Returns the headers that the response to a request with the headers `sent` has.
    pub(super) fn headers(&self, sent: &HeaderMap) -> Cow<'_, HeaderMap> {
        let Some(origin) = sent.get(header::ORIGIN) else {
            return Cow::Borrowed(&self.without_origin);
        };
        let mut request = Request::new(());
        request.headers_mut().insert(header::ORIGIN, origin.clone());
        Cow::Owned(headers(&self.layer, request))
    }

    /// Returns the response to a preflight request, if this is one.
    pub(super) fn preflight<B>(&self, request: &Request<B>) -> Option<Response> {
        let sent = request.headers();
        if request.method() != Method::OPTIONS
            || !sent.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
        {
            return None;
        }
        let mut bare = Request::new(());
        *bare.method_mut() = Method::OPTIONS;
        for name in [
            header::ORIGIN,
            header::ACCESS_CONTROL_REQUEST_METHOD,
            header::ACCESS_CONTROL_REQUEST_HEADERS,
        ] {
            bare.headers_mut().extend(sent.get(&name).map(|value| (name, value.clone())));
        }
        let mut response = Response::default();
        *response.headers_mut() = headers(&self.layer, bare);
        Some(response)
    }
}

/// Returns the headers that the layer gives to the response to a request.
fn headers(layer: &CorsLayer, request: Request<()>) -> HeaderMap {
    let empty = |_| ready(Ok::<_, Infallible>(http::Response::new(())));
    // Nothing here waits.
    let response = layer.layer(service_fn(empty)).call(request).now_or_never();
    response
        .and_then(Result::ok)
        .map(|response| response.into_parts().0.headers)
        .unwrap_or_default()
}
