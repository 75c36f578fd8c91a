use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, request::Parts};
use pin_project_lite::pin_project;
use tower::Service;

use super::override_model;
use crate::{
    body::{Hold, RequestBody},
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
        Holding { held: Option<Box<Held<S>>> },
        Passed { #[pin] future: F },
        Failed { error: Option<Error> },
    }
}

/// A request whose body is on its way into memory. In a box, as it is large and short-lived.
struct Held<S> {
    parts: Parts,
    body: Hold,
    model_json: Bytes,
    service: S,
}

impl<S> ResponseFuture<S>
where
    S: Service<Request<RequestBody>>,
{
    pub(super) fn hold(request: Request<RequestBody>, model_json: Bytes, service: S) -> Self {
        let (parts, body) = request.into_parts();
        let held = Some(Box::new(Held {
            parts,
            body: body.hold(),
            model_json,
            service,
        }));
        Self {
            state: State::Holding { held },
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
                StateProj::Holding { held } => {
                    let mut holding = held.take().expect("not polled after the end");
                    let Poll::Ready(body) = Pin::new(&mut holding.body).poll(cx)? else {
                        *held = Some(holding);
                        return Poll::Pending;
                    };
                    let Held {
                        parts,
                        model_json,
                        mut service,
                        ..
                    } = *holding;
                    let request = override_model(parts, &body, &model_json)?;
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
