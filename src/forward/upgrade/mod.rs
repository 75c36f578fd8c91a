//! The tunnel behind a 101 (RFC 9110, section 7.8): bytes in both directions, whatever they mean.
//!
//! What is read is written at once. Only what the other side doesn't take is buffered, and nothing
//! more is read until it does: a slow reader slows the sender down, and an idle tunnel has no buffer.

#[cfg(test)]
mod tests;

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{exchange::Switched, http1::poll_read};
use crate::{
    clock::Timer,
    tunnel::{Cause, Ended, Tunnel},
};

/// How long one direction may go on when the other has ended.
const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a side is probed from which nothing can be read, as the other side doesn't read.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Starts the task that serves a tunnel, once the client has its 101.
pub(super) fn start(switched: Switched) -> Tunnel {
    let tunnel = Tunnel::default();
    tokio::spawn(serve(switched, tunnel.clone()));
    tunnel
}

async fn serve(switched: Switched, tunnel: Tunnel) {
    let Switched {
        client: mut upgrade,
        backend,
        read,
        idle_timeout,
    } = switched;
    let mut timer = Timer::default();
    let give_up_at = Instant::now() + idle_timeout;
    let client = poll_fn(|cx| match Pin::new(&mut upgrade).poll(cx) {
        Poll::Ready(client) => Poll::Ready(client.ok()),
        // Something above may have answered in place of the 101.
        Poll::Pending => timer.poll(give_up_at, cx).map(|()| None),
    });
    let Some(client) = client.await else { return };
    let mut sides = Sides {
        client: TokioIo::new(client),
        backend,
        up: Direction::default(),
        down: Direction::beginning_with(read),
        idle_timeout,
        active_at: Instant::now(),
        half_closed_at: None,
        probe_at: None,
        deadline: tunnel.deadline(),
        timer,
    };
    let cause = poll_fn(|cx| sides.poll(cx)).await;
    match cause {
        // That the server's side of the client is dropped without a shutdown is a reset, too.
        Cause::ClientReset => sides.backend.reset_at_end(),
        Cause::BackendReset => {}
        Cause::Closed | Cause::Idle | Cause::Deadline => sides.shut_down(),
    }
    // Before the connections are dropped: a server may wait for no more than that.
    tunnel.end(&Ended {
        cause,
        request_bytes: sides.up.bytes,
        response_bytes: sides.down.bytes,
        response_chunks: sides.down.chunks,
    });
}

struct Sides<C, B> {
    client: C,
    backend: B,
    /// From the client to the backend.
    up: Direction,
    down: Direction,
    idle_timeout: Duration,
    /// When something was last forwarded.
    active_at: Instant,
    half_closed_at: Option<Instant>,
    /// While a direction is blocked.
    probe_at: Option<Instant>,
    deadline: Option<Instant>,
    timer: Timer,
}

impl<C, B> Sides<C, B>
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    /// Ready at the end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        let chunks = self.up.chunks + self.down.chunks;
        let up = self.up.poll(&mut self.client, &mut self.backend, cx);
        let down = self.down.poll(&mut self.backend, &mut self.client, cx);
        match (up, down) {
            (Poll::Ready(Err(Broken::Reading)), _) | (_, Poll::Ready(Err(Broken::Writing))) => {
                return Poll::Ready(Cause::ClientReset);
            }
            (Poll::Ready(Err(Broken::Writing)), _) | (_, Poll::Ready(Err(Broken::Reading))) => {
                return Poll::Ready(Cause::BackendReset);
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Cause::Closed),
            (Poll::Pending, Poll::Pending) => {}
            (Poll::Ready(Ok(())), Poll::Pending) | (Poll::Pending, Poll::Ready(Ok(()))) => {
                self.half_closed_at.get_or_insert_with(Instant::now);
            }
        }
        if self.up.chunks + self.down.chunks != chunks {
            self.active_at = Instant::now();
        }
        loop {
            let (end, cause) = self.end();
            let probe_at = self.next_probe();
            let next = probe_at.map_or(end, |probe_at| end.min(probe_at));
            ready!(self.timer.poll(next, cx));
            if next == end {
                return Poll::Ready(cause);
            }
            if let Some(cause) = self.probe(cx) {
                return Poll::Ready(cause);
            }
            self.probe_at = None;
        }
    }

    /// When to look for a reset that nothing tells of: a socket with unread bytes is always ready,
    /// so its task isn't woken.
    fn next_probe(&mut self) -> Option<Instant> {
        let is_blocked = self.up.is_blocked() || self.down.is_blocked();
        // A side that was shut down can't be probed, and isn't waited for much longer.
        if is_blocked && self.half_closed_at.is_none() {
            let next = || Instant::now() + PROBE_INTERVAL;
            self.probe_at.get_or_insert_with(next);
        } else {
            self.probe_at = None;
        }
        self.probe_at
    }

    /// Probes the sides from which nothing can be read.
    fn probe(&mut self, cx: &mut Context<'_>) -> Option<Cause> {
        if self.up.is_blocked() && is_reset(&mut self.client, cx) {
            Some(Cause::ClientReset)
        } else if self.down.is_blocked() && is_reset(&mut self.backend, cx) {
            Some(Cause::BackendReset)
        } else {
            None
        }
    }

    /// When the tunnel ends if nothing more happens, and why.
    fn end(&self) -> (Instant, Cause) {
        let mut end = (self.active_at + self.idle_timeout, Cause::Idle);
        let half_closed_at = self.half_closed_at;
        let others = [
            half_closed_at.map(|at| (at + HALF_CLOSED_TIMEOUT, Cause::Closed)),
            self.deadline.map(|at| (at, Cause::Deadline)),
        ];
        for other in others.into_iter().flatten() {
            if other.0 < end.0 {
                end = other;
            }
        }
        end
    }

    /// Announces the end to both sides, as far as that needs no waiting.
    fn shut_down(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = Pin::new(&mut self.client).poll_shutdown(&mut cx);
        let _ = Pin::new(&mut self.backend).poll_shutdown(&mut cx);
    }
}

