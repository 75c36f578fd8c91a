//! What stands in labels.

use super::*;

#[test]
fn the_error_type_is_there_only_where_there_is_one() {
    let metrics = Metrics::leak();
    count_one(metrics, CHAT);
    let labels = Labels {
        error_type: "429",
        status: Some(StatusCode::TOO_MANY_REQUESTS),
        ..CHAT
    };
    count_one(metrics, labels);
    let text = scrape(metrics);
    let counts = samples(&text, "gen_ai_client_inference_duration_seconds_count");
    assert!(!counts[0].contains("error_type"), "{counts:?}");
    assert!(counts[1].contains(r#",error_type="429"}"#), "{counts:?}");
}

#[test]
fn without_a_head_the_status_is_empty() {
    let metrics = Metrics::leak();
    let labels = Labels {
        status: None,
        outcome: "client_left",
        ..CHAT
    };
    count_one(metrics, labels);
    let exchanges = samples(&scrape(metrics), "openai_proxy_exchanges_total");
    assert_eq!(
        exchanges,
        [r#"{backend="LLM1",endpoint="/chat/completions",status="",outcome="client_left"} 1"#]
    );
}

#[test]
fn labels_are_escaped() {
    let metrics = Metrics::leak();
    let labels = Labels {
        backend: "a\"b\\c\nd",
        ..CHAT
    };
    count_one(metrics, labels);
    let attempts = samples(&scrape(metrics), "openai_proxy_attempts_total");
    assert_eq!(attempts, [r#"{backend="a\"b\\c\nd",result="answered"} 1"#]);
}

#[test]
fn tokens_are_told_apart_by_modality_as_far_as_the_details_go() {
    for (total, details, expected) in [
        (10, [None, None, None], [0, 0, 0, 10]),
        (10, [None, Some(3), None], [0, 3, 0, 7]),
        (10, [Some(7), Some(3), None], [7, 3, 0, 0]),
        (10, [Some(2), Some(3), Some(4)], [2, 3, 4, 1]),
        (10, [Some(8), Some(3), None], [0, 0, 0, 10]),
        (10, [Some(u64::MAX), Some(u64::MAX), None], [0, 0, 0, 10]),
        (0, [None, None, None], [0, 0, 0, 0]),
    ] {
        let total = Some(total);
        assert_eq!(Tokens { total, details }.by_modality(), expected);
    }
    let metrics = Metrics::leak();
    let input = Tokens {
        total: Some(10),
        details: [None, Some(3), None],
    };
    let usage = Some(Usage {
        input,
        output: tokens(0),
        ..Usage::default()
    });
    count(
        metrics,
        &Facts {
            labels: CHAT,
            usage,
            ..Facts::default()
        },
    );
    let text = scrape(metrics);
    let modalities = |family| {
        let samples = samples(&text, family).into_iter();
        let ends = samples.map(|line| line.split("modality=").nth(1).map(str::to_owned));
        ends.collect::<Option<Vec<_>>>()
    };
    let input = modalities("gen_ai_client_inference_usage_input_tokens_total");
    assert_eq!(input.expect("labels"), [r#""audio"} 3"#, r#""unknown"} 7"#]);
    let output = modalities("gen_ai_client_inference_usage_output_tokens_total");
    assert_eq!(output.expect("labels"), [r#""unknown"} 0"#]);
}

#[test]
fn tokens_by_client_where_clients_have_names() {
    let metrics = Metrics::leak();
    let labels = Labels {
        client: "alice",
        ..CHAT
    };
    let usage = Some(Usage {
        input: tokens(3),
        output: tokens(4),
        ..Usage::default()
    });
    count(
        metrics,
        &Facts {
            labels,
            usage,
            ..Facts::default()
        },
    );
    let text = scrape(metrics);
    assert_eq!(
        samples(&text, "openai_proxy_client_exchanges_total"),
        [r#"{client="alice",outcome="complete"} 1"#]
    );
    assert_eq!(
        samples(&text, "openai_proxy_client_tokens_total"),
        [
            r#"{client="alice",type="input"} 3"#,
            r#"{client="alice",type="output"} 4"#
        ]
    );
    assert!(text.contains("# TYPE openai_proxy_client_tokens_total counter"));
}

/// The models under which exchanges with these are counted, in order.
fn shown(metrics: &'static Metrics, labels: &[Labels<'_>]) -> Vec<String> {
    let shown = labels.iter().map(|labels| {
        count_one(metrics, *labels);
        metrics.models.shown(labels).request.to_owned()
    });
    let shown: Vec<_> = shown.collect();
    let text = scrape(metrics);
    let counts = samples(&text, "gen_ai_client_inference_duration_seconds_count");
    for model in &shown {
        let label = format!("gen_ai_request_model=\"{model}\"");
        assert!(
            counts.iter().any(|sample| sample.contains(&label)),
            "{label}"
        );
    }
    shown
}

#[test]
fn a_model_is_shown_once_a_backend_has_answered_it() {
    let failing = Labels {
        request_model: "m",
        status: Some(StatusCode::NOT_FOUND),
        error_type: "404",
        ..CHAT
    };
    let answered = Labels {
        request_model: "m",
        ..CHAT
    };
    let without = Labels {
        request_model: "",
        ..CHAT
    };
    assert_eq!(
        shown(Metrics::leak(), &[failing, answered, failing, without]),
        ["_OTHER", "m", "m", "unknown"]
    );
}

#[test]
fn configured_models_are_shown_always_and_not_counted() {
    let names: Vec<_> = (0..150).map(|index| format!("m{index}")).collect();
    let sent = names.iter().map(|name| Labels {
        request_model: name,
        ..CHAT
    });
    let configured = |name| Labels {
        request_model: name,
        is_configured: true,
        status: Some(StatusCode::INTERNAL_SERVER_ERROR),
        ..CHAT
    };
    let configured = ["configured-1", "ü"].map(configured);
    let labels: Vec<_> = configured
        .into_iter()
        .chain(sent)
        .chain(configured)
        .collect();
    let shown = shown(Metrics::leak(), &labels);
    assert_eq!(shown[..2], ["configured-1", "ü"]);
    assert_eq!(shown[2..102], names[..100]);
    assert!(shown[102..152].iter().all(|model| model == "_OTHER"));
    assert_eq!(shown[152..], ["configured-1", "ü"]);
}

#[test]
fn names_that_clients_make_up_take_neither_series_nor_memory() {
    let metrics = Metrics::leak();
    let usage = Some(Usage {
        input: tokens(1),
        ..Usage::default()
    });
    for index in 0..10_000 {
        let name = format!("made-up-{index}");
        let labels = Labels {
            request_model: &name,
            response_model: &name,
            ..CHAT
        };
        count(
            metrics,
            &Facts {
                labels,
                usage,
                ..Facts::default()
            },
        );
    }
    let text = scrape(metrics);
    let tokens = samples(&text, "gen_ai_client_inference_usage_input_tokens_total");
    assert_eq!(tokens.len(), 101);
    assert!(
        tokens.iter().any(|sample| sample.ends_with("} 9900")),
        "{tokens:?}"
    );
    assert_eq!(worker::with(metrics, |worker| worker.known()), 100);
}

#[test]
fn configured_names_without_end_take_no_memory_of_the_known_kinds() {
    let metrics = Metrics::leak();
    for index in 0..2000 {
        let name = format!("backend-{index}");
        count_one(
            metrics,
            Labels {
                backend: &name,
                ..CHAT
            },
        );
    }
    assert!(worker::with(metrics, |worker| worker.known()) <= 1024);
    assert_eq!(
        samples(&scrape(metrics), "openai_proxy_exchanges_total").len(),
        2000
    );
}

#[test]
fn only_printable_ascii_of_at_most_128_characters_is_a_name() {
    let (long, too_long) = ("x".repeat(128), "x".repeat(129));
    for (name, is_shown) in [
        ("a", true),
        ("my model", true),
        (r#"a"\b"#, true),
        (&long, true),
        ("é", false),
        ("a\n", false),
        ("a\tb", false),
        ("\u{7f}", false),
        (&too_long, false),
    ] {
        let models = Models::default();
        let labels = Labels {
            request_model: name,
            response_model: name,
            ..CHAT
        };
        let shown = models.shown(&labels);
        let expected = if is_shown { name } else { "_OTHER" };
        assert_eq!([shown.request, shown.response], [expected; 2], "{name:?}");
    }
}
