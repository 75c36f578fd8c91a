//! The response body that holds a client's place to its end.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::Rider;
use crate::body::ready_frame;

pin_project! {
    /// The body of a response of [`Keys`](super::Keys): the wrapped service's, or an error's.
    pub struct ResponseBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        Admitted { #[pin] body: B, rider: Rider },
        Own { body: Bytes },
    }
}

impl<B> ResponseBody<B> {
    pub(super) fn admitted(body: B, rider: Rider) -> Self {
        Self {
            kind: Kind::Admitted { body, rider },
        }
    }

    pub(super) fn own(body: Bytes) -> Self {
        Self {
            kind: Kind::Own { body },
        }
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Admitted { mut body, rider } => {
                let polled = body.as_mut().poll_frame(cx);
                rider.after(&*body, &polled);
                polled
            }
            KindProj::Own { body } => ready_frame(std::mem::take(body)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Admitted { body, .. } => body.is_end_stream(),
            Kind::Own { body } => body.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Admitted { body, .. } => body.size_hint(),
            Kind::Own { body } => SizeHint::with_exact(body.len() as u64),
        }
    }
}

impl<B> Default for ResponseBody<B> {
    /// An empty body, which some middleware puts in the place of another.
    fn default() -> Self {
        Self::own(Bytes::new())
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}
