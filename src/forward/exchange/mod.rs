//! One exchange with a backend in either version of HTTP: what its codec gets of the request, and
//! what its errors mean.

#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header, request::Parts};
use http_body::{Body, Frame, SizeHint};
use hyper::upgrade::OnUpgrade;

use super::{
    http1::{self, HeadEncoder},
    http2,
    message::{ExchangeError, Head},
    pool::{Open, Pool},
    request::{Field, Outbound, Target},
    stream::Stream,
};
use crate::{
    body::RequestBody,
    config::Proxy,
    error::{BoxError, Error, Kind},
};

/// How often a request is sent again that a backend says it didn't process.
const MAX_REPEATS: u8 = 2;

/// A request that is to be sent.
pub(super) struct Outgoing {
    pub(super) parts: Parts,
    pub(super) body: RequestBody,
    pub(super) target: Target,
    pub(super) pool: Arc<Pool>,
    repeats: u8,
}

impl Outgoing {
    #[inline]
    pub(super) fn new(request: Request<RequestBody>, target: Target, pool: Arc<Pool>) -> Self {
        let (parts, body) = request.into_parts();
        Self {
            parts,
            body,
            target,
            pool,
            repeats: 0,
        }
    }
}

/// Why nothing of a request was sent.
pub(super) enum Unsent {
    /// The connection takes no more requests.
    Closed(Box<Outgoing>),
    Failed(Error),
}

/// A request that was sent, and its response.
pub(super) struct Exchange {
    protocol: Protocol,
    target: Target,
    pool: Arc<Pool>,
    is_poolable: bool,
}

// The exchange is boxed as a whole.
#[cfg_attr(not(feature = "http2"), expect(clippy::large_enum_variant))]
enum Protocol {
    Http1(http1::Exchange<Stream, RequestBody>),
    Http2(http2::Exchange<RequestBody>, Option<Box<Repeat>>),
}

/// The sides of a connection that has switched protocols.
pub(super) struct Switched {
    pub(super) client: OnUpgrade,
    pub(super) backend: Stream,
    /// What the backend has sent behind its 101.
    pub(super) read: Bytes,
    pub(super) idle_timeout: Duration,
}

/// What it takes to send a request again.
struct Repeat {
    parts: Parts,
    /// Where it is in memory.
    body: Option<RequestBody>,
    repeats: u8,
}

impl Exchange {
    /// Starts to send a request, and gives what is left of it.
    ///
    /// Inlined, so that the request isn't moved from call to call.
    #[inline(always)]
    pub(super) fn start(
        outgoing: Outgoing,
        open: Open,
    ) -> Result<(Box<Self>, Option<Parts>), Unsent> {
        match open {
            Open::Http1(stream) => Ok(Self::start_http1(outgoing, stream)),
            Open::Http2(permit) => Ok((Self::start_http2(outgoing, permit)?, None)),
        }
    }

    #[inline(always)]
    fn start_http1(outgoing: Outgoing, stream: Stream) -> (Box<Self>, Option<Parts>) {
        let Outgoing {
            parts,
            mut body,
            target,
            pool,
            ..
        } = outgoing;
        body.note_connecting(false);
        let outbound = Outbound::new(&parts, &target, &body.size_hint());
        let head = encode_head(&outbound);
        let (framing, asked) = (outbound.framing(), outbound.asked());
        if let Some(fields) = outbound.connection_fields() {
            body.drop_trailers(fields);
        }
        let exchange = http1::Exchange::new(stream, head, framing, body, asked);
        let exchange = Box::new(Self {
            protocol: Protocol::Http1(exchange),
            target,
            pool,
            is_poolable: true,
        });
        (exchange, Some(parts))
    }

