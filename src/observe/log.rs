use std::time::Duration;

use http::request::Parts;
use tracing::{Level, field};

use super::{Exchange, Outcome};
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
/// | `end` | `complete`, `client left`, or what went wrong |
/// | `cause` | the underlying error, if any |
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
    let millis = |period: Duration| period.as_secs_f64() * 1e3;
    let cause = exchange.error().and_then(std::error::Error::source);
    let end = match (exchange.outcome(), exchange.error()) {
        (_, Some(error)) => reason(error),
        (Outcome::ClientLeft, None) => "client left",
        (_, None) => "complete",
    };
    tracing::info!(
        target: ACCESS_LOG_TARGET,
        backend = exchange.backend().map(Backend::name),
        status = exchange.status().map(|status| status.as_u16()),
        head_ms = exchange.time_to_head().map(millis),
        total_ms = millis(exchange.duration()),
        bytes = exchange.response_bytes(),
        end,
        cause = cause.map(field::display),
        "exchange"
    );
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
