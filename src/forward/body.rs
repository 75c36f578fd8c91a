use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::exchange::Exchange;
use crate::error::Error;

/// A response's body as it comes from the backend.
///
/// It owns the connection, or the stream of HTTP/2: dropping it cancels the request, and not polling
/// it applies back-pressure. After a clean end the connection is kept for the next request.
pub struct ResponseBody {
    /// `None` at the end.
    exchange: Option<Box<Exchange>>,
}

impl ResponseBody {
    pub(super) fn new(exchange: Box<Exchange>) -> Self {
        let mut body = Self {
            exchange: Some(exchange),
        };
        body.finish_at_end();
        body
    }

    /// A body without any bytes.
    pub(super) fn empty() -> Self {
        Self { exchange: None }
    }

    /// Acts on the end as soon as it is known, as bodies aren't polled after `is_end_stream`.
    fn finish_at_end(&mut self) {
        if let Some(exchange) = self.exchange.take_if(|exchange| exchange.is_end()) {
            exchange.finish();
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
