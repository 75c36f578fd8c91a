//! One poll of the response's body less for each chunk.
//!
//! Behind a chunk, hyper polls the body until it is pending, flushes, and polls it again, as it may
//! have become ready since. If it has, it has woken the connection, which is polled again in any
//! case: until then, a body that is pending stays so.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// Counts the polls of a connection.
#[derive(Clone, Default)]
pub(super) struct Polls(Arc<AtomicUsize>);

impl Polls {
    /// To be told of each, by the one task that polls.
    pub(super) fn begin(&self) {
        self.0.store(self.current().wrapping_add(1), Relaxed);
    }

    fn current(&self) -> usize {
        self.0.load(Relaxed)
    }
}

pin_project! {
    /// A response's body that is pending once in a poll of its connection.
    pub(super) struct ResponseBody<B> {
        #[pin]
        body: B,
        polls: Polls,
        // The poll in which it was.
        pending_in: Option<usize>,
    }
}

impl<B> ResponseBody<B> {
    pub(super) fn new(body: B, polls: Polls) -> Self {
        Self {
            body,
            polls,
            pending_in: None,
        }
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let current = Some(this.polls.current());
        if *this.pending_in == current {
            return Poll::Pending;
        }
        *this.pending_in = current;
        let frame = ready!(this.body.poll_frame(cx));
        *this.pending_in = None;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http_body_util::Channel;

    use super::*;

    #[test]
    fn a_pending_body_is_polled_again_with_its_connection() {
        let (mut sender, body) = Channel::<Bytes>::new(1);
        let polls = Polls::default();
        let mut body = Box::pin(ResponseBody::new(body, polls.clone()));
        let mut cx = Context::from_waker(Waker::noop());
        let mut poll = || {
            let frame = body.as_mut().poll_frame(&mut cx);
            frame.map(|frame| frame.and_then(|frame| frame.ok()?.into_data().ok()))
        };

        polls.begin();
        assert!(poll().is_pending());
        sender.try_send(Frame::data("a".into())).expect("room");
        assert!(poll().is_pending(), "in the same poll");
        polls.begin();
        assert_eq!(poll(), Poll::Ready(Some("a".into())));
        assert!(poll().is_pending(), "behind the chunk");
        drop(sender);
        assert!(poll().is_pending(), "in the same poll");
        polls.begin();
        assert_eq!(poll(), Poll::Ready(None));
    }
}
