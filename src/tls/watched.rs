//! Whether the end of a TLS connection was announced.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A TCP connection below TLS that knows whether its end has been read.
///
/// The TLS libraries report the same end of data whether the backend announced it (`close_notify`)
/// or not (RFC 9112, section 9.8). Nothing is read behind an announcement, so the end of TCP is only
/// read where the data was truncated.
pub(crate) struct Watched {
    tcp: TcpStream,
    is_truncated: bool,
}

impl Watched {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self {
            tcp,
            is_truncated: false,
        }
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Whether TLS read on and met the end.
    pub(crate) fn is_truncated(&self) -> bool {
        self.is_truncated
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
        self.is_truncated = room > 0 && buffer.remaining() == room;
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
