//! `--metrics`: what is counted, under which labels, and who may scrape it.

use std::{net::TcpListener, process::Stdio};

use crate::{
    support::{
        Backend, DEMO_CONFIG, Metrics, Scrape, Server, TempFile, Wire, chunked, config_for,
        config_of, config_with, entry, nobody, post, post_with, response,
    },
    websocket::{SWITCH, handshake},
};

const METRICS: [&str; 2] = ["--metrics", "127.0.0.1:0"];

const EXCHANGES: &str = "openai_proxy_exchanges_total";
const IN_FLIGHT: &str = "openai_proxy_exchanges_in_flight";
const ATTEMPTS: &str = "openai_proxy_attempts_total";
const INPUT: &str = "gen_ai_client_inference_usage_input_tokens_total";
const DURATION: &str = "gen_ai_client_inference_duration_seconds_count";

fn start(config: &str) -> Server {
    Server::start_with(config, &METRICS, &[])
}

/// Sends one request on a connection of its own, and reads the response to its end.
async fn ask(server: &Server, request: &str) -> u16 {
    let mut client = Wire::connect(server.address).await;
    client.send(request).await;
    client.response().await.status()
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer sk-test\r\n\r\n")
}

/// The response of a chat completion.
fn completion(fields: &str) -> String {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let body = format!(r#"{{"id":"chatcmpl-1","model":"gpt-4o-2024-08-06"{fields}}}"#);
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// A stream of these events.
fn stream(events: &[&str]) -> Vec<u8> {
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let events: String = events
        .iter()
        .map(|event| format!("data: {event}\n\n"))
        .collect();
    [
        head.as_bytes(),
        &chunked(events.as_bytes(), &[events.len()]),
    ]
    .concat()
}

const USAGE: &str = r#","usage":{"prompt_tokens":17,"completion_tokens":9,"total_tokens":26,
    "prompt_tokens_details":{"cached_tokens":16,"audio_tokens":5},
    "completion_tokens_details":{"reasoning_tokens":4}}"#;

#[tokio::test]
async fn the_sums_are_those_of_what_was_sent() {
    let server = Server::demo(&[&METRICS[..], &["--workers", "2"]].concat());
    let metrics = Metrics::of(&server).await;
    let chat = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}]}"#;
    let streamed = r#"{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"Hello"}]}"#;
    let without_usage =
        r#"{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"Hello"}]}"#;
    let missing = r#"{"model":"demo-429","messages":[{"role":"user","content":"Hello"}]}"#;
    let mut sent = 0;
    for request in [
        post(chat),
        post(chat),
        post(streamed),
        post(without_usage),
        post(missing),
        get("/v1/models"),
        get("/v1/nothing"),
        "GET /v1/models HTTP/1.1\r\nHost: proxy.test\r\n\r\n".to_owned(), // no credentials
        "GET /v1/../x HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer x\r\n\r\n".to_owned(),
    ] {
        ask(&server, &request).await;
        sent += 1;
    }
    for other in ["/health", "/livez", "/readyz"] {
        ask(&server, &get(other)).await; // no exchanges
    }
    let scrape = metrics.reach(EXCHANGES, &[], f64::from(sent)).await;
    assert_eq!(scrape.sum(IN_FLIGHT, &[]), 0.0);
    let chats = [("backend", "LLM1"), ("endpoint", "/chat/completions")];
    assert_eq!(
        scrape.sum(EXCHANGES, &[&chats[..], &[("status", "200")]].concat()),
        4.0
    );
    assert_eq!(
        scrape.sum(EXCHANGES, &[("status", "429"), ("outcome", "complete")]),
        1.0
    );
    assert_eq!(
        scrape.sum(EXCHANGES, &[("endpoint", "other"), ("outcome", "rejected")]),
        1.0
    );
    let unauthorized = [("status", "401"), ("outcome", "rejected"), ("backend", "")];
    assert_eq!(scrape.sum(EXCHANGES, &unauthorized), 1.0);
    // Each answer with an operation has usage, or is missing it.
    let with_usage = scrape.sum("gen_ai_client_inference_operation_input_tokens_count", &[]);
    assert_eq!(with_usage, 3.0);
    let not_sent = [("backend", "LLM1"), ("reason", "not_sent")];
    assert_eq!(
        scrape.sum("openai_proxy_usage_missing_total", &not_sent),
        1.0
    );
    assert_eq!(scrape.sum("openai_proxy_usage_missing_total", &[]), 1.0);
    assert_eq!(scrape.sum(DURATION, &[]), 5.0);
    let failed = [("error_type", "429"), ("gen_ai_request_model", "_OTHER")];
    assert_eq!(scrape.sum(DURATION, &failed), 1.0);
    let first = "gen_ai_client_inference_time_to_first_chunk_seconds_count";
    assert_eq!(
        scrape.sum(first, &[("gen_ai_request_model", "gpt-4o")]),
        2.0
    );
    assert_eq!(
        scrape.sum("openai_proxy_time_per_output_token_seconds_count", &[]),
        1.0
    );
    assert!(scrape.sum("openai_proxy_response_bytes_total", &[("backend", "LLM1")]) > 1000.0);
    let sent = [chat, chat, streamed, without_usage, missing].map(str::len);
    assert_eq!(
        scrape.sum("openai_proxy_request_bytes_total", &[("backend", "LLM1")]),
        sent.iter().sum::<usize>() as f64
    );
}

