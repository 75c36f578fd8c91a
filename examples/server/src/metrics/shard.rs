//! What one thread has counted, family by family.

use super::{
    family::{ERROR_TYPE, Family},
    value::{Counter, Gauge, Histogram, Seconds, TokenSeconds, Tokens},
};

const BACKEND: &str = "backend";
const ENDPOINT: &str = "endpoint";
const OUTCOME: &str = "outcome";
const CLIENT: &str = "client";
const OPERATION: &str = "gen_ai_operation_name";
const PROVIDER: &str = "gen_ai_provider_name";
const REQUEST_MODEL: &str = "gen_ai_request_model";
const RESPONSE_MODEL: &str = "gen_ai_response_model";
const MODALITY: &str = "gen_ai_token_modality";

const CALL: [&str; 4] = [BACKEND, OPERATION, PROVIDER, REQUEST_MODEL];
const CALL_AND_ERROR: [&str; 5] = [BACKEND, OPERATION, PROVIDER, REQUEST_MODEL, ERROR_TYPE];
const CALL_AND_TOKENS: [&str; 6] = [
    BACKEND,
    OPERATION,
    PROVIDER,
    REQUEST_MODEL,
    RESPONSE_MODEL,
    MODALITY,
];

/// A thread's families. That thread alone writes them; a scrape reads them.
///
/// `prometheus-client` puts `_total` behind the names of counters.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) in_flight: Gauge,
    pub(super) exchanges: Family<Counter, 4>,
    pub(super) attempts: Family<Counter, 2>,
    pub(super) time_to_head: Family<Histogram<Seconds>, 2>,
    pub(super) request_bytes: Family<Counter, 1>,
    pub(super) response_bytes: Family<Counter, 1>,
    pub(super) usage_missing: Family<Counter, 2>,
    pub(super) streams_without_done: Family<Counter, 1>,
    pub(super) client_exchanges: Family<Counter, 2>,
    pub(super) client_tokens: Family<Counter, 2>,
    pub(super) duration: Family<Histogram<Seconds>, 5>,
    pub(super) time_to_first_token: Family<Histogram<Seconds>, 4>,
    pub(super) time_per_output_token: Family<Histogram<TokenSeconds>, 4>,
    pub(super) input_tokens: Family<Counter, 6>,
    pub(super) output_tokens: Family<Counter, 6>,
    pub(super) cache_read_tokens: Family<Counter, 6>,
    pub(super) cache_write_tokens: Family<Counter, 6>,
    pub(super) reasoning_tokens: Family<Counter, 6>,
    pub(super) call_input_tokens: Family<Histogram<Tokens>, 5>,
    pub(super) call_output_tokens: Family<Histogram<Tokens>, 5>,
}

impl Shard {
    pub(super) fn new() -> Self {
        let tokens = |name, help| Family::new(name, help, CALL_AND_TOKENS);
        Self {
            in_flight: Gauge::default(),
            exchanges: Family::new(
                "openai_proxy_exchanges",
                "Exchanges that have ended, by how they did.",
                [BACKEND, ENDPOINT, "status", OUTCOME],
            ),
            attempts: Family::new(
                "openai_proxy_attempts",
                "Requests to backends, failovers included, by what came of them.",
                [BACKEND, "result"],
            ),
            time_to_head: Family::new(
                "openai_proxy_time_to_head_seconds",
                "Time from the request's header fields to those of a backend's response.",
                [BACKEND, ENDPOINT],
            ),
            request_bytes: Family::new(
                "openai_proxy_request_bytes",
                "Bytes of request bodies, and of what clients sent on WebSockets.",
                [BACKEND],
            ),
            response_bytes: Family::new(
                "openai_proxy_response_bytes",
                "Bytes of response bodies, and of what backends sent on WebSockets.",
                [BACKEND],
            ),
            usage_missing: Family::new(
                "openai_proxy_usage_missing",
                "Successful responses of a generative operation without usage, by reason.",
                [BACKEND, "reason"],
            ),
            streams_without_done: Family::new(
                "openai_proxy_streams_without_done",
                "Streams of completions that ended without `data: [DONE]`.",
                [BACKEND],
            ),
            client_exchanges: Family::new(
                "openai_proxy_client_exchanges",
                "Exchanges that have ended, by client.",
                [CLIENT, OUTCOME],
            ),
            client_tokens: Family::new(
                "openai_proxy_client_tokens",
                "Tokens that backends counted, by client.",
                [CLIENT, "type"],
            ),
            duration: Family::new(
                "gen_ai_client_inference_duration_seconds",
                "Duration of a generative operation.",
                CALL_AND_ERROR,
            ),
            time_to_first_token: Family::new(
                "gen_ai_client_inference_time_to_first_chunk_seconds",
                "Time from the request to the first token of a stream.",
                CALL,
            ),
            time_per_output_token: Family::new(
                "openai_proxy_time_per_output_token_seconds",
                "Time between two output tokens of a stream, on average.",
                CALL,
            ),
            input_tokens: tokens(
                "gen_ai_client_inference_usage_input_tokens",
                "Tokens in prompts, cached ones included.",
            ),
            output_tokens: tokens(
                "gen_ai_client_inference_usage_output_tokens",
                "Tokens generated, those of reasoning included.",
            ),
            cache_read_tokens: tokens(
                "gen_ai_client_inference_usage_cache_read_input_tokens",
                "Tokens in prompts that the provider had in its cache.",
            ),
            cache_write_tokens: tokens(
                "gen_ai_client_inference_usage_cache_write_input_tokens",
                "Tokens in prompts that the provider wrote to its cache.",
            ),
            reasoning_tokens: tokens(
                "gen_ai_client_inference_usage_reasoning_output_tokens",
                "Tokens generated for reasoning.",
            ),
            call_input_tokens: Family::new(
                "gen_ai_client_inference_operation_input_tokens",
                "Tokens in the prompt of one operation.",
                CALL_AND_ERROR,
            ),
            call_output_tokens: Family::new(
                "gen_ai_client_inference_operation_output_tokens",
                "Tokens generated by one operation.",
                CALL_AND_ERROR,
            ),
        }
    }
}
