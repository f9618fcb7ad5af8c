//! Hears of what happens in other processes, by Postgres's LISTEN.
//!
//! A notification is a hint: it is lost while the connection is down, and nobody relies on it.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};
use tokio_postgres::{AsyncMessage, Client, Connection};
use tracing::{info, warn};

use super::{Hints, Store, StoreError, connect::TIMEOUT};
use crate::telemetry::chain;

/// The channel that says an ingest was queued.
pub(super) const QUEUED: &str = "movies_r_us_queued";
/// The channel that says an ingest came to its end.
pub(super) const FINISHED: &str = "movies_r_us_finished";

const RECONNECT_AFTER: Duration = Duration::from_secs(1);

/// How often the connection is tried while nothing is heard.
const KEEPALIVE: Duration = Duration::from_secs(5);

impl Store {
    /// Turns notifications into hints, for ever; reconnects when the connection breaks.
    pub(crate) async fn listen(&self) {
        loop {
            if let Err(error) = self.listen_once().await {
                warn!(error = chain(&error), "not listening to the database, will try again");
            }
            sleep(RECONNECT_AFTER).await;
        }
    }

    async fn listen_once(&self) -> Result<(), StoreError> {
        let opened = timeout(TIMEOUT, self.connector.open(&self.write_config)).await;
        let (client, connection) = opened.map_err(silent)??;
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
    let subscribed = async {
        subscribe.await?;
        info!("listening to the database");
        // Something may have happened while nobody listened.
        hints.queued.send_replace(());
        hints.finished.send_replace(());
        // A server that is gone says nothing, just as one that has nothing to say.
        loop {
            sleep(KEEPALIVE).await;
            let keepalive = client.batch_execute("/* listen::keepalive */");
            timeout(TIMEOUT, keepalive).await.map_err(silent)??;
        }
    };
    tokio::select! {
        ended = receive => ended,
        failed = subscribed => failed,
    }
}

fn silent(elapsed: tokio::time::error::Elapsed) -> StoreError {
    StoreError::Unavailable(elapsed.into())
}
