//! Scrapes over sockets.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use super::*;

async fn listening(metrics: &'static Metrics) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(listener::accept(
        listener,
        exposition::registry(metrics, proxy()),
    ));
    address
}

async fn answer(address: SocketAddr, request: &str) -> String {
    let mut client = TcpStream::connect(address).await.expect("listening");
    let request = format!("{request}\r\nHost: metrics.test\r\n\r\n");
    client.write_all(request.as_bytes()).await.expect("open");
    let mut response = String::new();
    client.read_to_string(&mut response).await.expect("an end");
    response
}

#[tokio::test]
async fn only_get_and_head_of_the_path_are_answered() {
    let address = listening(Metrics::leak()).await;
    let get = answer(address, "GET /metrics HTTP/1.1").await;
    assert!(get.starts_with("HTTP/1.1 200 OK\r\n"), "{get}");
    assert!(
        get.contains("\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{get}"
    );
    assert!(
        get.contains("\n# TYPE openai_proxy_draining gauge\n"),
        "{get}"
    );

    let query = answer(address, "GET /metrics?a=b HTTP/1.1").await;
    assert!(query.starts_with("HTTP/1.1 200 OK\r\n"), "{query}");

    let head = answer(address, "HEAD /metrics HTTP/1.1").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(
        head.contains("\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{head}"
    );
    assert!(head.ends_with("\r\n\r\n"), "{head}");

    for path in ["/", "/metrics/", "/health", "/v1/models"] {
        let other = answer(address, &format!("GET {path} HTTP/1.1")).await;
        assert!(
            other.starts_with("HTTP/1.1 404 Not Found\r\n"),
            "{path}: {other}"
        );
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let other = answer(address, &format!("{method} /metrics HTTP/1.1")).await;
        assert!(
            other.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"),
            "{other}"
        );
        assert!(other.contains("\r\nallow: GET, HEAD\r\n"), "{other}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_scraper_is_closed_after_10_s_and_disturbs_nobody() {
    let metrics = Metrics::leak();
    // More than the sockets' buffers take.
    for index in 0..6000 {
        let backend = format!("{index}{}", "x".repeat(600));
        let labels = Labels {
            backend: &backend,
            operation: "",
            ..CHAT
        };
        count_one(metrics, labels);
    }
    let address = listening(metrics).await;
    let start = Instant::now();
    let mut silent = TcpStream::connect(address).await.expect("listening");
    let mut reads_nothing = TcpStream::connect(address).await.expect("listening");
    let request = b"GET /metrics HTTP/1.1\r\nHost: metrics.test\r\n\r\n";
    reads_nothing.write_all(request).await.expect("open");

    let other = answer(address, "HEAD /metrics HTTP/1.1").await;
    assert!(other.starts_with("HTTP/1.1 200 OK\r\n"), "{other}");
    assert_eq!(start.elapsed().as_secs(), 0);

    assert_eq!(silent.read(&mut [0]).await.expect("a proper end"), 0);
    assert_eq!(start.elapsed().as_secs(), 10);
    let mut received = Vec::new();
    let _ = reads_nothing.read_to_end(&mut received).await;
    let other = answer(address, "GET /metrics HTTP/1.1").await;
    assert!(
        received.len() < other.len(),
        "it got all {} bytes",
        received.len()
    );
}
