//! `--log-format json`: every line on standard error is one object.

use std::process::{Command, Stdio};

use serde_json::{Map, Value};

use crate::support::{
    Backend, DEMO_CONFIG, Server, TempFile, Wire, chunked, config_of, config_with, entry, nobody,
    post_with, response,
};

const JSON: [&str; 2] = ["--log-format", "json"];

/// Each line, as an object with the fields that all of them have.
#[track_caller]
fn lines(log: &str) -> Vec<Map<String, Value>> {
    let line = |line: &str| {
        let Ok(Value::Object(line)) = serde_json::from_str(line) else {
            panic!("{line:?} is no object");
        };
        let timestamp = line["timestamp"].as_str().expect("a text");
        let digits = timestamp.replace(|c: char| c.is_ascii_digit(), "0");
        assert_eq!(digits, "0000-00-00T00:00:00.000000Z");
        let level = line["level"].as_str().expect("a text");
        assert!(
            ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level),
            "{level}"
        );
        assert!(
            line["target"].is_string() && line["message"].is_string(),
            "{line:?}"
        );
        let is_flat = |value: &Value| value.is_string() || value.is_number() || value.is_boolean();
        assert!(line.values().all(is_flat), "{line:?}");
        line
    };
    log.lines().map(line).collect()
}

async fn exchange(server: &Server) -> Map<String, Value> {
    let log = server.logged(r#""message":"exchange""#).await;
    let mut exchanges = lines(&log)
        .into_iter()
        .filter(|line| line["message"] == "exchange");
    exchanges.next().expect("an exchange")
}

#[tokio::test]
async fn the_whole_life_of_a_server_is_logged_as_objects() {
    let config = TempFile::new("config.json", DEMO_CONFIG);
    let mut command = Server::command();
    command.arg("--config").arg(&config.path).args(JSON);
    command.args(["--demo", "--watch", "--metrics", "127.0.0.1:0"]);
    command.env("RUST_LOG", "debug");
    let server = Server::spawn(&mut command);
    let mut client = Wire::connect(server.address).await;
    client
        .send(post_with("", r#"{"model":"gpt-4o","messages":[]}"#))
        .await;
    client.response().await;
    client.send("nonsense\r\n\r\n").await;
    client.rest().await;
    std::fs::write(&config.path, "{\n\"primary_backends\": 1 }").expect("a temporary file");
    server.logged("the old configuration stays").await;
    let lines = lines(&server.stop());
    for (level, message) in [
        ("INFO", "starting"),
        ("INFO", "metrics on http://127.0.0.1:"),
        ("INFO", "exchange"),
        ("ERROR", "`primary_backends` must be a list"),
        ("ERROR", "the old configuration stays"),
    ] {
        let is_it = |line: &&Map<String, Value>| {
            line["level"] == level
                && line["message"]
                    .as_str()
                    .is_some_and(|it| it.contains(message))
        };
        assert!(
            lines.iter().any(|line| is_it(&line)),
            "{message} isn't in {lines:?}"
        );
    }
    let start = &lines[0];
    assert_eq!(start["target"], "tower_openai_proxy_server");
    assert_eq!(start["openai_proxy.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(start["openai_proxy.backends"], "LLM1");
}

#[tokio::test]
async fn what_is_wrong_with_the_start_is_told_as_an_object() {
    let config = TempFile::new("config.json", "{\n  \"primary_backends\": \"x\"\n}");
    let config = config.path.to_str().expect("UTF-8");
    let good = TempFile::new("config.json", DEMO_CONFIG);
    let good = good.path.to_str().expect("UTF-8");
    for (arguments, message) in [
        (
            &["--config", config][..],
            "`primary_backends` must be a list of backends, not a string",
        ),
        (
            &["--config", good, "--listen", "192.0.2.1:1"],
            "cannot listen on 192.0.2.1:1: ",
        ),
        (
            &["--config", good, "--metrics", "192.0.2.1:1"],
            "cannot serve metrics on 192.0.2.1:1: ",
        ),
        (&["--nothing"], "invalid option '--nothing'\nTry --help."),
    ] {
        for arguments in [
            [&JSON[..], arguments].concat(),
            [arguments, &["--log-format=json"]].concat(),
        ] {
            let mut command = Server::command();
            let output = command.args(arguments).stdin(Stdio::null()).output();
            let output = output.expect("it starts");
            assert_eq!(output.status.code(), Some(2));
            let lines = lines(std::str::from_utf8(&output.stderr).expect("UTF-8"));
            assert_eq!(lines.len(), 1, "{lines:?}");
            let told = lines[0]["message"].as_str().expect("a text");
            assert!(told.contains(message), "{told}");
            assert_eq!(lines[0]["level"], "ERROR");
        }
    }
}

#[test]
fn another_format_is_refused() {
    let mut command: Command = Server::command();
    let output = command
        .args(["--log-format", "yaml"])
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        message,
        "`--log-format yaml`: it must be text or json\nTry --help.\n"
    );
}

#[tokio::test]
async fn an_exchange_has_opentelemetrys_names() {
    let backend = Backend::start().await;
    let free = Backend::start().await;
    let events = "data: {\"model\":\"gpt-4o-2024-08-06\",\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n\
        data: {\"usage\":{\"prompt_tokens\":17,\"completion_tokens\":9,\
        \"prompt_tokens_details\":{\"cached_tokens\":16},\
        \"completion_tokens_details\":{\"reasoning_tokens\":4}}}\n\ndata: [DONE]\n\n";
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nx-request-id: req-2\r\n\
        Transfer-Encoding: chunked\r\n\r\n";
    let entries = [
        entry("busy", backend.address, ""),
        entry("LLM2", free.address, r#""provider":"groq""#),
    ];
    backend.answer_all(response("429 Too Many Requests", "{}"));
    free.answer_all(
        [
            head.as_bytes(),
            &chunked(events.as_bytes(), &[events.len()]),
        ]
        .concat(),
    );
    let server = Server::start_with(&config_of(&entries, r#""failover_on":[429]"#), &JSON, &[]);
    let mut client = Wire::connect(server.address).await;
    let fields = "x-request-id: req-1\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    client
        .send(post_with(fields, r#"{"model":"gpt-4o","stream":true}"#))
        .await;
    client.response().await;
    let mut line = exchange(&server).await;
    assert_eq!(line["target"], "tower_openai_proxy::access");
    assert_eq!(line["level"], "INFO");
    let mut times = Vec::new();
    for time in [
        "openai_proxy.time_to_head",
        "gen_ai.response.time_to_first_chunk",
        "openai_proxy.duration",
    ] {
        times.push(
            line.remove(time)
                .and_then(|time| time.as_f64())
                .expect(time),
        );
    }
    assert!(
        times.is_sorted() && times[0] > 0.0 && times[2] < 60.0,
        "{times:?}"
    );
    for common in ["timestamp", "level", "target", "message"] {
        line.remove(common);
    }
    let expected = serde_json::json!({
        "openai_proxy.backend": "LLM2",
        "gen_ai.provider.name": "groq",
        "http.response.status_code": 200,
        "http.response.body.size": events.len(),
        "openai_proxy.outcome": "complete",
        "openai_proxy.end": "complete",
        "openai_proxy.endpoint": "/chat/completions",
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.response.model": "gpt-4o-2024-08-06",
        "gen_ai.usage.input_tokens": 17,
        "gen_ai.usage.cache_read.input_tokens": 16,
        "gen_ai.usage.output_tokens": 9,
        "gen_ai.usage.reasoning.output_tokens": 4,
        "openai_proxy.attempts": 2,
        "openai_proxy.request_id": "req-1",
        "openai_proxy.backend_request_id": "req-2",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
    });
    assert_eq!(Value::from(line), expected);
}

#[tokio::test]
async fn what_is_not_known_is_absent_and_what_went_wrong_is_told() {
    let entries = [entry("LLM\\1", nobody().await, "")];
    let entries = entries.map(|entry| entry.replace('\\', r"\\"));
    let server = Server::start_with(&config_of(&entries, ""), &JSON, &[]);
    let mut client = Wire::connect(server.address).await;
    client
        .send(post_with(
            "x-request-id: a b\r\n",
            r#"{"model":"not plain"}"#,
        ))
        .await;
    client.response().await;
    let line = exchange(&server).await;
    let mut names: Vec<_> = line.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "error.type",
            "gen_ai.operation.name",
            "gen_ai.provider.name",
            "http.response.body.size",
            "http.response.status_code",
            "level",
            "message",
            "openai_proxy.backend",
            "openai_proxy.cause",
            "openai_proxy.duration",
            "openai_proxy.end",
            "openai_proxy.endpoint",
            "openai_proxy.outcome",
            "openai_proxy.time_to_head",
            "target",
            "timestamp",
        ]
    );
    assert_eq!(line["openai_proxy.backend"], r"LLM\1");
    assert_eq!(line["error.type"], "connection_refused");
    assert_eq!(line["openai_proxy.outcome"], "failed");
    assert_eq!(line["http.response.status_code"], 502);
}

#[tokio::test]
async fn rust_log_holds_for_objects_too() {
    let backend = Backend::start().await;
    let config = config_with(&backend, "");
    backend.answer_all(response("200 OK", "{}"));
    let server = Server::start_with(&config, &JSON, &[("RUST_LOG", "warn")]);
    let mut client = Wire::connect(server.address).await;
    client.send(post_with("", "{}")).await;
    client.response().await;
    assert_eq!(server.stop(), "");
}
