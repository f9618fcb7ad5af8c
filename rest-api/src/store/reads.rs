//! Lends connections for reads, and ends the statement of a read that is given up.
//!
//! A read is given up when its future is dropped: its request took too long, or the client is gone.
//! Postgres does not notice, and goes on. So the statement is cancelled, and its connection counts in
//! the pool until the statement has ended: a pool never runs more statements than it has connections.

use std::{pin::pin, time::Duration};

use deadpool_postgres::{Object, Pool, Status};
use scopeguard::{ScopeGuard, guard};
use tokio::{runtime::Handle, time::timeout};
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

/// A pool of connections for reads.
#[derive(Clone)]
pub(super) struct ReadPool {
    pool: Pool,
    /// For the connections that carry cancel requests.
    tls: MakeRustlsConnect,
}

/// A connection that is lent for one read. Return it with [`finish`] when the response has been read.
/// If it is dropped instead, its statement is cancelled.
pub(super) type Lent = ScopeGuard<Object, Box<dyn FnOnce(Object) + Send>>;

impl ReadPool {
    pub(super) fn new(pool: Pool, tls: MakeRustlsConnect) -> Self {
        Self { pool, tls }
    }

    /// Returns a connection that has just been tested, or a new one.
    ///
    /// # Errors
    /// If none is available in time.
    pub(super) async fn lend(&self) -> Result<Lent, StoreError> {
        let connection = checkout(&self.pool).await?;
        if connection.statement_cache.size() > MAX_STATEMENTS {
            connection.statement_cache.clear();
        }
        let tls = self.tls.clone();
        Ok(guard(connection, Box::new(|connection| give_up(connection, tls))))
    }

    pub(super) fn status(&self) -> Status {
        self.pool.status()
    }
}

/// Returns a connection without a running statement to its pool.
pub(super) fn finish(lent: Lent) {
    drop(ScopeGuard::into_inner(lent));
}

fn give_up(connection: Object, tls: MakeRustlsConnect) {
    // Without a runtime the process is ending, and its connections with it.
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(end_statement(connection, tls));
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
