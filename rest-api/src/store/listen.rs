//! Wakes up waiting tasks by Postgres's LISTEN and NOTIFY.
//!
//! A notification of Postgres is a hint. It is lost while the connection is down, and whoever waits
//! for it also polls.

use std::time::Duration;

use deadpool_postgres::GenericClient;
use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_postgres::{AsyncMessage, Client, Connection};
use tracing::{info, warn};

use super::{Store, StoreError, connect::TIMEOUT, sql::execute};
use crate::telemetry::chain;

/// The channel for ingests that were queued.
pub(super) const QUEUED: &str = "movies_r_us_queued";
/// The channel for ingests that have ended.
pub(super) const FINISHED: &str = "movies_r_us_finished";

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
    pub(crate) finished: watch::Sender<()>,
}

/// Notifies all processes that listen on `channel`; within a transaction, when it commits.
pub(super) async fn announce(
    client: &impl GenericClient,
    channel: &'static str,
) -> Result<(), StoreError> {
    let announce = "
        /* listen::announce */
        select pg_notify($1, '')";
    execute(client, announce, &[&channel]).await?;
    Ok(())
}

impl Store {
    /// Turns notifications into hints, for ever. It reconnects when the connection breaks.
    pub(crate) async fn listen(&self) {
        loop {
            if let Err(error) = self.listen_once().await {
                warn!(error = chain(&error), "listening to the database failed, will reconnect");
            }
            sleep(RECONNECT_AFTER).await;
        }
    }

    async fn listen_once(&self) -> Result<(), StoreError> {
        let opened = timeout(TIMEOUT, self.connector.open(&self.listener_config)).await;
        let (client, connection) = opened.map_err(timed_out)??;
        forward(client, connection, self.hints()).await
    }
}

async fn forward<S, T>(
    client: Client,
    mut connection: Connection<S, T>,
    hints: &Hints,
) -> Result<(), StoreError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
    let subscribe = format!("listen {QUEUED}; listen {FINISHED}");
    let subscribe = client.batch_execute(&subscribe);
    let receive = async {
        while let Some(message) = messages.next().await {
            if let AsyncMessage::Notification(notification) = message? {
                match notification.channel() {
                    QUEUED => hints.queued.send_replace(()),
                    _ => hints.finished.send_replace(()),
                };
            }
        }
        Ok::<(), StoreError>(())
    };
    let keep_alive = async {
        subscribe.await?;
        info!("listening to the database");
        // Notifications may have been missed before.
        hints.queued.send_replace(());
        hints.finished.send_replace(());
        loop {
            sleep(KEEPALIVE).await;
            let test = client.batch_execute("/* listen::forward */");
            timeout(TIMEOUT, test).await.map_err(timed_out)??;
        }
    };
    tokio::select! {
        ended = receive => ended,
        failed = keep_alive => failed,
    }
}

fn timed_out(elapsed: tokio::time::error::Elapsed) -> StoreError {
    StoreError::Unavailable(elapsed.into())
}
