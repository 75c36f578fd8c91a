use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use http::{Request, Response, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::Service;

use super::{ResponseBody, attempt::Attempt, routes::Routes};
use crate::{
    backend::{Admission, Backend, InFlight, Probe, Wait},
    body::{Buffer, Lender, RequestBody},
    error::{BoxError, Error, Kind},
    exchange::AttemptResult,
    header::preflighted_method,
    tunnel::Tunnel,
};

pin_project! {
    /// The response of [`BackendRoute`](super::BackendRoute).
    pub struct ResponseFuture<S>
    where
        S: Service<Request<RequestBody>>,
    {
        #[pin]
        state: State<S>,
        // What a further attempt needs.
        retry: Option<Box<Retry<S>>>,
        routes: Option<Arc<Routes>>,
        is_preflight: bool,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S>
    where
        S: Service<Request<RequestBody>>,
    {
        Reading { body: Reading },
        // For a backend that has a place.
        Waiting { wait: Wait },
        Trying {
            attempt: Attempt<S>,
            // `None` behind the end.
            in_flight: Option<InFlight>,
        },
        Failed { error: Option<Error> },
    }
}

/// A body before the first attempt.
pub(super) enum Reading {
    Buffer(Box<Buffer>),
    Streamed(Option<RequestBody>),
}

struct Retry<S> {
    parts: Parts,
    body: Lender,
    /// The next one last.
    candidates: Vec<Backend>,
    /// How many of the next candidates were available.
    available: usize,
    /// Those that were passed over, as they are full.
    full: Vec<Backend>,
    /// The attempt finds out whether its backend is well again.
    probe: Option<Probe>,
    service: S,
}

impl<S> ResponseFuture<S>
where
    S: Service<Request<RequestBody>> + Clone,
{
    /// A request that can only go to this backend.
    #[inline(always)]
    pub(super) fn one(
        request: Request<RequestBody>,
        backend: Backend,
        service: S,
        routes: Arc<Routes>,
    ) -> Self {
        let in_flight = match InFlight::begin(backend) {
            Ok(in_flight) => in_flight,
            Err(full) => {
                let (parts, body) = request.into_parts();
                let body = Reading::Streamed(Some(body));
                return Self::several(parts, body, vec![full], service, routes);
            }
        };
        let is_preflight = preflighted_method(request.method(), request.headers()).is_some();
        Self {
            // Should the service not be ready, it is asked again when this is polled.
            state: State::trying(
                request,
                in_flight,
                service,
                &mut Context::from_waker(Waker::noop()),
            ),
            retry: None,
            routes: Some(routes),
            is_preflight,
        }
    }

    /// A request that may go to several, once its body is buffered.
    pub(super) fn several(
        parts: Parts,
        body: Reading,
        candidates: Vec<Backend>,
        service: S,
        routes: Arc<Routes>,
    ) -> Self {
        let is_preflight = preflighted_method(&parts.method, &parts.headers).is_some();
        let retry = Retry {
            parts,
            body: Lender::default(),
            candidates,
            available: 0,
            full: Vec::new(),
            probe: None,
            service,
        };
        Self {
            state: State::Reading { body },
            retry: Some(Box::new(retry)),
            routes: Some(routes),
            is_preflight,
        }
    }

    pub(super) fn failed(error: Error) -> Self {
        Self {
            state: State::Failed { error: Some(error) },
            retry: None,
            routes: None,
            is_preflight: false,
        }
    }
}

impl<S> State<S>
where
    S: Service<Request<RequestBody>>,
{
    #[inline(always)]
    fn trying(
        mut request: Request<RequestBody>,
        in_flight: InFlight,
        service: S,
        cx: &mut Context<'_>,
    ) -> Self {
        let backend = in_flight.backend();
        if let Some(exchange) = request.body().exchange() {
            exchange.begin_attempt(backend, request.extensions());
        }
        request.extensions_mut().insert(backend.clone());
        State::Trying {
            attempt: Attempt::new(service, request, cx),
            in_flight: Some(in_flight),
        }
    }
}

impl<S> Retry<S>
where
    S: Service<Request<RequestBody>> + Clone,
{
    /// The next attempt; `left` is the one after which it is tried, if any.
    fn next(
        &mut self,
        left: Option<(&Backend, AttemptResult)>,
        cx: &mut Context<'_>,
    ) -> Option<State<S>> {
        while let Some(backend) = self.candidates.pop() {
            let is_expected_up = self.available > 0;
            self.available = self.available.saturating_sub(1);
            let probe = match is_expected_up.then(|| backend.admit()) {
                Some(Admission::Cooling) => {
                    self.candidates.insert(0, backend);
                    continue;
                }
                Some(Admission::Probe(probe)) => Some(probe),
                Some(Admission::Up) | None => None,
            };
            match InFlight::begin(backend) {
                Ok(in_flight) => {
                    self.probe = probe;
                    return self.attempt(in_flight, left, cx);
                }
                Err(full) => self.full.push(full),
            }
        }
        None
    }

    fn attempt(
        &mut self,
        in_flight: InFlight,
        left: Option<(&Backend, AttemptResult)>,
        cx: &mut Context<'_>,
    ) -> Option<State<S>> {
        let is_last = self.candidates.is_empty();
        let body = self.body.lend(is_last)?;
        if let (Some((left, result)), Some(exchange)) = (left, body.exchange()) {
            exchange.end_attempt(left, result);
        }
        let request = Request::from_parts(self.parts(is_last), body);
        let service = self.service.clone();
        Some(State::trying(request, in_flight, service, cx))
    }

    /// The head for an attempt.
    fn parts(&mut self, is_last: bool) -> Parts {
        if is_last {
            let (none, ()) = Request::new(()).into_parts();
            return std::mem::replace(&mut self.parts, none);
        }
        // A table without entries isn't worth a copy.
        let table = &mut self.parts.extensions;
        let table = table.is_empty().then(|| std::mem::take(table));
        let kept = self.parts.clone();
        let mut parts = std::mem::replace(&mut self.parts, kept);
        if let Some(table) = table {
            parts.extensions = table;
        }
        parts
    }

    /// The first attempt, or the wait for it.
    fn first(
        &mut self,
        queue_timeout: Duration,
        cx: &mut Context<'_>,
    ) -> Result<Option<State<S>>, Error> {
        if let Some(next) = self.next(None, cx) {
            return Ok(Some(next));
        }
        let wait = Wait::new(self.full.clone(), queue_timeout);
        let wait = wait.ok_or_else(all_full)?;
        Ok(Some(State::Waiting { wait }))
    }

    /// The attempt at the backend that has got a place.
    fn placed(&mut self, in_flight: InFlight, cx: &mut Context<'_>) -> Option<State<S>> {
        let others = std::mem::take(&mut self.full).into_iter();
        let others = others.filter(|other| !other.ptr_eq(in_flight.backend()));
        self.candidates = others.rev().collect();
        self.available = self.candidates.len();
        self.attempt(in_flight, None, cx)
    }
}

fn all_full() -> Error {
    Error::new(Kind::AllFull).with_retry_after(Duration::from_secs(1))
}

impl<S, R> Future for ResponseFuture<S>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    R: Body,
{
    type Output = Result<Response<ResponseBody<R>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Reading { body } => {
                    let body = match body {
                        Reading::Buffer(buffer) => ready!(Pin::new(&mut **buffer).poll(cx))?,
                        Reading::Streamed(body) => body.take().unwrap_or_default(),
                    };
                    match (&this.routes, &mut *this.retry) {
                        (Some(routes), Some(retry)) => {
                            let candidates = std::mem::take(&mut retry.candidates);
                            let mut order = routes.select(candidates, &retry.parts, &body)?;
                            retry.available =
                                order.iter().take_while(|it| it.is_available()).count();
                            order.reverse();
                            retry.candidates = order;
                            retry.body = Lender::new(body);
                            retry.first(routes.queue_timeout, cx)?
                        }
                        _ => None,
                    }
                }
                StateProj::Waiting { wait } => {
                    let place = ready!(Pin::new(wait).poll(cx)).ok_or_else(all_full)?;
                    let retry = this.retry.as_mut();
                    retry.and_then(|retry| retry.placed(place, cx))
                }
                StateProj::Trying { attempt, in_flight } => {
                    let result = ready!(attempt.poll(cx));
                    let in_flight = in_flight.take().expect("not polled after the end");
                    let backend = in_flight.backend();
                    let result =
                        result.map_err(|error| Error::from_service(error).with_backend(backend));
                    let moves_on = this.routes.as_ref().is_some_and(|routes| {
                        routes.should_failover(backend, &result, *this.is_preflight)
                    });
                    let mut retry = this.retry.as_mut();
                    if let Some(retry) = &mut retry {
                        // What it has found out is recorded.
                        retry.probe = None;
                    }
                    let retry = retry.filter(|_| moves_on);
                    let next = retry.and_then(|retry| {
                        let status = result.as_ref().map(Response::status);
                        retry.next(Some((backend, AttemptResult::moved_on(status))), cx)
                    });
                    let Some(next) = next else {
                        let mut response = result?;
                        let extensions = response.extensions_mut();
                        if !extensions.get().is_some_and(|told| backend.ptr_eq(told)) {
                            extensions.insert(backend.clone());
                        }
                        let in_flight = match Tunnel::of(&response) {
                            Some(tunnel) => {
                                tunnel.at_end(move |_| drop(in_flight));
                                None
                            }
                            None => Some(in_flight),
                        };
                        let response = response.map(|body| ResponseBody::new(body, in_flight));
                        return Poll::Ready(Ok(response));
                    };
                    Some(next)
                }
                StateProj::Failed { error } => {
                    return Poll::Ready(Err(error.take().expect("not polled after the end")));
                }
            };
            this.state
                .set(next.expect("the first of several candidates"));
        }
    }
}

impl<S> fmt::Debug for ResponseFuture<S>
where
    S: Service<Request<RequestBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
