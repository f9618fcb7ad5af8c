//! `GET /movies` as NDJSON: the whole result, unpaged.
//!
//! The movies are of one state of the catalogue. They are read as the client takes them, and are never together in
//! memory. A client that takes nothing is disconnected (as with every response), and after [`DEADLINE`] each: Postgres
//! keeps old rows for as long as an export lasts.

use std::{io, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, header};
use tokio::{
    sync::mpsc::{self, Sender},
    time::timeout,
};
use tracing::{info, warn};
use warp::reply::{Reply, Response};

use super::{
    in_time,
    movies::push_selected,
    response::{NO_STORE, ResponseDeadline},
};
use crate::{
    problem::Problem,
    store::{Export, ExportedMovie, StoreError},
    telemetry::chain,
};

/// The media type.
pub(super) const MEDIA_TYPE: &str = "application/x-ndjson";

/// How long an export may take.
const DEADLINE: Duration = Duration::from_secs(600);

/// A chunk has at least this many bytes, but for the last one.
const CHUNK: usize = 32 << 10;

/// Returns a response with all movies of `export`, one a line.
///
/// # Errors
/// If the database is unavailable, or too many exports are under way.
pub(super) async fn respond(
    export: impl Future<Output = Result<Export, StoreError>>,
    fields: Option<Vec<&'static str>>,
) -> Result<Response, Problem> {
    let mut lines = Lines { export: in_time(export).await?, fields };
    // Before the response begins: an error has a status of its own.
    let first = lines.next().await?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(send(lines, first, sender));
    let chunks = stream::unfold(receiver, async |mut receiver| {
        let chunk: Result<Bytes, io::Error> = receiver.recv().await?;
        Some((chunk, receiver))
    });
    let mut response = warp::reply::stream(chunks).into_response();
    response.extensions_mut().insert(ResponseDeadline(DEADLINE));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// The movies as lines.
struct Lines {
    export: Export,
    /// The properties of each movie; all if it is none.
    fields: Option<Vec<&'static str>>,
}

impl Lines {
    /// Returns the next lines. Empty after the last one.
    async fn next(&mut self) -> Result<Bytes, Problem> {
        let mut chunk = String::new();
        while chunk.len() < CHUNK
            && let Some(ExportedMovie { movie, score }) = self.export.next().await?
        {
            push_selected(&mut chunk, &movie, score, self.fields.as_deref())?;
            chunk.push('\n');
        }
        Ok(chunk.into())
    }
}

/// Sends all lines, until the client is gone.
async fn send(mut lines: Lines, first: Bytes, sender: Sender<Result<Bytes, io::Error>>) {
    let all = async {
        let mut chunk = first;
        while !chunk.is_empty() {
            if sender.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
            chunk = lines.next().await?;
        }
        Ok::<_, Problem>(())
    };
    // An error ends the connection without the end of the body, so that the client notices.
    let cut_short = match timeout(DEADLINE, all).await {
        Ok(Ok(())) => return,
        Ok(Err(problem)) => {
            warn!(error = problem.cause(), "an export failed");
            io::Error::other("the export failed")
        }
        Err(elapsed) => {
            info!(error = chain(&elapsed), "an export took too long");
            io::Error::other(elapsed)
        }
    };
    // The client may be gone.
    let _ = timeout(Duration::from_secs(1), sender.send(Err(cut_short))).await;
}
