//! One attempt: a call of the wrapped service, once it is ready.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Request;
use tower::Service;

use crate::body::RequestBody;

/// A call of a service, before it and after it. In boxes, as it is moved from stage to stage.
pub(super) enum Attempt<S: Service<Request<RequestBody>>> {
    Waiting(Box<Waiting<S>>),
    Called(Pin<Box<S::Future>>),
    /// The service can take no request.
    Failed(Option<S::Error>),
}

/// A service that isn't ready yet.
pub(super) struct Waiting<S> {
    service: S,
    request: Request<RequestBody>,
}

impl<S: Service<Request<RequestBody>>> Attempt<S> {
    /// Calls the service right away if it is ready. What becomes ready later must be polled once more.
    #[inline(always)]
    pub(super) fn new(mut service: S, request: Request<RequestBody>, cx: &mut Context<'_>) -> Self {
        match service.poll_ready(cx) {
            Poll::Ready(readiness) => Self::begin(service, request, readiness),
            Poll::Pending => Self::Waiting(Box::new(Waiting { service, request })),
        }
    }

    /// The call, if the service is ready for it.
    #[inline(always)]
    fn begin(
        mut service: S,
        request: Request<RequestBody>,
        readiness: Result<(), S::Error>,
    ) -> Self {
        match readiness {
            Ok(()) => Self::Called(Box::pin(service.call(request))),
            Err(error) => Self::Failed(Some(error)),
        }
    }

    #[inline(always)]
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<S::Response, S::Error>> {
        loop {
            match self {
                Self::Called(response) => return response.as_mut().poll(cx),
                Self::Waiting(waiting) => {
                    let readiness = ready!(waiting.service.poll_ready(cx));
                    if let Self::Waiting(waiting) = std::mem::replace(self, Self::Failed(None)) {
                        *self = Self::begin(waiting.service, waiting.request, readiness);
                    }
                }
                Self::Failed(error) => {
                    return Poll::Ready(Err(error.take().expect("not polled after the end")));
                }
            }
        }
    }
}
