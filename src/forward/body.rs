//! The response body of `Forward`: the backend's connection.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::{runtime::Handle, time::timeout};

use super::exchange::Exchange;
use crate::error::Error;

/// How long, and for how many bytes, the end of a response that was dropped behind `data: [DONE]` is
/// awaited.
const END_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_END_BYTES: usize = 16 * 1024;

/// A response's body as it comes from the backend.
///
/// It owns the connection, or the stream of HTTP/2: dropping it cancels the request, and not polling
/// it applies back-pressure. After a clean end the connection is kept for the next request. That
/// holds for an event stream that is dropped behind `data: [DONE]`, too, as OpenAI's Python SDK does:
/// its end is awaited for at most 1 s and 16 KiB.
pub struct ResponseBody {
    /// `None` at the end.
    exchange: Option<Box<Exchange>>,
    tail: Tail,
}

impl ResponseBody {
    pub(super) fn new(exchange: Box<Exchange>) -> Self {
        let mut body = Self {
            exchange: Some(exchange),
            tail: Tail::default(),
        };
        body.finish_at_end();
        body
    }

    /// A body without any bytes.
    pub(super) fn empty() -> Self {
        Self {
            exchange: None,
            tail: Tail::default(),
        }
    }

    /// Acts on the end as soon as it is known, as bodies aren't polled after `is_end_stream`.
    fn finish_at_end(&mut self) {
        if let Some(exchange) = self.exchange.take_if(|exchange| exchange.is_end()) {
            exchange.finish();
        }
    }
}

/// The last bytes of a body: as many as `data: [DONE]` and two line ends have.
#[derive(Default)]
struct Tail([u8; 16]);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last_chunk() {
            self.0 = *last;
        } else {
            self.0.rotate_left(bytes.len());
            let rest = self.0.len() - bytes.len();
            self.0[rest..].copy_from_slice(bytes);
        }
    }

    /// Whether they are the event that ends OpenAI's streams.
    fn is_done(&self) -> bool {
        let line = self.0.trim_ascii_end();
        line.ends_with(b"data: [DONE]") || line.ends_with(b"data:[DONE]")
    }
}

/// Reads a response to its end, which is near, so that its connection is kept.
async fn read_to_end(mut exchange: Box<Exchange>) {
    let mut read = 0;
    while let Some(Ok(frame)) = poll_fn(|cx| exchange.poll_frame(cx)).await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > MAX_END_BYTES {
            return;
        }
    }
    if exchange.is_end() {
        exchange.finish();
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if !self.tail.is_done() {
            return;
        }
        if let Some(exchange) = self.exchange.take()
            && exchange.is_sole()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(timeout(END_TIMEOUT, read_to_end(exchange)));
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(exchange) = &mut self.exchange else {
            return Poll::Ready(None);
        };
        let frame = ready!(exchange.poll_frame(cx));
        if matches!(frame, Some(Err(_))) {
            self.exchange = None;
        } else {
            self.finish_at_end();
            if let Some(Ok(frame)) = &frame
                && let Some(data) = frame.data_ref()
            {
                self.tail.push(data);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.exchange.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.exchange {
            Some(exchange) => exchange.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}
