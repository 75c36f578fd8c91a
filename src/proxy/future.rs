use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};

use super::{body::ResponseBody, log::ExchangeLog};
use crate::{
    error::{BoxError, Error, Kind},
    timeout::TimeoutBody,
};

pin_project! {
    /// The response of [`OpenAiProxy`](super::OpenAiProxy): of the wrapped service's future `W`, or
    /// of the stack's `F`.
    pub struct ResponseFuture<W, F> {
        #[pin]
        state: State<W, F>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<W, F> {
        Wrapped { #[pin] future: W },
        // In a box, and gone with the head: a server may keep the future's place for as long as
        // the client's connection.
        Ours { exchange: Option<Pin<Box<Exchange<F>>>> },
        Answer { response: Option<Response<Bytes>> },
    }
}

pin_project! {
    /// An exchange until its response's head has come.
    struct Exchange<F> {
        #[pin]
        stack: F,
        total: Option<Pin<Box<Sleep>>>,
        log: Option<Box<ExchangeLog>>,
    }
}

impl<W, F> ResponseFuture<W, F> {
    pub(super) fn wrapped(future: W) -> Self {
        Self {
            state: State::Wrapped { future },
        }
    }

    pub(super) fn ours(
        stack: F,
        total_timeout: Option<Duration>,
        log: Option<Box<ExchangeLog>>,
    ) -> Self {
        let exchange = Exchange {
            stack,
            total: total_timeout.map(|period| Box::pin(sleep(period))),
            log,
        };
        Self {
            state: State::Ours {
                exchange: Some(Box::pin(exchange)),
            },
        }
    }

    pub(super) fn answer(response: Response<Bytes>) -> Self {
        Self {
            state: State::Answer {
                response: Some(response),
            },
        }
    }
}

impl<W, F, R, P, E> Future for ResponseFuture<W, F>
where
    W: Future<Output = Result<Response<R>, E>>,
    F: Future<Output = Result<Response<TimeoutBody<P>>, Error>>,
    P: Body<Data = Bytes> + Send + 'static,
    P::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<R, P>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        const AGAIN: &str = "not polled after the end";
        Poll::Ready(match self.project().state.project() {
            StateProj::Wrapped { future } => {
                ready!(future.poll(cx)).map(|response| response.map(ResponseBody::wrapped))
            }
            StateProj::Ours { exchange } => {
                let pending = exchange.as_mut().expect(AGAIN);
                let response = ready!(pending.as_mut().poll(cx));
                *exchange = None;
                Ok(response)
            }
            StateProj::Answer { response } => {
                Ok(response.take().expect(AGAIN).map(ResponseBody::own))
            }
        })
    }
}

impl<F> Exchange<F> {
    /// Ready with the response of a backend, or with the error's.
    fn poll<R, P>(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response<ResponseBody<R, P>>>
    where
        F: Future<Output = Result<Response<TimeoutBody<P>>, Error>>,
        P: Body<Data = Bytes> + Send + 'static,
        P::Error: Into<BoxError>,
    {
        let this = self.project();
        let entered = this.log.as_ref().map(|log| log.enter());
        let result = match this.stack.poll(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => {
                let Some(total) = this.total else {
                    return Poll::Pending;
                };
                ready!(total.as_mut().poll(cx));
                Err(Error::new(Kind::TotalTimeout))
            }
        };
        drop(entered);
        if let Some(log) = this.log {
            log.head(&result);
        }
        Poll::Ready(match result {
            Ok(response) => {
                let deadline = this.total.as_ref().map(|total| total.deadline());
                response.map(|body| ResponseBody::proxied(body, deadline, this.log.take()))
            }
            Err(error) => error.to_response().map(ResponseBody::own),
        })
    }
}

impl<W, F> fmt::Debug for ResponseFuture<W, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
