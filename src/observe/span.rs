//! The span of an exchange, with the names of OpenTelemetry's semantic conventions for generative AI.

use tracing::{Span, field::Empty, level_filters::LevelFilter};

use super::{
    Exchange, Outcome,
    record::{Endpoint, seconds},
};
use crate::backend::Backend;

/// The target of the span around each exchange.
pub const SPAN_TARGET: &str = "tower_openai_proxy::exchange";

/// A span of this name; a name must be known when the program is built.
macro_rules! named {
    ($name:literal, $operation:expr) => {
        tracing::debug_span!(
            target: SPAN_TARGET,
            $name,
            otel.name = Empty,
            otel.kind = "client",
            otel.status_code = Empty,
            gen_ai.operation.name = $operation,
            gen_ai.provider.name = Empty,
            gen_ai.request.model = Empty,
            gen_ai.request.stream = Empty,
            gen_ai.response.model = Empty,
            gen_ai.response.id = Empty,
            gen_ai.response.time_to_first_chunk = Empty,
            gen_ai.usage.input_tokens = Empty,
            gen_ai.usage.output_tokens = Empty,
            gen_ai.usage.cache_read.input_tokens = Empty,
            gen_ai.usage.cache_creation.input_tokens = Empty,
            gen_ai.usage.reasoning.output_tokens = Empty,
            http.response.status_code = Empty,
            error.type = Empty,
        )
    };
}

/// Whether somebody may want the spans.
pub(super) fn is_enabled() -> bool {
    LevelFilter::current() >= LevelFilter::DEBUG
}

/// Opens the span of an exchange.
pub(super) fn open(endpoint: Endpoint) -> Span {
    match endpoint.operation {
        Some(operation @ "chat") => named!("chat", operation),
        Some(operation @ "text_completion") => named!("text_completion", operation),
        Some(operation @ "embeddings") => named!("embeddings", operation),
        _ => named!("exchange", Empty),
    }
}

/// Records what is known at the end.
pub(super) fn close(span: &Span, exchange: &Exchange) {
    let name = exchange.operation().unwrap_or("exchange");
    match exchange.request_model() {
        Some(model) => span.record("otel.name", format!("{name} {model}")),
        None => span.record("otel.name", name),
    };
    let usage = exchange.usage();
    span.record(
        "gen_ai.provider.name",
        exchange.backend().map(Backend::provider),
    );
    span.record("gen_ai.request.model", exchange.request_model());
    span.record("gen_ai.response.model", exchange.response_model());
    span.record("gen_ai.response.id", exchange.response_id());
    if exchange.is_stream() {
        span.record("gen_ai.request.stream", true);
    }
    span.record(
        "gen_ai.response.time_to_first_chunk",
        exchange.times.first_chunk.map(seconds),
    );
    for (name, count) in [
        (
            "gen_ai.usage.input_tokens",
            usage.and_then(|it| it.input_tokens()),
        ),
        (
            "gen_ai.usage.output_tokens",
            usage.and_then(|it| it.output_tokens()),
        ),
        (
            "gen_ai.usage.cache_read.input_tokens",
            usage.and_then(|it| it.cache_read_tokens()),
        ),
        (
            "gen_ai.usage.cache_creation.input_tokens",
            usage.and_then(|it| it.cache_write_tokens()),
        ),
        (
            "gen_ai.usage.reasoning.output_tokens",
            usage.and_then(|it| it.reasoning_tokens()),
        ),
    ] {
        span.record(name, count);
    }
    let status = exchange.status().map(|status| status.as_u16());
    span.record("http.response.status_code", status);
    span.record("error.type", exchange.error_type());
    if exchange.error_type().is_some() && exchange.outcome() != Outcome::ClientLeft {
        span.record("otel.status_code", "ERROR");
    }
}
