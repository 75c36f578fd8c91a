use std::{
    error::Error as _,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response, StatusCode, response::Parts};
use http_body::Body;
use tokio::time::{Sleep, sleep};

use super::{
    body::{Read, ResponseBody},
    list::Entries,
};
use crate::{
    backend::Backend,
    error::{BoxError, Error, Kind},
    header::is_encoded,
};

/// The largest answer that is read.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// How long a backend may take for its whole answer, beyond the time to connect.
const ANSWER: Duration = Duration::from_secs(5);

/// One backend's answer to `GET /models`, on its way.
pub(super) struct Fetch<F, B> {
    backend: Backend,
    state: State<F, B>,
    limit: Pin<Box<Sleep>>,
}

enum State<F, B> {
    Head(Pin<Box<F>>),
    Body(Box<Reading<B>>),
    Done,
}

/// An answer whose body is being read.
struct Reading<B> {
    head: Parts,
    read: BytesMut,
    trailers: Option<HeaderMap>,
    /// `None` at its end.
    rest: Option<Pin<Box<B>>>,
}

/// An answer that isn't a list.
pub(super) struct Unusable<B> {
    pub(super) cause: Cause,
    /// As it came.
    pub(super) answer: Result<Response<ResponseBody<B>>, Error>,
}

/// Why an answer isn't a list.
pub(super) enum Cause {
    Failed(Error),
    Status(StatusCode),
    Encoded,
    TooLarge,
    NotAList,
}

impl<F, B> Fetch<F, B> {
    pub(super) fn new(backend: Backend, response: F) -> Self {
        Self {
            state: State::Head(Box::pin(response)),
            limit: Box::pin(sleep(backend.timeouts().connect + ANSWER)),
            backend,
        }
    }

    pub(super) fn backend(&self) -> &Backend {
        &self.backend
    }
}

impl<F, B> Fetch<F, B>
where
    F: Future<Output = Result<Response<B>, Error>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// The list's entries.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Entries, Box<Unusable<B>>>> {
        if let Poll::Ready(result) = self.poll_list(cx) {
            return Poll::Ready(result);
        }
        ready!(self.limit.as_mut().poll(cx));
        if matches!(self.state, State::Head(_)) {
            self.backend.record_failure(None);
        }
        let error = Error::new(Kind::ResponseTimeout).with_backend(&self.backend);
        Poll::Ready(Err(error.into()))
    }

    fn poll_list(&mut self, cx: &mut Context<'_>) -> Poll<Result<Entries, Box<Unusable<B>>>> {
        loop {
            self.state = match std::mem::replace(&mut self.state, State::Done) {
                State::Head(mut response) => {
                    let Poll::Ready(response) = response.as_mut().poll(cx) else {
                        self.state = State::Head(response);
                        return Poll::Pending;
                    };
                    let response = response?;
                    let cause = rejection(&response);
                    let reading = Reading::new(response);
                    match cause {
                        Some(cause) => return Poll::Ready(Err(reading.unusable(cause))),
                        None => State::Body(Box::new(reading)),
                    }
                }
                State::Body(mut reading) => {
                    let Poll::Ready(read) = reading.poll_read(cx) else {
                        self.state = State::Body(reading);
                        return Poll::Pending;
                    };
                    read.map_err(|error| error.with_backend(&self.backend))?;
                    return Poll::Ready(reading.into_list());
                }
                State::Done => panic!("polled after the end"),
            };
        }
    }
}

/// Why an answer can't be a list, as far as its head tells.
fn rejection<B: Body>(response: &Response<B>) -> Option<Cause> {
    if response.status() != StatusCode::OK {
        Some(Cause::Status(response.status()))
    } else if is_encoded(response.headers()) {
        Some(Cause::Encoded)
    } else {
        let is_too_large = response.body().size_hint().lower() > MAX_BYTES;
        is_too_large.then_some(Cause::TooLarge)
    }
}

impl<B> Reading<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    fn new(response: Response<B>) -> Self {
        let (head, body) = response.into_parts();
        Self {
            head,
            read: BytesMut::new(),
            trailers: None,
            rest: Some(Box::pin(body)),
        }
    }

    /// Reads the body to its end, or until it is too large.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !self.is_too_large()
            && let Some(body) = &mut self.rest
        {
            match ready!(body.as_mut().poll_frame(cx)).transpose() {
                Ok(None) => self.rest = None,
                Ok(Some(frame)) => match frame.into_data() {
                    Ok(data) => self.read.extend_from_slice(&data),
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                Err(error) => return Poll::Ready(Err(Error::from_service(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn is_too_large(&self) -> bool {
        self.read.len() as u64 > MAX_BYTES
    }

    fn into_list(mut self) -> Result<Entries, Box<Unusable<B>>> {
        if self.is_too_large() {
            return Err(self.unusable(Cause::TooLarge));
        }
        let answer = self.read.split().freeze();
        Entries::of(&answer).ok_or_else(|| {
            self.read = answer.into();
            self.unusable(Cause::NotAList)
        })
    }

    fn unusable(self, cause: Cause) -> Box<Unusable<B>> {
        let body = ResponseBody::read(Read {
            bytes: self.read.freeze(),
            trailers: self.trailers,
            rest: self.rest,
        });
        Box::new(Unusable {
            cause,
            answer: Ok(Response::from_parts(self.head, body)),
        })
    }
}

impl<B> From<Error> for Box<Unusable<B>> {
    fn from(error: Error) -> Self {
        Box::new(Unusable {
            cause: Cause::Failed(error.clone()),
            answer: Err(error),
        })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => match error.source() {
                Some(source) => write!(f, "{}: {source}", error.code()),
                None => f.write_str(error.code()),
            },
            Self::Status(status) => write!(f, "status {}", status.as_u16()),
            Self::Encoded => f.write_str("its answer has a `Content-Encoding`"),
            Self::TooLarge => f.write_str("its answer is larger than 4 MiB"),
            Self::NotAList => f.write_str("its answer is not a list of models"),
        }
    }
}
