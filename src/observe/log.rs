//! The access log: one event per exchange.

use http::request::Parts;
use tracing::{Level, field};

use super::{Exchange, Outcome, TraceContext, Usage, record::millis, trace::is_plain};
use crate::{
    backend::Backend,
    error::{Error, Kind},
};

/// The target of the event that [`access_log`] emits for each exchange.
pub const ACCESS_LOG_TARGET: &str = "tower_openai_proxy::access";

/// An observer that emits one event per exchange, `exchange`, at level `INFO`.
///
/// | field | |
/// | --- | --- |
/// | `backend` | the name of the backend that the request was sent to last |
/// | `status` | of the response; absent if the client disconnected before it |
/// | `head_ms` | milliseconds from the request's headers to the response's |
/// | `total_ms` | milliseconds from the request's headers to the end |
/// | `bytes` | of the response body, or of what the backend sent on a WebSocket |
/// | `end` | [`Exchange::end`] |
/// | `cause` | the underlying error, if any |
/// | `endpoint` | [`Exchange::endpoint`], but for `/chat/completions` |
/// | `key` | [`Exchange::client_name`] |
/// | `model` | [`Exchange::request_model`] |
/// | `response_model` | [`Exchange::response_model`] |
/// | `input`, `cached`, `output`, `reasoning` | tokens: [`Usage::input_tokens`], and of those [`Usage::cache_read_tokens`]; [`Usage::output_tokens`], and of those [`Usage::reasoning_tokens`] |
/// | `first_ms` | milliseconds from the request's headers to the first token of a stream |
/// | `attempts` | to how many backends the request was sent, if more than one |
/// | `request_id`, `backend_request_id` | [`Exchange::request_id`], [`Exchange::backend_request_id`] |
/// | `trace_id` | [`TraceContext::trace_id`] of the request's `traceparent` |
///
/// A field whose value isn't known is absent, and so is one from a message that isn't 1 to 128
/// printable ASCII characters without quotes, backslashes and blanks.
///
/// ```
/// use tower_openai_proxy::{Config, OpenAiProxyLayer, observe::access_log};
///
/// let layer = OpenAiProxyLayer::builder(Config::default()).observer(access_log).build();
/// ```
pub fn access_log(_: &Parts) -> Option<impl FnOnce(&Exchange) + Send + use<>> {
    // A closure without a size needs no allocation.
    tracing::enabled!(target: ACCESS_LOG_TARGET, Level::INFO)
        .then_some(|exchange: &Exchange| log(exchange))
}

fn log(exchange: &Exchange) {
    let cause = exchange.error().and_then(std::error::Error::source);
    let endpoint = Some(exchange.endpoint()).filter(|it| *it != "/chat/completions");
    let plain = |value: &&str| is_plain(value);
    let usage = exchange.usage();
    let attempts = Some(exchange.attempts().len()).filter(|count| *count > 1);
    tracing::info!(
        target: ACCESS_LOG_TARGET,
        backend = exchange.backend().map(Backend::name),
        status = exchange.status().map(|status| status.as_u16()),
        head_ms = exchange.time_to_head().map(millis),
        total_ms = millis(exchange.duration()),
        bytes = exchange.response_bytes(),
        end = exchange.end(),
        cause = cause.map(field::display),
        endpoint,
        key = exchange.client_name().filter(plain),
        model = exchange.request_model().filter(plain),
        response_model = exchange.response_model().filter(plain),
        input = usage.and_then(Usage::input_tokens),
        cached = usage.and_then(Usage::cache_read_tokens),
        output = usage.and_then(Usage::output_tokens),
        reasoning = usage.and_then(Usage::reasoning_tokens),
        first_ms = exchange.time_to_first_token().map(millis),
        attempts,
        request_id = exchange.request_id(),
        backend_request_id = exchange.backend_request_id(),
        trace_id = exchange.trace_context().map(TraceContext::trace_id),
        "exchange"
    );
}

impl Exchange {
    /// How it ended, in words: `complete`, `client left`, or what went wrong, such as `idle_timeout`. The
    /// access log shows it as `end`.
    pub fn end(&self) -> &str {
        match (self.outcome(), self.error()) {
            (_, Some(error)) => reason(error),
            (Outcome::ClientLeft, None) => "client left",
            (_, None) => "complete",
        }
    }
}

/// What went wrong, in a word or two.
fn reason(error: &Error) -> &str {
    match error.kind() {
        Kind::BodyIdle => "client idle_timeout",
        Kind::BodyTruncated => "client broke off",
        Kind::ConnectTimeout => "connect_timeout",
        Kind::ResponseTimeout => "timeout",
        Kind::TotalTimeout => "total_timeout",
        Kind::BackendIdle => "idle_timeout",
        Kind::TunnelIdle => "tunnel_idle_timeout",
        Kind::Truncated => "backend broke off",
        _ => error.code(),
    }
}
