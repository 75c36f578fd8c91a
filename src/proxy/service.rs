use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response, Version};
use http_body::Body;
use tokio::sync::watch;
use tower::{Layer, Service};

use super::{
    OpenAiProxyLayer,
    body::ResponseBody,
    future::ResponseFuture,
    health,
    stack::{Stack, stack},
    state::{Shared, State},
};
use crate::{
    body::RequestBody,
    config::Config,
    endpoint::PathMatch,
    error::{BoxError, Error, Kind},
    forward::Forward,
    keys::KeysLayer,
    models, ping, route,
    service::accessors,
    timeout::{DeadlineBody, TimeoutBody},
};

/// The future of a request that is rejected above the stack.
type Rejected<P> = Ready<
    Result<
        Response<DeadlineBody<models::ResponseBody<route::ResponseBody<TimeoutBody<P>>>>>,
        Error,
    >,
>;

/// Proxies the endpoints of the OpenAI API and leaves every other request to the service it wraps.
///
/// Its errors are those of the wrapped service: an error of a proxied request becomes a response. See
/// the [module documentation](super).
pub struct OpenAiProxy<S = NotFound, F = Forward> {
    inner: S,
    shared: Arc<Shared>,
    state: watch::Receiver<Arc<State>>,
    /// Of the state that was seen last.
    keys: KeysLayer,
    stack: Stack<F>,
    forward: F,
}

impl OpenAiProxy {
    /// The proxy as a service of its own, to be mounted as a route: below the route's middleware, such
    /// as an application's authentication. Every other path is answered with 404.
    ///
    /// ```
    /// use axum::{Router, extract::Request, middleware::{self, Next}, response::Response};
    /// use tower_openai_proxy::{Config, Error, OpenAiProxy};
    ///
    /// async fn authenticate(request: Request, next: Next) -> Response {
    ///     match request.headers().get("x-session") {
    ///         Some(session) if session == "valid" => next.run(request).await,
    ///         _ => Error::unauthorized().to_response(),
    ///     }
    /// }
    ///
    /// let app: Router = Router::new()
    ///     .route_service("/v1/chat/completions", OpenAiProxy::from_config(Config::default()))
    ///     .route_layer(middleware::from_fn(authenticate));
    /// ```
    pub fn from_config(config: Config) -> Self {
        OpenAiProxyLayer::from_config(config).layer(NotFound::default())
    }
}

impl<S, F: Clone> OpenAiProxy<S, F> {
    pub(super) fn new(inner: S, shared: Arc<Shared>, forward: F) -> Self {
        let mut state = shared.subscribe();
        let current = state.borrow_and_update().clone();
        let stack = stack(&current, forward.clone());
        Self {
            inner,
            shared,
            state,
            keys: current.keys.clone(),
            stack,
            forward,
        }
    }

    accessors!();

    /// Makes the stack anew after a reload.
    fn refresh(&mut self) {
        if self.state.has_changed().unwrap_or(false) {
            let state = self.state.borrow_and_update().clone();
            self.keys = state.keys.clone();
            self.stack = stack(&state, self.forward.clone());
        }
    }
}

impl<S: Clone, F: Clone> Clone for OpenAiProxy<S, F> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: self.shared.clone(),
            state: self.state.clone(),
            keys: self.keys.clone(),
            stack: self.stack.clone(),
            forward: self.forward.clone(),
        }
    }
}

impl<S, F, B, R, P> Service<Request<B>> for OpenAiProxy<S, F>
where
    S: Service<Request<B>, Response = Response<R>>,
    F: Service<Request<RequestBody>, Response = Response<P>> + Clone + Send + 'static,
    F::Error: Into<BoxError>,
    F::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    P: Body<Data = Bytes> + Send + 'static,
    P::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<R, P>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, P>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // The stack is always ready: its attempts wait for the client by themselves.
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        let is_health = self.shared.health_path.as_deref() == Some(path);
        let path_match = match *request.method() {
            // It asks for a tunnel, not for a resource (RFC 9110, section 9.3.6).
            Method::CONNECT => PathMatch::Other,
            Method::GET | Method::HEAD if is_health => {
                let is_draining = self.shared.is_draining();
                let response = health::response(&self.shared.backends(), is_draining);
                return ResponseFuture::answered(response);
            }
            _ if is_health => PathMatch::Other,
            _ => self.shared.paths.classify(path),
        };
        let accepted = match path_match {
            PathMatch::Other => return ResponseFuture::wrapped(self.inner.call(request)),
            PathMatch::Unsafe => Err(Error::new(Kind::DotSegments)),
            PathMatch::Endpoint(_) if self.shared.is_draining() => Err(Error::draining()),
            PathMatch::Endpoint(matched) => {
                // Cheaper to find again than to carry, where copies are made for several backends.
                if !matched.is_usual(request.uri()) {
                    request.extensions_mut().insert(matched);
                }
                Ok(())
            }
        };
        self.refresh();
        let is_http2 = request.version() == Version::HTTP_2;
        match accepted.and_then(|()| self.keys.admit(&mut request)) {
            Ok(permit) => ResponseFuture::proxied(self.stack.call(request), is_http2, permit),
            Err(error) => {
                let (parts, _) = request.into_parts();
                let rejected = self.stack.get_ref().reject::<Rejected<P>>(&parts, error);
                let rejected = ping::ResponseFuture::new(rejected, None);
                ResponseFuture::proxied(rejected, is_http2, None)
            }
        }
    }
}

impl<S, F> fmt::Debug for OpenAiProxy<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAiProxy")
            .field("backends", &self.shared.backends())
            .finish_non_exhaustive()
    }
}

/// A service that answers every request with 404, in the form of the OpenAI API's errors.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct NotFound;

impl<B> Service<Request<B>> for NotFound {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        let response = Error::not_found().to_response::<Bytes>();
        ready(Ok(
            response.map(|body| String::from_utf8_lossy(&body).into_owned())
        ))
    }
}
