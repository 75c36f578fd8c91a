use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Response, header};
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::{Proxied, ResponseBody};
use crate::{
    error::{BoxError, Error},
    keys::{Permit, Rider},
};

pin_project! {
    /// The response of [`OpenAiProxy`](super::OpenAiProxy): of the wrapped service's future `W`, or
    /// of the stack, with a body around `P`.
    pub struct ResponseFuture<W, P> {
        #[pin]
        state: State<W, P>,
    }
}

/// What the stack makes of a request.
type Exchange<P> = Pin<Box<dyn Future<Output = Result<Response<Proxied<P>>, Error>> + Send>>;

pin_project! {
    #[project = StateProj]
    enum State<W, P> {
        Wrapped { #[pin] future: W },
        // In a box, and gone with the response headers: a server may keep the future's place for as
        // long as the client's connection.
        Proxied { exchange: Option<Exchange<P>>, is_http2: bool, permit: Option<Permit> },
        Answered { response: Option<Response<Bytes>> },
    }
}

impl<W, P> ResponseFuture<W, P> {
    pub(super) fn wrapped(future: W) -> Self {
        Self {
            state: State::Wrapped { future },
        }
    }

    pub(super) fn proxied<F>(exchange: F, is_http2: bool, permit: Option<Permit>) -> Self
    where
        F: Future<Output = Result<Response<Proxied<P>>, Error>> + Send + 'static,
    {
        Self {
            state: State::Proxied {
                exchange: Some(Box::pin(exchange)),
                is_http2,
                permit,
            },
        }
    }

    pub(super) fn answered(response: Response<Bytes>) -> Self {
        Self {
            state: State::Answered {
                response: Some(response),
            },
        }
    }
}

impl<W, R, P, E> Future for ResponseFuture<W, P>
where
    W: Future<Output = Result<Response<R>, E>>,
    P: Body<Data = Bytes>,
    P::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<R, P>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        const AGAIN: &str = "not polled after the end";
        Poll::Ready(match self.project().state.project() {
            StateProj::Wrapped { future } => {
                ready!(future.poll(cx)).map(|response| response.map(ResponseBody::wrapped))
            }
            StateProj::Proxied {
                exchange,
                is_http2,
                permit,
            } => {
                let pending = exchange.as_mut().expect(AGAIN);
                let result = ready!(pending.as_mut().poll(cx));
                *exchange = None;
                let mut permit = permit.take();
                Ok(match result {
                    Ok(response) => {
                        let rider = Rider::new(permit, &response);
                        response.map(|body| ResponseBody::proxied(body, rider))
                    }
                    Err(error) => {
                        if let Some(permit) = permit.as_mut().filter(|_| error.is_refusal()) {
                            permit.refund();
                        }
                        answer(error, *is_http2).map(ResponseBody::own)
                    }
                })
            }
            StateProj::Answered { response } => {
                Ok(response.take().expect(AGAIN).map(ResponseBody::own))
            }
        })
    }
}

/// The response for an error, with the error and its backend in the extensions.
fn answer(error: Error, is_http2: bool) -> Response<Bytes> {
    let mut response = error.to_response();
    if is_http2 {
        // Connection-specific fields are malformed there (RFC 9113, section 8.2.2).
        response.headers_mut().remove(header::CONNECTION);
    }
    if let Some(backend) = error.backend() {
        response.extensions_mut().insert(backend.clone());
    }
    response.extensions_mut().insert(error);
    response
}

impl<W, P> fmt::Debug for ResponseFuture<W, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
