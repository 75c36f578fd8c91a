use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Response, StatusCode, header, request::Parts};
use http_body::Frame;
use tokio::time::Instant;
use tracing::{Span, span::Entered};

use super::{Observer, OnEnd, done::DoneEvent, span};
use crate::{
    backend::Backend,
    error::{Error, Kind},
    exchange,
    timeout::EndsAt,
    tunnel::{Cause, Ended},
};

/// The record of an exchange, which an observer gets at its end.
///
/// It contains no key, body, query, URL or address.
#[derive(Debug)]
#[non_exhaustive]
pub struct Exchange {
    attempts: Vec<Backend>,
    status: Option<StatusCode>,
    outcome: Outcome,
    error: Option<Error>,
    time_to_head: Option<Duration>,
    duration: Duration,
    request_bytes: u64,
    response_bytes: u64,
    chunks: u64,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The whole response was forwarded; or, of an event stream, `data: [DONE]`, whatever client and
    /// backend did after it. Of a WebSocket: both sides have ended it, in whichever order.
    Complete,
    /// The client disconnected before that, or reset its WebSocket.
    ClientLeft,
    /// The response was truncated, or the WebSocket ended, after the headers: by the backend, or by a
    /// timeout.
    Broken,
    /// The proxy answered with a 5xx status in place of a backend's response.
    Failed,
    /// The proxy rejected the request: with a 4xx status, or because it is draining.
    Rejected,
}

impl Outcome {
    /// Its name: `complete`, `client_left`, `broken`, `failed`, `rejected`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientLeft => "client_left",
            Self::Broken => "broken",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
        }
    }
}

impl Exchange {
    /// The backend that the request was sent to last, if any.
    pub fn backend(&self) -> Option<&Backend> {
        self.attempts.last()
    }

    /// The backends that the request was sent to, in order.
    pub fn attempts(&self) -> &[Backend] {
        &self.attempts
    }

    /// The status of the response; `None` if the client disconnected before its headers.
    pub fn status(&self) -> Option<StatusCode> {
        self.status
    }

    /// How it ended.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Why it ended so, if it was [broken](Outcome::Broken), [failed](Outcome::Failed) or
    /// [rejected](Outcome::Rejected).
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// The time from the request's headers to the response's; `None` without a response.
    pub fn time_to_head(&self) -> Option<Duration> {
        self.time_to_head
    }

    /// The time from the request's headers to the end.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// How many bytes of the request body were received. Of a WebSocket: how many the client sent
    /// that were forwarded.
    pub fn request_bytes(&self) -> u64 {
        self.request_bytes
    }

    /// How many bytes of the response body were forwarded. Of a WebSocket: of what the backend sent.
    pub fn response_bytes(&self) -> u64 {
        self.response_bytes
    }

    /// In how many chunks they were forwarded.
    pub fn response_chunks(&self) -> u64 {
        self.chunks
    }
}

/// One exchange that is observed, until it ends or is dropped.
pub(super) struct Recorder {
    started: Instant,
    handle: exchange::Handle,
    observers: Vec<OnEnd>,
    span: Span,
    is_post: bool,
    status: Option<StatusCode>,
    time_to_head: Option<Duration>,
    /// Of a WebSocket.
    sent_bytes: u64,
    response_bytes: u64,
    chunks: u64,
    done: Option<DoneEvent>,
    deadline: Option<Instant>,
    is_over: bool,
}

impl Recorder {
    /// `None` where nobody observes.
    pub(super) fn begin(observers: &[Arc<Observer>], request: &Parts) -> Option<Box<Self>> {
        let observers: Vec<OnEnd> = observers
            .iter()
            .filter_map(|observer| guarded(|| observer(request)).flatten())
            .collect();
        let span = span::open();
        if observers.is_empty() && span.is_disabled() {
            return None;
        }
        Some(Box::new(Self {
            started: Instant::now(),
            handle: exchange::Handle::observed(),
            observers,
            span,
            is_post: request.method == Method::POST,
            status: None,
            time_to_head: None,
            sent_bytes: 0,
            response_bytes: 0,
            chunks: 0,
            done: None,
            deadline: None,
            is_over: false,
        }))
    }

    /// To be put into the request's body.
    pub(super) fn handle(&self) -> exchange::Handle {
        self.handle.clone()
    }

