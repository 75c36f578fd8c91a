use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use tower::Service;

use super::{
    body::ResponseBody,
    future::ResponseFuture,
    health,
    layer::{Settings, Shared, Stack},
    log::ExchangeLog,
};
use crate::{
    body::RequestBody,
    endpoint::PathMatch,
    error::{BoxError, Error, Kind},
    forward::Forward,
};

/// Proxies chat completions and leaves everything else to the service it wraps.
///
/// Its errors are those of the wrapped service: what goes wrong with a request that is ours becomes
/// a response. See the [module documentation](super).
#[derive(Clone)]
pub struct OpenAiProxy<S, F = Forward> {
    inner: S,
    shared: Arc<Shared>,
    /// Those that were current when this service was last called.
    settings: Arc<Settings>,
    /// What they make of the client of the backends.
    stack: Stack<F>,
    forward: F,
}

impl<S, F: Clone> OpenAiProxy<S, F> {
    pub(super) fn new(inner: S, shared: Arc<Shared>, forward: F) -> Self {
        let settings = shared.current();
        Self {
            inner,
            shared,
            stack: settings.stack(forward.clone()),
            settings,
            forward,
        }
    }

    fn refresh(&mut self) {
        if self.shared.is_outdated(&self.settings) {
            self.settings = self.shared.current();
            self.stack = self.settings.stack(self.forward.clone());
        }
    }
}

impl<S, F, B, R, P> Service<Request<B>> for OpenAiProxy<S, F>
where
    S: Service<Request<B>, Response = Response<R>>,
    F: Service<Request<RequestBody>, Response = Response<P>> + Clone,
    F::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    P: Body<Data = Bytes> + Send + 'static,
    P::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<R, P>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, <Stack<F> as Service<Request<RequestBody>>>::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mount = self.shared.mount();
        let ours = match *request.method() {
            // It asks for a tunnel to somewhere, not for a resource (RFC 9110, section 9.3.6).
            Method::CONNECT => PathMatch::Other,
            _ => mount.paths.classify(request.uri().path()),
        };
        match ours {
            PathMatch::Endpoint(_) if self.shared.is_draining() => {
                ResponseFuture::answer(Error::draining().to_response())
            }
            PathMatch::Endpoint(matched) => {
                self.refresh();
                let settings = &*self.settings;
                let log = ExchangeLog::start();
                let mut request = request.map(|body| {
                    let body = RequestBody::new(body)
                        .with_max_bytes(settings.max_body_bytes)
                        .with_idle_timeout(settings.idle_timeout);
                    match &log {
                        Some(log) => body.in_exchange(log.exchange()),
                        None => body,
                    }
                });
                request.extensions_mut().insert(matched);
                // Always ready, so it is called without asking.
                let exchange = self.stack.call(request);
                ResponseFuture::ours(exchange, settings.total_timeout, log)
            }
            PathMatch::Unsafe => {
                ResponseFuture::answer(Error::new(Kind::DotSegments).to_response())
            }
            PathMatch::Other if health::is_asked(&request, mount.health_path.as_deref()) => {
                let is_draining = self.shared.is_draining();
                self.refresh();
                ResponseFuture::answer(health::response(&self.settings.backends(), is_draining))
            }
            PathMatch::Other => ResponseFuture::wrapped(self.inner.call(request)),
        }
    }
}

impl<S, F> fmt::Debug for OpenAiProxy<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAiProxy")
            .field("backends", &self.settings.backends())
            .finish_non_exhaustive()
    }
}
