use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;

/// How long what a client still sends is read after the connection was closed for it.
const LINGER: Duration = Duration::from_secs(2);

/// A connection that is closed so that the last response arrives (RFC 9112, section 9.6).
///
/// A close with unread data in the socket makes the kernel reset the connection, and the client
/// may lose a response that came before it had sent all of its request, such as a 413. So the
/// sending side is closed first, and what still comes is read for a while.
///
/// One that is dropped without that was broken off. In HTTP/1.0 the end of the connection may be
/// the end of the response, so there a reset is sent instead, which is no proper end. (In TLS the
/// `close_notify` is missing as well, but not every client minds.)
pub(crate) struct Linger<S: Socket> {
    stream: S,
    deadline: Option<Pin<Box<Sleep>>>,
    is_http_1_0: Arc<AtomicBool>,
}

/// A connection over TCP.
pub(crate) trait Socket {
    fn tcp(&self) -> &TcpStream;
}

impl Socket for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Socket for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

impl<S: Socket> Linger<S> {
    /// The flag is looked at when the connection is dropped.
    pub(crate) fn new(stream: S, is_http_1_0: Arc<AtomicBool>) -> Self {
        Self {
            stream,
            deadline: None,
            is_http_1_0,
        }
    }
}

impl<S: Socket> Drop for Linger<S> {
    fn drop(&mut self) {
        if self.deadline.is_none() && self.is_http_1_0.load(Ordering::Relaxed) {
            let _ = SockRef::from(self.stream.tcp()).set_linger(Some(Duration::ZERO));
        }
    }
}

impl<S: AsyncRead + Socket + Unpin> AsyncRead for Linger<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Socket + Unpin> AsyncWrite for Linger<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.deadline.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        let deadline = this.deadline.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        let mut scratch = [0; 8 * 1024];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return deadline.as_mut().poll(cx).map(Ok),
            }
        }
    }
}
