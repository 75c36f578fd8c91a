//! Counts and latencies, kept only while `recording`.

use hdrhistogram::Histogram;
use serde_json::{Value, json};

pub struct Stats {
    pub recording: bool,
    pub requests: u64,
    pub chunks: u64,
    /// Streams that have begun and not ended, recorded or not.
    pub open_streams: u64,
    body_bytes: u64,
    handshakes: u64,
    resumed: u64,
    errors: u64,
    first_error: Option<String>,
    latency: Times,
    first_event: Times,
    first_event_while_opening: Option<Value>,
    chunk_delay: Times,
}

impl Stats {
    pub fn new() -> Self {
        Self {
            recording: false,
            requests: 0,
            chunks: 0,
            open_streams: 0,
            body_bytes: 0,
            handshakes: 0,
            resumed: 0,
            errors: 0,
            first_error: None,
            latency: Times::new(),
            first_event: Times::new(),
            first_event_while_opening: None,
            chunk_delay: Times::new(),
        }
    }

    pub fn request_done(&mut self, latency_ns: u64) {
        if self.recording {
            self.requests += 1;
            self.latency.add(latency_ns);
        }
    }

    pub fn first_event(&mut self, delay_ns: u64) {
        self.open_streams += 1;
        if self.recording {
            self.first_event.add(delay_ns);
        }
    }

    pub fn stream_ended(&mut self) {
        self.open_streams -= 1;
    }

    pub fn chunk(&mut self, delay_ns: u64) {
        if self.recording {
            self.chunks += 1;
            self.chunk_delay.add(delay_ns);
        }
    }

    pub fn handshake(&mut self, is_resumed: bool) {
        if self.recording {
            self.handshakes += 1;
            self.resumed += u64::from(is_resumed);
        }
    }

    pub fn body_bytes(&mut self, count: usize) {
        if self.recording {
            self.body_bytes += count as u64;
        }
    }

    /// Errors count from the start: a proxy that fails only in the warm-up fails.
    pub fn error(&mut self, message: String) {
        self.errors += 1;
        self.first_error.get_or_insert(message);
    }

    /// Forgets all but errors, open streams, and the times to first event so far.
    pub fn start_again(&mut self) {
        *self = Self {
            open_streams: self.open_streams,
            errors: self.errors,
            first_error: self.first_error.take(),
            first_event_while_opening: Some(self.first_event.report()),
            ..Self::new()
        };
    }

    pub fn report(&self, seconds: f64) -> Value {
        let first_event = self.first_event_while_opening.clone();
        json!({
            "seconds": seconds,
            "requests": self.requests,
            "chunks": self.chunks,
            "handshakes": self.handshakes,
            "resumed": self.resumed,
            "open_streams": self.open_streams,
            "errors": self.errors,
            "first_error": self.first_error,
            "requests_per_s": self.requests as f64 / seconds,
            "chunks_per_s": self.chunks as f64 / seconds,
            "body_mb_per_s": self.body_bytes as f64 / 1e6 / seconds,
            "latency_us": self.latency.report(),
            "ttft_us": first_event.unwrap_or_else(|| self.first_event.report()),
            "chunk_delay_us": self.chunk_delay.report(),
        })
    }
}

/// Durations in nanoseconds, to three digits, up to a minute.
struct Times(Histogram<u32>);

impl Times {
    fn new() -> Self {
        Self(Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds"))
    }

    fn add(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    fn report(&self) -> Value {
        if self.0.is_empty() {
            return Value::Null;
        }
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e3;
        json!({
            "p50": at(0.5),
            "p90": at(0.9),
            "p99": at(0.99),
            "p999": at(0.999),
            "max": self.0.max() as f64 / 1e3,
        })
    }
}
