//! What one client can make the server buffer, and what happens when the system gives no more.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, StatusCode};
use tokio::{net::TcpStream, time::timeout};

use crate::support::{
    self, Backend, Server, Unreachable, Wire, config_for, config_of, entry,
    http2::{Http2, collect, full},
    post, response, soon,
};

const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: proxy.test\r\n\r\n";

// HTTP/2.

/// The preface, and empty settings.
const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

const STREAM_WINDOW: usize = 256 * 1024;

#[tokio::test]
async fn http2_clients_are_told_the_limits() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    let mut client = Wire::connect(server.address).await;
    client.send(OPENING).await;
    let header = client.exactly(9).await;
    assert_eq!(header[3], 4, "settings come first");
    let settings = client.exactly(usize::from(header[2])).await;
    let setting = |id: u8| {
        let value = settings.chunks(6).find(|setting| setting[..2] == [0, id]);
        value.map(|value| u32::from_be_bytes(value[2..].try_into().unwrap()))
    };
    assert_eq!(setting(3), Some(200), "concurrent streams");
    assert_eq!(setting(4), Some(STREAM_WINDOW as u32), "a stream's window");
    assert_eq!(setting(6), Some(64 * 1024), "a head's size");
}

#[tokio::test]
async fn an_http2_head_that_is_too_large_is_answered_431() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    backend.answer_all(response("200 OK", "{}"));
    let client = Http2::connect(server.address).await;
    for (length, status) in [
        (60_000, StatusCode::OK),
        (70_000, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
    ] {
        let request = client.request("POST").header("x-long", "x".repeat(length));
        let answer = client
            .send(request.body(full("{}")).expect("a request"))
            .await;
        assert_eq!(answer.expect("a response").status(), status);
    }
}

/// How much of an upload is taken, over HTTP/2: a window at least, until no more is for a while.
async fn taken(sender: &mut h2::SendStream<Bytes>) -> usize {
    const PIECE: usize = 16 * 1024;
    let mut taken = 0;
    loop {
        sender.reserve_capacity(PIECE);
        let more = std::future::poll_fn(|cx| sender.poll_capacity(cx));
        let more = if taken < STREAM_WINDOW {
            soon("a window", more).await
        } else if let Ok(more) = timeout(Duration::from_millis(300), more).await {
            more
        } else {
            return taken;
        };
        let length = more.expect("open").expect("open");
        sender
            .send_data(vec![b' '; length].into(), false)
            .expect("open");
        taken += length;
    }
}

fn upload(address: SocketAddr, backend: &str) -> Request<()> {
    Request::post(format!("http://{address}/v1/chat/completions"))
        .header("authorization", "Bearer sk-test")
        .header("x-proxy-backend", backend)
        .body(())
        .expect("a request")
}

#[tokio::test]
async fn uploads_that_no_backend_takes_are_buffered_in_part_and_do_not_stop_others() {
    let (hangs, works) = (Unreachable::start().await, Backend::start().await);
    let backends = [
        entry("hangs", hangs.address, ""),
        entry("works", works.address, ""),
    ];
    let server = Server::start_with(&config_of(&backends, r#""connect_timeout":300"#), &[], &[]);
    works.answer_all(response("200 OK", "{}"));
    let stream = TcpStream::connect(server.address)
        .await
        .expect("someone listens");
    let (mut client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);

    let mut stalled = Vec::new();
    for _ in 0..8 {
        client = soon("room for a stream", client.ready())
            .await
            .expect("open");
        let request = upload(server.address, "hangs");
        let (answer, mut sender) = client.send_request(request, false).expect("a stream");
        let taken = taken(&mut sender).await;
        // What is read last is on its way already.
        assert!(taken <= STREAM_WINDOW + 64 * 1024, "{taken}");
        stalled.push((answer, sender));
    }

    let request = upload(server.address, "works");
    let (answer, mut sender) = client.send_request(request, false).expect("a stream");
    let body = vec![b' '; STREAM_WINDOW];
    sender.send_data(body.into(), true).expect("open");
    let answer = soon("an answer", answer).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn an_http2_client_that_resets_streams_rapidly_is_cut_off() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    let mut client = Wire::connect(server.address).await;
    let mut flood = OPENING.to_vec();
    for stream in (1..2_000_u32).step_by(2) {
        let stream = stream.to_be_bytes();
        // GET /health, as RFC 7541 has it; END_HEADERS, END_STREAM.
        flood.extend_from_slice(b"\0\0\x0b\x01\x05");
        flood.extend_from_slice(&stream);
        flood.extend_from_slice(b"\x82\x86\x04\x07/health");
        flood.extend_from_slice(b"\0\0\x04\x03\0");
        flood.extend_from_slice(&stream);
        flood.extend_from_slice(b"\0\0\0\x08");
    }
    client.send(flood).await;
    client.rest().await;

    // Others are served.
    let client = Http2::connect(server.address).await;
    backend.answer_all(response("200 OK", "{}"));
    let answer = client.send(client.post("{}")).await.expect("an answer");
    assert_eq!(collect(answer).await.expect("a body").0, "{}");
}

// File descriptors.

/// The server, with so few file descriptors.
#[cfg(unix)]
fn start_with_descriptors(config: &str, most: usize) -> Server {
    let config = support::TempFile::new("config.json", config);
    let mut inner = Server::command();
    inner.arg("--config").arg(&config.path);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &format!("ulimit -n {most} && exec \"$@\""), "sh"]);
    command.arg(inner.get_program()).args(inner.get_args());
    command.env_remove("RUST_LOG");
    Server::spawn(&mut command)
}

#[cfg(unix)]
#[tokio::test]
async fn without_file_descriptors_the_server_waits_and_serves_on() {
    const WARNING: &str = "cannot accept connections";
    let backend = Backend::start().await;
    let server = start_with_descriptors(&config_for(&backend), 64);
    backend.answer_all(response("200 OK", "{}"));
    let start = Instant::now();
    let mut first = Wire::connect(server.address).await;
    first.send(post("{}")).await;
    assert_eq!(first.response().await.status(), 200);
    // It isn't idle any more.
    first.send(&HEALTH[..20]).await;

    let mut many = Vec::new();
    for _ in 0..100 {
        many.push(Wire::connect(server.address).await);
    }
    let mut last = Wire::connect(server.address).await;
    last.send(HEALTH).await;
    server.logged(WARNING).await;
    assert!(last.is_silent().await);
    // Those that are in are served.
    first.send(&HEALTH[20..]).await;
    assert_eq!(first.response().await.status(), 200);

    drop(many);
    assert_eq!(last.response().await.status(), 200);
    let mut next = Wire::connect(server.address).await;
    next.send(post("{}")).await;
    assert_eq!(next.response().await.status(), 200);
    // It has tried many times.
    let warnings = server.stop().matches(WARNING).count();
    let most = 1 + start.elapsed().as_secs() / 10;
    assert!(warnings as u64 <= most, "{warnings} warnings");
}
