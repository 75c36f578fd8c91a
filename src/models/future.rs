use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body::Body;
use pin_project_lite::pin_project;

use super::{
    alias,
    body::ResponseBody,
    fetch::{Fetch, Unusable},
    list::Merged,
};
use crate::{
    backend::Backend,
    error::{BoxError, Error},
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
        Merging { merging: Merging<F, B> },
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
    is_head: bool,
}

enum Answer<F, B> {
    Pending(Fetch<F, B>),
    List(Bytes),
    LeftOut,
}

impl<F, B> ResponseFuture<F, B> {
    pub(super) fn forwarded(response: F) -> Self {
        Self {
            state: State::Forwarded { response },
        }
    }

    /// At least one response.
    pub(super) fn merging(responses: impl Iterator<Item = (Backend, F)>, is_head: bool) -> Self {
        let pending = |(backend, response): (Backend, F)| {
            let answer = Answer::Pending(Fetch::new(backend.clone(), response));
            (backend, answer)
        };
        let (backends, answers) = responses.map(pending).unzip();
        let merging = Merging {
            backends,
            answers,
            first: None,
            is_head,
        };
        Self {
            state: State::Merging { merging },
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
        let mut is_pending = false;
        for (index, answer) in self.answers.iter_mut().enumerate() {
            let Answer::Pending(fetch) = answer else {
                continue;
            };
            *answer = match fetch.poll(cx) {
                Poll::Pending => {
                    is_pending = true;
                    continue;
                }
                Poll::Ready(Ok(list)) => Answer::List(list),
                Poll::Ready(Err(unusable)) => {
                    let Unusable { cause, answer } = *unusable;
                    let backend = fetch.backend().name();
                    tracing::warn!(backend, %cause, "left out of the list of models");
                    if index == 0 {
                        self.first = Some(answer);
                    }
                    Answer::LeftOut
                }
            };
        }
        if is_pending {
            return Poll::Pending;
        }
        let response = match self.merge() {
            Some(list) => Ok(list),
            None => self.first.take().expect("not polled after the end"),
        };
        Poll::Ready(response.map(|response| {
            if self.is_head {
                response.map(|_| Bytes::new().into())
            } else {
                response
            }
        }))
    }

    /// One list of all; `None` where there is none.
    fn merge(&self) -> Option<Response<ResponseBody<B>>> {
        let lists = self.backends.iter().zip(&self.answers);
        let mut merged = None;
        let has_models = self.backends.iter().any(|it| it.models().is_some());
        for (backend, answer) in lists {
            let Answer::List(list) = answer else {
                continue;
            };
            let merged = merged.get_or_insert_with(Merged::new);
            if has_models {
                merged.append(
                    list,
                    Some(&|name| alias::ids(name, backend, &self.backends)),
                );
            } else {
                merged.append(list, None);
            }
        }
        let mut merged = merged?;
        for backend in &self.backends {
            for name in backend.models().into_iter().flat_map(ModelMap::names) {
                merged.add(name, backend.name());
            }
        }
        let list = merged.finish();
        let length = list.len().into();
        let mut response = Response::new(ResponseBody::from(list));
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(header::CONTENT_LENGTH, length);
        Some(response)
    }
}

impl<F, B> fmt::Debug for ResponseFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
