//! Two clocks: one until the response's head, one for silences in its body.
//!
//! The head clock starts when the request has been passed on whole, and anew with each piece of
//! its body that is; while the client or a connection to the backend is waited for, it stands: both
//! have clocks of their own. A stream may last for ever, as long as it isn't silent for too long.
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_openai_proxy::{RequestBody, TimeoutLayer};
//!
//! async fn silent(_: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Infallible> {
//!     std::future::pending().await
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let service = ServiceBuilder::new()
//!     .layer(TimeoutLayer::new().with_response_head(Duration::from_millis(1)))
//!     .service_fn(silent);
//!
//! let error = service.oneshot(Request::new(Full::<Bytes>::default())).await.unwrap_err();
//!
//! assert!(error.is_timeout());
//! assert_eq!(error.status(), 504);
//! # });
//! ```

mod body;
mod future;
mod head;
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

use self::head::HeadClock;
pub use self::{body::TimeoutBody, future::ResponseFuture};
use crate::{
    backend::Backend,
    body::RequestBody,
    error::{BoxError, Error},
};

/// Applies [`Timeout`] to a service.
///
/// A request with a [`Backend`] is timed by that backend's settings (`timeout`, `idle_timeout`),
/// any other by the periods set here; by default there are none.
#[derive(Clone, Copy, Debug, Default)]
pub struct TimeoutLayer {
    periods: Periods,
}

#[derive(Clone, Copy, Debug, Default)]
struct Periods {
    response_head: Option<Duration>,
    idle: Option<Duration>,
}

impl TimeoutLayer {
    /// Times requests by their backend's settings alone.
    pub fn new() -> Self {
        Self::default()
    }

    /// Longest wait for a response's head after the request has been passed on whole, for
    /// requests without a backend.
    #[must_use]
    pub fn with_response_head(mut self, period: Duration) -> Self {
        self.periods.response_head = Some(period);
        self
    }

    /// Longest silence in a response's body, for requests without a backend.
    #[must_use]
    pub fn with_idle(mut self, period: Duration) -> Self {
        self.periods.idle = Some(period);
        self
    }
}

impl<S> Layer<S> for TimeoutLayer {
    type Service = Timeout<S>;

    fn layer(&self, inner: S) -> Timeout<S> {
        Timeout {
            inner,
            periods: self.periods,
        }
    }
}

/// Ends an exchange whose response doesn't begin, or whose response's body falls silent.
///
/// See the [module documentation](self).
#[derive(Clone, Copy, Debug)]
pub struct Timeout<S> {
    inner: S,
    periods: Periods,
}

impl<S, B, R> Service<Request<B>> for Timeout<S>
where
    S: Service<Request<RequestBody>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<TimeoutBody<R>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Error::from_service)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let backend = request.extensions().get::<Backend>().cloned();
        let periods = match &backend {
            Some(backend) => Periods {
                response_head: Some(backend.timeouts().response_head),
                idle: Some(backend.timeouts().idle),
            },
            None => self.periods,
        };
        let mut request = request.map(RequestBody::new);
        let exchange =
            |request: &mut Request<RequestBody>| request.body_mut().exchange_mut().clone();
        let clock = periods
            .response_head
            .map(|period| HeadClock::new(period, exchange(&mut request)));
        ResponseFuture::new(self.inner.call(request), clock, periods.idle, backend)
    }
}
