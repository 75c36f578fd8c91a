//! WebSockets: the handshake as it is forwarded, and the bytes behind it.

use std::{io, net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::ws::{WebSocket, WebSocketUpgrade},
    routing::any,
};
use bytes::Bytes;
use http::{StatusCode, request::Parts};
use http_body_util::Full;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc::unbounded_channel,
    time::sleep,
};
use tower::{Layer, ServiceExt};
use tower_openai_proxy::{
    Config, OpenAiProxyLayer,
    observe::{Exchange, Outcome},
};
use tungstenite::{
    Message,
    handshake::server::{Request, Response},
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::support::{
    Backend, PATIENCE, Server, Wire, config_for, config_of, config_with, entry, nobody, noise,
    post, response, soon, write_until_stopped,
};

/// What a client sends to open a WebSocket.
pub(crate) fn handshake(target: &str, fields: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer sk-test\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{fields}\r\n"
    )
}

/// How its backend takes it.
pub(crate) const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\
     connection: Upgrade\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Takes it, and sends something in both directions.
pub(crate) async fn switch(
    client: &mut Wire,
    wire: &mut Wire<impl AsyncRead + AsyncWrite + Unpin>,
) {
    wire.send(SWITCH).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    client.send("up").await;
    assert_eq!(wire.exactly(2).await, b"up");
    wire.send("down").await;
    assert_eq!(client.exactly(4).await, b"down");
}

/// A head without the field that a server may add.
fn without_date(head: &str) -> String {
    let lines = head.split_inclusive("\r\n");
    lines.filter(|line| !line.starts_with("date: ")).collect()
}

/// Sends a handshake and gives what the backend got, and both ends.
async fn ask(backend: &Backend, server: &Server, handshake: &str) -> (String, Wire, Wire) {
    let mut client = Wire::connect(server.address).await;
    client.send(handshake).await;
    let mut wire = backend.accept().await;
    let request = wire.head().await;
    (request, client, wire)
}

/// Opens a WebSocket and gives both ends: the client's, and the backend's.
async fn open(backend: &Backend, server: &Server) -> (Wire, Wire) {
    let (_, mut client, mut wire) = ask(backend, server, &handshake("/v1/realtime", "")).await;
    wire.send(SWITCH).await;
    assert_eq!(client.head().await, SWITCH);
    (client, wire)
}

/// Checks that both directions are open.
async fn is_open(client: &mut Wire, wire: &mut Wire) {
    client.send("to the backend").await;
    assert_eq!(wire.until("backend").await, "to the backend");
    wire.send("to the client").await;
    assert_eq!(client.until("client").await, "to the client");
}

/// How the peer ends a connection.
async fn end(mut wire: Wire) -> io::Result<usize> {
    soon("the end", wire.stream.read(&mut [0])).await
}

