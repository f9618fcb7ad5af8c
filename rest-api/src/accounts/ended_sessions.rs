//! Keeps the list of ended sessions, so that their access tokens are refused without a statement for each request.

use std::{collections::HashSet, time::Duration};

use tokio::time::{sleep, timeout};
use tracing::warn;
use uuid::Uuid;

use super::{Accounts, Revoked};
use crate::{
    store::{Store, StoreError},
    telemetry::chain,
};

/// How often the list is read. A hint of the database makes it sooner; hints may be lost.
const INTERVAL: Duration = Duration::from_secs(2);

/// How long the database may take.
const TIMEOUT: Duration = Duration::from_secs(4);

impl Accounts {
    /// Keeps the list equal to what the database says, for ever. While the database is away, access tokens of
    /// sessions that have ended since hold until they expire.
    pub(crate) async fn keep_ended_sessions(&self, store: &Store) {
        let mut hint = store.hints().revoked.subscribe();
        let mut failed = false;
        loop {
            hint.borrow_and_update();
            let read = timeout(TIMEOUT, store.ended_sessions()).await;
            match read.map_err(StoreError::from).flatten() {
                Ok(ended) => {
                    let sessions: HashSet<String> = ended.iter().map(Uuid::to_string).collect();
                    self.revocations.replace(Revoked { sessions, ..Revoked::default() });
                    failed = false;
                }
                Err(error) if !failed => {
                    warn!(error = chain(&error), "the list of ended sessions is old, will retry");
                    failed = true;
                }
                Err(_) => {}
            }
            tokio::select! {
                _ = hint.changed() => {}
                () = sleep(INTERVAL) => {}
            }
        }
    }
}
