//! Connections on which no request comes, on paused time: the server's own code, in this program.

#[path = "../examples/server/linger.rs"]
mod linger;
#[path = "../examples/server/serve.rs"]
mod serve;
#[path = "../examples/server/timer.rs"]
mod timer;

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep},
};
use tower_openai_proxy::{Config, OpenAiProxyLayer};

/// Starts the server on this program's runtime.
fn start() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("bound");
    let layer = OpenAiProxyLayer::from_config(Config::default()).with_health("/health");
    tokio::spawn(async move {
        let (_not_draining, draining) = watch::channel(false);
        serve::accept(listener, layer, draining).await
    });
    address
}

/// Sends these pieces with a pause before each, and says after how many seconds the server has
/// closed the connection, and what it sent before.
async fn closed_after(pieces: &[&str], pause: Duration) -> (u64, String) {
    let mut client = TcpStream::connect(start()).await.expect("someone listens");
    let start = Instant::now();
    let (mut read, mut write) = client.split();
    let sending = async {
        for piece in pieces {
            sleep(pause).await;
            if write.write_all(piece.as_bytes()).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let mut received = Vec::new();
    tokio::select! {
        () = sending => {}
        _ = read.read_to_end(&mut received) => {}
    }
    let received = String::from_utf8_lossy(&received).into_owned();
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

#[tokio::test(start_paused = true)]
async fn an_http2_connection_on_which_nothing_happens_is_closed() {
    // The preface and empty settings; the server's pings are not answered.
    let opening = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let (seconds, _) = closed_after(&[opening], Duration::ZERO).await;
    assert!((30..=60).contains(&seconds), "{seconds} s");
}
