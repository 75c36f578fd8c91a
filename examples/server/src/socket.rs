use std::{
    io::{self, IoSlice},
    net::Shutdown,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

#[cfg(unix)]
use rustix::net::{RecvFlags, recv};
use socket2::SockRef;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

/// A client's connection as the system has it.
pub(crate) enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

/// Calls the same method of any kind of stream.
macro_rules! either {
    ($stream:expr, $it:ident => $call:expr) => {
        match $stream {
            Stream::Tcp($it) => $call,
            #[cfg(unix)]
            Stream::Unix($it) => $call,
        }
    };
}

impl Stream {
    /// Reads what comes next, and leaves it unread.
    async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.peek(buffer).await,
            #[cfg(unix)]
            Self::Unix(stream) => {
                let peek = || {
                    let peeked = recv(stream, &mut *buffer, RecvFlags::PEEK);
                    Ok(peeked.map(|(_, length)| length)?)
                };
                stream.async_io(Interest::READABLE, peek).await
            }
        }
    }

    fn sock_ref(&self) -> SockRef<'_> {
        either!(self, stream => SockRef::from(stream))
    }
}

/// A client's connection, which can be watched while something else reads and writes it.
///
/// Only for runtimes with one thread: see `poll_read`.
#[derive(Clone)]
pub(crate) struct Socket(Arc<Shared>);

struct Shared {
    stream: Stream,
    /// A read is waiting for the client, so its task is woken when the client leaves.
    is_read_waiting: AtomicBool,
}

impl Socket {
    pub(crate) fn new(stream: Stream) -> io::Result<Self> {
        if let Stream::Tcp(stream) = &stream {
            stream.set_nodelay(true)?;
        }
        Ok(Self(Arc::new(Shared {
            stream,
            is_read_waiting: AtomicBool::new(false),
        })))
    }

    /// Waits until the client has shut down its sending side or reset the connection, however much
    /// of what it sent before is still unread.
    ///
    /// Only Linux tells (by `EPOLLRDHUP`): elsewhere a client is seen to leave when all is read.
    pub(crate) async fn closed(&self) {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        // Of the socket's readiness it has nothing but whether reading is closed.
        let _ = either!(&self.0.stream, stream => stream.ready(Interest::PRIORITY).await);
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        std::future::pending::<()>().await;
    }

    /// Calls `poll`, and tells whether a read in it waits for the client, so that
    /// [`closed`](Self::closed) would tell nothing sooner.
    pub(crate) fn is_read_in<R>(&self, poll: impl FnOnce() -> R) -> (R, bool) {
        self.0.is_read_waiting.store(false, Relaxed);
        let result = poll();
        (result, self.0.is_read_waiting.load(Relaxed))
    }

    /// Whether the client opens with this, which is left unread.
    pub(crate) async fn begins_with(&self, opening: &[u8]) -> io::Result<bool> {
        let mut begin = vec![0; opening.len()];
        let mut pause = Duration::from_millis(1);
        loop {
            let length = self.0.stream.peek(&mut begin).await?;
            // No more comes where the client has shut down its sending side.
            let readable = Interest::READABLE;
            let ready = either!(&self.0.stream, stream => stream.ready(readable).await);
            let is_over = ready?.is_read_closed();
            let is_undecided = length > 0 && length < opening.len() && !is_over;
            if !is_undecided || !opening.starts_with(&begin[..length]) {
                return Ok(begin[..length] == *opening);
            }
            // What is there stays readable, so there is nothing to wait for but time.
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(Duration::from_millis(250));
        }
    }

    /// Makes the end of the connection a reset. A unix socket has none.
    pub(crate) fn reset_at_end(&self) {
        let _ = self.0.stream.sock_ref().set_linger(Some(Duration::ZERO));
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let shared = &*self.0;
        loop {
            let readiness = either!(&shared.stream, stream => stream.poll_read_ready(cx));
            shared
                .is_read_waiting
                .store(readiness.is_pending(), Relaxed);
            ready!(readiness)?;
            let room = buffer.remaining();
            match either!(&shared.stream, stream => stream.try_read_buf(buffer)) {
                Ok(length) => {
                    // With room left, everything has been read: as `TcpStream` does, this saves the
                    // call that would only tell so. No event can have come in between, as the
                    // thread that takes them in is this one.
                    if cfg!(target_os = "linux") && (1..room).contains(&length) {
                        let none = || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into());
                        let readable = Interest::READABLE;
                        let _ = either!(&shared.stream, stream => stream.try_io(readable, none));
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Socket {
    fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&Stream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(either!(&self.0.stream, stream => stream.poll_write_ready(cx)))?;
            match write(&self.0.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(
            cx,
            |stream| either!(stream, stream => stream.try_write(bytes)),
        )
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(
            cx,
            |stream| either!(stream, stream => stream.try_write_vectored(slices)),
        )
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.stream.sock_ref().shutdown(Shutdown::Write))
    }
}
