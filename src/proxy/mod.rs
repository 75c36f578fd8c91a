//! The whole stack as one layer: the endpoints of the OpenAI API go to the backends, every other
//! request to the service it wraps.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_openai_proxy::{Config, OpenAiProxyLayer};
//!
//! async fn app(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
//!     Ok(Response::new(Full::from("the app's own")))
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let service = ServiceBuilder::new()
//!     .layer(OpenAiProxyLayer::from_config(Config::default()))
//!     .service_fn(app);
//!
//! let request = Request::get("/").body(Full::default()).unwrap();
//! let response = service.clone().oneshot(request).await.unwrap();
//! assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "the app's own");
//!
//! let request = Request::post("/v1/chat/completions").body(Full::default()).unwrap();
//! let response = service.oneshot(request).await.unwrap();
//! assert_eq!(response.status(), 401); // no credentials
//! # });
//! ```
//!
//! By default it proxies `/chat/completions` and what is below it, at `/` and below `/v1`;
//! [`Builder::paths`], [`Builder::all_paths`] and [`Builder::prefixes`] change that.
//!
//! # Where to add it
//!
//! It must see a request before routing does, since none of the app's routes is the endpoint.
//!
//! **axum**: add it to the outermost router, after all routes and fallbacks. A `route_layer`, the
//! layer of a router that is nested in another or merged with one, and routes that are added later
//! bypass it. Set `TCP_NODELAY` on the listener (`tap_io`), so that each chunk of a stream is sent at
//! once.
//!
//! If one of the app's routes or its fallback matches the endpoint's path, axum post-processes the
//! proxy's response as it would that route's: it adds `Allow`, and `Content-Length: 0` to HEAD. A
//! layer around the whole app avoids that:
//!
//! ```
//! use axum::{Router, routing::get};
//! use tower::Layer;
//! use tower_openai_proxy::{Config, OpenAiProxyLayer};
//!
//! let app = Router::new().route("/{*anything}", get(async || "Hello"));
//! let proxy = OpenAiProxyLayer::from_config(Config::default());
//! let app: Router = Router::new().fallback_service(proxy.layer(app));
//! ```
//!
//! **tonic**: `Server::builder().accept_http1(true).layer(proxy).add_routes(routes)`. The server's
//! own `timeout`, `load_shed` and `concurrency_limit_per_connection` wrap every layer and answer as
//! gRPC does, with status 200: prefer the configuration's timeouts and a layer for a limit. Paths
//! that aren't proxied are answered as gRPC does, too: `GET /v1/models` over HTTP/1.1 gets 200 with
//! `grpc-status: 12`, which OpenAI's SDKs misread.
//!
//! Middleware that should also see proxied requests goes outside this layer; in axum, that means
//! added after it.
//!
//! - CORS: a browser's preflight request has no credentials, so without a CORS layer it is answered
//!   with 401.
//! - Tracing: what logs header fields should be inside tower-http's `SetSensitiveHeadersLayer`: keys
//!   are marked sensitive only from [`auth`](crate::auth) on. The URI in a span includes its query.
//! - Compression: event streams are left as they are; other responses are no longer byte for byte.
//!   If your predicate includes event streams, tower-http flushes each chunk.
//! - Not timeouts or body limits: the configuration has them, and they are stream-aware.
//!
//! # Behind the application's own authentication
//!
//! Where the application authenticates its users, and the backend has a key of the operator's
//! ([`api_key`](crate::BackendConfig::api_key)), every path to the proxy must be guarded: whoever
//! reaches it spends that key. The layer is mounted at `/` as well as at `/v1`, and it answers before
//! the app's routes and their middleware. So mount [`OpenAiProxy`] as a route instead: it serves that
//! path alone, below the route's middleware. Guards see the request first, and what they put into its
//! extensions stays there.
//!
//! ```
//! use axum::{Router, extract::Request, middleware::{self, Next}, response::Response};
//! use tower_openai_proxy::{BackendConfig, Config, Error, OpenAiProxy};
//!
//! #[derive(Clone)]
//! struct User(String);
//!
//! async fn authenticate(mut request: Request, next: Next) -> Response {
//!     match request.headers().get("x-session").and_then(|session| session.to_str().ok()) {
//!         Some(session) => {
//!             let user = User(session.to_owned()); // look it up
//!             request.extensions_mut().insert(user);
//!             next.run(request).await
//!         }
//!         None => Error::unauthorized().with_message("Log in first.").to_response(),
//!     }
//! }
//!
//! let vllm = BackendConfig::new("vllm", "http://10.0.0.5:8000/v1").api_key("sk-company");
//! let config = Config::builder().backend(vllm).require_auth(false).build()?;
//! let app: Router = Router::new()
//!     .route_service("/v1/chat/completions", OpenAiProxy::from_config(config))
//!     .route_layer(middleware::from_fn(authenticate));
//! # Ok::<(), tower_openai_proxy::ConfigError>(())
//! ```
//!
//! Such a backend never sees the client's credentials, `Cookie`, `OpenAI-Organization` and
//! `OpenAI-Project`, and by default serves only what makes an answer or lists models.
//!
//! # Limits
//!
//! **By name**, requests a minute and requests in flight, which the configuration says: see
//! [`keys`](crate::keys).
//!
//! **By user, streams included until their end**: a permit that an [observer](crate::observe) holds
//! is released when the exchange ends, however it ends.
//!
//! ```
//! use std::{collections::HashMap, sync::{Arc, Mutex}};
//!
//! use axum::{extract::Request, middleware::Next, response::Response};
//! use http::request::Parts;
//! use tokio::sync::{OwnedSemaphorePermit, Semaphore};
//! use tower_openai_proxy::{Config, Error, OpenAiProxyLayer, observe::Exchange};
//!
//! type Limits = Arc<Mutex<HashMap<String, Arc<Semaphore>>>>;
//!
//! /// Middleware outside the proxy, below the authentication.
//! async fn limit(limits: Limits, user: String, mut request: Request, next: Next) -> Response {
//!     let permits = || Arc::new(Semaphore::new(4));
//!     let semaphore = limits.lock().unwrap().entry(user).or_insert_with(permits).clone();
//!     match semaphore.try_acquire_owned() {
//!         Ok(permit) => {
//!             request.extensions_mut().insert(Arc::new(permit));
//!             next.run(request).await
//!         }
//!         Err(_) => Error::too_many_requests().to_response(),
//!     }
//! }
//!
//! let layer = OpenAiProxyLayer::builder(Config::default())
//!     .observer(|request: &Parts| {
//!         let permit = request.extensions.get::<Arc<OwnedSemaphorePermit>>()?.clone();
//!         Some(move |_: &Exchange| drop(permit))
//!     })
//!     .build();
//! ```
//!
//! (The request's own extensions are dropped with its head, so the observer's clone is the last one.)
//!
//! **By backend**: see [`route`](crate::route#a-limit-for-each-backend).
//!
//! **Over all**: tower's limits answer in OpenAI's form by
//! [`Error::overloaded`](crate::Error::overloaded) and
//! [`Error::too_many_requests`](crate::Error::too_many_requests), which OpenAI's SDKs understand. They
//! count a request until its response headers only. In axum:
//!
//! ```
//! use axum::{Router, body::Body, error_handling::HandleErrorLayer};
//! use tower::{BoxError, ServiceBuilder, limit::GlobalConcurrencyLimitLayer};
//! use tower_openai_proxy::{Config, Error, OpenAiProxyLayer};
//!
//! let limit = ServiceBuilder::new()
//!     .layer(HandleErrorLayer::new(async |_: BoxError| {
//!         Error::overloaded().to_response::<Body>()
//!     }))
//!     .load_shed()
//!     .layer(GlobalConcurrencyLimitLayer::new(100));
//! let app: Router = Router::new()
//!     .layer(OpenAiProxyLayer::from_config(Config::default()))
//!     .layer(limit);
//! ```
//!
//! (axum applies a layer to each route, so `concurrency_limit(100)` would count each separately.) In
//! front of any other server:
//!
//! ```
//! use bytes::Bytes;
//! use http::Response;
//! use http_body_util::{Either, Full};
//! use tower::{BoxError, ServiceBuilder};
//! use tower_openai_proxy::{Config, Error, OpenAiProxyLayer};
//!
//! let limit = ServiceBuilder::new()
//!     .map_result(|result: Result<Response<_>, BoxError>| match result {
//!         Ok(response) => Ok::<_, BoxError>(response.map(Either::Left)),
//!         Err(_) => Ok(Error::overloaded().to_response::<Full<Bytes>>().map(Either::Right)),
//!     })
//!     .load_shed()
//!     .concurrency_limit(100)
//!     .layer(OpenAiProxyLayer::from_config(Config::default()));
//! # let app = tower::service_fn(async |_: http::Request<Full<bytes::Bytes>>| {
//! #     Ok::<_, std::convert::Infallible>(Response::new(Full::<bytes::Bytes>::default()))
//! # });
//! # fn is_service<S: tower::Service<http::Request<Full<bytes::Bytes>>>>(_: S) {}
//! # is_service(limit.service(app));
//! ```
//!
//! tower_governor answers likewise in its `error_handler`, with
//! `Error::too_many_requests().with_retry_after(wait)`.
//!
//! # In tests
//!
//! [`Builder::forward`] puts any service in the place of the backends, so that an app can be tested
//! without sockets. Below [`UpstreamRequestLayer`](crate::forward::UpstreamRequestLayer) it sees what
//! would go to the backend:
//!
//! ```
//! use axum::{Router, body::Body};
//! use http::{Request, Response};
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_openai_proxy::{
//!     BackendConfig, Config, Error, OpenAiProxyLayer, RequestBody, forward::UpstreamRequestLayer,
//! };
//!
//! async fn mock(request: Request<RequestBody>) -> Result<Response<Body>, Error> {
//!     assert_eq!(request.uri(), "http://10.0.0.1/v1/chat/completions");
//!     assert_eq!(request.headers()["authorization"], "Bearer sk-company");
//!     Ok(Response::new(Body::from(r#"{"object":"chat.completion"}"#)))
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let backend = BackendConfig::new("llm", "http://10.0.0.1/v1").api_key("sk-company");
//! let config = Config::builder().backend(backend).build().unwrap();
//! let layer = OpenAiProxyLayer::builder(config)
//!     .forward(UpstreamRequestLayer::new().layer(service_fn(mock)))
//!     .build();
//! let app: Router = Router::new().layer(layer);
//!
//! let request = Request::post("/v1/chat/completions").header("authorization", "Bearer key");
//! let response = app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
//! assert_eq!(response.status(), 200);
//! # });
//! ```

mod body;
mod builder;
mod future;
mod handle;
mod health;
mod layer;
mod service;
mod stack;
mod state;
#[cfg(test)]
mod tests;

pub use self::{
    body::ResponseBody,
    builder::Builder,
    future::ResponseFuture,
    handle::Handle,
    layer::OpenAiProxyLayer,
    service::{NotFound, OpenAiProxy},
};
