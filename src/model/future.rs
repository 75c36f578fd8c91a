//! The response of `ModelOverride`, whose request may have to be buffered first.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, request::Parts};
use pin_project_lite::pin_project;
use tower::Service;

use super::{Place, Replacement};
use crate::{
    body::{Buffer, RequestBody},
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
        Buffering { buffering: Option<Box<Buffering<S>>> },
        Forwarded { #[pin] future: F },
        Failed { error: Option<Error> },
    }
}

/// A request whose body is being read. In a box, as it is large and short-lived.
struct Buffering<S> {
    parts: Parts,
    body: Buffer,
    place: Place,
    replacement: Replacement,
    service: S,
}

impl<S> ResponseFuture<S>
where
    S: Service<Request<RequestBody>>,
{
    pub(super) fn buffering(
        parts: Parts,
        body: Buffer,
        place: Place,
        replacement: Replacement,
        service: S,
    ) -> Self {
        let buffering = Some(Box::new(Buffering {
            parts,
            body,
            place,
            replacement,
            service,
        }));
        Self {
            state: State::Buffering { buffering },
        }
    }

    pub(super) fn forwarded(future: S::Future) -> Self {
        Self {
            state: State::Forwarded { future },
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
        const AGAIN: &str = "not polled after the end";
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProj::Buffering { buffering } => {
                    let pending = buffering.as_mut().expect(AGAIN);
                    let body = ready!(Pin::new(&mut pending.body).poll(cx));
                    let Buffering {
                        parts,
                        place,
                        replacement,
                        mut service,
                        ..
                    } = *buffering.take().expect(AGAIN);
                    let (parts, body) = replacement.apply(place, parts, body?)?;
                    let request = Request::from_parts(parts, body);
                    state.set(State::Forwarded {
                        future: service.call(request),
                    });
                }
                StateProj::Forwarded { future } => {
                    return future.poll(cx).map_err(Error::from_service);
                }
                StateProj::Failed { error } => {
                    return Poll::Ready(Err(error.take().expect(AGAIN)));
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
