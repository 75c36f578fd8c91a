//! Sends a request.

use std::{
    io::{self, IoSlice, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use super::encode::write_field;
use crate::forward::message::{Framing, WrongLength};

/// Chunks up to this size are copied behind the head or each other; larger ones are written from
/// where they are.
const COPY_LIMIT: usize = 16 * 1024;

/// The head, then the body as it comes, in as few writes as it allows.
pub(super) struct Upload<B> {
    /// Written first, and how much of it has been.
    flat: Vec<u8>,
    written: usize,
    /// Written then: a large chunk, and its end.
    large: Bytes,
    chunk_end: &'static [u8],
    body: Option<B>,
    framing: Framing,
}

/// Why a request can't be sent to its end.
pub(super) enum UploadError<E> {
    Body(E),
    WrongLength,
    /// The backend doesn't read any more. It may have responded.
    Write,
}

impl<E> From<WrongLength> for UploadError<E> {
    fn from(_: WrongLength) -> Self {
        Self::WrongLength
    }
}

impl<B> Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    pub(super) fn new(head: Vec<u8>, framing: Framing, body: B) -> Self {
        Self {
            flat: head,
            written: 0,
            large: Bytes::new(),
            chunk_end: b"",
            body: Some(body),
            framing,
        }
    }

    /// Writes what there is. Ready once the whole request has been sent.
    pub(super) fn poll<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), UploadError<B::Error>>> {
        loop {
            let body_is_pending = self.gather(cx)?.is_pending();
            let has_written = !self.is_written();
            while !self.is_written() {
                ready!(self.poll_write(io, cx)).map_err(|_| UploadError::Write)?;
            }
            if body_is_pending || !has_written {
                ready!(Pin::new(&mut *io).poll_flush(cx)).map_err(|_| UploadError::Write)?;
                return if body_is_pending {
                    Poll::Pending
                } else {
                    Poll::Ready(Ok(()))
                };
            }
        }
    }

    /// Takes what the body has ready, as long as it can be written together.
    fn gather(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadError<B::Error>>> {
        while let Some(body) = &mut self.body {
            if !self.large.is_empty() || self.flat.len() > COPY_LIMIT {
                return Poll::Ready(Ok(()));
            }
            let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
            match frame.transpose().map_err(UploadError::Body)? {
                Some(frame) => {
                    let is_last = body.is_end_stream();
                    self.push(frame)?;
                    // Not polled again, which would cost most requests another call.
                    if is_last && self.body.is_some() {
                        self.end(None)?;
                    }
                }
                None => self.end(None)?,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn push(&mut self, frame: Frame<Bytes>) -> Result<(), WrongLength> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.end(frame.into_trailers().ok()),
        };
        if data.is_empty() {
            return Ok(());
        }
        self.framing.count(data.len())?;
        let mut chunk_end: &'static [u8] = b"";
        if self.framing == Framing::Chunked {
            write!(self.flat, "{:x}\r\n", data.len()).expect("memory can be written to");
            chunk_end = b"\r\n";
        }
        if data.len() <= COPY_LIMIT {
            self.flat.extend_from_slice(&data);
            self.flat.extend_from_slice(chunk_end);
        } else {
            self.large = data;
            self.chunk_end = chunk_end;
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), WrongLength> {
        self.body = None;
        if self.framing == Framing::Chunked {
            self.flat.extend_from_slice(b"0\r\n");
            for (name, value) in trailers.iter().flatten() {
                write_field(&mut self.flat, name, value);
            }
            self.flat.extend_from_slice(b"\r\n");
        }
        self.framing.end()
    }

    fn is_written(&self) -> bool {
        self.flat.is_empty() && self.large.is_empty() && self.chunk_end.is_empty()
    }

    fn poll_write<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let io = Pin::new(io);
        let flat = &self.flat[self.written..];
        let mut written = ready!(if self.large.is_empty() && self.chunk_end.is_empty() {
            io.poll_write(cx, flat)
        } else {
            let slices = [flat, &self.large, self.chunk_end].map(IoSlice::new);
            io.poll_write_vectored(cx, &slices)
        })?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }

        let of_flat = written.min(flat.len());
        self.written += of_flat;
        if self.written == self.flat.len() {
            self.flat.clear();
            self.written = 0;
        }
        written -= of_flat;
        let of_large = written.min(self.large.len());
        self.large.advance(of_large);
        self.chunk_end = &self.chunk_end[written - of_large..];
        Poll::Ready(Ok(()))
    }
}
