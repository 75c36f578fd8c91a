use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{
    body::ready_frame,
    error::{BoxError, Error},
    forward,
    keys::Rider,
    models,
    observe::ObserveBody,
    ping::PingBody,
    route,
    timeout::{DeadlineBody, TimeoutBody},
};

/// The body that the stack makes of the backend's.
pub(super) type Proxied<P> =
    PingBody<ObserveBody<DeadlineBody<models::ResponseBody<route::ResponseBody<TimeoutBody<P>>>>>>;

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
            body: Proxied<P>,
            // Why the body is truncated, if it is.
            error: Option<Error>,
            rider: Rider,
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

    pub(super) fn proxied(body: Proxied<P>, rider: Rider) -> Self {
        Self {
            kind: Kinds::Proxied {
                body,
                error: None,
                rider,
            },
        }
    }

    pub(super) fn own(body: Bytes) -> Self {
        Self {
            kind: Kinds::Own { body },
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
                error,
                rider,
            } => {
                if let Some(error) = error.take() {
                    return Poll::Ready(Some(Err(error.into())));
                }
                let polled = body.as_mut().poll_frame(cx);
                rider.after(&*body, &polled);
                match ready!(polled) {
                    Some(Err(failed)) => {
                        // A server drops what it hasn't sent yet together with a body that fails,
                        // so it gets the time to send what came before.
                        *error = Some(failed);
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    }
                    Some(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
                    None => Poll::Ready(None),
                }
            }
            KindsProj::Own { body } => ready_frame(std::mem::take(body)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kinds::Wrapped { body } => body.is_end_stream(),
            Kinds::Proxied { body, error, .. } => error.is_none() && body.is_end_stream(),
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
