//! Answers `GET /models` with one list of the models of all backends.
//!
//! Where several backends serve the path, each is asked at the same time, and their entries become
//! one list, in the order of the configuration. An entry's bytes stay as its backend wrote them; of
//! entries with the same `id` the first is listed. A backend that fails, that takes longer than
//! `connect_timeout` and 5 s, or whose answer isn't a list of at most 4 MiB is left out, which is
//! logged at level `WARN`. If all fail, the first one's answer or error is returned.
//!
//! Where backends have patterns of models ([`BackendConfig::models`](crate::BackendConfig::models)),
//! a list has only what its backend would be asked for, under the ids by which clients ask. Names and
//! aliases that no list has follow at the end, those of failed backends too.
//!
//! A client whose [key](crate::keys) has `models` gets only those, whatever `merge_models` says.
//!
//! Each backend gets its own key; those without one get the client's credentials. A selector of your
//! own ([`route`]) isn't asked.
//!
//! Forwarded like any other request: one that only a single backend without patterns of models
//! serves, and one that selects its
//! backend by `X-Proxy-Backend`.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_openai_proxy::{
//!     Backend, BackendConfig, BackendRouteLayer, Config, Error, MergeModelsLayer, RequestBody,
//! };
//!
//! async fn send(request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Error> {
//!     let list = match request.extensions().get::<Backend>().expect("selected above").name() {
//!         "small" => r#"{ "object": "list", "data": [ { "id": "phi" } ] }"#,
//!         _ => r#"{"object":"list","data":[{"id":"llama","size":70},{"id":"phi","size":3}]}"#,
//!     };
//!     Ok(Response::new(Full::from(list)))
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let config = Config::builder()
//!     .backend(BackendConfig::new("small", "http://10.0.0.1/v1"))
//!     .backend(BackendConfig::new("large", "http://10.0.0.2/v1"))
//!     .build()
//!     .unwrap();
//! let service = ServiceBuilder::new()
//!     .layer(MergeModelsLayer::from_config(&config))
//!     .layer(BackendRouteLayer::from_config(&config))
//!     .service_fn(send);
//!
//! let request = Request::get("/v1/models").body(Full::<Bytes>::default()).unwrap();
//! let list = service.oneshot(request).await.unwrap().into_body().collect().await.unwrap();
//!
//! assert_eq!(
//!     list.to_bytes(),
//!     r#"{"object":"list","data":[{ "id": "phi" },{"id":"llama","size":70}]}"#
//! );
//! # });
//! ```

mod alias;
mod body;
mod fetch;
mod future;
mod list;
#[cfg(test)]
mod tests;

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, Request, Response, header};
use http_body::Body;
use tower::{Layer, Service};

pub use self::{body::ResponseBody, future::ResponseFuture};
use crate::{
    body::RequestBody,
    client::Grant,
    config::Config,
    endpoint::{self, Matched},
    error::{BoxError, Error},
    header::is_websocket,
    route::{self, BackendRoute},
    service::accessors,
};

/// Applies [`MergeModels`] to a service.
#[derive(Clone, Debug)]
pub struct MergeModelsLayer {
    enabled: bool,
}

impl MergeModelsLayer {
    /// Merges the lists of models.
    pub fn new() -> Self {
        Self { enabled: true }
    }

    /// Does what the configuration's `merge_models` says.
    pub fn from_config(config: &Config) -> Self {
        Self {
            enabled: config.settings.merge_models,
        }
    }
}

impl Default for MergeModelsLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for MergeModelsLayer {
    type Service = MergeModels<S>;

    fn layer(&self, inner: S) -> MergeModels<S> {
        MergeModels {
            inner,
            enabled: self.enabled,
        }
    }
}

/// Answers `GET` and `HEAD` of `/models` with one list of the models of all backends; every other
/// request goes to the wrapped service, which must be [`BackendRoute`].
///
/// See the [module documentation](self).
#[derive(Clone, Debug)]
pub struct MergeModels<S> {
    inner: S,
    enabled: bool,
}

impl<S> MergeModels<S> {
    /// Merges the lists of models.
    pub fn new(inner: S) -> Self {
        MergeModelsLayer::new().layer(inner)
    }

    accessors!();
}

impl<S, B, R> Service<Request<B>> for MergeModels<BackendRoute<S>>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<route::ResponseBody<R>>>;
    type Error = Error;
    type Future = ResponseFuture<route::ResponseFuture<S>, route::ResponseBody<R>>;

    /// Always ready, as [`BackendRoute`] is.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if !lists_models(&request) {
            return ResponseFuture::forwarded(self.inner.call(request));
        }
        let grant = Grant::of(request.extensions()).filter(|grant| grant.needs_model());
        let grant = grant.cloned();
        let is_listed = self.enabled || grant.is_some();
        let listing = is_listed.then(|| self.inner.listing(&request)).flatten();
        let Some(mut backends) = listing else {
            return ResponseFuture::forwarded(self.inner.call(request));
        };
        if !self.enabled {
            backends.truncate(1);
        }
        let (mut head, body) = request.into_parts();
        let is_head = head.method == Method::HEAD;
        head.method = Method::GET;
        head.headers = without_conditions(&head.headers);
        let body = RequestBody::new(body);
        // The first one last, which is whose answer it is: if all fail, that of the first one stands.
        let exchange = body.exchange().cloned();
        if let Some(exchange) = &exchange {
            for backend in backends.iter().rev() {
                exchange.begin_attempt(backend, &head.extensions);
            }
        }
        let responses = backends.into_iter().map(|backend| {
            let request = Request::from_parts(head.clone(), RequestBody::empty());
            (backend.clone(), self.inner.send_to(backend, request))
        });
        ResponseFuture::merging(responses, grant, is_head, exchange)
    }
}

/// Whether a request asks for the list of models.
fn lists_models<B>(request: &Request<B>) -> bool {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return false;
    }
    let Some(matched) = Matched::of(request.extensions(), request.uri()) else {
        return false;
    };
    *endpoint::normalize(matched.path(request.uri())) == *b"/models"
        && !is_websocket(request.method(), request.version(), request.headers())
}

/// The fields of a request for the whole list, not encoded, without a body.
fn without_conditions(headers: &HeaderMap) -> HeaderMap {
    let is_dropped = |name: &HeaderName| {
        matches!(
            *name,
            header::ACCEPT_ENCODING | header::CONTENT_LENGTH | header::EXPECT | header::RANGE
        ) || name.as_str().starts_with("if-")
    };
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        if !is_dropped(name) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}
