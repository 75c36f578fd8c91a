//! The response of `Forward`: from the wait for a connection to the response headers.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Extensions, HeaderMap, Response, StatusCode, request::Parts};

use super::{
    body::ResponseBody,
    connect::{Connected, Connecting},
    exchange::{Exchange, Outgoing, Unsent},
    message::Head,
    upgrade,
};
use crate::{
    endpoint::Matched,
    error::{Error, Kind},
};

/// The response of [`Forward`](super::Forward).
pub struct ResponseFuture {
    // Large parts are boxed and freed with their phase: a server may keep the memory of the future
    // for as long as the client's connection.
    state: State,
}

enum State {
    Connecting(Box<Waiting>),
    Sent(Box<Exchange>, Recycled),
    Failed(Error),
    Done,
}

/// A request that waits for a connection.
struct Waiting {
    outgoing: Outgoing,
    connecting: Pin<Box<Connecting>>,
}

/// The memory of a request that its response reuses.
#[derive(Default)]
struct Recycled {
    headers: HeaderMap,
    /// With nothing but the backend in it.
    extensions: Extensions,
}

impl Recycled {
    fn new(parts: Parts) -> Self {
        let mut extensions = parts.extensions;
        extensions.remove::<Matched>();
        // What a server or another layer has put there isn't for the response.
        if extensions.len() != 1 {
            extensions = Extensions::new();
        }
        Self {
            headers: parts.headers,
            extensions,
        }
    }

    fn into_response(self, head: Head, body: ResponseBody) -> Response<ResponseBody> {
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        *response.extensions_mut() = self.extensions;
        if let Some(reason) = head.reason {
            response.extensions_mut().insert(reason);
        }
        response
    }

    /// The response that opens a tunnel.
    fn into_switched(
        self,
        head: Head,
        exchange: Exchange,
    ) -> Result<Response<ResponseBody>, Error> {
        let switched = exchange.into_switched();
        let switched = switched.ok_or_else(|| Error::new(Kind::UpgradeFailed))?;
        let mut response = self.into_response(head, ResponseBody::empty());
        response.extensions_mut().insert(upgrade::start(switched));
        Ok(response)
    }
}

impl ResponseFuture {
    #[inline(always)]
    pub(super) fn new(outgoing: Outgoing) -> Self {
        Self {
            state: State::start(outgoing),
        }
    }

    pub(super) fn failed(error: Error) -> Self {
        Self {
            state: State::Failed(error),
        }
    }
}

impl State {
    /// Sends a request on a pooled connection, or else makes one.
    #[inline(always)]
    fn start(mut outgoing: Outgoing) -> Self {
        let versions = outgoing.target.versions();
        while let Some(open) = (outgoing.pool).take(outgoing.target.origin(), versions) {
            match Exchange::start(outgoing, open) {
                Ok((exchange, rest)) => return Self::sent(exchange, rest),
                // By now the pool knows that as well.
                Err(Unsent::Closed(unsent)) => outgoing = *unsent,
                Err(Unsent::Failed(error)) => return Self::Failed(error),
            }
        }
        let backend = &outgoing.target.backend;
        let period = backend.timeouts().connect;
        let connector = outgoing.pool.connector();
        match connector.connect(outgoing.target.origin(), versions, period) {
            Ok(connecting) => {
                outgoing.body.note_connecting(true);
                Self::Connecting(Box::new(Waiting {
                    outgoing,
                    connecting: Box::pin(connecting),
                }))
            }
            Err(error) => Self::Failed(error.with_backend(backend)),
        }
    }

    /// Sends a request on the connection that was made for it.
    fn connected(outgoing: Outgoing, connected: Connected) -> Self {
        let backend = outgoing.target.backend.clone();
        let closed = || Error::new(Kind::ClosedBeforeHead).with_backend(&backend);
        let Some(open) = outgoing.pool.admit(outgoing.target.origin(), connected) else {
            return Self::Failed(closed());
        };
        match Exchange::start(outgoing, open) {
            Ok((exchange, rest)) => Self::sent(exchange, rest),
            Err(Unsent::Closed(_)) => Self::Failed(closed()),
            Err(Unsent::Failed(error)) => Self::Failed(error),
        }
    }

    fn sent(exchange: Box<Exchange>, rest: Option<Parts>) -> Self {
        Self::Sent(exchange, rest.map(Recycled::new).unwrap_or_default())
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<ResponseBody>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            self.state = match std::mem::replace(&mut self.state, State::Done) {
                State::Connecting(mut waiting) => {
                    let Poll::Ready(connected) = waiting.connecting.as_mut().poll(cx) else {
                        self.state = State::Connecting(waiting);
                        return Poll::Pending;
                    };
                    let Waiting { outgoing, .. } = *waiting;
                    let backend = &outgoing.target.backend;
                    let connected = connected.map_err(|error| error.with_backend(backend))?;
                    State::connected(outgoing, connected)
                }
                State::Sent(mut exchange, mut recycled) => {
                    let Poll::Ready(head) = exchange.poll_head(cx, &mut recycled.headers) else {
                        self.state = State::Sent(exchange, recycled);
                        return Poll::Pending;
                    };
                    match head {
                        Ok(head) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                            return Poll::Ready(recycled.into_switched(head, *exchange));
                        }
                        Ok(head) => {
                            let body = ResponseBody::new(exchange);
                            return Poll::Ready(Ok(recycled.into_response(head, body)));
                        }
                        Err(error) => match exchange.into_unprocessed() {
                            Some(outgoing) => State::start(outgoing),
                            None => return Poll::Ready(Err(error)),
                        },
                    }
                }
                State::Failed(error) => return Poll::Ready(Err(error)),
                State::Done => panic!("polled after the end"),
            };
        }
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
