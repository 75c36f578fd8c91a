//! One attempt: a call of the wrapped service, once it is ready.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Request;
use tower::Service;

use crate::body::RequestBody;

/// In boxes, as it is moved from stage to stage.
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
            Poll::Ready(Ok(())) => Self::Called(Box::pin(service.call(request))),
            Poll::Ready(Err(error)) => Self::Failed(Some(error)),
            Poll::Pending => Self::Waiting(Box::new(Waiting { service, request })),
        }
    }

    #[inline(always)]
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<S::Response, S::Error>> {
        loop {
            match self {
                Self::Called(response) => return response.as_mut().poll(cx),
                Self::Waiting(waiting) => {
                    let result = ready!(waiting.service.poll_ready(cx));
                    if let Self::Waiting(waiting) = std::mem::replace(self, Self::Failed(None)) {
                        let Waiting {
                            mut service,
                            request,
                        } = *waiting;
                        *self = match result {
                            Ok(()) => Self::Called(Box::pin(service.call(request))),
                            Err(error) => Self::Failed(Some(error)),
                        };
                    }
                }
                Self::Failed(error) => {
                    return Poll::Ready(Err(error.take().expect("not polled after the end")));
                }
            }
        }
    }
}
