use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    vec,
};

use http::{Request, Response, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::{Service, ServiceExt, util::Oneshot};

use super::{ResponseBody, Routes};
use crate::{
    backend::{Backend, InFlight},
    body::{Buffer, Lender, RequestBody},
    error::{BoxError, Error},
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
        Trying {
            #[pin]
            attempt: Oneshot<S, Request<RequestBody>>,
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
    candidates: vec::IntoIter<Backend>,
    service: S,
}

impl<S> ResponseFuture<S>
where
    S: Service<Request<RequestBody>> + Clone,
{
    /// A request that can only go to this backend.
    pub(super) fn one(
        request: Request<RequestBody>,
        backend: Backend,
        service: S,
        routes: Arc<Routes>,
    ) -> Self {
        let is_preflight = preflighted_method(request.method(), request.headers()).is_some();
        Self {
            state: State::trying(request, backend, service),
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
            candidates: candidates.into_iter(),
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
    fn trying(mut request: Request<RequestBody>, backend: Backend, service: S) -> Self {
        if let Some(exchange) = request.body().exchange() {
            exchange.begin_attempt(&backend, request.extensions());
        }
        request.extensions_mut().insert(backend.clone());
        State::Trying {
            attempt: service.oneshot(request),
            in_flight: Some(InFlight::begin(backend)),
        }
    }
}

impl<S> Retry<S>
where
    S: Service<Request<RequestBody>> + Clone,
{
    /// The next attempt; `left` is the one after which it is tried, if any.
    fn next(&mut self, left: Option<(&Backend, AttemptResult)>) -> Option<State<S>> {
        let backend = self.candidates.next()?;
        let body = self.body.lend()?;
        if let (Some((left, result)), Some(exchange)) = (left, body.exchange()) {
            exchange.end_attempt(left, result);
        }
        let request = Request::from_parts(self.parts.clone(), body);
        Some(State::trying(request, backend, self.service.clone()))
    }
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
                            let candidates = std::mem::take(&mut retry.candidates).collect();
                            let order = routes.select(candidates, &retry.parts, &body)?;
                            retry.candidates = order.into_iter();
                            retry.body = Lender::new(body);
                            retry.next(None)
                        }
                        _ => None,
                    }
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
                    let retry = this.retry.as_mut().filter(|_| moves_on);
                    let next = retry.and_then(|retry| {
                        let status = result.as_ref().map(Response::status);
                        retry.next(Some((backend, AttemptResult::moved_on(status))))
                    });
                    let Some(next) = next else {
                        return Poll::Ready(result.map(|mut response| {
                            let backend = in_flight.backend();
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
                            response.map(|body| ResponseBody::new(body, in_flight))
                        }));
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