    pub(super) fn enter(&self) -> Entered<'_> {
        self.span.enter()
    }

    /// The response headers have arrived, or the error that takes their place.
    pub(super) fn head<B>(&mut self, result: &Result<Response<B>, Error>) {
        self.time_to_head = Some(self.started.elapsed());
        self.status = Some(match result {
            Ok(response) => response.status(),
            Err(error) => error.status(),
        });
        if let Ok(response) = result {
            self.deadline = response.extensions().get().map(|EndsAt(at)| *at);
            self.done = (self.is_post && is_event_stream(response)).then(DoneEvent::default);
        }
        if !self.span.is_disabled() {
            let backend = self.handle.attempts().and_then(|all| all.last().cloned());
            span::record_head(&self.span, result.as_ref().ok(), self.status, backend);
        }
        if let Err(error) = result {
            let outcome = match error.kind() {
                Kind::Draining => Outcome::Rejected,
                _ if error.is_client_error() => Outcome::Rejected,
                _ => Outcome::Failed,
            };
            self.end(outcome, Some(error));
        }
    }

    /// The result of polling the response body.
    pub(super) fn frame(&mut self, frame: &Option<Result<Frame<Bytes>, Error>>, is_end: bool) {
        match frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref()
                    && !data.is_empty()
                {
                    if self.chunks == 0 && !self.span.is_disabled() {
                        span::record_first_chunk(&self.span, self.started.elapsed());
                    }
                    self.response_bytes += data.len() as u64;
                    self.chunks += 1;
                    if let Some(done) = &mut self.done {
                        done.scan(data);
                    }
                }
            }
            Some(Err(error)) => self.end(
                match error.kind() {
                    _ if self.is_done() => Outcome::Complete,
                    Kind::BodyTruncated => Outcome::ClientLeft,
                    _ => Outcome::Broken,
                },
                Some(error),
            ),
            None => {}
        }
        if is_end || frame.is_none() {
            self.end(Outcome::Complete, None);
        }
    }

    pub(super) fn complete(&mut self) {
        self.end(Outcome::Complete, None);
    }

    /// The tunnel behind a 101 has ended.
    pub(super) fn tunnel(&mut self, ended: &Ended) {
        self.sent_bytes = ended.request_bytes;
        self.response_bytes = ended.response_bytes;
        self.chunks = ended.response_chunks;
        let broken = |kind| (Outcome::Broken, Some(Error::new(kind)));
        let (outcome, error) = match ended.cause {
            Cause::Closed => (Outcome::Complete, None),
            Cause::ClientReset => (Outcome::ClientLeft, None),
            Cause::BackendReset => broken(Kind::Truncated),
            Cause::Idle => broken(Kind::TunnelIdle),
            Cause::Deadline => broken(Kind::TotalTimeout),
        };
        let backend = self.handle.attempts().and_then(|all| all.last().cloned());
        let error = error.map(|error| match backend {
            Some(backend) => error.with_backend(&backend),
            None => error,
        });
        self.end(outcome, error.as_ref());
    }

    /// Whether `data: [DONE]` was forwarded.
    fn is_done(&self) -> bool {
        self.done.as_ref().is_some_and(DoneEvent::was_seen)
    }

    fn end(&mut self, outcome: Outcome, error: Option<&Error>) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let attempts = self
            .handle
            .attempts()
            .map(|mut all| std::mem::take(&mut *all));
        let record = Exchange {
            attempts: attempts.unwrap_or_default(),
            status: self.status,
            outcome,
            error: error.filter(|_| outcome != Outcome::Complete).cloned(),
            time_to_head: self.time_to_head,
            duration: self.started.elapsed(),
            request_bytes: self.handle.received_bytes() + self.sent_bytes,
            response_bytes: self.response_bytes,
            chunks: self.chunks,
        };
        if let Some(error) = &record.error {
            self.span.record("error.type", error.code());
        }
        let _entered = self.span.enter();
        for observer in std::mem::take(&mut self.observers) {
            guarded(|| observer(&record));
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let is_late = self.deadline.is_some_and(|at| Instant::now() >= at);
        if self.is_done() {
            self.end(Outcome::Complete, None);
        } else if is_late {
            self.end(Outcome::Broken, Some(&Error::new(Kind::TotalTimeout)));
        } else {
            self.end(Outcome::ClientLeft, None);
        }
    }
}

fn is_event_stream<B>(response: &Response<B>) -> bool {
    let headers = response.headers();
    let content_type = headers.get(header::CONTENT_TYPE);
    response.status().is_success()
        && !headers.contains_key(header::CONTENT_ENCODING)
        && content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// Calls an observer. A panic in it is logged the first time.
fn guarded<T>(call: impl FnOnce() -> T) -> Option<T> {
    static HAS_PANICKED: AtomicBool = AtomicBool::new(false);

    let result = catch_unwind(AssertUnwindSafe(call)).ok();
    if result.is_none() && !HAS_PANICKED.swap(true, Ordering::Relaxed) {
        tracing::error!("an observer has panicked; further panics are not logged");
    }
    result
}
