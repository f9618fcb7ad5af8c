//! Threads for decoding.

use std::{
    num::NonZero, panic::resume_unwind, sync::Arc, thread::available_parallelism, time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinError,
};

/// The threads of a process that decode. Clones share them.
///
/// Decoding occupies a processor. It never runs on the threads that serve requests and renew leases,
/// and leaves one core to those. Work waits in a queue, first in, first out, so that each file gets
/// its turn.
///
/// The threads are few and their own, because the allocator keeps freed memory apart for each thread:
/// the memory of decoding would otherwise grow with the number of threads that ever decoded.
#[derive(Clone, Debug)]
pub struct DecodePool(Arc<Threads>);

/// A runtime that is used for its blocking threads alone. None only while it is dropped.
#[derive(Debug)]
struct Threads(Option<Runtime>);

impl Default for DecodePool {
    /// Returns a pool of one thread fewer than the process has cores, at least one.
    fn default() -> Self {
        Self::new(available_parallelism().map_or(1, NonZero::get) - 1)
    }
}

impl DecodePool {
    /// Returns a pool of so many threads, at least one. They start when they are needed.
    #[expect(clippy::expect_used, reason = "a runtime without drivers needs nothing of the system")]
    pub fn new(threads: usize) -> Self {
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(threads.max(1))
            .thread_name("decode")
            .build()
            .expect("a runtime without drivers");
        Self(Arc::new(Threads(Some(runtime))))
    }

    /// Runs `work` on a thread of the pool. Returns its result, and the processor time that it took.
    ///
    /// The work runs even if the future is dropped.
    ///
    /// # Panics
    /// If `work` panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> (T, Duration) {
        let measured = || {
            let started = processor_time();
            let result = work();
            (result, processor_time().saturating_sub(started))
        };
        let Some(runtime) = &self.0.0 else { return std::future::pending().await };
        match runtime.spawn_blocking(measured).await.map_err(JoinError::try_into_panic) {
            Ok(done) => done,
            Err(Ok(panic)) => resume_unwind(panic),
            // Only a pool that is dropped cancels work. This future borrows it.
            Err(Err(_)) => std::future::pending().await,
        }
    }
}

impl Drop for Threads {
    /// Does not wait for the threads: a task of another runtime may drop the pool.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Returns the processor time of the current thread. Unlike the time on a clock, it does not depend
/// on what else the machine does.
fn processor_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}
