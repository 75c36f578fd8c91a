//! Requires credentials, and keeps them out of sight.
//!
//! The backend checks the keys themselves. Their fields are marked as
//! [sensitive](http::HeaderValue::set_sensitive), so that `Debug` doesn't show them and HTTP/2 doesn't
//! keep them in its compression table.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use bytes::Bytes;
//! use http::{Request, Response, StatusCode};
//! use http_body_util::Full;
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_openai_proxy::AuthPassthroughLayer;
//!
//! async fn backend(request: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
//!     assert_eq!(format!("{:?}", request.headers()["authorization"]), "Sensitive");
//!     Ok(Response::default())
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let service = ServiceBuilder::new()
//!     .layer(AuthPassthroughLayer::new())
//!     .service_fn(backend);
//!
//! let request = Request::builder().header("authorization", "Bearer sk-1").body(Full::default());
//! assert!(service.clone().oneshot(request.unwrap()).await.is_ok());
//!
//! let error = service.oneshot(Request::default()).await.unwrap_err();
//! assert_eq!(error.status(), StatusCode::UNAUTHORIZED);
//! # });
//! ```

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, header};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{
    client::ClientName,
    config::Config,
    error::{BoxError, Error, Kind},
    header::{X_API_KEY, is_credential, is_websocket, keys_in_protocols, preflighted_method},
    service::accessors,
};

/// Applies [`AuthPassthrough`] to a service.
#[derive(Clone, Debug)]
pub struct AuthPassthroughLayer {
    required: bool,
}

impl AuthPassthroughLayer {
    /// Rejects requests without credentials.
    pub fn new() -> Self {
        Self { required: true }
    }

    /// Does what the configuration's `require_auth` says.
    pub fn from_config(config: &Config) -> Self {
        Self::new().required(config.settings.require_auth)
    }

    /// Whether requests without credentials are rejected. Default: yes.
    #[must_use]
    pub fn required(mut self, required: bool) -> Self {
        self.required = required;
        self
    }
}

impl Default for AuthPassthroughLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for AuthPassthroughLayer {
    type Service = AuthPassthrough<S>;

    fn layer(&self, inner: S) -> AuthPassthrough<S> {
        AuthPassthrough {
            inner,
            required: self.required,
        }
    }
}

/// Forwards requests that have credentials (`Authorization` or `api-key`, not empty); the others
/// fail with a 401 error. A browser's preflight needs none, nor does a request with a
/// [`ClientName`] in its extensions. A browser sends those of a WebSocket as
/// the item `openai-insecure-api-key.…` of `Sec-WebSocket-Protocol`.
///
/// See the [module documentation](self).
#[derive(Clone, Debug)]
pub struct AuthPassthrough<S> {
    inner: S,
    required: bool,
}

impl<S> AuthPassthrough<S> {
    /// Rejects requests without credentials.
    pub fn new(inner: S) -> Self {
        AuthPassthroughLayer::new().layer(inner)
    }

    accessors!();
}

impl<S, B> Service<Request<B>> for AuthPassthrough<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Error::from_service)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let has_credentials = mark_credentials(&mut request);
        let is_allowed = has_credentials
            || !self.required
            || request.extensions().get::<ClientName>().is_some()
            || preflighted_method(request.method(), request.headers()).is_some();
        ResponseFuture {
            state: if is_allowed {
                State::Forwarded {
                    future: self.inner.call(request),
                }
            } else {
                State::Denied
            },
        }
    }
}

/// Marks the fields that may hold a key as sensitive, and tells whether one that OpenAI's API takes
/// isn't empty.
fn mark_credentials<B>(request: &mut Request<B>) -> bool {
    let mut found = false;
    let mut found_in_protocols = false;
    // Not by `entry`, which makes the map grow.
    for (name, value) in request.headers_mut() {
        if is_credential(name) {
            found |= *name != X_API_KEY && !value.is_empty();
            value.set_sensitive(true);
        } else if *name == header::SEC_WEBSOCKET_PROTOCOL {
            found_in_protocols |= keys_in_protocols(value).any(|key| !key.is_empty());
            value.set_sensitive(true);
        }
    }
    found
        || (found_in_protocols
            && is_websocket(request.method(), request.version(), request.headers()))
}

pin_project! {
    /// The response of [`AuthPassthrough`].
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Forwarded { #[pin] future: F },
        Denied,
    }
}

impl<F, T, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Forwarded { future } => future.poll(cx).map_err(Error::from_service),
            StateProj::Denied => Poll::Ready(Err(Error::new(Kind::NoCredentials))),
        }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
