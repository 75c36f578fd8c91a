use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A TCP connection below TLS, which knows whether its end has been read.
///
/// The TLS libraries show the same end of data whether the backend announced it (`close_notify`) or
/// the connection was cut (RFC 9112, section 9.8). After an announcement nothing more is read, so
/// the end of TCP is only read where it was cut.
pub(crate) struct Watched {
    tcp: TcpStream,
    is_cut: bool,
}

impl Watched {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self { tcp, is_cut: false }
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Whether TLS wanted to read on and there was nothing any more.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buffer.remaining();
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buffer))?;
        self.is_cut = room > 0 && buffer.remaining() == room;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
