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
//! # Usage
//!
//! The record says what an answer [used](Exchange::usage), as the backend wrote it: of a stream, the
//! last usage in its events; of any other JSON, the last one in its first and last 64 KiB. It is found
//! in passing; nothing is buffered, and no chunk waits for it. No request is changed so that there is
//! one: of chat completions, streams have it only if the request has
//! `"stream_options":{"include_usage":true}`. With the cargo feature `decompress` (on by default), an
//! answer that isn't a stream and has one of the codings gzip, deflate, br and zstd is decoded for it
//! at the end: up to 256 KiB, and 4 MiB decoded.
//!
//! Tokens by user, into a channel, where a task of the application sums them up:
//!
//! ```
//! use http::request::Parts;
//! use tokio::sync::mpsc;
//! use tower_openai_proxy::{Config, OpenAiProxyLayer, observe::{Exchange, Usage}};
//!
//! #[derive(Clone)]
//! struct User(String);
//!
//! let (spent, mut ledger) = mpsc::unbounded_channel();
//! let layer = OpenAiProxyLayer::builder(Config::default())
//!     .observer(move |request: &Parts| {
//!         let User(name) = request.extensions.get::<User>()?.clone();
//!         let spent = spent.clone();
//!         Some(move |exchange: &Exchange| {
//!             let usage = exchange.usage();
//!             let input = usage.and_then(Usage::input_tokens).unwrap_or(0);
//!             let output = usage.and_then(Usage::output_tokens).unwrap_or(0);
//!             let _ = spent.send((name, input, output));
//!         })
//!     })
//!     .build();
//! # fn is_layer<L: tower::Layer<axum::routing::Route>>(_: L) {}
//! # is_layer(layer);
//! # assert!(ledger.try_recv().is_err());
//! ```
//!
//! A monthly budget: middleware outside the proxy answers 429 in OpenAI's form once it is used up.
//!
//! ```
//! use std::sync::{Arc, atomic::{AtomicU64, Ordering::Relaxed}};
//!
//! use axum::{Router, body::Body, extract::Request, middleware::{self, Next}, response::Response};
//! use http::{StatusCode, request::Parts};
//! use tower::ServiceExt;
//! use tower_openai_proxy::{
//!     BackendConfig, Config, Error, OpenAiProxyLayer, RequestBody,
//!     observe::{Exchange, Usage},
//! };
//!
//! /// What a user may still use this month. Found by the application's authentication.
//! #[derive(Clone)]
//! struct Budget(Arc<AtomicU64>);
//!
//! async fn limit(request: Request, next: Next) -> Response {
//!     let left = request.extensions().get::<Budget>().map(|budget| budget.0.load(Relaxed));
//!     if left == Some(0) {
//!         return Error::custom(StatusCode::TOO_MANY_REQUESTS, "insufficient_quota")
//!             .with_type("insufficient_quota")
//!             .with_message("The budget of this month is used up.")
//!             .to_response();
//!     }
//!     next.run(request).await
//! }
//!
//! let spend = |request: &Parts| {
//!     let Budget(left) = request.extensions.get::<Budget>()?.clone();
//!     Some(move |exchange: &Exchange| {
//!         let used = exchange.usage().and_then(Usage::total_tokens).unwrap_or(0);
//!         let _ = left.fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(used)));
//!     })
//! };
//! # async fn backend(_: http::Request<RequestBody>) -> Result<http::Response<Body>, Error> {
//! #     let response = http::Response::builder().header("content-type", "application/json");
//! #     Ok(response.body(Body::from(r#"{"usage":{"total_tokens":29}}"#)).unwrap())
//! # }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! # let config = Config::builder().backend(BackendConfig::new("llm", "http://10.0.0.1/v1"));
//! # let config = config.require_auth(false).build().unwrap();
//! let proxy = OpenAiProxyLayer::builder(config).observer(spend);
//! # let proxy = proxy.forward(tower::service_fn(backend));
//! let app: Router = Router::new().layer(proxy.build()).layer(middleware::from_fn(limit));
//!
//! let budget = Budget(Arc::new(AtomicU64::new(20)));
//! let statuses = [200, 429]; // 29 tokens were used by the first
//! for status in statuses {
//!     let mut request = Request::post("/v1/chat/completions").body(Body::empty()).unwrap();
//!     request.extensions_mut().insert(budget.clone());
//!     let response = app.clone().oneshot(request).await.unwrap();
//!     assert_eq!(response.status(), status);
//!     axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
//! }
//! # });
//! ```
//!
//! # Other adapters
//!
//! The record has what meters need; labels must have few values, so a model that the client chose
//! ([`Exchange::is_configured_model`]) is none without a limit:
//!
//! ```
//! use std::time::Duration;
//!
//! use http::request::Parts;
//! use tower_openai_proxy::{Backend, observe::Exchange};
//!
//! /// A histogram of the `metrics` crate, of OpenTelemetry, or another.
//! fn record(name: &str, value: f64, labels: [(&str, &str); 2]) {
//!     # let _ = (name, value, labels);
//! }
//!
//! let meter = |_: &Parts| {
//!     Some(|exchange: &Exchange| {
//!         let backend = exchange.backend().map_or("", Backend::name);
//!         let operation = exchange.operation().unwrap_or("other");
//!         let labels = [("backend", backend), ("gen_ai.operation.name", operation)];
//!         if let Some(time) = exchange.time_to_first_token() {
//!             record("time_to_first_token", time.as_secs_f64(), labels);
//!         }
//!         record("duration", exchange.duration().as_secs_f64(), labels);
//!     })
//! };
//! # let layer = tower_openai_proxy::ObserveLayer::new().with_observer(meter);
//! # let _ = Duration::ZERO;
//! ```
//!
//! # Logs and spans
//!
//! [`access_log`] is an observer that emits one event per exchange, at level `INFO` with the target
//! [`ACCESS_LOG_TARGET`]. It is off unless it is added. At level `DEBUG` each exchange has a span,
//! target [`SPAN_TARGET`], named by the operation, with OpenTelemetry's attributes for generative AI.
//! Neither contains a key, a body, a query, a URL or an address. `traceparent` and `tracestate` reach
//! the backend as they came.

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
#[cfg(fuzzing)]
pub(crate) use self::tap::fuzz;
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
