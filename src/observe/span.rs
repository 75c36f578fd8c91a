use std::time::Duration;

use http::{Response, StatusCode, header};
use tracing::{Span, field::Empty};

use crate::backend::Backend;

/// The target of the span around each exchange.
pub const SPAN_TARGET: &str = "tower_openai_proxy::exchange";

/// Opens the span of an exchange, with the names of OpenTelemetry's semantic conventions for
/// generative AI.
pub(super) fn open() -> Span {
    tracing::debug_span!(
        target: SPAN_TARGET,
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
    )
}

pub(super) fn record_head<B>(
    span: &Span,
    response: Option<&Response<B>>,
    status: Option<StatusCode>,
    backend: Option<Backend>,
) {
    let status = status.map(|status| status.as_u16());
    span.record("http.response.status_code", status);
    if let Some(backend) = backend {
        let origin = backend.origin();
        if let Some(model) = backend.model() {
            span.record("gen_ai.request.model", model);
        }
        span.record("server.address", origin.uri().host());
        span.record("server.port", origin.port());
    }
    if let Some(response) = response {
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let is_stream =
            content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        span.record("gen_ai.request.stream", is_stream);
    }
}

pub(super) fn record_first_chunk(span: &Span, time: Duration) {
    span.record("gen_ai.response.time_to_first_chunk", time.as_secs_f64());
}
