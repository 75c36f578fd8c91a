//! The limit on a whole exchange.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::{
    task::JoinHandle,
    time::{Instant, Sleep, sleep, sleep_until},
};
use tower::{Layer, Service};

use crate::{
    clock::LONGEST,
    config::Config,
    error::{BoxError, Error, Kind},
    service::accessors,
    tunnel::Tunnel,
};

/// Applies [`Deadline`] to a service.
///
/// ```
/// use std::{convert::Infallible, future::pending, time::Duration};
///
/// use http::{Request, Response};
/// use tower::{ServiceBuilder, ServiceExt};
/// use tower_openai_proxy::timeout::DeadlineLayer;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let service = ServiceBuilder::new()
///     .layer(DeadlineLayer::new(Duration::from_millis(1)))
///     .service_fn(|_: Request<String>| pending::<Result<Response<String>, Infallible>>());
///
/// let error = service.oneshot(Request::default()).await.unwrap_err();
/// assert_eq!(error.status(), 504);
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct DeadlineLayer {
    period: Option<Duration>,
}

impl DeadlineLayer {
    /// Exchanges may take this long. Durations are clamped to 30 years.
    pub fn new(period: Duration) -> Self {
        Self {
            period: Some(period.min(LONGEST)),
        }
    }

    /// Does what the configuration's `total_timeout` says; without one, exchanges have no limit.
    pub fn from_config(config: &Config) -> Self {
        Self {
            period: config.settings.total_timeout,
        }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline {
            inner,
            period: self.period,
        }
    }
}

/// Limits a whole exchange, from the request's headers to the end of the response.
///
/// Before the response headers it fails with a 504 error; after them the response body fails. The
/// wrapped service's body is dropped at the deadline, even if nobody polls it: the backend then is
/// free although the client has stopped reading. So that a server can free the client's connection,
/// too, the response has [`EndsAt`] in its extensions.
#[derive(Clone, Debug)]
pub struct Deadline<S> {
    inner: S,
    period: Option<Duration>,
}

impl<S> Deadline<S> {
    /// Exchanges may take this long.
    pub fn new(inner: S, period: Duration) -> Self {
        DeadlineLayer::new(period).layer(inner)
    }

    accessors!();
}

impl<S, B, R> Service<Request<B>> for Deadline<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<DeadlineBody<R>>;
    type Error = Error;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Error::from_service)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        DeadlineFuture {
            inner: self.inner.call(request),
            timer: self.period.map(|period| Box::pin(sleep(period))),
        }
    }
}

/// When an exchange ends at the latest: in the extensions of a response that has a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndsAt(pub Instant);

pin_project! {
    /// The response of [`Deadline`].
    pub struct DeadlineFuture<F> {
        #[pin]
        inner: F,
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F, R, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<DeadlineBody<R>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // The work before the clock: a response that is there is never late.
        if let Poll::Ready(result) = this.inner.poll(cx) {
            let deadline = this.timer.as_ref().map(|timer| timer.deadline());
            return Poll::Ready(match result {
                Ok(mut response) => {
                    if let Some(deadline) = deadline {
                        if let Some(tunnel) = Tunnel::of(&response) {
                            tunnel.end_at(deadline);
                        }
                        response.extensions_mut().insert(EndsAt(deadline));
                    }
                    Ok(response.map(|body| DeadlineBody::new(body, deadline)))
                }
                Err(error) => Err(Error::from_service(error)),
            });
        }
        let Some(timer) = this.timer else {
            return Poll::Pending;
        };
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(Error::new(Kind::TotalTimeout)))
    }
}

impl<F> fmt::Debug for DeadlineFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadlineFuture").finish_non_exhaustive()
    }
}

pin_project! {
    /// A response body that fails at the deadline of its exchange.
    pub struct DeadlineBody<B> {
        #[pin]
        state: State<B>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<B> {
        Untimed { #[pin] body: B },
        Timed { body: Timed<B> },
    }
}

/// A body that a task drops at its deadline: nobody polls a body whose client doesn't read.
struct Timed<B> {
    shared: Arc<Mutex<Shared<B>>>,
    deadline: Instant,
    task: JoinHandle<()>,
}

struct Shared<B> {
    /// `None` after the deadline.
    body: Option<Pin<Box<B>>>,
    reader: Option<Waker>,
}

impl<B> DeadlineBody<B>
where
    B: Body + Send + 'static,
{
    fn new(body: B, deadline: Option<Instant>) -> Self {
        let state = match deadline {
            Some(deadline) if !body.is_end_stream() => State::Timed {
                body: Timed::new(body, deadline),
            },
            _ => State::Untimed { body },
        };
        Self { state }
    }
}

impl<B> Timed<B>
where
    B: Body + Send + 'static,
{
    fn new(body: B, deadline: Instant) -> Self {
        let shared = Arc::new(Mutex::new(Shared {
            body: Some(Box::pin(body)),
            reader: None,
        }));
        let watched = shared.clone();
        let task = tokio::spawn(async move {
            sleep_until(deadline).await;
            let mut shared = lock(&watched);
            shared.expire();
            if let Some(reader) = shared.reader.take() {
                reader.wake();
            }
        });
        Self {
            shared,
            deadline,
            task,
        }
    }
}

impl<B: Body> Shared<B> {
    fn is_end(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.is_end_stream())
    }

    /// Drops the body, unless all of it has been read in time.
    fn expire(&mut self) {
        if !self.is_end() {
            self.body = None;
        }
    }
}

fn lock<B>(shared: &Mutex<Shared<B>>) -> MutexGuard<'_, Shared<B>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B> Timed<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut shared = lock(&self.shared);
        // The task may not have run yet.
        if Instant::now() >= self.deadline {
            shared.expire();
        }
        let Some(body) = &mut shared.body else {
            return Poll::Ready(Some(Err(Error::new(Kind::TotalTimeout))));
        };
        let frame = body.as_mut().poll_frame(cx);
        if frame.is_pending() {
            shared.reader = Some(cx.waker().clone());
        }
        frame.map_err(Error::from_service)
    }
}

impl<B> Drop for Timed<B> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<B> Body for DeadlineBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Error;

    #[inline(always)]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.project().state.project() {
            StateProj::Untimed { body } => body.poll_frame(cx).map_err(Error::from_service),
            StateProj::Timed { body } => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Untimed { body } => body.is_end_stream(),
            State::Timed { body } => lock(&body.shared).is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Untimed { body } => body.size_hint(),
            State::Timed { body } => {
                let shared = lock(&body.shared);
                let body = shared.body.as_ref();
                body.map(|body| body.size_hint()).unwrap_or_default()
            }
        }
    }
}

impl<B> fmt::Debug for DeadlineBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadlineBody").finish_non_exhaustive()
    }
}
