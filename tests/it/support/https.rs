//! A TLS client, by another library than the server's.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio_native_tls::{
    TlsConnector, TlsStream,
    native_tls::{self, Certificate, Protocol},
};
use tokio_rustls::{
    self as rustls,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, pem::PemObject},
    },
};

use super::{Server, TempFile, Wire, http2::Http2, soon};

pub(crate) type Tls = TlsStream<TcpStream>;
pub(crate) type StrictTls = rustls::client::TlsStream<TcpStream>;

/// A file in `tests/certificates`.
pub(crate) fn certificate(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    folder.join(name)
}

/// Starts the server with a certificate and a key from `tests/certificates`.
pub(crate) fn start(config: &str, pair: [&str; 2]) -> Server {
    start_with(config, pair, &[])
}

/// Like [`start`], with environment variables.
pub(crate) fn start_with(config: &str, pair: [&str; 2], environment: &[(&str, &str)]) -> Server {
    let config = TempFile::new("config.json", config);
    let mut command = Server::command();
    command.arg("--config").arg(&config.path);
    command.arg("--tls-cert").arg(certificate(pair[0]));
    command.arg("--tls-key").arg(certificate(pair[1]));
    command.envs(environment.iter().copied());
    Server::spawn(&mut command)
}

/// Connects with these ALPN protocols. Only the tests' own authority is trusted.
pub(crate) async fn connect(address: SocketAddr, alpn: &[&str]) -> Wire<Tls> {
    let stream = try_connect(address, alpn, None).await;
    Wire::over(stream.expect("a handshake"))
}

/// Like [`connect`], with one version of TLS; returns why a handshake failed.
pub(crate) async fn try_connect(
    address: SocketAddr,
    alpn: &[&str],
    version: Option<Protocol>,
) -> native_tls::Result<Tls> {
    let stream = soon("connecting", TcpStream::connect(address)).await;
    let stream = stream.expect("a listener");
    stream.set_nodelay(true).expect("a socket");
    let authority = std::fs::read(certificate("authority.pem")).expect("a file");
    let mut connector = native_tls::TlsConnector::builder();
    connector
        .disable_built_in_roots(true)
        .add_root_certificate(Certificate::from_pem(&authority).expect("a certificate"))
        .request_alpns(alpn);
    if version.is_some() {
        connector.min_protocol_version(version);
        connector.max_protocol_version(version);
    }
    let connector = TlsConnector::from(connector.build().expect("a connector"));
    soon("a handshake", connector.connect("localhost", stream)).await
}

/// Connects with HTTP/2.
pub(crate) async fn http2(address: SocketAddr) -> Http2 {
    let wire = connect(address, &["h2"]).await;
    assert_eq!(chosen(&wire.stream).as_deref(), Some("h2"));
    let tcp = wire.stream.get_ref().get_ref().get_ref();
    let socket = SockRef::from(tcp).try_clone().expect("a socket");
    Http2::over(wire.stream, socket, address).await
}

/// The protocol that the server selected.
pub(crate) fn chosen(stream: &Tls) -> Option<String> {
    let alpn = stream.get_ref().negotiated_alpn().expect("known");
    alpn.map(|alpn| String::from_utf8(alpn).expect("ASCII"))
}

/// Whether the server presented the first certificate of this file.
pub(crate) fn shows(stream: &Tls, name: &str) -> bool {
    let pem = std::fs::read(certificate(name)).expect("a file");
    let expected = Certificate::from_pem(&pem).expect("a certificate");
    let shown = stream.get_ref().peer_certificate().expect("readable");
    shown.expect("a certificate").to_der().unwrap() == expected.to_der().unwrap()
}

/// Connects by rustls, for which an end without `close_notify` is an error. (The other library
/// accepts it.)
pub(crate) async fn strict(address: SocketAddr) -> Wire<StrictTls> {
    connect_by(&connector(), address).await
}

/// By rustls, with sessions of its own.
pub(crate) fn connector() -> rustls::TlsConnector {
    let authority = CertificateDer::from_pem_file(certificate("authority.pem")).expect("a file");
    let mut roots = RootCertStore::empty();
    roots.add(authority).expect("a certificate");
    let config = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config).into()
}

pub(crate) async fn connect_by(
    connector: &rustls::TlsConnector,
    address: SocketAddr,
) -> Wire<StrictTls> {
    let stream = soon("connecting", TcpStream::connect(address)).await;
    let name = "localhost".try_into().expect("a name");
    let stream = connector.connect(name, stream.expect("a listener"));
    Wire::over(soon("a handshake", stream).await.expect("a handshake"))
}
