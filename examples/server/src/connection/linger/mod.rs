//! Closes a connection so that its last response arrives.

#[cfg(test)]
mod tests;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::{CLOSE_TIMEOUT, http1::Activity};
use crate::{notice::Notices, socket::Socket};

/// A connection that is closed so that the last response arrives (RFC 9112, section 9.6).
///
/// A close with unread data in the socket makes the kernel reset the connection, and the client
/// may lose a response that came before it had sent all of its request, such as a 413. So the
/// sending side is shut down first, and what still comes is read for a while.
///
/// A connection that is dropped without that was aborted. In HTTP/1.0 the end of the connection may
/// be the end of the response, so a reset is sent there, which is no proper end. (In TLS the
/// `close_notify` is missing as well, but not every client minds.)
///
/// Behind a 101 the client's side is the tunnel's: shutting down ends this side alone, and a tunnel
/// that is dropped without that was reset by the backend, so it is reset here.
pub(super) struct Linger<S> {
    socket: Socket,
    stream: S,
    activity: Activity,
    is_shut_down: bool,
    /// Set when the sending side is shut down.
    deadline: Option<Pin<Box<Sleep>>>,
    /// A drain waits until it is dropped: the connection may outlive its task as a tunnel.
    _notices: Option<Notices>,
}

impl<S> Linger<S> {
    pub(super) fn new(
        socket: Socket,
        stream: S,
        activity: Activity,
        notices: Option<Notices>,
    ) -> Self {
        Self {
            socket,
            stream,
            activity,
            is_shut_down: false,
            deadline: None,
            _notices: notices,
        }
    }
}

impl<S> Drop for Linger<S> {
    fn drop(&mut self) {
        let ends_by_reset = self.activity.is_http_1_0() || self.activity.is_tunnel();
        if !self.is_shut_down && ends_by_reset {
            self.socket.reset_at_end();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Linger<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.activity.read();
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Linger<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // By a write of nothing a tunnel asks whether the connection was reset. TLS would swallow it.
        if bytes.is_empty() {
            return Pin::new(&mut self.socket).poll_write(cx, bytes);
        }
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
        if !this.is_shut_down {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            this.is_shut_down = true;
            this.activity.closing();
        }
        if this.activity.is_tunnel() {
            return Poll::Ready(Ok(()));
        }
        let deadline = this
            .deadline
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + CLOSE_TIMEOUT)));
        // A client that sends without a pause uses up what the runtime allows a task at a time, so
        // that the clock itself is never ready.
        if Instant::now() >= deadline.deadline() {
            return Poll::Ready(Ok(()));
        }
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
