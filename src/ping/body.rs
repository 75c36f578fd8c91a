//! The response body with comments after idle times.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{
    clock::IdleClock,
    header::{content_type, has_field, is_event_stream},
};

const PING: Bytes = Bytes::from_static(b": ping\n\n");

pin_project! {
    /// A response body with a comment after each time it was idle, where it is a stream of events.
    pub struct PingBody<B> {
        #[pin]
        body: B,
        pings: Option<Box<Pings>>,
    }
}

struct Pings {
    clock: IdleClock,
    tail: Tail,
}

impl<B: Body<Data = Bytes>> PingBody<B> {
    pub(super) fn new(body: B, headers: &HeaderMap, period: Option<Duration>) -> Self {
        let is_pinged = || is_plain_event_stream(headers) && body.size_hint().exact().is_none();
        let pings = period.filter(|_| is_pinged()).map(|period| {
            Box::new(Pings {
                clock: IdleClock::new(period),
                tail: Tail::default(),
            })
        });
        Self { body, pings }
    }
}

/// Whether more bytes are allowed between the events.
fn is_plain_event_stream(headers: &HeaderMap) -> bool {
    let content_type = content_type(headers);
    content_type.is_some_and(is_event_stream)
        && !has_field(headers, &header::CONTENT_ENCODING)
        && !has_field(headers, &header::CONTENT_LENGTH)
}

impl<B> Body for PingBody<B>
where
    B: Body<Data = Bytes>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let frame = this.body.poll_frame(cx);
        let Some(pings) = this.pings else {
            return frame;
        };
        match &frame {
            Poll::Pending if pings.tail.is_between_events() => {
                ready!(pings.clock.poll_elapsed(cx));
                pings.clock.reset();
                Poll::Ready(Some(Ok(Frame::data(PING))))
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(data))) if data.is_data() => {
                if let Some(data) = data.data_ref().filter(|data| !data.is_empty()) {
                    pings.clock.reset();
                    pings.tail.push(data);
                }
                frame
            }
            // Nothing may follow the trailers, an error or the end.
            Poll::Ready(_) => {
                *this.pings = None;
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        if self.pings.is_some() {
            let lower = hint.lower();
            hint = SizeHint::new();
            hint.set_lower(lower);
        }
        hint
    }
}

/// The last bytes of a stream.
pub(super) struct Tail([u8; 3]);

impl Default for Tail {
    /// A stream begins between events.
    fn default() -> Self {
        Self(*b"\n\n\n")
    }
}

impl Tail {
    pub(super) fn push(&mut self, data: &[u8]) {
        let Self(tail) = self;
        if let Some(last) = data.last_chunk() {
            *tail = *last;
        } else {
            tail.rotate_left(data.len());
            let start = tail.len() - data.len();
            tail[start..].copy_from_slice(data);
        }
    }

    /// Whether the last line was empty, so that an event ends here. Lines end with LF, CR LF or CR.
    ///
    /// A CR behind an LF isn't taken for an empty line: an LF may follow that belongs to it.
    pub(super) fn is_between_events(&self) -> bool {
        matches!(
            self.0,
            [_, b'\n', b'\n'] | [b'\n' | b'\r', b'\r', b'\n'] | [_, b'\r', b'\r']
        )
    }
}

impl<B> fmt::Debug for PingBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PingBody").finish_non_exhaustive()
    }
}
