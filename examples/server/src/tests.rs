//! Connections on which no request comes, on paused time.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, pem::PemObject},
    },
};
use tower_openai_proxy::{Config, OpenAiProxyLayer};

use crate::{serve, tls};

/// Starts the server on this program's runtime.
fn start() -> SocketAddr {
    start_with(None)
}

fn start_with(tls: Option<Arc<ServerConfig>>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("bound");
    let layer = OpenAiProxyLayer::builder(Config::default())
        .health("/health")
        .build();
    tokio::spawn(async move {
        let (_not_draining, draining) = watch::channel(false);
        let (_no_reload, tls) = tls.map(watch::channel).unzip();
        serve::accept(listener, tls, layer, draining).await
    });
    address
}

async fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).await;
    client.expect("someone listens")
}

/// Starts the server with TLS, and connects to it in this protocol.
async fn connect_tls(alpn: &str) -> impl AsyncRead + AsyncWrite + Unpin {
    let mut client = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(authorities())
        .with_no_client_auth();
    client.alpn_protocols = vec![alpn.into()];
    let stream = connect(start_with(Some(server_config()))).await;
    let name = "localhost".try_into().expect("a name");
    let connector = TlsConnector::from(Arc::new(client));
    connector.connect(name, stream).await.expect("a handshake")
}

/// Sends these pieces with a pause before each, and says after how many seconds the server has
/// closed the connection, and what it sent before.
async fn closed_after(pieces: &[&str], pause: Duration) -> (u64, String) {
    let pieces: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
    let (seconds, received) = ended_after(connect(start()).await, &pieces, pause).await;
    let received = String::from_utf8_lossy(&received).into_owned();
    (seconds, received)
}

