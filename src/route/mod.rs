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

mod future;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use http_body::Body;
use tower::{Layer, Service};

pub use self::future::ResponseFuture;
use crate::{
    backend::Backend,
    body::RequestBody,
    config::Config,
    error::{BoxError, Error, Kind},
};

/// Names the one backend a request is for. Not forwarded.
pub(crate) const X_PROXY_BACKEND: HeaderName = HeaderName::from_static("x-proxy-backend");

/// Applies [`BackendRoute`] to a service.
#[derive(Clone)]
pub struct BackendRouteLayer {
    routes: Arc<Routes>,
}

pub(crate) struct Routes {
    backends: Arc<[Backend]>,
    failover_on: Box<[StatusCode]>,
}

impl BackendRouteLayer {
    /// The backends of a configuration, its `failover_on` and `cooldown`.
    pub fn from_config(config: &Config) -> Self {
        Self {
            routes: Arc::new(Routes {
                backends: Backend::all(config),
                failover_on: config.settings.failover_on.as_slice().into(),
            }),
        }
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
        match self.routes.candidates(request.headers()) {
            Ok(candidates) => {
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

/// Tells whoever put it into a request's extensions which backend was tried last.
#[derive(Clone, Default)]
pub(crate) struct LastTried(Arc<Mutex<Option<Backend>>>);

impl LastTried {
    fn set(&self, backend: &Backend) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(backend.clone());
    }

    pub(crate) fn get(&self) -> Option<Backend> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone()
    }
}

/// The backends that a request may go to, in the order in which they are tried.
enum Candidates {
    One(Backend),
    Several(std::vec::IntoIter<Backend>),
}

impl Routes {
    fn candidates(&self, headers: &HeaderMap) -> Result<Candidates, Error> {
        if let Some(name) = headers.get(X_PROXY_BACKEND) {
            let mut backends = self.backends.iter();
            return backends
                .find(|backend| backend.name().as_bytes() == name.as_bytes())
                .map(|backend| Candidates::One(backend.clone()))
                .ok_or_else(|| Error::new(Kind::UnknownBackend));
        }
        match &*self.backends {
            [] => Err(Error::new(Kind::NoBackend)),
            [only] => Ok(Candidates::One(only.clone())),
            several => {
                let mut order = several.to_vec();
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
            Err(error) => (error.is_backend_failure(), error.is_connect()),
        };
        if failed {
            backend.failed();
        }
        moves_on
    }
}
