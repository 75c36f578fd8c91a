//! A transparent, streaming proxy for the OpenAI API, as [`tower`] layers.
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
//! Bodies are forwarded byte for byte and streams chunk by chunk; when a client disconnects, the
//! backend's request is cancelled at once. The only thing that can change on the way is the request's
//! `model`.
//!
//! # Request lifecycle
//!
//! ```text
//! request ─▶ OpenAiProxy         a proxied path? else ─▶ the wrapped service, untouched
//!             │ Keys               client keys: who sends it, what they may use, and how much
//!             │ Ping               comments into idle streams of events, if configured
//!             │ Observe            one record per exchange, whatever happens
//!             │ Deadline           a limit on the whole exchange
//!             │ AuthPassthrough    has credentials? marks them sensitive
//!             │ MergeModels        GET /models: one list of the models of all backends
//!             │ BackendRoute       which backends, in which order; limits on the body; failover
//!             │ ModelOverride      this backend's model into the request, byte for byte
//!             │ Timeout            limits on the wait for response headers, and on an idle body
//!             └ Forward            addresses the request to the backend, sends it, streams the answer
//! response ◀─ OpenAiProxy        an error of the stack becomes OpenAI-shaped JSON, once, here
//! ```
//!
//! Each stage is a layer of its own that keeps its promises alone, documented in its module, and can
//! be composed with other middleware:
//!
//! | layer | module |
//! | --- | --- |
//! | [`OpenAiProxyLayer`] | [`proxy`]: the whole stack |
//! | [`KeysLayer`] | [`keys`] |
//! | [`PingLayer`] | [`ping`] |
//! | [`ObserveLayer`] | [`observe`] |
//! | [`DeadlineLayer`], [`TimeoutLayer`] | [`timeout`] |
//! | [`AuthPassthroughLayer`] | [`auth`] |
//! | [`MergeModelsLayer`] | [`models`] |
//! | [`BackendRouteLayer`] | [`route`] |
//! | [`ModelOverrideLayer`] | [`model`] |
//! | [`Forward`] | [`forward`]: the service at the bottom |
//!
//! # Words
//!
//! An *exchange* is a request with its response, from the request's headers to the last byte of the
//! response. A *head* is a start line or status line with its header fields. The *operator* runs the
//! proxy and may have keys of their own at the backends.
//!
//! # Features
//!
//! | feature | default | |
//! | --- | --- | --- |
//! | `native-tls` | yes | `https` backends, by the platform's TLS library |
//! | `rustls` | | `https` backends, by rustls |
//! | `http2` | | HTTP/2 to `https` backends that choose it, on as many connections as their limits require |
//! | `decompress` | yes | usage in compressed answers that aren't streams: gzip, deflate, brotli, zstd |
//!
//! Without `native-tls` and `rustls` an `https` URL is a configuration error. If both are enabled,
//! rustls is used, so you don't have to disable default features. It uses the cryptography of ring,
//! whichever provider is the process's default, and trusts the system's certificate authorities, or
//! those in `SSL_CERT_FILE` and `SSL_CERT_DIR`, on every system. (The platform's own verifier doesn't
//! honor these variables everywhere.)
#![cfg_attr(docsrs, feature(doc_cfg))]

mod affinity;
pub mod auth;
pub mod backend;
pub mod body;
mod client;
mod clock;
pub mod config;
mod digest;
mod endpoint;
pub mod error;
mod exchange;
mod file;
pub mod forward;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod header;
mod json;
pub mod keys;
pub mod model;
pub mod models;
mod multipart;
pub mod observe;
mod pattern;
mod percent;
pub mod ping;
pub mod proxy;
mod rope;
pub mod route;
mod secret;
mod service;
pub mod timeout;
mod timestamp;
mod tls;
mod tunnel;

#[doc(inline)]
pub use crate::{
    auth::{AuthPassthrough, AuthPassthroughLayer},
    backend::Backend,
    body::RequestBody,
    client::ClientName,
    config::{BackendConfig, ClientConfig, Config, ConfigBuilder, ConfigError, ConfigWarning},
    error::Error,
    forward::Forward,
    keys::{Keys, KeysLayer},
    model::{ModelOverride, ModelOverrideLayer},
    models::{MergeModels, MergeModelsLayer},
    observe::{Observe, ObserveLayer},
    ping::{Ping, PingLayer},
    proxy::{OpenAiProxy, OpenAiProxyLayer},
    route::{BackendRoute, BackendRouteLayer},
    timeout::{Deadline, DeadlineLayer, Timeout, TimeoutLayer},
};

/// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
