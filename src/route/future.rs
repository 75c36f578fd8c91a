use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    vec,
};

use http::{Request, Response, request::Parts};
use pin_project_lite::pin_project;
use tower::{Service, ServiceExt, util::Oneshot};

use super::Routes;
use crate::{
    backend::Backend,
    body::{Buffer, RequestBody},
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
        Buffering { body: Box<Buffer> },
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
        Self {
            state: State::trying(request, backend, service),
            retry: None,
            routes: Some(routes),
        }
    }

    /// A request that may go to several, once its body is buffered.
    pub(super) fn several(
        parts: Parts,
        body: Buffer,
        candidates: Vec<Backend>,
        service: S,
        routes: Arc<Routes>,
    ) -> Self {
        let retry = Retry {
            parts,
            body: RequestBody::empty(),
            candidates: candidates.into_iter(),
            service,
        };
        let body = Box::new(body);
        Self {
            state: State::Buffering { body },
            retry: Some(Box::new(retry)),
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
                    let body = ready!(Pin::new(&mut **body).poll(cx))?;
                    match (&this.routes, &mut *this.retry) {
                        (Some(routes), Some(retry)) => {
                            let candidates = std::mem::take(&mut retry.candidates).collect();
                            let order = routes.select(candidates, &retry.parts, &body)?;
                            retry.candidates = order.into_iter();
                            retry.body = body;
                            retry.next()
                        }
                        _ => None,
                    }
                }
                StateProj::Trying { attempt, backend } => {
                    let result = ready!(attempt.poll(cx))
                        .map_err(|error| Error::from_service(error).with_backend(backend));
                    let moves_on = this
                        .routes
                        .as_ref()
                        .is_some_and(|routes| routes.should_failover(backend, &result));
                    let retry = this.retry.as_mut().filter(|_| moves_on);
                    let Some(next) = retry.and_then(|retry| retry.next()) else {
                        return Poll::Ready(result.map(|mut response| {
                            let extensions = response.extensions_mut();
                            if !extensions.get().is_some_and(|told| backend.ptr_eq(told)) {
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
