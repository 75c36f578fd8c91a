use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::{ObserveBody, recorder::Recorder};
use crate::{
    error::{BoxError, Error},
    tunnel::Tunnel,
};

pin_project! {
    /// The response of [`Observe`](super::Observe).
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
        recorder: Option<Box<Recorder>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Forwarded { #[pin] future: F },
        Rejected { error: Option<Error> },
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(future: F, recorder: Option<Box<Recorder>>) -> Self {
        Self {
            state: State::Forwarded { future },
            recorder,
        }
    }

    pub(super) fn rejected(error: Error, recorder: Option<Box<Recorder>>) -> Self {
        Self {
            state: State::Rejected { error: Some(error) },
            recorder,
        }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<ObserveBody<R>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let entered = this.recorder.as_ref().map(|recorder| recorder.enter());
        let result = match this.state.project() {
            StateProj::Forwarded { future } => ready!(future.poll(cx)).map_err(Error::from_service),
            StateProj::Rejected { error } => Err(error.take().expect("not polled after the end")),
        };
        drop(entered);
        if let Some(recorder) = this.recorder {
            recorder.head(&result);
        }
        if let Some(tunnel) = result.as_ref().ok().and_then(Tunnel::of)
            && let Some(mut recorder) = this.recorder.take()
        {
            tunnel.at_end(move |ended| recorder.tunnel(ended));
        }
        Poll::Ready(
            result
                .map(|response| response.map(|body| ObserveBody::new(body, this.recorder.take()))),
        )
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
