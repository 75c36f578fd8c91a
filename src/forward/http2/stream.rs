//! One request and its response on one stream.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::ResponseFuture};
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};

use super::connection::Slot;
use crate::{
    forward::message::{ExchangeError, Framing, Head, PollFrame},
    header::is_hop_by_hop,
};

/// One exchange.
pub(crate) struct Exchange<B> {
    /// `None` once the whole request has been sent.
    upload: Option<Upload<B>>,
    response: Response,
    is_head_request: bool,
    // Dropped last: the others end the stream.
    slot: Slot,
}

enum Response {
    /// Its head is waited for.
    Head(ResponseFuture),
    Body {
        body: RecvStream,
        /// How much is to come, if there is a `Content-Length`.
        left: Option<u64>,
    },
    End,
}

impl<B> Exchange<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    pub(super) fn new(
        upload: Option<Upload<B>>,
        response: ResponseFuture,
        is_head_request: bool,
        slot: Slot,
    ) -> Self {
        Self {
            upload,
            response: Response::Head(response),
            is_head_request,
            slot,
        }
    }

    /// Sends the request and waits for the head of the response, which may come before the whole
    /// request has been sent.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, ExchangeError<B::Error>>> {
        self.poll_upload(cx)?;
        let Response::Head(response) = &mut self.response else {
            panic!("polled after the head");
        };
        let response = ready!(Pin::new(response).poll(cx))?;
        let (parts, body) = response.into_parts();
        let mut lengths = parts.headers.get_all(header::CONTENT_LENGTH).iter();
        let length = lengths.next();
        if lengths.next().is_some() {
            Err(ExchangeError::Malformed("two lengths".into()))?;
        }
        let left = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let has_body = Head::has_body(parts.status, self.is_head_request);
        self.response = if has_body && !body.is_end_stream() {
            Response::Body { body, left }
        } else {
            Response::End
        };
        Poll::Ready(Ok(Head {
            status: parts.status,
            reason: None,
            headers: end_to_end(parts.headers),
        }))
    }

    /// The next frame of the response's body, as soon as it is there; `None` at the end.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame<B::Error> {
        self.poll_upload(cx)?;
        let Response::Body { body, left } = &mut self.response else {
            return Poll::Ready(None);
        };
        while let Some(data) = ready!(body.poll_data(cx)) {
            // Whatever the reason of an error: behind a whole response there is none.
            let data = data?;
            // Once it is returned more may come, unless the stream has ended, where this fails.
            let _ = body.flow_control().release_capacity(data.len());
            *left = left.map(|left| left.saturating_sub(data.len() as u64));
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
        let trailers = ready!(body.poll_trailers(cx))?;
        self.response = Response::End;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    /// Sends more of the request.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), ExchangeError<B::Error>> {
        if let Some(upload) = &mut self.upload
            && let Poll::Ready(sent) = upload.poll(cx)
        {
            self.upload = None;
            sent?;
        }
        Ok(())
    }

    /// Whether all of the response has been returned.
    pub(crate) fn is_end(&self) -> bool {
        match &self.response {
            Response::Head(_) => false,
            Response::Body { body, .. } => body.is_end_stream(),
            Response::End => true,
        }
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match &self.response {
            Response::Body {
                left: Some(left), ..
            } => SizeHint::with_exact(*left),
            Response::End => SizeHint::with_exact(0),
            _ => SizeHint::default(),
        }
    }

    /// The request's body, if nothing of it has been read.
    pub(crate) fn into_unread_body(self) -> Option<B> {
        let upload = self.upload.filter(|upload| !upload.is_begun);
        upload.map(|upload| upload.body)
    }

    /// Sends no more requests on the connection.
    pub(crate) fn close_connection(&self) {
        self.slot.close_connection();
    }
}

impl<E> From<h2::Error> for ExchangeError<E> {
    fn from(error: h2::Error) -> Self {
        // The library's own errors are violations of the protocol by the backend.
        let is_malformed = error.is_library();
        // Of the streams, only those that a GOAWAY excludes fail with it.
        let is_refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        let is_unprocessed = error.is_remote() && (error.is_go_away() || is_refused);
        let source = match error.reason() {
            // Its debug data is free text of the backend, which might contain a key.
            Some(reason) if error.is_go_away() => format!("connection error: {reason}").into(),
            _ => error.into(),
        };
        if is_malformed {
            Self::Malformed(source)
        } else if is_unprocessed {
            Self::Unprocessed(source)
        } else {
            Self::Closed(source)
        }
    }
}

fn end_to_end(headers: HeaderMap) -> HeaderMap {
    if !headers.keys().any(|name| is_hop_by_hop(name.as_str())) {
        return headers;
    }
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in &headers {
        if !is_hop_by_hop(name.as_str()) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

/// Sends the body of a request.
pub(super) struct Upload<B> {
    stream: SendStream<Bytes>,
    body: B,
    framing: Framing,
    /// Waits for capacity.
    chunk: Bytes,
    /// Whether something of the body has been read.
    is_begun: bool,
}

impl<B> Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    pub(super) fn new(stream: SendStream<Bytes>, framing: Framing, body: B) -> Self {
        Self {
            stream,
            body,
            framing,
            chunk: Bytes::new(),
            is_begun: false,
        }
    }

    /// Sends what there is. Ready when that was all, or when the backend reads no more, which its
    /// response explains.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ExchangeError<B::Error>>> {
        loop {
            if !self.chunk.is_empty() {
                while self.stream.capacity() == 0 {
                    let Some(Ok(_)) = ready!(self.stream.poll_capacity(cx)) else {
                        return Poll::Ready(Ok(()));
                    };
                }
                let chunk = std::mem::take(&mut self.chunk);
                let is_end = self.body.is_end_stream();
                if is_end {
                    self.framing.end()?;
                }
                if self.stream.send_data(chunk, is_end).is_err() || is_end {
                    return Poll::Ready(Ok(()));
                }
            }
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
            self.is_begun = true;
            let Some(frame) = frame.transpose().map_err(ExchangeError::RequestBody)? else {
                return Poll::Ready(self.end(None));
            };
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    self.framing.count(data.len())?;
                    // One byte is asked for: a chunk that is sent at once may wait for the rest,
                    // and takes no capacity from other streams meanwhile.
                    self.stream.reserve_capacity(1);
                    self.chunk = data;
                }
                Err(frame) => return Poll::Ready(self.end(frame.into_trailers().ok())),
            }
        }
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), ExchangeError<B::Error>> {
        self.framing.end()?;
        let trailers = trailers.filter(|trailers| !trailers.is_empty());
        // Should the backend not read it any more, its response explains that.
        let _ = match trailers.filter(|_| self.framing == Framing::Chunked) {
            Some(trailers) => self.stream.send_trailers(trailers),
            None => self.stream.send_data(Bytes::new(), true),
        };
        Ok(())
    }
}
