//! The timeouts of an exchange: for its response headers, an idle body, and the whole of it.
//!
//! [`Timeout`]: The response-header timeout starts when the whole request has been forwarded, and
//! restarts with every chunk that is. It is paused while waiting for the client or for a connection,
//! which have timeouts of their own. The idle timeout limits the time between two chunks of the
//! response. A stream may last forever, as long as it isn't idle for too long.
//!
//! [`Deadline`]: Limits the whole exchange, from the request's headers to the end of the response, or
//! of the WebSocket that it opens. (While neither side of that sends, `tunnel_idle_timeout` limits it.)
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
//!     .layer(TimeoutLayer::new().with_default_response_head(Duration::from_millis(1)))
//!     .service_fn(silent);
//!
//! let error = service.oneshot(Request::new(Full::<Bytes>::default())).await.unwrap_err();
//!
//! assert!(error.is_timeout());
//! assert_eq!(error.status(), 504);
//! # });
//! ```

mod body;
mod deadline;
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
pub use self::{
    body::TimeoutBody,
    deadline::{Deadline, DeadlineBody, DeadlineFuture, DeadlineLayer, EndsAt},
    future::ResponseFuture,
};
use crate::{
    backend::Backend,
    body::RequestBody,
    error::{BoxError, Error},
    service::accessors,
};

/// Applies [`Timeout`] to a service.
///
/// A request with a [`Backend`] has that backend's [timeouts](Backend::timeouts); any other has the
/// defaults set here, of which there are none at first.
#[derive(Clone, Debug, Default)]
pub struct TimeoutLayer {
    defaults: Periods,
}

#[derive(Clone, Copy, Debug, Default)]
struct Periods {
    response_head: Option<Duration>,
    idle: Option<Duration>,
}

impl TimeoutLayer {
    /// The backend's timeouts, and none for requests without a backend.
    pub fn new() -> Self {
        Self::default()
    }

    /// The time to wait for the response headers once the whole request has been forwarded, for
    /// requests without a backend. Durations are clamped to 30 years.
    #[must_use]
    pub fn with_default_response_head(mut self, period: Duration) -> Self {
        self.defaults.response_head = Some(period);
        self
    }

    /// The time that a response body may be idle, for requests without a backend. Durations are
    /// clamped to 30 years.
    #[must_use]
    pub fn with_default_idle(mut self, period: Duration) -> Self {
        self.defaults.idle = Some(period);
        self
    }
}

impl<S> Layer<S> for TimeoutLayer {
    type Service = Timeout<S>;

    fn layer(&self, inner: S) -> Timeout<S> {
        Timeout {
            inner,
            defaults: self.defaults,
        }
    }
}

/// Ends an exchange whose response headers don't arrive in time, or whose response body is idle for
/// too long.
///
/// See the [module documentation](self).
#[derive(Clone, Debug)]
pub struct Timeout<S> {
    inner: S,
    defaults: Periods,
}

impl<S> Timeout<S> {
    /// Applies the backend's timeouts.
    pub fn new(inner: S) -> Self {
        TimeoutLayer::new().layer(inner)
    }

    accessors!();
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
            None => self.defaults,
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
