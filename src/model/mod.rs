//! Replaces the `model` of a request's JSON, and nothing else of its bytes.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_openai_proxy::{Error, ModelOverrideLayer, RequestBody};
//!
//! async fn backend(request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Error> {
//!     let body = request.into_body().collect().await?.to_bytes();
//!     assert_eq!(body, r#"{ "stream": true, "model": "gpt-4o", "n":1.0 }"#);
//!     Ok(Response::default())
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let service = ServiceBuilder::new()
//!     .layer(ModelOverrideLayer::with_default_model("gpt-4o"))
//!     .service_fn(backend);
//!
//! let body = r#"{ "stream": true, "model": "whatever", "n":1.0 }"#;
//! let request = Request::post("/v1/chat/completions").body(Full::<Bytes>::from(body)).unwrap();
//! assert!(service.oneshot(request).await.is_ok());
//! # });
//! ```
//!
//! # Before a client of one's own
//!
//! Nothing else of the stack is needed: it stands before any client that takes a [`RequestBody`],
//! such as hyper-util's, for requests with a URI of their own.
//!
//! ```
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower::ServiceBuilder;
//! use tower_openai_proxy::{ModelOverrideLayer, RequestBody};
//!
//! let client = Client::builder(TokioExecutor::new()).build_http::<RequestBody>();
//! let service = ServiceBuilder::new()
//!     .layer(ModelOverrideLayer::with_default_model("gpt-4o"))
//!     .service(client);
//! # fn is_service<S: tower::Service<http::Request<http_body_util::Full<bytes::Bytes>>>>(_: S) {}
//! # is_service(service);
//! ```
//!
//! The client's errors are the [source](std::error::Error::source) of this layer's, whatever their
//! type.

mod future;

use std::{
    fmt,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, header, request::Parts};
use http_body::Body;
use tower::{Layer, Service};

pub use self::future::ResponseFuture;
use crate::{
    backend::Backend,
    body::RequestBody,
    error::{BoxError, Error, Kind},
    json,
};

/// Applies [`ModelOverride`] to a service.
#[derive(Clone, Default)]
pub struct ModelOverrideLayer {
    model_json: Option<Bytes>,
}

impl ModelOverrideLayer {
    /// The model of the request's [`Backend`], where that has one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Uses this model for every request whose [`Backend`] has none of its own.
    pub fn with_default_model(model: impl Into<String>) -> Self {
        Self {
            model_json: Some(json::string(&model.into())),
        }
    }
}

impl<S> Layer<S> for ModelOverrideLayer {
    type Service = ModelOverride<S>;

    fn layer(&self, inner: S) -> ModelOverride<S> {
        ModelOverride {
            inner,
            model_json: self.model_json.clone(),
        }
    }
}

impl fmt::Debug for ModelOverrideLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelOverrideLayer").finish_non_exhaustive()
    }
}

/// Holds the request's body and replaces the value of its top-level `model`, or inserts one.
///
/// A body that isn't a JSON object fails with a 400 error, one with a `Content-Encoding` other than
/// `identity` with 415. Requests without a body pass, except for POST. See the
/// [module documentation](self).
#[derive(Clone)]
pub struct ModelOverride<S> {
    inner: S,
    model_json: Option<Bytes>,
}

impl<S, B> Service<Request<B>> for ModelOverride<S>
where
    S: Service<Request<RequestBody>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = ResponseFuture<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Error::from_service)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request = request.map(RequestBody::new);
        let backend = request.extensions().get::<Backend>();
        let model_json = backend
            .and_then(Backend::model_override)
            .map(|model| &model.json)
            .or(self.model_json.as_ref());
        let has_body = !request.body().is_end_stream();
        match model_json {
            Some(_) if has_body && is_encoded(request.headers()) => {
                ResponseFuture::failed(Error::new(Kind::UnsupportedContentEncoding))
            }
            Some(model_json) if has_body || request.method() == http::Method::POST => {
                let model_json = model_json.clone();
                // The service that was polled ready is the one to call.
                let next = self.inner.clone();
                let ready = std::mem::replace(&mut self.inner, next);
                ResponseFuture::buffering(request, model_json, ready)
            }
            _ => ResponseFuture::forwarded(self.inner.call(request)),
        }
    }
}

impl<S> fmt::Debug for ModelOverride<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelOverride").finish_non_exhaustive()
    }
}

fn is_encoded(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// A request with its model replaced, or inserted where there is none, and its length updated.
fn replaced(
    mut parts: Parts,
    body: RequestBody,
    model_json: Bytes,
) -> Result<Request<RequestBody>, Error> {
    let Some(found) = body.found() else {
        return Ok(Request::from_parts(parts, body));
    };
    let found = found.as_ref().map_err(|invalid| invalid.clone())?;
    let (spans, with) = found.require_object()?.with_model(model_json);
    let body = body.replace(spans, with);
    if parts.headers.contains_key(header::CONTENT_LENGTH) {
        let length = HeaderValue::from(body.size_hint().lower());
        parts.headers.insert(header::CONTENT_LENGTH, length);
    }
    Ok(Request::from_parts(parts, body))
}
