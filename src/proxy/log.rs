//! What a log learns of an exchange: one event at its end, and at `debug` a span around it.
//!
//! Neither ever holds a key, a body or a query. Where nobody listens, nothing is recorded.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body::Frame;
use tokio::time::Instant;
use tracing::{
    Level, Span,
    field::{self, Empty},
    span::Entered,
};

use crate::{
    backend::Backend,
    error::{Error, Kind},
    exchange,
};

/// One exchange, until it is logged: when it ends, or when it is dropped.
pub(super) struct ExchangeLog {
    started: Instant,
    head: Option<Duration>,
    exchange: exchange::Handle,
    status: Option<StatusCode>,
    bytes: u64,
    is_logged: bool,
    span: Span,
}

impl ExchangeLog {
    /// None where nothing would come of it.
    pub(super) fn start() -> Option<Box<Self>> {
        if !tracing::enabled!(Level::INFO) {
            return None;
        }
        // The names of OpenTelemetry's semantic conventions for generative AI.
        let span = tracing::debug_span!(
            "chat",
            gen_ai.operation.name = "chat",
            gen_ai.provider.name = "openai",
            gen_ai.request.model = Empty,
            gen_ai.request.stream = Empty,
            gen_ai.response.time_to_first_chunk = Empty,
            server.address = Empty,
            server.port = Empty,
            http.response.status_code = Empty,
            error.type = Empty,
        );
        Some(Box::new(Self {
            started: Instant::now(),
            head: None,
            exchange: exchange::Handle::observed(),
            status: None,
            bytes: 0,
            is_logged: false,
            span,
        }))
    }

    /// To be put into the request's body.
    pub(super) fn exchange(&self) -> exchange::Handle {
        self.exchange.clone()
    }

    fn backend(&self) -> Option<Backend> {
        self.exchange.attempts()?.last().cloned()
    }

    pub(super) fn enter(&self) -> Entered<'_> {
        self.span.enter()
    }

    /// The response's head has come, or the error that takes its place.
    pub(super) fn head<B>(&mut self, result: &Result<Response<B>, Error>) {
        self.head = Some(self.started.elapsed());
        self.status = Some(match result {
            Ok(response) => response.status(),
            Err(error) => error.status(),
        });
        if !self.span.is_disabled() {
            self.record(result.as_ref().ok());
        }
        if let Err(error) = result {
            self.failed(error);
        }
    }

    fn record<B>(&self, response: Option<&Response<B>>) {
        let status = self.status.map(|status| status.as_u16());
        self.span.record("http.response.status_code", status);
        if let Some(backend) = self.backend() {
            let origin = backend.origin();
            if let Some(model) = backend.model() {
                self.span.record("gen_ai.request.model", model);
            }
            self.span.record("server.address", origin.uri().host());
            self.span.record("server.port", origin.port());
        }
        if let Some(response) = response {
            let content_type = response.headers().get(header::CONTENT_TYPE);
            let is_stream =
                content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
            self.span.record("gen_ai.request.stream", is_stream);
        }
    }

    /// A piece of the response's body, or how it ended.
    pub(super) fn frame(&mut self, frame: &Option<Result<Frame<Bytes>, Error>>, is_end: bool) {
        match frame {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                if self.bytes == 0 && length > 0 && !self.span.is_disabled() {
                    let time = self.started.elapsed().as_secs_f64();
                    self.span
                        .record("gen_ai.response.time_to_first_chunk", time);
                }
                self.bytes += length;
            }
            Some(Err(error)) => self.failed(error),
            None => {}
        }
        if is_end || frame.is_none() {
            self.complete();
        }
    }

    pub(super) fn complete(&mut self) {
        self.end("complete", None);
    }

    fn failed(&mut self, error: &Error) {
        self.span.record("error.type", error.code());
        self.end(outcome(error), Some(error));
    }

    fn end(&mut self, end: &str, error: Option<&Error>) {
        if std::mem::replace(&mut self.is_logged, true) {
            return;
        }
        let _entered = self.span.enter();
        let millis = |period: Duration| period.as_secs_f64() * 1e3;
        let cause = error.and_then(std::error::Error::source);
        let backend = self.backend();
        tracing::info!(
            backend = backend.as_ref().map(Backend::name),
            status = self.status.map(|status| status.as_u16()),
            head_ms = self.head.map(millis),
            total_ms = millis(self.started.elapsed()),
            bytes = self.bytes,
            end,
            cause = cause.map(field::display),
            "exchange"
        );
    }
}

impl Drop for ExchangeLog {
    fn drop(&mut self) {
        self.end("client left", None);
    }
}

/// How an exchange ended, in a word or two.
fn outcome(error: &Error) -> &str {
    match error.kind() {
        Kind::BodyIdle => "client idle_timeout",
        Kind::BodyTruncated => "client broke off",
        Kind::ConnectTimeout => "connect_timeout",
        Kind::ResponseTimeout => "timeout",
        Kind::TotalTimeout => "total_timeout",
        Kind::BackendIdle => "idle_timeout",
        Kind::Truncated => "backend broke off",
        _ => error.code(),
    }
}
