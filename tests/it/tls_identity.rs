//! `ca_file`, `client_cert` and `client_key`: backends that want to know who asks.

#![cfg(any(feature = "native-tls", feature = "rustls"))]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
    server::TlsStream,
};

use crate::{
    support::{
        Backend, Message, Server, TempFile, Wire, config_of, post, post_with, response, soon,
    },
    websocket::{handshake, switch},
};

fn certificate(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    folder.join(name)
}

/// A backend that takes only clients with a certificate of its authority.
struct Mutual {
    backend: Backend,
    acceptor: TlsAcceptor,
}

impl Mutual {
    async fn start() -> Self {
        let read = |name| CertificateDer::from_pem_file(certificate(name)).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(read("clients.pem")).expect("a certificate");
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build();
        let key = PrivateKeyDer::from_pem_file(certificate("leaf.key")).expect("a key");
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier.expect("an authority"))
            .with_single_cert(vec![read("good.pem")], key);
        Self {
            backend: Backend::start().await,
            acceptor: Arc::new(config.expect("a certificate")).into(),
        }
    }

    /// As part of a configuration, with further members.
    fn entry(&self, name: &str, fields: &str) -> String {
        let port = self.backend.address.port();
        format!(r#"{{"name":"{name}","url":"https://localhost:{port}/v1",{fields}}}"#)
    }

    /// The next connection; none if the handshake fails.
    async fn try_accept(&self) -> Option<Wire<TlsStream<TcpStream>>> {
        let tcp = self.backend.accept().await.stream;
        let tls = soon("a handshake", self.acceptor.accept(tcp)).await;
        tls.ok().map(Wire::over)
    }

    async fn accept(&self) -> Wire<TlsStream<TcpStream>> {
        self.try_accept().await.expect("a handshake")
    }
}

