//! The series that one kind of exchange counts into.

use std::{cell::OnceCell, sync::Arc};

use http::StatusCode;

use super::{
    facts::{Facts, Labels, MODALITIES, Usage},
    family::Family,
    names::{Models, UNKNOWN},
    shard::Shard,
    value::{Counter, Histogram, Seconds, TokenSeconds, Tokens},
};

/// A series that is looked up when it is first counted into.
#[derive(Debug)]
struct Cached<T>(OnceCell<Arc<T>>);

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self(OnceCell::new())
    }
}

impl<T: Default> Cached<T> {
    fn of<'a, const N: usize>(
        &self,
        family: &Family<T, N>,
        labels: impl FnOnce() -> [&'a str; N],
    ) -> &T {
        self.0.get_or_init(|| family.series(labels()))
    }
}

/// The series of exchanges that have all labels in common.
#[derive(Debug, Default)]
pub(super) struct Series {
    exchanges: Cached<Counter>,
    attempts: Cached<Counter>,
    time_to_head: Cached<Histogram<Seconds>>,
    request_bytes: Cached<Counter>,
    response_bytes: Cached<Counter>,
    usage_missing: Cached<Counter>,
    streams_without_done: Cached<Counter>,
    client_exchanges: Cached<Counter>,
    client_input_tokens: Cached<Counter>,
    client_output_tokens: Cached<Counter>,
    duration: Cached<Histogram<Seconds>>,
    time_to_first_token: Cached<Histogram<Seconds>>,
    time_per_output_token: Cached<Histogram<TokenSeconds>>,
    input_tokens: [Cached<Counter>; MODALITIES.len()],
    output_tokens: [Cached<Counter>; MODALITIES.len()],
    cache_read_tokens: Cached<Counter>,
    cache_write_tokens: Cached<Counter>,
    reasoning_tokens: Cached<Counter>,
    call_input_tokens: Cached<Histogram<Tokens>>,
    call_output_tokens: Cached<Histogram<Tokens>>,
}

/// Counts one exchange into its series.
pub(super) struct Counting<'a> {
    pub(super) shard: &'a Shard,
    pub(super) series: &'a Series,
    pub(super) facts: &'a Facts<'a>,
    pub(super) models: &'a Models,
}

