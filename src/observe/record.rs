//! The record of an exchange.

use std::{fmt, time::Duration};

use http::{Method, StatusCode, request::Parts};

use super::{TraceContext, Usage};
use crate::{
    backend::Backend,
    client::ClientName,
    endpoint::Matched,
    error::Error,
    exchange::{Attempt, Attempts},
};

/// The record of an exchange, which an observer gets at its end.
///
/// Its `Debug` contains no key, body, query, URL or address.
#[non_exhaustive]
pub struct Exchange {
    pub(super) endpoint: Endpoint,
    pub(super) attempts: Attempts,
    pub(super) status: Option<StatusCode>,
    pub(super) outcome: Outcome,
    pub(super) error: Option<Error>,
    pub(super) request_model: Option<Box<str>>,
    pub(super) is_configured_model: bool,
    pub(super) response_model: Option<Box<str>>,
    pub(super) response_id: Option<Box<str>>,
    pub(super) client_name: Option<ClientName>,
    pub(super) is_stream: bool,
    pub(super) is_done: bool,
    pub(super) has_error_event: bool,
    pub(super) usage: Result<Usage, UsageMissing>,
    pub(super) times: Times,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    pub(super) chunks: u64,
    pub(super) trace_context: Option<Box<TraceContext>>,
    pub(super) request_id: Option<Box<str>>,
    pub(super) backend_request_id: Option<Box<str>>,
}

/// When things happened, from the request's headers on.
#[derive(Clone, Copy, Default)]
pub(super) struct Times {
    pub(super) head: Option<Duration>,
    pub(super) first_chunk: Option<Duration>,
    pub(super) first_token: Option<Duration>,
    pub(super) last_chunk: Duration,
    pub(super) longest_gap: Duration,
    pub(super) end: Duration,
}

pub(super) fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
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

/// Why an answer's usage isn't known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UsageMissing {
    /// The answer has a `Content-Encoding`.
    Encoded,
    /// The answer is neither `application/json` nor `text/event-stream`.
    NotApplicable,
    /// The usage is larger than 4,096 bytes.
    TooLarge,
    /// The answer ended before it: the client disconnected, or the response was truncated.
    CutOff,
    /// The answer has none. Streams of chat completions have one only if the request has
    /// `"stream_options":{"include_usage":true}`.
    NotSent,
}

impl UsageMissing {
    /// Its name: `encoded`, `not_applicable`, `too_large`, `cut_off`, `not_sent`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Encoded => "encoded",
            Self::NotApplicable => "not_applicable",
            Self::TooLarge => "too_large",
            Self::CutOff => "cut_off",
            Self::NotSent => "not_sent",
        }
    }
}

