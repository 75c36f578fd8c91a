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
            // Why the body breaks off, if it does.
            broken: Option<Error>,
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
            kind: Kinds::Proxied {
                body,
                total,
                log,
                broken: None,
            },
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
                broken,
            } => {
                if let Some(error) = broken.take() {
                    return Poll::Ready(Some(Err(error.into())));
                }
                let entered = log.as_ref().map(|log| log.enter());
                // This clock comes first: a body may have a piece ready whenever it is asked.
                let is_over = total
                    .as_mut()
                    .is_some_and(|total| total.as_mut().poll(cx).is_ready());
                let frame = match is_over {
                    true => Some(Err(Error::new(Kind::TotalTimeout))),
                    false => ready!(body.as_mut().poll_frame(cx)),
                };
                drop(entered);
                if let Some(log) = log {
                    log.frame(&frame, body.is_end_stream());
                }
                Poll::Ready(match frame {
                    Some(Ok(frame)) => Some(Ok(frame)),
                    Some(Err(error)) => {
                        // A server drops what it hasn't sent yet together with a body that fails,
                        // so it is given the time to send what came before.
                        *broken = Some(error);
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    None => None,
                })
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
            Kinds::Proxied { body, broken, .. } => broken.is_none() && body.is_end_stream(),
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

impl<W, P> Default for ResponseBody<W, P> {
    /// An empty body, which some middleware puts in the place of another.
    fn default() -> Self {
        Self::own(Bytes::new())
    }
}

impl<W, P> fmt::Debug for ResponseBody<W, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}
