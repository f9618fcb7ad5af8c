//! `Prefer: wait` (RFC 7240): holds a response until ingests have ended.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::{Instant, timeout_at};

use super::{App, in_time};
use crate::{problem::Problem, store::Ingest};

/// The longest time that a response is held for `Prefer: wait`, in seconds.
pub(super) const MAX_WAIT: u64 = 30;

/// How often a waiting request reads the ledger, in addition to its hints.
const POLL: Duration = Duration::from_secs(1);

/// Returns the seconds of `Prefer: wait=N` (RFC 7240, 4.3), at most [`MAX_WAIT`].
pub(super) fn wait_preference(headers: &HeaderMap) -> Option<u64> {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    for preference in values.flat_map(|value| value.split([',', ';'])) {
        let Some((name, value)) = preference.split_once('=') else { continue };
        if name.trim().eq_ignore_ascii_case("wait") {
            // A malformed preference is ignored (RFC 7240, 2).
            return value.trim().trim_matches('"').parse().ok().map(|n: u64| n.min(MAX_WAIT));
        }
    }
    None
}

/// Waits until all `ingests` have ended, at most until `deadline`. Returns them as they are then,
/// without violations.
pub(super) async fn wait_for_each(
    app: &App,
    ingests: Vec<Ingest>,
    deadline: Instant,
) -> Result<Vec<Ingest>, Problem> {
    let mut waited = Vec::with_capacity(ingests.len());
    // One after another: those that end meanwhile are found ended.
    for ingest in ingests {
        waited.push(Ingest { violations: None, ..wait_for(app, ingest, deadline).await? });
    }
    Ok(waited)
}

/// Waits until the ingest has ended, at most until `deadline`. Returns the ingest as it is then.
pub(super) async fn wait_for(
    app: &App,
    mut ingest: Ingest,
    deadline: Instant,
) -> Result<Ingest, Problem> {
    let mut stopping = app.stopping.clone();
    while !ingest.state.ended() {
        let id = ingest.id;
        let mut end = app.store.hints().end_of(id);
        ingest = in_time(app.store.ingest(id)).await?.unwrap_or(ingest);
        if ingest.state.ended() || Instant::now() >= deadline || *stopping.borrow() {
            break;
        }
        let hint = async {
            tokio::select! {
                () = end.received() => {}
                _ = stopping.changed() => {}
            }
        };
        // Whichever comes first: a hint, the next poll, or the deadline.
        let _ = timeout_at(deadline.min(Instant::now() + POLL), hint).await;
    }
    Ok(ingest)
}
