//! HTTPS backends, with certificates of all sorts. `certificates/make` made them.

// Elsewhere the certificate authorities are the system's, and can't be chosen for a test.
#![cfg(all(
    any(feature = "native-tls", feature = "rustls"),
    not(any(windows, target_vendor = "apple"))
))]

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_native_tls::{
    TlsAcceptor, TlsStream,
    native_tls::{self, Identity},
};

use crate::{
    support::{
        Backend, Message, Server, Wire, chunked, config_of, find, noise, post, post_with, response,
        soon, wire::reset_at_end,
    },
    websocket::{SWITCH, handshake},
};

fn certificates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates")
}

/// A backend that speaks TLS.
struct Https {
    backend: Backend,
    acceptor: TlsAcceptor,
}

impl Https {
    /// With one of the certificates.
    async fn start(certificate: &str) -> Self {
        let read = |name: &str| std::fs::read(certificates().join(name)).expect("a file");
        let certificate = read(&format!("{certificate}.pem"));
        let identity = Identity::from_pkcs8(&certificate, &read("leaf.key")).expect("a key");
        let acceptor = native_tls::TlsAcceptor::new(identity).expect("a certificate");
        Self {
            backend: Backend::start().await,
            acceptor: acceptor.into(),
        }
    }

    /// As part of a configuration, under the name of its host.
    fn entry(&self, name: &str) -> String {
        entry(name, &self.backend, "localhost")
    }

    /// The next connection; none if the handshake fails.
    async fn try_accept(&self) -> Option<Wire<TlsStream<TcpStream>>> {
        let tcp = self.backend.accept().await.stream;
        let tls = soon("a handshake", self.acceptor.accept(tcp)).await.ok()?;
        Some(Wire::over(tls))
    }

    async fn accept(&self) -> Wire<TlsStream<TcpStream>> {
        self.try_accept().await.expect("a handshake")
    }
}

