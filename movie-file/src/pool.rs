//! Threads for decoding.

use std::{
    num::NonZero, panic::resume_unwind, sync::Arc, thread::available_parallelism, time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tokio::{sync::Semaphore, task::spawn_blocking};

/// Bounds how many threads of a process decode at the same time. Clones share the bound.
///
/// Decoding occupies a processor. It runs on blocking threads, never on the threads that serve
/// requests and renew leases. It leaves one core to those. Work waits in a queue, so that each file
/// gets its turn.
#[derive(Clone, Debug)]
pub struct DecodePool {
    permits: Arc<Semaphore>,
}

impl Default for DecodePool {
    /// Returns a pool of one thread fewer than the process has cores, at least one.
    fn default() -> Self {
        Self::new(available_parallelism().map_or(1, NonZero::get) - 1)
    }
}

impl DecodePool {
    /// Returns a pool of so many threads, at least one.
    pub fn new(threads: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(threads.max(1))) }
    }

    /// Runs `work` on a thread of the pool. Returns its result, and the processor time that it took.
    ///
    /// Work that has begun runs to its end, even if the future is dropped.
    ///
    /// # Panics
    /// If `work` panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> (T, Duration) {
        // The semaphore is never closed.
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let working = spawn_blocking(move || {
            let _permit = permit;
            let started = processor_time();
            let result = work();
            (result, processor_time().saturating_sub(started))
        });
        match working.await.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(done) => done,
            Err(Ok(panic)) => resume_unwind(panic),
            // The runtime is shutting down, and drops this future, too.
            Err(Err(_)) => std::future::pending().await,
        }
    }
}

/// Returns the processor time of the current thread. Unlike the time on a clock, it does not depend
/// on what else the machine does.
fn processor_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}
