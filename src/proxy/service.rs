use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::{Service, ServiceExt, util::Oneshot};

use super::{
    body::ResponseBody,
    future::ResponseFuture,
    health,
    layer::{Edge, Stack},
    log::ExchangeLog,
};
use crate::{
    backend::Backend,
    body::RequestBody,
    endpoint::{self, Ours},
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
    stack: Stack<F>,
    edge: Edge,
    backends: Arc<[Backend]>,
}

impl<S, F> OpenAiProxy<S, F> {
    pub(super) fn new(inner: S, stack: Stack<F>, edge: Edge, backends: Arc<[Backend]>) -> Self {
        Self {
            inner,
            stack,
            edge,
            backends,
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
        match endpoint::classify(request.uri().path()) {
            Ours::Yes => {
                let mut request = request.map(|body| {
                    RequestBody::new(body)
                        .with_max_bytes(self.edge.max_body_bytes)
                        .with_idle_timeout(self.edge.idle_timeout)
                });
                let log = ExchangeLog::start();
                if let Some(log) = &log {
                    request.extensions_mut().insert(log.last_tried());
                }
                let exchange = self.stack.clone().oneshot(request);
                ResponseFuture::ours(exchange, self.edge.total_timeout, log)
            }
            Ours::DotSegments => {
                ResponseFuture::answer(Error::new(Kind::DotSegments).to_response())
            }
            Ours::No if self.edge.answers_health && health::is_asked(&request) => {
                ResponseFuture::answer(health::response(&self.backends))
            }
            Ours::No => ResponseFuture::wrapped(self.inner.call(request)),
        }
    }
}

impl<S, F> fmt::Debug for OpenAiProxy<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAiProxy")
            .field("backends", &self.backends)
            .finish_non_exhaustive()
    }
}
