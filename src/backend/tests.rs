use tokio::time::sleep;

use super::*;

/// The backends of a configuration with these entries.
fn backends(entries: &str, settings: &str) -> Arc<[Backend]> {
    let text = format!(r#"{{"primary_backends":[{entries}],"settings":{{{settings}}}}}"#);
    Backend::all(&text.parse().unwrap(), &[])
}

fn at(url: &str) -> Backend {
    backends(&format!(r#"{{"name":"a","url":"{url}"}}"#), "")[0].clone()
}

#[test]
fn only_entries_with_a_url_are_backends() {
    let entries = r#"{"name":"a"},{"name":"b","url":"http://b.test"},{"name":"c","url":""},
        {"name":"d","url":"http://d.test","model":"m"}"#;
    let backends = backends(entries, "");
    let names: Vec<_> = backends.iter().map(Backend::name).collect();
    assert_eq!(names, ["b", "d"]);
    let models: Vec<_> = backends.iter().map(Backend::model).collect();
    assert_eq!(models, [None, Some("m")]);
}

#[test]
fn an_origin_is_scheme_host_and_port() {
    assert!(at("http://a.test/v1").origin() == at("http://a.test/v2?k=1").origin());
    for other in ["http://b.test/v1", "http://a.test:8080/v1"] {
        assert!(
            at("http://a.test/v1").origin() != at(other).origin(),
            "{other}"
        );
    }
    assert_eq!(at("http://a.test:8080/v1").host(), "a.test:8080");
    #[cfg(feature = "native-tls")]
    {
        assert!(at("https://a.test").origin() != at("http://a.test").origin());
    }
}

#[test]
fn a_backends_own_timeout_comes_first_and_limits_connecting() {
    let entries = r#"{"name":"a","url":"http://a.test","timeout":3},
        {"name":"b","url":"http://b.test"}"#;
    let settings = r#""timeout":30,"connect_timeout":5,"idle_timeout":7"#;
    let backends = backends(entries, settings);
    let seconds = |backend: &Backend| {
        let timeouts = backend.timeouts();
        [timeouts.connect, timeouts.response_head, timeouts.idle].map(|period| period.as_secs())
    };
    assert_eq!(seconds(&backends[0]), [3, 3, 7]);
    assert_eq!(seconds(&backends[1]), [5, 30, 7]);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_failed_cools_down() {
    let entry = r#"{"name":"a","url":"http://a.test"}"#;
    let cools = |settings| backends(entry, settings)[0].clone();

    let backend = cools(r#""cooldown":2.5"#);
    assert!(!backend.is_cooling_down());
    sleep(Duration::from_secs(100)).await;
    backend.record_failure(None);
    let same = backend.clone();
    assert!(backend.is_cooling_down() && same.is_cooling_down());
    sleep(Duration::from_millis(2490)).await;
    assert!(same.is_cooling_down());
    sleep(Duration::from_millis(20)).await;
    assert!(!same.is_cooling_down());

    let never = cools(r#""cooldown":0"#);
    never.record_failure(None);
    assert!(!never.is_cooling_down());

    let for_ever = cools(r#""cooldown":1e300"#);
    for_ever.record_failure(None);
    sleep(Duration::from_secs(10 * 365 * 24 * 60 * 60)).await;
    for_ever.record_failure(None);
    assert!(for_ever.is_cooling_down());
}

#[tokio::test(start_paused = true)]
async fn failures_in_a_row_begin_a_cooldown_that_doubles() {
    let entry = r#"{"name":"a","url":"http://a.test"}"#;
    let backend = backends(entry, r#""cooldown":10,"failures":3"#)[0].clone();
    backend.record_failure(None);
    backend.record_failure(None);
    backend.record_success();
    backend.record_failure(None);
    backend.record_failure(None);
    assert!(!backend.is_cooling_down(), "no 3 in a row");
    for seconds in [10, 20, 40, 60, 60] {
        backend.record_failure(None);
        sleep(Duration::from_millis(seconds * 1000 - 10)).await;
        assert!(backend.is_cooling_down(), "{seconds}");
        backend.record_failure(None);
        sleep(Duration::from_millis(20)).await;
        assert!(!backend.is_cooling_down(), "{seconds}");
    }
    backend.record_success();
    for _ in 0..3 {
        backend.record_failure(None);
    }
    sleep(Duration::from_millis(10_010)).await;
    assert!(!backend.is_cooling_down(), "a success begins anew");
}

#[tokio::test(start_paused = true)]
async fn a_backend_may_ask_for_a_longer_cooldown() {
    let entry = r#"{"name":"a","url":"http://a.test"}"#;
    for (cooldown, asked, seconds) in [(5, 20, 20), (5, 1, 5), (5, 1000, 60), (100, 1000, 100)] {
        let backend = backends(entry, &format!(r#""cooldown":{cooldown}"#))[0].clone();
        backend.record_failure(Some(Duration::from_secs(asked)));
        sleep(Duration::from_millis(seconds * 1000 - 10)).await;
        assert!(backend.is_cooling_down(), "{asked}");
        sleep(Duration::from_millis(20)).await;
        assert!(!backend.is_cooling_down(), "{asked}");
    }
    let never = backends(entry, r#""cooldown":0"#)[0].clone();
    never.record_failure(Some(Duration::from_secs(20)));
    assert!(!never.is_cooling_down());
}

#[test]
fn debug_shows_neither_url_nor_key() {
    let config = Config::builder()
        .backend(
            crate::BackendConfig::new("a", "http://a.test/v1?key=secret")
                .model("m")
                .api_key("sk-secret"),
        )
        .build()
        .unwrap();
    let debug = format!("{:?}", Backend::all(&config, &[]));
    assert!(
        debug.contains("\"a\"") && debug.contains("\"m\""),
        "{debug}"
    );
    assert!(
        !debug.contains("a.test") && !debug.contains("secret"),
        "{debug}"
    );
}

#[test]
fn the_provider_is_the_hosts_unless_it_is_configured() {
    for (host, provider) in [
        ("api.openai.com", "openai"),
        ("contoso.openai.azure.com", "azure.ai.openai"),
        ("contoso.cognitiveservices.azure.com", "azure.ai.openai"),
        ("api.groq.com", "groq"),
        ("API.Groq.COM", "groq"),
        ("api.groq.com.", "groq"),
        ("api.groq.com:8080", "groq"),
        ("api.mistral.ai", "mistral_ai"),
        ("api.deepseek.com", "deepseek"),
        ("api.x.ai", "x_ai"),
        ("us-east-1.api.x.ai", "x_ai"),
        ("api.perplexity.ai", "perplexity"),
        ("generativelanguage.googleapis.com", "gcp.gemini"),
        ("aiplatform.googleapis.com", "gcp.vertex_ai"),
        ("europe-west1-aiplatform.googleapis.com", "gcp.vertex_ai"),
        ("api.moonshot.ai", "moonshot_ai"),
        ("api.moonshot.cn", "moonshot_ai"),
        ("api.anthropic.com", "anthropic"),
        ("127.0.0.1:11434", "openai"),
        ("[::1]:11434", "openai"),
        ("x.ai.example.org", "openai"),
        ("notx.ai", "openai"),
        ("ai", "openai"),
    ] {
        assert_eq!(
            at(&format!("http://{host}/v1")).provider(),
            provider,
            "{host}"
        );
    }
    let entry = r#"{"name":"a","url":"http://api.groq.com","provider":"vllm"}"#;
    assert_eq!(backends(entry, "")[0].provider(), "vllm");
}
