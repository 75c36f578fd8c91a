use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::SizeHint;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    decode::Decoder,
    encode::Framing,
    head::{self, Head, Parsed},
    upload::{Failed, Upload},
};
use crate::{
    body::RequestBody,
    error::{BoxError, Error, Kind},
};

/// What one read can give.
const READ_BUFFER: usize = 64 * 1024;

/// More interim responses (1xx) than this before the final one are taken for an attack.
const MAX_INTERIM: u8 = 32;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BUFFER]);
}

/// One request and its response on one connection.
pub(crate) struct Exchange<T> {
    io: T,
    /// What is still to be written; none once the request has been passed on.
    upload: Option<Upload>,
    /// Read, but not yet used.
    input: Bytes,
    to_head: bool,
    interim: u8,
    /// The body of the response, once its head has come.
    body: Decoder,
    /// Whether the connection can take another request after this one.
    keep_alive: bool,
}

impl<T> Exchange<T>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    /// `head` is the encoded head of the request; `to_head` says that its method is HEAD.
    pub(crate) fn new(
        io: T,
        head: Vec<u8>,
        framing: Framing,
        body: RequestBody,
        to_head: bool,
    ) -> Self {
        Self {
            io,
            upload: Some(Upload::new(head, framing, body)),
            input: Bytes::new(),
            to_head,
            interim: 0,
            body: Decoder::UntilClose,
            keep_alive: true,
        }
    }

    /// Sends the request and waits for the head of the final response, which may come before the
    /// request has been sent whole.
    ///
    /// The memory of `spare` is used again for the head's fields.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        spare: &mut HeaderMap,
    ) -> Poll<Result<Head, Error>> {
        self.poll_upload(cx)?;
        loop {
            let read = ready!(poll_read(&mut self.io, cx, Bytes::copy_from_slice))
                .map_err(|error| Error::new(Kind::ClosedBeforeHead).with_source(error))?;
            if read.is_empty() {
                return Poll::Ready(Err(Error::new(Kind::ClosedBeforeHead)));
            }
            self.input = match self.input.is_empty() {
                true => read,
                false => [&*self.input, &read].concat().into(),
            };
            if let Some((head, body)) = self.parse_head(spare)? {
                self.keep_alive &= head.keep_alive;
                self.body = body;
                return Poll::Ready(Ok(head));
            }
        }
    }

    fn parse_head(&mut self, spare: &mut HeaderMap) -> Result<Option<(Head, Decoder)>, Error> {
        let invalid = |reason| Error::new(Kind::NotHttp).with_source(reason);
        while !self.input.is_empty() {
            match head::parse(&self.input, self.to_head, spare).map_err(invalid)? {
                Parsed::Partial => break,
                Parsed::Interim(_) if self.interim == MAX_INTERIM => {
                    return Err(invalid("too many interim responses"));
                }
                Parsed::Interim(length) => {
                    self.interim += 1;
                    self.input.advance(length);
                }
                Parsed::Final(length, head, body) => {
                    self.input.advance(length);
                    return Ok(Some((head, body)));
                }
            }
        }
        Ok(None)
    }

    /// The next piece of the response's body, as soon as it is there; none at its end.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        if let Err(error) = self.poll_upload(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        let broke_off = |source: BoxError| Error::new(Kind::Truncated).with_source(source);
        while !self.body.is_end() {
            let decoded = if self.input.is_empty() {
                let body = &mut self.body;
                match ready!(poll_read(&mut self.io, cx, |read| decode(body, read))) {
                    Ok(Decoded::Closed) if self.body.close() => break,
                    Ok(Decoded::Closed) => Err("closed before the end of the body".into()),
                    Ok(Decoded::Data(data, rest)) => {
                        self.input = rest;
                        Ok(data)
                    }
                    Ok(Decoded::Malformed(reason)) => Err(reason.into()),
                    Err(error) => Err(error.into()),
                }
            } else {
                match self.body.advance(&self.input) {
                    Ok((taken, data)) => {
                        let data = self.input.slice(data);
                        self.input.advance(taken);
                        Ok(data)
                    }
                    Err(malformed) => Err(malformed.0.into()),
                }
            };
            match decoded {
                Ok(data) if data.is_empty() => {}
                Ok(data) => return Poll::Ready(Some(Ok(data))),
                Err(source) => return Poll::Ready(Some(Err(broke_off(source)))),
            }
        }
        Poll::Ready(None)
    }

    /// Sends on. An error is the request body's: that the backend doesn't read any more only means
    /// that nothing more is sent, for it may have answered.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        let Some(upload) = &mut self.upload else {
            return Ok(());
        };
        match upload.poll(&mut self.io, cx) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(Failed::Write)) => self.keep_alive = false,
            Poll::Ready(Err(Failed::Body(error))) => return Err(error),
        }
        self.upload = None;
        Ok(())
    }

    /// Whether all of the response's body has been given out.
    pub(crate) fn is_end(&self) -> bool {
        self.body.is_end()
    }

    pub(crate) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.body.take_trailers()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    /// The connection, if it can take another request.
    pub(crate) fn into_reusable(self) -> Option<T> {
        let is_clean = self.upload.is_none() && self.input.is_empty() && self.body.is_end();
        (self.keep_alive && is_clean).then_some(self.io)
    }
}

/// What one read gave of a body.
enum Decoded {
    /// A piece, which may be empty, and what was read beyond it.
    Data(Bytes, Bytes),
    Malformed(&'static str),
    Closed,
}

/// Copies just the data out of the read buffer.
fn decode(body: &mut Decoder, read: &[u8]) -> Decoded {
    if read.is_empty() {
        return Decoded::Closed;
    }
    match body.advance(read) {
        Ok((taken, data)) => Decoded::Data(
            Bytes::copy_from_slice(&read[data]),
            Bytes::copy_from_slice(&read[taken..]),
        ),
        Err(malformed) => Decoded::Malformed(malformed.0),
    }
}

/// Reads into the thread's buffer and gives what came to `take`; nothing came at the end.
fn poll_read<T: AsyncRead + Unpin, R>(
    io: &mut T,
    cx: &mut Context<'_>,
    take: impl FnOnce(&[u8]) -> R,
) -> Poll<io::Result<R>> {
    BUFFER.with_borrow_mut(|buffer| {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(io).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(take(buffer.filled())))
    })
}
