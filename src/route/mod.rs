//! Chooses the backends of a request and tries them in turn.
//!
//! The order is that of the configuration, but those that just failed come last. The next one is
//! tried when no connection could be made, or when the answer's status is one of `failover_on`. A
//! request that was written to a backend that then broke off is never sent again.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_openai_proxy::{Backend, BackendConfig, BackendRouteLayer, Config, Error, RequestBody};
//!
//! async fn send(request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Error> {
//!     let backend = request.extensions().get::<Backend>().expect("chosen above");
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
//! # By a rule of one's own
//!
//! A [`Rule`] sees the request's head and gives the backends to try. Here three requests of four
//! go to the first backend, and each fails over to the other:
//!
//! ```
//! use std::sync::atomic::{AtomicUsize, Ordering};
//!
//! use http::request::Parts;
//! use tower_openai_proxy::{Backend, Config, OpenAiProxyLayer};
//!
//! let turn = AtomicUsize::new(0);
//! let three_to_one = move |_: &Parts, backends: &[Backend]| {
//!     let is_fourth = turn.fetch_add(1, Ordering::Relaxed) % 4 == 3;
//!     let mut order = backends.to_vec();
//!     order.rotate_left(usize::from(is_fourth));
//!     order
//! };
//! let layer = OpenAiProxyLayer::from_config(Config::default()).with_rule(three_to_one);
//! ```
//!
//! # A limit for each backend
//!
//! What stands below this layer finds the [`Backend`] in the request's extensions, so it can treat
//! each as its own: here at most eight exchanges at a time, streams until their end. Where it
//! answers [`Error::overloaded`] or [`Error::too_many_requests`] nothing was sent, so the next
//! backend is tried, and this one isn't taken for broken.
//!
//! ```
//! use std::{collections::HashMap, sync::Arc};
//!
//! use http::Request;
//! use http_body_util::BodyExt;
//! use tokio::sync::Semaphore;
//! use tower::{ServiceExt, service_fn};
//! use tower_openai_proxy::{
//!     Backend, BackendRouteLayer, Config, Error, Forward, OpenAiProxyLayer, RequestBody,
//! };
//!
//! let config = Config::default();
//! let route = BackendRouteLayer::from_config(&config);
//! let eight = |backend: &Backend| (backend.name().to_owned(), Arc::new(Semaphore::new(8)));
//! let limits: Arc<HashMap<_, _>> = Arc::new(route.backends().iter().map(eight).collect());
//! let forward = Forward::new();
//! let limited = service_fn(move |request: Request<RequestBody>| {
//!     let backend = request.extensions().get::<Backend>();
//!     let limit = limits[backend.expect("chosen above").name()].clone();
//!     let forward = forward.clone();
//!     async move {
//!         let permit = limit.try_acquire_owned().map_err(|_| Error::overloaded())?;
//!         let response = forward.oneshot(request).await?;
//!         // The permit goes where the body goes.
//!         Ok::<_, Error>(response.map(|body| {
//!             body.map_frame(move |frame| {
//!                 let _ = &permit;
//!                 frame
//!             })
//!         }))
//!     }
//! });
//! let layer = OpenAiProxyLayer::with_forward(config, limited);
//! # fn is_layer<L: tower::Layer<axum::routing::Route>>(_: L) {}
//! # is_layer(layer);
//! ```
//!
//! Any other middleware of tower's can be had for each backend in the same way: make a stack for
//! each, such as
//! `ServiceBuilder::new().buffer(100).rate_limit(5, second).service(forward.clone())`, keep them in
//! the map, and hand the request to the one with the backend's name. The time in which a request
//! waits in there for its turn counts as the backend's: its `timeout` runs.

mod future;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, request::Parts};
use http_body::Body;
use tower::{Layer, Service};

pub use self::future::ResponseFuture;
use crate::{
    backend::Backend,
    body::RequestBody,
    config::Config,
    error::{BoxError, Error, Kind},
    header::X_PROXY_BACKEND,
};

/// Applies [`BackendRoute`] to a service.
#[derive(Clone)]
pub struct BackendRouteLayer {
    routes: Arc<Routes>,
}

#[derive(Clone)]
struct Routes {
    backends: Arc<[Backend]>,
    failover_on: Arc<[StatusCode]>,
    rule: Option<Arc<dyn Rule>>,
}

