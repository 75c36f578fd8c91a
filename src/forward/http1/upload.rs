//! A request on its way to the backend.

use std::{
    io::{self, IoSlice, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use super::encode::{Framing, write_field};
use crate::{
    body::RequestBody,
    error::{Error, Kind},
    header::may_trail,
};

/// Pieces up to this size are copied behind the head or each other; larger ones are written from
/// where they are.
const COPY_LIMIT: usize = 16 * 1024;

/// The head, then the body as it comes, in as few writes as it allows.
pub(super) struct Upload {
    /// What is to be written first, and how much of it has been.
    flat: Vec<u8>,
    written: usize,
    /// What is to be written then: a large piece, and the end of its chunk.
    large: Bytes,
    chunk_end: &'static [u8],
    body: Option<RequestBody>,
    framing: Framing,
}

pub(super) enum Failed {
    /// The request's body: the client is at fault, or gone.
    Body(Error),
    /// Writing: the backend doesn't read any more. It may have answered.
    Write,
}

impl Upload {
    pub(super) fn new(head: Vec<u8>, framing: Framing, body: RequestBody) -> Self {
        Self {
            flat: head,
            written: 0,
            large: Bytes::new(),
            chunk_end: b"",
            body: Some(body),
            framing,
        }
    }

    /// Writes what there is. Ready when the request has been passed on whole.
    pub(super) fn poll<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failed>> {
        loop {
            let body_is_pending = self.gather(cx).map_err(Failed::Body)?.is_pending();
            if self.is_written() {
                ready!(Pin::new(&mut *io).poll_flush(cx)).map_err(|_| Failed::Write)?;
                return match body_is_pending {
                    true => Poll::Pending,
                    false => Poll::Ready(Ok(())),
                };
            }
            while !self.is_written() {
                ready!(self.poll_write(io, cx)).map_err(|_| Failed::Write)?;
            }
            if body_is_pending {
                ready!(Pin::new(&mut *io).poll_flush(cx)).map_err(|_| Failed::Write)?;
                return Poll::Pending;
            }
        }
    }

    /// Takes what the body has ready, as long as it can be written together.
    fn gather(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while let Some(body) = &mut self.body {
            if !self.large.is_empty() || self.flat.len() > COPY_LIMIT {
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut *body).poll_frame(cx)?) {
                Some(frame) => {
                    let is_last = body.is_end_stream();
                    self.push(frame)?;
                    // Not asked again: that would cost most requests another look.
                    if is_last && self.body.is_some() {
                        self.end(None)?;
                    }
                }
                None => self.end(None)?,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn push(&mut self, frame: Frame<Bytes>) -> Result<(), Error> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.end(frame.into_trailers().ok()),
        };
        let mut chunk_end: &'static [u8] = b"";
        match &mut self.framing {
            _ if data.is_empty() => return Ok(()),
            Framing::Chunked => {
                write!(self.flat, "{:x}\r\n", data.len()).expect("memory can be written to");
                chunk_end = b"\r\n";
            }
            Framing::Length(left) => {
                let length = data.len() as u64;
                *left = left.checked_sub(length).ok_or_else(wrong_length)?;
            }
            Framing::None => return Err(wrong_length()),
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

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Error> {
        self.body = None;
        match self.framing {
            Framing::Chunked => {
                self.flat.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.iter().flatten() {
                    if may_trail(name) {
                        write_field(&mut self.flat, name.as_str(), value);
                    }
                }
                self.flat.extend_from_slice(b"\r\n");
                Ok(())
            }
            Framing::Length(left) if left > 0 => Err(wrong_length()),
            Framing::Length(_) | Framing::None => Ok(()),
        }
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

/// The client is at fault: a body must be as long as its head says.
pub(crate) fn wrong_length() -> Error {
    Error::new(Kind::BodyTruncated).with_source("the body is not as long as was announced")
}
