//! An HTTP/2 client with prior knowledge (RFC 9113, section 3.3).

use std::{
    convert::Infallible,
    net::{Shutdown, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Channel, Full, channel::Sender, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::{SockRef, Socket};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::soon;

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Sends requests on one connection, which closes with its last clone and stream.
#[derive(Clone)]
pub(crate) struct Http2 {
    sender: SendRequest<Body>,
    socket: Arc<Socket>,
    address: SocketAddr,
}

impl Http2 {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = soon("connecting", TcpStream::connect(address)).await;
        let stream = stream.expect("a listener");
        let socket = SockRef::from(&stream).try_clone().expect("a socket");
        Self::over(stream, socket, address).await
    }

    /// Wraps any stream over this socket, such as TLS.
    pub(crate) async fn over<S>(stream: S, socket: Socket, address: SocketAddr) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let handshake = Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream));
        let (sender, connection) = soon("a handshake", handshake).await.expect("HTTP/2");
        tokio::spawn(connection);
        Self {
            sender,
            socket: Arc::new(socket),
            address,
        }
    }

    /// Shuts the connection down at once.
    pub(crate) fn break_off(&self) {
        self.socket.shutdown(Shutdown::Both).expect("connected");
    }

    /// A request to the endpoint, with credentials.
    pub(crate) fn request(&self, method: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("http://{}/v1/chat/completions", self.address))
            .header("authorization", "Bearer sk-test")
    }

    /// A POST of `body` to the endpoint, with credentials.
    pub(crate) fn post(&self, body: impl Into<Bytes>) -> Request<Body> {
        self.request("POST").body(full(body)).expect("a request")
    }

    /// Sends a request and waits for the response's head.
    pub(crate) async fn send(&self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        let response = self.sender.clone().send_request(request);
        soon("a response's head", response).await
    }
}

/// A body of known length.
pub(crate) fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).boxed_unsync()
}

/// A body of unknown length, sent chunk by chunk.
pub(crate) fn channel() -> (Sender<Bytes>, Body) {
    let (sender, body) = Channel::new(1);
    (sender, body.boxed_unsync())
}

/// The next frame of a response body.
pub(crate) async fn next_frame(
    response: &mut Response<Incoming>,
) -> Option<hyper::Result<Frame<Bytes>>> {
    loop {
        let frame = soon("a chunk", response.body_mut().frame()).await;
        // An empty one may precede the end.
        let is_empty = |frame: &Frame<Bytes>| frame.data_ref().is_some_and(Bytes::is_empty);
        if !matches!(&frame, Some(Ok(frame)) if is_empty(frame)) {
            return frame;
        }
    }
}

/// A whole response body, and its trailers.
pub(crate) async fn collect(
    response: Response<Incoming>,
) -> hyper::Result<(Bytes, Option<HeaderMap>)> {
    let body = soon("a body", response.into_body().collect()).await?;
    let trailers = body.trailers().cloned();
    Ok((body.to_bytes(), trailers))
}

/// The header fields in order, as text.
pub(crate) fn fields(headers: &HeaderMap<HeaderValue>) -> Vec<(String, String)> {
    let field = |(name, value): (&http::HeaderName, &HeaderValue)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.to_string(), value)
    };
    headers.iter().map(field).collect()
}