/// Whether a side's connection was reset: then even a write of nothing fails.
fn is_reset<S: AsyncWrite + Unpin>(side: &mut S, cx: &mut Context<'_>) -> bool {
    matches!(Pin::new(side).poll_write(cx, &[]), Poll::Ready(Err(_)))
}

/// What is forwarded from one side to the other.
#[derive(Default)]
struct Direction {
    /// Read, but not yet written.
    pending: Bytes,
    /// Written, but perhaps still in a buffer of TLS.
    needs_flush: bool,
    state: State,
    bytes: u64,
    chunks: u64,
}

#[derive(Clone, Copy, Default)]
enum State {
    #[default]
    Open,
    /// The end was read.
    Ending,
    /// The end was forwarded.
    Ended,
}

/// The side that a direction failed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Reading,
    Writing,
}

impl Direction {
    fn beginning_with(pending: Bytes) -> Self {
        Self {
            pending,
            ..Self::default()
        }
    }

    /// Whether the other side has to read before anything more is read from this one.
    fn is_blocked(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Forwards what there is. Ready once the end has been forwarded, too.
    fn poll<R, W>(
        &mut self,
        from: &mut R,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            if self.is_blocked() {
                let pending = std::mem::take(&mut self.pending);
                let written = self.write(to, cx, &pending)?;
                // All of it is freed with the last byte.
                if written < pending.len() {
                    self.pending = pending.slice(written..);
                    return Poll::Pending;
                }
            }
            match self.state {
                State::Open => {
                    let waker = cx.waker();
                    let read = poll_read(from, &mut Context::from_waker(waker), |read| {
                        self.forward(to, &mut Context::from_waker(waker), read)
                    });
                    match read {
                        Poll::Ready(Ok(forwarded)) => forwarded?,
                        // Not the connection's, but that of TLS: most often its end without a
                        // `close_notify`, before which all was received that was sent.
                        Poll::Ready(Err(error)) if error.raw_os_error().is_none() => {
                            self.state = State::Ending;
                        }
                        Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Reading)),
                        Poll::Pending => {
                            if self.needs_flush {
                                let flushed = ready!(Pin::new(to).poll_flush(cx));
                                flushed.map_err(|_| Broken::Writing)?;
                                self.needs_flush = false;
                            }
                            return Poll::Pending;
                        }
                    }
                }
                State::Ending => {
                    let shut_down = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    shut_down.map_err(|_| Broken::Writing)?;
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Writes what was read, and keeps what can't be written yet.
    fn forward<W>(&mut self, to: &mut W, cx: &mut Context<'_>, read: &[u8]) -> Result<(), Broken>
    where
        W: AsyncWrite + Unpin,
    {
        if read.is_empty() {
            self.state = State::Ending;
            return Ok(());
        }
        let written = self.write(to, cx, read)?;
        self.pending = Bytes::copy_from_slice(&read[written..]);
        Ok(())
    }

    /// Writes as much as is taken.
    fn write<W>(&mut self, to: &mut W, cx: &mut Context<'_>, bytes: &[u8]) -> Result<usize, Broken>
    where
        W: AsyncWrite + Unpin,
    {
        let mut written = 0;
        while written < bytes.len() {
            match Pin::new(&mut *to).poll_write(cx, &bytes[written..]) {
                Poll::Ready(Ok(length @ 1..)) => written += length,
                Poll::Ready(_) => return Err(Broken::Writing),
                Poll::Pending => break,
            }
        }
        if written > 0 {
            self.needs_flush = true;
            self.bytes += written as u64;
            self.chunks += 1;
        }
        Ok(written)
    }
}
