//! The state of the catalogue that this process knows of.
//!
//! A response that is cached is valid for one state. To know the present one without asking the database for
//! each request, a process learns of changes from three sources:
//!
//! - its own commits,
//! - notifications of Postgres, which come within milliseconds,
//! - the database, which it asks each [`POLL`] anyway.
//!
//! What was confirmed longer than [`MAX_AGE`] ago is not used: then each request reads the state from the
//! database. So no response is older than that, also while notifications are lost.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    time::{Instant, sleep, timeout},
};
use tokio_postgres::Row;
use tracing::debug;

use super::{
    Store, StoreError,
    connect::TIMEOUT,
    reads::{self, Cost},
    sql::query_one,
};
use crate::telemetry::chain;

/// How often the database is asked for the state of the catalogue.
const POLL: Duration = Duration::from_secs(1);

/// For how long a state counts as the present one after it was confirmed.
const MAX_AGE: Duration = Duration::from_secs(2);

/// The statement that reads the revision.
pub(super) const READ: &str = "
    /* revision::read */
    select revision, tag from catalogue";

/// A state of the catalogue.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Revision {
    /// Counts the changes.
    pub number: i64,
    /// A random number, which distinguishes states of the same number in copies of one database.
    pub tag: i64,
}

impl Revision {
    /// Returns the revision of a row with the columns `revision` and `tag`.
    pub(super) fn new(row: &Row) -> Self {
        Self { number: row.get("revision"), tag: row.get("tag") }
    }

    /// Returns the revision of the first row of a query whose rows have the columns `id` and `doc`. None if it has no
    /// tag.
    pub(super) fn of_first_row(row: &Row) -> Option<Self> {
        Some(Self { number: row.get("id"), tag: row.get::<_, &str>("doc").parse().ok()? })
    }

    /// Returns the revision as a notification carries it.
    pub(super) fn parse(payload: &str) -> Option<Self> {
        let (number, tag) = payload.split_once(' ')?;
        Some(Self { number: number.parse().ok()?, tag: tag.parse().ok()? })
    }
}

/// What this process knows of the state of the catalogue.
#[derive(Debug, Default)]
pub(super) struct KnownRevision {
    known: Mutex<Known>,
    /// Held by the request that reads the state from the database. Others wait for what it finds.
    reading: AsyncMutex<()>,
    /// The number of the known state.
    number: watch::Sender<i64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    revision: Revision,
    /// When `revision` was learned.
    learned_at: Option<Instant>,
    /// When the database was asked last, and had no newer one.
    confirmed_at: Option<Instant>,
}

impl KnownRevision {
    /// Learns that there is this revision.
    pub(super) fn learn(&self, revision: Revision) {
        let mut known = self.lock();
        if revision.number > known.revision.number {
            known.revision = revision;
            known.learned_at = Some(Instant::now());
            self.tell(revision);
        }
    }

    /// Learns what the primary database or a `reader` said when it was asked at `asked_at`. Returns the present
    /// revision.
    fn confirm(&self, revision: Revision, asked_at: Instant, is_reader: bool) -> Revision {
        let mut known = self.lock();
        // A primary that was restored from a backup begins again with an older revision. A reader may only
        // lag behind.
        let is_restored = !is_reader && known.learned_at.is_none_or(|at| at < asked_at);
        if revision.number >= known.revision.number || is_restored {
            if revision != known.revision {
                known.learned_at = Some(Instant::now());
            }
            known.revision = revision;
            self.tell(revision);
        }
        known.confirmed_at = known.confirmed_at.max(Some(asked_at));
        known.revision
    }

    /// Returns the present revision, if it was confirmed after `since`.
    fn confirmed_since(&self, since: Instant) -> Option<Revision> {
        let known = self.lock();
        known.confirmed_at.filter(|at| *at >= since).map(|_| known.revision)
    }

    fn tell(&self, revision: Revision) {
        self.number.send_if_modified(|number| {
            let is_other = *number != revision.number;
            *number = revision.number;
            is_other
        });
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Returns the present state of the catalogue, not older than [`MAX_AGE`] plus the lag of the reader
    /// endpoint, if queries go to one.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn revision(&self) -> Result<Revision, StoreError> {
        let now = Instant::now();
        if let Some(present) = self.known_revision(now) {
            return Ok(present);
        }
        let _reading = self.revision.reading.lock().await;
        // Another request may have asked while this one waited.
        if let Some(present) = self.revision.confirmed_since(now) {
            return Ok(present);
        }
        let asked_at = Instant::now();
        let connection = self.reader(Cost::Index).await?;
        let row = query_one(&*connection, READ, &[]).await?;
        reads::finish(connection);
        Ok(self.revision.confirm(Revision::new(&row), asked_at, self.has_read_host))
    }

    /// Returns what [`Self::revision`] does, if that needs no query `now`.
    pub(crate) fn known_revision(&self, now: Instant) -> Option<Revision> {
        self.revision.confirmed_since(now.checked_sub(MAX_AGE).unwrap_or(now))
    }

    /// Returns the number of the present state as far as this process knows it, and each later one.
    pub(crate) fn revision_numbers(&self) -> watch::Receiver<i64> {
        self.revision.number.subscribe()
    }

    /// Learns of a revision that this process has made: from here on it responds with nothing older.
    pub(super) fn learn_own(&self, revision: Option<Revision>) {
        if let Some(revision) = revision {
            self.revision.learn(revision);
        }
    }

    /// Asks for the state of the catalogue each [`POLL`], for ever, on a connection of its own: no load of
    /// queries delays it.
    pub(crate) async fn keep_watching_revision(&self) {
        loop {
            if let Err(error) = self.watch_revision().await {
                debug!(error = chain(&error), "the revision is read with each request meanwhile");
            }
            sleep(POLL).await;
        }
    }

    async fn watch_revision(&self) -> Result<(), StoreError> {
        let opened = timeout(TIMEOUT, self.connector.open(&self.revision_config)).await;
        let (client, connection) = opened??;
        let ask = async {
            let read = client.prepare(READ).await?;
            loop {
                let asked_at = Instant::now();
                let row = timeout(TIMEOUT, client.query_one(&read, &[])).await??;
                self.revision.confirm(Revision::new(&row), asked_at, self.has_read_host);
                sleep(POLL).await;
            }
        };
        tokio::select! {
            ended = connection => Ok(ended?),
            failed = ask => failed,
        }
    }
}
