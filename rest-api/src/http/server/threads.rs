//! The threads that serve connections: one for each core, with a runtime of its own.
//!
//! A connection stays on its thread, so that most requests are served without waking another one
//! (docs/performance.md). Workers and other background work run on the runtime of the service.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};
use tracing::warn;

/// The threads. They end when this is dropped, and with them what they still run.
pub(super) struct Threads {
    handles: Vec<Handle>,
    /// Counts the connections.
    connections: AtomicUsize,
    /// A thread ends when its sender is dropped.
    _running: Vec<oneshot::Sender<()>>,
}

impl Threads {
    /// Starts the threads. If the system has none left, connections are served by the runtime of the caller.
    pub(super) fn start() -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let started: io::Result<Vec<_>> = (0..cores).map(|_| start_one()).collect();
        let (handles, running) = match started {
            Ok(threads) => threads.into_iter().unzip(),
            Err(error) => {
                warn!(%error, "connections have no threads of their own");
                (vec![Handle::current()], Vec::new())
            }
        };
        Self { handles, connections: AtomicUsize::new(0), _running: running }
    }

    /// Returns the thread of the next connection: each in turn.
    pub(super) fn next(&self) -> &Handle {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        &self.handles[number % self.handles.len()]
    }
}

fn start_one() -> io::Result<(Handle, oneshot::Sender<()>)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (running, ended) = oneshot::channel::<()>();
    thread::Builder::new().name("connections".to_owned()).spawn(move || {
        // An error is the end.
        let _ = runtime.block_on(ended);
    })?;
    Ok((handle, running))
}
