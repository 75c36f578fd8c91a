//! Follows an exchange to its end.

use std::{
    error::Error as StdError,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Response, StatusCode, request::Parts};
use http_body::{Body, Frame};
use tokio::time::Instant;
use tracing::{Span, span::Entered};

use super::{
    Exchange, Observer, OnEnd, Outcome, TraceContext, UsageMissing,
    record::{Endpoint, Times},
    span,
    tap::{Missing, Seen, Tap},
    trace::{APIM_REQUEST_ID, Ids, X_CLIENT_REQUEST_ID},
};
use crate::{
    backend::Backend,
    body::RequestBody,
    error::{Error, Kind},
    exchange::{AttemptResult, Handle, Observed},
    header::{content_type, is_encoded, is_event_stream, is_json, is_websocket},
    json::ModelReader,
    model::Place,
    timeout::EndsAt,
    tunnel::{Cause, Ended},
};

/// One exchange that is observed, until it ends or is dropped.
pub(super) struct Recorder {
    started: Instant,
    handle: Handle,
    observers: Vec<OnEnd>,
    span: Span,
    endpoint: Endpoint,
    is_post: bool,
    is_stream: bool,
    is_over: bool,
    status: Option<StatusCode>,
    times: Times,
    /// Of a WebSocket.
    sent_bytes: u64,
    response_bytes: u64,
    chunks: u64,
    tap: Tap,
    deadline: Option<Instant>,
    /// In the query of a request for a WebSocket.
    query_model: Option<Box<str>>,
    trace_context: Option<Box<TraceContext>>,
    request_id: Option<Box<str>>,
    backend_request_id: Option<Box<str>>,
}

impl Recorder {
    /// `None` where nobody observes. `whole` is the exchange that this one is a part of, if any.
    pub(super) fn begin(
        observers: &[Arc<Observer>],
        request: &Parts,
        whole: Option<&Handle>,
    ) -> Option<Box<Self>> {
        let observers: Vec<OnEnd> = observers
            .iter()
            .filter_map(|observer| guarded(|| observer(request)).flatten())
            .collect();
        if observers.is_empty() && !span::is_enabled() {
            return None;
        }
        let endpoint = Endpoint::of(request);
        let span = span::open(endpoint);
        if observers.is_empty() && span.is_disabled() {
            return None;
        }
        let observed = Observed {
            reader: has_json(request).then(ModelReader::default),
            client: request.extensions.get().cloned(),
            ..Observed::default()
        };
        let handle = Handle::observed(observed, whole.cloned());
        // Below the route, where each attempt is an exchange.
        if let Some(backend) = request.extensions.get::<Backend>() {
            handle.begin_attempt(backend, &request.extensions);
        }
        let ids = Ids::of(&request.headers, &X_CLIENT_REQUEST_ID);
        Some(Box::new(Self {
            started: Instant::now(),
            handle,
            observers,
            span,
            endpoint,
            is_post: request.method == Method::POST,
            is_stream: false,
            is_over: false,
            status: None,
            times: Times::default(),
            sent_bytes: 0,
            response_bytes: 0,
            chunks: 0,
            tap: Tap::None(Missing::NotApplicable),
            deadline: None,
            query_model: query_model(request),
            trace_context: ids.trace_context.map(Box::new),
            request_id: ids.message,
            backend_request_id: None,
        }))
    }

