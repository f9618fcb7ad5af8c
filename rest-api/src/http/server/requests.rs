//! The body of a request, as far as it has arrived.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::connections::{PROGRESS, Receiving};

/// The body of a request. It reports its progress to the place of its connection.
pub(super) struct ReceivedBody {
    body: Incoming,
    /// None after the last byte.
    receiving: Option<Receiving>,
    /// How many bytes have arrived since the last report.
    unreported: usize,
}

impl ReceivedBody {
    /// Wraps a body that arrives as `receiving` says; none if it has arrived.
    pub(super) fn new(body: Incoming, receiving: Option<Receiving>) -> Self {
        Self { body, receiving, unreported: 0 }
    }
}

impl Body for ReceivedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() || self.body.is_end_stream() {
            self.receiving = None;
        }
        if let Some(Ok(frame)) = &frame {
            self.unreported += frame.data_ref().map_or(0, Bytes::len);
        }
        if self.unreported >= PROGRESS {
            self.unreported = 0;
            self.receiving.iter().for_each(Receiving::progress);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
