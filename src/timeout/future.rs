//! The response of `Timeout`, with the response-header timeout.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::Response;
use pin_project_lite::pin_project;

use super::{TimeoutBody, head::HeadClock};
use crate::{
    backend::Backend,
    clock::IdleClock,
    error::{BoxError, Error, Kind},
};

pin_project! {
    /// The response of [`Timeout`](super::Timeout), unless its head takes too long.
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        clock: Option<HeadClock>,
        idle: Option<Duration>,
        backend: Option<Backend>,
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(
        inner: F,
        clock: Option<HeadClock>,
        idle: Option<Duration>,
        backend: Option<Backend>,
    ) -> Self {
        Self {
            inner,
            clock,
            idle,
            backend,
        }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<TimeoutBody<R>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // The work before the clock: a response that is there is never late.
        if let Poll::Ready(response) = this.inner.poll(cx) {
            let clock = this
                .idle
                .map(|period| (IdleClock::new(period), this.backend.take()));
            return Poll::Ready(match response {
                Ok(response) => Ok(response.map(|body| TimeoutBody::new(body, clock))),
                Err(error) => Err(Error::from_service(error)),
            });
        }
        let Some(clock) = this.clock else {
            return Poll::Pending;
        };
        ready!(clock.poll_elapsed(cx));
        let error = Error::new(Kind::ResponseTimeout);
        Poll::Ready(Err(match this.backend {
            Some(backend) => error.with_backend(backend),
            None => error,
        }))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
