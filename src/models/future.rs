use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body::Body;
use pin_project_lite::pin_project;

use super::{
    alias,
    body::ResponseBody,
    fetch::{Cause, Fetch, Unusable},
    list::{Entries, Merged},
};
use crate::{
    backend::Backend,
    client::Grant,
    error::{BoxError, Error},
    exchange::{self, AttemptResult},
    pattern::ModelMap,
};

pin_project! {
    /// The response of [`MergeModels`](super::MergeModels).
    pub struct ResponseFuture<F, B> {
        #[pin]
        state: State<F, B>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, B> {
        Forwarded { #[pin] response: F },
        // In a box, as futures are moved from stage to stage.
        Merging { merging: Box<Merging<F, B>> },
    }
}

/// The answers of several backends, until all are there.
struct Merging<F, B> {
    /// In the order of the configuration.
    backends: Vec<Backend>,
    /// In the same order.
    answers: Vec<Answer<F, B>>,
    /// That of the first backend, if it isn't a list.
    first: Option<Result<Response<ResponseBody<B>>, Error>>,
    /// `None` until all are there, and where there is no list.
    merged: Option<Merged>,
    /// What of the list the client may see.
    grant: Option<Arc<Grant>>,
    is_head: bool,
    exchange: Option<exchange::Handle>,
}

enum Answer<F, B> {
    Pending(Fetch<F, B>),
    List(Entries),
    /// In the merged list, or left out of it.
    Done,
}

impl<F, B> ResponseFuture<F, B> {
    pub(super) fn forwarded(response: F) -> Self {
        Self {
            state: State::Forwarded { response },
        }
    }

    /// At least one response.
    pub(super) fn merging(
        responses: impl Iterator<Item = (Backend, F)>,
        grant: Option<Arc<Grant>>,
        is_head: bool,
        exchange: Option<exchange::Handle>,
    ) -> Self {
        let pending = |(backend, response): (Backend, F)| {
            let answer = Answer::Pending(Fetch::new(backend.clone(), response));
            (backend, answer)
        };
        let (backends, answers) = responses.map(pending).unzip();
        let merging = Merging {
            backends,
            answers,
            first: None,
            merged: None,
            grant,
            is_head,
            exchange,
        };
        Self {
            state: State::Merging {
                merging: Box::new(merging),
            },
        }
    }
}

impl<F, B> Future for ResponseFuture<F, B>
where
    F: Future<Output = Result<Response<B>, Error>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<B>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Forwarded { response } => response
                .poll(cx)
                .map_ok(|response| response.map(ResponseBody::forwarded)),
            StateProj::Merging { merging } => merging.poll(cx),
        }
    }
}

impl<F, B> Merging<F, B>
where
    F: Future<Output = Result<Response<B>, Error>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<ResponseBody<B>>, Error>> {
        ready!(self.poll_answers(cx));
        ready!(self.poll_merge(cx));
        let mut response = match self.merged.take() {
            Some(merged) => Ok(response(merged.finish())),
            None => self.first.take().expect("not polled after the end"),
        };
        if self.is_head {
            response = response.map(|response| response.map(|_| Bytes::new().into()));
        }
        Poll::Ready(response)
    }

    /// Ready when all answers are there.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut is_pending = false;
        for (index, answer) in self.answers.iter_mut().enumerate() {
            let Answer::Pending(fetch) = answer else {
                continue;
            };
            let Poll::Ready(fetched) = fetch.poll(cx) else {
                is_pending = true;
                continue;
            };
            if let Some(exchange) = &self.exchange {
                exchange.end_attempt(fetch.backend(), result(&fetched));
            }
            *answer = match fetched {
                Ok(list) => Answer::List(list),
                Err(unusable) => {
                    let Unusable { cause, answer } = *unusable;
                    let backend = fetch.backend().name();
                    tracing::warn!(backend, %cause, "left out of the list of models");
                    if index == 0 {
                        self.first = Some(answer);
                    }
                    Answer::Done
                }
            };
        }
        if is_pending {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    /// Makes one list of all.
    fn poll_merge(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let backends = &self.backends;
        let has_models = backends.iter().any(|it| it.models().is_some());
        let grant = self.grant.as_deref();
        let is_listed = |id: &str| grant.is_none_or(|grant| grant.allows_model(id));
        if grant.is_some() && self.first.as_ref().is_some_and(is_success) {
            // It is no list, but may tell of models that aren't the client's.
            self.merged
                .get_or_insert_with(|| Merged::new(grant.is_some()));
        }
        for (backend, answer) in backends.iter().zip(&mut self.answers) {
            let Answer::List(entries) = answer else {
                continue;
            };
            let merged = self
                .merged
                .get_or_insert_with(|| Merged::new(grant.is_some()));
            let ids = |name: &str| {
                let mut ids = alias::ids(name, backend, backends);
                ids.retain(|id| is_listed(id));
                ids
            };
            let is_filtered = has_models || grant.is_some();
            if !merged.append(entries, is_filtered.then_some(&ids)) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            *answer = Answer::Done;
        }
        if let Some(merged) = &mut self.merged {
            for backend in backends {
                let names = backend.models().into_iter().flat_map(ModelMap::names);
                for name in names.filter(|name| is_listed(name)) {
                    merged.add(name, backend.name());
                }
            }
        }
        Poll::Ready(())
    }
}

fn is_success<B>(answer: &Result<Response<B>, Error>) -> bool {
    answer
        .as_ref()
        .is_ok_and(|answer| answer.status().is_success())
}

fn response<B>(list: Bytes) -> Response<ResponseBody<B>> {
    let length = list.len().into();
    let mut response = Response::new(ResponseBody::from(list));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CONTENT_LENGTH, length);
    response
}

/// What came of an attempt, for an observer.
fn result<T, B>(fetched: &Result<T, Box<Unusable<B>>>) -> AttemptResult {
    match fetched {
        Err(unusable) => match &unusable.cause {
            Cause::Failed(error) => AttemptResult::Failed(error.clone()),
            Cause::Status(status) => AttemptResult::Status(*status),
            _ => AttemptResult::Answered,
        },
        Ok(_) => AttemptResult::Answered,
    }
}

impl<F, B> fmt::Debug for ResponseFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
