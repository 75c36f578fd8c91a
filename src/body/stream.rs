//! A body that is forwarded as it arrives, with its limits.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use sync_wrapper::SyncWrapper;

use super::buffer::Budget;
use crate::{
    clock::IdleClock,
    error::{BoxError, Error, Kind},
    header::retain_trailers,
};

pin_project! {
    /// A body that is streamed, of whatever type, with its limits.
    pub(super) struct Streamed<B: ?Sized> {
        pub(super) max_bytes: u64,
        pub(super) max_buffered_bytes: u64,
        pub(super) idle: Option<IdleClock>,
        pub(super) budget: Option<Arc<Budget>>,
        // The fields that the request's `Connection` names.
        pub(super) connection: Option<Box<[u8]>>,
        #[pin]
        body: B,
    }
}

pub(super) type AnyBody = Streamed<dyn Body<Data = Bytes, Error = BoxError> + Send + Sync>;

/// In one allocation.
pub(super) fn boxed<B>(body: B) -> Pin<Box<AnyBody>>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Box::pin(Streamed {
        max_bytes: u64::MAX,
        max_buffered_bytes: u64::MAX,
        idle: None,
        budget: None,
        connection: None,
        body: SyncBody {
            size_hint: body.size_hint(),
            is_end: body.is_end_stream(),
            body: SyncWrapper::new(body),
        },
    })
}

/// The limits of a streamed body.
pub(super) struct Limits<'a> {
    pub(super) max_bytes: &'a mut u64,
    pub(super) max_buffered_bytes: &'a mut u64,
    pub(super) idle: &'a mut Option<IdleClock>,
    pub(super) budget: &'a mut Option<Arc<Budget>>,
    pub(super) connection: &'a mut Option<Box<[u8]>>,
}

impl AnyBody {
    pub(super) fn limits(self: Pin<&mut Self>) -> Limits<'_> {
        let this = self.project();
        Limits {
            max_bytes: this.max_bytes,
            max_buffered_bytes: this.max_buffered_bytes,
            idle: this.idle,
            budget: this.budget,
            connection: this.connection,
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    pub(super) fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.project();
        let frame = match this.body.poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let Some(idle) = this.idle else {
                    return Poll::Pending;
                };
                ready!(idle.poll_elapsed(cx));
                return Poll::Ready(Some(Err(Error::new(Kind::BodyIdle))));
            }
        };
        if let Some(idle) = this.idle {
            idle.reset();
        }
        Poll::Ready(frame.map(|frame| {
            let frame =
                frame.map_err(|error| Error::new(Kind::BodyTruncated).with_source(error))?;
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            *this.max_bytes = this
                .max_bytes
                .checked_sub(length)
                .ok_or_else(|| Error::new(Kind::BodyTooLarge))?;
            Ok(match frame.into_trailers() {
                Ok(mut trailers) => {
                    retain_trailers(&mut trailers, this.connection.as_deref());
                    Frame::trailers(trailers)
                }
                Err(frame) => frame,
            })
        }))
    }
}

pin_project! {
    /// A body that can be shared between threads, as it only tells what it was last seen to be.
    struct SyncBody<B> {
        size_hint: SizeHint,
        is_end: bool,
        #[pin]
        body: SyncWrapper<B>,
    }
}

impl<B> Body for SyncBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let mut body = this.body.get_pin_mut();
        let frame = ready!(body.as_mut().poll_frame(cx));
        *this.size_hint = body.size_hint();
        *this.is_end = body.is_end_stream();
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.is_end
    }

    fn size_hint(&self) -> SizeHint {
        self.size_hint
    }
}
