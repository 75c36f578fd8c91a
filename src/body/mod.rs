//! The request's body on its way through the stack: streamed, or buffered in memory.
//!
//! ```
//! use bytes::Bytes;
//! use http_body_util::{BodyExt, Full};
//! use tower_openai_proxy::RequestBody;
//!
//! # tokio_test(async {
//! let body = RequestBody::new(Full::new(Bytes::from("{}"))).with_max_bytes(1024);
//!
//! assert_eq!(body.collect().await?.to_bytes(), "{}");
//! # Ok(()) });
//! # fn tokio_test(test: impl Future<Output = Result<(), tower_openai_proxy::Error>>) {
//! #     tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test).unwrap();
//! # }
//! ```

mod buffer;
mod lend;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    any::Any,
    fmt,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use self::{
    buffer::Buffered,
    lend::Lent,
    stream::{AnyBody, Limits},
};
pub(crate) use self::{
    buffer::{Budget, Buffer, Found, Scan},
    lend::Lender,
};
use crate::{
    clock::IdleClock,
    error::{BoxError, Error},
    exchange,
    rope::Replaced,
};

/// A request's body inside the stack, whatever the server's own body type is.
///
/// It costs one allocation, and in return every stage has the same type. A buffered body is handed
/// on by reference count. Trailers of a buffered body are dropped, as are those of any body that frame,
/// route or authenticate the request (RFC 9110, section 6.5.1).
pub struct RequestBody {
    state: State,
    exchange: Option<exchange::Handle>,
}

enum State {
    Streamed(Pin<Box<AnyBody>>),
    /// `None` where it is empty.
    Buffered(Option<Box<Buffered>>),
    /// Buffered as well, with its model replaced. In a box, as it is large.
    Replaced(Box<(Replaced, Buffered)>),
    /// As another attempt may need it.
    Lent(Box<Lent>),
}

impl RequestBody {
    /// Takes a body as it is; it is read only as far as the backend reads.
    pub fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        // One that is a `RequestBody` already needs no second box.
        let mut body = Some(body);
        if let Some(same) = (&mut body as &mut dyn Any).downcast_mut::<Option<Self>>() {
            return same.take().unwrap_or_default();
        }
        match body {
            Some(body) if !body.is_end_stream() => {
                Self::in_state(State::Streamed(stream::boxed(body)))
            }
            _ => Self::default(),
        }
    }

    /// A body without any bytes.
    pub fn empty() -> Self {
        Self::default()
    }

    fn limits(&mut self) -> Option<Limits<'_>> {
        match &mut self.state {
            State::Streamed(streamed) => Some(streamed.as_mut().limits()),
            _ => None,
        }
    }

    fn in_state(state: State) -> Self {
        Self {
            state,
            exchange: None,
        }
    }

    /// Fails with a 413 error once more than `bytes` bytes have been received. Default: no limit.
    ///
    /// The smaller of two limits counts. A body that is buffered already is left as it is.
    #[must_use]
    pub fn with_max_bytes(mut self, bytes: u64) -> Self {
        if let Some(limits) = self.limits() {
            *limits.max_bytes = (*limits.max_bytes).min(bytes);
        }
        self
    }

    /// Fails with a 408 error when the client sends nothing for this long. Default: no limit.
    ///
    /// A period that was set before stays. A body that is buffered already is left as it is.
    /// Durations are clamped to 30 years.
    #[must_use]
    pub fn with_idle_timeout(mut self, period: Duration) -> Self {
        if let Some(limits) = self.limits() {
            limits.idle.get_or_insert_with(|| IdleClock::new(period));
        }
        self
    }

    /// Limits how much of it may be buffered, and counts that against this budget.
    pub(crate) fn with_buffer_limits(mut self, bytes: u64, budget: &Arc<Budget>) -> Self {
        if let Some(limits) = self.limits() {
            let max = limits.max_buffered_bytes;
            *max = (*max).min(bytes);
            limits.budget.get_or_insert_with(|| budget.clone());
        }
        self
    }

    /// Drops the trailers that the request's `Connection`
    /// [names](crate::header::ConnectionOptions::fields).
    pub(crate) fn drop_trailers(&mut self, connection: Box<[u8]>) {
        match &mut self.state {
            State::Streamed(streamed) => {
                *streamed.as_mut().limits().connection = Some(connection);
            }
            State::Lent(lent) => {
                if let Some(body) = lent.get_mut() {
                    body.drop_trailers(connection);
                }
            }
            // They have none.
            State::Buffered(_) | State::Replaced(_) => {}
        }
    }

    /// A second body with the same bytes, if they are buffered in memory: what a retry needs.
    ///
    /// ```
    /// # use tower_openai_proxy::RequestBody;
    /// let body = RequestBody::from(bytes::Bytes::from("{}"));
    /// assert!(body.try_clone().is_some());
    /// ```
    pub fn try_clone(&self) -> Option<Self> {
        let state = match &self.state {
            State::Streamed(_) | State::Lent(_) => return None,
            State::Buffered(buffered) => State::Buffered(buffered.clone()),
            State::Replaced(replaced) => State::Replaced(replaced.clone()),
        };
        Some(Self {
            state,
            exchange: self.exchange.clone(),
        })
    }

    /// The exchange that it belongs to; begins one where there is none.
    pub(crate) fn exchange_mut(&mut self) -> &exchange::Handle {
        self.exchange.get_or_insert_with(exchange::Handle::new)
    }

    /// The exchange that it belongs to, if one has begun.
    pub(crate) fn exchange(&self) -> Option<&exchange::Handle> {
        self.exchange.as_ref()
    }

    pub(crate) fn in_exchange(mut self, exchange: exchange::Handle) -> Self {
        self.exchange = Some(exchange);
        self
    }

    /// Notes that the request waits for a connection, or doesn't any more.
    pub(crate) fn note_connecting(&self, is_connecting: bool) {
        if let Some(exchange) = &self.exchange {
            exchange.note_upload(is_connecting);
        }
    }

    /// Whether its announced length is over the limit, which can be told before it is read.
    pub(crate) fn is_too_large(&self) -> bool {
        matches!(&self.state, State::Streamed(streamed)
            if streamed.size_hint().lower() > streamed.max_bytes)
    }

    /// Reads it to its end. A body that is buffered already is ready at once.
    pub(crate) fn buffer(mut self, scan: Scan) -> Buffer {
        if let State::Lent(lent) = &mut self.state {
            self.state = lent.take().state;
        }
        if let Some(limits) = self.limits() {
            *limits.max_bytes = (*limits.max_bytes).min(*limits.max_buffered_bytes);
        }
        Buffer::new(self, scan)
    }

    /// What a scan has found in it, if it was scanned.
    pub(crate) fn found(&self) -> Option<&Result<Found, Error>> {
        match &self.state {
            State::Buffered(Some(buffered)) => buffered.found(),
            _ => None,
        }
    }

    /// A copy of these bytes of a buffered body.
    pub(crate) fn copy(&self, range: Range<usize>) -> Vec<u8> {
        match &self.state {
            State::Buffered(Some(buffered)) => buffered.copy(range),
            _ => Vec::new(),
        }
    }

    /// A buffered body with these spans replaced.
    pub(crate) fn replace(mut self, spans: Vec<Range<usize>>, with: Bytes) -> Self {
        if let State::Buffered(Some(mut buffered)) = self.state {
            let replaced = Replaced::new(buffered.take_rope(), spans, with);
            self.state = State::Replaced(Box::new((replaced, *buffered)));
        }
        self
    }
}