#[track_caller]
fn is_reset(end: io::Result<usize>) {
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

async fn proxy() -> (Backend, Server) {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    (backend, server)
}

// The handshake.

#[tokio::test]
async fn the_handshake_arrives_as_it_was_sent() {
    let (backend, server) = proxy().await;
    let request = "GET /v1/realtime?model=m HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer a\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
         Connection: keep-alive, X-Hop, sec-websocket-version\r\nX-Kept: 2\r\n\
         Upgrade: WebSocket, h2c\r\nsec-websocket-version: 13\r\nTE: gzip\r\n\
         Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
         connection: Upgrade\r\nSec-WebSocket-Protocol: realtime,  openai-beta.realtime-v1\r\n\r\n";

    let (head, mut client, mut wire) = ask(&backend, &server, request).await;

    let expected = format!(
        "GET /v1/realtime?model=m HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer a\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         connection: keep-alive, X-Hop, sec-websocket-version\r\nconnection: Upgrade\r\n\
         x-kept: 2\r\nupgrade: WebSocket, h2c\r\nsec-websocket-version: 13\r\n\
         sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n\
         sec-websocket-protocol: realtime,  openai-beta.realtime-v1\r\n\r\n",
        backend.address
    );
    assert_eq!(head, expected);

    let switch = "HTTP/1.1 101 Over to you\r\nconnection: upgrade, x-ray\r\nx-ray: 1\r\n\
         sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nkeep-alive: 3\r\n\
         upgrade: WebSocket\r\nset-cookie: a\r\nset-cookie: b\r\n\r\n";
    wire.send(switch).await;
    assert_eq!(client.head().await, switch);
    is_open(&mut client, &mut wire).await;
}

#[tokio::test]
async fn what_is_sent_early_is_not_lost() {
    let (backend, server) = proxy().await;
    // With the handshake, and while the backend considers it.
    let early = handshake("/v1/realtime", "") + "first ";
    let (_, mut client, mut wire) = ask(&backend, &server, &early).await;
    client.send("second ").await;
    assert!(wire.is_silent().await);
    wire.send(format!("{SWITCH}right behind it")).await;
    assert_eq!(client.head().await, SWITCH);
    assert_eq!(client.until("it").await, "right behind it");
    client.send("third").await;
    assert_eq!(wire.until("third").await, "first second third");
}

#[tokio::test]
async fn other_answers_are_ordinary_responses() {
    let (backend, server) = proxy().await;
    let (_, mut client, mut wire) = ask(&backend, &server, &handshake("/v1/responses", "")).await;
    for (index, answer) in [
        "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 426 Upgrade Required\r\nupgrade: websocket\r\nsec-websocket-version: 12\r\n\
         connection: upgrade\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    ]
    .into_iter()
    .enumerate()
    {
        // All on one connection with each.
        if index > 0 {
            client.send(handshake("/v1/responses", "")).await;
            wire.head().await;
        }
        wire.send(answer).await;
        let received = client.response().await;
        let head = without_date(&received.head);
        assert_eq!(head + "{}", answer);
    }
    client.send(post("{}")).await;
    wire.request().await;
    wire.send(response("200 OK", "{}")).await;
    assert_eq!(client.response().await.status(), 200);
    // hyper leaves the end of such a connection to the one who would have got the upgrade.
    client.stream.shutdown().await.unwrap();
    assert_eq!(end(client).await.unwrap(), 0);
}

#[tokio::test]
async fn a_switch_to_anything_else_is_refused() {
    let (backend, server) = proxy().await;
    for (fields, switch) in [
        ("", "upgrade: h2c\r\nconnection: Upgrade\r\n"),
        ("", "connection: Upgrade\r\n"),
        ("", "upgrade: websocket, h2c\r\nconnection: Upgrade\r\n"),
        // Its body isn't whole yet.
        (
            "Content-Length: 5\r\n",
            "upgrade: websocket\r\nconnection: Upgrade\r\n",
        ),
    ] {
        let handshake = handshake("/v1/realtime", fields);
        let (_, mut client, mut wire) = ask(&backend, &server, &handshake).await;
        wire.send(format!("HTTP/1.1 101 Switching Protocols\r\n{switch}\r\n"))
            .await;
        let answer = client.response().await;
        assert_eq!(answer.status(), 502, "{switch}");
        assert_eq!(answer.error_code(), "http_upgrade_failed", "{switch}");
        wire.closed().await;
    }
}

#[tokio::test]
async fn only_a_get_in_http_1_1_with_both_fields_is_an_upgrade() {
    let (backend, server) = proxy().await;
    let upgrade = handshake("/v1/realtime", "");
    for request in [
        upgrade.replace("HTTP/1.1", "HTTP/1.0"),
        upgrade.replace("Connection: Upgrade\r\n", ""),
        upgrade.replace("Upgrade: websocket", "Upgrade: h2c"),
        upgrade.replace("GET", "DELETE"),
    ] {
        let (head, mut client, mut wire) = ask(&backend, &server, &request).await;
        assert!(
            !head.contains("\r\nconnection:") && !head.contains("\r\nupgrade:"),
            "{head}"
        );
        wire.send(SWITCH).await;
        let answer = client.head().await;
        assert!(answer.contains(" 502 "), "{answer}");
    }
}

#[tokio::test]
async fn the_model_in_the_query_is_replaced() {
    let backend = Backend::start().await;
    let llm = entry("LLM1", backend.address, r#""model":"gpt realtime""#);
    let server = Server::start(&config_of(&[llm], ""));
    let handshake = handshake("/v1/realtime?a=%20&model=x&b", "");
    let (head, ..) = ask(&backend, &server, &handshake).await;
    let line = head.lines().next().unwrap();
    assert_eq!(
        line,
        "GET /v1/realtime?a=%20&model=gpt%20realtime&b HTTP/1.1"
    );
}

// Keys.

const PROTOCOLS: &str = "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.sk-browser, \
     openai-beta.realtime-v1\r\n";

fn without_authorization(fields: &str) -> String {
    handshake("/v1/realtime", fields).replace("Authorization: Bearer sk-test\r\n", "")
}

#[tokio::test]
async fn a_key_among_the_subprotocols_is_credentials_of_an_upgrade() {
    let (backend, server) = proxy().await;
    let request = without_authorization(PROTOCOLS);
    let (head, ..) = ask(&backend, &server, &request).await;
    assert!(
        head.contains(&PROTOCOLS.replace("Sec-WebSocket-P", "sec-websocket-p")),
        "{head}"
    );

    for request in [
        // Of nothing else, and not if it is empty.
        request.replace("Upgrade: websocket\r\n", ""),
        request.replace("sk-browser", ""),
        without_authorization("Sec-WebSocket-Protocol: realtime\r\n"),
    ] {
        let mut client = Wire::connect(server.address).await;
        client.send(&request).await;
        assert_eq!(client.response().await.status(), 401, "{request}");
    }
}

#[tokio::test]
async fn a_backend_with_its_own_key_gets_no_key_among_the_subprotocols() {
    let backend = Backend::start().await;
    let llm = entry("LLM1", backend.address, r#""api_key_env":"OWN_KEY""#);
    let server = Server::start_with(&config_of(&[llm], ""), &[], &[("OWN_KEY", "sk-own")]);
    for (sent, expected) in [
        (PROTOCOLS, "realtime, openai-beta.realtime-v1"),
        (
            "Sec-WebSocket-Protocol: openai-insecure-api-key.sk-browser,b , c\r\n",
            "b , c",
        ),
        (
            "Sec-WebSocket-Protocol: b, OpenAI-Insecure-Api-Key.sk-browser\r\n",
            "b",
        ),
        (
            "Sec-WebSocket-Protocol: openai-insecure-api-key.sk-browser\r\n",
            "",
        ),
    ] {
        let request = without_authorization(sent);
        let (head, ..) = ask(&backend, &server, &request).await;
        assert!(
            head.contains("\r\nauthorization: Bearer sk-own\r\n"),
            "{head}"
        );
        assert!(!head.contains("sk-browser"), "{head}");
        let protocols = head.split("\r\nsec-websocket-protocol: ").nth(1);
        let protocols = protocols.and_then(|rest| rest.split("\r\n").next());
        assert_eq!(protocols.unwrap_or_default(), expected);
    }
}

// Which backend.

#[tokio::test]
async fn until_the_101_it_fails_over_like_any_other_request() {
    let [first, second] = [Backend::start().await, Backend::start().await];
    let backends = [
        entry("nobody", nobody().await, ""),
        entry("first", first.address, ""),
        entry("second", second.address, ""),
    ];
    let server = Server::start(&config_of(&backends, r#""failover_on":[503]"#));
    let (_, mut client, mut refusing) = ask(&first, &server, &handshake("/v1/realtime", "")).await;
    refusing.send(response("503 Service Unavailable", "")).await;
    let mut wire = second.accept().await;
    wire.head().await;
    wire.send(SWITCH).await;
    assert_eq!(client.head().await, SWITCH);
    is_open(&mut client, &mut wire).await;

    // By name, on the idle connection.
    let mut client = Wire::connect(server.address).await;
    let by_name = handshake("/v1/realtime", "X-Proxy-Backend: first\r\n");
    client.send(by_name).await;
    assert!(!refusing.head().await.contains("x-proxy-backend"));
    refusing.send(SWITCH).await;
    assert_eq!(client.head().await, SWITCH);
    is_open(&mut client, &mut refusing).await;
}

#[tokio::test]
async fn a_failed_upgrade_cools_no_backend_down() {
    let [first, second] = [Backend::start().await, Backend::start().await];
    let backends = [
        entry("first", first.address, ""),
        entry("second", second.address, ""),
    ];
    let server = Server::start(&config_of(&backends, ""));
    // The client's fault: the body of its handshake isn't whole.
    let fields = "Content-Type: text/plain\r\nContent-Length: 5\r\n";
    let handshake = handshake("/v1/realtime", fields);
    let (_, mut client, mut wire) = ask(&first, &server, &handshake).await;
    wire.send(SWITCH).await;
    assert_eq!(client.response().await.status(), 502);

    let (_, mut client, mut wire) = ask(&first, &server, &post("{}")).await;
    wire.send(response("200 OK", "")).await;
    assert_eq!(client.response().await.status(), 200);
}

#[tokio::test]
async fn a_backend_without_websockets_is_asked_for_none() {
    let [without, with] = [Backend::start().await, Backend::start().await];
    let without_entry = entry("without", without.address, r#""websocket":false"#);
    let server = Server::start(&config_of(
        &[without_entry.clone(), entry("with", with.address, "")],
        "",
    ));
    let (_, _client, _wire) = ask(&with, &server, &handshake("/v1/realtime", "")).await;

    let alone = Server::start(&config_of(&[without_entry], ""));
    for (server, fields) in [(&server, "X-Proxy-Backend: without\r\n"), (&alone, "")] {
        let mut client = Wire::connect(server.address).await;
        client.send(handshake("/v1/responses", fields)).await;
        let answer = client.response().await;
        assert_eq!(answer.status(), 426);
        assert_eq!(answer.json()["error"]["code"], "websocket_unsupported");
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
        let field = |name| answer.field(name).unwrap();
        assert_eq!(field("upgrade"), "HTTP/1.1");
        assert_eq!(field("connection"), "Upgrade");
        assert_eq!(
            field("proxy-status"),
            "tower-openai-proxy; error=http_request_denied"
        );
        // Plain HTTP goes there, on the same connection.
        client
            .send(post("{}").replace("Content-", "X-Proxy-Backend: without\r\nContent-"))
            .await;
        let mut wire = without.accept().await;
        wire.request().await;
        wire.send(response("200 OK", "{}")).await;
        assert_eq!(client.response().await.status(), 200);
    }
}

#[tokio::test]
async fn a_path_that_no_backend_serves_is_not_found() {
    let backend = Backend::start().await;
    let llm = entry(
        "LLM1",
        backend.address,
        r#""paths":["/models"],"websocket":false"#,
    );
    let server = Server::start(&config_of(&[llm], ""));
    let mut client = Wire::connect(server.address).await;
    client.send(handshake("/v1/realtime", "")).await;
    let answer = client.response().await;
    assert_eq!(
        (answer.status(), &*answer.error_code()),
        (404, "destination_not_found")
    );
}

// The tunnel.

#[tokio::test]
async fn many_bytes_pass_both_ways_and_a_slow_reader_stops_its_sender() {
    let (backend, server) = proxy().await;
    let (mut client, mut wire) = open(&backend, &server).await;
    const SIZE: usize = 32 << 20;
    let bytes = noise(SIZE);
    // Nobody reads, so the sender is stopped long before the end; the other direction isn't.
    let written = write_until_stopped(&mut wire.stream, &bytes).await;
    assert!(written < SIZE, "all of it is buffered");
    client.send("meanwhile").await;
    assert_eq!(wire.until("meanwhile").await, "meanwhile");
    assert_eq!(client.exactly(written).await, bytes[..written]);
    is_open(&mut client, &mut wire).await;

    let written = write_until_stopped(&mut client.stream, &bytes).await;
    assert!(written < SIZE, "all of it is buffered");
    assert_eq!(wire.exactly(written).await, bytes[..written]);
    is_open(&mut client, &mut wire).await;
}

#[tokio::test]
async fn the_end_of_one_side_is_forwarded_and_the_other_may_go_on() {
    let (backend, server) = proxy().await;
    let (mut client, mut wire) = open(&backend, &server).await;
    client.stream.shutdown().await.unwrap();
    assert!(wire.rest().await.is_empty());
    wire.send("still").await;
    assert_eq!(client.until("still").await, "still");
    drop(wire);
    assert_eq!(end(client).await.unwrap(), 0);

    let (mut client, mut wire) = open(&backend, &server).await;
    wire.stream.shutdown().await.unwrap();
    assert!(client.rest().await.is_empty());
    client.send("still").await;
    assert_eq!(wire.until("still").await, "still");
    drop(client);
    assert_eq!(end(wire).await.unwrap(), 0);
}

#[tokio::test]
async fn a_reset_of_one_side_resets_the_other() {
    let (backend, server) = proxy().await;
    let (client, wire) = open(&backend, &server).await;
    client.reset();
    is_reset(end(wire).await);

    let (client, wire) = open(&backend, &server).await;
    wire.reset();
    is_reset(end(client).await);
}

#[tokio::test]
async fn a_reset_of_one_side_is_noticed_while_the_other_does_not_read() {
    let (backend, server) = proxy().await;
    let bytes = noise(32 << 20);
    let (client, mut wire) = open(&backend, &server).await;
    write_until_stopped(&mut wire.stream, &bytes).await;
    wire.reset();
    // Only then is anything read.
    server.logged("end=\"backend broke off\"").await;
    is_reset_at_last(client).await;

    let (mut client, wire) = open(&backend, &server).await;
    write_until_stopped(&mut client.stream, &bytes).await;
    client.reset();
    server.logged("end=\"client left\"").await;
    is_reset_at_last(wire).await;
}

/// Reads what was sent before the reset.
async fn is_reset_at_last(mut wire: Wire) {
    let mut read = Vec::new();
    let end = soon("the end", wire.stream.read_to_end(&mut read)).await;
    is_reset(end);
}

#[tokio::test]
async fn a_client_that_disconnects_before_the_101_ends_the_request() {
    let (backend, server) = proxy().await;
    let (_, client, mut wire) = ask(&backend, &server, &handshake("/v1/realtime", "")).await;
    drop(client);
    wire.closed().await;
}

// Its times.

#[tokio::test]
async fn an_idle_tunnel_is_closed() {
    let backend = Backend::start().await;
    // What limits a stream doesn't limit a tunnel.
    let settings = r#""tunnel_idle_timeout":1,"idle_timeout":0.1,"timeout":0.5"#;
    let server = Server::start(&config_with(&backend, settings));
    let (mut client, mut wire) = open(&backend, &server).await;
    for _ in 0..3 {
        sleep(Duration::from_millis(500)).await;
        is_open(&mut client, &mut wire).await;
    }
    assert_eq!(end(client).await.unwrap(), 0);
    assert_eq!(end(wire).await.unwrap(), 0);
    server.logged("status=101").await;
    server.logged("end=tunnel_idle_timeout").await;
}

#[tokio::test]
async fn a_tunnel_ends_with_the_time_of_its_exchange() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""total_timeout":1"#));
    let (mut client, mut wire) = open(&backend, &server).await;
    is_open(&mut client, &mut wire).await;
    assert_eq!(end(client).await.unwrap(), 0);
    assert_eq!(end(wire).await.unwrap(), 0);
    server.logged("end=total_timeout").await;
}

#[tokio::test]
async fn a_backend_that_does_not_answer_in_time_is_given_up() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""timeout":0.2"#));
    let (_, mut client, mut wire) = ask(&backend, &server, &handshake("/v1/realtime", "")).await;
    let answer = client.response().await;
    assert_eq!(
        (answer.status(), &*answer.error_code()),
        (504, "http_response_timeout")
    );
    wire.closed().await;
}

// The server.

#[tokio::test]
async fn each_tunnel_is_logged_at_its_end() {
    let (backend, server) = proxy().await;
    let (mut client, mut wire) = open(&backend, &server).await;
    is_open(&mut client, &mut wire).await;
    assert!(!server.log().contains("status=101"));
    drop(client);
    assert!(wire.rest().await.is_empty());
    drop(wire);
    let log = server.logged("status=101").await;
    let line = log
        .lines()
        .find(|line| line.contains("status=101"))
        .unwrap();
    assert!(
        line.contains("backend=LLM1") && line.contains("end=complete"),
        "{line}"
    );
    assert!(line.contains("bytes=13"), "{line}");

    let (client, wire) = open(&backend, &server).await;
    client.reset();
    is_reset(end(wire).await);
    server.logged("end=\"client left\"").await;
    let (client, wire) = open(&backend, &server).await;
    wire.reset();
    is_reset(end(client).await);
    server.logged("end=\"backend broke off\"").await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_drain_waits_for_tunnels() {
    let (backend, mut server) = proxy().await;
    let (mut client, mut wire) = open(&backend, &server).await;
    let mut late = Wire::connect(server.address).await;
    server.signal("TERM");
    server.logged("draining").await;
    late.send(handshake("/v1/realtime", "")).await;
    // Told to end before its request, or answered.
    if let Some(head) = late.try_head().await {
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    }
    let mut new = Wire::connect(server.address).await;
    new.send(handshake("/v1/realtime", "")).await;
    assert_eq!(new.response().await.status(), 503);

    is_open(&mut client, &mut wire).await;
    assert!(server.is_running());
    drop((client, wire));
    assert_eq!(soon("the end", server.ended()).await, Some(0));
    assert!(server.log().contains("status=101"));
}

/// Sends a handshake to which the backend gives this answer only once the server drains.
#[cfg(unix)]
async fn answered_while_draining(answer: &str) -> (Server, Wire, Wire) {
    let (backend, server) = proxy().await;
    let handshake = handshake("/v1/realtime", "");
    let (_, client, mut wire) = ask(&backend, &server, &handshake).await;
    server.signal("TERM");
    server.logged("draining").await;
    wire.send(answer).await;
    (server, client, wire)
}

#[cfg(unix)]
#[tokio::test]
async fn a_drain_leaves_a_101_as_it_is() {
    let (mut server, mut client, mut wire) = answered_while_draining(SWITCH).await;
    assert_eq!(client.head().await, SWITCH);
    is_open(&mut client, &mut wire).await;
    drop((client, wire));
    assert_eq!(soon("the end", server.ended()).await, Some(0));
}

#[cfg(unix)]
#[tokio::test]
async fn a_drain_ends_a_connection_without_a_101() {
    let answer = "HTTP/1.1 426 Upgrade Required\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         content-length: 0\r\n\r\n";
    let (mut server, mut client, _wire) = answered_while_draining(answer).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 426 "), "{head}");
    assert!(
        head.contains("\r\nconnection: upgrade, close\r\n"),
        "{head}"
    );
    client.closed().await;
    assert_eq!(soon("the end", server.ended()).await, Some(0));
}

#[cfg(unix)]
#[tokio::test]
async fn a_drain_closes_tunnels_when_its_time_is_over() {
    let backend = Backend::start().await;
    let mut server = Server::start_with(&config_for(&backend), &["--drain-timeout", "0.2"], &[]);
    let (mut client, mut wire) = open(&backend, &server).await;
    server.signal("TERM");
    assert_eq!(soon("the end", server.ended()).await, Some(0));
    client.closed().await;
    wire.closed().await;
}

#[tokio::test]
async fn a_tunnel_is_not_an_idle_connection() {
    let backend = Backend::start().await;
    let server = Server::start_with(&config_for(&backend), &["--keep-alive", "0.2"], &[]);
    let (mut client, mut wire) = open(&backend, &server).await;
    sleep(Duration::from_millis(600)).await;
    is_open(&mut client, &mut wire).await;
}

// Real clients and servers.

/// A backend that answers each message with the same, until it is asked to close.
fn echo(stream: std::net::TcpStream) -> tungstenite::Result<()> {
    #[allow(clippy::result_large_err)] // the library's own type
    let choose = |request: &Request, mut response: Response| {
        let protocols = &request.headers()["sec-websocket-protocol"];
        let chosen = protocols.to_str().expect("ASCII").split(", ").next();
        let chosen = chosen.expect("one").parse().expect("a value");
        response
            .headers_mut()
            .insert("sec-websocket-protocol", chosen);
        Ok(response)
    };
    let mut socket = tungstenite::accept_hdr(stream, choose).expect("a handshake");
    loop {
        match socket.read()? {
            Message::Text(text) if text == "close" => socket.close(Some(CloseFrame {
                code: CloseCode::Library(4001),
                reason: "as you wish".into(),
            }))?,
            message @ (Message::Text(_) | Message::Binary(_)) => socket.send(message)?,
            _ => {}
        }
    }
}

/// Opens a WebSocket at this address as a browser does, and gives it with the answer's head.
pub(crate) fn realtime(
    address: SocketAddr,
    model: &str,
) -> (
    tungstenite::WebSocket<std::net::TcpStream>,
    http::Response<Option<Vec<u8>>>,
) {
    let stream = std::net::TcpStream::connect(address).expect("a listener");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let request = http::Request::get(format!("ws://proxy.test/v1/realtime?model={model}"))
        .header("host", "proxy.test")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header(
            "sec-websocket-protocol",
            "realtime, openai-insecure-api-key.sk-test",
        );
    let request = request.body(()).expect("a request");
    let (socket, response) = tungstenite::client(request, stream).expect("a handshake");
    assert_eq!(response.headers()["sec-websocket-protocol"], "realtime");
    (socket, response)
}

/// Talks to the echo behind this address.
fn converse(address: SocketAddr) {
    let (mut socket, _) = realtime(address, "m");
    for message in [
        Message::text("Hello"),
        Message::binary(noise(200_000)),
        Message::text(""),
    ] {
        socket.send(message.clone()).expect("open");
        assert_eq!(socket.read().expect("an echo"), message);
    }
    socket.send(Message::Ping("p".into())).expect("open");
    assert_eq!(socket.read().expect("a pong"), Message::Pong("p".into()));
    socket.send(Message::text("close")).expect("open");
    let Ok(Message::Close(Some(frame))) = socket.read() else {
        panic!("no close frame");
    };
    let expected = (CloseCode::Library(4001), "as you wish");
    assert_eq!((frame.code, &*frame.reason), expected);
    assert!(matches!(
        socket.read(),
        Err(tungstenite::Error::ConnectionClosed)
    ));
}

/// Starts the echo, and gives a configuration for it.
fn echoing() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(|| echo(stream));
        }
    });
    config_of(&[entry("LLM1", address, "")], "")
}

async fn conversation(address: SocketAddr) {
    let client = tokio::task::spawn_blocking(move || converse(address));
    soon("a conversation", client).await.expect("no panic");
}

#[tokio::test]
async fn a_client_and_a_server_of_another_library_talk_through_the_server() {
    let server = Server::start(&echoing());
    conversation(server.address).await;
}

#[tokio::test]
async fn a_client_and_a_server_of_another_library_talk_through_an_axum_app() {
    let config: Config = echoing().parse().expect("a configuration");
    let (record, mut recorded) = unbounded_channel();
    let layer = OpenAiProxyLayer::builder(config)
        .all_paths()
        .observer(move |_: &Parts| {
            let record = record.clone();
            Some(move |exchange: &Exchange| {
                let bytes = [exchange.request_bytes(), exchange.response_bytes()];
                let _ = record.send((exchange.status(), exchange.outcome(), bytes));
            })
        })
        .build();
    let own = any(async |upgrade: WebSocketUpgrade| {
        upgrade.on_upgrade(async |mut socket: WebSocket| {
            let _ = socket
                .send(axum::extract::ws::Message::text("the app's own"))
                .await;
        })
    });
    let app = Router::new().route("/own", own).layer(layer);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, app).await });
    conversation(address).await;
    let ended = soon("a record", recorded.recv()).await.expect("one");
    let (status, outcome, [up, down]) = ended;
    assert_eq!(status, Some(StatusCode::SWITCHING_PROTOCOLS));
    assert_eq!(outcome, Outcome::Complete);
    // The client's frames have masks, and a message more.
    assert!(up > down && down > 200_000, "{up} {down}");

    let own = tokio::task::spawn_blocking(move || {
        let stream = std::net::TcpStream::connect(address).expect("a listener");
        let url = format!("ws://{address}/own");
        let (mut socket, _) = tungstenite::client(url, stream).expect("a handshake");
        socket.read().expect("a message")
    });
    assert_eq!(own.await.expect("no panic"), Message::text("the app's own"));
}

#[tokio::test]
async fn a_server_without_upgrades_for_layers_is_told_so() {
    let backend = Backend::start().await;
    let config: Config = config_for(&backend).parse().expect("a configuration");
    let layer = OpenAiProxyLayer::builder(config).all_paths().build();
    let service = layer.layer(tower_openai_proxy::proxy::NotFound::default());
    let request = http::Request::get("/v1/realtime")
        .header("authorization", "Bearer sk-test")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket");
    let request = request.body(Full::<Bytes>::default()).expect("a request");
    let response = service.oneshot(request).await.expect("infallible");
    assert_eq!(response.status(), 501);
    let proxy_status = &response.headers()["proxy-status"];
    assert_eq!(
        proxy_status,
        "tower-openai-proxy; error=http_upgrade_failed"
    );
    assert!(!backend.is_contacted().await);
}
