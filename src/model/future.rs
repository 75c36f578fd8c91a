use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, request::Parts};
use pin_project_lite::pin_project;
use tower::Service;

use super::{splice::Splice, with_body};
use crate::{
    body::RequestBody,
    error::{BoxError, Error},
};

pin_project! {
    /// The response of [`ModelOverride`](super::ModelOverride).
    pub struct ResponseFuture<S>
    where
        S: Service<Request<RequestBody>>,
    {
        #[pin]
        state: State<S, S::Future>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F> {
        Reading { reading: Option<Box<Reading<S>>> },
        Passed { #[pin] future: F },
        Failed { error: Option<Error> },
    }
}

/// A request whose body is being read. In a box, as it is large and short-lived.
struct Reading<S> {
    parts: Parts,
    body: RequestBody,
    splice: Splice,
    service: S,
}

impl<S> Reading<S> {
    /// Reads the body to its end, or to where it turns out not to be a JSON object.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Self { body, splice, .. } = self;
        body.poll_to_end(cx, |piece| Ok(splice.feed(piece)?))
    }
}

impl<S> ResponseFuture<S>
where
    S: Service<Request<RequestBody>>,
{
    pub(super) fn reading(request: Request<RequestBody>, model_json: Bytes, service: S) -> Self {
        let (parts, body) = request.into_parts();
        let reading = Some(Box::new(Reading {
            parts,
            body,
            splice: Splice::new(model_json),
            service,
        }));
        Self {
            state: State::Reading { reading },
        }
    }

    pub(super) fn passed(future: S::Future) -> Self {
        Self {
            state: State::Passed { future },
        }
    }

    pub(super) fn failed(error: Error) -> Self {
        Self {
            state: State::Failed { error: Some(error) },
        }
    }
}

impl<S> Future for ResponseFuture<S>
where
    S: Service<Request<RequestBody>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProj::Reading { reading } => {
                    let mut request = reading.take().expect("not polled after the end");
                    if request.poll(cx)?.is_pending() {
                        *reading = Some(request);
                        return Poll::Pending;
                    }
                    let Reading {
                        parts,
                        splice,
                        mut service,
                        ..
                    } = *request;
                    let request = with_body(parts, splice.finish()?);
                    state.set(State::Passed {
                        future: service.call(request),
                    });
                }
                StateProj::Passed { future } => {
                    return future.poll(cx).map_err(Error::from_service);
                }
                StateProj::Failed { error } => {
                    return Poll::Ready(Err(error.take().expect("not polled after the end")));
                }
            }
        }
    }
}

impl<S> fmt::Debug for ResponseFuture<S>
where
    S: Service<Request<RequestBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
