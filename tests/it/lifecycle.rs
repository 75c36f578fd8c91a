//! From the check before a start to the end: probes, the delay of the drain, and signals.

#![cfg(unix)]

use std::{
    net::TcpListener,
    process::{Command, Output},
    time::Duration,
};

use tokio::time::timeout;

use crate::support::{
    Backend, DEMO_CONFIG, Message, Server, TempFile, Wire, config_for, config_of, entry, nobody,
    post, response, soon,
};

async fn ask(server: &Server, method: &str, path: &str) -> Message {
    try_ask(server, method, path).await.expect("an answer")
}

/// None if the drain begins before the server has seen any of the request.
async fn try_ask(server: &Server, method: &str, path: &str) -> Option<Message> {
    let mut client = Wire::connect(server.address).await;
    let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client.send(request).await;
    let head = client.try_head().await?;
    let body = client.rest().await;
    Some(Message { head, body })
}

/// The statuses of `/livez`, `/readyz` and `/health`; 0 without an answer.
async fn probes(server: &Server) -> [u16; 3] {
    let mut statuses = [0; 3];
    for (status, path) in statuses.iter_mut().zip(["/livez", "/readyz", "/health"]) {
        let answer = try_ask(server, "GET", path).await;
        *status = answer.map_or(0, |answer| answer.status());
    }
    statuses
}

/// Waits until the probes have these statuses.
async fn until_probes(server: &Server, statuses: [u16; 3]) {
    soon("the statuses", async {
        while probes(server).await != statuses {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// A server with further arguments, and its backend.
async fn start(arguments: &[&str]) -> (Server, Backend) {
    let backend = Backend::start().await;
    let server = Server::start_with(&config_for(&backend), arguments, &[]);
    (server, backend)
}

/// A request in flight: its client and what its backend got.
async fn in_flight(server: &Server, backend: &Backend) -> (Wire, Wire) {
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    (client, wire)
}

// Probes.

#[tokio::test]
async fn the_probes_are_answered_without_a_backend() {
    let (server, backend) = start(&[]).await;
    for path in ["/livez", "/readyz", "/livez?verbose", "/readyz?a=b"] {
        let answer = ask(&server, "GET", path).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.json()["status"], "ok");
        let answer = ask(&server, "HEAD", path).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert!(answer.body.is_empty());
    }
    assert!(!backend.is_contacted().await);
    assert!(!server.stop().contains(" exchange "));
}

#[tokio::test]
async fn other_methods_and_paths_are_no_probes() {
    let (server, backend) = start(&[]).await;
    for path in ["/livez", "/readyz"] {
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let answer = ask(&server, method, path).await;
            assert_eq!(answer.status(), 404, "{method} {path}");
            assert_eq!(answer.error_code(), "destination_not_found");
        }
    }
    assert!(!backend.is_contacted().await);
    backend.answer_all(response("200 OK", "forwarded"));
    for path in ["/livez/", "/v1/readyz"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer k\r\n\r\n");
        let mut client = Wire::connect(server.address).await;
        client.send(request).await;
        assert_eq!(client.response().await.body, b"forwarded", "{path}");
    }
}

// The delay of the drain.

#[tokio::test]
async fn requests_are_served_during_the_delay_while_the_server_is_not_ready() {
    for signal in ["TERM", "INT"] {
        let (mut server, backend) = start(&["--drain-delay", "600"]).await;
        assert_eq!(probes(&server).await, [200, 200, 200]);
        let (mut client, mut wire) = in_flight(&server, &backend).await;
        server.signal(signal);
        until_probes(&server, [200, 503, 200]).await;
        assert_eq!(
            ask(&server, "GET", "/readyz").await.json()["status"],
            "draining"
        );
        assert_eq!(ask(&server, "GET", "/health").await.json()["status"], "ok");

        // On a connection that was there before, and on a new one.
        wire.send(response("200 OK", "first")).await;
        assert_eq!(client.response().await.body, b"first");
        client.send(post("{}")).await;
        wire.request().await;
        wire.send(response("200 OK", "second")).await;
        let answer = client.response().await;
        assert_eq!(answer.body, b"second");
        assert_eq!(answer.field("connection"), None);
        let mut client = Wire::connect(server.address).await;
        client.send(post("{}")).await;
        wire.request().await;
        wire.send(response("200 OK", "third")).await;
        assert_eq!(client.response().await.body, b"third");
        assert!(server.is_running());
    }
}

#[tokio::test]
async fn the_drain_begins_when_the_delay_is_over() {
    let (mut server, backend) = start(&["--drain-delay", "0.3"]).await;
    let (mut client, mut wire) = in_flight(&server, &backend).await;
    let mut idle = Wire::connect(server.address).await;
    idle.send("GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(idle.response().await.status(), 200);
    server.signal("TERM");
    until_probes(&server, [200, 503, 503]).await;
    idle.closed().await;
    let refused = ask(&server, "GET", "/v1/models").await;
    assert_eq!(refused.status(), 503);
    let health = ask(&server, "GET", "/health").await;
    assert_eq!(health.json()["status"], "draining");
    wire.send(response("200 OK", "late")).await;
    assert_eq!(client.response().await.body, b"late");
    client.closed().await;
    assert_eq!(soon("the end", server.ended()).await, Some(0));
}

#[tokio::test]
async fn without_a_delay_the_drain_begins_at_once() {
    let (mut server, backend) = start(&[]).await;
    let (client, _wire) = in_flight(&server, &backend).await;
    server.signal("TERM");
    until_probes(&server, [200, 503, 503]).await;
    assert!(server.is_running());
    drop(client);
    assert_eq!(soon("the end", server.ended()).await, Some(0));
}

#[tokio::test]
async fn a_reload_works_during_the_delay() {
    let file = TempFile::new("config.json", DEMO_CONFIG);
    let mut command = Server::command();
    command.arg("--config").arg(&file.path);
    let server = Server::spawn(command.args(["--drain-delay", "600"]));
    server.signal("TERM");
    until_probes(&server, [200, 503, 200]).await;
    server.signal("HUP");
    server.logged("configuration reloaded").await;
}

#[tokio::test]
async fn a_second_signal_ends_the_server_at_once_with_status_1() {
    for (arguments, first, second) in [
        (&[][..], "TERM", "INT"),
        (&[], "INT", "INT"),
        (&["--drain-delay", "600"], "TERM", "TERM"),
        (&["--drain-delay", "600"], "INT", "TERM"),
    ] {
        let (mut server, backend) = start(arguments).await;
        let (mut client, mut wire) = in_flight(&server, &backend).await;
        server.signal(first);
        server.logged("drain").await;
        let early = timeout(Duration::from_millis(100), server.ended()).await;
        assert!(early.is_err(), "{arguments:?}");
        server.signal(second);
        assert_eq!(soon("the end", server.ended()).await, Some(1));
        client.closed().await;
        wire.closed().await;
    }
}

#[test]
fn a_delay_that_is_no_duration_is_refused() {
    for wrong in ["-1", "soon", "NaN"] {
        let output = run(Server::command().args(["--drain-delay", wrong]));
        assert_eq!(output.status.code(), Some(2));
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains("`--drain-delay "), "{message}");
    }
}

// The health check.

#[tokio::test]
async fn a_health_check_succeeds_with_the_answer() {
    let (server, backend) = start(&["--drain-delay", "600"]).await;
    let ask = async |path: &str| {
        let url = format!("http://{}{path}", server.address);
        let mut command = Server::command();
        command.args(["--health", &url]);
        let asking = tokio::task::spawn_blocking(move || run(&mut command));
        let output = asking.await.expect("no panic");
        let message = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(output.stdout.is_empty());
        (output.status.code(), message)
    };
    for path in ["/livez", "/readyz", "/health"] {
        assert_eq!(ask(path).await, (Some(0), String::new()));
    }
    let (status, message) = ask("/v1/models").await;
    assert_eq!(status, Some(1));
    assert!(message.contains("401 Unauthorized"), "{message}");
    server.signal("TERM");
    until_probes(&server, [200, 503, 200]).await;
    assert_eq!(ask("/livez").await.0, Some(0));
    assert_eq!(ask("/readyz").await.0, Some(1));
    assert!(!backend.is_contacted().await);
}

#[tokio::test]
async fn a_health_check_fails_where_nobody_answers() {
    let nobody = format!("http://{}/livez", nobody().await);
    let output = run(Server::command().args(["--health", &nobody]));
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("refused"), "{message}");
    for wrong in ["", "localhost", "https://127.0.0.1/", "http://", "/livez"] {
        let output = run(Server::command().args(["--health", wrong]));
        assert_eq!(output.status.code(), Some(2), "{wrong}");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains("`--health "), "{message}");
    }
}