    fn start_http2(outgoing: Outgoing, permit: http2::StreamPermit) -> Result<Box<Self>, Unsent> {
        let Outgoing {
            parts,
            mut body,
            target,
            pool,
            repeats,
        } = outgoing;
        let internal = |source: BoxError| {
            let error = Error::new(Kind::Internal).with_source(source);
            Unsent::Failed(error.with_backend(&target.backend))
        };
        let outbound = Outbound::new(&parts, &target, &body.size_hint());
        let head = http2_head(&outbound).map_err(|error| internal(error.into()))?;
        let framing = outbound.framing();
        if let Some(fields) = outbound.connection_fields() {
            body.drop_trailers(fields);
        }
        let copy = body.try_clone();
        body.note_connecting(false);
        match permit.send(head, framing, body) {
            Ok(exchange) => {
                let repeat = Repeat {
                    parts,
                    body: copy,
                    repeats: repeats + 1,
                };
                let repeat = (repeats < MAX_REPEATS).then(|| Box::new(repeat));
                Ok(Box::new(Self {
                    protocol: Protocol::Http2(exchange, repeat),
                    target,
                    pool,
                    is_poolable: true,
                }))
            }
            Err(http2::Unsent::Closed(body)) => Err(Unsent::Closed(Box::new(Outgoing {
                parts,
                body,
                target,
                pool,
                repeats,
            }))),
            Err(http2::Unsent::Invalid(error)) => Err(internal(error)),
        }
    }

    /// Sends the request and waits for the head of the response, which may come before the whole
    /// request has been sent.
    ///
    /// The head's fields may reuse the memory of `recycled`.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        recycled: &mut HeaderMap,
    ) -> Poll<Result<Head, Error>> {
        let head = match &mut self.protocol {
            Protocol::Http1(exchange) => ready!(exchange.poll_head(cx, recycled)),
            Protocol::Http2(exchange, repeat) => {
                let head = ready!(exchange.poll_head(cx));
                if !matches!(head, Err(ExchangeError::Unprocessed(_))) {
                    *repeat = None;
                }
                head
            }
        };
        let head = head.map_err(|error| before_head(error).with_backend(&self.target.backend))?;
        if authenticates_connection(&head) {
            self.is_poolable = false;
            if let Protocol::Http2(exchange, _) = &self.protocol {
                exchange.close_connection();
            }
        }
        Poll::Ready(Ok(head))
    }

    /// After an error: the request, if the backend says that it didn't process it, and if nothing
    /// of its body is lost.
    pub(super) fn into_unprocessed(self) -> Option<Outgoing> {
        match self.protocol {
            Protocol::Http1(_) => None,
            Protocol::Http2(exchange, repeat) => {
                let repeat = *repeat?;
                Some(Outgoing {
                    parts: repeat.parts,
                    body: repeat.body.or_else(|| exchange.into_unread_body())?,
                    target: self.target,
                    pool: self.pool,
                    repeats: repeat.repeats,
                })
            }
        }
    }

    /// The next frame of the response's body, as soon as it is there; `None` at its end.
    #[inline(always)]
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = match &mut self.protocol {
            Protocol::Http1(exchange) => match ready!(exchange.poll_data(cx)) {
                Some(data) => Some(data.map(Frame::data)),
                None => exchange.take_trailers().map(Frame::trailers).map(Ok),
            },
            Protocol::Http2(exchange, _) => ready!(exchange.poll_frame(cx)),
        };
        let explain = |error| in_body(error).with_backend(&self.target.backend);
        Poll::Ready(frame.map(|frame| frame.map_err(explain)))
    }

    /// Whether all of the response has been returned.
    pub(super) fn is_end(&self) -> bool {
        match &self.protocol {
            Protocol::Http1(exchange) => exchange.is_end() && !exchange.has_trailers(),
            Protocol::Http2(exchange, _) => exchange.is_end(),
        }
    }

    /// Whether the connection carries nothing else, so that ending the exchange early closes it.
    pub(super) fn is_sole(&self) -> bool {
        matches!(self.protocol, Protocol::Http1(_))
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match &self.protocol {
            Protocol::Http1(exchange) => exchange.size_hint(),
            Protocol::Http2(exchange, _) => exchange.size_hint(),
        }
    }

    /// After a 101: both sides of the tunnel.
    pub(super) fn into_switched(self) -> Option<Switched> {
        match self.protocol {
            Protocol::Http1(exchange) => {
                let timeouts = self.target.backend.timeouts();
                let (stream, read) = exchange.into_upgraded();
                Some(Switched {
                    client: self.target.into_upgrade()?,
                    backend: stream,
                    read,
                    idle_timeout: timeouts.tunnel_idle,
                })
            }
            Protocol::Http2(..) => None,
        }
    }

    /// Puts the connection into the pool, if it can take another request.
    pub(super) fn finish(self) {
        match self.protocol {
            Protocol::Http1(exchange) if self.is_poolable => {
                if let Some(stream) = exchange.into_reusable() {
                    self.pool.put(self.target.origin(), stream);
                }
            }
            _ => {}
        }
    }
}

