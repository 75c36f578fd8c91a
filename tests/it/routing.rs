//! Which of several backends gets a request, and which waits for its turn.

use std::net::SocketAddr;

use tower_openai_proxy::proxy::Handle;

use crate::{
    in_flight::{STREAM, counts, get, serve, until},
    support::{Backend, Message, Record, Wire, config_of, entry, response},
};

async fn answering(name: &str) -> Record {
    let backend = Backend::start().await;
    backend.record_all(response("200 OK", name))
}

async fn ask(proxy: SocketAddr, request: &str) -> Message {
    let mut client = Wire::connect(proxy).await;
    client.send(request).await;
    client.response().await
}

/// Opens a stream: the client's end, and the backend's.
async fn open(proxy: SocketAddr, backend: &Backend) -> (Wire, Wire) {
    let mut client = Wire::connect(proxy).await;
    client.send(get("/stream")).await;
    let wire = begin(backend).await;
    client.until("\r\na\r\n").await;
    (client, wire)
}

async fn begin(backend: &Backend) -> Wire {
    let mut wire = backend.accept().await;
    wire.head().await;
    wire.send(STREAM).await;
    wire
}

async fn in_flight(handle: &Handle, expected: &[usize]) {
    until(handle, expected).await;
}

#[tokio::test]
async fn idle_backends_share_requests_by_their_weights() {
    let [a, b] = [answering("a").await, answering("b").await];
    let config = config_of(
        &[
            entry("a", a.address, r#""weight":3"#),
            entry("b", b.address, ""),
        ],
        r#""balance":"least_busy""#,
    );
    let (proxy, _) = serve(&config).await;
    let mut client = Wire::connect(proxy).await;
    for _ in 0..200 {
        client.send(get("/x")).await;
        client.response().await;
    }
    let heavy = a.take().len();
    assert!((120..=180).contains(&heavy), "{heavy}");
    assert_eq!(heavy + b.take().len(), 200);
}

#[tokio::test]
async fn an_open_stream_counts() {
    let (a, b) = (Backend::start().await, answering("b").await);
    let config = config_of(
        &[
            entry("a", a.address, r#""weight":1000000"#),
            entry("b", b.address, ""),
        ],
        r#""balance":"least_busy","connect_timeout":5"#,
    );
    let (proxy, handle) = serve(&config).await;
    let _stream = open(proxy, &a).await;
    assert_eq!(counts(&handle), [1, 0]);
    for _ in 0..5 {
        assert_eq!(ask(proxy, &get("/x")).await.body, b"b");
    }
}

#[tokio::test]
async fn a_value_keeps_its_backend() {
    let [a, b] = [answering("a").await, answering("b").await];
    let entries = [entry("a", a.address, ""), entry("b", b.address, "")];
    let settings = r#""affinity":["header:x-session","body:prompt_cache_key","prompt:24","key"]"#;
    let config = config_of(&entries, settings);
    let proxies = [serve(&config).await.0, serve(&config).await.0];
    let post = |fields: &str, body: &str| {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n{fields}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let prompt =
        |text: &str, rest: &str| format!(r#"{{"messages":[{{"content":"{text}{rest}"}}]}}"#);
    let long = "x".repeat(30);
    let mut reached = Vec::new();
    for number in 0..12 {
        let same = [
            [
                post(&format!("api-key: k\r\nX-Session: {number}\r\n"), "{}"),
                post(&format!("api-key: l\r\nX-Session: {number}\r\n"), "[]"),
            ],
            [
                post(
                    "api-key: k\r\n",
                    &format!(r#"{{"prompt_cache_key":"{number}","n":1}}"#),
                ),
                post(
                    "api-key: l\r\n",
                    &format!(r#"{{"prompt_cache_key":"{number}"}}"#),
                ),
            ],
            [
                post("api-key: k\r\n", &prompt(&format!("{number}{long}"), "a")),
                post("api-key: l\r\n", &prompt(&format!("{number}{long}"), "b")),
            ],
            [
                post(&format!("api-key: {number}\r\n"), "{}"),
                post(&format!("Authorization: Bearer {number}\r\n"), "no JSON"),
            ],
        ];
        for [first, second] in same {
            let first = ask(proxies[0], &first).await.body;
            assert_eq!(ask(proxies[1], &second).await.body, first);
            reached.push(first);
        }
    }
    for body in ["a", "b"] {
        let count = reached.iter().filter(|it| *it == body.as_bytes()).count();
        assert!(count > 8, "{count} at {body}");
    }
}

#[tokio::test]
async fn a_full_backend_is_passed_over_and_if_all_are_full_it_is_503() {
    let [a, b] = [Backend::start().await, Backend::start().await];
    let config = config_of(
        &[
            entry("a", a.address, r#""max_in_flight":1"#),
            entry("b", b.address, r#""max_in_flight":1"#),
        ],
        "",
    );
    let (proxy, handle) = serve(&config).await;
    let (client, _wire) = open(proxy, &a).await;
    let _second = open(proxy, &b).await;

    let full = ask(proxy, &get("/x")).await;

    assert_eq!(full.status(), 503);
    assert_eq!(full.field("retry-after").as_deref(), Some("1"));
    assert!(
        full.head.contains("error=connection_limit_reached"),
        "{}",
        full.head
    );
    let body = String::from_utf8(full.body).unwrap();
    assert!(
        body.contains(r#""code":"connection_limit_reached""#),
        "{body}"
    );
    assert_eq!(counts(&handle), [1, 1]);
    drop(client);
    in_flight(&handle, &[0, 1]).await;
    let _third = open(proxy, &a).await;
}

#[tokio::test]
async fn those_that_wait_are_served_in_order_of_arrival() {
    let a = Backend::start().await;
    let config = config_of(
        &[entry("a", a.address, r#""max_in_flight":1"#)],
        r#""queue_timeout":15"#,
    );
    let (proxy, handle) = serve(&config).await;
    let (client, wire) = open(proxy, &a).await;
    let mut waiting = Vec::new();
    for number in 0..4 {
        let mut client = Wire::connect(proxy).await;
        client.send(get(&format!("/{number}"))).await;
        assert!(client.is_silent().await);
        waiting.push(client);
    }
    // A client that leaves takes no place.
    drop(waiting.remove(1));
    assert_eq!(counts(&handle), [1]);
    drop((client, wire));
    for (number, mut client) in [0, 2, 3].into_iter().zip(waiting) {
        let mut wire = a.accept().await;
        let head = wire.head().await;
        assert!(head.starts_with(&format!("GET /v1/{number} ")), "{head}");
        assert_eq!(counts(&handle), [1]);
        wire.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\ndone")
            .await;
        client.response().await;
    }
    in_flight(&handle, &[0]).await;
}

#[tokio::test]
async fn nobody_waits_longer_than_the_queue_timeout() {
    let a = Backend::start().await;
    let config = config_of(
        &[entry("a", a.address, r#""max_in_flight":1"#)],
        r#""queue_timeout":0.05"#,
    );
    let (proxy, _) = serve(&config).await;
    let _open = open(proxy, &a).await;
    assert_eq!(ask(proxy, &get("/x")).await.status(), 503);
}
