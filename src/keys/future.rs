//! The response of an admitted request, or of one that is refused.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::{ResponseBody, limit::Permit};
use crate::{error::Error, tunnel::Tunnel};

/// What rides a response to its end.
#[derive(Debug, Default)]
pub(crate) struct Rider(Option<Permit>);

impl Rider {
    /// Goes over into the response's tunnel, if it opens one, and ends at once if it has no body.
    pub(crate) fn new<B: Body>(mut permit: Option<Permit>, response: &Response<B>) -> Self {
        if let Some(tunnel) = Tunnel::of(response) {
            if let Some(permit) = permit.take() {
                tunnel.at_end(|_| drop(permit));
            }
        } else if response.body().is_end_stream() {
            permit = None;
        }
        Self(permit)
    }

    /// To be told of everything that the body gives, before that is passed on: the client may send
    /// its next request as soon as it has the last byte.
    pub(crate) fn after<B: Body, F, E>(&mut self, body: &B, polled: &Poll<Option<Result<F, E>>>) {
        let has_ended = match polled {
            Poll::Pending => false,
            Poll::Ready(Some(Ok(_))) => self.0.is_some() && body.is_end_stream(),
            Poll::Ready(None | Some(Err(_))) => true,
        };
        if has_ended {
            self.0 = None;
        }
    }
}

pin_project! {
    /// The response of [`Keys`](super::Keys).
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Admitted { #[pin] future: F, permit: Option<Permit> },
        Refused { error: Error },
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn admitted(future: F, permit: Option<Permit>) -> Self {
        Self {
            state: State::Admitted { future, permit },
        }
    }

    pub(super) fn refused(error: Error) -> Self {
        Self {
            state: State::Refused { error },
        }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().state.project() {
            StateProj::Admitted { future, permit } => {
                let result = ready!(future.poll(cx));
                let mut permit = permit.take();
                result.map(|response| {
                    let refused = response.extensions().get().is_some_and(Error::is_refusal);
                    if let Some(permit) = permit.as_mut().filter(|_| refused) {
                        permit.refund();
                    }
                    let rider = Rider::new(permit, &response);
                    response.map(|body| ResponseBody::admitted(body, rider))
                })
            }
            StateProj::Refused { error } => {
                let mut response = error.to_response().map(ResponseBody::own);
                response.extensions_mut().insert(error.clone());
                Ok(response)
            }
        })
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