/// Encodes a head straight from the client's fields.
pub(super) fn encode_head(outbound: &Outbound<'_>) -> Vec<u8> {
    let proxy = outbound.forward_proxy();
    let mut head = HeadEncoder::new(outbound.method(), |target| {
        if proxy.is_some() {
            target.extend_from_slice(b"http://");
            target.extend_from_slice(outbound.host().as_bytes());
        }
        outbound.write_target(target);
    });
    head.field(&HOST, outbound.host());
    if let Some(authorization) = proxy.and_then(Proxy::authorization) {
        head.field(&PROXY_AUTHORIZATION, authorization);
    }
    outbound.for_each_field(|field| match field {
        Field::Plain(name, value) => head.field(name, value),
        Field::Cookie(crumbs) => head.cookie(crumbs),
        Field::Framing => head.framing(outbound.framing()),
    });
    head.finish()
}

/// The head of a request as it goes to the backend in its extensions.
#[cfg(fuzzing)]
pub(crate) fn fuzz_head(request: Request<()>, size: &SizeHint) -> Result<Vec<u8>, Error> {
    let target = Target::of(&request)?;
    let (parts, ()) = request.into_parts();
    Ok(encode_head(&Outbound::new(&parts, &target, size)))
}

static HOST: header::HeaderName = header::HOST;
static PROXY_AUTHORIZATION: header::HeaderName = header::PROXY_AUTHORIZATION;

fn http2_head(outbound: &Outbound<'_>) -> Result<Request<()>, http::Error> {
    let mut request = Request::new(());
    *request.method_mut() = outbound.method().clone();
    *request.uri_mut() = outbound.uri()?;
    *request.version_mut() = http::Version::HTTP_2;
    outbound.append_to(request.headers_mut(), false);
    Ok(request)
}

/// Whether the backend asks to authenticate the connection instead of each request, as NTLM and
/// Negotiate do (RFC 4559, section 6): no other client's request must be sent on it.
fn authenticates_connection(head: &Head) -> bool {
    if head.status != StatusCode::UNAUTHORIZED {
        return false;
    }
    let is_scheme =
        |word: &[u8]| word.eq_ignore_ascii_case(b"ntlm") || word.eq_ignore_ascii_case(b"negotiate");
    let mut challenges = head.headers.get_all(header::WWW_AUTHENTICATE).iter();
    challenges.any(|challenge| {
        let mut words = challenge.as_bytes().split(|byte| b", \t".contains(byte));
        words.any(is_scheme)
    })
}

/// What an error means before the head of the response.
fn before_head(error: ExchangeError<Error>) -> Error {
    explain(error, Kind::ClosedBeforeHead, Kind::NotHttp)
}

/// What an error means within the body of the response.
fn in_body(error: ExchangeError<Error>) -> Error {
    explain(error, Kind::Truncated, Kind::Truncated)
}

fn explain(error: ExchangeError<Error>, closed: Kind, malformed: Kind) -> Error {
    let (kind, source) = match error {
        ExchangeError::RequestBody(error) => return error,
        ExchangeError::WrongLength => {
            let source = "the body is not as long as its Content-Length";
            (Kind::BodyTruncated, source.into())
        }
        ExchangeError::Malformed(source) => (malformed, source),
        ExchangeError::Switched => return Error::new(Kind::UpgradeFailed),
        ExchangeError::Closed(source) | ExchangeError::Unprocessed(source) => (closed, source),
    };
    Error::new(kind).with_source(source)
}
