//! Replaces the `model` of a request's JSON, and no other byte of it.
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
//! # Where the model stands
//!
//! | request | model |
//! | --- | --- |
//! | `GET`, `HEAD` of `/models/{model}` | the rest of the path; only a name of the backend's replaces it |
//! | a WebSocket | `model`, else `deployment`, in the query |
//! | `POST` of a form to `/audio/transcriptions`, `/audio/translations`, `/images/edits`, `/images/variations`, `/videos` | the part `model` |
//! | `POST`, `PUT`, `PATCH` with JSON | the top-level `model`, if it is a string |
//!
//! A backend's name for a model ([`BackendConfig::model_names`](crate::BackendConfig::model_names))
//! comes before its override; for that, a request must not name two different models. Every value is
//! replaced. Where there is none, one is inserted at the top level of the JSON of
//! `POST /chat/completions`, `/completions`, `/responses`, `/embeddings`, `/moderations`,
//! `/audio/speech` and `/images/generations`; there a value of another type is replaced, too, and the
//! body must be an object. Frames of a WebSocket, lines of JSONL files and a `model` anywhere else
//! are never changed.
//!
//! # With your own HTTP client
//!
//! It needs nothing else of the stack: put it in front of any client that takes a [`RequestBody`],
//! such as hyper-util's.
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
//! The client's errors become the [source](std::error::Error::source) of this layer's, whatever
//! their type.

mod future;
mod place;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, request::Parts};
use http_body::Body;
use tower::{Layer, Service};

pub use self::future::ResponseFuture;
pub(crate) use self::place::Place;
use crate::{
    backend::Backend,
    body::{RequestBody, Scan},
    error::{BoxError, Error},
    pattern::ModelMap,
    service::accessors,
};

/// Applies [`ModelOverride`] to a service.
#[derive(Clone, Default)]
pub struct ModelOverrideLayer {
    default_model: Option<Arc<str>>,
}

impl ModelOverrideLayer {
    /// The model of the request's [`Backend`]; without one, requests are forwarded as they are.
    pub fn new() -> Self {
        Self::default()
    }

    /// Uses this model for every request whose [`Backend`] has none of its own.
    pub fn with_default_model(model: impl Into<String>) -> Self {
        Self {
            default_model: Some(model.into().into()),
        }
    }
}

impl<S> Layer<S> for ModelOverrideLayer {
    type Service = ModelOverride<S>;

    fn layer(&self, inner: S) -> ModelOverride<S> {
        ModelOverride {
            inner,
            default_model: self.default_model.clone(),
        }
    }
}

impl fmt::Debug for ModelOverrideLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelOverrideLayer").finish_non_exhaustive()
    }
}

/// Replaces the model of each request; the body is buffered if the model stands there.
///
/// A body that isn't what its `Content-Type` says fails with a 400 error, one with a
/// `Content-Encoding` other than `identity` with a 415 error. Requests without a model are forwarded
/// as they are, but where one is inserted. See the [module documentation](self).
#[derive(Clone)]
pub struct ModelOverride<S> {
    inner: S,
    default_model: Option<Arc<str>>,
}

impl<S> ModelOverride<S> {
    /// Replaces the model by that of the request's [`Backend`], if it has one.
    pub fn new(inner: S) -> Self {
        ModelOverrideLayer::new().layer(inner)
    }

    accessors!();
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
        let Some(replacement) = Replacement::new(backend, self.default_model.as_ref()) else {
            return ResponseFuture::forwarded(self.inner.call(request));
        };
        let (parts, body) = request.into_parts();
        let place = replacement.place(&parts, &body);
        let scan = match place.scan(&parts.headers, true) {
            Ok(scan) => scan,
            Err(error) => return ResponseFuture::failed(error),
        };
        if scan == Scan::No {
            return match replacement.apply(place, parts, body) {
                Ok((parts, body)) => {
                    let request = Request::from_parts(parts, body);
                    ResponseFuture::forwarded(self.inner.call(request))
                }
                Err(error) => ResponseFuture::failed(error),
            };
        }
        // The service that was polled ready is the one to call.
        let next = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, next);
        ResponseFuture::buffering(parts, body.buffer(scan), place, replacement, ready)
    }
}

/// What a backend gets for a request's model: its own name for it, else its override.
struct Replacement {
    /// A backend with names of its own.
    names: Option<Backend>,
    model: Option<Arc<str>>,
}

impl Replacement {
    /// `None` where every model stays as it is.
    fn new(backend: Option<&Backend>, default_model: Option<&Arc<str>>) -> Option<Self> {
        let renames = |backend: &&Backend| backend.models().is_some_and(ModelMap::renames);
        let model = backend.and_then(Backend::model_override).or(default_model);
        let names = backend.filter(renames);
        (model.is_some() || names.is_some()).then(|| Self {
            names: names.cloned(),
            model: model.cloned(),
        })
    }

    fn place(&self, parts: &Parts, body: &RequestBody) -> Place {
        let place = Place::of(parts, body);
        match self.model {
            Some(_) => place,
            None => place.without_override(),
        }
    }

    fn apply(
        self,
        place: Place,
        parts: Parts,
        body: RequestBody,
    ) -> Result<(Parts, RequestBody), Error> {
        if let Some(models) = self.names.as_ref().and_then(Backend::models)
            && let Some(model) = place.model(&parts, &body)?
            && let Some(name) = models.rename(&model)
        {
            return place.rename(parts, body, &name);
        }
        match self.model {
            Some(model) => place.replace(parts, body, &model),
            None => Ok((parts, body)),
        }
    }
}

impl<S> fmt::Debug for ModelOverride<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelOverride").finish_non_exhaustive()
    }
}
