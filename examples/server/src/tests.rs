//! Connections on which no request comes, and the end of others, on paused time.

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
use tower_openai_proxy::{BackendConfig, Config, OpenAiProxyLayer};

use crate::{
    listen::Listener,
    notice::Notice,
    probes::Readiness,
    serve::{self, Options},
    tls,
};

const KEEP_ALIVE: Duration = Duration::from_secs(620);
const GET_HEALTH: &str = "GET /health HTTP/1.1\r\nHost: proxy.test\r\n\r\n";

/// A server on this program's runtime.
struct Server {
    address: SocketAddr,
    notices: watch::Sender<Notice>,
}

impl Server {
    fn start(config: Config, tls: Option<Arc<ServerConfig>>, keep_alive: Duration) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let layer = OpenAiProxyLayer::builder(config).health("/health").build();
        let notices = watch::Sender::default();
        let (reload, tls) = tls.map(watch::channel).unzip();
        let options = Options {
            tls,
            keep_alive,
            notices: notices.clone(),
            readiness: Readiness::default(),
        };
        tokio::spawn(async move {
            let _no_reload = reload;
            serve::accept(Listener::Tcp(listener), layer, options).await
        });
        Self { address, notices }
    }

    fn drain(&self) {
        self.notices.send_modify(|notice| notice.is_draining = true);
    }
}

fn start() -> SocketAddr {
    start_with(None)
}

fn start_with(tls: Option<Arc<ServerConfig>>) -> SocketAddr {
    Server::start(Config::default(), tls, KEEP_ALIVE).address
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
    let pieces = [GET_HEALTH, GET_HEALTH, "GET /he"];
    let (seconds, received) = closed_after(&pieces, Duration::from_secs(20)).await;
    assert_eq!(received.matches("200 OK").count(), 2, "{received}");
    assert_eq!(seconds, 60 + 30);
}

#[tokio::test(start_paused = true)]
async fn the_head_that_ends_a_long_idle_time_has_30_s_from_its_first_byte_on() {
    let mut client = connect(start()).await;
    client.write_all(GET_HEALTH.as_bytes()).await.expect("open");
    sleep(Duration::from_secs(300)).await;
    let drops: Vec<&[u8]> = GET_HEALTH.as_bytes().chunks(1).collect();
    let (seconds, received) = ended_after(client, &drops, Duration::from_secs(7)).await;
    let received = String::from_utf8_lossy(&received);
    assert_eq!(received.matches("200 OK").count(), 1, "{received}");
    assert_eq!(seconds, 7 + 30);
}

// Idle connections.

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_idle_after_an_exchange_is_closed_after_keep_alive() {
    let (seconds, received) = closed_after(&[GET_HEALTH], Duration::ZERO).await;
    assert!(received.contains("200 OK"), "{received}");
    assert_eq!(seconds, 620);

    let tls = connect_tls("http/1.1").await;
    let (seconds, _) = ended_after(tls, &[GET_HEALTH.as_bytes()], Duration::ZERO).await;
    assert_eq!(seconds, 620);

    let server = Server::start(Config::default(), None, Duration::from_secs(7));
    let client = connect(server.address).await;
    let pieces = [GET_HEALTH.as_bytes(); 3];
    let (seconds, _) = ended_after(client, &pieces, Duration::from_secs(5)).await;
    assert_eq!(seconds, 3 * 5 + 7);
}

#[tokio::test(start_paused = true)]
async fn an_http2_connection_that_only_answers_pings_is_closed_after_keep_alive() {
    let stream = TokioIo::new(connect(start()).await);
    let http2 = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
    let (mut sender, connection) = http2.await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = Request::get("http://proxy.test/health").body(Empty::<Bytes>::new());
    let answer = sender.send_request(request.expect("a request")).await;
    answer
        .expect("an answer")
        .into_body()
        .collect()
        .await
        .expect("a body");
    let idle_since = Instant::now();
    connection.await.expect("no panic").expect("a proper end");
    assert_eq!(idle_since.elapsed().as_secs(), 620);
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_idle_longest_end_first_where_descriptors_run_short() {
    let server = Server::start(Config::default(), None, KEEP_ALIVE);
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = connect(server.address).await;
        client.write_all(GET_HEALTH.as_bytes()).await.expect("open");
        let http2 = hyper::client::conn::http2::handshake(
            TokioExecutor::new(),
            TokioIo::new(connect(server.address).await),
        );
        let (mut sender, connection) = http2.await.expect("HTTP/2");
        let connection = tokio::spawn(connection);
        let request = Request::get("http://proxy.test/health").body(Empty::<Bytes>::new());
        let answer = sender.send_request(request.expect("a request")).await;
        answer
            .expect("an answer")
            .into_body()
            .collect()
            .await
            .expect("a body");
        clients.push((client, sender, connection));
        sleep(Duration::from_secs(10)).await;
    }
    let idle_since = Instant::now() - Duration::from_secs(15);
    server
        .notices
        .send_modify(|notice| notice.idle_since = Some(idle_since));
    let (mut second, _sender, still_open) = clients.pop().expect("two");
    let (mut first, _, ended) = clients.pop().expect("two");
    let start = Instant::now();
    first
        .read_to_end(&mut Vec::new())
        .await
        .expect("a proper end");
    ended.await.expect("no panic").expect("a proper end");
    assert_eq!(start.elapsed().as_secs(), 0);
    sleep(Duration::from_secs(10)).await;
    assert!(!still_open.is_finished());
    second.write_all(GET_HEALTH.as_bytes()).await.expect("open");
    let mut received = vec![0; 4096];
    let mut length = 0;
    while received[..length]
        .windows(6)
        .filter(|part| part == b"200 OK")
        .count()
        < 2
    {
        let more = second.read(&mut received[length..]).await.expect("open");
        assert!(more > 0, "closed");
        length += more;
    }
}

