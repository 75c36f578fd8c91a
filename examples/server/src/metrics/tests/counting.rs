//! What is counted, and how it is shown.

use std::{sync::mpsc, thread, time::Duration};

use super::*;

#[test]
fn an_exchange_is_counted_once_in_each_of_its_families() {
    let metrics = Metrics::leak();
    let facts = Facts {
        labels: CHAT,
        duration: Duration::from_millis(1500),
        time_to_head: Some(Duration::from_millis(20)),
        time_to_first_token: Some(Duration::from_millis(250)),
        time_per_output_token: Some(Duration::from_micros(12_500)),
        request_bytes: 100,
        response_bytes: 2000,
        usage: Some(Usage {
            input: tokens(17),
            output: tokens(100),
            cache_read: Some(16),
            cache_write: Some(1),
            reasoning: Some(64),
        }),
        is_without_done: false,
    };
    for _ in 0..2 {
        count(metrics, &facts); // the second time with the series that are known by then
    }
    let text = scrape(metrics);
    let call = r#"backend="LLM1",gen_ai_operation_name="chat",gen_ai_provider_name="openai",gen_ai_request_model="gpt-4o""#;
    let tokens =
        format!(r#"{call},gen_ai_response_model="gpt-4o-2024-08-06",gen_ai_token_modality"#);
    let of_head = r#"backend="LLM1",endpoint="/chat/completions""#;
    for expected in [
        format!(r#"openai_proxy_exchanges_total{{{of_head},status="200",outcome="complete"}} 2"#),
        r#"openai_proxy_attempts_total{backend="LLM1",result="answered"} 2"#.to_owned(),
        r#"openai_proxy_request_bytes_total{backend="LLM1"} 200"#.to_owned(),
        r#"openai_proxy_response_bytes_total{backend="LLM1"} 4000"#.to_owned(),
        format!(r#"openai_proxy_time_to_head_seconds_bucket{{{of_head},le="0.01"}} 0"#),
        format!(r#"openai_proxy_time_to_head_seconds_bucket{{{of_head},le="0.02"}} 2"#),
        format!("openai_proxy_time_to_head_seconds_sum{{{of_head}}} 0.04"),
        format!("openai_proxy_time_to_head_seconds_count{{{of_head}}} 2"),
        format!(r#"gen_ai_client_inference_duration_seconds_bucket{{{call},le="1.28"}} 0"#),
        format!(r#"gen_ai_client_inference_duration_seconds_bucket{{{call},le="2.56"}} 2"#),
        format!("gen_ai_client_inference_duration_seconds_sum{{{call}}} 3.0"),
        format!("gen_ai_client_inference_time_to_first_chunk_seconds_sum{{{call}}} 0.5"),
        format!(r#"openai_proxy_time_per_output_token_seconds_bucket{{{call},le="0.01"}} 0"#),
        format!(r#"openai_proxy_time_per_output_token_seconds_bucket{{{call},le="0.025"}} 2"#),
        format!(r#"gen_ai_client_inference_usage_input_tokens_total{{{tokens}="unknown"}} 34"#),
        format!(r#"gen_ai_client_inference_usage_output_tokens_total{{{tokens}="unknown"}} 200"#),
        format!(
            r#"gen_ai_client_inference_usage_cache_read_input_tokens_total{{{tokens}="unknown"}} 32"#
        ),
        format!(
            r#"gen_ai_client_inference_usage_cache_write_input_tokens_total{{{tokens}="unknown"}} 2"#
        ),
        format!(
            r#"gen_ai_client_inference_usage_reasoning_output_tokens_total{{{tokens}="unknown"}} 128"#
        ),
        format!(r#"gen_ai_client_inference_operation_input_tokens_bucket{{{call},le="16"}} 0"#),
        format!(r#"gen_ai_client_inference_operation_input_tokens_bucket{{{call},le="64"}} 2"#),
        format!("gen_ai_client_inference_operation_output_tokens_sum{{{call}}} 200.0"),
        "openai_proxy_exchanges_in_flight 0".to_owned(),
    ] {
        let is_there = text.lines().any(|line| line == expected);
        assert!(is_there, "{expected}\nnot in\n{text}");
    }
    for empty in [
        "openai_proxy_usage_missing_total{",
        "openai_proxy_streams_without_done_total{",
    ] {
        assert!(!text.contains(empty), "{text}");
    }
    assert!(!text.contains("openai_proxy_client_"), "{text}"); // no client has a name
}

#[test]
fn every_family_has_a_description_and_a_type_before_anything_is_counted() {
    let text = scrape(Metrics::leak());
    let types: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .collect();
    let expected = [
        "openai_proxy_exchanges_in_flight gauge",
        "openai_proxy_exchanges_total counter",
        "openai_proxy_attempts_total counter",
        "openai_proxy_time_to_head_seconds histogram",
        "openai_proxy_request_bytes_total counter",
        "openai_proxy_response_bytes_total counter",
        "openai_proxy_usage_missing_total counter",
        "openai_proxy_streams_without_done_total counter",
        "gen_ai_client_inference_duration_seconds histogram",
        "gen_ai_client_inference_time_to_first_chunk_seconds histogram",
        "openai_proxy_time_per_output_token_seconds histogram",
        "gen_ai_client_inference_usage_input_tokens_total counter",
        "gen_ai_client_inference_usage_output_tokens_total counter",
        "gen_ai_client_inference_usage_cache_read_input_tokens_total counter",
        "gen_ai_client_inference_usage_cache_write_input_tokens_total counter",
        "gen_ai_client_inference_usage_reasoning_output_tokens_total counter",
        "gen_ai_client_inference_operation_input_tokens histogram",
        "gen_ai_client_inference_operation_output_tokens histogram",
        "openai_proxy_backend_in_flight gauge",
        "openai_proxy_backend_cooling_down gauge",
        "openai_proxy_draining gauge",
        "openai_proxy_build_info gauge",
    ];
    assert_eq!(types[..expected.len()], expected);
    let helps = text.lines().filter(|line| line.starts_with("# HELP "));
    assert_eq!(helps.count(), types.len());
}

#[test]
fn buckets_have_the_bounds_of_the_documentation() {
    let metrics = Metrics::leak();
    let facts = Facts {
        labels: CHAT,
        time_to_head: Some(Duration::MAX),
        time_per_output_token: Some(Duration::ZERO),
        usage: Some(Usage {
            input: tokens(0),
            ..Usage::default()
        }),
        ..Facts::default()
    };
    count(metrics, &facts);
    let text = scrape(metrics);
    for (family, bounds) in [
        (
            "openai_proxy_time_to_head_seconds",
            "0.01 0.02 0.04 0.08 0.16 0.32 0.64 1.28 2.56 5.12 10.24 20.48 40.96 81.92 163.84 327.68 \
             655.36 +Inf",
        ),
        (
            "openai_proxy_time_per_output_token_seconds",
            "0.001 0.0025 0.005 0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1 2.5 +Inf",
        ),
        (
            "gen_ai_client_inference_operation_input_tokens",
            "1 4 16 64 256 1024 4096 16384 65536 262144 1.048576e+06 4.194304e+06 1.6777216e+07 \
             6.7108864e+07 +Inf",
        ),
    ] {
        let buckets = text
            .lines()
            .filter(|line| line.starts_with(&format!("{family}_bucket")));
        let found: Vec<_> = buckets
            .map(|line| {
                line.split("le=\"")
                    .nth(1)
                    .and_then(|rest| rest.split('"').next())
            })
            .map(|bound| bound.expect("a bound"))
            .collect();
        assert_eq!(found.join(" "), bounds, "{family}");
    }
    // What exceeds every bound is counted all the same.
    let head = samples(&text, "openai_proxy_time_to_head_seconds_count");
    assert!(head[0].ends_with("} 1"), "{head:?}");
}

#[test]
fn bounds_belong_to_their_buckets() {
    for (nanos, bucket) in [(10_000_000, "0.01"), (10_000_001, "0.02"), (0, "0.01")] {
        let metrics = Metrics::leak();
        let time_to_head = Some(Duration::from_nanos(nanos));
        count(
            metrics,
            &Facts {
                labels: CHAT,
                time_to_head,
                ..Facts::default()
            },
        );
        let text = scrape(metrics);
        let mut buckets = text
            .lines()
            .filter(|line| line.starts_with("openai_proxy_time_to_head_seconds_bucket"));
        let first = buckets.find(|line| line.ends_with("} 1")).expect("counted");
        assert!(first.contains(&format!("le=\"{bucket}\"")), "{first}");
    }
}

#[test]
fn an_operation_that_was_rejected_has_no_duration_and_others_have_no_generative_metric() {
    let metrics = Metrics::leak();
    let rejected = Labels {
        outcome: "rejected",
        status: Some(StatusCode::UNAUTHORIZED),
        backend: "",
        ..CHAT
    };
    count_one(metrics, rejected);
    let models = Labels {
        endpoint: "/models",
        operation: "",
        ..CHAT
    };
    let facts = Facts {
        labels: models,
        time_to_first_token: Some(Duration::ZERO),
        usage: Some(Usage {
            input: tokens(1),
            ..Usage::default()
        }),
        ..Facts::default()
    };
    count(metrics, &facts);
    let text = scrape(metrics);
    assert!(!text.contains("\ngen_ai_"), "{text}");
    assert_eq!(
        samples(&text, "openai_proxy_exchanges_total"),
        [
            r#"{backend="",endpoint="/chat/completions",status="401",outcome="rejected"} 1"#,
            r#"{backend="LLM1",endpoint="/models",status="200",outcome="complete"} 1"#,
        ]
    );
    // Nothing went to a backend without a name.
    assert_eq!(samples(&text, "openai_proxy_request_bytes_total").len(), 1);
}

#[test]
fn several_attempts_are_counted_one_by_one() {
    let metrics = Metrics::leak();
    let facts = Facts {
        labels: Labels {
            attempt: "",
            ..CHAT
        },
        ..Facts::default()
    };
    worker::with(metrics, |worker| {
        worker.begin();
        let attempts = [("LLM1", "connection_refused"), ("LLM2", "answered")];
        let attempts = attempts.map(|(backend, result)| (backend, Cow::Borrowed(result)));
        worker.end(&facts, attempts.into_iter());
    });
    assert_eq!(
        samples(&scrape(metrics), "openai_proxy_attempts_total"),
        [
            r#"{backend="LLM1",result="connection_refused"} 1"#,
            r#"{backend="LLM2",result="answered"} 1"#,
        ]
    );
}

#[test]
fn counters_never_go_down() {
    let metrics = Metrics::leak();
    let usage = Some(Usage {
        input: tokens(i64::MAX as u64),
        ..Usage::default()
    });
    for _ in 0..4 {
        count(
            metrics,
            &Facts {
                labels: CHAT,
                usage,
                ..Facts::default()
            },
        );
    }
    let tokens = samples(
        &scrape(metrics),
        "gen_ai_client_inference_usage_input_tokens_total",
    );
    assert!(
        tokens[0].ends_with(&format!("}} {}", u64::MAX)),
        "{tokens:?}"
    );
}

#[test]
fn threads_are_added_up() {
    let metrics = Metrics::leak();
    let (sender, begun) = mpsc::channel();
    let facts = || Facts {
        labels: CHAT,
        ..Facts::default()
    };
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let sender = sender.clone();
            thread::spawn(move || {
                for _ in 0..100 {
                    count(metrics, &facts());
                }
                worker::with(metrics, |worker| worker.begin());
                sender.send(()).expect("waited for");
            })
        })
        .collect();
    for _ in &threads {
        begun.recv().expect("no panic");
    }
    let text = scrape(metrics);
    assert!(
        text.contains("\nopenai_proxy_exchanges_in_flight 4\n"),
        "{text}"
    );
    // They end elsewhere.
    for _ in &threads {
        worker::with(metrics, |worker| worker.end(&facts(), std::iter::empty()));
    }
    for thread in threads {
        thread.join().expect("no panic");
    }
    let text = scrape(metrics);
    assert!(
        text.contains("\nopenai_proxy_exchanges_in_flight 0\n"),
        "{text}"
    );
    let exchanges = samples(&text, "openai_proxy_exchanges_total");
    assert!(exchanges[0].ends_with("} 404"), "{exchanges:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_is_measured() {
    let text = scrape(Metrics::leak());
    let value = |name| -> f64 {
        let sample = &samples(&text, name)[0];
        sample.trim().parse().expect("a number")
    };
    assert!(value("process_cpu_seconds_total ") > 0.0);
    assert!(value("process_resident_memory_bytes ") > 1e6);
    assert!(value("process_open_fds ") >= 3.0);
    let now = std::time::SystemTime::now();
    let age = process::seconds(now) - value("process_start_time_seconds ");
    assert!((0.0..60.0).contains(&age), "{age}");
    assert!(text.contains(concat!(
        "\nopenai_proxy_build_info{version=\"",
        env!("CARGO_PKG_VERSION"),
        "\"} 1\n"
    )));
}
