//! A request and its response on one connection.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body::{Body, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Malformed,
    decode::Decoder,
    head::{self, HeadSearch, Parsed},
    upload::{Upload, UploadError},
};
use crate::forward::message::{Asked, ExchangeError, Framing, Head, Source};

/// The most that one read returns.
const READ_BUFFER: usize = 64 * 1024;

/// The most interim responses (1xx) before the final one, and the most empty lines before heads;
/// more are taken for an attack.
const MAX_INTERIM: u8 = 32;
const MAX_EMPTY_LINES: u8 = 32;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BUFFER]);
}

/// One request and its response on one connection.
pub(crate) struct Exchange<T, B> {
    io: T,
    /// `None` once the whole request has been sent.
    upload: Option<Upload<B>>,
    /// Read, but not yet used.
    input: Bytes,
    asked: Asked,
    interim: u8,
    empty_lines: u8,
    search: HeadSearch,
    /// The body of the response, once its head has come.
    body: Decoder,
    /// Whether the connection persists after this exchange.
    keep_alive: bool,
}

impl<T, B> Exchange<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
{
    /// `head` is the encoded head of the request.
    pub(crate) fn new(io: T, head: Vec<u8>, framing: Framing, body: B, asked: Asked) -> Self {
        Self {
            io,
            upload: Some(Upload::new(head, framing, body)),
            input: Bytes::new(),
            asked,
            interim: 0,
            empty_lines: 0,
            search: HeadSearch::default(),
            body: Decoder::UntilClose,
            keep_alive: true,
        }
    }

    /// Sends the request and waits for the head of the final response, which may come before the
    /// whole request has been sent.
    ///
    /// The head's fields reuse the memory of `recycled`.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        recycled: &mut HeaderMap,
    ) -> Poll<Result<Head, ExchangeError<B::Error>>> {
        self.poll_upload(cx)?;
        loop {
            let input = &mut self.input;
            let length = ready!(poll_read(&mut self.io, cx, |read| append(input, read)));
            if length.map_err(closed)? == 0 {
                Err(closed("closed before the head of the response"))?;
            }
            if let Some(head) = self.parse_head(recycled)? {
                return Poll::Ready(Ok(head));
            }
        }
    }

    fn parse_head(
        &mut self,
        recycled: &mut HeaderMap,
    ) -> Result<Option<Head>, ExchangeError<B::Error>> {
        loop {
            self.skip_empty_lines()?;
            if !self.search.is_due(&self.input) {
                return Ok(None);
            }
            match head::parse(&self.input, self.asked, recycled)? {
                Parsed::Partial => return Ok(None),
                Parsed::Unasked => return Err(ExchangeError::Switched),
                Parsed::Interim(_) if self.interim == MAX_INTERIM => {
                    return Err(Malformed("too many interim responses").into());
                }
                Parsed::Interim(length) => {
                    self.interim += 1;
                    self.input.advance(length);
                    self.search = HeadSearch::default();
                }
                Parsed::Final {
                    length,
                    head,
                    body,
                    keep_alive,
                } => {
                    // Behind a request that isn't whole, its rest would be taken for the tunnel's.
                    if head.status == StatusCode::SWITCHING_PROTOCOLS && self.upload.is_some() {
                        return Err(ExchangeError::Switched);
                    }
                    self.input.advance(length);
                    self.body = body;
                    self.keep_alive &= keep_alive;
                    return Ok(Some(head));
                }
            }
        }
    }

    /// Empty lines before a head are tolerated, but don't count as its end.
    fn skip_empty_lines(&mut self) -> Result<(), Malformed> {
        while let [b'\n', ..] | [b'\r', b'\n', ..] = *self.input {
            if self.empty_lines == MAX_EMPTY_LINES {
                return Err(Malformed("too many empty lines"));
            }
            self.empty_lines += 1;
            let length = if self.input[0] == b'\n' { 1 } else { 2 };
            self.input.advance(length);
        }
        Ok(())
    }

    /// The next chunk of the response's body, as soon as it is there; `None` at its end.
    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, ExchangeError<B::Error>>>> {
        self.poll_upload(cx)?;
        while !self.body.is_end() {
            let data = if self.input.is_empty() {
                let body = &mut self.body;
                match ready!(poll_read(&mut self.io, cx, |read| decode(body, read))) {
                    Ok(Decoded::Closed) if self.body.close() => break,
                    Ok(Decoded::Closed) => Err(closed("closed before the end of the body"))?,
                    Ok(Decoded::Data(data, rest)) => {
                        self.input = rest;
                        data
                    }
                    Ok(Decoded::Malformed(malformed)) => Err(malformed)?,
                    Err(error) => Err(closed(error))?,
                }
            } else {
                let (taken, data) = self.body.advance(&self.input)?;
                let data = self.input.slice(data);
                self.input.advance(taken);
                data
            };
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(data)));
            }
        }
        Poll::Ready(None)
    }

    /// Sends more of the request. Fails where its body does: that the backend doesn't read any more
    /// only stops the upload, for it may have responded.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), ExchangeError<B::Error>> {
        let Some(upload) = &mut self.upload else {
            return Ok(());
        };
        match upload.poll(&mut self.io, cx) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(UploadError::Write)) => self.keep_alive = false,
            Poll::Ready(Err(UploadError::Body(error))) => {
                return Err(ExchangeError::RequestBody(error));
            }
            Poll::Ready(Err(UploadError::WrongLength)) => return Err(ExchangeError::WrongLength),
        }
        self.upload = None;
        Ok(())
    }

    /// Whether the whole body of the response has been returned.
    pub(crate) fn is_end(&self) -> bool {
        self.body.is_end()
    }

    pub(crate) fn has_trailers(&self) -> bool {
        self.body.has_trailers()
    }

    pub(crate) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.body.take_trailers()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    /// After a 101: the connection, and what was read behind the head.
    pub(crate) fn into_upgraded(self) -> (T, Bytes) {
        (self.io, self.input)
    }

    /// The connection, if it can take another request.
    pub(crate) fn into_reusable(self) -> Option<T> {
        let is_clean = self.upload.is_none() && self.input.is_empty() && self.body.is_end();
        (self.keep_alive && is_clean).then_some(self.io)
    }
}

fn closed<E>(source: impl Into<Source>) -> ExchangeError<E> {
    ExchangeError::Closed(source.into())
}

/// Adds what was read, and gives its length.
fn append(input: &mut Bytes, read: &[u8]) -> usize {
    if input.is_empty() {
        *input = Bytes::copy_from_slice(read);
    } else {
        // In place, with room for more than this.
        let mut grown = BytesMut::from(std::mem::take(input));
        grown.extend_from_slice(read);
        *input = grown.freeze();
    }
    read.len()
}

/// What one read gave of a body.
enum Decoded {
    /// A chunk, which may be empty, and what was read beyond it.
    Data(Bytes, Bytes),
    Malformed(Malformed),
    Closed,
}

/// Copies just the data out of the read buffer.
fn decode(body: &mut Decoder, read: &[u8]) -> Decoded {
    if read.is_empty() {
        return Decoded::Closed;
    }
    match body.advance(read) {
        Ok((taken, data)) => {
            let rest = match &read[taken..] {
                [] => Bytes::new(),
                rest => Bytes::copy_from_slice(rest),
            };
            Decoded::Data(Bytes::copy_from_slice(&read[data]), rest)
        }
        Err(malformed) => Decoded::Malformed(malformed),
    }
}

/// Reads into the thread's buffer and passes what came to `take`: nothing at the end.
pub(crate) fn poll_read<T: AsyncRead + Unpin, R>(
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
