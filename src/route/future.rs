use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response, request::Parts};
use pin_project_lite::pin_project;
use tower::{Service, ServiceExt, util::Oneshot};

use super::{Candidates, Routes};
use crate::{
    backend::Backend,
    body::{Buffer, RequestBody, Scan},
    error::{BoxError, Error},
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
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S>
    where
        S: Service<Request<RequestBody>>,
    {
        Buffering { body: Buffer },
        Trying {
            #[pin]
            attempt: Oneshot<S, Request<RequestBody>>,
            backend: Backend,
        },
        Failed { error: Option<Error> },
    }
}

struct Retry<S> {
    parts: Parts,
    body: RequestBody,
    candidates: std::vec::IntoIter<Backend>,
    service: S,
}

impl<S> ResponseFuture<S>
where
    S: Service<Request<RequestBody>> + Clone,
{
    pub(super) fn new(
        request: Request<RequestBody>,
        candidates: Candidates,
        service: S,
        routes: Arc<Routes>,
    ) -> Self {
        let (state, retry) = match candidates {
            Candidates::One(backend) => (State::trying(request, backend, service), None),
            Candidates::Several(candidates) => {
                let (parts, body) = request.into_parts();
                let is_overridden = |backend: &Backend| backend.model().is_some();
                let scan = match candidates.as_slice() {
                    all if all.iter().all(is_overridden) => Scan::Strict,
                    some if some.iter().any(is_overridden) => Scan::Lenient,
                    _ => Scan::No,
                };
                let retry = Retry {
                    parts,
                    body: RequestBody::empty(),
                    candidates,
                    service,
                };
                let body = body.buffer(scan);
                (State::Buffering { body }, Some(Box::new(retry)))
            }
        };
        Self {
            state,
            retry,
            routes: Some(routes),
        }
    }

    pub(super) fn failed(error: Error) -> Self {
        Self {
            state: State::Failed { error: Some(error) },
            retry: None,
            routes: None,
        }
    }
}

impl<S> State<S>
where
    S: Service<Request<RequestBody>>,
{
    fn trying(mut request: Request<RequestBody>, backend: Backend, service: S) -> Self {
        request.body().begin_attempt(&backend);
        request.extensions_mut().insert(backend.clone());
        State::Trying {
            attempt: service.oneshot(request),
            backend,
        }
    }
}

impl<S> Retry<S>
where
    S: Service<Request<RequestBody>> + Clone,
{
    fn next(&mut self) -> Option<State<S>> {
        let backend = self.candidates.next()?;
        let body = self.body.try_clone()?;
        let request = Request::from_parts(self.parts.clone(), body);
        Some(State::trying(request, backend, self.service.clone()))
    }
}

impl<S, R> Future for ResponseFuture<S>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
{
    type Output = Result<Response<R>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Buffering { body } => {
                    let body = ready!(Pin::new(body).poll(cx))?;
                    let retry = this.retry.as_mut();
                    retry.and_then(|retry| {
                        retry.body = body;
                        retry.next()
                    })
                }
                StateProj::Trying { attempt, backend } => {
                    let result = ready!(attempt.poll(cx))
                        .map_err(|error| Error::from_service(error).with_backend(backend));
                    let moves_on = this
                        .routes
                        .as_ref()
                        .is_some_and(|routes| routes.moves_on(backend, &result));
                    let retry = this.retry.as_mut().filter(|_| moves_on);
                    let Some(next) = retry.and_then(|retry| retry.next()) else {
                        return Poll::Ready(result.map(|mut response| {
                            let extensions = response.extensions_mut();
                            if !extensions.get().is_some_and(|told| backend.is(told)) {
                                extensions.insert(backend.clone());
                            }
                            response
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
