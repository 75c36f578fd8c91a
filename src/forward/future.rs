use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Method, Request, Response};
use http_body::Body;

use super::{
    body::{Download, ResponseBody},
    connect::{Connecting, Stream},
    http1::{Exchange, encode_head},
    pool::Pool,
};
use crate::{backend::Backend, body::RequestBody, error::Error};

/// What most heads fit into.
const HEAD_CAPACITY: usize = 1024;

/// The response of [`Forward`](super::Forward).
pub struct ResponseFuture {
    // What is large is in a box and gone with the phase: the future's place may be held for as
    // long as the client's connection.
    state: State,
}

enum State {
    Connecting(Box<Waiting>),
    Sent(Box<Download>),
    Failed(Error),
    Done,
}

/// A request that waits for a connection.
struct Waiting {
    request: Request<RequestBody>,
    connecting: Pin<Box<Connecting>>,
    backend: Backend,
    pool: Arc<Pool>,
}

impl ResponseFuture {
    pub(super) fn connect(
        request: Request<RequestBody>,
        connecting: Connecting,
        backend: Backend,
        pool: Arc<Pool>,
    ) -> Self {
        request.body().note_connecting(true);
        Self {
            state: State::Connecting(Box::new(Waiting {
                request,
                connecting: Box::pin(connecting),
                backend,
                pool,
            })),
        }
    }

    pub(super) fn send(
        request: Request<RequestBody>,
        stream: Stream,
        backend: Backend,
        pool: Arc<Pool>,
    ) -> Self {
        let (parts, body) = request.into_parts();
        body.note_connecting(false);
        let mut head = Vec::with_capacity(HEAD_CAPACITY);
        let framing = encode_head(&parts, &body.size_hint(), &backend, &mut head);
        let to_head = parts.method == Method::HEAD;
        let exchange = Exchange::new(stream, head, framing, body, to_head);
        Self {
            state: State::Sent(Box::new(Download::new(exchange, backend, pool))),
        }
    }

    pub(super) fn failed(error: Error) -> Self {
        Self {
            state: State::Failed(error),
        }
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<ResponseBody>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match std::mem::replace(&mut self.state, State::Done) {
                State::Connecting(mut waiting) => {
                    let Poll::Ready(stream) = waiting.connecting.as_mut().poll(cx) else {
                        self.state = State::Connecting(waiting);
                        return Poll::Pending;
                    };
                    let Waiting {
                        request,
                        backend,
                        pool,
                        ..
                    } = *waiting;
                    *self = match stream {
                        Ok(stream) => Self::send(request, stream, backend, pool),
                        Err(error) => Self::failed(error.with_backend(&backend)),
                    };
                }
                State::Sent(mut download) => {
                    let Poll::Ready(head) = download.poll_head(cx) else {
                        self.state = State::Sent(download);
                        return Poll::Pending;
                    };
                    let head = head?;
                    let mut response = Response::new(ResponseBody::new(download));
                    *response.status_mut() = head.status;
                    *response.headers_mut() = head.headers;
                    if let Some(reason) = head.reason {
                        response.extensions_mut().insert(reason);
                    }
                    return Poll::Ready(Ok(response));
                }
                State::Failed(error) => return Poll::Ready(Err(error)),
                State::Done => panic!("polled after the end"),
            }
        }
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