// The check.

fn run(command: &mut Command) -> Output {
    command.output().expect("the server starts")
}

/// What `--check` says about this configuration, while the server's address is taken.
fn check(config: &str, arguments: &[&str]) -> Output {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = holder.local_addr().expect("bound").to_string();
    let file = TempFile::new("checked.json", config);
    let mut command = Server::command();
    command
        .args(["--check", "--listen", &taken])
        .args(arguments);
    command.env("RUST_LOG", "trace");
    run(command.arg("--config").arg(&file.path))
}

#[test]
fn a_valid_configuration_is_checked_without_output() {
    // With warnings at a start.
    let backends = ["192.0.2.1:1", "192.0.2.2:1"].map(|address| {
        let address = address.parse().expect("an address");
        entry(&format!("at {address}"), address, "")
    });
    let certificates = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certificates");
    let [certificate, key] = ["good.pem", "leaf.key"].map(|name| format!("{certificates}/{name}"));
    for arguments in [
        &[][..],
        &["--demo", "--watch"],
        &["--tls-cert", &certificate, "--tls-key", &key],
    ] {
        let output = check(&config_of(&backends, ""), arguments);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn what_cannot_be_used_is_reported_as_at_a_start() {
    let file = TempFile::new("wrong.json", "{\n  \"settings\": { \"timeout\": 0 }\n}");
    let mut start = Server::command();
    start.arg("--config").arg(&file.path);
    let expected = run(&mut start);
    let output = run(start.arg("--check"));
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    assert_eq!(output.stderr, expected.stderr);

    for (arguments, named) in [
        (
            &["--tls-cert", "/no/such.pem", "--tls-key", "/no/such.key"][..],
            "/no/such.pem",
        ),
        (&["--tls-cert", "/no/such.pem"], "--tls-key"),
        (&["--bogus"], "--bogus"),
        (&["--config", "/no/such.json"], "/no/such.json"),
    ] {
        // The last `--config` counts.
        let config = TempFile::new("checked.json", DEMO_CONFIG);
        let mut command = Server::command();
        command.arg("--check").arg("--config").arg(&config.path);
        let output = run(command.args(arguments));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains(named), "{message}");
    }
}
