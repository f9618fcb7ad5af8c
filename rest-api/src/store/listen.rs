//! Wakes up waiting tasks by Postgres's LISTEN and NOTIFY.
//!
//! A notification of Postgres is a hint. It is lost while the connection is down, and whoever waits
//! for it also polls.

use std::{
    collections::HashMap,
    mem,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::GenericClient;
use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Notify, futures::OwnedNotified, watch},
    time::{sleep, timeout},
};
use tokio_postgres::{AsyncMessage, Client, Connection};
use tracing::{debug, info, warn};

use super::{Revision, Store, StoreError, connect::TIMEOUT, revision::KnownRevision, sql::execute};
use crate::telemetry::chain;

/// The channel for ingests that were queued.
pub(super) const QUEUED: &str = "movies_r_us_queued";
/// The channel for ingests that have ended. The payload has their ids, separated by commas.
pub(super) const ENDED: &str = "movies_r_us_finished";

/// The channel for changes of the catalogue. The payload has the new revision.
pub(super) const REVISION: &str = "movies_r_us_revision";

/// The channel for sessions that have ended.
pub(super) const REVOKED: &str = "movies_r_us_revoked";

/// How many ends are kept for their reader.
const MAX_ENDS: usize = 10_000;

/// The delay before a new connection is opened.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);

/// How often the connection is tested. Without traffic, a dead server looks like an idle one.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Hints of what has happened, in this process or in another one.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    /// Changes when an ingest was queued.
    pub(crate) queued: watch::Sender<()>,
    /// Changes when an ingest has ended.
    pub(crate) ended: watch::Sender<()>,
    /// Changes when a session has ended.
    pub(crate) revoked: watch::Sender<()>,
    /// Asks to tell the other processes that an ingest was queued.
    announcing: Notify,
    /// The tasks that wait for the end of an ingest, by its id.
    waiting: Mutex<HashMap<i64, Waiting>>,
    /// What [`Self::take_ends`] returns next.
    ends: Mutex<Ends>,
    /// Notified when `ends` has something.
    pub(crate) ends_arrived: Notify,
    /// Whether notifications arrive.
    is_listening: AtomicBool,
}

/// Ends of ingests, of all processes.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    /// The ingests, in the order of the commits that ended them. It is the same in all processes.
    pub(crate) ids: Vec<i64>,
    /// Whether ends before these may be missing.
    pub(crate) has_gap: bool,
}

/// The tasks that wait for the end of one ingest.
#[derive(Debug, Default)]
struct Waiting {
    tasks: usize,
    wake: Arc<Notify>,
}

impl Hints {
    /// Wakes up the workers of this process, and soon those of the others.
    ///
    /// It does not take part in the transaction that queued the ingest: Postgres lets one transaction
    /// at a time commit its notifications, and would so flush one commit after another.
    pub(super) fn announce_queued(&self) {
        self.queued.send_replace(());
        self.announcing.notify_one();
    }

    /// Wakes up who keeps the ended sessions of this process.
    pub(super) fn announce_revoked(&self) {
        self.revoked.send_replace(());
    }

    /// Wakes up whoever waits for the end of one of these ingests.
    pub(super) fn announce_ended(&self, ids: impl IntoIterator<Item = i64>) {
        let waiting = self.waiting();
        for id in ids {
            if let Some(waiting) = waiting.get(&id) {
                waiting.wake.notify_waiters();
            }
        }
        drop(waiting);
        self.ended.send_replace(());
    }

    /// Whether notifications of the database arrive.
    pub(crate) fn is_listening(&self) -> bool {
        self.is_listening.load(Ordering::Relaxed)
    }

    /// Returns the ends that notifications have told of since the last call. There is one reader.
    pub(crate) fn take_ends(&self) -> Ends {
        mem::take(&mut *self.ends())
    }

    /// Keeps ends for their reader.
    fn add_ends(&self, ids: &[i64]) {
        let mut ends = self.ends();
        ends.ids.extend(ids);
        if ends.ids.len() > MAX_ENDS {
            *ends = Ends { ids: Vec::new(), has_gap: true };
        }
        drop(ends);
        self.ends_arrived.notify_one();
    }

    /// Wakes up everybody: hints may have been missed.
    fn announce_all(&self) {
        // Whoever now reads the ledger sees the ends so far.
        *self.ends() = Ends { ids: Vec::new(), has_gap: true };
        self.ends_arrived.notify_one();
        self.queued.send_replace(());
        self.waiting().values().for_each(|waiting| waiting.wake.notify_waiters());
        self.ended.send_replace(());
        self.revoked.send_replace(());
    }

