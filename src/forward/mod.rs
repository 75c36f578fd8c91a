//! Sends a request to its backend and hands the backend's response on as it comes.
//!
//! The service at the bottom of the stack. A request must have a [`Backend`] in its extensions,
//! which [`BackendRoute`](crate::BackendRoute) puts there.
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

mod body;
mod connect;
mod future;
mod http1;
#[cfg(feature = "http2")]
mod http2;
mod pool;
mod request;
mod tls;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::Service;

#[cfg(fuzzing)]
pub(crate) use self::http1::{encode_head, fuzz};
pub use self::{body::ResponseBody, future::ResponseFuture};
use self::{connect::Connector, pool::Pool};
use crate::{
    backend::Backend,
    body::RequestBody,
    error::{BoxError, Error, Kind},
    header,
};

/// The client of backends: HTTP/1.1 over TCP or TLS, on connections that are kept and used again.
///
/// With the cargo feature `http2` a backend with TLS may choose HTTP/2 (by ALPN). Its connections
/// are shared by as many requests as it allows, and another one is made when they are used up.
///
/// Clones share the connections. Dropping a response's future or its body ends the backend's
/// request at once. A request is never sent twice.
#[derive(Clone)]
pub struct Forward {
    pool: Arc<Pool>,
}

impl Forward {
    /// A client without connections yet.
    ///
    /// Should the TLS library not work, or find no certificate authorities, requests to `https`
    /// backends fail with `tls_protocol_error`.
    pub fn new() -> Self {
        Self {
            pool: Arc::new(Pool::new(Arc::new(Connector::new()))),
        }
    }

    /// Makes ready what connections to these backends need, so that the first request needn't wait.
    pub(crate) fn prepare(&self, backends: &[Backend]) {
        for backend in backends {
            self.pool.connector().prepare(backend.origin());
        }
    }

    /// Sends a request on a connection that is kept, or else makes one.
    fn start(&self, request: Request<RequestBody>, backend: Backend) -> ResponseFuture {
        #[cfg(feature = "http2")]
        if let Some(reserved) = self.pool.reserve(backend.origin()) {
            return ResponseFuture::reserved(request, reserved, backend, self.clone());
        }
        if let Some(stream) = self.pool.take(backend.origin()) {
            return ResponseFuture::send(request, stream, backend, self.pool.clone());
        }
        let period = backend.timeouts().connect;
        match self.pool.connector().connect(backend.origin(), period) {
            Ok(connecting) => {
                ResponseFuture::connect(request, connecting, backend, self.pool.clone())
            }
            Err(error) => ResponseFuture::failed(error.with_backend(&backend)),
        }
    }

    /// The same client with connections of its own, for a thread with a runtime of its own: a
    /// connection is served best by the thread that made it.
    #[must_use]
    pub fn with_own_connections(&self) -> Self {
        Self {
            pool: Arc::new(Pool::new(self.pool.connector().clone())),
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

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let Some(backend) = request.extensions().get::<Backend>().cloned() else {
            return ResponseFuture::failed(Error::new(Kind::Unrouted));
        };
        if header::is_coded(request.headers()) {
            return ResponseFuture::failed(Error::new(Kind::UnsupportedTransferCoding));
        }
        self.start(request.map(RequestBody::new), backend)
    }
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward").finish_non_exhaustive()
    }
}