// Draining.

/// Starts a server whose one backend is the test's.
async fn start_before_backend() -> (Server, tokio::net::TcpListener) {
    let backend = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let url = format!("http://{}", backend.local_addr().expect("bound"));
    let config = Config::builder().backend(BackendConfig::new("LLM1", url));
    let config = config.build().expect("usable");
    (Server::start(config, None, KEEP_ALIVE), backend)
}

const POST: &str = "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\napi-key: k\r\nContent-Length: 2\r\n\r\n{}";

/// Takes the request, and answers it with half a body.
async fn begin_answer(backend: &tokio::net::TcpListener) -> TcpStream {
    let (mut backend, _) = backend.accept().await.expect("a connection");
    let length = backend.read(&mut [0; 4096]).await;
    assert!(length.expect("open") > 0, "no request");
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no";
    backend.write_all(half).await.expect("open");
    backend
}

#[tokio::test(start_paused = true)]
async fn while_draining_a_connection_is_closed_behind_its_last_answer() {
    let (server, backend) = start_before_backend().await;
    let mut client = connect(server.address).await;
    client.write_all(POST.as_bytes()).await.expect("open");
    let mut backend = begin_answer(&backend).await;
    sleep(Duration::from_secs(1)).await;
    server.drain();
    sleep(Duration::from_secs(10)).await;
    backend.write_all(b"k").await.expect("open");
    let start = Instant::now();
    let mut received = Vec::new();
    client
        .read_to_end(&mut received)
        .await
        .expect("a proper end");
    assert!(received.ends_with(b"\r\n\r\nok"));
    assert_eq!(start.elapsed().as_secs(), 0);
    // The client leaves its side open.
    server.notices.closed().await;
    assert_eq!(start.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_made_while_draining_gets_one_answer() {
    let server = Server::start(Config::default(), None, KEEP_ALIVE);
    server.drain();
    sleep(Duration::from_secs(1)).await;
    let client = connect(server.address).await;
    let pieces = [GET_HEALTH.as_bytes()];
    let (seconds, received) = ended_after(client, &pieces, Duration::ZERO).await;
    let received = String::from_utf8_lossy(&received).to_lowercase();
    assert!(received.contains("200 ok"), "{received}");
    assert!(received.contains("\r\nconnection: close\r\n"), "{received}");
    assert_eq!(seconds, 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_http2_client_that_answers_nothing_holds_up_no_drain() {
    let server = Server::start(Config::default(), None, KEEP_ALIVE);
    let mut client = connect(server.address).await;
    let request = headers(END_STREAM | END_HEADERS, HEALTH);
    let opening = [PREFACE, SETTINGS, &request].concat();
    client.write_all(&opening).await.expect("open");
    sleep(Duration::from_secs(5)).await;
    server.drain();
    let start = Instant::now();
    let _ = client.read_to_end(&mut Vec::new()).await;
    server.notices.closed().await;
    assert_eq!(start.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_http2_exchange_outlives_the_ping_that_drains_its_connection() {
    let (server, backend) = start_before_backend().await;
    let mut client = connect(server.address).await;
    let request = headers(END_HEADERS | END_STREAM, COMPLETIONS);
    let opening = [PREFACE, SETTINGS, &request].concat();
    client.write_all(&opening).await.expect("open");
    let mut backend = begin_answer(&backend).await;
    sleep(Duration::from_secs(1)).await;
    server.drain();
    sleep(Duration::from_secs(10)).await;
    backend.write_all(b"k").await.expect("open");
    let start = Instant::now();
    let mut received = Vec::new();
    let _ = client.read_to_end(&mut received).await;
    assert_eq!(start.elapsed().as_secs(), 2);
    let end = frame(0, END_STREAM, b"k");
    assert!(received.windows(end.len()).any(|part| part == end));
}

// HTTP/2.

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// GET /health: a method, a scheme and a path (RFC 7541).
const HEALTH: &[u8] = b"\x82\x86\x04\x07/health";
/// GET /chat/completions, with an `api-key`.
const COMPLETIONS: &[u8] = b"\x82\x86\x04\x11/chat/completions\x00\x07api-key\x01k";

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
