//! A transparent, streaming proxy for OpenAI-compatible chat completions, as [`tower`] layers.
//!
//! One line gives an axum app an OpenAI endpoint; all its other routes stay as they were:
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use tower_openai_proxy::{Config, OpenAiProxyLayer};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::from_path("config.json")?;
//! let app = Router::new()
//!     .route("/", get(|| async { "Hello" }))
//!     .layer(OpenAiProxyLayer::from_config(config)); // last, on the outermost router
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8000").await?;
//! axum::serve(listener, app).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Bodies come through byte for byte, streams piece by piece, and a client that leaves ends the
//! backend's work at once. The only thing that can change on the way is the request's `model`.
//!
//! # The way of a request
//!
//! ```text
//! request ─▶ OpenAiProxy         ours? else ─▶ the wrapped service, untouched
//!             │ AuthPassthrough    has credentials? mark them sensitive
//!             │ BackendRoute       which backends, in which order; tries the next one
//!             │ ModelOverride      this backend's model into the body, byte for byte
//!             │ Timeout            a clock for the response's head, one for its silences
//!             └ Forward            address it to the backend, send it, hand its body back
//! response ◀─ OpenAiProxy        an error of the stack becomes OpenAI's JSON, once, here
//! ```
//!
//! Each stage is a layer of its own, documented in its module, and can be used alone or composed
//! with other middleware:
//!
//! | layer | module |
//! | --- | --- |
//! | [`OpenAiProxyLayer`] | [`proxy`]: the whole stack |
//! | [`AuthPassthroughLayer`] | [`auth`] |
//! | [`BackendRouteLayer`] | [`route`] |
//! | [`ModelOverrideLayer`] | [`model`] |
//! | [`TimeoutLayer`] | [`timeout`] |
//! | [`Forward`] | [`forward`]: the service at the bottom |
//!
//! # Features
//!
//! | feature | default | |
//! | --- | --- | --- |
//! | `native-tls` | yes | `https` backends, by the platform's TLS library |
//! | `rustls` | | `https` backends, by rustls |
//! | `http2` | | HTTP/2 to `https` backends that choose it, on as many connections as their limits make necessary |
//!
//! With neither `native-tls` nor `rustls` an `https` URL is a configuration error; with both,
//! rustls is used, so that who asks for it need not turn the default off. It uses the cryptography
//! of ring, whichever provider the process has as its default, and trusts the system's certificate
//! authorities, or those in `SSL_CERT_FILE` and `SSL_CERT_DIR`, on every system. (The platform's own
//! verifier would not heed these variables everywhere, which is why rustls does the verifying.)

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod auth;
pub mod backend;
pub mod body;
mod clock;
pub mod config;
mod endpoint;
pub mod error;
mod exchange;
pub mod forward;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod header;
mod json;
pub mod model;
pub mod observe;
pub mod proxy;
mod rope;
pub mod route;
mod service;
pub mod timeout;

#[doc(inline)]
pub use crate::{
    auth::{AuthPassthrough, AuthPassthroughLayer},
    backend::Backend,
    body::RequestBody,
    config::{BackendConfig, Config, ConfigBuilder, ConfigError, ConfigWarning},
    error::Error,
    forward::Forward,
    model::{ModelOverride, ModelOverrideLayer},
    observe::{Observe, ObserveLayer},
    proxy::{OpenAiProxy, OpenAiProxyLayer},
    route::{BackendRoute, BackendRouteLayer},
    timeout::{Deadline, DeadlineLayer, Timeout, TimeoutLayer},
};

/// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