impl Default for RequestBody {
    /// An empty body.
    fn default() -> Self {
        Self::in_state(State::Buffered(None))
    }
}

impl From<Bytes> for RequestBody {
    fn from(bytes: Bytes) -> Self {
        Self::in_state(State::Buffered(Buffered::boxed(bytes.into())))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let State::Lent(lent) = &mut self.state {
            self.state = lent.take().state;
        }
        let frame = match &mut self.state {
            State::Streamed(streamed) => {
                let frame = streamed.as_mut().poll_frame(cx);
                if let Poll::Ready(Some(Ok(frame))) = &frame
                    && let (Some(data), Some(exchange)) = (frame.data_ref(), &self.exchange)
                {
                    exchange.receive(data);
                }
                frame
            }
            State::Buffered(buffered) => {
                let buffered = buffered.as_mut();
                ready_frame(buffered.map(|buffered| buffered.take()).unwrap_or_default())
            }
            State::Replaced(replaced) => ready_frame(replaced.0.next().unwrap_or_default()),
            // Never within another.
            State::Lent(_) => Poll::Ready(None),
        };
        if let Some(exchange) = &self.exchange {
            exchange.note_upload(frame.is_pending());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Streamed(streamed) => streamed.is_end_stream(),
            State::Buffered(buffered) => Buffered::len(buffered) == 0,
            State::Replaced(replaced) => replaced.0.remaining() == 0,
            State::Lent(lent) => lent.get().is_none_or(Self::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Streamed(streamed) => streamed.size_hint(),
            State::Buffered(buffered) => SizeHint::with_exact(Buffered::len(buffered)),
            State::Replaced(replaced) => SizeHint::with_exact(replaced.0.remaining()),
            State::Lent(lent) => lent.get().map(Self::size_hint).unwrap_or_default(),
        }
    }
}

/// The next chunk of a body in memory, which is empty at the end.
pub(crate) fn ready_frame<E>(chunk: Bytes) -> Poll<Option<Result<Frame<Bytes>, E>>> {
    Poll::Ready((!chunk.is_empty()).then(|| Ok(Frame::data(chunk))))
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Streamed(_) | State::Lent(_) => "Streamed",
            State::Buffered(_) | State::Replaced(_) => "Buffered",
        };
        f.debug_struct("RequestBody")
            .field("state", &state)
            .field("size_hint", &self.size_hint())
            .finish()
    }
}
