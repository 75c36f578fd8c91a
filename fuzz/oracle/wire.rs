//! A response on the wire: a case, and the connection on which it comes.

use std::{
    cell::Cell,
    collections::VecDeque,
    fmt, io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a backend sends, and to which request.
#[derive(Clone)]
pub(super) struct Case {
    pub(super) to: To,
    pub(super) pieces: Vec<Bytes>,
    pub(super) end: End,
}

/// The request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    Get,
    Head,
    /// A POST whose body doesn't come to its end.
    Unfinished,
    /// The same, and the backend doesn't read it.
    Unread,
}

/// What the backend does after its last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Close,
    Reset,
    Silent,
}

impl Case {
    pub(super) fn input(&self) -> Vec<u8> {
        self.pieces.concat()
    }

    pub(super) fn split_by(&self, length: usize) -> Self {
        let pieces = self.input();
        Self {
            pieces: pieces.chunks(length).map(Bytes::copy_from_slice).collect(),
            ..*self
        }
    }

    /// The first bytes only, in one piece.
    pub(super) fn cut(&self, length: usize) -> Self {
        Self {
            pieces: vec![Bytes::from(self.input()).slice(..length)],
            ..*self
        }
    }
}

/// So that it can be copied from a failure into a test.
impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, then {:?}:", self.to, self.end)?;
        for piece in &self.pieces {
            write!(f, " b\"{}\"", piece.escape_ascii())?;
        }
        Ok(())
    }
}

/// A connection on which that comes, each piece by a read of its own, after one in vain.
pub(super) struct Wire {
    pieces: VecDeque<Bytes>,
    end: End,
    is_unread: bool,
    is_due: bool,
    seen: Rc<Seen>,
}

/// What was read of it.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) bytes: Cell<usize>,
}

impl Wire {
    pub(super) fn new(case: &Case) -> (Self, Rc<Seen>) {
        let seen = Rc::<Seen>::default();
        let pieces = case.pieces.iter().filter(|piece| !piece.is_empty());
        let wire = Self {
            pieces: pieces.cloned().collect(),
            end: case.end,
            is_unread: case.to == To::Unread,
            is_due: false,
            seen: seen.clone(),
        };
        (wire, seen)
    }

    /// Whether it can be used again: nothing has come, its end neither.
    pub(super) fn is_silent(&self) -> bool {
        self.pieces.is_empty() && self.end == End::Silent
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.is_due = !self.is_due;
        if self.is_due {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(piece) = self.pieces.front_mut() else {
            return match self.end {
                End::Close => Poll::Ready(Ok(())),
                End::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                End::Silent => Poll::Pending,
            };
        };
        let length = piece.len().min(buffer.remaining());
        buffer.put_slice(&piece[..length]);
        piece.advance(length);
        if piece.is_empty() {
            self.pieces.pop_front();
        }
        self.seen.bytes.set(self.seen.bytes.get() + length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(if self.is_unread {
            Err(io::ErrorKind::BrokenPipe.into())
        } else {
            Ok(bytes.len())
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
