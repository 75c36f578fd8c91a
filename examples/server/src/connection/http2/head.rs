//! The limit on the time in which a frame or a head arrives.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::{PREFACE, activity::Activity};

/// A connection that ends if its client takes too long for what it has begun to send: the first
/// request's head from the start on, and after it each head and each other frame from its first
/// byte on. Bodies have clocks of their own.
pub(super) struct HeadTimeout<S> {
    stream: S,
    frames: Frames,
    limit: Duration,
    activity: Activity,
    /// Since when something is owed.
    since: Option<Instant>,
    /// Made and set when there is nothing to read but something owed, which is rare.
    clock: Option<Pin<Box<Sleep>>>,
}

impl<S> HeadTimeout<S> {
    pub(super) fn new(stream: S, limit: Duration, activity: Activity) -> Self {
        Self {
            stream,
            frames: Frames::default(),
            limit,
            activity,
            since: Some(Instant::now()),
            clock: None,
        }
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(since) = self.since else {
            return Poll::Pending;
        };
        let deadline = since + self.limit;
        let clock = self
            .clock
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if clock.deadline() != deadline {
            clock.as_mut().reset(deadline);
        }
        // A flood uses up what the runtime allows a task at a time, and the clock is never ready.
        if Instant::now() < deadline {
            ready!(clock.as_mut().poll(cx));
        }
        Poll::Ready(io::Error::new(
            io::ErrorKind::TimedOut,
            "no whole request head in time",
        ))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeadTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(cx, buffer) else {
            return this.poll_late(cx).map(Err);
        };
        let is_progress = this.frames.pass(&buffer.filled()[before..]);
        if !this.frames.are_owed() {
            this.since = None;
        } else if is_progress || this.since.is_none() {
            this.since = Some(Instant::now());
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeadTimeout<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.activity.write(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.activity.write(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

const FRAME_HEADER: usize = 9;
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;

/// Where in the client's frames a connection is (RFC 9113, sections 4.1 and 6.10).
struct Frames {
    /// What is to come of the preface, or of the frame's payload.
    rest: usize,
    kind: Kind,
    /// The next frame's header, as much of it as has come.
    header: [u8; FRAME_HEADER],
    header_length: usize,
    /// A head goes on in the next frame.
    is_in_head: bool,
    had_head: bool,
}

/// What a frame is a part of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Body,
    Head { is_last: bool },
    Other,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            rest: PREFACE.len(),
            kind: Kind::Other,
            header: [0; FRAME_HEADER],
            header_length: 0,
            is_in_head: false,
            had_head: false,
        }
    }
}

impl Frames {
    /// Whether the client has begun something that it must end.
    fn are_owed(&self) -> bool {
        let is_in_payload = self.rest > 0 && self.kind != Kind::Body;
        !self.had_head || self.is_in_head || self.header_length > 0 || is_in_payload
    }

    /// Goes over what the client has sent, and says whether something was ended with it.
    fn pass(&mut self, mut bytes: &[u8]) -> bool {
        let mut is_progress = false;
        while !bytes.is_empty() {
            if self.rest == 0 {
                let length = bytes.len().min(FRAME_HEADER - self.header_length);
                let (header, payload) = bytes.split_at(length);
                let end = self.header_length + length;
                self.header[self.header_length..end].copy_from_slice(header);
                self.header_length = end;
                bytes = payload;
                if end < FRAME_HEADER {
                    break;
                }
                self.begin();
            }
            let length = bytes.len().min(self.rest);
            bytes = &bytes[length..];
            self.rest -= length;
            if self.rest == 0 {
                self.end();
                is_progress |= self.had_head && !self.is_in_head;
            }
        }
        is_progress
    }

    fn begin(&mut self) {
        let [a, b, c, kind, flags, ..] = self.header;
        self.header_length = 0;
        self.rest = u32::from_be_bytes([0, a, b, c]) as usize;
        self.kind = match kind {
            DATA => Kind::Body,
            HEADERS | CONTINUATION => Kind::Head {
                is_last: flags & END_HEADERS != 0,
            },
            _ => Kind::Other,
        };
    }

    fn end(&mut self) {
        if let Kind::Head { is_last } = self.kind {
            self.is_in_head = !is_last;
            self.had_head |= is_last;
        }
    }
}