    /// Returns a hint of the end of an ingest. Whoever reads the ledger afterwards misses no end.
    pub(crate) fn end_of(&self, id: i64) -> EndHint<'_> {
        let mut all = self.waiting();
        let waiting = all.entry(id).or_default();
        waiting.tasks += 1;
        let mut woken = Box::pin(Arc::clone(&waiting.wake).notified_owned());
        woken.as_mut().enable();
        EndHint { hints: self, id, woken }
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<i64, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A hint of the end of one ingest.
pub(crate) struct EndHint<'a> {
    hints: &'a Hints,
    id: i64,
    woken: Pin<Box<OwnedNotified>>,
}

impl EndHint<'_> {
    /// Waits for the hint.
    pub(crate) async fn received(&mut self) {
        self.woken.as_mut().await;
    }
}

impl Drop for EndHint<'_> {
    fn drop(&mut self) {
        let mut all = self.hints.waiting();
        if let Some(waiting) = all.get_mut(&self.id) {
            waiting.tasks -= 1;
            if waiting.tasks == 0 {
                all.remove(&self.id);
            }
        }
    }
}

/// Tells all processes that these ingests have ended; within a transaction, when it commits.
pub(super) async fn announce_ended(
    client: &impl GenericClient,
    ids: &[i64],
) -> Result<(), StoreError> {
    let announce = "
        /* listen::announce_ended */
        select pg_notify($1, $2)";
    let ids = ids.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
    execute(client, announce, &[&ENDED, &ids]).await?;
    Ok(())
}

/// Tells all processes that sessions have ended, when the transaction commits.
pub(super) async fn announce_revoked(client: &impl GenericClient) -> Result<(), StoreError> {
    let announce = "
        /* listen::announce_revoked */
        select pg_notify($1, '')";
    execute(client, announce, &[&REVOKED]).await?;
    Ok(())
}

impl Store {
    /// Turns notifications into hints, and tells other processes of queued ingests, for ever. It
    /// reconnects when the connection breaks.
    pub(crate) async fn listen(&self) {
        tokio::join!(self.keep_listening(), self.keep_announcing());
    }

    async fn keep_announcing(&self) {
        let announce = "
            /* listen::keep_announcing */
            select pg_notify($1, '')";
        loop {
            self.hints.announcing.notified().await;
            // Nobody waits for it: the others also poll.
            if let Ok(connection) = self.worker().await
                && let Err(error) = execute(&connection, announce, &[&QUEUED]).await
            {
                debug!(%error, "the other processes were not notified");
            }
        }
    }

    async fn keep_listening(&self) {
        loop {
            let ended = self.listen_once().await;
            self.hints.is_listening.store(false, Ordering::Relaxed);
            if let Err(error) = ended {
                warn!(error = chain(&error), "listening to the database failed, will reconnect");
            }
            sleep(RECONNECT_AFTER).await;
        }
    }

    async fn listen_once(&self) -> Result<(), StoreError> {
        let opened = timeout(TIMEOUT, self.connector.open(&self.listener_config)).await;
        let (client, connection) = opened??;
        // With a reader endpoint the revision is the one that the reader has.
        let revision = (!self.has_read_host).then_some(&*self.revision);
        forward(client, connection, self.hints(), revision).await
    }
}

async fn forward<S, T>(
    client: Client,
    mut connection: Connection<S, T>,
    hints: &Hints,
    known: Option<&KnownRevision>,
) -> Result<(), StoreError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
    let subscribe = format!("listen {QUEUED}; listen {ENDED}; listen {REVISION}; listen {REVOKED}");
    let subscribe = client.batch_execute(&subscribe);
    let receive = async {
        while let Some(message) = messages.next().await {
            if let AsyncMessage::Notification(notification) = message? {
                match notification.channel() {
                    QUEUED => hints.queued.send_replace(()),
                    REVOKED => hints.announce_revoked(),
                    REVISION => {
                        let revision = Revision::parse(notification.payload());
                        if let (Some(known), Some(revision)) = (known, revision) {
                            known.learn(revision);
                        }
                    }
                    _ => {
                        let ids = notification.payload().split(',');
                        let ids: Vec<i64> = ids.filter_map(|id| id.parse().ok()).collect();
                        hints.add_ends(&ids);
                        hints.announce_ended(ids);
                    }
                }
            }
        }
        Ok::<(), StoreError>(())
    };
    let keep_alive = async {
        subscribe.await?;
        info!("listening to the database");
        hints.is_listening.store(true, Ordering::Relaxed);
        // Notifications may have been missed before.
        hints.announce_all();
        loop {
            sleep(KEEPALIVE).await;
            let test = client.batch_execute("/* listen::forward */");
            timeout(TIMEOUT, test).await??;
        }
    };
    tokio::select! {
        ended = receive => ended,
        failed = keep_alive => failed,
    }
}
