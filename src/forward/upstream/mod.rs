//! Makes a request ready to be sent by any HTTP client.

#[cfg(test)]
mod tests;

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Version, header};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::request::{Outbound, Target};
use crate::{
    body::RequestBody,
    endpoint::Matched,
    error::{BoxError, Error, Kind},
};

/// Applies [`UpstreamRequest`] to a service.
#[derive(Clone, Debug, Default)]
pub struct UpstreamRequestLayer(());

impl UpstreamRequestLayer {
    /// A layer without settings.
    pub fn new() -> Self {
        Self(())
    }
}

impl<S> Layer<S> for UpstreamRequestLayer {
    type Service = UpstreamRequest<S>;

    fn layer(&self, inner: S) -> UpstreamRequest<S> {
        UpstreamRequest::new(inner)
    }
}

/// Makes a request ready for an HTTP client: as [`Forward`](super::Forward) would send it.
///
/// The request must have a [`Backend`](crate::Backend) in its extensions, which
/// [`BackendRoute`](crate::BackendRoute) puts there. The client gets
///
/// - the backend's absolute URL, with the request's path and query appended,
/// - the backend's `Host`,
/// - the client's header fields without those that concern one connection (RFC 9110, section 7.6.1)
///   or the proxy,
/// - the backend's own key, where it has one, in place of the client's credentials, `Cookie`,
///   `OpenAI-Organization` and `OpenAI-Project`, and its [`header`](crate::BackendConfig::header)s in
///   place of the client's,
/// - the `Content-Length` that the body has now, if it is known, and no `Transfer-Encoding`,
/// - HTTP/1.1 as the version, whichever the client speaks.
///
/// It opens no WebSockets: `Connection` and `Upgrade` aren't forwarded, whatever they ask for.
///
/// It fails where there is no backend, where the path has dot segments, and where the body has a
/// transfer coding other than `chunked`.
///
/// See the [module documentation](super) for an example.
#[derive(Clone, Debug)]
pub struct UpstreamRequest<S> {
    inner: S,
}

impl<S> UpstreamRequest<S> {
    /// Wraps a client.
    pub fn new(inner: S) -> Self {
        Self { inner }
    }

    /// The client.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The client.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The client.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B> Service<Request<B>> for UpstreamRequest<S>
where
    S: Service<Request<RequestBody>>,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = UpstreamResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Error::from_service)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let state = match upstream(request.map(RequestBody::new)) {
            Ok(request) => State::Sent {
                future: self.inner.call(request),
            },
            Err(error) => State::Failed { error: Some(error) },
        };
        UpstreamResponseFuture { state }
    }
}

fn upstream(request: Request<RequestBody>) -> Result<Request<RequestBody>, Error> {
    let target = Target::of(&request)?;
    let (mut parts, body) = request.into_parts();
    let outbound = Outbound::new(&parts, &target, &body.size_hint());
    let uri = outbound.uri();
    let uri = uri.map_err(|error| Error::new(Kind::Internal).with_source(error))?;
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, outbound.host().clone());
    outbound.append_to(&mut headers, true);
    parts.headers = headers;
    parts.uri = uri;
    parts.version = Version::HTTP_11;
    parts.extensions.remove::<Matched>();
    Ok(Request::from_parts(parts, body))
}

pin_project! {
    /// The response of [`UpstreamRequest`].
    pub struct UpstreamResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Sent { #[pin] future: F },
        Failed { error: Option<Error> },
    }
}

impl<F, T, E> Future for UpstreamResponseFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Sent { future } => future.poll(cx).map_err(Error::from_service),
            StateProj::Failed { error } => {
                Poll::Ready(Err(error.take().expect("not polled after the end")))
            }
        }
    }
}

impl<F> fmt::Debug for UpstreamResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamResponseFuture")
            .finish_non_exhaustive()
    }
}
