//! Selects the backends of a request and tries them in turn.
//!
//! The order is what the configuration says, but those that just failed come last. The next one is
//! tried when no connection could be established, or when the response's status is one of
//! `failover_on`. A request that may have reached a backend is never sent again.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_openai_proxy::{Backend, BackendConfig, BackendRouteLayer, Config, Error, RequestBody};
//!
//! async fn send(request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Error> {
//!     let backend = request.extensions().get::<Backend>().expect("selected above");
//!     Ok(Response::new(Full::from(backend.name().to_owned())))
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let config = Config::builder()
//!     .backend(BackendConfig::new("small", "http://10.0.0.1/v1"))
//!     .backend(BackendConfig::new("large", "http://10.0.0.2/v1"))
//!     .build()
//!     .unwrap();
//! let service = ServiceBuilder::new()
//!     .layer(BackendRouteLayer::from_config(&config))
//!     .service_fn(send);
//!
//! let request = Request::post("/v1/chat/completions").header("x-proxy-backend", "large");
//! let response = service.oneshot(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
//!
//! assert_eq!(response.extensions().get::<Backend>().unwrap().name(), "large");
//! # });
//! ```
//!
//! # Which choice for which backends
//!
//! | backends | configuration |
//! | --- | --- |
//! | one provider, others as a fallback | the order of the file, or `priority` |
//! | several servers of one kind | [`LeastBusy`]: `balance`, with `weight` where one is larger |
//! | several servers with prefix caches | [`Affinity`]: `affinity` |
//! | servers that take only so many requests at a time | `max_in_flight` and `queue_timeout` |
//!
//! Two vLLM servers, where requests that begin alike reach the same one, and a third for when both
//! fail or are full:
//!
//! ```
//! let config: tower_openai_proxy::Config = r#"{
//!   "primary_backends": [
//!     { "name": "gpu1", "url": "http://10.0.0.1:8000/v1", "max_in_flight": 64 },
//!     { "name": "gpu2", "url": "http://10.0.0.2:8000/v1", "max_in_flight": 128, "weight": 2 },
//!     { "name": "spare", "url": "http://10.0.0.3:8000/v1", "priority": 1 }
//!   ],
//!   "settings": {
//!     "balance": "least_busy", "affinity": ["body:prompt_cache_key", "prompt:2048"],
//!     "failover_on": [429, 503], "failures": 3, "queue_timeout": 5
//!   }
//! }"#.parse()?;
//! # Ok::<(), tower_openai_proxy::ConfigError>(())
//! ```
//!
//! A backend cools down after [`failures`](crate::ConfigBuilder::failures) in a row, for
//! [`cooldown`](crate::ConfigBuilder::cooldown), which doubles up to 60 s for each further time without
//! a success, and is at least what `retry-after-ms` or `Retry-After` of the response asks for, up to
//! 60 s. When it is over, one request at a time goes there until one succeeds.
//!
//! # Custom selectors
//!
//! A [`Select`] sees the request's head, its model and the configured backends, and returns those to
//! try, in order. [`select_fn`] makes one of a closure. By the model:
//!
//! ```
//! use tower_openai_proxy::{Config, OpenAiProxyLayer, route::select_fn};
//!
//! let by_model = select_fn(|request| {
//!     let is_local = request.model().is_some_and(|model| model.starts_with("llama"));
//!     let wanted = if is_local { "local" } else { "openai" };
//!     let backends = request.backends().iter();
//!     backends.filter(|backend| backend.name() == wanted).cloned().collect()
//! });
//! let layer = OpenAiProxyLayer::builder(Config::default()).selector(by_model).build();
//! ```
//!
//! Three requests of four to the first backend, each with the other one to fail over to:
//!
//! ```
//! use std::sync::atomic::{AtomicUsize, Ordering};
//!
//! use tower_openai_proxy::route::select_fn;
//!
//! let turn = AtomicUsize::new(0);
//! let three_to_one = select_fn(move |request| {
//!     let is_fourth = turn.fetch_add(1, Ordering::Relaxed) % 4 == 3;
//!     let mut order = request.backends().to_vec();
//!     order.rotate_left(usize::from(is_fourth));
//!     order
//! });
//! ```
//!
//! By the tenant, whose name the application's own authentication has put into the request's
//! extensions as [`ClientName`](crate::ClientName): the least busy of its backends.
//!
//! ```
//! use tower_openai_proxy::route::select_fn;
//!
//! let by_tenant = select_fn(|request| {
//!     let tenant = request.client().unwrap_or("shared");
//!     let backends = request.backends().iter();
//!     let mut own: Vec<_> = backends.filter(|it| it.name().starts_with(tenant)).cloned().collect();
//!     own.sort_by_cached_key(|backend| backend.in_flight());
//!     own
//! });
//! ```
//!
//! What else a layer above has put there is in [`Selection::head`].
//!
//! # A limit for each backend
//!
//! Services below this layer find the [`Backend`] in the request's extensions, so they can treat
//! each differently: here at most eight concurrent requests, streams included until their end. If
//! one answers [`Error::overloaded`] or [`Error::too_many_requests`], nothing was sent, so the next
//! backend is tried, and this one doesn't count as failed. The map fills as backends are seen, so it
//! follows reloads.
//!
//! ```
//! use std::{collections::HashMap, sync::{Arc, Mutex}};
//!
//! use http::Request;
//! use http_body_util::BodyExt;
//! use tokio::sync::Semaphore;
//! use tower::{ServiceExt, service_fn};
//! use tower_openai_proxy::{Backend, Config, Error, Forward, OpenAiProxyLayer, RequestBody};
//!
//! let limits = Arc::new(Mutex::new(HashMap::<Backend, Arc<Semaphore>>::new()));
//! let forward = Forward::new();
//! let limited = service_fn(move |request: Request<RequestBody>| {
//!     let backend = request.extensions().get::<Backend>().expect("selected above").clone();
//!     let mut limits = limits.lock().unwrap();
//!     let limit = limits.entry(backend).or_insert_with(|| Arc::new(Semaphore::new(8))).clone();
//!     let forward = forward.clone();
//!     async move {
//!         let permit = limit.try_acquire_owned().map_err(|_| Error::overloaded())?;
//!         let response = forward.oneshot(request).await?;
//!         // The permit lives as long as the body.
//!         Ok::<_, Error>(response.map(|body| {
//!             body.map_frame(move |frame| {
//!                 let _permit = &permit;
//!                 frame
//!             })
//!         }))
//!     }
//! });
//! let layer = OpenAiProxyLayer::builder(Config::default()).forward(limited).build();
//! # fn is_layer<L: tower::Layer<axum::routing::Route>>(_: L) {}
//! # is_layer(layer);
//! ```
//!
//! The body of a response that opens a WebSocket is empty: to count those until they are closed,
//! release the permit by an [observer](crate::observe).
//!
//! Any other tower middleware can be had for each backend in the same way: make a stack for each,
//! such as `ServiceBuilder::new().buffer(100).rate_limit(5, second).service(forward.clone())`, keep
//! them in the map, and call the one of the request's backend. The time that a request waits there
//! counts towards the backend's `timeout`.
//!
//! # Retries
//!
//! List a backend twice, under two names with the same URL, and put the status into `failover_on`:
//! the second entry is the retry.

