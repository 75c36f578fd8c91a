//! Sends a request to its backend and streams the backend's response back.
//!
//! [`Forward`] is the service at the bottom of the stack. A request must have a [`Backend`] in its
//! extensions, which [`BackendRoute`](crate::BackendRoute) puts there.
//!
//! ```
//! use bytes::Bytes;
//! use http::Request;
//! use http_body_util::Full;
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_openai_proxy::{BackendConfig, BackendRouteLayer, Config, Forward};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let config = Config::builder()
//!     .backend(BackendConfig::new("nobody", "http://127.0.0.1:1/v1"))
//!     .build()
//!     .unwrap();
//! let service = ServiceBuilder::new()
//!     .layer(BackendRouteLayer::from_config(&config))
//!     .service(Forward::new());
//!
//! let request = Request::post("/v1/chat/completions").body(Full::from("{}")).unwrap();
//! let error = service.oneshot(request).await.unwrap_err();
//!
//! assert_eq!(error.code(), "connection_refused");
//! assert_eq!(error.backend().unwrap().name(), "nobody");
//! # });
//! ```
//!
//! # Other clients
//!
//! Any HTTP client can take its place: [`UpstreamRequest`] in front of it makes a request ready to be
//! sent. Its errors say whether the next backend may be tried
//! ([`Error::connect`](crate::Error::connect)) or not
//! ([`Error::closed_before_response`](crate::Error::closed_before_response)):
//!
//! ```
//! use http::Request;
//! use http_body_util::Full;
//! use hyper_util::{client::legacy, rt::TokioExecutor};
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_openai_proxy::{
//!     BackendConfig, BackendRouteLayer, Config, Error, RequestBody, forward::UpstreamRequestLayer,
//! };
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! # let config = Config::builder()
//! #     .backend(BackendConfig::new("first", "http://127.0.0.1:1/v1"))
//! #     .backend(BackendConfig::new("second", "http://127.0.0.1:1/v1"))
//! #     .build()
//! #     .unwrap();
//! let client = legacy::Client::builder(TokioExecutor::new()).build_http::<RequestBody>();
//! let service = ServiceBuilder::new()
//!     .layer(BackendRouteLayer::from_config(&config))
//!     .layer(UpstreamRequestLayer::new())
//!     .map_err(|error: legacy::Error| {
//!         if error.is_connect() {
//!             Error::connect(error)
//!         } else {
//!             Error::closed_before_response(error)
//!         }
//!     })
//!     .service(client);
//! # let request = Request::post("/v1/chat/completions").body(Full::from("{}")).unwrap();
//! # let error = service.oneshot(request).await.unwrap_err();
//! # assert_eq!(error.code(), "connection_refused");
//! # assert_eq!(error.backend().unwrap().name(), "second");
//! # });
//! ```

mod body;
mod builder;
mod connect;
mod exchange;
mod future;
mod http1;
mod http2;
mod message;
mod pool;
mod request;
mod stream;
mod tcp;
mod upgrade;
mod upstream;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::Service;

pub use self::{
    body::ResponseBody,
    builder::ForwardBuilder,
    future::ResponseFuture,
    upstream::{UpstreamRequest, UpstreamRequestLayer, UpstreamResponseFuture},
};
use self::{exchange::Outgoing, pool::Pool, request::Target};
#[cfg(fuzzing)]
pub(crate) use self::{
    exchange::fuzz_head,
    http1::Exchange,
    message::{Asked, Framing},
};
use crate::{
    backend::Backend,
    body::RequestBody,
    config::{BackendSettings, BaseUrl, Config},
    error::{BoxError, Error},
};

/// The client of backends: HTTP/1.1 over TCP or TLS, on pooled connections.
///
/// With the cargo feature `http2` a backend with TLS may choose HTTP/2 (by ALPN). Its connections are
/// shared by as many requests as it allows, and another one is made when they are used up.
///
/// Clones share the pool. Dropping a response's future or its body cancels the backend's request at
/// once. A request is sent again only where an HTTP/2 backend says that it didn't process it (RFC
/// 9113, section 8.7), and where nothing of its body is lost: it is in memory, or nothing of it has
/// been read.
///
/// A request for a WebSocket is sent in HTTP/1.1. Behind the backend's 101 a task forwards what
/// either side sends, until both have ended. It needs hyper's
/// [`OnUpgrade`](hyper::upgrade::OnUpgrade) in the request's extensions, where the servers of hyper
/// and axum put it; without it the request fails with a 501 error.
#[derive(Clone)]
pub struct Forward {
    pool: Arc<Pool>,
}

impl Forward {
    /// A client with an empty pool and the default limits.
    ///
    /// Should the TLS library not work, or find no certificate authorities, requests to `https`
    /// backends fail with `tls_protocol_error`.
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Sets the limits of the pool.
    pub fn builder() -> ForwardBuilder {
        ForwardBuilder::default()
    }

    /// Makes ready what connections to these backends need, so that the first request needn't wait.
    pub(crate) fn prepare(&self, backends: &[Backend]) {
        for backend in backends {
            self.pool.connector().prepare(backend.origin());
        }
    }

    /// The same before a reload, for the backends of its configuration.
    pub(crate) fn prepare_for(&self, config: &Config) {
        let is_https = |backend: &BackendSettings| {
            let url = backend.url.as_ref();
            backend.tls.is_none() && url.is_some_and(BaseUrl::is_https)
        };
        if config.backends.iter().any(is_https) {
            self.pool.connector().prepare_tls();
        }
    }

    /// The same client with an empty pool of its own, for a thread with its own runtime: a connection
    /// is served best by the thread that made it.
    #[must_use]
    pub fn with_separate_pool(&self) -> Self {
        Self {
            pool: Arc::new(self.pool.separate()),
        }
    }
}

impl Default for Forward {
    fn default() -> Self {
        Self::new()
    }
}

impl<B> Service<Request<B>> for Forward
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> ResponseFuture {
        let target = Target::of(&request).and_then(|target| target.with_upgrade(&mut request));
        match target {
            Ok(target) => {
                let request = request.map(RequestBody::new);
                ResponseFuture::new(Outgoing::new(request, target, self.pool.clone()))
            }
            Err(error) => ResponseFuture::failed(error),
        }
    }
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward").finish_non_exhaustive()
    }
}
