mod counting;
mod labels;
mod scraping;

use http::StatusCode;
use prometheus_client::encoding::prometheus_text;
use tower_openai_proxy::{BackendConfig, Config, OpenAiProxyLayer};

use super::{
    facts::{Labels, Tokens, Usage},
    *,
};

fn proxy() -> Handle {
    let backend = BackendConfig::new("LLM1", "http://127.0.0.1:1/v1");
    let config = Config::builder().backend(backend).build();
    OpenAiProxyLayer::from_config(config.expect("usable")).handle()
}

fn scrape(metrics: &'static Metrics) -> String {
    let mut text = String::new();
    let registry = exposition::registry(metrics, proxy());
    prometheus_text::encode(&mut text, &registry).expect("a string");
    text
}

/// The samples of a family, without its comments and buckets.
fn samples(text: &str, family: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.starts_with(family));
    let lines = lines.filter(|line| !line.contains("_bucket{"));
    lines.map(|line| line[family.len()..].to_owned()).collect()
}

fn count(metrics: &'static Metrics, facts: &Facts<'_>) {
    worker::with(metrics, |worker| {
        worker.begin();
        worker.end(facts, std::iter::empty());
    });
}

/// Counts an exchange of which no more is known than its labels.
fn count_one(metrics: &'static Metrics, labels: Labels<'_>) {
    let facts = Facts {
        labels,
        ..Facts::default()
    };
    count(metrics, &facts);
}

const CHAT: Labels<'_> = Labels {
    backend: "LLM1",
    provider: "openai",
    endpoint: "/chat/completions",
    operation: "chat",
    status: Some(StatusCode::OK),
    outcome: "complete",
    error_type: "",
    attempt: "answered",
    request_model: "gpt-4o",
    is_configured: false,
    response_model: "gpt-4o-2024-08-06",
    client: "",
    missing: "",
};

fn tokens(total: u64) -> Tokens {
    Tokens {
        total: Some(total),
        details: [None; 3],
    }
}
