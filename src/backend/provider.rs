//! Which provider of models a host belongs to, by the name that OpenTelemetry's semantic conventions
//! for generative AI give it (`gen_ai.provider.name`).

/// Of a host that isn't in the table: most others speak OpenAI's API without being listed.
const DEFAULT: &str = "openai";

/// A host, or the domain above it with a dot, and its provider.
const PROVIDERS: [(&str, &str); 12] = [
    (".openai.azure.com", "azure.ai.openai"),
    (".cognitiveservices.azure.com", "azure.ai.openai"),
    (".groq.com", "groq"),
    (".mistral.ai", "mistral_ai"),
    (".deepseek.com", "deepseek"),
    (".x.ai", "x_ai"),
    (".perplexity.ai", "perplexity"),
    ("generativelanguage.googleapis.com", "gcp.gemini"),
    ("aiplatform.googleapis.com", "gcp.vertex_ai"), // also `europe-west1-aiplatform.…`
    (".moonshot.ai", "moonshot_ai"),
    (".moonshot.cn", "moonshot_ai"),
    (".anthropic.com", "anthropic"),
];

pub(super) fn of_host(host: &str) -> &'static str {
    let host = host.strip_suffix('.').unwrap_or(host).as_bytes();
    let ends_with = |domain: &str| {
        let start = host.len().checked_sub(domain.len());
        start.is_some_and(|start| host[start..].eq_ignore_ascii_case(domain.as_bytes()))
    };
    let mut providers = PROVIDERS.iter();
    let known = providers.find(|(domain, _)| ends_with(domain));
    known.map_or(DEFAULT, |(_, provider)| provider)
}
