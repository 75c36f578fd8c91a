//! Joins a response's chunks while a slow client doesn't take them.

#[cfg(test)]
mod tests;

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::activity::Activity;

/// Chunks are joined up to this size: that of the largest frame that clients take by default.
const JOINED_SIZE: usize = 16 * 1024;

/// So many chunks wait to be written before further ones are joined.
const MAX_WAITING: usize = 64;

pin_project! {
    /// A response's body whose chunks are joined where they can't be written yet.
    ///
    /// What waits for a slow client is bounded in bytes by h2, which takes some 300 more for each
    /// chunk. To a client that keeps up each chunk is forwarded as it is.
    pub(super) struct Joined<B>
    where
        B: Body,
    {
        #[pin]
        body: B,
        activity: Activity,
        // How often the connection had written when these chunks were handed over.
        writes: usize,
        waiting: usize,
        joined: Vec<u8>,
        // What has come behind the joined ones.
        next: Option<Option<Result<Frame<Bytes>, B::Error>>>,
    }
}

impl<B: Body> Joined<B> {
    pub(super) fn new(body: B, activity: Activity) -> Self {
        Self {
            body,
            activity,
            writes: 0,
            waiting: 0,
            joined: Vec::new(),
            next: None,
        }
    }
}

impl<B: Body<Data = Bytes>> Body for Joined<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let writes = this.activity.writes();
        if *this.writes != writes {
            *this.writes = writes;
            *this.waiting = 0;
        }
        let is_behind = this.activity.is_blocked() || *this.waiting >= MAX_WAITING;
        while this.next.is_none() && (is_behind || this.joined.is_empty()) {
            let Poll::Ready(frame) = this.body.as_mut().poll_frame(cx) else {
                if !this.joined.is_empty() {
                    this.activity.wake_after_write(cx.waker());
                }
                return Poll::Pending;
            };
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if is_behind && data.len() < JOINED_SIZE => {
                        this.joined.extend_from_slice(&data);
                        if this.joined.len() >= JOINED_SIZE || this.body.is_end_stream() {
                            break;
                        }
                    }
                    Ok(data) => *this.next = Some(Some(Ok(Frame::data(data)))),
                    Err(frame) => *this.next = Some(Some(Ok(frame))),
                },
                end => *this.next = Some(end),
            }
        }
        *this.waiting += 1;
        if this.joined.is_empty() {
            return Poll::Ready(this.next.take().flatten());
        }
        // No larger than it is: what waits is counted by its length.
        let joined = Bytes::copy_from_slice(this.joined);
        this.joined.clear();
        Poll::Ready(Some(Ok(Frame::data(joined))))
    }

    fn is_end_stream(&self) -> bool {
        self.joined.is_empty() && self.next.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.joined.is_empty() && self.next.is_none() {
            self.body.size_hint()
        } else {
            SizeHint::default()
        }
    }
}
