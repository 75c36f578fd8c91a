//! The request's body on its way through the stack: streamed, or held in memory.
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

mod rope;
#[cfg(test)]
mod tests;

use std::{
    any::Any,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};

pub(crate) use self::rope::{Rope, RopeBuilder};
use crate::{
    error::{BoxError, Error, Kind},
    model::splice::Pieces,
    route::LastTried,
    timeout::{IdleClock, Progress},
};

/// A request's body inside the stack, whatever the server's own body type is.
///
/// It costs one allocation, and in return every stage has the same type. A body that is held in
/// memory is handed on by reference count. Trailers of a body that is held are dropped (RFC 9110,
/// section 6.5.1).
pub struct RequestBody {
    state: State,
    progress: Option<Arc<Progress>>,
    last_tried: Option<LastTried>,
}

enum State {
    Streamed(Streamed),
    Held(Rope),
    /// In memory as well, with its model replaced. In a box, as it is large.
    Spliced(Box<Pieces>),
}

struct Streamed {
    body: UnsyncBoxBody<Bytes, BoxError>,
    max_bytes: u64,
    idle: Option<IdleClock>,
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
            Some(body) if !body.is_end_stream() => Self::in_state(State::Streamed(Streamed {
                body: body.map_err(Into::into).boxed_unsync(),
                max_bytes: u64::MAX,
                idle: None,
            })),
            _ => Self::default(),
        }
    }

    /// A body in memory whose model was replaced.
    pub(crate) fn spliced(pieces: Pieces) -> Self {
        Self::in_state(State::Spliced(Box::new(pieces)))
    }

    fn in_state(state: State) -> Self {
        Self {
            state,
            progress: None,
            last_tried: None,
        }
    }

    /// Fails with a 413 error once more than so many bytes have come. No limit by default.
    #[must_use]
    pub fn with_max_bytes(mut self, bytes: u64) -> Self {
        if let State::Streamed(streamed) = &mut self.state {
            streamed.max_bytes = bytes;
        }
        self
    }

    /// Fails with a 408 error when the body is waited for this long. No limit by default.
    #[must_use]
    pub fn with_idle_timeout(mut self, period: Duration) -> Self {
        if let State::Streamed(streamed) = &mut self.state {
            streamed.idle = Some(IdleClock::new(period));
        }
        self
    }

    /// Lets the response-head clock see how far the body has come.
    pub(crate) fn watched_by(mut self, progress: Arc<Progress>) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Lets somebody see which backend it goes to.
    pub(crate) fn followed_by(mut self, last_tried: Option<LastTried>) -> Self {
        self.last_tried = last_tried;
        self
    }

    pub(crate) fn last_tried(&self) -> Option<&LastTried> {
        self.last_tried.as_ref()
    }

    /// Tells the response-head clock whether a connection is waited for.
    pub(crate) fn note_connecting(&self, is_connecting: bool) {
        if let Some(progress) = &self.progress {
            progress.note(is_connecting);
        }
    }

    /// Whether its announced length is over the limit, which can be told before it is read.
    pub(crate) fn is_too_large(&self) -> bool {
        matches!(&self.state, State::Streamed(streamed)
            if streamed.body.size_hint().lower() > streamed.max_bytes)
    }

    /// Gives each piece of data that comes to `take`. Ready at the end, or with the first error.
    pub(crate) fn poll_to_end(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(Bytes) -> Result<(), Error>,
    ) -> Poll<Result<(), Error>> {
        while let Some(frame) = ready!(Pin::new(&mut *self).poll_frame(cx)?) {
            if let Ok(piece) = frame.into_data() {
                take(piece)?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads it to its end.
    pub(crate) fn hold(self) -> Hold {
        Hold {
            body: self,
            held: RopeBuilder::default(),
        }
    }
}

impl Default for RequestBody {
    /// An empty body.
    fn default() -> Self {
        Rope::default().into()
    }
}

impl From<Bytes> for RequestBody {
    fn from(bytes: Bytes) -> Self {
        Rope::from(bytes).into()
    }
}

impl From<Rope> for RequestBody {
    fn from(rope: Rope) -> Self {
        Self::in_state(State::Held(rope))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = match &mut self.state {
            State::Streamed(streamed) => streamed.poll_frame(cx),
            State::Held(rope) => ready_frame(rope.take(usize::MAX)),
            State::Spliced(pieces) => ready_frame(pieces.next().unwrap_or_default()),
        };
        if let Some(progress) = &self.progress {
            progress.note(frame.is_pending());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Streamed(streamed) => streamed.body.is_end_stream(),
            State::Held(rope) => rope.is_empty(),
            State::Spliced(pieces) => pieces.remaining() == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Streamed(streamed) => streamed.body.size_hint(),
            State::Held(rope) => SizeHint::with_exact(rope.len() as u64),
            State::Spliced(pieces) => SizeHint::with_exact(pieces.remaining()),
        }
    }
}

impl Streamed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let Some(idle) = &mut self.idle else {
                    return Poll::Pending;
                };
                ready!(idle.poll_silent(cx));
                return Poll::Ready(Some(Err(Error::new(Kind::BodySilent))));
            }
        };
        if let Some(idle) = &mut self.idle {
            idle.moved();
        }
        Poll::Ready(frame.map(|frame| {
            let frame = frame.map_err(|error| Error::new(Kind::BodyBroken).with_source(error))?;
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            self.max_bytes = self
                .max_bytes
                .checked_sub(length)
                .ok_or_else(|| Error::new(Kind::BodyTooLarge))?;
            Ok(frame)
        }))
    }
}

/// The next piece of a body in memory, which is empty where the body has ended.
fn ready_frame(piece: Bytes) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
    Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Streamed(_) => "Streamed",
            State::Held(_) | State::Spliced(_) => "Held",
        };
        f.debug_struct("RequestBody")
            .field("state", &state)
            .field("size_hint", &self.size_hint())
            .finish()
    }
}

/// Reads a body to its end.
pub(crate) struct Hold {
    body: RequestBody,
    held: RopeBuilder,
}

impl Future for Hold {
    type Output = Result<Rope, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { body, held } = self.get_mut();
        let take = |piece| {
            held.push(piece);
            Ok(())
        };
        ready!(body.poll_to_end(cx, take))?;
        Poll::Ready(Ok(std::mem::take(held).finish()))
    }
}
