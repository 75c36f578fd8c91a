//! The server over HTTPS: what it serves with, and that all is as it is over plain TCP.

// Elsewhere the library of this client finds no authority that a test can choose.
#![cfg(not(any(windows, target_vendor = "apple")))]

use std::{fs, iter::repeat_with, net::TcpListener, path::Path, process::Output, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_native_tls::native_tls::Protocol;
use tokio_rustls::rustls::HandshakeKind;

use crate::{
    support::{
        self, Backend, DEMO_CONFIG, Server, TempFile, Wire, config_for, config_with, entry,
        http2::{channel, collect, next_frame},
        https::{self, certificate, connect},
        post, response, soon,
    },
    websocket::{SWITCH, handshake},
};

const GOOD: [&str; 2] = ["good.pem", "leaf.key"];

const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: proxy.test\r\n\r\n";

/// A server with one backend.
async fn good() -> (Server, Backend) {
    let backend = Backend::start().await;
    (https::start(&config_for(&backend), GOOD), backend)
}

async fn is_healthy(wire: &mut Wire<impl AsyncRead + AsyncWrite + Unpin>) -> bool {
    wire.send(HEALTH).await;
    wire.response().await.status() == 200
}

// The handshake.

#[tokio::test]
async fn the_line_at_the_start_says_https() {
    let (server, _backend) = good().await;
    let expected = format!("listening on https://{}\n", server.address);
    assert_eq!(server.first_line, expected);
}

#[tokio::test]
async fn the_client_chooses_the_version_of_http() {
    let (server, _backend) = good().await;
    for (offered, expected) in [
        (&["http/1.1"][..], Some("http/1.1")),
        (&[], None),
        (&["h2"], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
    ] {
        let mut wire = connect(server.address, offered).await;
        assert_eq!(https::chosen(&wire.stream).as_deref(), expected);
        if expected == Some("h2") {
            // The server speaks first: its settings.
            let settings = wire.exactly(9).await;
            assert_eq!(settings[3], 4, "{settings:?}");
        } else {
            assert!(is_healthy(&mut wire).await);
        }
    }
}

#[tokio::test]
async fn a_client_that_speaks_neither_version_is_refused() {
    let (server, _backend) = good().await;
    let other = https::try_connect(server.address, &["smtp"], None).await;
    assert!(other.is_err());
    assert!(is_healthy(&mut connect(server.address, &[]).await).await);
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken() {
    let (server, _backend) = good().await;
    for version in [Protocol::Tlsv12, Protocol::Tlsv13] {
        let stream = https::try_connect(server.address, &["http/1.1"], Some(version)).await;
        let mut wire = Wire::over(stream.expect("a handshake"));
        assert!(is_healthy(&mut wire).await);
    }
}

#[tokio::test]
async fn however_many_clients_resume_their_sessions() {
    const CLIENTS: usize = 150;
    let (server, _backend) = good().await;
    let clients: Vec<_> = repeat_with(https::connector).take(CLIENTS).collect();
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        for client in &clients {
            let mut wire = https::connect_by(client, server.address).await;
            assert_eq!(wire.stream.get_ref().1.handshake_kind(), Some(kind));
            // A ticket comes before the answer.
            assert!(is_healthy(&mut wire).await);
        }
    }
}

#[tokio::test]
async fn the_certificates_of_issuers_are_sent_along() {
    let backend = Backend::start().await;
    let server = https::start(&config_for(&backend), ["chained.pem", "leaf.key"]);
    // The client knows the root alone.
    let mut wire = connect(server.address, &[]).await;
    assert!(https::shows(&wire.stream, "chained.pem"));
    assert!(is_healthy(&mut wire).await);
}

#[tokio::test]
async fn keys_come_in_each_of_the_usual_forms() {
    let backend = Backend::start().await;
    for pair in [
        ["good.pem", "leaf.key"],      // PKCS#8
        ["good.pem", "leaf.sec1.key"], // SEC 1
        ["rsa.pem", "rsa.pkcs1.key"],  // PKCS#1
    ] {
        let server = https::start(&config_for(&backend), pair);
        let mut wire = connect(server.address, &[]).await;
        assert!(https::shows(&wire.stream, pair[0]));
        assert!(is_healthy(&mut wire).await);
    }
}

#[tokio::test]
async fn plain_http_on_the_tls_port_is_closed() {
    let (server, backend) = good().await;
    let mut plain = Wire::connect(server.address).await;
    plain.send(post("{}")).await;
    let rest = plain.rest().await;
    assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
    assert!(rest.len() < 10, "{rest:?}"); // an alert at most
    assert!(!backend.is_contacted().await);
    assert!(is_healthy(&mut connect(server.address, &[]).await).await);
}

#[tokio::test]
async fn a_handshake_that_stalls_keeps_nobody_else_waiting() {
    let (server, _backend) = good().await;
    let mut stalled = Vec::new();
    for begun in ["", "\x16\x03\x01\x02\x00\x01"] {
        let mut wire = Wire::connect(server.address).await;
        wire.send(begun).await;
        stalled.push(wire);
    }
    assert!(is_healthy(&mut connect(server.address, &[]).await).await);
    for wire in &mut stalled {
        assert!(wire.is_silent().await);
    }
}

// The files.

/// The server with these files, which ends by itself: it would have to listen where another does.
fn run(certificate: &Path, key: &Path) -> Output {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let config = TempFile::new("config.json", DEMO_CONFIG);
    let mut command = Server::command();
    command.args(["--listen", &address, "--config"]);
    command.arg(&config.path);
    command.arg("--tls-cert").arg(certificate);
    command.arg("--tls-key").arg(key);
    command.output().expect("the server starts")
}

#[test]
fn files_that_cannot_be_used_are_refused_with_a_message() {
    let pem = |file: &str| fs::read_to_string(certificate(file)).expect("a file");
    let (good, key) = (certificate("good.pem"), certificate("leaf.key"));
    let broken = TempFile::new(
        "broken.pem",
        &pem("good.pem").replace("-----END", "----END"),
    );
    let noise = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let noise = TempFile::new("noise.pem", noise);
    let noise_after = pem("good.pem") + &fs::read_to_string(&noise.path).unwrap();
    let noise_after = TempFile::new("noise-after.pem", &noise_after);
    let empty = TempFile::new("empty.pem", "");
    let secret = pem("leaf.key").lines().nth(1).expect("base64").to_owned();
    let unreadable = format!("-----BEGIN PRIVATE KEY----\n{secret}\n");
    let unreadable = TempFile::new("unreadable.key", &unreadable);
    let cut = format!("-----BEGIN PRIVATE KEY-----\n{secret}\n");
    let cut = TempFile::new("cut.key", &cut);
    let wrong = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let wrong = TempFile::new("wrong.key", wrong);
    let missing = certificate("missing.pem");
    let folder = certificate("authorities");
    let encrypted = certificate("encrypted.key");
    let other = certificate("renewed.key");

    for (certificate, key, file, problem) in [
        (&missing, &key, &missing, "can't be read"),
        (&good, &missing, &missing, "can't be read"),
        (&folder, &key, &folder, "can't be read"),
        (&broken.path, &key, &broken.path, "PEM"),
        (&empty.path, &key, &empty.path, "no certificate"),
        (&key, &key, &key, "no certificate"),
        (&noise.path, &key, &noise.path, "certificate number 1"),
        (
            &noise_after.path,
            &key,
            &noise_after.path,
            "certificate number 2",
        ),
        (&good, &good, &good, "no private key"),
        (&good, &empty.path, &empty.path, "no private key"),
        (&good, &unreadable.path, &unreadable.path, "PEM"),
        (&good, &cut.path, &cut.path, "PEM"),
        (
            &good,
            &wrong.path,
            &wrong.path,
            "private key that can't be used",
        ),
        (&good, &encrypted, &encrypted, "passphrase"),
        (&good, &other, &other, "isn't the private key of"),
    ] {
        let output = run(certificate, key);
        let message = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert_eq!(output.stdout, b"");
        assert_eq!(message.lines().count(), 1, "{message}");
        let begin = format!("{}: ", file.display());
        assert!(message.starts_with(&begin), "{message}");
        assert!(message.contains(problem), "{problem} not in {message}");
        for part in secret.as_bytes().windows(8) {
            let part = std::str::from_utf8(part).expect("base64");
            assert!(!message.contains(part), "{message}");
        }
    }
}

#[test]
fn one_file_alone_is_refused() {
    for (given, other) in [("--tls-cert", "--tls-key"), ("--tls-key", "--tls-cert")] {
        let output = Server::command().args([given, "any.pem"]).output().unwrap();
        let message = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert_eq!(output.stdout, b"");
        let expected = format!("`{given}` needs `{other}`");
        assert!(message.contains(&expected), "{message}");
    }
}

// Reload.

/// A server whose files can be replaced.
struct Replaceable {
    server: Server,
    config: TempFile,
    certificate: TempFile,
    key: TempFile,
    backend: Backend,
}

impl Replaceable {
    async fn start(arguments: &[&str]) -> Self {
        let backend = Backend::start().await;
        let pem = |file: &str| fs::read_to_string(certificate(file)).expect("a file");
        let config = config_of_backend("old", &backend);
        let config = TempFile::new("config.json", &config);
        let certificate = TempFile::new("good.pem", &pem("good.pem"));
        let key = TempFile::new("leaf.key", &pem("leaf.key"));
        let mut command = Server::command();
        command.arg("--config").arg(&config.path);
        command.arg("--tls-cert").arg(&certificate.path);
        command.arg("--tls-key").arg(&key.path);
        Self {
            server: Server::spawn(command.args(arguments)),
            config,
            certificate,
            key,
            backend,
        }
    }

    fn replace(&self, certificate_name: &str, key_name: &str) {
        fs::copy(certificate(certificate_name), &self.certificate.path).expect("a file");
        fs::copy(certificate(key_name), &self.key.path).expect("a file");
    }

    /// Whether new connections are shown this certificate.
    async fn shows(&self, name: &str) -> bool {
        https::shows(&connect(self.server.address, &[]).await.stream, name)
    }

    async fn until_shown(&self, name: &str) {
        soon("the reload", async {
            while !self.shows(name).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    async fn backends(&self) -> serde_json::Value {
        let mut wire = connect(self.server.address, &[]).await;
        wire.send(HEALTH).await;
        wire.response().await.json()["backends"][0]["name"].take()
    }
}

fn config_of_backend(name: &str, backend: &Backend) -> String {
    support::config_of(&[entry(name, backend.address, "")], "")
}

#[tokio::test]
async fn a_hangup_reloads_the_certificate_for_new_connections() {
    let files = Replaceable::start(&[]).await;
    let mut before = connect(files.server.address, &[]).await;
    assert!(https::shows(&before.stream, "good.pem"));
    before.send(post("{}")).await;
    let mut wire = files.backend.accept().await;
    wire.request().await;

    files.replace("renewed.pem", "renewed.key");
    files.server.signal("HUP");
    files.until_shown("renewed.pem").await;

    // What was there before lives on.
    wire.send(response("200 OK", "old")).await;
    assert_eq!(before.response().await.body, b"old");
    assert!(is_healthy(&mut before).await);
}

#[tokio::test]
async fn a_broken_pair_is_reported_as_at_the_start_and_nothing_changes() {
    let files = Replaceable::start(&[]).await;
    // The new configuration alone could be used.
    fs::write(&files.config.path, config_of_backend("new", &files.backend)).unwrap();
    files.replace("renewed.pem", "leaf.key");
    files.server.signal("HUP");
    files.server.logged("the old configuration stays").await;
    let at_start = run(&files.certificate.path, &files.key.path).stderr;
    let message = String::from_utf8(at_start).expect("UTF-8");
    assert!(message.contains("isn't the private key of"), "{message}");
    assert!(files.server.log().contains(&message), "{message}");
    assert!(files.shows("good.pem").await);
    assert_eq!(files.backends().await, "old");

    files.replace("renewed.pem", "renewed.key");
    files.server.signal("HUP");
    files.until_shown("renewed.pem").await;
    assert_eq!(files.backends().await, "new");
}

#[tokio::test]
async fn a_good_pair_is_not_taken_with_a_broken_configuration() {
    let files = Replaceable::start(&[]).await;
    fs::write(&files.config.path, "{").unwrap();
    files.replace("renewed.pem", "renewed.key");
    files.server.signal("HUP");
    files.server.logged("the old configuration stays").await;
    assert!(files.shows("good.pem").await);
}

#[tokio::test]
async fn a_watched_certificate_is_reloaded_when_it_changes() {
    let files = Replaceable::start(&["--watch"]).await;
    files.replace("renewed.pem", "renewed.key");
    files.until_shown("renewed.pem").await;
    // One of the two files alone.
    files.replace("good.pem", "renewed.key");
    files.server.logged("the old configuration stays").await;
    fs::copy(certificate("leaf.key"), &files.key.path).expect("a file");
    files.until_shown("good.pem").await;
}

// Exchanges.

#[tokio::test]
async fn streams_flow_chunk_by_chunk_over_http_1_1() {
    let (server, backend) = good().await;
    let mut client = connect(server.address, &["http/1.1"]).await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer k\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    client.send(head).await;
    client.send("4\r\n{\"a\"\r\n").await;
    let mut wire = backend.accept().await;
    wire.until("{\"a\"").await;
    client.send("3\r\n:1}\r\n0\r\n\r\n").await;
    wire.until(":1}").await;
    wire.until("0\r\n\r\n").await;

    wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.head().await;
    for event in ["data: one\n\n", "data: two\n\n", "data: [DONE]\n\n"] {
        wire.send(format!("{:x}\r\n{event}\r\n", event.len())).await;
        client.until(event).await;
    }
    wire.send("0\r\n\r\n").await;
    client.until("0\r\n\r\n").await;
}

#[tokio::test]
async fn streams_flow_chunk_by_chunk_over_http_2() {
    let (server, backend) = good().await;
    let client = https::http2(server.address).await;
    let (mut sender, body) = channel();
    let request = client.request("POST").body(body).expect("a request");
    let exchange = async {
        let mut answer = client.send(request).await.expect("a response");
        assert_eq!(answer.status(), StatusCode::OK);
        answer.body_mut();
        answer
    };
    let backend = async {
        sender
            .send_data(Bytes::from("{\"a\""))
            .await
            .expect("taken");
        let mut wire = backend.accept().await;
        wire.until("{\"a\"").await;
        sender.send_data(Bytes::from(":1}")).await.expect("taken");
        drop(sender);
        wire.until(":1}").await;
        wire.until("0\r\n\r\n").await;
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        wire
    };
    let (mut answer, mut wire) = tokio::join!(exchange, backend);
    for event in ["data: one\n\n", "data: two\n\n", "data: [DONE]\n\n"] {
        wire.send(format!("{:x}\r\n{event}\r\n", event.len())).await;
        let frame = next_frame(&mut answer)
            .await
            .expect("a chunk")
            .expect("whole");
        assert_eq!(frame.into_data().expect("data"), event);
    }
    wire.send("0\r\n\r\n").await;
    assert!(next_frame(&mut answer).await.is_none());
}

#[tokio::test]
async fn large_bodies_come_through_both_ways() {
    let (server, backend) = good().await;
    let body = support::noise(3_000_000);
    let answer = [
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes(),
        body.clone(),
    ];
    let record = backend.record_all(answer.concat());
    let client = https::http2(server.address).await;
    let response = client.send(client.post(body.clone())).await;
    let (received, _) = collect(response.expect("a response")).await.expect("whole");
    assert!(received == body);

    let mut client = connect(server.address, &["http/1.1"]).await;
    let head = post("");
    let head = head.replace("Length: 0", &format!("Length: {}", body.len()));
    client.send([head.as_bytes(), &body].concat()).await;
    assert!(client.response().await.body == body);
    let requests = record.take();
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|request| request.content() == body));
}

#[tokio::test]
async fn an_answer_that_comes_before_the_whole_upload_arrives() {
    let backend = Backend::start().await;
    let config = config_with(&backend, r#""max_body_bytes":1000"#);
    let server = https::start(&config, GOOD);
    let client = connect(server.address, &[]).await;
    let (mut read, mut write) = tokio::io::split(client.stream);
    let head = post("").replace("Length: 0", "Length: 8000000");
    // Sent to its end, whatever comes meanwhile.
    let sending = tokio::spawn(async move {
        write.write_all(head.as_bytes()).await?;
        write.write_all(&vec![b'x'; 8_000_000]).await?;
        std::io::Result::Ok(write)
    });
    let mut answer = Vec::new();
    let reading = read.read_to_end(&mut answer);
    soon("the answer", reading).await.expect("a proper end");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.ends_with('}'), "{answer}");
    let written = soon("writing", sending).await.expect("no panic");
    assert!(written.is_ok(), "the rest was not taken: {written:?}");
}

#[tokio::test]
async fn a_client_that_ends_its_side_counts_as_disconnected() {
    for is_orderly in [true, false] {
        let (server, backend) = good().await;
        let mut client = connect(server.address, &[]).await;
        client.send(post("{}")).await;
        let mut wire = backend.accept().await;
        wire.request().await;
        if is_orderly {
            client.stream.shutdown().await.expect("a close_notify");
        } else {
            let tcp = client.stream.get_ref().get_ref().get_ref();
            let tcp = socket2::SockRef::from(tcp);
            tcp.shutdown(std::net::Shutdown::Write).expect("a socket");
        }
        wire.closed().await;
    }
}

#[tokio::test]
async fn only_a_whole_answer_ends_as_tls_has_it() {
    let (server, backend) = good().await;
    for version in ["1.0", "1.1"] {
        for is_whole in [true, false] {
            let mut client = https::strict(server.address).await;
            let request = post("{}").replace("HTTP/1.1\r\n", &format!("HTTP/{version}\r\n"));
            let request = request.replace("Host:", "Connection: close\r\nHost:");
            client.send(request).await;
            let mut wire = backend.accept().await;
            wire.request().await;
            wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
                .await;
            client.until("one").await;
            if is_whole {
                wire.send("0\r\n\r\n").await;
            }
            drop(wire);
            let mut rest = Vec::new();
            let end = soon("the end", client.stream.read_to_end(&mut rest)).await;
            assert_eq!(end.is_ok(), is_whole, "HTTP/{version}: {end:?}");
        }
    }
}

#[tokio::test]
async fn draining_ends_what_is_idle_and_waits_for_what_is_not() {
    let (mut server, backend) = good().await;
    let mut stalled = Wire::connect(server.address).await;
    let mut idle = connect(server.address, &[]).await;
    assert!(is_healthy(&mut idle).await);
    let mut client = connect(server.address, &[]).await;
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;

    server.signal("TERM");
    stalled.closed().await;
    idle.closed().await;
    wire.send(response("200 OK", "late")).await;
    assert_eq!(client.response().await.body, b"late");
    drop(client);
    assert_eq!(soon("the end", server.ended()).await, Some(0));
}

// WebSockets.

#[tokio::test]
async fn a_websocket_and_its_end_pass_both_ways() {
    let (server, backend) = good().await;
    let mut client = https::strict(server.address).await;
    client.send(handshake("/v1/realtime", "") + "early").await;
    let mut wire = backend.accept().await;
    wire.head().await;
    wire.send(format!("{SWITCH}behind it")).await;
    assert_eq!(wire.until("early").await, "early");
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    assert_eq!(client.until("behind it").await, "behind it");

    client.stream.shutdown().await.expect("a connection");
    assert!(wire.rest().await.is_empty());
    wire.send("the last").await;
    drop(wire);
    let mut rest = String::new();
    let read = client.stream.read_to_string(&mut rest);
    soon("the end", read).await.expect("an announced end");
    assert_eq!(rest, "the last");
}

#[tokio::test]
async fn a_websocket_whose_backend_is_reset_has_no_proper_end() {
    let (server, backend) = good().await;
    let mut client = https::strict(server.address).await;
    client.send(handshake("/v1/realtime", "")).await;
    let mut wire = backend.accept().await;
    wire.head().await;
    wire.send(SWITCH).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    wire.reset();
    assert!(client.stream.read(&mut [0]).await.is_err());
}

#[tokio::test]
async fn a_connection_ends_properly_behind_a_websocket_that_was_refused() {
    let (server, backend) = good().await;
    let mut client = https::strict(server.address).await;
    let closing = handshake("/v1/realtime", "").replace("Upgrade\r\n", "Upgrade, close\r\n");
    client.send(closing).await;
    let mut wire = backend.accept().await;
    wire.head().await;
    wire.send(response("403 Forbidden", "{}")).await;
    assert_eq!(client.response().await.status(), 403);
    let read = soon("the end", client.stream.read(&mut [0])).await;
    assert_eq!(read.expect("an announced end"), 0);
}
