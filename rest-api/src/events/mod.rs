//! What has happened, for those who follow it: ingests that begin and end, and states of the catalogue.
//!
//! - `log` keeps the last events. Their text is shared by all followers.
//! - `follower` is one client, and its place in the log.
//!
//! One task in each process fills the log ([`Events::keep_logging`]), so followers cost no statement. It learns of
//! ends from Postgres's notifications, which come in the order of the commits, the same in all processes. So the
//! id of an end holds in each of them: a follower that comes back to another process goes on there.

mod follower;
mod log;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tracing::debug;

pub(crate) use follower::{Follower, Scope, TooMany};

use crate::{
    store::{Ends, IngestQuery, IngestState, Store, StoreError},
    telemetry::chain,
};
use follower::Places;
use log::Log;

/// How long to collect ends before they are read together.
const COLLECT: Duration = Duration::from_millis(100);

/// How often running ingests are looked for while somebody follows. A shorter ingest may be seen only when it ends.
const POLL: Duration = Duration::from_secs(1);

/// The largest number of running ingests that are told of.
const MAX_RUNNING: i64 = 1_000;

/// The events of this process.
#[derive(Debug, Default)]
pub(crate) struct Events {
    log: Mutex<Log>,
    /// Changes with the log.
    changed: watch::Sender<()>,
    places: Arc<Places>,
    /// Notified when somebody begins to follow.
    joined: Notify,
}

impl Events {
    /// Lets somebody at `address` follow what `scope` shows, after the event `last_id` if there is one.
    ///
    /// # Errors
    /// If there are too many followers.
    pub(crate) fn follow(
        self: &Arc<Self>,
        scope: Scope,
        address: std::net::IpAddr,
        last_id: Option<&str>,
    ) -> Result<Follower, TooMany> {
        let place = self.places.take(address)?;
        let follower = Follower::new(Arc::clone(self), place, scope, last_id);
        self.joined.notify_one();
        Ok(follower)
    }

    /// Returns the number of followers.
    pub(crate) fn followers(&self) -> usize {
        self.places.taken()
    }

    /// Logs what happens, for ever.
    pub(crate) async fn keep_logging(&self, store: &Store) {
        let mut revision = store.revision_numbers();
        let mut next_poll = Instant::now();
        loop {
            let is_followed = self.followers() > 0;
            tokio::select! {
                () = store.hints().ends_arrived.notified() => {}
                // The sender lives as long as the store.
                _ = revision.changed() => {}
                () = self.joined.notified() => next_poll = Instant::now(),
                () = sleep_until(next_poll), if is_followed => {}
            }
            let next = self.log().next();
            if self.followers() == 0 {
                self.log().forget_running();
            } else if Instant::now() >= next_poll {
                next_poll = Instant::now() + POLL;
                match store.ingests(&running()).await {
                    Ok(running) => self.log().set_running(&running),
                    Err(error) => debug!(error = chain(&error), "no running ingests are told of"),
                }
            }
            if let Err(error) = self.log_ends(store).await {
                debug!(error = chain(&error), "ends of ingests are not told of");
                self.log().begin_anew();
            }
            let number = *revision.borrow_and_update();
            self.log().set_revision(number);
            if self.log().next() != next {
                self.changed.send_replace(());
            }
            sleep(COLLECT).await;
        }
    }

    async fn log_ends(&self, store: &Store) -> Result<(), StoreError> {
        let Ends { ids, has_gap } = store.hints().take_ends();
        if has_gap {
            self.log().begin_anew();
        }
        if !ids.is_empty() {
            let ingests = store.ingests_by_id(&ids).await?;
            self.log().add_ended(&ingests);
        }
        Ok(())
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        // Nothing that holds the lock panics half way.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn running() -> IngestQuery {
    let state = Some(IngestState::Running);
    IngestQuery { state, limit: MAX_RUNNING, ..IngestQuery::default() }
}
