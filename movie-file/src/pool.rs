//! Threads for decoding.

use std::{
    num::NonZero, panic::resume_unwind, sync::Arc, thread::available_parallelism, time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Semaphore,
    task::JoinError,
};

/// The threads of a process that decode. Clones share them.
///
/// Decoding occupies a processor. It never runs on the threads that serve requests and renew leases,
/// and leaves one core to those if there are several. On a single core the operating system shares it
/// between the two. Work waits in a queue, first in, first out, so that each file gets its turn.
///
/// The threads are few and their own, because the allocator keeps freed memory apart for each thread:
/// the memory of decoding would otherwise grow with the number of threads that ever decoded.
#[derive(Clone, Debug)]
pub struct DecodePool {
    threads: Arc<Threads>,
    /// One permit for each thread. The queue is here, and not in the runtime, because work that waits
    /// here ends with its future.
    turns: Arc<Semaphore>,
}

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
        let threads = threads.max(1);
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(threads)
            .thread_name("decode")
            .build()
            .expect("a runtime without drivers");
        let turns = Arc::new(Semaphore::new(threads));
        Self { threads: Arc::new(Threads(Some(runtime))), turns }
    }

    /// Runs `work` on a thread of the pool. Returns its result, and the processor time that it took.
    ///
    /// If the future is dropped, work that has not begun is dropped with it. Work that has begun runs
    /// to its end, and keeps its thread until then.
    ///
    /// # Panics
    /// If `work` panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> (T, Duration) {
        let (Some(runtime), Ok(turn)) =
            (&self.threads.0, Arc::clone(&self.turns).acquire_owned().await)
        else {
            return std::future::pending().await;
        };
        let measured = move || {
            let started = processor_time();
            let result = work();
            drop(turn);
            (result, processor_time().saturating_sub(started))
        };
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn work_that_has_not_begun_is_dropped_with_its_future() {
        let pool = DecodePool::new(1);
        let (finish, finished) = mpsc::channel::<()>();
        let mut first = Box::pin(pool.run(move || finished.recv()));
        assert!(first.as_mut().now_or_never().is_none());
        let memory = Arc::new(());
        let held = Arc::clone(&memory);
        assert!(pool.run(move || drop(held)).now_or_never().is_none());
        assert_eq!(Arc::strong_count(&memory), 1);
        // The first work runs on without its future, and the next one after it.
        drop(first);
        finish.send(()).unwrap();
        assert_eq!(pool.run(|| 2).await.0, 2);
    }

    #[tokio::test]
    async fn work_that_panics_gives_its_thread_back() {
        let pool = DecodePool::new(1);
        let panicked = std::panic::AssertUnwindSafe(pool.run(|| panic!("a test")));
        assert!(panicked.catch_unwind().await.is_err());
        assert_eq!(pool.run(|| 2).await.0, 2);
    }
}
