use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::recorder::Recorder;
use crate::error::{BoxError, Error};

pin_project! {
    /// A response body that is observed.
    pub struct ObserveBody<B> {
        #[pin]
        body: B,
        recorder: Option<Box<Recorder>>,
    }
}

impl<B: Body> ObserveBody<B> {
    pub(super) fn new(body: B, mut recorder: Option<Box<Recorder>>) -> Self {
        if let Some(recorder) = &mut recorder
            && body.is_end_stream()
        {
            recorder.complete(None);
        }
        Self { body, recorder }
    }
}

impl<B> Body for ObserveBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut this = self.project();
        let Some(recorder) = this.recorder else {
            return this.body.poll_frame(cx).map_err(Error::from_service);
        };
        let entered = recorder.enter();
        let frame = ready!(this.body.as_mut().poll_frame(cx))
            .map(|frame| frame.map_err(Error::from_service));
        drop(entered);
        recorder.frame(&frame, this.body.is_end_stream());
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> fmt::Debug for ObserveBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObserveBody").finish_non_exhaustive()
    }
}