impl Exchange {
    /// The path below the prefix, if it is `/chat/completions`, `/completions`, `/responses`,
    /// `/embeddings`, `/moderations`, `/models` or `/realtime`; `/images/*`, `/audio/*`, `/files/*` or
    /// `/batches/*` for such a path and what is below it; `other` for any other.
    pub fn endpoint(&self) -> &'static str {
        self.endpoint.path
    }

    /// The operation by OpenTelemetry's conventions for generative AI: `chat`, `text_completion` or
    /// `embeddings`.
    pub fn operation(&self) -> Option<&'static str> {
        self.endpoint.operation
    }

    /// The backend that the request was sent to last, if any.
    pub fn backend(&self) -> Option<&Backend> {
        self.attempts.last()
    }

    /// The backends that the request was sent to, in order, and what came of it.
    pub fn attempts(&self) -> &[Attempt] {
        self.attempts.as_slice()
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

    /// What went wrong, in a word:
    ///
    /// | outcome | |
    /// | --- | --- |
    /// | [`Complete`](Outcome::Complete) | the status, such as `429`, if it is 400 or more; `stream_error` if the stream has an error event; else `None` |
    /// | [`ClientLeft`](Outcome::ClientLeft) | `client_left` |
    /// | any other | the [type of RFC 9209](Error::proxy_status), such as `connection_refused` |
    pub fn error_type(&self) -> Option<&str> {
        match (self.outcome, &self.error) {
            (Outcome::ClientLeft, _) => Some("client_left"),
            (Outcome::Complete, _) => {
                let is_error = |status: &&StatusCode| status.as_u16() >= 400;
                let status = self.status.as_ref().filter(is_error);
                let event = self.has_error_event.then_some("stream_error");
                status.map(StatusCode::as_str).or(event)
            }
            (_, error) => error.as_ref().map(Error::proxy_status),
        }
    }

    /// The model that the backend was sent: the configured one, else that of the request. Of a name
    /// that is longer than 256 bytes, the beginning.
    pub fn request_model(&self) -> Option<&str> {
        self.request_model.as_deref()
    }

    /// Whether [`request_model`](Self::request_model) comes from the configuration. Any other is the
    /// client's to choose.
    pub fn is_configured_model(&self) -> bool {
        self.is_configured_model
    }

    /// The first `model` in the answer's first 4,096 bytes.
    pub fn response_model(&self) -> Option<&str> {
        self.response_model.as_deref()
    }

    /// The first `id` in the answer's first 4,096 bytes.
    pub fn response_id(&self) -> Option<&str> {
        self.response_id.as_deref()
    }

    /// The [`ClientName`] in the request's extensions, if any.
    pub fn client_name(&self) -> Option<&str> {
        self.client_name.as_ref().map(ClientName::as_str)
    }

    /// Whether the response is an event stream.
    pub fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// Whether the stream has ended with `data: [DONE]`.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// What the answer to a POST says it used, if its status is 2xx: the last usage object in it that
    /// was forwarded whole.
    ///
    /// Of a body that isn't a stream, the first and the last 64 KiB are searched.
    pub fn usage(&self) -> Option<&Usage> {
        self.usage.as_ref().ok()
    }

    /// Why [`usage`](Self::usage) is `None`, if the exchange has an [`operation`](Self::operation)
    /// and a 2xx status.
    pub fn usage_missing(&self) -> Option<UsageMissing> {
        let is_expected =
            self.endpoint.operation.is_some() && self.status.is_some_and(|it| it.is_success());
        self.usage.as_ref().err().copied().filter(|_| is_expected)
    }

    /// The time from the request's headers to the response's; `None` without a response.
    pub fn time_to_head(&self) -> Option<Duration> {
        self.times.head
    }

    /// The time from the request's headers to the first token of a stream: to the chunk with the
    /// first character of a string that isn't empty under `content`, `reasoning_content`,
    /// `reasoning`, `refusal`, `text`, `delta`, `transcript`, `data` or `arguments`, or with the first
    /// of the `tool_calls`.
    pub fn time_to_first_token(&self) -> Option<Duration> {
        self.times.first_token
    }

    /// The time from the first token of a [complete](Outcome::Complete) stream to its last chunk,
    /// for each output token but the first; `None` if their number isn't known, or is less than 2.
    pub fn time_per_output_token(&self) -> Option<Duration> {
        let first = self.times.first_token?;
        let others = self.usage()?.output_tokens()?.checked_sub(1)?;
        if self.outcome != Outcome::Complete || others == 0 {
            return None;
        }
        let nanos = self.times.last_chunk.saturating_sub(first).as_nanos() / u128::from(others);
        Some(Duration::from_nanos(nanos.try_into().unwrap_or(u64::MAX)))
    }

    /// The longest time between two chunks of the response body; `None` if there were fewer.
    pub fn longest_gap(&self) -> Option<Duration> {
        let is_tunnel = self.status == Some(StatusCode::SWITCHING_PROTOCOLS);
        (self.chunks > 1 && !is_tunnel).then_some(self.times.longest_gap)
    }

    /// The time from the request's headers to the end.
    pub fn duration(&self) -> Duration {
        self.times.end
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

    /// The request's `traceparent`, if it has exactly one, and that is well-formed.
    pub fn trace_context(&self) -> Option<&TraceContext> {
        self.trace_context.as_deref()
    }

    /// The request's `x-request-id`, else its `x-client-request-id`: 1 to 128 printable ASCII
    /// characters without quotes, backslashes and blanks.
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }

    /// The response's `x-request-id`, else its `apim-request-id`, of the same form.
    pub fn backend_request_id(&self) -> Option<&str> {
        self.backend_request_id.as_deref()
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("endpoint", &self.endpoint())
            .field("attempts", &self.attempts())
            .field("status", &self.status)
            .field("outcome", &self.outcome)
            .field("error_type", &self.error_type())
            .field("usage", &self.usage)
            .field("time_to_head", &self.time_to_head())
            .field("time_to_first_token", &self.time_to_first_token())
            .field("duration", &self.duration())
            .field("request_bytes", &self.request_bytes)
            .field("response_bytes", &self.response_bytes)
            .field("response_chunks", &self.chunks)
            .finish_non_exhaustive()
    }
}

/// Which part of the API a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) path: &'static str,
    pub(super) operation: Option<&'static str>,
}

/// Paths that are told apart, the usual ones first.
const PATHS: [&str; 7] = [
    "/chat/completions",
    "/responses",
    "/embeddings",
    "/completions",
    "/models",
    "/moderations",
    "/realtime",
];

/// The same for those that include what is below them.
const TREES: [&str; 4] = ["/audio/*", "/images/*", "/files/*", "/batches/*"];

impl Endpoint {
    pub(super) fn of(request: &Parts) -> Self {
        let path = Matched::of(&request.extensions, &request.uri)
            .map_or("", |matched| matched.path(&request.uri));
        let is_path = |it: &&&str| **it == path;
        let is_tree = |it: &&&str| {
            let root = it.strip_suffix("/*").unwrap_or(it);
            let below = path.strip_prefix(root);
            below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let in_tree = || TREES.iter().find(is_tree);
        let known = PATHS.iter().find(is_path).or_else(in_tree);
        let path = known.copied().unwrap_or("other");
        let operation = match path {
            _ if request.method != Method::POST => None,
            "/chat/completions" | "/responses" => Some("chat"),
            "/completions" => Some("text_completion"),
            "/embeddings" => Some("embeddings"),
            _ => None,
        };
        Self { path, operation }
    }
}
