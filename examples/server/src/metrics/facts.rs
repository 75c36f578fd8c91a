//! What the metrics take from the record of an exchange.

use std::time::Duration;

use http::StatusCode;
use tower_openai_proxy::{
    Backend,
    observe::{self, Exchange, Outcome, UsageMissing},
};

/// One exchange that has ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts<'a> {
    pub(super) labels: Labels<'a>,
    pub(super) duration: Duration,
    /// To a backend's head.
    pub(super) time_to_head: Option<Duration>,
    pub(super) time_to_first_token: Option<Duration>,
    pub(super) time_per_output_token: Option<Duration>,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    pub(super) usage: Option<Usage>,
    /// A stream of chat or text completions whose backend ended it without `data: [DONE]`.
    pub(super) is_without_done: bool,
}

/// What tells one kind of exchange from another. A text that isn't known is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Labels<'a> {
    /// The last one that was tried.
    pub(super) backend: &'a str,
    pub(super) provider: &'a str,
    pub(super) endpoint: &'static str,
    /// OpenTelemetry's name of the GenAI operation.
    pub(super) operation: &'static str,
    pub(super) status: Option<StatusCode>,
    pub(super) outcome: &'static str,
    pub(super) error_type: &'a str,
    /// What came of the attempt, where there was exactly one.
    pub(super) attempt: &'a str,
    pub(super) request_model: &'a str,
    /// Whether the request's model is from the configuration.
    pub(super) is_configured: bool,
    pub(super) response_model: &'a str,
    pub(super) client: &'a str,
    /// Why an answer with a GenAI operation has no usage.
    pub(super) missing: &'static str,
}

/// The tokens that the backend counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    pub(super) input: Tokens,
    pub(super) output: Tokens,
    pub(super) cache_read: Option<u64>,
    pub(super) cache_write: Option<u64>,
    pub(super) reasoning: Option<u64>,
}

/// Tokens one way: all of them, and what the details say of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tokens {
    pub(super) total: Option<u64>,
    pub(super) details: [Option<u64>; 3],
}

/// The values of `gen_ai_token_modality`: what the details name, in their order, and the rest.
pub(super) const MODALITIES: [&str; 4] = ["text", "audio", "image", "unknown"];

impl<'a> Facts<'a> {
    /// `attempt` is what came of the only attempt, and empty if there were none or several.
    pub(super) fn of(exchange: &'a Exchange, attempt: &'a str) -> Self {
        let backend = exchange.backend();
        let outcome = exchange.outcome();
        let operation = exchange.operation().unwrap_or_default();
        let is_own = matches!(outcome, Outcome::Failed | Outcome::Rejected);
        let labels = Labels {
            backend: backend.map(Backend::name).unwrap_or_default(),
            provider: backend.map(Backend::provider).unwrap_or_default(),
            endpoint: exchange.endpoint(),
            operation,
            status: exchange.status(),
            outcome: outcome.as_str(),
            error_type: exchange.error_type().unwrap_or_default(),
            attempt,
            request_model: exchange.request_model().unwrap_or_default(),
            is_configured: exchange.is_configured_model(),
            response_model: exchange.response_model().unwrap_or_default(),
            client: exchange.client_name().unwrap_or_default(),
            missing: exchange
                .usage_missing()
                .map(UsageMissing::as_str)
                .unwrap_or_default(),
        };
        Self {
            labels,
            duration: exchange.duration(),
            time_to_head: exchange
                .time_to_head()
                .filter(|_| backend.is_some() && !is_own),
            time_to_first_token: exchange.time_to_first_token(),
            time_per_output_token: exchange.time_per_output_token(),
            request_bytes: exchange.request_bytes(),
            response_bytes: exchange.response_bytes(),
            usage: exchange.usage().map(Usage::of),
            is_without_done: is_without_done(exchange),
        }
    }
}

/// OpenAI's streams of completions end with that event; those of other operations don't.
fn is_without_done(exchange: &Exchange) -> bool {
    exchange.is_stream()
        && !exchange.is_done()
        && exchange.outcome() == Outcome::Complete
        && exchange.status().is_some_and(|status| status.is_success())
        && exchange.operation().is_some()
        && matches!(exchange.endpoint(), "/chat/completions" | "/completions")
        && exchange.usage_missing() != Some(UsageMissing::Encoded)
}

impl Usage {
    fn of(usage: &observe::Usage) -> Self {
        Self {
            input: Tokens {
                total: usage.input_tokens(),
                details: [
                    usage.input_text_tokens(),
                    usage.input_audio_tokens(),
                    usage.input_image_tokens(),
                ],
            },
            output: Tokens {
                total: usage.output_tokens(),
                details: [
                    usage.output_text_tokens(),
                    usage.output_audio_tokens(),
                    usage.output_image_tokens(),
                ],
            },
            cache_read: usage.cache_read_tokens(),
            cache_write: usage.cache_write_tokens(),
            reasoning: usage.reasoning_tokens(),
        }
    }
}

impl Tokens {
    /// The tokens of each modality. Details that add up to more than the total say nothing.
    pub(super) fn by_modality(&self) -> [u64; MODALITIES.len()] {
        let total = self.total.unwrap_or(0);
        let [text, audio, image] = self.details.map(Option::unwrap_or_default);
        let known = text
            .checked_add(audio)
            .and_then(|sum| sum.checked_add(image));
        match known.and_then(|known| total.checked_sub(known)) {
            Some(rest) => [text, audio, image, rest],
            None => [0, 0, 0, total],
        }
    }
}