mod attempt;
mod body;
mod candidates;
mod future;
mod granted;
mod routes;
mod select;
#[cfg(test)]
mod tests;
mod value;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use tower::{Layer, Service};

pub use self::{
    body::ResponseBody,
    future::ResponseFuture,
    select::{Affinity, LeastBusy, Order, Select, SelectFn, Selection, select_fn},
};
use self::{
    candidates::has_models,
    future::Reading,
    routes::{Plan, Routes},
};
use crate::{
    backend::Backend,
    body::{RequestBody, Scan},
    config::Config,
    error::{BoxError, Error, Kind},
    header::{content_type, is_json},
    service::accessors,
};

/// Applies [`BackendRoute`] to a service.
#[derive(Clone)]
pub struct BackendRouteLayer {
    routes: Arc<Routes>,
}

impl BackendRouteLayer {
    /// The backends of a configuration, with its `failover_on` and `cooldown`, and its limits on
    /// request bodies: `max_body_bytes`, `max_upload_bytes`, `max_held_bytes` and `idle_timeout`.
    pub fn from_config(config: &Config) -> Self {
        Self::reloaded(config, None)
    }

    /// The same; keeps what `previous` knows of backends that are still there.
    pub(crate) fn reloaded(config: &Config, previous: Option<&Self>) -> Self {
        let previous = previous.map(|previous| &*previous.routes);
        Self {
            routes: Arc::new(Routes::new(config, previous)),
        }
    }

    /// Selects by this in place of the configuration's order: by the model, a header field, a user.
    ///
    /// The backends that it returns are tried in turn, as failover allows, those that are cooling
    /// down last. `X-Proxy-Backend` still selects a backend by its name.
    #[must_use]
    pub fn with_selector(self, selector: impl Select) -> Self {
        self.with_shared_selector(Arc::new(selector))
    }