fn entry(name: &str, backend: &Backend, host: &str) -> String {
    let port = backend.address.port();
    format!(r#"{{"name":"{name}","url":"https://{host}:{port}/v1"}}"#)
}

/// A server that trusts the authority of the good certificate.
fn server_for(backends: &[String], settings: &str) -> Server {
    let authority = certificates().join("authority.pem");
    let authority = authority.to_str().expect("UTF-8");
    let config = config_of(backends, settings);
    Server::start_with(&config, &[], &[("SSL_CERT_FILE", authority)])
}

/// A server and its one backend, with a good certificate.
async fn good() -> (Server, Https) {
    let backend = Https::start("good").await;
    (server_for(&[backend.entry("LLM1")], ""), backend)
}

/// Ends a connection as TLS has it, with a close_notify. To drop it instead is a truncation.
async fn close(mut wire: Wire<TlsStream<TcpStream>>) {
    wire.stream.shutdown().await.expect("a connection");
}

/// What the server answers where its backend's certificate is this one.
async fn answer_for(certificate: &str) -> Message {
    let backend = Https::start(certificate).await;
    let server = server_for(&[backend.entry("LLM1")], "");
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    if let Some(mut wire) = backend.try_accept().await {
        // Nothing may be told to whoever this is.
        wire.closed().await;
    }
    client.response().await
}

/// Sends a request to a server and expects 200.
async fn works(server: &Server, backend: &Https) {
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send(response("200 OK", "{}")).await;
    assert_eq!(client.response().await.start_line(), "HTTP/1.1 200 OK");
}

// Certificates.

#[tokio::test]
async fn a_backend_with_a_good_certificate_answers() {
    let backend = Https::start("good").await;
    for host in ["localhost", "127.0.0.1"] {
        let server = server_for(&[entry("LLM1", &backend.backend, host)], "");
        let mut client = Wire::connect(server.address).await;
        client.send(post(r#"{"model":"m"}"#)).await;

        let mut wire = backend.accept().await;
        let request = wire.request().await;
        assert_eq!(request.start_line(), "POST /v1/chat/completions HTTP/1.1");
        let expected = format!("{host}:{}", backend.backend.address.port());
        assert_eq!(request.field("host"), Some(expected));
        assert_eq!(request.body, br#"{"model":"m"}"#);
        wire.send(response("200 OK", "{\"a\": 1 }\n")).await;

        let answer = client.response().await;
        assert_eq!(answer.start_line(), "HTTP/1.1 200 OK");
        assert_eq!(answer.body, b"{\"a\": 1 }\n");
    }
}

#[tokio::test]
async fn a_bad_certificate_has_a_separate_error() {
    for certificate in ["expired", "misnamed", "untrusted"] {
        let answer = answer_for(certificate).await;
        assert_eq!(answer.status(), 502, "{certificate}");
        assert_eq!(
            answer.error_code(),
            "tls_certificate_error",
            "{certificate}"
        );
        let message = answer.json()["error"]["message"].to_string();
        assert!(message.contains("`LLM1`") && !message.contains("localhost"));
    }
}

#[tokio::test]
async fn the_log_tells_what_is_wrong_with_a_certificate() {
    let backend = Https::start("expired").await;
    let server = server_for(&[backend.entry("LLM1")], "");
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    backend.try_accept().await;
    client.response().await;
    let log = server.logged("end=tls_certificate_error").await;
    assert!(log.contains("expired"), "{log}");
}

#[tokio::test]
async fn a_backend_with_a_bad_certificate_is_passed_over() {
    let bad = Https::start("expired").await;
    let good = Https::start("good").await;
    let server = server_for(&[bad.entry("BAD"), good.entry("GOOD")], "");
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    bad.try_accept().await;
    let mut wire = good.accept().await;
    wire.request().await;
    wire.send(response("200 OK", "good")).await;
    assert_eq!(client.response().await.body, b"good");

    // It is tried last now.
    client
        .send("GET /health HTTP/1.1\r\nHost: proxy.test\r\n\r\n")
        .await;
    let health = client.response().await.json();
    assert_eq!(health["backends"][0]["status"], "cooldown");
    assert_eq!(health["backends"][1]["status"], "up");
}

#[tokio::test]
async fn authorities_come_from_ssl_cert_file() {
    let backend = Https::start("good").await;
    let server = server_for(&[backend.entry("LLM1")], "");
    works(&server, &backend).await;
}

#[tokio::test]
async fn authorities_come_from_ssl_cert_dir() {
    let backend = Https::start("good").await;
    let directory = certificates().join("authorities");
    let directory = directory.to_str().expect("UTF-8");
    let config = config_of(&[backend.entry("LLM1")], "");
    let server = Server::start_with(&config, &[], &[("SSL_CERT_DIR", directory)]);
    works(&server, &backend).await;
}

#[tokio::test]
async fn an_authority_that_nobody_named_is_not_trusted() {
    let backend = Https::start("good").await;
    let server = Server::start(&config_of(&[backend.entry("LLM1")], ""));
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    backend.try_accept().await;
    assert_eq!(
        client.response().await.error_code(),
        "tls_certificate_error"
    );
}

#[cfg(feature = "rustls")]
#[tokio::test]
async fn with_both_libraries_rustls_is_used() {
    let backend = Https::start("expired").await;
    let server = server_for(&[backend.entry("LLM1")], "");
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    backend.try_accept().await;
    server.logged("invalid peer certificate").await;
}

#[cfg(feature = "rustls")]
#[tokio::test]
async fn that_there_are_no_authorities_is_told_at_each_request() {
    let backend = Https::start("good").await;
    let config = config_of(&[backend.entry("LLM1")], "");
    let nowhere = certificates().join("nowhere");
    let nowhere = nowhere.to_str().expect("UTF-8");
    let environment = [("SSL_CERT_FILE", nowhere), ("SSL_CERT_DIR", nowhere)];
    let server = Server::start_with(&config, &[], &environment);
    let mut client = Wire::connect(server.address).await;
    for _ in 0..2 {
        client.send(post("{}")).await;
        let answer = client.response().await;
        assert_eq!(answer.status(), 502);
        assert_eq!(answer.error_code(), "tls_protocol_error");
    }
    assert!(!backend.backend.is_contacted().await);
}

// Handshakes.

/// A backend for which the server expects TLS, but which is scripted byte by byte.
async fn asked_for_tls(settings: &str) -> (Server, Wire, Wire) {
    let backend = Backend::start().await;
    let server = server_for(&[entry("LLM1", &backend, "127.0.0.1")], settings);
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    let hello = wire.exactly(5).await;
    assert_eq!(hello[0], 22, "a handshake");
    let length = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
    wire.exactly(length).await;
    (server, client, wire)
}

/// A fatal alert (RFC 8446, section 6).
fn alert(description: u8) -> Vec<u8> {
    vec![21, 3, 3, 0, 2, 2, description]
}

#[tokio::test]
async fn a_backend_that_does_not_speak_tls_is_a_protocol_error() {
    const HANDSHAKE_FAILURE: u8 = 40;
    const BAD_CERTIFICATE: u8 = 42; // Ours: the backend's own isn't what is wrong.
    for answer in [
        response("400 Bad Request", "This is not TLS").into_bytes(),
        alert(HANDSHAKE_FAILURE),
        alert(BAD_CERTIFICATE),
        Vec::new(),
    ] {
        let (_server, mut client, mut wire) = asked_for_tls("").await;
        wire.send(&answer).await;
        drop(wire);
        let response = client.response().await;
        assert_eq!(response.status(), 502, "{answer:?}");
        assert_eq!(response.error_code(), "tls_protocol_error", "{answer:?}");
    }
}

#[tokio::test]
async fn a_reset_within_the_handshake_is_a_protocol_error() {
    let (_server, mut client, wire) = asked_for_tls("").await;
    wire.reset();
    assert_eq!(client.response().await.error_code(), "tls_protocol_error");
}

#[tokio::test]
async fn connect_timeout_is_for_the_handshake_too() {
    let (server, mut client, _wire) = asked_for_tls(r#""connect_timeout":0.3"#).await;
    let answer = client.response().await;
    assert_eq!(answer.status(), 504);
    assert_eq!(answer.error_code(), "connection_timeout");
    server.logged("end=connect_timeout").await;
}

#[tokio::test]
async fn a_client_that_disconnects_ends_the_handshake() {
    let (_server, client, mut wire) = asked_for_tls("").await;
    drop(client);
    wire.closed().await;
}

// Bodies.

#[tokio::test]
async fn each_chunk_of_a_stream_comes_before_the_next_is_sent() {
    let (server, backend) = good().await;
    let mut client = Wire::connect(server.address).await;
    client.send(post(r#"{"stream":true}"#)).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        .await;
    wire.send("Transfer-Encoding: chunked\r\n\r\n").await;
    client.head().await;
    for number in 0..5 {
        let event = format!("data: {number}\n\n");
        wire.send(
            chunked(event.as_bytes(), &[event.len()])
                .strip_suffix(b"0\r\n\r\n")
                .expect("its end"),
        )
        .await;
        client.until(&event).await;
    }
    wire.send("0\r\n\r\n").await;
    client.until("0\r\n\r\n").await;
}

#[tokio::test]
async fn large_bodies_come_through_byte_for_byte() {
    let (server, backend) = good().await;
    let (question, answer) = (noise(5_000_000), noise(7_000_000));
    for framing in ["Content-Length: 5000000", "Transfer-Encoding: chunked"] {
        let mut client = Wire::connect(server.address).await;
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer sk\r\n\
             {framing}\r\nConnection: close\r\n\r\n"
        );
        let body = match framing.contains("chunked") {
            true => chunked(&question, &[70_000, 1, 300_000]),
            false => question.clone(),
        };
        let asking = async {
            client.send(head).await;
            client.send(&body).await;
            client.response().await
        };
        let answering = async {
            let mut wire = backend.accept().await;
            let request = wire.request().await;
            assert!(request.content() == question, "another body came");
            wire.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                answer.len()
            ))
            .await;
            wire.send(&answer).await;
            close(wire).await;
        };
        let (response, ()) = tokio::join!(asking, answering);
        assert!(response.body == answer, "another body came back");
    }
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_is_complete_only_with_a_close_notify() {
    for is_complete in [true, false] {
        let (server, backend) = good().await;
        let mut client = Wire::connect(server.address).await;
        client.send(post("{}")).await;
        let mut wire = backend.accept().await;
        wire.request().await;
        wire.send("HTTP/1.1 200 OK\r\n\r\nsome text").await;
        let head = client.head().await;
        assert!(head.contains("chunked"), "{head}");
        client.until("some text").await;
        let end = match is_complete {
            true => {
                close(wire).await;
                "end=complete"
            }
            false => {
                drop(wire);
                "end=\"backend broke off\""
            }
        };
        server.logged(end).await;
        if is_complete {
            client.until("0\r\n\r\n").await;
        } else {
            assert!(find(&client.rest().await, b"0\r\n\r\n").is_none());
        }
    }
}

#[tokio::test]
async fn a_body_with_a_length_is_complete_without_a_close_notify() {
    let (server, backend) = good().await;
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send(response("200 OK", "some text")).await;
    drop(wire);
    assert_eq!(client.response().await.body, b"some text");
    server.logged("end=complete").await;
}

#[tokio::test]
async fn a_backend_that_breaks_off_within_a_body_breaks_the_clients() {
    let (server, backend) = good().await;
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome text")
        .await;
    client.until("some text").await;
    close(wire).await;
    client.closed().await;
    server.logged("end=\"backend broke off\"").await;
}

#[tokio::test]
async fn a_client_that_disconnects_ends_the_backends_request() {
    let (server, backend) = good().await;
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send("HTTP/1.1 200 OK\r\n\r\nsome text").await;
    client.until("some text").await;
    drop(client);
    wire.closed().await;
}

// Connections that are kept.

#[tokio::test]
async fn a_connection_is_used_again() {
    let (server, backend) = good().await;
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    for answer in ["one", "two", "three"] {
        wire.request().await;
        wire.send(response("200 OK", answer)).await;
        assert_eq!(client.response().await.body, answer.as_bytes());
        client.send(post_with("X-Next: yes\r\n", "{}")).await;
    }
    wire.request().await;
    assert!(!backend.backend.is_contacted().await);
}

#[tokio::test]
async fn a_connection_that_was_idle_for_a_while_is_used_again() {
    let (server, backend) = good().await;
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send(response("200 OK", "one")).await;
    client.response().await;
    // From a second on, the socket is looked at, too.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    client.send(post("{}")).await;
    wire.request().await;
    wire.send(response("200 OK", "two")).await;
    assert_eq!(client.response().await.body, b"two");
}

/// The platform's library, through its binding, doesn't.
#[cfg(feature = "rustls")]
#[tokio::test]
async fn a_new_connection_resumes_the_session() {
    use std::sync::Arc;

    use tokio_rustls::rustls::{
        HandshakeKind, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    };

    let file = |name| certificates().join(name);
    let chain = CertificateDer::pem_file_iter(file("good.pem")).unwrap();
    let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            chain.collect::<Result<_, _>>().unwrap(),
            PrivateKeyDer::from_pem_file(file("leaf.key")).unwrap(),
        );
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls.unwrap()));
    let backend = Backend::start().await;
    let server = server_for(&[entry("LLM1", &backend, "localhost")], "");

    let mut handshakes = Vec::new();
    for _ in 0..4 {
        let mut client = Wire::connect(server.address).await;
        client.send(post("{}")).await;
        let tcp = backend.accept().await.stream;
        let tls = soon("a handshake", acceptor.accept(tcp)).await.unwrap();
        handshakes.push(tls.get_ref().1.handshake_kind().unwrap());
        let mut wire = Wire::over(tls);
        wire.request().await;
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
        wire.send(answer).await;
        assert_eq!(client.response().await.body, b"{}");
    }
    let [first, later @ ..] = &handshakes[..] else {
        unreachable!()
    };
    assert_eq!(*first, HandshakeKind::Full);
    assert!(later.iter().all(|kind| *kind == HandshakeKind::Resumed));
}

#[tokio::test]
async fn a_kept_connection_that_the_backend_has_closed_is_nobodys_error() {
    let (server, backend) = good().await;
    let mut client = Wire::connect(server.address).await;
    let mut open = Vec::new();
    for end in ["close_notify", "close_notify alone", "none", "reset"] {
        client.send(post("{}")).await;
        let mut wire = backend.accept().await;
        wire.request().await;
        wire.send(response("200 OK", end)).await;
        assert_eq!(client.response().await.body, end.as_bytes());
        match end {
            "close_notify" => close(wire).await,
            "close_notify alone" => {
                wire.stream.shutdown().await.expect("a connection");
                open.push(wire); // below, the connection stays open
            }
            "reset" => reset(wire),
            _ => drop(wire),
        }
    }
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send(response("200 OK", "the last")).await;
    assert_eq!(client.response().await.body, b"the last");
}

// WebSockets.

/// Opens a WebSocket, and gives both ends.
async fn open(server: &Server, backend: &Https) -> (Wire, Wire<TlsStream<TcpStream>>) {
    let mut client = Wire::connect(server.address).await;
    client.send(handshake("/v1/realtime", "")).await;
    let mut wire = backend.accept().await;
    wire.head().await;
    wire.send(format!("{SWITCH}early")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    assert_eq!(client.until("early").await, "early");
    (client, wire)
}

#[tokio::test]
async fn a_websocket_passes_both_ways() {
    let (server, backend) = good().await;
    let (mut client, mut wire) = open(&server, &backend).await;
    let bytes = noise(300_000);
    for _ in 0..3 {
        client.send(&bytes).await;
        assert_eq!(wire.exactly(bytes.len()).await, bytes);
        wire.send(&bytes).await;
        assert_eq!(client.exactly(bytes.len()).await, bytes);
        client.send("short").await;
        assert_eq!(wire.until("short").await, "short");
    }
}

#[tokio::test]
async fn the_end_of_a_websocket_is_forwarded_with_all_that_came_before() {
    let (server, backend) = good().await;
    let last = noise(300_000);
    for end in ["close_notify", "none"] {
        let (mut client, mut wire) = open(&server, &backend).await;
        wire.send(&last).await;
        match end {
            "close_notify" => close(wire).await,
            _ => drop(wire),
        }
        assert_eq!(client.exactly(last.len()).await, last, "{end}");
        let read = client.stream.read(&mut [0]).await;
        assert_eq!(read.expect("no reset"), 0, "{end}");
    }

    let (mut client, mut wire) = open(&server, &backend).await;
    client.stream.shutdown().await.expect("a connection");
    assert!(wire.rest().await.is_empty());
}

#[tokio::test]
async fn a_reset_of_a_websocket_resets_the_client() {
    let (server, backend) = good().await;
    let (mut client, wire) = open(&server, &backend).await;
    reset(wire);
    let error = client.stream.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// Ends the connection below with a reset.
fn reset(wire: Wire<TlsStream<TcpStream>>) {
    reset_at_end(wire.stream.get_ref().get_ref().get_ref());
}
