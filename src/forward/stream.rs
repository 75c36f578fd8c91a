//! A connection to a backend, with or without TLS.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use socket2::SockRef;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};

use crate::tls;

/// A connection to a backend.
pub(crate) struct Stream {
    transport: Transport,
    connected_at: Instant,
}

enum Transport {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    Tls(Box<tls::TlsStream>),
}

impl Stream {
    pub(super) fn tcp(tcp: TcpStream) -> Self {
        Self::new(Transport::Tcp(tcp))
    }

    #[cfg(unix)]
    pub(super) fn unix(unix: UnixStream) -> Self {
        Self::new(Transport::Unix(unix))
    }

    pub(super) fn tls(tls: tls::TlsStream) -> Self {
        Self::new(Transport::Tls(Box::new(tls)))
    }

    fn new(transport: Transport) -> Self {
        Self {
            transport,
            connected_at: Instant::now(),
        }
    }

    pub(super) fn connected_at(&self) -> Instant {
        self.connected_at
    }

    /// Makes the end of the connection a reset.
    pub(super) fn reset_at_end(&self) {
        let _ = self.socket().set_linger(Some(Duration::ZERO));
    }

    fn socket(&self) -> SockRef<'_> {
        match &self.transport {
            Transport::Tcp(tcp) => SockRef::from(tcp),
            #[cfg(unix)]
            Transport::Unix(unix) => SockRef::from(unix),
            Transport::Tls(tls) => SockRef::from(tls::tcp(tls)),
        }
    }

    /// Whether nothing has come on an idle connection, as far as the runtime knows: neither its end
    /// nor data, with which it can't be used.
    pub(super) fn is_idle(&mut self) -> bool {
        let mut byte = [0];
        if let Transport::Tcp(tcp) = &self.transport {
            let read = tcp.try_read(&mut byte);
            return matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        }
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(self)
            .poll_read(&mut cx, &mut ReadBuf::new(&mut byte))
            .is_pending()
    }

    /// The same, as far as the socket knows.
    pub(super) fn is_socket_idle(&self) -> bool {
        let peeked = self.socket().peek(&mut [MaybeUninit::uninit()]);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Calls a method of the transport.
macro_rules! delegate {
    ($self:ident, $method:ident, $($argument:expr),*) => {
        match &mut $self.get_mut().transport {
            Transport::Tcp(tcp) => Pin::new(tcp).$method($($argument),*),
            #[cfg(unix)]
            Transport::Unix(unix) => Pin::new(unix).$method($($argument),*),
            Transport::Tls(tls) => Pin::new(tls).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            #[cfg(unix)]
            Transport::Unix(unix) => Pin::new(unix).poll_read(cx, buffer),
            Transport::Tls(tls) => {
                let room = buffer.remaining();
                ready!(Pin::new(&mut *tls).poll_read(cx, buffer))?;
                let is_end = buffer.remaining() == room;
                if is_end && tls::is_truncated(tls) {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // A write of nothing tells whether the connection was reset, if TLS doesn't swallow it.
        if bytes.is_empty() {
            return match self.socket().send(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Ready(Ok(0)),
                written => Poll::Ready(written),
            };
        }
        delegate!(self, poll_write, cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write_vectored, cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        !matches!(self.transport, Transport::Tls(_))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_flush, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_shutdown, cx)
    }
}
