//! The figures for Prometheus, and the counting of requests.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Response, StatusCode};
use tower::Service;
use tracing::debug;

use super::{Answer, Route, body, params, request::Request};
use crate::{
    metrics::{MEDIA_TYPE, Metrics, Underway},
    problem::{Code, Problem},
    telemetry::chain,
};

/// How long the database may take to say how long its queue is. Whoever scrapes waits 10 s at most,
/// and wants the other figures most when the database is slow.
const PATIENCE: Duration = Duration::from_secs(2);

/// `GET /metrics`: also while the database is away.
pub(super) async fn metrics(request: Request) -> Answer {
    request.get()?;
    params::parse(&request.query, &[])?;
    let app = &request.app;
    // The figure `mru_database_up` tells of it; a line for each scrape would tell no more.
    let queue = match tokio::time::timeout(PATIENCE, app.store.queue()).await {
        Ok(Ok(queue)) => Some(queue),
        Ok(Err(error)) => {
            debug!(error = chain(&error), "no figures from the database");
            None
        }
        Err(_) => {
            debug!("no figures from the database in time");
            None
        }
    };
    let text = app.metrics.render(queue, &app.store.pools());
    let text = text.map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    Ok(body(StatusCode::OK, MEDIA_TYPE, text.into_bytes()))
}

/// Counts the requests to a service, and what it answers.
#[derive(Clone)]
pub(super) struct Counted<S> {
    service: S,
    metrics: Arc<Metrics>,
}

impl<S> Counted<S> {
    pub(super) fn new(service: S, metrics: Arc<Metrics>) -> Self {
        Self { service, metrics }
    }
}

impl<S, I, O> Service<http::Request<I>> for Counted<S>
where
    S: Service<http::Request<I>, Response = Response<O>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<I>) -> Self::Future {
        let underway = Some(self.metrics.request(request.method()));
        Answering { answer: Box::pin(self.service.call(request)), underway }
    }
}

/// An answer that is being made.
pub(super) struct Answering<F> {
    answer: Pin<Box<F>>,
    underway: Option<Underway>,
}

impl<F, O, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<O>, E>>,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let polled = self.answer.as_mut().poll(context);
        if let Poll::Ready(Ok(response)) = &polled
            && let Some(underway) = self.underway.take()
        {
            let route = response.extensions().get().map_or("none", |Route(route)| route);
            underway.answered(route, response.status());
        }
        polled
    }
}
