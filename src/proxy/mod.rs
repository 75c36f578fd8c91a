//! The whole stack as one layer: chat completions to the backends, everything else to the service
//! it wraps.
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
//! # Where it stands
//!
//! It must see a request before it is routed, as none of the app's routes is the endpoint.
//!
//! **axum**: add it to the outermost router, after all routes and fallbacks. A `route_layer`, the
//! layer of a router that is nested in another or merged with one, and one to which routes are added
//! later don't see every request. Make the listener set `TCP_NODELAY` (`tap_io`), so that each piece
//! of a stream is sent at once.
//!
//! Where a route or a fallback of the app's own takes the endpoint's path, axum adds to our answers
//! what it adds to that one's: `Allow`, and `Content-Length: 0` to HEAD. A layer around the whole
//! app is free of that:
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
//! own `timeout`, `load_shed` and `concurrency_limit_per_connection` stand around every layer and
//! answer as gRPC does, with status 200: the configuration's clocks and a layer for a limit do better.
//!
//! Middleware that is for ours as well stands around it; in axum that is what is added after it.
//!
//! - CORS: a browser's preflight request has no credentials, so by itself the proxy answers it 401.
//! - Tracing: what logs header fields should stand within tower-http's `SetSensitiveHeadersLayer`:
//!   keys are out of sight only from [`auth`](crate::auth) on. The URI in a span has its query.
//! - Compression: streams of events (`text/event-stream`) pass as they are, answers no longer byte
//!   for byte. With a predicate that takes streams, too, tower-http's sends each piece by itself.
//! - Not timeouts, nor limits on bodies: the configuration has them, and knows what a stream is.
//!
//! # Limits
//!
//! Limits above the whole answer in OpenAI's form by
//! [`Error::overloaded`](crate::Error::overloaded) and
//! [`Error::too_many_requests`](crate::Error::too_many_requests), which OpenAI's SDKs understand. In
//! axum:
//!
//! ```
//! use axum::{Router, body::Body, error_handling::HandleErrorLayer};
//! use tower::{BoxError, ServiceBuilder, limit::GlobalConcurrencyLimitLayer};
//! use tower_openai_proxy::{Config, Error, OpenAiProxyLayer};
//!
//! let limit = ServiceBuilder::new()
//!     .layer(HandleErrorLayer::new(async |_: BoxError| {
//!         Error::overloaded().to_response().map(Body::from)
//!     }))
//!     .load_shed()
//!     .layer(GlobalConcurrencyLimitLayer::new(100));
//! let app: Router = Router::new()
//!     .layer(OpenAiProxyLayer::from_config(Config::default()))
//!     .layer(limit);
//! ```
//!
//! (axum applies a layer to each route, so `concurrency_limit(100)` would count each by itself.) In
//! front of any other server:
//!
//! ```
//! use http::Response;
//! use http_body_util::{Either, Full};
//! use tower::{BoxError, ServiceBuilder};
//! use tower_openai_proxy::{Config, Error, OpenAiProxyLayer};
//!
//! let limit = ServiceBuilder::new()
//!     .map_result(|result: Result<Response<_>, BoxError>| match result {
//!         Ok(response) => Ok::<_, BoxError>(response.map(Either::Left)),
//!         Err(_) => Ok(Error::overloaded().to_response().map(Full::new).map(Either::Right)),
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
//! A rate limiter answers likewise, tower_governor in its `error_handler`, with
//! `Error::too_many_requests().with_retry_after(wait)`.
//!
//! tower's limits count a request until its response's head: a stream goes on uncounted. Those for
//! each backend, and those that count streams to their end, stand below: see
//! [`route`](crate::route#a-limit-for-each-backend).
//!
//! # In tests
//!
//! [`Builder::forward`] puts any service in the place of the backends,
//! so that an app can be tested without sockets:
//!
//! ```
//! use axum::{Router, body::Body};
//! use http::{Request, Response};
//! use tower::{ServiceExt, service_fn};
//! use tower_openai_proxy::{Config, Error, OpenAiProxyLayer, RequestBody};
//!
//! async fn stand_in(_: Request<RequestBody>) -> Result<Response<Body>, Error> {
//!     Ok(Response::new(Body::from(r#"{"object":"chat.completion"}"#)))
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let layer = OpenAiProxyLayer::builder(Config::default()).forward(service_fn(stand_in)).build();
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