/// A rule for choosing backends: any function of a request's head and the configured backends that
/// gives those to try, in the order of preference.
///
/// ```
/// use http::request::Parts;
/// use tower_openai_proxy::Backend;
///
/// /// Requests of the `batch` team go to the last backend, all others to any but that.
/// fn by_team(request: &Parts, backends: &[Backend]) -> Vec<Backend> {
///     let (last, others) = backends.split_last().expect("at least one is configured");
///     match request.headers.get("x-team") {
///         Some(team) if team == "batch" => vec![last.clone()],
///         _ => others.to_vec(),
///     }
/// }
/// ```
pub trait Rule: Send + Sync + 'static {
    /// The backends to try; none answers the request with 404.
    fn candidates(&self, request: &Parts, backends: &[Backend]) -> Vec<Backend>;
}

impl<F> Rule for F
where
    F: Fn(&Parts, &[Backend]) -> Vec<Backend> + Send + Sync + 'static,
{
    fn candidates(&self, request: &Parts, backends: &[Backend]) -> Vec<Backend> {
        self(request, backends)
    }
}

impl BackendRouteLayer {
    /// The backends of a configuration, its `failover_on` and `cooldown`.
    pub fn from_config(config: &Config) -> Self {
        Self {
            routes: Arc::new(Routes {
                backends: Backend::all(config),
                failover_on: config.settings.failover_on.as_slice().into(),
                rule: None,
            }),
        }
    }

    /// Chooses by this rule in place of the configuration's order: by a header field, a path, a
    /// weight.
    ///
    /// What it gives is tried in turn, as far as failing over goes, and those that are cooling down
    /// come last. `X-Proxy-Backend` still picks a backend by its name.
    #[must_use]
    pub fn with_rule<R: Rule>(self, rule: R) -> Self {
        self.with_shared_rule(Arc::new(rule))
    }

    pub(crate) fn with_shared_rule(mut self, rule: Arc<dyn Rule>) -> Self {
        let mut routes = (*self.routes).clone();
        routes.rule = Some(rule);
        self.routes = Arc::new(routes);
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
/// `X-Proxy-Backend` picks one by its exact name; a name that isn't there fails with a 404 error.
/// With more than one candidate the request's body is held in memory until one has answered.
/// See the [module documentation](self).
#[derive(Clone)]
pub struct BackendRoute<S> {
    inner: S,
    routes: Arc<Routes>,
}

impl<S, B, R> Service<Request<B>> for BackendRoute<S>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<R>;
    type Error = Error;
    type Future = ResponseFuture<S>;

    /// Always ready: each attempt waits for the wrapped service by itself.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request = request.map(RequestBody::new);
        if request.body().is_too_large() {
            return ResponseFuture::failed(Error::new(Kind::BodyTooLarge));
        }
        let (parts, body) = request.into_parts();
        match self.routes.candidates(&parts) {
            Ok(candidates) => {
                let request = Request::from_parts(parts, body);
                ResponseFuture::new(request, candidates, self.inner.clone(), self.routes.clone())
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

/// The backends that a request may go to, in the order in which they are tried.
enum Candidates {
    One(Backend),
    Several(std::vec::IntoIter<Backend>),
}

impl Routes {
    fn candidates(&self, request: &Parts) -> Result<Candidates, Error> {
        if let Some(name) = request.headers.get(X_PROXY_BACKEND) {
            let mut backends = self.backends.iter();
            return backends
                .find(|backend| backend.name().as_bytes() == name.as_bytes())
                .map(|backend| Candidates::One(backend.clone()))
                .ok_or_else(|| Error::new(Kind::UnknownBackend));
        }
        let mut order = match (&self.rule, &*self.backends) {
            (Some(rule), backends) => rule.candidates(request, backends),
            (None, [only]) => return Ok(Candidates::One(only.clone())),
            (None, several) => several.to_vec(),
        };
        match &*order {
            [] => Err(Error::new(Kind::NoCandidate)),
            [only] => Ok(Candidates::One(only.clone())),
            _ => {
                order.sort_by_cached_key(Backend::is_cooling_down);
                Ok(Candidates::Several(order.into_iter()))
            }
        }
    }

    /// Whether the next backend is tried, if there is one. Notes what failed.
    fn moves_on<R>(&self, backend: &Backend, result: &Result<Response<R>, Error>) -> bool {
        let (failed, moves_on) = match result {
            Ok(response) => {
                let failed = self.failover_on.contains(&response.status());
                (failed, failed)
            }
            Err(error) => (error.is_backend_failure(), error.was_not_sent()),
        };
        if failed {
            backend.failed();
        }
        moves_on
    }
}
