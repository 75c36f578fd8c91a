use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Sleep;

use super::log::ExchangeLog;
use crate::{
    error::{BoxError, Error, Kind},
    forward,
    timeout::TimeoutBody,
};

pin_project! {
    /// The body of a response: the wrapped service's `W`, the backend's `P` as it comes, or the
    /// proxy's own.
    pub struct ResponseBody<W, P = forward::ResponseBody> {
        #[pin]
        kind: Kinds<W, P>,
    }
}

pin_project! {
    #[project = KindsProj]
    enum Kinds<W, P> {
        Wrapped { #[pin] body: W },
        Proxied {
            #[pin]
            body: TimeoutBody<P>,
            total: Option<Pin<Box<Sleep>>>,
            log: Option<Box<ExchangeLog>>,
        },
        Own { body: Bytes },
    }
}

impl<W, P> ResponseBody<W, P> {
    pub(super) fn wrapped(body: W) -> Self {
        Self {
            kind: Kinds::Wrapped { body },
        }
    }

    pub(super) fn own(body: Bytes) -> Self {
        Self {
            kind: Kinds::Own { body },
        }
    }
}

impl<W, P> ResponseBody<W, P>
where
    P: Body<Data = Bytes>,
    P::Error: Into<BoxError>,
{
    pub(super) fn proxied(
        body: TimeoutBody<P>,
        total: Option<Pin<Box<Sleep>>>,
        mut log: Option<Box<ExchangeLog>>,
    ) -> Self {
        if let Some(log) = log.as_mut().filter(|_| body.is_end_stream()) {
            log.complete();
        }
        Self {
            kind: Kinds::Proxied { body, total, log },
        }
    }
}

impl<W, P> Body for ResponseBody<W, P>
where
    W: Body<Data = Bytes>,
    W::Error: Into<BoxError>,
    P: Body<Data = Bytes>,
    P::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            KindsProj::Wrapped { body } => body.poll_frame(cx).map_err(Into::into),
            KindsProj::Proxied {
                mut body,
                total,
                log,
            } => {
                let entered = log.as_ref().map(|log| log.enter());
                let frame = match body.as_mut().poll_frame(cx) {
                    Poll::Ready(frame) => frame,
                    Poll::Pending => {
                        let Some(total) = total else {
                            return Poll::Pending;
                        };
                        ready!(total.as_mut().poll(cx));
                        Some(Err(Error::new(Kind::TotalTimeout)))
                    }
                };
                drop(entered);
                if let Some(log) = log {
                    log.frame(&frame, body.is_end_stream());
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            KindsProj::Own { body } => {
                let data = Some(std::mem::take(body)).filter(|data| !data.is_empty());
                Poll::Ready(data.map(|data| Ok(Frame::data(data))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kinds::Wrapped { body } => body.is_end_stream(),
            Kinds::Proxied { body, .. } => body.is_end_stream(),
            Kinds::Own { body } => body.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kinds::Wrapped { body } => body.size_hint(),
            Kinds::Proxied { body, .. } => body.size_hint(),
            Kinds::Own { body } => SizeHint::with_exact(body.len() as u64),
        }
    }
}

impl<W, P> fmt::Debug for ResponseBody<W, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}