    pub(crate) fn with_shared_selector(mut self, selector: Arc<dyn Select>) -> Self {
        Arc::make_mut(&mut self.routes).selector = Some(selector);
        self
    }

    pub(crate) fn shared_backends(&self) -> Arc<[Backend]> {
        self.routes.backends.clone()
    }

    /// The backends, in the order of the configuration.
    pub fn backends(&self) -> &[Backend] {
        &self.routes.backends
    }
}

impl<S> Layer<S> for BackendRouteLayer {
    type Service = BackendRoute<S>;

    fn layer(&self, inner: S) -> BackendRoute<S> {
        BackendRoute {
            inner,
            routes: self.routes.clone(),
        }
    }
}

impl fmt::Debug for BackendRouteLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendRouteLayer")
            .field("backends", &self.backends())
            .finish()
    }
}

/// Puts a [`Backend`] into the extensions of each request, and tries the next one where it may.
///
/// It applies the configuration's limits to the request body. With more than one candidate the body
/// is buffered in memory until one has answered, unless it is neither JSON nor needed: then it is
/// streamed to the first candidate that a connection can be established to. `X-Proxy-Backend` selects
/// one by its exact name; an unknown name fails with a 404 error, a path with dot segments with a 400
/// error. See the [module documentation](self).
#[derive(Clone)]
pub struct BackendRoute<S> {
    inner: S,
    routes: Arc<Routes>,
}

impl<S> BackendRoute<S> {
    accessors!();

    /// The backends whose lists of models are merged for a request, in the order of the
    /// configuration: those that serve it, unless there is one and no more to it, or the request
    /// selects one by its name.
    pub(crate) fn listing<B>(&self, request: &Request<B>) -> Option<Vec<Backend>> {
        match self.routes.plan(request) {
            Ok(Plan::Select(backends)) if backends.len() > 1 || has_models(&backends) => {
                Some(backends)
            }
            Ok(Plan::Select(backends)) if granted::needs_model(request.extensions()) => {
                Some(backends)
            }
            _ => None,
        }
    }
}

impl<S> BackendRoute<S>
where
    S: Service<Request<RequestBody>> + Clone,
{
    /// Sends a request to this backend alone.
    pub(crate) fn send_to(
        &self,
        backend: Backend,
        request: Request<RequestBody>,
    ) -> ResponseFuture<S> {
        ResponseFuture::one(request, backend, self.inner.clone(), self.routes.clone())
    }
}

impl<S, B, R> Service<Request<B>> for BackendRoute<S>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: Body,
{
    type Response = Response<ResponseBody<R>>;
    type Error = Error;
    type Future = ResponseFuture<S>;

    /// Always ready: each attempt waits for the wrapped service by itself.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let routes = &self.routes;
        // A body that fits either way needs no look at its type.
        let length = request.body().size_hint().upper();
        let is_small = length.is_some_and(|length| length <= routes.max_body_bytes);
        let max_bytes = if !is_small && is_upload(request.headers()) {
            routes.max_upload_bytes
        } else {
            routes.max_body_bytes
        };
        let request = request.map(|body| {
            RequestBody::new(body)
                .with_max_bytes(max_bytes)
                .with_idle_timeout(routes.idle_timeout)
                .with_buffer_limits(routes.max_body_bytes, &routes.budget)
        });
        if request.body().is_too_large() {
            return ResponseFuture::failed(Error::new(Kind::BodyTooLarge));
        }
        match routes.plan(&request) {
            Ok(Plan::One(backend)) => {
                ResponseFuture::one(request, backend, self.inner.clone(), routes.clone())
            }
            Ok(Plan::Select(candidates)) => {
                let (parts, body) = request.into_parts();
                match routes.scan(&candidates, &parts, &body) {
                    Ok(scan) => {
                        // An upload that nothing looks at isn't buffered.
                        let is_streamed = scan == Scan::No && is_upload(&parts.headers);
                        let body = if is_streamed {
                            Reading::Streamed(Some(body))
                        } else {
                            Reading::Buffer(Box::new(body.buffer(scan)))
                        };
                        let service = self.inner.clone();
                        ResponseFuture::several(parts, body, candidates, service, routes.clone())
                    }
                    Err(error) => ResponseFuture::failed(error),
                }
            }
            Err(error) => ResponseFuture::failed(error),
        }
    }
}

impl<S> fmt::Debug for BackendRoute<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendRoute").finish_non_exhaustive()
    }
}

/// Whether a body is neither JSON nor of an unknown type: a form, a file.
fn is_upload(headers: &HeaderMap) -> bool {
    let content_type = content_type(headers);
    content_type.is_some_and(|kind| !is_json(kind))
}
