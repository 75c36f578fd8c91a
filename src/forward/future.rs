use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Extensions, HeaderMap, Method, Request, Response};
use http_body::Body;

#[cfg(feature = "http2")]
use super::{
    Forward,
    http2::{self, Look},
};
use super::{
    body::{Download, ResponseBody},
    connect::{Connected, Connecting, Stream},
    http1::{Exchange, encode_head},
    pool::Pool,
};
use crate::{backend::Backend, body::RequestBody, error::Error};
#[cfg(feature = "http2")]
use {
    crate::error::Kind,
    std::time::Duration,
    tokio::time::{Sleep, sleep},
};

/// What most heads fit into.
const HEAD_CAPACITY: usize = 1024;

/// How long and how often it is waited for that an HTTP/2 connection's task reads what has come.
#[cfg(feature = "http2")]
const LOOK_PAUSE: Duration = Duration::from_millis(1);
#[cfg(feature = "http2")]
const MAX_LOOKS: u8 = 10;

/// The response of [`Forward`](super::Forward).
pub struct ResponseFuture {
    // What is large is in a box and gone with the phase: the future's place may be held for as
    // long as the client's connection.
    state: State,
}

enum State {
    Connecting(Box<Waiting>),
    Sent(Box<Download>, Spare),
    #[cfg(feature = "http2")]
    Looking(Box<Looking>),
    #[cfg(feature = "http2")]
    SentHttp2(Box<http2::Exchange>, Backend),
    Failed(Error),
    Done,
}

/// What a request leaves behind for its response to use again.
#[derive(Default)]
struct Spare {
    headers: HeaderMap,
    /// With the backend and nothing else in it.
    extensions: Extensions,
}

/// A request that waits for a connection.
struct Waiting {
    request: Request<RequestBody>,
    connecting: Pin<Box<Connecting>>,
    backend: Backend,
    pool: Arc<Pool>,
}

/// A request that is about to be sent on an HTTP/2 connection which was idle, and on which something
/// has come that is still to be read: it may be the end, which the connection's task must see first.
#[cfg(feature = "http2")]
struct Looking {
    request: Request<RequestBody>,
    reserved: http2::Reserved,
    pause: Pin<Box<Sleep>>,
    looks: u8,
    backend: Backend,
    forward: Forward,
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
        let mut spare = Spare {
            headers: parts.headers,
            ..Spare::default()
        };
        // What a server or another layer has put there isn't for the response.
        if parts.extensions.len() == 1 {
            spare.extensions = parts.extensions;
        }
        Self {
            state: State::Sent(Box::new(Download::new(exchange, backend, pool)), spare),
        }
    }

    /// Sends the request on an HTTP/2 connection that others use, or have used.
    #[cfg(feature = "http2")]
    pub(super) fn reserved(
        request: Request<RequestBody>,
        reserved: http2::Reserved,
        backend: Backend,
        forward: Forward,
    ) -> Self {
        let look = match reserved.is_first() {
            true => reserved.look(),
            false => Look::Silent,
        };
        match look {
            Look::Silent => Self::send_reserved(request, reserved, backend, forward),
            // It is told from now on.
            Look::Closed => forward.start(request, backend),
            Look::Unread => Self {
                state: State::Looking(Box::new(Looking {
                    request,
                    reserved,
                    pause: Box::pin(sleep(LOOK_PAUSE)),
                    looks: 0,
                    backend,
                    forward,
                })),
            },
        }
    }

    #[cfg(feature = "http2")]
    fn send_reserved(
        request: Request<RequestBody>,
        reserved: http2::Reserved,
        backend: Backend,
        forward: Forward,
    ) -> Self {
        let (parts, body) = request.into_parts();
        match reserved.send(&parts, body, &backend) {
            Ok(exchange) => Self {
                state: State::SentHttp2(Box::new(exchange), backend),
            },
            // That connection isn't there any more for the next try.
            Err(http2::NotSent::Closed(body)) => {
                forward.start(Request::from_parts(parts, body), backend)
            }
            Err(http2::NotSent::Failed(error)) => Self::failed(error.with_backend(&backend)),
        }
    }

    /// Sends the request on an HTTP/2 connection that was made for it.
    #[cfg(feature = "http2")]
    fn send_first(
        request: Request<RequestBody>,
        connection: http2::Connection,
        backend: Backend,
        pool: &Arc<Pool>,
    ) -> Self {
        let (parts, body) = request.into_parts();
        let reserved = pool.share(backend.origin(), connection);
        let sent = match reserved {
            Some(reserved) => reserved.send(&parts, body, &backend),
            None => Err(http2::NotSent::Closed(body)),
        };
        let error = match sent {
            Ok(exchange) => {
                return Self {
                    state: State::SentHttp2(Box::new(exchange), backend),
                };
            }
            Err(http2::NotSent::Closed(_)) => Error::new(Kind::ClosedBeforeHead),
            Err(http2::NotSent::Failed(error)) => error,
        };
        Self::failed(error.with_backend(&backend))
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
                    let Poll::Ready(connected) = waiting.connecting.as_mut().poll(cx) else {
                        self.state = State::Connecting(waiting);
                        return Poll::Pending;
                    };
                    let Waiting {
                        request,
                        backend,
                        pool,
                        ..
                    } = *waiting;
                    *self = match connected {
                        Ok(Connected::Http1(stream)) => Self::send(request, stream, backend, pool),
                        #[cfg(feature = "http2")]
                        Ok(Connected::Http2(connection)) => {
                            Self::send_first(request, connection, backend, &pool)
                        }
                        Err(error) => Self::failed(error.with_backend(&backend)),
                    };
                }
                State::Sent(mut download, mut spare) => {
                    let Poll::Ready(head) = download.poll_head(cx, &mut spare.headers) else {
                        self.state = State::Sent(download, spare);
                        return Poll::Pending;
                    };
                    let head = head?;
                    let mut response = Response::new(ResponseBody::new(download));
                    *response.status_mut() = head.status;
                    *response.headers_mut() = head.headers;
                    *response.extensions_mut() = spare.extensions;
                    if let Some(reason) = head.reason {
                        response.extensions_mut().insert(reason);
                    }
                    return Poll::Ready(Ok(response));
                }
                #[cfg(feature = "http2")]
                State::Looking(mut looking) => {
                    if looking.pause.as_mut().poll(cx).is_pending() {
                        self.state = State::Looking(looking);
                        return Poll::Pending;
                    }
                    looking.looks += 1;
                    let look = looking.reserved.look();
                    if look == Look::Unread && looking.looks < MAX_LOOKS {
                        looking.pause.set(sleep(LOOK_PAUSE));
                        self.state = State::Looking(looking);
                        continue;
                    }
                    let Looking {
                        request,
                        reserved,
                        backend,
                        forward,
                        ..
                    } = *looking;
                    *self = match look {
                        Look::Closed => forward.start(request, backend),
                        Look::Silent | Look::Unread => {
                            Self::send_reserved(request, reserved, backend, forward)
                        }
                    };
                }
                #[cfg(feature = "http2")]
                State::SentHttp2(mut exchange, backend) => {
                    let Poll::Ready(head) = exchange.poll_head(cx) else {
                        self.state = State::SentHttp2(exchange, backend);
                        return Poll::Pending;
                    };
                    let (head, body) = head.map_err(|error| error.with_backend(&backend))?;
                    let download = exchange.into_download(&head, body);
                    let mut response = Response::new(ResponseBody::http2(download, backend));
                    *response.status_mut() = head.status;
                    *response.headers_mut() = head.headers;
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
