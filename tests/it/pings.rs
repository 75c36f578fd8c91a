//! Comments in idle streams of events.

use crate::support::{
    Backend, Server, Wire, config_with, dechunk,
    http2::{Http2, collect},
    post,
};

const PING: &str = ": ping\n\n";
const HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n";

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// A request in flight, after this response head and piece of its body.
async fn begin(settings: &str, head: &str, piece: &str) -> (Server, Wire, Wire) {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, settings));
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send(format!("{head}\r\n{piece}")).await;
    client.head().await;
    (server, client, wire)
}

/// The body that the client gets, whole, without its pings, and how many those were.
async fn rest(client: &mut Wire) -> (String, usize) {
    let body = client.until("0\r\n\r\n").await;
    let body = String::from_utf8(dechunk(body.as_bytes())).expect("UTF-8");
    (body.replace(PING, ""), body.matches(PING).count())
}

#[tokio::test]
async fn an_idle_stream_is_pinged_between_its_events_and_stays_as_it_is() {
    let (server, mut client, mut wire) = begin(r#""ping":0.1"#, HEAD, "").await;
    for event in ["data: one\n\n", "data: two\r\n\r\n"] {
        for _ in 0..2 {
            client.until(PING).await;
        }
        // Longer than the period, in the middle of an event.
        let (start, end) = event.split_at(6);
        wire.send(chunk(start)).await;
        client.until(start).await;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        wire.send(chunk(end)).await;
        let between = client.until(end).await;
        assert!(!between.contains("ping"), "{between:?}");
    }
    client.until(&chunk(PING)).await;
    wire.send("0\r\n\r\n").await;
    let (rest, _) = rest(&mut client).await;
    assert_eq!(rest, "");
    // The log counts what the backend sent.
    let log = server.logged("end=complete").await;
    assert!(log.contains(" bytes=24 "), "{log}");
}

#[tokio::test]
async fn a_stream_over_http2_is_pinged() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""ping":0.1"#));
    let client = Http2::connect(server.address).await;
    let answering = async {
        let mut wire = backend.accept().await;
        wire.request().await;
        wire.send(format!("{HEAD}\r\n")).await;
        wire
    };
    let (answer, mut wire) = tokio::join!(client.send(client.post("{}")), answering);
    let ending = async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        wire.send(chunk("data: [DONE]\n\n") + "0\r\n\r\n").await;
    };
    let (body, ()) = tokio::join!(collect(answer.expect("an answer")), ending);
    let (body, _) = body.expect("a body");
    let body = std::str::from_utf8(&body).expect("UTF-8");
    let pings = body.strip_suffix("data: [DONE]\n\n").expect("the end");
    assert!(pings.starts_with(PING), "{body:?}");
    assert_eq!(pings.replace(PING, ""), "");
}

#[tokio::test]
async fn what_is_no_plain_stream_of_events_is_left_alone() {
    let json = HEAD.replace("text/event-stream", "application/json");
    let encoded = format!("{HEAD}Content-Encoding: gzip\r\n");
    for (settings, head) in [
        ("", HEAD),
        (r#""ping":null"#, HEAD),
        (r#""ping":0.05"#, &json),
        (r#""ping":0.05"#, &encoded),
    ] {
        let (_server, mut client, mut wire) = begin(settings, head, "").await;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        wire.send("0\r\n\r\n").await;
        assert_eq!(
            rest(&mut client).await,
            (String::new(), 0),
            "{settings} {head}"
        );
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 4\r\n";
    let (_server, mut client, mut wire) = begin(r#""ping":0.05"#, head, "").await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    wire.send("data").await;
    assert_eq!(client.exactly(4).await, b"data");
}

#[tokio::test]
async fn pings_start_no_timeout_anew() {
    for setting in ["idle_timeout", "total_timeout"] {
        let settings = format!(r#""ping":0.05,"{setting}":0.5"#);
        let (server, mut client, mut wire) = begin(&settings, HEAD, "").await;
        let body = client.rest().await;
        let body = String::from_utf8(body).expect("UTF-8");
        assert!(
            body.contains(PING) && !body.ends_with("0\r\n\r\n"),
            "{body:?}"
        );
        server.logged("timeout").await;
        wire.closed().await;
    }
}
