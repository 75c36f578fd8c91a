//! What a scrape is answered with: the sums of all threads, and what is known only now.

use std::{fmt, time::SystemTime};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue},
    metrics::{MetricType, exemplar::Exemplar},
    registry::Registry,
};
use tower_openai_proxy::proxy::Handle;

use super::{
    Metrics,
    family::{self, Encode, Family},
    process::{self, Process},
    shard::Shard,
};

/// Everything that is measured.
#[derive(Debug)]
struct Exposition {
    metrics: &'static Metrics,
    proxy: Handle,
    started: SystemTime,
}

/// What the listener encodes at each scrape.
pub(super) fn registry(metrics: &'static Metrics, proxy: Handle) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Exposition {
        metrics,
        proxy,
        started: SystemTime::now(),
    }));
    registry
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_families(&mut encoder)?;
        self.encode_state(&mut encoder)?;
        match Process::read() {
            Ok(process) => self.encode_process(&mut encoder, &process),
            Err(_) => Ok(()), // not on this system
        }
    }
}

impl Exposition {
    fn encode_families(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let shards = self.metrics.shards();
        let mut encode = Families {
            shards: &shards,
            encoder,
        };
        let in_flight: i64 = shards.iter().map(|shard| shard.in_flight.get()).sum();
        gauge(
            encode.encoder,
            "openai_proxy_exchanges_in_flight",
            "Exchanges that have begun and not ended, WebSockets included.",
            in_flight.max(0),
        )?;
        encode.family(|shard| &shard.exchanges)?;
        encode.family(|shard| &shard.attempts)?;
        encode.family(|shard| &shard.time_to_head)?;
        encode.family(|shard| &shard.request_bytes)?;
        encode.family(|shard| &shard.response_bytes)?;
        encode.family(|shard| &shard.usage_missing)?;
        encode.family(|shard| &shard.streams_without_done)?;
        if shards
            .iter()
            .any(|shard| !shard.client_exchanges.is_empty())
        {
            encode.family(|shard| &shard.client_exchanges)?;
            encode.family(|shard| &shard.client_tokens)?;
        }
        encode.family(|shard| &shard.duration)?;
        encode.family(|shard| &shard.time_to_first_token)?;
        encode.family(|shard| &shard.time_per_output_token)?;
        encode.family(|shard| &shard.input_tokens)?;
        encode.family(|shard| &shard.output_tokens)?;
        encode.family(|shard| &shard.cache_read_tokens)?;
        encode.family(|shard| &shard.cache_write_tokens)?;
        encode.family(|shard| &shard.reasoning_tokens)?;
        encode.family(|shard| &shard.call_input_tokens)?;
        encode.family(|shard| &shard.call_output_tokens)
    }

    /// The state of the proxy and its backends.
    fn encode_state(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let backends = self.proxy.backends();
        let mut in_flight = encoder.encode_descriptor(
            "openai_proxy_backend_in_flight",
            "Requests that the backend is busy with.",
            None,
            MetricType::Gauge,
        )?;
        for backend in &*backends {
            in_flight
                .encode_family(&[("backend", backend.name())])?
                .encode_gauge(&(backend.in_flight() as i64))?;
        }
        let mut cooling = encoder.encode_descriptor(
            "openai_proxy_backend_cooling_down",
            "Whether the backend failed lately, so that others are tried first.",
            None,
            MetricType::Gauge,
        )?;
        for backend in &*backends {
            let is_cooling_down = i64::from(backend.is_cooling_down());
            cooling
                .encode_family(&[("backend", backend.name())])?
                .encode_gauge(&is_cooling_down)?;
        }
        gauge(
            encoder,
            "openai_proxy_draining",
            "Whether the server is draining.",
            i64::from(self.proxy.is_draining()),
        )?;
        encoder
            .encode_descriptor(
                "openai_proxy_build",
                "The version that runs.",
                None,
                MetricType::Info,
            )?
            .encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }

    fn encode_process(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        process: &Process,
    ) -> fmt::Result {
        encoder
            .encode_descriptor(
                "process_cpu_seconds",
                "User and system CPU time spent in seconds.",
                None,
                MetricType::Counter,
            )?
            .encode_counter(
                &process.cpu.as_secs_f64(),
                None::<&Exemplar<[(&str, &str); 0], f64>>,
            )?;
        gauge(
            encoder,
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            process.resident_bytes as i64,
        )?;
        gauge(
            encoder,
            "process_open_fds",
            "Number of open file descriptors.",
            process.open_descriptors as i64,
        )?;
        gauge(
            encoder,
            "process_start_time_seconds",
            "Start time of the process since the Unix epoch in seconds.",
            process::seconds(self.started),
        )
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: impl EncodeGaugeValue,
) -> fmt::Result {
    encoder
        .encode_descriptor(name, help, None, MetricType::Gauge)?
        .encode_gauge(&value)
}

struct Families<'a, 'b> {
    shards: &'a [std::sync::Arc<Shard>],
    encoder: &'a mut DescriptorEncoder<'b>,
}

impl Families<'_, '_> {
    fn family<T: Encode + 'static, const N: usize>(
        &mut self,
        family: impl Fn(&Shard) -> &Family<T, N>,
    ) -> fmt::Result {
        family::encode(self.shards.iter().map(|shard| family(shard)), self.encoder)
    }
}