async fn ended_after<S>(client: S, pieces: &[&[u8]], pause: Duration) -> (u64, Vec<u8>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let start = Instant::now();
    let (mut read, mut write) = tokio::io::split(client);
    let sending = async {
        for piece in pieces {
            sleep(pause).await;
            if write.write_all(piece).await.is_err() {
                break;
            }
            let _ = write.flush().await;
        }
        std::future::pending::<()>().await;
    };
    let mut received = Vec::new();
    tokio::select! {
        () = sending => {}
        _ = read.read_to_end(&mut received) => {}
    }
    (start.elapsed().as_secs(), received)
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_is_closed_after_30_s() {
    assert_eq!(closed_after(&[], Duration::ZERO).await.0, 30);
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_a_part_of_a_head_is_closed_after_30_s() {
    for part in ["G", "GET /health HTTP/1.1\r\nHost: proxy.test\r\n"] {
        let (seconds, _) = closed_after(&[part], Duration::ZERO).await;
        assert_eq!(seconds, 30, "{part:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_a_part_of_the_http2_preface_is_closed_after_30_s() {
    for part in ["P", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
        let (seconds, _) = closed_after(&[part], Duration::ZERO).await;
        assert_eq!(seconds, 30, "{part:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_comes_drop_by_drop_is_closed_after_30_s() {
    let head = "GET /health HTTP/1.1\r\nX: y\r\n\r\n";
    let bytes: Vec<&str> = head.split_inclusive(|_| true).collect();
    let (seconds, received) = closed_after(&bytes, Duration::from_secs(2)).await;
    // From its first byte on.
    assert!((30..=32).contains(&seconds), "{seconds} s");
    assert!(!received.contains("200 OK"), "{received}");
}

#[tokio::test(start_paused = true)]
async fn a_second_request_has_30_s_of_its_own() {
    let request = "GET /health HTTP/1.1\r\nHost: proxy.test\r\n\r\n";
    let pieces = [request, request, "GET /he"];
    let (seconds, received) = closed_after(&pieces, Duration::from_secs(20)).await;
    assert_eq!(received.matches("200 OK").count(), 2, "{received}");
    assert!((60..=90).contains(&seconds), "{seconds} s");
}

// HTTP/2.

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// GET /health: a method, a scheme and a path (RFC 7541).
const HEALTH: &[u8] = b"\x82\x86\x04\x07/health";

/// A frame on stream 1.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 1];
    frame.extend_from_slice(payload);
    frame
}

fn headers(flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(1, flags, payload)
}

/// On the connection, of which the server answers each.
fn ping() -> Vec<u8> {
    let mut ping = frame(6, 0, &[0; 8]);
    ping[8] = 0;
    ping
}

fn continuation(flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(9, flags, payload)
}

/// After how many seconds the server ends a connection of HTTP/2 on which these are sent: a plain
/// one, and one of TLS.
async fn http2_closed_after(pieces: &[&[u8]], pause: Duration) -> [u64; 2] {
    let all = [&[PREFACE], pieces].concat();
    let plain = ended_after(connect(start()).await, &all, pause).await.0;
    let tls = ended_after(connect_tls("h2").await, &all, pause).await.0;
    [plain, tls]
}

#[tokio::test(start_paused = true)]
async fn an_http2_connection_without_a_whole_head_is_closed_after_30_s() {
    let whole = headers(END_STREAM | END_HEADERS, HEALTH);
    let first = headers(END_STREAM, &HEALTH[..5]);
    let next = continuation(0, &HEALTH[5..]);
    for pieces in [
        &[][..],
        &[&SETTINGS[..4]],
        &[SETTINGS],
        &[SETTINGS, &whole[..5]],
        &[SETTINGS, &whole[..15]],
        &[SETTINGS, &first],
        &[SETTINGS, &first, &next],
        &[SETTINGS, &first, &next[..3]],
    ] {
        let seconds = http2_closed_after(pieces, Duration::ZERO).await;
        assert_eq!(seconds, [30; 2], "{pieces:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_http2_head_that_comes_drop_by_drop_is_closed_after_30_s() {
    let drops = [continuation(0, b""), continuation(0, b"")].concat();
    let first = headers(END_STREAM, HEALTH);
    let mut pieces = vec![SETTINGS, &first];
    pieces.extend(drops.chunks(1));
    let seconds = http2_closed_after(&pieces, Duration::from_secs(2)).await;
    assert_eq!(seconds, [30 + 2, 30]); // the first preface takes 2 s
}

#[tokio::test(start_paused = true)]
async fn the_next_http2_head_has_30_s_of_its_own() {
    let whole = headers(END_STREAM | END_HEADERS, HEALTH);
    let mut next = headers(END_STREAM, HEALTH);
    next[8] = 3; // the stream
    for begun in [&next[..], &next[..4], &next[..12]] {
        let pieces = [PREFACE, SETTINGS, &whole, begun];
        let client = connect(start()).await;
        let (seconds, received) = ended_after(client, &pieces, Duration::from_secs(7)).await;
        assert_eq!(seconds, 28 + 30);
        let is_answered = received.windows(2).any(|part| part == b"ok");
        assert!(is_answered);
    }
}

#[tokio::test(start_paused = true)]
async fn http2_frames_that_are_whole_in_time_are_not_taken_for_one() {
    let whole = headers(END_STREAM | END_HEADERS, HEALTH);
    // Each piece ends within a frame; all of it together takes longer than 30 s.
    let pings: Vec<u8> = (0..40).flat_map(|_| ping()).collect();
    let mut pieces = vec![SETTINGS, &whole, &pings[..5]];
    pieces.extend(pings[5..].chunks(17));
    let seconds = http2_closed_after(&pieces, Duration::from_secs(2)).await;
    // It answers no ping.
    assert!(seconds.iter().all(|seconds| *seconds >= 50), "{seconds:?}");
}

#[tokio::test(start_paused = true)]
async fn an_http2_connection_that_answers_no_ping_is_closed() {
    let whole = headers(END_STREAM | END_HEADERS, HEALTH);
    let seconds = http2_closed_after(&[SETTINGS, &whole], Duration::ZERO).await;
    assert_eq!(seconds, [50; 2]);
}

#[tokio::test(start_paused = true)]
async fn an_http2_connection_between_requests_lives_on_while_it_answers_pings() {
    let stream = TokioIo::new(connect(start()).await);
    let http2 = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
    let (mut sender, connection) = http2.await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    for _ in 0..3 {
        let request = Request::get("http://proxy.test/health").body(Empty::<Bytes>::new());
        let answer = sender.send_request(request.expect("a request")).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.expect("a body");
        sleep(Duration::from_secs(300)).await;
    }
    assert!(!connection.is_finished());
}

// TLS.

fn file(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/certificates");
    folder.join(name)
}

fn authorities() -> RootCertStore {
    let authority = CertificateDer::from_pem_file(file("authority.pem")).expect("a file");
    let mut store = RootCertStore::empty();
    store.add(authority).expect("a certificate");
    store
}

fn server_config() -> Arc<ServerConfig> {
    let files = tls::Files {
        certificate: file("good.pem"),
        key: file("leaf.key"),
    };
    files.load().expect("usable")
}

#[tokio::test(start_paused = true)]
async fn a_tls_handshake_that_does_not_end_is_closed_after_30_s() {
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    for begun in [&hello[..0], &hello[..1], &hello[..]] {
        let client = connect(start_with(Some(server_config()))).await;
        let (seconds, _) = ended_after(client, &[begun], Duration::ZERO).await;
        assert_eq!(seconds, 30, "{begun:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_over_tls_that_is_not_whole_is_closed_after_30_s() {
    for part in ["", "G", "GET /health HTTP/1.1\r\nHost: proxy.test\r\n"] {
        let client = connect_tls("http/1.1").await;
        let (seconds, received) = ended_after(client, &[part.as_bytes()], Duration::ZERO).await;
        assert_eq!(seconds, 30, "{part:?}");
        assert!(!received.starts_with(b"HTTP/1.1 200"));
    }
}
