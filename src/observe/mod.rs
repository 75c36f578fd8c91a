//! Tells what happens to each exchange, without changing a byte of it.
//!
//! An observer is a function of the request's head. For each exchange that it wants to follow it
//! returns a closure, which is called exactly once, when the exchange ends: with a record of the
//! whole, however it ended, also if the client disconnected before there was a response.
//!
//! ```
//! use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
//!
//! use http::request::Parts;
//! use tower_openai_proxy::{Config, OpenAiProxyLayer, observe::Exchange};
//!
//! /// Whom the application's own authentication, above the proxy, has found.
//! #[derive(Clone)]
//! struct User {
//!     bytes: Arc<AtomicU64>,
//! }
//!
//! let layer = OpenAiProxyLayer::builder(Config::default())
//!     .observer(|request: &Parts| {
//!         let user = request.extensions.get::<User>()?.clone(); // `None`: not observed
//!         Some(move |exchange: &Exchange| {
//!             user.bytes.fetch_add(exchange.response_bytes(), Ordering::Relaxed);
//!         })
//!     })
//!     .build();
//! # fn is_layer<L: tower::Layer<axum::routing::Route>>(_: L) {}
//! # is_layer(layer);
//! ```
//!
//! Observers are called on the thread that serves the exchange, so they must not block: send what
//! takes long into a channel. If one panics, that is logged once, and clients don't notice.
//!
//! In a stack made by hand, [`ObserveLayer`] stands above [`BackendRoute`](crate::BackendRoute) and
//! sees exchanges; below it, it sees each attempt as an exchange of its own.
//!
//! # Logs and spans
//!
//! [`access_log`] is an observer that emits one event per exchange, at level `INFO` with the target
//! [`ACCESS_LOG_TARGET`]. It is off unless it is added. At level `DEBUG` each exchange has a span,
//! target [`SPAN_TARGET`], with OpenTelemetry's attributes for generative AI. Neither contains a
//! key, a body, a query, a URL or an address.

mod body;
mod future;
mod log;
mod record;
mod recorder;
mod span;
mod tap;
#[cfg(test)]
mod tests;
mod trace;
mod usage;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body::Body;
use tower::{Layer, Service};

use self::recorder::Recorder;
pub use self::{
    body::ObserveBody,
    future::ResponseFuture,
    log::{ACCESS_LOG_TARGET, access_log},
    record::{Exchange, Outcome, UsageMissing},
    span::SPAN_TARGET,
    trace::TraceContext,
    usage::Usage,
};
pub use crate::exchange::Attempt;
use crate::{
    body::RequestBody,
    error::{BoxError, Error},
    service::accessors,
};

/// What is called at the end of an exchange.
type OnEnd = Box<dyn FnOnce(&Exchange) + Send>;

type Observer = dyn Fn(&Parts) -> Option<OnEnd> + Send + Sync;

/// Applies [`Observe`] to a service.
///
/// Without observers, it only opens the span.
#[derive(Clone, Default)]
pub struct ObserveLayer {
    observers: Arc<[Arc<Observer>]>,
}

impl ObserveLayer {
    /// No observers at first.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an observer. See the [module documentation](self).
    #[must_use]
    pub fn with_observer<F, E>(mut self, observer: F) -> Self
    where
        F: Fn(&Parts) -> Option<E> + Send + Sync + 'static,
        E: FnOnce(&Exchange) + Send + 'static,
    {
        let observer: Arc<Observer> =
            Arc::new(move |request| observer(request).map(|end| Box::new(end) as OnEnd));
        self.observers = self.observers.iter().cloned().chain([observer]).collect();
        self
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe {
            inner,
            observers: self.observers.clone(),
        }
    }
}

impl fmt::Debug for ObserveLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObserveLayer")
            .field("observers", &self.observers.len())
            .finish()
    }
}

/// Follows each exchange to its end and tells the observers.
///
/// See the [module documentation](self).
#[derive(Clone)]
pub struct Observe<S> {
    inner: S,
    observers: Arc<[Arc<Observer>]>,
}

impl<S> Observe<S> {
    accessors!();

    /// An exchange that is rejected before it reaches the wrapped service.
    pub(crate) fn reject<F>(&self, request: &Parts, error: Error) -> ResponseFuture<F> {
        ResponseFuture::rejected(error, Recorder::begin(&self.observers, request, None))
    }
}

impl<S, B, R> Service<Request<B>> for Observe<S>
where
    S: Service<Request<RequestBody>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Response = Response<ObserveBody<R>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Error::from_service)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let mut body = RequestBody::new(body);
        let recorder = Recorder::begin(&self.observers, &parts, body.exchange());
        if let Some(recorder) = &recorder {
            body = body.in_exchange(recorder.handle());
        }
        let _entered = recorder.as_ref().map(|recorder| recorder.enter());
        let future = self.inner.call(Request::from_parts(parts, body));
        drop(_entered);
        ResponseFuture::new(future, recorder)
    }
}

impl<S> fmt::Debug for Observe<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observe").finish_non_exhaustive()
    }
}
