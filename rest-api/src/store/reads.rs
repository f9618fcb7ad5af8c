//! Lends connections for reads, and ends the statement of a read that is given up.
//!
//! A read is given up when its future is dropped: its request took too long, or the client is gone.
//! Postgres does not notice, and goes on. So the statement is cancelled, and its connection counts in
//! the pool until the statement has ended: a pool never runs more statements than it has connections.
//!
//! Reads wait for a connection in the order of their arrival, a bounded time, and a bounded number of them. Those that
//! may read the whole catalogue wait for each other first: they never have all connections.

use std::{pin::pin, sync::Arc, thread, time::Duration};

use deadpool_postgres::{Object, Pool, Status};
use scopeguard::{ScopeGuard, guard};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{StoreError, connect, pools::checkout};

/// How long a statement that was given up may take to end before it is cancelled. Most end within it,
/// and leave a connection that can be used again.
const GRACE: Duration = Duration::from_millis(50);

/// The largest number of prepared statements that are kept for a connection. Clients compose any number of
/// variants.
const MAX_STATEMENTS: usize = 200;

/// How long a cancelled statement may take to end. The statement timeout of the session is shorter, so
/// only a connection to a silent server takes longer.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a read may wait for its turn. Who waits longer is told to come again: requests that nobody waits for any
/// more would keep others waiting.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// How many reads may wait, and how many of them for scans.
const MAX_WAITING: usize = 256;
const MAX_WAITING_SCANS: usize = 64;

/// What a statement reads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Cost {
    /// What an index finds, or as much as a page takes.
    Index,
    /// Possibly the whole catalogue.
    Scan,
}

/// A pool of connections for reads.
#[derive(Clone)]
pub(super) struct ReadPool {
    pool: Pool,
    /// For the connections that carry cancel requests.
    tls: MakeRustlsConnect,
    /// A permit for each connection.
    turns: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// A permit for each scan at once. They leave processors to other reads.
    scans: Arc<Semaphore>,
    waiting_scans: Arc<Semaphore>,
}

/// What a read holds until its statement has ended.
type Turn = [Option<OwnedSemaphorePermit>; 2];

/// A connection that is lent for one read. Return it with [`finish`] when the response has been read.
/// If it is dropped instead, its statement is cancelled.
pub(super) type Lent = ScopeGuard<Object, Box<dyn FnOnce(Object) + Send>>;

impl ReadPool {
    pub(super) fn new(pool: Pool, tls: MakeRustlsConnect) -> Self {
        let cores = thread::available_parallelism().map_or(2, usize::from);
        Self {
            turns: Arc::new(Semaphore::new(pool.status().max_size)),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            scans: Arc::new(Semaphore::new((cores / 2).max(1))),
            waiting_scans: Arc::new(Semaphore::new(MAX_WAITING_SCANS)),
            pool,
            tls,
        }
    }

    /// Returns the same pool, whose scans take turns with those of `other`.
    pub(super) fn with_scans_of(self, other: &Self) -> Self {
        Self { scans: Arc::clone(&other.scans), ..self }
    }

    /// Returns a connection that has just been tested, or a new one, for a statement of this cost.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if too many reads wait, or this one would wait for too long. If the database is
    /// unavailable.
    pub(super) async fn lend(&self, cost: Cost) -> Result<Lent, StoreError> {
        let turn = [self.scan_turn(cost).await?, Some(wait(&self.turns, &self.waiting).await?)];
        let connection = checkout(&self.pool).await?;
        if connection.statement_cache.size() > MAX_STATEMENTS {
            connection.statement_cache.clear();
        }
        let tls = self.tls.clone();
        Ok(guard(connection, Box::new(|connection| give_up(connection, tls, turn))))
    }

    /// Waits until a statement of this cost may read as much as it does: until the other scans of the pool leave it a
    /// processor. Returns what it holds meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Busy`] as [`Self::lend`].
    pub(super) async fn scan_turn(
        &self,
        cost: Cost,
    ) -> Result<Option<OwnedSemaphorePermit>, StoreError> {
        match cost {
            Cost::Index => Ok(None),
            Cost::Scan => wait(&self.scans, &self.waiting_scans).await.map(Some),
        }
    }

    pub(super) fn status(&self) -> Status {
        let waiting = MAX_WAITING - self.waiting.available_permits();
        let waiting_scans = MAX_WAITING_SCANS - self.waiting_scans.available_permits();
        Status { waiting: waiting + waiting_scans, ..self.pool.status() }
    }
}

/// Waits for a permit, in the order of arrival.
async fn wait(
    permits: &Arc<Semaphore>,
    waiting: &Semaphore,
) -> Result<OwnedSemaphorePermit, StoreError> {
    if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
        return Ok(permit);
    }
    let _waiting = waiting.try_acquire().map_err(|_| StoreError::Busy)?;
    let permit = timeout(MAX_WAIT, Arc::clone(permits).acquire_owned()).await;
    permit.ok().and_then(Result::ok).ok_or(StoreError::Busy)
}

/// Returns a connection without a running statement to its pool.
pub(super) fn finish(lent: Lent) {
    drop(ScopeGuard::into_inner(lent));
}

fn give_up(connection: Object, tls: MakeRustlsConnect, turn: Turn) {
    // Without a runtime the process is ending, and its connections with it.
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(async move {
            end_statement(connection, tls).await;
            drop(turn);
        });
    }
}

/// Ends the statement of a connection, then returns the connection to its pool or closes it.
async fn end_statement(connection: Object, tls: MakeRustlsConnect) {
    let cancel_token = connection.cancel_token();
    {
        let mut is_idle = pin!(connection.batch_execute("/* reads::end_statement */"));
        if timeout(GRACE, &mut is_idle).await.is_ok() {
            // If the connection broke, the pool replaces it.
            return;
        }
        let ended = async {
            let _ = timeout(connect::TIMEOUT, cancel_token.cancel_query(tls)).await;
            let _ = is_idle.await;
        };
        let _ = timeout(END_TIMEOUT, ended).await;
    }
    // Not used again: a cancel request that arrives late would end its next statement.
    drop(Object::take(connection));
}