    /// To be put into the request's body.
    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    pub(super) fn enter(&self) -> Entered<'_> {
        self.span.enter()
    }

    /// The response headers have arrived, or the error that takes their place.
    pub(super) fn head<B: Body>(&mut self, result: &Result<Response<B>, Error>) {
        let now = self.started.elapsed();
        match result {
            Ok(response) => {
                self.times.head = Some(now);
                self.status = Some(response.status());
                self.answered(response);
            }
            Err(error) if is_disconnect(error) => self.end(Outcome::ClientLeft, None, Some(now)),
            Err(error) => {
                self.times.head = Some(now);
                self.status = Some(error.status());
                let outcome = match error.kind() {
                    Kind::Draining => Outcome::Rejected,
                    _ if error.is_client_error() => Outcome::Rejected,
                    _ => Outcome::Failed,
                };
                self.end(outcome, Some(error), Some(now));
            }
        }
    }

    fn answered<B: Body>(&mut self, response: &Response<B>) {
        let headers = response.headers();
        self.deadline = response.extensions().get().map(|EndsAt(at)| *at);
        self.backend_request_id = Ids::of(headers, &APIM_REQUEST_ID).message;
        let content_type = content_type(headers);
        self.is_stream = content_type.is_some_and(is_event_stream);
        self.tap = Tap::of(response, self.is_stream, self.is_post);
        if let Some(mut observed) = self.handle.lock() {
            observed.attempts.end_all(&AttemptResult::Answered);
        }
    }

    /// The result of polling the response body.
    pub(super) fn frame(&mut self, frame: &Option<Result<Frame<Bytes>, Error>>, is_end: bool) {
        let mut now = None;
        match frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref()
                    && !data.is_empty()
                {
                    now = Some(self.chunk(data));
                }
            }
            Some(Err(error)) => self.end(
                match error.kind() {
                    _ if self.tap.is_done() => Outcome::Complete,
                    Kind::BodyTruncated => Outcome::ClientLeft,
                    _ => Outcome::Broken,
                },
                Some(error),
                None,
            ),
            None => {}
        }
        if is_end || frame.is_none() {
            self.complete(now);
        }
    }

    /// Returns when it is forwarded.
    fn chunk(&mut self, data: &Bytes) -> Duration {
        let now = self.started.elapsed();
        if self.chunks > 0 {
            let gap = now.saturating_sub(self.times.last_chunk);
            self.times.longest_gap = self.times.longest_gap.max(gap);
        } else {
            self.times.first_chunk = Some(now);
        }
        self.times.last_chunk = now;
        self.response_bytes += data.len() as u64;
        self.chunks += 1;
        if self.tap.feed(data) {
            self.times.first_token = Some(now);
        }
        now
    }

    /// The whole response has been forwarded.
    pub(super) fn complete(&mut self, now: Option<Duration>) {
        if !self.is_over {
            self.tap.end();
            self.end(Outcome::Complete, None, now);
        }
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
        let observed = self.handle.lock();
        let backend = observed.and_then(|observed| observed.attempts.last().cloned());
        let error = error.map(|error| match backend {
            Some(backend) => error.with_backend(&backend),
            None => error,
        });
        self.end(outcome, error.as_ref(), None);
    }

    /// The end, at this time or now. Only the first one counts.
    fn end(&mut self, outcome: Outcome, error: Option<&Error>, now: Option<Duration>) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        self.times.end = now.unwrap_or_else(|| self.started.elapsed());
        let record = self.record(outcome, error);
        if !self.span.is_disabled() {
            span::close(&self.span, &record);
        }
        let entered = self.span.enter();
        for observer in std::mem::take(&mut self.observers) {
            guarded(|| observer(&record));
        }
        drop(entered);
        self.span = Span::none();
    }

    fn record(&mut self, outcome: Outcome, error: Option<&Error>) -> Exchange {
        let has_error_event = self.tap.has_error();
        let is_done = self.tap.is_done();
        let Seen { usage, names } = self.tap.take();
        let observed = self.handle.lock();
        let mut observed = observed.map(|mut it| std::mem::take(&mut *it));
        let observed = observed.get_or_insert_default();
        observed.attempts.end_all(&match error {
            Some(error) => AttemptResult::Failed(error.clone()),
            None => AttemptResult::ClientLeft,
        });
        let is_cut_off = matches!(outcome, Outcome::ClientLeft | Outcome::Broken);
        let configured_model = observed.configured_model.take();
        let reader = observed.reader.take();
        let own_model = || reader.and_then(ModelReader::into_model).map(Into::into);
        Exchange {
            endpoint: self.endpoint,
            attempts: std::mem::take(&mut observed.attempts),
            status: self.status,
            outcome,
            error: error.filter(|_| outcome != Outcome::Complete).cloned(),
            is_configured_model: configured_model.is_some(),
            request_model: configured_model
                .or(self.query_model.take())
                .or_else(own_model),
            response_model: names.model,
            response_id: names.id,
            client_name: observed.client.take(),
            is_stream: self.is_stream,
            is_done,
            has_error_event,
            usage: usage.map_err(|missing| match missing {
                Missing::Encoded => UsageMissing::Encoded,
                Missing::NotApplicable => UsageMissing::NotApplicable,
                Missing::TooLarge => UsageMissing::TooLarge,
                Missing::NotFound if is_cut_off => UsageMissing::CutOff,
                Missing::NotFound => UsageMissing::NotSent,
            }),
            times: self.times,
            request_bytes: self.handle.received_bytes() + self.sent_bytes,
            response_bytes: self.response_bytes,
            chunks: self.chunks,
            trace_context: self.trace_context.take(),
            request_id: self.request_id.take(),
            backend_request_id: self.backend_request_id.take(),
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let is_late = self.deadline.is_some_and(|at| Instant::now() >= at);
        if self.tap.is_done() {
            self.end(Outcome::Complete, None, None);
        } else if is_late {
            let error = Error::new(Kind::TotalTimeout);
            self.end(Outcome::Broken, Some(&error), None);
        } else {
            self.end(Outcome::ClientLeft, None, None);
        }
    }
}

/// Whether a request's body may be a JSON object with a model.
fn has_json(request: &Parts) -> bool {
    matches!(request.method, Method::POST | Method::PUT | Method::PATCH)
        && content_type(&request.headers).is_none_or(is_json)
        && !is_encoded(&request.headers)
}

fn query_model(request: &Parts) -> Option<Box<str>> {
    if request.method != Method::GET
        || !is_websocket(&request.method, request.version, &request.headers)
    {
        return None;
    }
    let model = Place::Query.model(request, &RequestBody::empty());
    model.ok().flatten().map(Into::into)
}

/// Whether a request failed because its client disconnected, rather than sent what isn't HTTP.
fn is_disconnect(error: &Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<io::Error>()
            && matches!(
                error.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
            )
        {
            return false;
        }
        source = cause.source();
    }
    error.kind() == Kind::BodyTruncated
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
