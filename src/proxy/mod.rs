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

mod body;
mod future;
mod health;
mod layer;
mod log;
mod service;
#[cfg(test)]
mod tests;

pub use self::{
    body::ResponseBody, future::ResponseFuture, layer::OpenAiProxyLayer, service::OpenAiProxy,
};