#[tokio::test]
async fn usage_is_counted_under_the_models_and_the_provider() {
    let backend = Backend::start().await;
    let entry = entry("LLM1", backend.address, r#""provider":"groq""#);
    backend.answer_all(completion(USAGE));
    let server = start(&config_of(&[entry], ""));
    let metrics = Metrics::of(&server).await;
    assert_eq!(ask(&server, &post(r#"{"model":"gpt-4o"}"#)).await, 200);
    let scrape = metrics.reach(EXCHANGES, &[], 1.0).await;
    let call = [
        ("backend", "LLM1"),
        ("gen_ai_operation_name", "chat"),
        ("gen_ai_provider_name", "groq"),
        ("gen_ai_request_model", "gpt-4o"),
    ];
    let with = |more: &[(&'static str, &'static str)]| [&call[..], more].concat();
    let model = ("gen_ai_response_model", "gpt-4o-2024-08-06");
    for (family, modality, tokens) in [
        ("input", "audio", 5.0),
        ("input", "unknown", 12.0),
        ("output", "unknown", 9.0),
        ("cache_read_input", "unknown", 16.0),
        ("reasoning_output", "unknown", 4.0),
    ] {
        let family = format!("gen_ai_client_inference_usage_{family}_tokens_total");
        let labels = with(&[model, ("gen_ai_token_modality", modality)]);
        assert_eq!(scrape.sum(&family, &labels), tokens, "{family} {modality}");
    }
    assert_eq!(scrape.sum(INPUT, &[]), 17.0);
    let cache_write = "gen_ai_client_inference_usage_cache_write_input_tokens_total";
    assert!(scrape.samples(cache_write, &[]).is_empty());
    let histogram = "gen_ai_client_inference_operation_output_tokens";
    assert_eq!(scrape.sum(&format!("{histogram}_sum"), &call), 9.0);
    assert_eq!(
        scrape.sum(&format!("{histogram}_bucket"), &with(&[("le", "4")])),
        0.0
    );
    assert_eq!(
        scrape.sum(&format!("{histogram}_bucket"), &with(&[("le", "16")])),
        1.0
    );
    assert_eq!(scrape.sum(DURATION, &call), 1.0);
    assert!(!scrape.0.contains("error_type"), "{}", scrape.0);
    let head = [("backend", "LLM1"), ("endpoint", "/chat/completions")];
    assert_eq!(
        scrape.sum("openai_proxy_time_to_head_seconds_count", &head),
        1.0
    );
    assert!(!scrape.0.contains("openai_proxy_client_"), "{}", scrape.0);
}

#[tokio::test]
async fn a_configured_model_is_shown_whatever_comes_of_it() {
    let entries = [entry("LLM1", nobody().await, r#""model":"llama3.2 ü""#)];
    let server = start(&config_of(&entries, ""));
    let metrics = Metrics::of(&server).await;
    assert_eq!(ask(&server, &post(r#"{"model":"mine"}"#)).await, 502);
    let scrape = metrics
        .reach(EXCHANGES, &[("outcome", "failed")], 1.0)
        .await;
    let labels = [
        ("gen_ai_request_model", "llama3.2 ü"),
        ("error_type", "connection_refused"),
    ];
    assert_eq!(scrape.sum(DURATION, &labels), 1.0);
    let refused = [("backend", "LLM1"), ("result", "connection_refused")];
    assert_eq!(scrape.sum(ATTEMPTS, &refused), 1.0);
    assert!(
        scrape
            .samples("openai_proxy_time_to_head_seconds_count", &[])
            .is_empty()
    );
}

#[tokio::test]
async fn names_that_a_client_makes_up_are_no_series() {
    let backend = Backend::start().await;
    let config = config_for(&backend);
    backend.serve_all(|mut wire| async move {
        while let Some(request) = wire.try_request().await {
            let body = request.json();
            let status = if body["fails"].is_null() {
                "200 OK"
            } else {
                "404 Not Found"
            };
            let answer = format!(
                r#"{{"model":{},"usage":{{"total_tokens":1,"prompt_tokens":1}}}}"#,
                body["model"]
            );
            let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\n");
            wire.send(format!(
                "{head}Content-Length: {}\r\n\r\n{answer}",
                answer.len()
            ))
            .await;
        }
    });
    let server = start(&config);
    let metrics = Metrics::of(&server).await;
    let mut client = Wire::connect(server.address).await;
    let mut send = async |body: String| {
        client.send(post(&body)).await;
        client.response().await;
    };
    send(r#"{"model":"m0","fails":1}"#.to_owned()).await;
    for name in ["", "\\u0007", "é", &"x".repeat(129)] {
        send(format!(r#"{{"model":"{name}"}}"#)).await;
    }
    for index in 0..250 {
        send(format!(r#"{{"model":"m{index}"}}"#)).await;
    }
    send(r#"{"model":"m0","fails":1}"#.to_owned()).await;
    let scrape = metrics.reach(EXCHANGES, &[], 256.0).await;
    let tokens = scrape.samples(INPUT, &[]);
    let models = |label: &str| {
        let label = format!("{label}=\"");
        let values = tokens
            .iter()
            .filter_map(|(labels, _)| labels.split(&label).nth(1));
        let mut values: Vec<_> = values.filter_map(|value| value.split('"').next()).collect();
        values.sort_unstable();
        values.dedup();
        values.len()
    };
    // 100, `_OTHER`, and `unknown` where the name is empty.
    assert!(
        (101..=102).contains(&models("gen_ai_request_model")),
        "{tokens:?}"
    );
    assert!(
        (101..=102).contains(&models("gen_ai_response_model")),
        "{tokens:?}"
    );
    assert_eq!(scrape.sum(INPUT, &[("gen_ai_request_model", "m99")]), 1.0);
    assert_eq!(scrape.sum(INPUT, &[("gen_ai_request_model", "m100")]), 0.0);
    assert!(scrape.sum(INPUT, &[("gen_ai_request_model", "_OTHER")]) >= 150.0);
    // What failed before it was answered is shown under no name of its own, afterwards it is.
    let not_found = |model| [("error_type", "404"), ("gen_ai_request_model", model)];
    assert_eq!(scrape.sum(DURATION, &not_found("_OTHER")), 1.0);
    assert_eq!(scrape.sum(DURATION, &not_found("m0")), 1.0);
}

#[tokio::test]
async fn each_backend_that_was_tried_is_an_attempt() {
    let busy = Backend::start().await;
    let free = Backend::start().await;
    let entries = [
        entry("refuses", nobody().await, ""),
        entry("busy", busy.address, ""),
        entry("free", free.address, ""),
    ];
    busy.answer_all(response("429 Too Many Requests", "{}"));
    free.answer_all(completion(USAGE));
    let server = start(&config_of(&entries, r#""failover_on":[429]"#));
    let metrics = Metrics::of(&server).await;
    let idle = metrics.scrape().await;
    let busy_with = "openai_proxy_backend_in_flight";
    assert_eq!(idle.samples(busy_with, &[]).len(), 3);
    assert_eq!(idle.sum(busy_with, &[]), 0.0);
    let cooling = "openai_proxy_backend_cooling_down";
    assert_eq!(idle.samples(cooling, &[]).len(), 3);
    assert_eq!(idle.sum(cooling, &[]), 0.0);
    assert_eq!(ask(&server, &post(r#"{"model":"m"}"#)).await, 200);
    let scrape = metrics.reach(EXCHANGES, &[("backend", "free")], 1.0).await;
    for (backend, result) in [
        ("refuses", "connection_refused"),
        ("busy", "status_429"),
        ("free", "answered"),
    ] {
        let labels = [("backend", backend), ("result", result)];
        assert_eq!(scrape.sum(ATTEMPTS, &labels), 1.0, "{backend}");
    }
    assert_eq!(scrape.sum(ATTEMPTS, &[]), 3.0);
    assert_eq!(scrape.sum(EXCHANGES, &[]), 1.0);
    assert_eq!(scrape.sum(cooling, &[("backend", "refuses")]), 1.0);
    assert_eq!(scrape.sum(cooling, &[("backend", "free")]), 0.0);
    // Answers that were dropped add no usage.
    assert_eq!(scrape.sum(INPUT, &[]), 17.0);
}

#[tokio::test]
async fn exchanges_are_in_flight_until_they_end_however_they_do() {
    let backend = Backend::start().await;
    let server = start(&config_for(&backend));
    let metrics = Metrics::of(&server).await;

    // The client leaves before there is a head.
    let mut client = Wire::connect(server.address).await;
    client.send(post(r#"{"model":"m"}"#)).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    let scrape = metrics.reach(IN_FLIGHT, &[], 1.0).await;
    let of_backend = "openai_proxy_backend_in_flight";
    assert_eq!(scrape.sum(of_backend, &[("backend", "LLM1")]), 1.0);
    drop(client);
    let scrape = metrics.reach(IN_FLIGHT, &[], 0.0).await;
    metrics.reach(of_backend, &[("backend", "LLM1")], 0.0).await;
    let left = [("outcome", "client_left"), ("backend", "LLM1")];
    assert_eq!(
        scrape.sum(EXCHANGES, &[&left[..], &[("status", "")]].concat()),
        1.0
    );
    assert_eq!(scrape.sum(DURATION, &[("error_type", "client_left")]), 1.0);
    assert_eq!(scrape.sum(ATTEMPTS, &[("result", "client_left")]), 1.0);

    // Behind it.
    let mut client = Wire::connect(server.address).await;
    client.send(post(r#"{"model":"m"}"#)).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123")
        .await;
    client.until("123").await;
    metrics.reach(IN_FLIGHT, &[], 1.0).await;
    drop(client);
    let scrape = metrics.reach(IN_FLIGHT, &[], 0.0).await;
    assert_eq!(
        scrape.sum(EXCHANGES, &[&left[..], &[("status", "200")]].concat()),
        1.0
    );
    let bytes = "openai_proxy_response_bytes_total";
    assert_eq!(scrape.sum(bytes, &[]), 3.0);
    let reason = [("reason", "not_applicable")];
    assert_eq!(scrape.sum("openai_proxy_usage_missing_total", &reason), 1.0);

    // The backend breaks off.
    let mut client = Wire::connect(server.address).await;
    client.send(post(r#"{"model":"m"}"#)).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n123")
        .await;
    drop(wire);
    client.rest().await;
    let scrape = metrics.reach(IN_FLIGHT, &[], 0.0).await;
    assert_eq!(scrape.sum(EXCHANGES, &[("outcome", "broken")]), 1.0);
    let broken = [("error_type", "connection_terminated")];
    assert_eq!(scrape.sum(DURATION, &broken), 1.0);
    let cut_off = [("reason", "cut_off")];
    assert_eq!(
        scrape.sum("openai_proxy_usage_missing_total", &cut_off),
        1.0
    );
}

#[tokio::test]
async fn a_websocket_is_in_flight_until_it_is_closed() {
    let backend = Backend::start().await;
    let server = start(&config_for(&backend));
    let metrics = Metrics::of(&server).await;
    let mut client = Wire::connect(server.address).await;
    client.send(handshake("/v1/realtime", "")).await;
    let mut wire = backend.accept().await;
    wire.head().await;
    wire.send(SWITCH).await;
    client.head().await;
    client.send("ping!").await;
    wire.exactly(5).await;
    wire.send("pong").await;
    client.exactly(4).await;
    metrics.reach(IN_FLIGHT, &[], 1.0).await;
    drop(wire);
    client.closed().await;
    drop(client);
    let scrape = metrics.reach(IN_FLIGHT, &[], 0.0).await;
    let labels = [
        ("endpoint", "/realtime"),
        ("status", "101"),
        ("outcome", "complete"),
    ];
    assert_eq!(scrape.sum(EXCHANGES, &labels), 1.0);
    assert_eq!(scrape.sum("openai_proxy_request_bytes_total", &[]), 5.0);
    assert_eq!(scrape.sum("openai_proxy_response_bytes_total", &[]), 4.0);
}

#[tokio::test]
async fn streams_of_completions_without_done_are_counted() {
    let backend = Backend::start().await;
    let config = config_for(&backend);
    backend.answer_all(stream(&[r#"{"choices":[{"delta":{"content":"Hi"}}]}"#]));
    let server = start(&config);
    let metrics = Metrics::of(&server).await;
    let body = r#"{"model":"m","stream":true}"#;
    let of_path = |path: &str| post(body).replace("/chat/completions", path);
    for path in ["/chat/completions", "/completions", "/responses", "/other"] {
        assert_eq!(ask(&server, &of_path(path)).await, 200);
    }
    let scrape = metrics
        .reach(EXCHANGES, &[("outcome", "complete")], 4.0)
        .await;
    let without_done = "openai_proxy_streams_without_done_total";
    assert_eq!(scrape.sum(without_done, &[("backend", "LLM1")]), 2.0);
}

#[tokio::test]
async fn a_reload_takes_nothing_back() {
    let backend = Backend::start().await;
    let config = TempFile::new("config.json", &config_for(&backend));
    let other = config_of(&[entry("LLM2", backend.address, "")], "");
    backend.answer_all(completion(USAGE));
    let mut command = Server::command();
    command
        .arg("--config")
        .arg(&config.path)
        .args(METRICS)
        .arg("--watch");
    let server = Server::spawn(&mut command);
    let metrics = Metrics::of(&server).await;
    ask(&server, &post(r#"{"model":"m"}"#)).await;
    metrics.reach(EXCHANGES, &[], 1.0).await;
    std::fs::write(&config.path, other).expect("a temporary file");
    server.logged("configuration reloaded").await;
    ask(&server, &post(r#"{"model":"m"}"#)).await;
    let scrape = metrics.reach(EXCHANGES, &[], 2.0).await;
    assert_eq!(scrape.sum(EXCHANGES, &[("backend", "LLM1")]), 1.0);
    assert_eq!(scrape.sum(EXCHANGES, &[("backend", "LLM2")]), 1.0);
    let cooling = scrape.samples("openai_proxy_backend_cooling_down", &[]);
    assert_eq!(cooling, [(r#"backend="LLM2""#.to_owned(), 0.0)]);
}

#[cfg(unix)]
#[tokio::test]
async fn draining_is_answered_to_its_end() {
    let backend = Backend::start().await;
    let mut server = start(&config_for(&backend));
    let metrics = Metrics::of(&server).await;
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    assert_eq!(
        metrics.scrape().await.sum("openai_proxy_draining", &[]),
        0.0
    );
    server.signal("TERM");
    let scrape = metrics.reach("openai_proxy_draining", &[], 1.0).await;
    assert_eq!(scrape.sum(IN_FLIGHT, &[]), 1.0);
    assert_eq!(ask(&server, &post("{}")).await, 503);
    let rejected = [("status", "503"), ("outcome", "rejected")];
    metrics.reach(EXCHANGES, &rejected, 1.0).await;
    wire.send(response("200 OK", "{}")).await;
    client.response().await;
    drop(client);
    assert_eq!(server.ended().await, Some(0));
}

#[tokio::test]
async fn nothing_in_a_scrape_is_a_secret_or_a_persons() {
    let backend = Backend::start().await;
    let url = format!("http://{}/base-s3cret?key=query-s3cret", backend.address);
    let config = format!(
        r#"{{"primary_backends":[{{"name":"LLM1","url":"{url}","headers":{{"x-org":"header-s3cret"}}}}]}}"#
    );
    backend.answer_all(completion(USAGE).replace("chatcmpl-1", "id-s3cret-1"));
    let server = start(&config);
    let metrics = Metrics::of(&server).await;
    let request = post_with(
        "x-request-id: request-s3cret\r\n",
        r#"{"user":"user-s3cret"}"#,
    );
    let request = request
        .replace("sk-test", "sk-s3cret")
        .replace(" HTTP/1.1", "/path-s3cret?q=s3cret HTTP/1.1");
    assert_eq!(ask(&server, &request).await, 200);
    let Scrape(text) = metrics.reach(EXCHANGES, &[], 1.0).await;
    assert!(
        !text.contains("s3cret") && !text.contains("127.0.0.1"),
        "{text}"
    );
}

#[tokio::test]
async fn only_its_own_port_answers_scrapes() {
    let server = Server::demo(&METRICS);
    let metrics = Metrics::of(&server).await;
    assert_ne!(metrics.address.port(), 0);
    assert_ne!(metrics.address, server.address);
    assert!(
        server.log().contains(" INFO metrics on http://127.0.0.1:"),
        "{}",
        server.log()
    );
    for (method, path, status) in [
        ("GET", "/metrics", 200),
        ("GET", "/metrics?x=1", 200),
        ("GET", "/", 404),
        ("GET", "/v1/chat/completions", 404),
        ("POST", "/metrics", 405),
    ] {
        let mut wire = Wire::connect(metrics.address).await;
        wire.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: metrics.test\r\n\r\n"
        ))
        .await;
        let response = wire.response().await;
        assert_eq!(response.status(), status, "{method} {path}");
        let allow = (status == 405).then(|| "GET, HEAD".to_owned());
        assert_eq!(response.field("allow"), allow);
        if status == 200 {
            let kind = response.field("content-type").expect("a type");
            assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
        }
    }
    // On the main port it is a path like any other.
    assert_eq!(ask(&server, &get("/metrics")).await, 404); // the mock's
    metrics
        .reach(EXCHANGES, &[("endpoint", "other"), ("status", "404")], 1.0)
        .await;
}

#[tokio::test]
async fn without_the_option_there_are_no_metrics() {
    let backend = Backend::start().await;
    let config = config_with(&backend, "");
    let record = backend.record_all(response("200 OK", "{}"));
    let server = Server::start(&config);
    assert_eq!(ask(&server, &get("/metrics")).await, 200);
    let requests = record.take();
    assert_eq!(requests[0].start_line(), "GET /v1/metrics HTTP/1.1");
    assert!(!server.stop().contains("metrics on"));
}

#[test]
fn an_address_that_is_taken_is_told_with_status_2() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("bound").to_string();
    let config = TempFile::new("config.json", DEMO_CONFIG);
    for (address, message) in [
        (&taken[..], format!("cannot serve metrics on {taken}: ")),
        (
            "9464",
            "`--metrics 9464`: it must be an IP address and a port, such as".to_owned(),
        ),
    ] {
        let mut command = Server::command();
        command
            .arg("--config")
            .arg(&config.path)
            .args(["--metrics", address]);
        let output = command.stdin(Stdio::null()).output().expect("it starts");
        assert_eq!(output.status.code(), Some(2), "{address}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(&message), "{stderr}");
        assert!(output.stdout.is_empty(), "it has listened");
    }
}

#[tokio::test]
async fn clients_with_keys_are_counted_by_name() {
    let backend = Backend::start().await;
    let clients = ["alice", "bob"].map(|name| {
        let hash = tower_openai_proxy::keys::hash(format!("sk-{name}"));
        format!(r#"{{"name":"{name}","hash":"{hash}"}}"#)
    });
    let keys = TempFile::new(
        "keys.json",
        &format!(r#"{{"keys":[{}]}}"#, clients.join(",")),
    );
    let keys_file = format!(r#""keys_file":"{}""#, keys.path.display());
    let config = config_with(&backend, &keys_file);
    backend.answer_all(completion(USAGE));
    let server = start(&config);
    let metrics = Metrics::of(&server).await;
    for (key, status) in [("alice", 200), ("alice", 200), ("bob", 200), ("eve", 401)] {
        let request = post(r#"{"model":"m"}"#).replace("sk-test", &format!("sk-{key}"));
        assert_eq!(ask(&server, &request).await, status, "{key}");
    }
    let scrape = metrics.reach(EXCHANGES, &[], 4.0).await;
    let rejected = [("status", "401"), ("outcome", "rejected"), ("backend", "")];
    assert_eq!(scrape.sum(EXCHANGES, &rejected), 1.0);
    for (client, exchanges) in [("alice", 2.0), ("bob", 1.0)] {
        let complete = [("client", client), ("outcome", "complete")];
        let family = "openai_proxy_client_exchanges_total";
        assert_eq!(scrape.sum(family, &complete), exchanges, "{client}");
        let family = "openai_proxy_client_tokens_total";
        let of_type = |kind| scrape.sum(family, &[("client", client), ("type", kind)]);
        assert_eq!(
            [of_type("input"), of_type("output")],
            [exchanges * 17.0, exchanges * 9.0]
        );
    }
    assert_eq!(
        scrape
            .samples("openai_proxy_client_exchanges_total", &[])
            .len(),
        2
    );
}
