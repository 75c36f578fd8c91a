//! The response body of `Timeout`, with its idle timeout.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{
    backend::Backend,
    clock::IdleClock,
    error::{BoxError, Error, Kind},
};

pin_project! {
    /// A response body that fails when the backend is idle for too long.
    ///
    /// Only the time in which the body is polled counts.
    pub struct TimeoutBody<B> {
        #[pin]
        body: B,
        clock: Option<(IdleClock, Option<Backend>)>,
    }
}

impl<B> TimeoutBody<B> {
    pub(super) fn new(body: B, clock: Option<(IdleClock, Option<Backend>)>) -> Self {
        Self { body, clock }
    }
}

impl<B> Body for TimeoutBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Error;

    #[inline(always)]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.project();
        let frame = this.body.poll_frame(cx);
        if let Some((clock, backend)) = this.clock {
            if frame.is_ready() {
                clock.reset();
            } else {
                ready!(clock.poll_elapsed(cx));
                let error = Error::new(Kind::BackendIdle);
                return Poll::Ready(Some(Err(match backend {
                    Some(backend) => error.with_backend(backend),
                    None => error,
                })));
            }
        }
        frame.map_err(Error::from_service)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> fmt::Debug for TimeoutBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutBody").finish_non_exhaustive()
    }
}
