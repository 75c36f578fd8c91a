//! The line of an exchange as JSON, under OpenTelemetry's names where it has one.

use http::request::Parts;
use tower_openai_proxy::observe::{ACCESS_LOG_TARGET, Exchange, TraceContext, Usage};
use tracing::Level;

use super::json::{self, Line};

/// An observer that logs what [`access_log`](tower_openai_proxy::observe::access_log) does.
pub(crate) fn json_log(_: &Parts) -> Option<impl FnOnce(&Exchange) + Send + use<>> {
    // A closure without a size needs no allocation.
    tracing::enabled!(target: ACCESS_LOG_TARGET, Level::INFO).then_some(|exchange: &Exchange| {
        json::log(&Level::INFO, ACCESS_LOG_TARGET, |line| {
            write(exchange, line)
        });
    })
}

fn write(exchange: &Exchange, line: &mut Line) {
    line.text("message", "exchange");
    if let Some(backend) = exchange.backend() {
        line.text("openai_proxy.backend", backend.name());
        line.text("gen_ai.provider.name", backend.provider());
    }
    if let Some(status) = exchange.status() {
        line.integer("http.response.status_code", status.as_u16());
    }
    if let Some(time) = exchange.time_to_head() {
        line.seconds("openai_proxy.time_to_head", time);
    }
    line.seconds("openai_proxy.duration", exchange.duration());
    line.integer("http.response.body.size", exchange.response_bytes());
    line.text("openai_proxy.outcome", exchange.outcome().as_str());
    line.text("openai_proxy.end", exchange.end());
    if let Some(cause) = exchange.error().and_then(std::error::Error::source) {
        line.text("openai_proxy.cause", &cause.to_string());
    }
    if let Some(error_type) = exchange.error_type() {
        line.text("error.type", error_type);
    }
    line.text("openai_proxy.endpoint", exchange.endpoint());
    if let Some(operation) = exchange.operation() {
        line.text("gen_ai.operation.name", operation);
    }
    let usage = exchange.usage();
    for (name, value) in [
        ("openai_proxy.key", exchange.client_name()),
        ("gen_ai.request.model", exchange.request_model()),
        ("gen_ai.response.model", exchange.response_model()),
    ] {
        if let Some(value) = value.filter(|value| is_plain(value)) {
            line.text(name, value);
        }
    }
    for (name, tokens) in [
        (
            "gen_ai.usage.input_tokens",
            usage.and_then(Usage::input_tokens),
        ),
        (
            "gen_ai.usage.cache_read.input_tokens",
            usage.and_then(Usage::cache_read_tokens),
        ),
        (
            "gen_ai.usage.output_tokens",
            usage.and_then(Usage::output_tokens),
        ),
        (
            "gen_ai.usage.reasoning.output_tokens",
            usage.and_then(Usage::reasoning_tokens),
        ),
    ] {
        if let Some(tokens) = tokens {
            line.integer(name, tokens);
        }
    }
    if let Some(time) = exchange.time_to_first_token() {
        line.seconds("gen_ai.response.time_to_first_chunk", time);
    }
    let attempts = exchange.attempts().len();
    if attempts > 1 {
        line.integer("openai_proxy.attempts", attempts);
    }
    for (name, id) in [
        ("openai_proxy.request_id", exchange.request_id()),
        (
            "openai_proxy.backend_request_id",
            exchange.backend_request_id(),
        ),
        (
            "trace_id",
            exchange.trace_context().map(TraceContext::trace_id),
        ),
    ] {
        if let Some(id) = id {
            line.text(name, id);
        }
    }
}

/// Whether the text log shows it, too: 1 to 128 printable ASCII characters without quotes,
/// backslashes and blanks.
fn is_plain(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    (1..=128).contains(&text.len()) && text.bytes().all(is_plain)
}
