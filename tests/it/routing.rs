//! Which of several backends gets a request, and which waits for its turn.

use std::{net::SocketAddr, time::Duration};

use tokio::{task::JoinSet, time::timeout};
use tower_openai_proxy::proxy::Handle;

use crate::{
    in_flight::{STREAM, counts, get, serve, until},
    support::{
        Backend, Message, Record, Server, Wire, config_of, entry,
        http2::{Http2, full},
        post_with, response, soon,
    },
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

#[tokio::test]
async fn of_1025_requests_that_would_wait_one_is_refused() {
    let a = Backend::start().await;
    let config = config_of(
        &[entry("a", a.address, r#""max_in_flight":1"#)],
        r#""queue_timeout":60"#,
    );
    // In a process of its own, as the bound is one of the process.
    let server = Server::start(&config);
    let _open = open(server.address, &a).await;
    let mut answers = JoinSet::new();
    for connection in 0..6 {
        let http2 = Http2::connect(server.address).await;
        for _ in 0..if connection < 5 { 200 } else { 25 } {
            let http2 = http2.clone();
            let request = http2.request("GET").body(full("")).expect("a request");
            answers.spawn(async move { http2.send(request).await.expect("a response").status() });
        }
    }
    let first = soon("an answer", answers.join_next()).await;
    assert_eq!(first.expect("one").expect("no panic"), 503);
    let second = timeout(Duration::from_millis(300), answers.join_next()).await;
    assert!(second.is_err(), "{second:?}");
}

#[tokio::test]
async fn a_backend_that_cools_down_is_used_before_anybody_waits() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let config = config_of(
        &[
            entry("a", a.address, r#""max_in_flight":1"#),
            entry("b", b.address, ""),
        ],
        r#""cooldown":60,"queue_timeout":60"#,
    );
    let (proxy, handle) = serve(&config).await;
    let mut client = Wire::connect(proxy).await;
    client
        .send(get("/x").replace("\r\n\r\n", "\r\nX-Proxy-Backend: b\r\n\r\n"))
        .await;
    b.accept().await.head().await;
    assert_eq!(client.response().await.status(), 502);
    assert!(!handle.backends()[1].is_available());

    let _open = open(proxy, &a).await;
    let b = b.record_all(response("200 OK", "b"));
    assert_eq!(ask(proxy, &get("/x")).await.body, b"b");
    assert_eq!(b.take().len(), 1);
}

#[tokio::test]
async fn an_earlier_answer_stands_where_the_rest_is_full() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let config = config_of(
        &[
            entry("b", b.address, r#""max_in_flight":1,"priority":1"#),
            entry("a", a.address, ""),
        ],
        r#""failover_on":[500],"queue_timeout":60"#,
    );
    let (proxy, _) = serve(&config).await;
    let mut client = Wire::connect(proxy).await;
    client
        .send(get("/stream").replace("\r\n\r\n", "\r\nX-Proxy-Backend: b\r\n\r\n"))
        .await;
    let _busy = begin(&b).await;
    client.until("\r\na\r\n").await;

    a.answer_all(response("500 Internal Server Error", "of a"));
    let answer = ask(proxy, &get("/x")).await;
    assert_eq!((answer.status(), &*answer.body), (500, &b"of a"[..]));
}

#[tokio::test]
async fn a_backend_that_asks_for_time_gets_it() {
    for field in ["Retry-After: 30", "retry-after-ms: 30000"] {
        let (a, b) = (Backend::start().await, answering("b").await);
        let entries = [entry("a", a.address, ""), entry("b", b.address, "")];
        let settings = r#""failover_on":[429],"cooldown":0.05"#;
        let (proxy, handle) = serve(&config_of(&entries, settings)).await;
        a.answer_all(format!(
            "HTTP/1.1 429 Too Many Requests\r\n{field}\r\nContent-Length: 0\r\n\r\n"
        ));
        assert_eq!(ask(proxy, &get("/x")).await.body, b"b", "{field}");
        // Longer than it would cool down by itself.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!handle.backends()[0].is_available(), "{field}");
    }
}

#[tokio::test]
async fn the_value_of_an_affinity_is_not_logged() {
    const VALUE: &str = "conversation-of-alice";
    let [a, b] = [answering("a").await, answering("b").await];
    let entries = [entry("a", a.address, ""), entry("b", b.address, "")];
    let settings = r#""affinity":["header:x-session","body:user","prompt:64"]"#;
    let trace = [("RUST_LOG", "trace")];
    let server = Server::start_with(&config_of(&entries, settings), &[], &trace);
    for (fields, body) in [
        (format!("X-Session: {VALUE}\r\n"), "{}".to_owned()),
        (String::new(), format!(r#"{{"user":"{VALUE}"}}"#)),
        (
            "X-Request-ID: the-last\r\n".to_owned(),
            format!(r#"{{"input":"{VALUE}"}}"#),
        ),
    ] {
        let answer = ask(server.address, &post_with(&fields, &body)).await;
        assert_eq!(answer.status(), 200);
    }
    let log = server.logged("the-last").await;
    assert!(!log.contains(VALUE), "{log}");
}
