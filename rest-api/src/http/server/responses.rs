//! The memory of responses that clients have not read yet.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tracing::debug;
use warp::reply;

use crate::{config::ServerLimits, http::response, problem::Problem};

/// The largest frame of a body, in bytes. hyper queues a frame whatever its size, and then waits
/// until the client has read it.
const MAX_FRAME: usize = 16 << 10;

/// How long a response may wait for memory.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(1);

/// When a client may retry whose response found no memory.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The memory of the bodies of all responses under way. A body of one frame is not counted: the
/// number of connections bounds these.
#[derive(Clone)]
pub(super) struct ResponseMemory {
    /// One permit a byte.
    under_way: Arc<Semaphore>,
    /// One permit a byte of the bodies that wait for memory.
    waiting: Arc<Semaphore>,
    /// The sizes of the two, in bytes.
    max_under_way: u32,
    max_waiting: u32,
}

/// The permits of a response. None if it needs none.
pub(super) type Reservation = Option<OwnedSemaphorePermit>;

impl ResponseMemory {
    pub(super) fn new(limits: &ServerLimits) -> Self {
        let (max_under_way, max_waiting) = (limits.response_bytes, limits.waiting_response_bytes);
        Self {
            under_way: Arc::new(Semaphore::new(max_under_way as usize)),
            waiting: Arc::new(Semaphore::new(max_waiting as usize)),
            max_under_way,
            max_waiting,
        }
    }

    /// Reserves the memory of a response until its last byte is written. Turns it into 503 if there is not
    /// enough.
    pub(super) async fn admit(&self, response: &mut reply::Response) -> Reservation {
        // The size of a stream is not known. It is read one frame at a time.
        let size = response.body().size_hint().exact().unwrap_or_default();
        if let Some(reservation) = self.reserve(size).await {
            return reservation;
        }
        debug!(size, "response refused: too many bytes of responses are under way");
        let problem = Problem::unavailable("too many responses are under way", RETRY_AFTER);
        *response = response::problem(&problem);
        None
    }

    /// Waits for the memory of a body. None if there is not enough in time. A body that is larger
    /// than all of the memory gets all of it.
    async fn reserve(&self, size: u64) -> Option<Reservation> {
        if size <= MAX_FRAME as u64 {
            return Some(None);
        }
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let _waiting = self.waiting.try_acquire_many(size.min(self.max_waiting)).ok()?;
        let permits = Arc::clone(&self.under_way).acquire_many_owned(size.min(self.max_under_way));
        timeout(MEMORY_TIMEOUT, permits).await.ok()?.ok().map(Some)
    }
}

/// A body in frames of at most [`MAX_FRAME`] bytes. It keeps a value until its last byte is written
/// to the socket, or is dropped with the connection.
pub(super) struct Guarded<B, G> {
    body: B,
    /// The rest of the present frame of `body`.
    rest: Bytes,
    guard: Arc<G>,
}

impl<B, G> Guarded<B, G> {
    pub(super) fn new(body: B, guard: G) -> Self {
        Self { body, rest: Bytes::new(), guard: Arc::new(guard) }
    }
}

impl<B, G> Body for Guarded<B, G>
where
    B: Body<Data = Bytes> + Unpin,
    G: Send + Sync + 'static,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        while this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let bytes = this.rest.split_to(this.rest.len().min(MAX_FRAME));
        let bytes = GuardedBytes { bytes, _guard: Arc::clone(&this.guard) };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(rest + body.lower());
        if let Some(upper) = body.upper() {
            hint.set_upper(rest + upper);
        }
        hint
    }
}

/// Bytes of a body. All bytes of a body share one allocation, so the guard lasts as long as any.
struct GuardedBytes<G> {
    bytes: Bytes,
    _guard: Arc<G>,
}

impl<G> AsRef<[u8]> for GuardedBytes<G> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn bodies_that_wait_for_memory_are_bounded() {
        let size = 100 << 10;
        let memory = ResponseMemory::new(&ServerLimits {
            response_bytes: 1 << 20,
            waiting_response_bytes: 150 << 10,
            ..ServerLimits::MAIN
        });
        let all = memory.reserve(1 << 20).await.unwrap();
        let mut waiting = pin!(memory.reserve(size));
        assert!(waiting.as_mut().now_or_never().is_none(), "it waits for memory");
        let refused = memory.reserve(size).now_or_never();
        assert!(refused.is_some_and(|reserved| reserved.is_none()), "refused at once");
        drop(all);
        assert!(waiting.await.is_some());
        assert!(memory.reserve(size).await.is_some());
    }
}
