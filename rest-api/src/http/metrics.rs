//! `GET /metrics`, and the layer that counts requests.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Response, StatusCode};
use tower::Service;
use tracing::debug;

use super::{
    params,
    request::Request,
    response::{Answer, body},
    routes::RouteLabel,
};
use crate::{
    metrics::{InFlightRequest, MEDIA_TYPE, Metrics},
    problem::Problem,
    telemetry::chain,
};

/// How long the database may take to report the depth of the queue. Prometheus waits 10 s at most,
/// and the other metrics matter most when the database is slow.
const QUEUE_DEPTH_TIMEOUT: Duration = Duration::from_secs(2);

/// `GET /metrics`: also while the database is unavailable.
pub(super) async fn metrics(request: Request) -> Answer {
    params::none(&request.query)?;
    let app = &request.app;
    // The metric `mru_database_up` reports an unavailable database, so that debug lines are enough.
    let depth = match tokio::time::timeout(QUEUE_DEPTH_TIMEOUT, app.store.queue_depth()).await {
        Ok(Ok(depth)) => Some(depth),
        Ok(Err(error)) => {
            debug!(error = chain(&error), "reading the depth of the queue failed");
            None
        }
        Err(_) => {
            debug!("reading the depth of the queue took too long");
            None
        }
    };
    let text = app.metrics.render(depth, &app.store.pool_status());
    let text = text.map_err(|error| Problem::internal(&error))?;
    Ok(body(StatusCode::OK, MEDIA_TYPE, text.into_bytes()))
}

/// Counts the requests to a service, and its responses.
#[derive(Clone)]
pub(super) struct CountRequests<S> {
    service: S,
    metrics: Arc<Metrics>,
}

impl<S> CountRequests<S> {
    pub(super) fn new(service: S, metrics: Arc<Metrics>) -> Self {
        Self { service, metrics }
    }
}

impl<S, I, O> Service<http::Request<I>> for CountRequests<S>
where
    S: Service<http::Request<I>, Response = Response<O>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = CountedResponse<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<I>) -> Self::Future {
        let in_flight = Some(self.metrics.start_request(request.method()));
        CountedResponse { response: Box::pin(self.service.call(request)), in_flight }
    }
}

/// The future of a counted response.
pub(super) struct CountedResponse<F> {
    response: Pin<Box<F>>,
    in_flight: Option<InFlightRequest>,
}

impl<F, O, E> Future for CountedResponse<F>
where
    F: Future<Output = Result<Response<O>, E>>,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let polled = self.response.as_mut().poll(context);
        if let Poll::Ready(Ok(response)) = &polled
            && let Some(in_flight) = self.in_flight.take()
        {
            let route = response.extensions().get().map_or("none", |RouteLabel(path)| path);
            in_flight.respond(route, response.status());
        }
        polled
    }
}
