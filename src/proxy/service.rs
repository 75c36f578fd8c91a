use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use tower::{Service, ServiceExt, util::Oneshot};

use super::{
    body::ResponseBody,
    future::ResponseFuture,
    health,
    layer::{Settings, Shared, Stack},
    log::ExchangeLog,
};
use crate::{
    body::RequestBody,
    endpoint::Ours,
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
    forward: F,
}

impl<S, F> OpenAiProxy<S, F> {
    pub(super) fn new(inner: S, shared: Arc<Shared>, forward: F) -> Self {
        Self {
            inner,
            settings: shared.current(),
            shared,
            forward,
        }
    }

    fn settings(&mut self) -> &Settings {
        if self.shared.is_outdated(&self.settings) {
            self.settings = self.shared.current();
        }
        &self.settings
    }
}

impl<S, F, B, R, P> Service<Request<B>> for OpenAiProxy<S, F>
where
    S: Service<Request<B>, Response = Response<R>>,
    F: Service<Request<RequestBody>, Response = Response<P>> + Clone,
    F::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    P: Body<Data = Bytes>,
    P::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<R, P>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, Oneshot<Stack<F>, Request<RequestBody>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mount = self.shared.mount();
        let ours = match *request.method() {
            // It asks for a tunnel to somewhere, not for a resource (RFC 9110, section 9.3.6).
            Method::CONNECT => Ours::No,
            _ => mount.prefixes.classify(request.uri().path()),
        };
        match ours {
            Ours::Yes if self.shared.is_draining() => {
                ResponseFuture::answer(Error::draining().to_response())
            }
            Ours::Yes => {
                let forward = self.forward.clone();
                let settings = self.settings();
                let mut request = request.map(|body| {
                    RequestBody::new(body)
                        .with_max_bytes(settings.max_body_bytes)
                        .with_idle_timeout(settings.idle_timeout)
                });
                let log = ExchangeLog::start();
                if let Some(log) = &log {
                    request.extensions_mut().insert(log.last_tried());
                }
                let exchange = settings.stack(forward).oneshot(request);
                ResponseFuture::ours(exchange, settings.total_timeout, log)
            }
            Ours::DotSegments => {
                ResponseFuture::answer(Error::new(Kind::DotSegments).to_response())
            }
            Ours::No if health::is_asked(&request, mount.health_path.as_deref()) => {
                let is_draining = self.shared.is_draining();
                let backends = self.settings().backends();
                ResponseFuture::answer(health::response(&backends, is_draining))
            }
            Ours::No => ResponseFuture::wrapped(self.inner.call(request)),
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
