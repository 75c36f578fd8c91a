//! One poll of the response's body less for each chunk.
//!
//! Behind a chunk, hyper polls the body until it is pending, flushes, and polls it again, as it may
//! have become ready since.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::http1::Activity;

pin_project! {
    /// A response's body that is pending once in a poll of its connection.
    pub(super) struct ResponseBody<B> {
        #[pin]
        body: B,
        activity: Activity,
        // The poll in which it was.
        pending_in: Option<usize>,
    }
}

impl<B> ResponseBody<B> {
    pub(super) fn new(body: B, activity: Activity) -> Self {
        Self {
            body,
            activity,
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
        let current = Some(this.activity.current_poll());
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
    use std::{task::Waker, time::Duration};

    use http_body_util::Channel;

    use super::*;

    #[test]
    fn a_pending_body_is_polled_again_with_its_connection() {
        let (mut sender, body) = Channel::<Bytes>::new(1);
        let activity = Activity::new(Duration::ZERO);
        let mut body = Box::pin(ResponseBody::new(body, activity.clone()));
        let mut cx = Context::from_waker(Waker::noop());
        let mut poll = || {
            let frame = body.as_mut().poll_frame(&mut cx);
            frame.map(|frame| frame.and_then(|frame| frame.ok()?.into_data().ok()))
        };

        activity.begin_poll();
        assert!(poll().is_pending());
        sender.try_send(Frame::data("a".into())).expect("room");
        assert!(poll().is_pending(), "in the same poll");
        activity.begin_poll();
        assert_eq!(poll(), Poll::Ready(Some("a".into())));
        assert!(poll().is_pending(), "behind the chunk");
        drop(sender);
        assert!(poll().is_pending(), "in the same poll");
        activity.begin_poll();
        assert_eq!(poll(), Poll::Ready(None));
    }
}