fn file(field: &str, name: &str) -> String {
    format!(r#""{field}":{:?}"#, certificate(name))
}

/// The members that make a backend of [`Mutual`] content.
fn good() -> String {
    [
        file("ca_file", "authority.pem"),
        file("client_cert", "client.pem"),
        file("client_key", "client.key"),
    ]
    .join(",")
}

async fn ask(server: &Server, backend: &Mutual, fields: &str) -> Message {
    let mut client = Wire::connect(server.address).await;
    client.send(post_with(fields, "{}")).await;
    if let Some(mut wire) = backend.try_accept().await
        && wire.try_request().await.is_some()
    {
        wire.send(response("200 OK", "{}")).await;
    }
    client.response().await
}

#[tokio::test]
async fn a_backend_is_shown_the_certificate() {
    let backend = Mutual::start().await;
    for key in ["client.key", "client.sec1.key"] {
        let fields = good().replace("client.key", key);
        let server = Server::start(&config_of(&[backend.entry("LLM1", &fields)], ""));
        assert_eq!(ask(&server, &backend, "").await.status(), 200, "{key}");
    }
}

#[tokio::test]
async fn without_the_certificate_the_backend_is_of_no_use() {
    let backend = Mutual::start().await;
    let authority = file("ca_file", "authority.pem");
    let server = Server::start(&config_of(&[backend.entry("LLM1", &authority)], ""));
    assert_eq!(ask(&server, &backend, "").await.status(), 502);
    // Nor with one of another authority's.
    let other = [
        authority,
        file("client_cert", "good.pem"),
        file("client_key", "leaf.key"),
    ];
    let server = Server::start(&config_of(&[backend.entry("LLM1", &other.join(","))], ""));
    assert_eq!(ask(&server, &backend, "").await.status(), 502);
}

#[tokio::test]
async fn ca_file_takes_the_place_of_the_systems_authorities() {
    let backend = Mutual::start().await;
    let fields = good().replace("authority.pem", "clients.pem");
    let config = config_of(&[backend.entry("LLM1", &fields)], "");
    let system = certificate("authority.pem");
    let system = [("SSL_CERT_FILE", system.to_str().expect("UTF-8"))];
    let server = Server::start_with(&config, &[], &system);
    let answer = ask(&server, &backend, "").await;
    assert_eq!(answer.error_code(), "tls_certificate_error");

    let both = [certificate("clients.pem"), certificate("authority.pem")];
    let both = both.map(|file| fs::read_to_string(file).expect("a file"));
    let bundle = TempFile::new("bundle.pem", &both.concat());
    let fields = good().replace(
        certificate("authority.pem").to_str().expect("UTF-8"),
        bundle.path.to_str().expect("UTF-8"),
    );
    let server = Server::start(&config_of(&[backend.entry("LLM1", &fields)], ""));
    assert_eq!(ask(&server, &backend, "").await.status(), 200);
}

// Elsewhere the certificate authorities are the system's, and can't be chosen for a test.
#[cfg(not(any(windows, target_vendor = "apple")))]
#[tokio::test]
async fn a_certificate_can_be_shown_to_who_is_trusted_by_the_system() {
    let backend = Mutual::start().await;
    let fields = [
        file("client_cert", "client.pem"),
        file("client_key", "client.key"),
    ]
    .join(",");
    let config = config_of(&[backend.entry("LLM1", &fields)], "");
    let system = certificate("authority.pem");
    let system = [("SSL_CERT_FILE", system.to_str().expect("UTF-8"))];
    let server = Server::start_with(&config, &[], &system);
    assert_eq!(ask(&server, &backend, "").await.status(), 200);
}

#[tokio::test]
async fn websockets_show_it_too() {
    let backend = Mutual::start().await;
    let server = Server::start(&config_of(&[backend.entry("LLM1", &good())], ""));
    let mut client = Wire::connect(server.address).await;
    client.send(handshake("/v1/realtime", "")).await;
    let mut wire = backend.accept().await;
    wire.head().await;
    switch(&mut client, &mut wire).await;
}

#[tokio::test]
async fn so_does_the_list_of_models() {
    let backends = [Mutual::start().await, Mutual::start().await];
    let entries = [
        backends[0].entry("A", &good()),
        backends[1].entry("B", &good()),
    ];
    let server = Server::start(&config_of(&entries, ""));
    let mut client = Wire::connect(server.address).await;
    client
        .send("GET /v1/models HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer k\r\n\r\n")
        .await;
    for (backend, id) in backends.iter().zip(["a", "b"]) {
        let mut wire = backend.accept().await;
        wire.request().await;
        let list = format!(r#"{{"object":"list","data":[{{"id":"{id}"}}]}}"#);
        wire.send(response("200 OK", &list)).await;
    }
    let list = client.response().await;
    assert_eq!(
        list.body,
        br#"{"object":"list","data":[{"id":"a"},{"id":"b"}]}"#
    );
}

#[tokio::test]
async fn only_those_who_show_the_same_share_connections() {
    let backend = Mutual::start().await;
    let anonymous = file("ca_file", "authority.pem");
    let entries = [
        backend.entry("A", &good()),
        backend.entry("anonymous", &anonymous),
        backend.entry("same", &good()),
    ];
    let server = Server::start(&config_of(&entries, r#""cooldown":0"#));
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send(response("200 OK", "A")).await;
    assert_eq!(client.response().await.body, b"A");

    let refused = ask(&server, &backend, "X-Proxy-Backend: anonymous\r\n").await;
    assert_eq!(refused.status(), 502);

    // On the connection that was made for the first one.
    client
        .send(post_with("X-Proxy-Backend: same\r\n", "{}"))
        .await;
    wire.request().await;
    wire.send(response("200 OK", "same")).await;
    assert_eq!(client.response().await.body, b"same");
}

#[tokio::test]
async fn files_that_cannot_be_used_are_reported_at_the_start() {
    let backend = Mutual::start().await;
    for (fields, expected) in [
        (
            good().replace("client.key", "leaf.key"),
            "client_key` names a file whose key isn't",
        ),
        (
            good().replace("authority.pem", "missing.pem"),
            "ca_file` names a file that can't be read",
        ),
    ] {
        let config = TempFile::new(
            "config.json",
            &config_of(&[backend.entry("LLM1", &fields)], ""),
        );
        let mut command = Server::command();
        let output = command
            .arg("--config")
            .arg(&config.path)
            .output()
            .expect("a process");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expected), "{message}");
        assert!(message.contains("line 1, column "), "{message}");
    }
}