impl Counting<'_> {
    pub(super) fn count(&self) {
        let Self {
            shard,
            series,
            facts,
            ..
        } = self;
        let Labels {
            backend,
            endpoint,
            outcome,
            attempt,
            client,
            missing,
            ..
        } = facts.labels;

        let exchanges = series.exchanges.of(&shard.exchanges, || {
            let status = facts.labels.status.as_ref().map_or("", StatusCode::as_str);
            [backend, endpoint, status, outcome]
        });
        exchanges.add(1);
        if !attempt.is_empty() {
            let attempts = series.attempts.of(&shard.attempts, || [backend, attempt]);
            attempts.add(1);
        }
        if let Some(time) = facts.time_to_head {
            let head = series
                .time_to_head
                .of(&shard.time_to_head, || [backend, endpoint]);
            head.observe_time(time);
        }
        if !backend.is_empty() {
            let bytes = series.request_bytes.of(&shard.request_bytes, || [backend]);
            bytes.add(facts.request_bytes);
            let bytes = series
                .response_bytes
                .of(&shard.response_bytes, || [backend]);
            bytes.add(facts.response_bytes);
        }
        if facts.is_without_done {
            let streams = &series.streams_without_done;
            streams.of(&shard.streams_without_done, || [backend]).add(1);
        }
        if !missing.is_empty() {
            let usage = series
                .usage_missing
                .of(&shard.usage_missing, || [backend, missing]);
            usage.add(1);
        }
        if !client.is_empty() {
            let exchanges = &series.client_exchanges;
            exchanges
                .of(&shard.client_exchanges, || [client, outcome])
                .add(1);
        }
        if !facts.labels.operation.is_empty() {
            self.count_call();
        }
    }

    /// A call is an exchange with a GenAI operation.
    fn count_call(&self) {
        let Self {
            shard,
            series,
            facts,
            ..
        } = self;
        if facts.labels.outcome != "rejected" {
            let duration = series
                .duration
                .of(&shard.duration, || self.call_and_error());
            duration.observe_time(facts.duration);
        }
        if let Some(time) = facts.time_to_first_token {
            let first = &series.time_to_first_token;
            first
                .of(&shard.time_to_first_token, || self.call())
                .observe_time(time);
        }
        if let Some(time) = facts.time_per_output_token {
            let each = &series.time_per_output_token;
            each.of(&shard.time_per_output_token, || self.call())
                .observe_time(time);
        }
        if let Some(usage) = &facts.usage {
            self.count_usage(usage);
        }
    }

    fn count_usage(&self, usage: &Usage) {
        let Self { shard, series, .. } = self;
        let client = self.facts.labels.client;
        if let Some(total) = usage.input.total {
            let counts = usage.input.by_modality().into_iter();
            self.count_tokens(counts, &series.input_tokens, &shard.input_tokens);
            let of_call = &series.call_input_tokens;
            of_call
                .of(&shard.call_input_tokens, || self.call_and_error())
                .observe(total);
            if !client.is_empty() {
                let tokens = &series.client_input_tokens;
                tokens
                    .of(&shard.client_tokens, || [client, "input"])
                    .add(total);
            }
        }
        if let Some(total) = usage.output.total {
            let counts = usage.output.by_modality().into_iter();
            self.count_tokens(counts, &series.output_tokens, &shard.output_tokens);
            let of_call = &series.call_output_tokens;
            of_call
                .of(&shard.call_output_tokens, || self.call_and_error())
                .observe(total);
            if !client.is_empty() {
                let tokens = &series.client_output_tokens;
                tokens
                    .of(&shard.client_tokens, || [client, "output"])
                    .add(total);
            }
        }
        for (tokens, series, family) in [
            (
                usage.cache_read,
                &series.cache_read_tokens,
                &shard.cache_read_tokens,
            ),
            (
                usage.cache_write,
                &series.cache_write_tokens,
                &shard.cache_write_tokens,
            ),
            (
                usage.reasoning,
                &series.reasoning_tokens,
                &shard.reasoning_tokens,
            ),
        ] {
            if let Some(tokens) = tokens {
                series
                    .of(family, || self.call_and_modality(UNKNOWN))
                    .add(tokens);
            }
        }
    }

    /// Counts tokens into the modalities that have any, and into `unknown` if none has.
    fn count_tokens(
        &self,
        counts: impl Iterator<Item = u64> + Clone,
        series: &[Cached<Counter>; MODALITIES.len()],
        family: &Family<Counter, 6>,
    ) {
        let is_none = counts.clone().all(|count| count == 0);
        for ((count, modality), series) in counts.zip(MODALITIES).zip(series) {
            if count > 0 || is_none && modality == UNKNOWN {
                series
                    .of(family, || self.call_and_modality(modality))
                    .add(count);
            }
        }
    }

    fn call(&self) -> [&str; 4] {
        let Labels {
            backend,
            operation,
            provider,
            ..
        } = self.facts.labels;
        let models = self.models.shown(&self.facts.labels);
        [backend, operation, provider, models.request]
    }

    fn call_and_error(&self) -> [&str; 5] {
        let [backend, operation, provider, model] = self.call();
        [
            backend,
            operation,
            provider,
            model,
            self.facts.labels.error_type,
        ]
    }

    fn call_and_modality(&self, modality: &'static str) -> [&str; 6] {
        let [backend, operation, provider, model] = self.call();
        let models = self.models.shown(&self.facts.labels);
        [
            backend,
            operation,
            provider,
            model,
            models.response,
            modality,
        ]
    }
}
