use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::{log::ExchangeLog, total::TotalBody};
use crate::{
    error::{BoxError, Error},
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
            body: Source<P>,
            log: Option<Box<ExchangeLog>>,
            // Why the body breaks off, if it does.
            broken: Option<Error>,
        },
        Own { body: Bytes },
    }
}

pin_project! {
    #[project = SourceProj]
    enum Source<P> {
        Untimed { #[pin] body: TimeoutBody<P> },
        Timed { #[pin] body: TotalBody<TimeoutBody<P>> },
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
    P: Body<Data = Bytes> + Send + 'static,
    P::Error: Into<BoxError>,
{
    /// The backend's, until `deadline` at the latest.
    pub(super) fn proxied(
        body: TimeoutBody<P>,
        deadline: Option<Instant>,
        mut log: Option<Box<ExchangeLog>>,
    ) -> Self {
        if let Some(log) = log.as_mut().filter(|_| body.is_end_stream()) {
            log.complete();
        }
        let body = match deadline {
            Some(deadline) if !body.is_end_stream() => Source::Timed {
                body: TotalBody::new(body, deadline),
            },
            _ => Source::Untimed { body },
        };
        Self {
            kind: Kinds::Proxied {
                body,
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
                log,
                broken,
            } => {
                if let Some(error) = broken.take() {
                    return Poll::Ready(Some(Err(error.into())));
                }
                let entered = log.as_ref().map(|log| log.enter());
                let frame = ready!(body.as_mut().poll_frame(cx));
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

impl<P> Body for Source<P>
where
    P: Body<Data = Bytes>,
    P::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.project() {
            SourceProj::Untimed { body } => body.poll_frame(cx),
            SourceProj::Timed { body } => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Untimed { body } => body.is_end_stream(),
            Self::Timed { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Untimed { body } => body.size_hint(),
            Self::Timed { body } => body.size_hint(),
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
