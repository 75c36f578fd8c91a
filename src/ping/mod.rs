//! Comments that keep an idle stream of server-sent events open.
//!
//! What stands between a client and the proxy may close a connection on which nothing comes for a
//! while, as when a model thinks. [`Ping`] then sends a comment, `: ping` and an empty line, which
//! readers of event streams skip (HTML, section 9.2.6). It does so only between two events, and only
//! in `text/event-stream` without `Content-Encoding` and `Content-Length`; no other byte changes.
//!
//! A ping is no sign of life of the backend: it restarts no timeout, and observers don't count it.
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Channel};
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_openai_proxy::PingLayer;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let (sender, stream) = Channel::<Bytes, Infallible>::new(1); // on which nothing comes
//! let response = Response::builder().header("content-type", "text/event-stream").body(stream);
//! let mut response = response.ok();
//! let service = ServiceBuilder::new()
//!     .layer(PingLayer::new(Duration::from_millis(1)))
//!     .service_fn(move |_: Request<String>| {
//!         std::future::ready(Ok::<_, Infallible>(response.take().unwrap()))
//!     });
//!
//! let mut body = service.oneshot(Request::default()).await?.into_body();
//!
//! let frame = body.frame().await.unwrap()?;
//! assert_eq!(frame.into_data().unwrap(), ": ping\n\n");
//! # drop(sender);
//! # Ok::<(), Infallible>(())
//! # }).unwrap();
//! ```

mod body;
mod future;
#[cfg(test)]
mod tests;

use std::{
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::{Layer, Service};

pub use self::{body::PingBody, future::ResponseFuture};
use crate::{config::Config, service::accessors};

/// Applies [`Ping`] to a service.
#[derive(Clone, Debug)]
pub struct PingLayer {
    period: Option<Duration>,
}

impl PingLayer {
    /// Pings streams that have been idle for this long. Durations are clamped to 30 years.
    pub fn new(period: Duration) -> Self {
        Self {
            period: Some(period),
        }
    }

    /// Does what the configuration's `ping` says; without it, nothing.
    pub fn from_config(config: &Config) -> Self {
        Self {
            period: config.settings.ping,
        }
    }
}

impl<S> Layer<S> for PingLayer {
    type Service = Ping<S>;

    fn layer(&self, inner: S) -> Ping<S> {
        Ping {
            inner,
            period: self.period,
        }
    }
}

/// Sends comments into streams of server-sent events that are idle.
///
/// It stands above [`Observe`](crate::observe::Observe), so that observers see the backend's bytes
/// alone. See the [module documentation](self).
#[derive(Clone, Debug)]
pub struct Ping<S> {
    inner: S,
    period: Option<Duration>,
}

impl<S> Ping<S> {
    /// Pings streams that have been idle for this long.
    pub fn new(inner: S, period: Duration) -> Self {
        PingLayer::new(period).layer(inner)
    }

    accessors!();
}

impl<S, B, R> Service<Request<B>> for Ping<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    type Response = Response<PingBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ResponseFuture::new(self.inner.call(request), self.period)
    }
}
