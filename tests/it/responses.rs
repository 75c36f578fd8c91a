//! What becomes of a response on its way to the client.

use std::{io::Write as _, time::Duration};

use bytes::Bytes;
use http::Response;
use hyper::body::Incoming;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpSocket,
    task::JoinHandle,
};

use crate::support::{
    Backend, Message, Record, Server, Wire, chunked, config_for,
    http2::{self, Http2},
    noise, post, post_with, response, soon, write_until_stopped,
};

/// A head of a streamed response as a backend may send it and the proxy does, to the byte.
const STREAM: &str = "HTTP/1.1 200 OK\r\ndate: Tue, 15 Nov 1994 08:12:31 GMT\r\n\
     content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// The same of an unstreamed one, up to the length.
const ANSWER: &str = "HTTP/1.1 200 OK\r\ndate: Tue, 15 Nov 1994 08:12:31 GMT\r\n\
     content-type: application/json\r\ncontent-length: ";

/// More than all buffers take, and as much as a request's body may have.
const HUGE: usize = 64 << 20;

async fn proxy() -> (Backend, Server) {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    (backend, server)
}

/// A client whose request has reached the backend, and that request's connection there.
///
/// The backend must not close such a connection once it may be idle, and ask for another at once:
/// on a busy machine the proxy may see the next request before the close.
async fn asking(backend: &Backend, server: &Server) -> (Wire, Wire) {
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    (client, wire)
}

/// The next request on the same connections: they are clean.
async fn ask_again(client: &mut Wire, wire: &mut Wire) {
    client.send(post("{}")).await;
    wire.request().await;
}

type Asked = JoinHandle<hyper::Result<Response<Incoming>>>;

/// The same over HTTP/2, with the response to come.
async fn asking_over_http2(backend: &Backend, server: &Server) -> (Http2, Asked, Wire) {
    let client = Http2::connect(server.address).await;
    let response = ask_over_http2(&client);
    let mut wire = backend.accept().await;
    wire.request().await;
    (client, response, wire)
}

fn ask_over_http2(client: &Http2) -> Asked {
    let client = client.clone();
    tokio::spawn(async move { client.send(client.post("{}")).await })
}

/// One exchange: what the client gets of this response.
async fn answer(backend: &Backend, server: &Server, bytes: impl AsRef<[u8]>) -> Message {
    let (mut client, mut wire) = asking(backend, server).await;
    wire.send(bytes).await;
    client.response().await
}

/// Checks that the client gets exactly these bytes when the backend sends them, and no more; asks
/// again.
async fn passes_unchanged(client: &mut Wire, wire: &mut Wire, bytes: impl AsRef<[u8]>) {
    let bytes = bytes.as_ref();
    let ((), received) = tokio::join!(wire.send(bytes), client.exactly(bytes.len()));
    assert!(
        received == bytes,
        "{:.2000}\ninstead of\n{:.2000}",
        received.escape_ascii().to_string(),
        bytes.escape_ascii().to_string()
    );
    ask_again(client, wire).await;
    wire.send(response("200 OK", "next")).await;
    assert_eq!(client.response().await.body, b"next");
    ask_again(client, wire).await;
}

/// A chunk in the spelling of the proxy.
fn chunk(data: &str) -> String {
    format!("{:X}\r\n{data}\r\n", data.len())
}

fn answer_of(body: &[u8]) -> Vec<u8> {
    let mut answer = format!("{ANSWER}{}\r\n\r\n", body.len()).into_bytes();
    answer.extend_from_slice(body);
    answer
}

// ---- Byte for byte ----

#[tokio::test]
async fn an_unstreamed_response_is_identical_byte_for_byte_to_the_backends() {
    let (backend, server) = proxy().await;
    let (mut client, mut wire) = asking(&backend, &server).await;
    for body in [
        b"{\n  \"id\": \"chatcmpl-1\",\n  \"n\": 1.0, \"u\": \"\\u00e9 \xc3\xa9\"\n}\n".as_slice(),
        b"",
        b"\0",
        &noise(1000),
        &noise(65_536),
        &noise(3_000_001),
    ] {
        passes_unchanged(&mut client, &mut wire, answer_of(body)).await;
    }
}

#[tokio::test]
async fn a_streamed_response_is_identical_byte_for_byte_to_the_backends() {
    let (backend, server) = proxy().await;
    let (mut client, mut wire) = asking(&backend, &server).await;
    let mut stream = STREAM.to_owned();
    for number in 0..100 {
        let event = format!("data: {{\"n\":{number}}}\n\n");
        // Where the chunks begin and end is no event's business.
        let (one, two) = event.split_at(number % event.len());
        for piece in [one, two] {
            if !piece.is_empty() {
                stream += &chunk(piece);
            }
        }
    }
    stream += &chunk("data: [DONE]\n\n");
    stream += "0\r\n\r\n";
    passes_unchanged(&mut client, &mut wire, stream).await;

    let empty = format!("{STREAM}0\r\n\r\n");
    passes_unchanged(&mut client, &mut wire, empty).await;
}

#[tokio::test]
async fn a_streamed_response_of_megabytes_arrives_byte_for_byte() {
    let (backend, server) = proxy().await;
    let body = noise(5_000_000);
    let (mut client, mut wire) = asking(&backend, &server).await;
    let mut stream = STREAM.as_bytes().to_vec();
    stream.extend_from_slice(&chunked(&body, &[1, 100_000, 5, 4096]));

    let ((), received) = tokio::join!(wire.send(stream), client.response());

    assert_eq!(received.head, STREAM);
    assert!(received.content() == body);
}

#[tokio::test]
async fn a_response_over_http2_has_the_same_fields_and_bytes() {
    let (backend, server) = proxy().await;
    let (client, mut asked, mut wire) = asking_over_http2(&backend, &server).await;
    let body = noise(3_000_000);
    let mut stream = STREAM.as_bytes().to_vec();
    stream.extend_from_slice(&chunked(&body, &[100_000, 1, 17]));
    for (bytes, fields) in [
        (answer_of(&body), vec![("content-length", "3000000")]),
        (stream, vec![]),
    ] {
        let collected = async {
            let answer = (&mut asked).await.unwrap().unwrap();
            let found = http2::fields(answer.headers());
            let (received, trailers) = http2::collect(answer).await.unwrap();
            assert!(trailers.is_none());
            (found, received)
        };
        let ((), (found, received)) = tokio::join!(wire.send(bytes), collected);
        assert_eq!(
            found[0],
            ("date".into(), "Tue, 15 Nov 1994 08:12:31 GMT".into())
        );
        assert_eq!(found[1].0, "content-type");
        let rest: Vec<_> = found[2..]
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(rest, fields);
        assert!(received == body);
        asked = ask_over_http2(&client);
        wire.request().await;
    }
}

#[tokio::test]
async fn each_chunk_of_a_stream_arrives_before_the_next_is_sent() {
    let (backend, server) = proxy().await;
    let (mut client, mut wire) = asking(&backend, &server).await;
    // The head does not wait for the body.
    wire.send(STREAM).await;
    assert_eq!(client.head().await, STREAM);
    for number in 0..20 {
        let piece = chunk(&format!("data: {number}\n\n"));
        wire.send(&piece).await;
        assert_eq!(client.exactly(piece.len()).await, piece.as_bytes());
    }
    wire.send("0\r\n\r\n").await;
    assert_eq!(client.exactly(5).await, b"0\r\n\r\n");
}

#[tokio::test]
async fn each_chunk_of_a_body_with_a_length_or_until_close_arrives_before_the_next_is_sent() {
    let (backend, server) = proxy().await;
    for length in ["", "content-length: 30\r\n"] {
        let (mut client, mut wire) = asking(&backend, &server).await;
        wire.send(format!("HTTP/1.1 200 OK\r\n{length}\r\n")).await;
        client.head().await;
        for number in 0..10 {
            let piece = format!("<{number}>");
            wire.send(&piece).await;
            client.until(&piece).await;
        }
        drop(wire);
        let rest = if length.is_empty() {
            "\r\n0\r\n\r\n"
        } else {
            ""
        };
        assert_eq!(client.exactly(rest.len()).await, rest.as_bytes());
    }
}

#[tokio::test]
async fn each_chunk_of_a_stream_over_http2_arrives_before_the_next_is_sent() {
    let (backend, server) = proxy().await;
    let (_client, asked, mut wire) = asking_over_http2(&backend, &server).await;
    wire.send(STREAM).await;
    let mut answer = asked.await.unwrap().unwrap();
    for number in 0..20 {
        let event = format!("data: {number}\n\n");
        wire.send(chunk(&event)).await;
        let frame = http2::next_frame(&mut answer).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event);
    }
    wire.send("0\r\n\r\n").await;
    assert!(http2::next_frame(&mut answer).await.is_none());
}

#[tokio::test]
async fn chunks_that_arrive_together_are_forwarded_one_by_one() {
    let (backend, server) = proxy().await;
    let (_client, asked, mut wire) = asking_over_http2(&backend, &server).await;
    let events: Vec<_> = (0..50)
        .map(|number| format!("data: {number}\n\n"))
        .collect();
    let chunks: String = events.iter().map(|event| chunk(event)).collect();
    wire.send(format!("{STREAM}{chunks}0\r\n\r\n")).await;

    let mut answer = asked.await.unwrap().unwrap();

    for event in events {
        let frame = http2::next_frame(&mut answer).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event);
    }
    assert!(http2::next_frame(&mut answer).await.is_none());
}

#[tokio::test]
async fn chunks_in_any_spelling_keep_their_data_and_boundaries() {
    let (backend, server) = proxy().await;
    let answer = answer(
        &backend,
        &server,
        format!("{STREAM}0003\r\nabc\r\na;ext=\"1\";x\r\n0123456789\r\nc \t\r\n\r\n0\r\n\r\n\r\nabc\r\n000;last\r\n\r\n"),
    )
    .await;
    assert_eq!(
        String::from_utf8(answer.body).unwrap(),
        "3\r\nabc\r\nA\r\n0123456789\r\nC\r\n\r\n0\r\n\r\n\r\nabc\r\n0\r\n\r\n"
    );
}

// ---- Heads ----

#[tokio::test]
async fn status_and_reason_phrase_are_the_backends() {
    let (backend, server) = proxy().await;
    let (mut client, mut wire) = asking(&backend, &server).await;
    for line in [
        "HTTP/1.1 200 OK",
        "HTTP/1.1 200 Fine",
        "HTTP/1.1 200 ",
        "HTTP/1.1 201 Created",
        "HTTP/1.1 203 Non-Authoritative Information",
        "HTTP/1.1 299 Something",
        "HTTP/1.1 299 ",
        "HTTP/1.1 302 Found",
        "HTTP/1.1 401 Unauthorized",
        "HTTP/1.1 404 not found",
        "HTTP/1.1 418 I'm a teapot",
        "HTTP/1.1 429 Zu viel f\u{fc}r uns,\tund  mehr",
        "HTTP/1.1 451 ",
        "HTTP/1.1 500 Internal Server Error",
        "HTTP/1.1 503 Overloaded: try again",
        "HTTP/1.1 529 Site is overloaded",
        "HTTP/1.1 599 Network Connect Timeout Error",
        "HTTP/1.1 600 ",
        "HTTP/1.1 999 Denied",
    ] {
        let bytes = format!("{line}\r\ndate: x\r\ncontent-length: 2\r\n\r\n{{}}");
        passes_unchanged(&mut client, &mut wire, bytes).await;
    }
    let without_space = "HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n";
    wire.send(without_space).await;
    assert_eq!(client.response().await.start_line(), "HTTP/1.1 200 ");
}

#[tokio::test]
async fn unusual_statuses_pass_over_http2() {
    let (backend, server) = proxy().await;
    let (client, mut asked, mut wire) = asking_over_http2(&backend, &server).await;
    for status in [201, 299, 400, 401, 429, 500, 599, 999] {
        wire.send(response(&format!("{status} Something"), "body"))
            .await;
        let answer = asked.await.unwrap().unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(http2::collect(answer).await.unwrap().0, "body");
        asked = ask_over_http2(&client);
        wire.request().await;
    }
}

#[tokio::test]
async fn fields_arrive_as_they_were_sent_in_their_order() {
    let (backend, server) = proxy().await;
    let (mut client, mut wire) = asking(&backend, &server).await;
    let mut bytes = b"HTTP/1.1 200 OK\r\n\
        zebra: first\r\n\
        retry-after-ms: 20\r\n\
        x-ratelimit-remaining-tokens: 149984\r\n\
        openai-processing-ms: 123\r\n\
        set-cookie: a=b; Path=/; HttpOnly\r\n\
        set-cookie: c=d; Expires=Wed, 21 Oct 2015 07:28:00 GMT\r\n\
        set-cookie: a=b; Path=/; HttpOnly\r\n\
        server: cloudflare\r\n\
        content-length: 2\r\n\
        x-empty: \r\n\
        x-tab: a\tb  c\r\n\
        x-obs-text: \xe9\x80\xff \xc3\xa9\r\n\
        via: 1.1 somebody\r\n\
        content-type: application/json; charset=\"UTF-8\"\r\n\
        alt-svc: h3=\":443\"; ma=86400\r\n\
        date: not a date\r\n\
        proxy-status: theirs\r\n\
        www-authenticate: Bearer realm=\"x\"\r\n\
        !#$%&'*+-.^_`|~09: every kind of character\r\n\
        x-long: "
        .to_vec();
    bytes.extend_from_slice(&b"y".repeat(30_000));
    bytes.extend_from_slice(b"\r\na: last\r\n\r\n{}");
    passes_unchanged(&mut client, &mut wire, bytes).await;
}

#[tokio::test]
async fn repeated_fields_are_gathered_at_the_first_in_their_order() {
    let (backend, server) = proxy().await;
    let answer = answer(
        &backend,
        &server,
        "HTTP/1.1 200 OK\r\nSet-Cookie: 1\r\nX-Other:  padded \t\r\nset-cookie: 2\r\nDate: d\r\n\
         SET-COOKIE: 0\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert_eq!(
        answer.head,
        "HTTP/1.1 200 OK\r\nset-cookie: 1\r\nset-cookie: 2\r\nset-cookie: 0\r\n\
         x-other: padded\r\ndate: d\r\ncontent-length: 0\r\n\r\n"
    );
}

#[tokio::test]
async fn hop_by_hop_fields_stay_behind() {
    let (backend, server) = proxy().await;
    let answer = answer(
        &backend,
        &server,
        "HTTP/1.1 200 OK\r\nDate: d\r\nConnection: close, X-Named\r\nX-Named: 1\r\nX-Kept: 2\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: close\r\nProxy-Authenticate: Basic\r\n\
         Upgrade: h2c\r\nTE: trailers\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert_eq!(
        answer.head,
        "HTTP/1.1 200 OK\r\ndate: d\r\nx-kept: 2\r\ncontent-length: 0\r\n\r\n"
    );
}

#[tokio::test]
async fn a_date_is_added_only_where_there_is_none() {
    let (backend, server) = proxy().await;
    let dated = "HTTP/1.1 200 OK\r\nDate: yesterday\r\nContent-Length: 0\r\n\r\n";
    let (mut client, mut wire) = asking(&backend, &server).await;
    wire.send(dated).await;
    let dated = client.response().await;
    assert_eq!(dated.field("date").unwrap(), "yesterday");

    let undated = "HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 0\r\n\r\n";
    ask_again(&mut client, &mut wire).await;
    wire.send(undated).await;
    let undated = client.response().await;
    let date = undated.field("date").expect("one is added");
    assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
    let mut names: Vec<_> = undated.fields().into_iter().map(|(name, _)| name).collect();
    names.retain(|name| name != "date");
    assert_eq!(names, ["x-a", "content-length"]);
}

#[tokio::test]
async fn an_encoded_body_keeps_its_encoding_and_its_bytes() {
    let (backend, server) = proxy().await;
    let (mut client, mut wire) = asking(&backend, &server).await;
    // `hello`, compressed.
    let gzip = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\x48\xcd\xc9\xc9\x07\x00\x86\xa6\x10\x36\x05\x00\x00\x00";
    let mut bytes = b"HTTP/1.1 200 OK\r\ndate: d\r\ncontent-encoding: gzip\r\n\
        vary: Accept-Encoding\r\ncontent-length: 25\r\n\r\n"
        .to_vec();
    bytes.extend_from_slice(gzip);
    passes_unchanged(&mut client, &mut wire, bytes).await;

    let mut bytes = b"HTTP/1.1 200 OK\r\ndate: d\r\ncontent-encoding: gzip\r\n\
        transfer-encoding: chunked\r\n\r\nA\r\n"
        .to_vec();
    bytes.extend_from_slice(&gzip[..10]);
    bytes.extend_from_slice(b"\r\nF\r\n");
    bytes.extend_from_slice(&gzip[10..]);
    bytes.extend_from_slice(b"\r\n0\r\n\r\n");
    passes_unchanged(&mut client, &mut wire, bytes).await;
}

#[tokio::test]
async fn large_heads_pass_and_larger_ones_are_refused() {
    let (backend, server) = proxy().await;
    let (mut client, mut wire) = asking(&backend, &server).await;
    let fields = |count| -> String { (0..count).map(|n| format!("x-{n}: {n}\r\n")).collect() };
    let many = format!(
        "HTTP/1.1 200 OK\r\n{}date: d\r\ncontent-length: 0\r\n\r\n",
        fields(254)
    );
    passes_unchanged(&mut client, &mut wire, many).await;
    let long = format!(
        "HTTP/1.1 200 OK\r\nx: {}\r\ndate: d\r\ncontent-length: 0\r\n\r\n",
        "y".repeat(255 << 10)
    );
    passes_unchanged(&mut client, &mut wire, long).await;

    let too_many = format!(
        "HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n",
        fields(500)
    );
    wire.send(too_many).await;
    let answer = client.response().await;
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.error_code(), "http_protocol_error");
    // Without an end: it is not read for ever.
    let (mut client, mut wire) = asking(&backend, &server).await;
    wire.send(format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(300 << 10)))
        .await;
    let answer = client.response().await;
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.error_code(), "http_protocol_error");
}

// ---- Where a body ends ----

/// The responses to requests of this method on one connection: each answer, and the head expected
/// of it.
async fn without_a_body(method: &str, cases: &[(&str, &str)]) {
    let (backend, server) = proxy().await;
    let mut client = Wire::connect(server.address).await;
    let request = format!(
        "{method} /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: x\r\n\r\n"
    );
    client.send(&request).await;
    let mut wire = backend.accept().await;
    for (answer, expected) in cases {
        assert_eq!(
            wire.request().await.start_line().split(' ').next(),
            Some(method)
        );
        wire.send(answer).await;
        assert_eq!(client.head().await, *expected, "{answer}");
        // What comes next is the next response, and the backend's connection is used again.
        client.send(&request).await;
    }
}

#[tokio::test]
async fn the_answer_to_head_has_the_fields_of_a_body_but_none() {
    without_a_body(
        "HEAD",
        &[
            (
                "HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 1234\r\nX-A: 1\r\n\r\n",
                "HTTP/1.1 200 OK\r\ndate: d\r\ncontent-length: 1234\r\nx-a: 1\r\n\r\n",
            ),
            (
                "HTTP/1.1 200 OK\r\nDate: d\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\n\r\n",
                "HTTP/1.1 200 OK\r\ndate: d\r\nx-a: 1\r\n\r\n",
            ),
            (
                "HTTP/1.1 404 Not Found\r\nDate: d\r\n\r\n",
                "HTTP/1.1 404 Not Found\r\ndate: d\r\n\r\n",
            ),
            (
                "HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 0\r\n\r\n",
                "HTTP/1.1 200 OK\r\ndate: d\r\ncontent-length: 0\r\n\r\n",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_answer_to_head_over_http2_keeps_its_length() {
    let (backend, server) = proxy().await;
    let client = Http2::connect(server.address).await;
    let request = client.request("HEAD").body(http2::full("")).unwrap();
    let (response, ()) = tokio::join!(client.send(request), async {
        let mut wire = backend.accept().await;
        wire.request().await;
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n")
            .await;
    });
    let response = response.unwrap();
    assert_eq!(response.headers()["content-length"], "1234");
    assert!(http2::collect(response).await.unwrap().0.is_empty());
}

#[tokio::test]
async fn statuses_without_a_body_have_none() {
    without_a_body(
        "DELETE",
        &[
            (
                "HTTP/1.1 204 No Content\r\nDate: d\r\nX-A: 1\r\n\r\n",
                "HTTP/1.1 204 No Content\r\ndate: d\r\nx-a: 1\r\n\r\n",
            ),
            (
                "HTTP/1.1 304 Not Modified\r\nDate: d\r\nETag: \"x\"\r\n\r\n",
                "HTTP/1.1 304 Not Modified\r\ndate: d\r\netag: \"x\"\r\n\r\n",
            ),
            (
                "HTTP/1.1 204 Gone\r\nDate: d\r\nTransfer-Encoding: chunked\r\n\r\n",
                "HTTP/1.1 204 Gone\r\ndate: d\r\n\r\n",
            ),
            (
                "HTTP/1.1 205 Reset Content\r\nDate: d\r\nContent-Length: 0\r\n\r\n",
                "HTTP/1.1 205 Reset Content\r\ndate: d\r\ncontent-length: 0\r\n\r\n",
            ),
            (
                "HTTP/1.1 500 Internal Server Error\r\nDate: d\r\nContent-Length: 0\r\n\r\n",
                "HTTP/1.1 500 Internal Server Error\r\ndate: d\r\ncontent-length: 0\r\n\r\n",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_arrives_whole() {
    let (backend, server) = proxy().await;
    let body = noise(200_000);
    for start in [
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n",
        "HTTP/1.0 200 OK\r\n",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n",
    ] {
        let (mut client, mut wire) = asking(&backend, &server).await;
        wire.send(format!("{start}Date: d\r\n\r\n")).await;
        let upload = async {
            wire.send(&body).await;
            drop(wire);
        };
        let ((), answer) = tokio::join!(upload, client.response());
        assert_eq!(
            answer.head,
            "HTTP/1.1 200 OK\r\ndate: d\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        assert!(answer.content() == body, "{start}");
    }
}

#[tokio::test]
async fn an_answer_of_http_1_0_with_a_length_arrives_as_one_of_http_1_1() {
    let (backend, server) = proxy().await;
    let bytes = "HTTP/1.0 200 OK\r\nDate: d\r\nContent-Length: 2\r\n\r\n{}";
    let answer = answer(&backend, &server, bytes).await;
    assert_eq!(
        answer.head,
        "HTTP/1.1 200 OK\r\ndate: d\r\ncontent-length: 2\r\n\r\n"
    );
    assert_eq!(answer.body, b"{}");
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_a_stream_until_the_connection_closes() {
    let (backend, server) = proxy().await;
    let mut client = Wire::connect(server.address).await;
    client
        .send(post("{}").replacen("HTTP/1.1", "HTTP/1.0", 1))
        .await;
    let mut wire = backend.accept().await;
    let request = wire.request().await;
    assert_eq!(request.start_line(), "POST /v1/chat/completions HTTP/1.1");
    wire.send(format!("{STREAM}{}", chunk("data: 1\n\n"))).await;

    let head = client.head().await;
    assert!(!head.contains("transfer-encoding"), "{head}");
    assert_eq!(client.until("\n\n").await, "data: 1\n\n");
    wire.send(format!("{}0\r\n\r\n", chunk("data: 2\n\n")))
        .await;

    assert_eq!(client.rest().await, b"data: 2\n\n");
}

// ---- Trailers and interim responses ----

#[tokio::test]
async fn trailers_reach_a_client_that_asks_for_them() {
    let (backend, server) = proxy().await;
    let mut client = Wire::connect(server.address).await;
    client.send(post_with("TE: trailers\r\n", "{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    let bytes = "HTTP/1.1 200 OK\r\ndate: d\r\ntrailer: x-sum, x-time\r\n\
         transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\nx-sum: 2\r\nx-time: 3\r\n\r\n";
    wire.send(bytes).await;

    let answer = client.response().await;

    assert_eq!(
        answer.head + &String::from_utf8(answer.body).unwrap(),
        bytes
    );
}

#[tokio::test]
async fn trailers_for_a_client_that_does_not_ask_end_the_body_all_the_same() {
    let (backend, server) = proxy().await;
    // Unannounced ones can't be forwarded over HTTP/1.1, either.
    for (te, announced) in [("", "trailer: x-sum\r\n"), ("TE: trailers\r\n", "")] {
        let mut client = Wire::connect(server.address).await;
        client.send(post_with(te, "{}")).await;
        let mut wire = backend.accept().await;
        wire.request().await;
        wire.send(format!(
            "HTTP/1.1 200 OK\r\n{announced}transfer-encoding: chunked\r\n\r\n\
             2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n"
        ))
        .await;

        let answer = client.response().await;

        assert_eq!(answer.body, b"2\r\nok\r\n0\r\n\r\n");
        // The connection goes on.
        client.send(post("{}")).await;
        wire.request().await;
    }
}

#[tokio::test]
async fn trailers_pass_over_http2_but_those_of_the_connection() {
    let (backend, server) = proxy().await;
    let (client, mut asked, mut wire) = asking_over_http2(&backend, &server).await;
    for announced in ["trailer: x-sum\r\n", ""] {
        wire.send(format!(
            "HTTP/1.1 200 OK\r\n{announced}connection: x-hop\r\ntransfer-encoding: chunked\r\n\r\n\
             2\r\nok\r\n0\r\nx-sum: 1\r\nconnection: x-sum\r\nX-Hop: 1\r\nx-sum: 2\r\n\r\n"
        ))
        .await;
        let answer = asked.await.unwrap().unwrap();
        let (body, trailers) = http2::collect(answer).await.unwrap();
        assert_eq!(body, "ok");
        let trailers = http2::fields(&trailers.unwrap());
        assert_eq!(
            trailers,
            [("x-sum".into(), "1".into()), ("x-sum".into(), "2".into())]
        );
        asked = ask_over_http2(&client);
        wire.request().await;
    }
}

#[tokio::test]
async fn interim_responses_are_consumed() {
    let (backend, server) = proxy().await;
    let (mut client, mut wire) = asking(&backend, &server).await;
    let last = String::from_utf8(answer_of(b"{}")).unwrap();
    for interim in [
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 102 Processing\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 199 \r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 P\r\n\r\nHTTP/1.1 103 E\r\nX: y\r\n\r\n",
    ] {
        wire.send(format!("{interim}{last}")).await;
        let whole = client.response().await;
        assert_eq!(whole.start_line(), "HTTP/1.1 200 OK", "{interim}");
        assert_eq!(whole.fields().len(), 3);
        assert_eq!(whole.body, b"{}");

        ask_again(&mut client, &mut wire).await;
        wire.send(interim).await;
        assert!(client.is_silent().await);
        wire.send(&last).await;
        let received = client.exactly(last.len()).await;
        assert_eq!(String::from_utf8(received).unwrap(), last);
        ask_again(&mut client, &mut wire).await;
    }
}

/// Checks that this response isn't valid HTTP.
async fn is_no_response(backend: &Backend, server: &Server, bytes: &str) {
    fails(backend, server, bytes, "http_protocol_error").await;
}

/// Checks that the client gets 502 with this code for this response, and that the backend's
/// connection is given up.
async fn fails(backend: &Backend, server: &Server, bytes: &str, code: &str) {
    let (mut client, mut wire) = asking(backend, server).await;
    wire.send(bytes).await;
    let answer = client.response().await;
    assert_eq!(answer.status(), 502, "{bytes}");
    assert_eq!(answer.error_code(), code, "{bytes}");
    wire.closed().await;
    // The client's connection goes on.
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    let next = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nnext";
    wire.send(next).await;
    assert_eq!(client.response().await.body, b"next");
}

#[tokio::test]
async fn a_backend_that_switches_protocols_or_never_ends_its_interim_responses_is_refused() {
    let (backend, server) = proxy().await;
    let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
    fails(&backend, &server, switch, "http_upgrade_failed").await;
    let endless = "HTTP/1.1 100 Continue\r\n\r\n".repeat(1000);
    is_no_response(&backend, &server, &endless).await;
}

#[tokio::test]
async fn a_response_whose_end_could_be_understood_in_two_ways_is_refused() {
    let (backend, server) = proxy().await;
    for framing in [
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
        "Content-Length: 2\r\nContent-Length: 3\r\n",
        "Content-Length: 2, 3\r\n",
        "Content-Length: -2\r\n",
        "Content-Length: 2x\r\n",
        "Content-Length: \r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "X-A: b\r\n Content-Length: 2\r\n",
        "X-A : b\r\n",
    ] {
        let bytes = format!("HTTP/1.1 200 OK\r\n{framing}\r\n2\r\n{{}}\r\n0\r\n\r\n");
        is_no_response(&backend, &server, &bytes).await;
    }
}

// ---- Chunks of any size ----

#[tokio::test]
async fn a_response_may_arrive_byte_by_byte() {
    let (backend, server) = proxy().await;
    let (mut client, mut wire) = asking(&backend, &server).await;
    let chunks = format!("{}{}0\r\n\r\n", chunk("data: 1\n\n"), chunk("data: 22\n\n"));
    for bytes in [
        String::from_utf8(answer_of(b"{\"a\":1}")).unwrap(),
        format!("{STREAM}{chunks}"),
    ] {
        for byte in bytes.as_bytes() {
            wire.send([*byte]).await;
            tokio::task::yield_now().await;
        }
        let answer = client.response().await;
        assert!(bytes.starts_with(&answer.head));
        let expected: &[u8] = match answer.field("content-length") {
            Some(_) => b"{\"a\":1}",
            None => b"data: 1\n\ndata: 22\n\n",
        };
        assert_eq!(answer.content(), expected);
        ask_again(&mut client, &mut wire).await;
    }
}

#[tokio::test]
async fn a_response_may_be_split_anywhere() {
    let (backend, server) = proxy().await;
    let (mut client, mut wire) = asking(&backend, &server).await;
    let answer = "HTTP/1.1 200 OK\r\ndate: d\r\ncontent-length: 7\r\n\r\n{\"a\":1}";
    let stream = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ndate: d\r\n\
         transfer-encoding: chunked\r\n\r\n3;x\r\n{\"a\r\n4\r\n\":1}\r\n0\r\nx: y\r\n\r\n";
    for bytes in [answer, stream] {
        for at in 1..bytes.len() {
            let (first, second) = bytes.split_at(at);
            wire.send(first).await;
            // There is no sign that it has been read: a chance is all it can get.
            tokio::time::sleep(Duration::from_millis(1)).await;
            wire.send(second).await;

            let received = client.response().await;

            assert!(bytes.contains(&received.head), "split at {at}");
            assert_eq!(received.content(), b"{\"a\":1}", "split at {at}");
            ask_again(&mut client, &mut wire).await;
        }
    }
}

// ---- Responses before the request's end ----

const TOO_LARGE: &str =
    "HTTP/1.1 413 Payload Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large";

/// A client that sends far more than any buffer holds, and the backend's end after the head.
async fn uploading(
    backend: &Backend,
    server: &Server,
) -> (Wire<impl AsyncRead + AsyncWrite + Unpin>, Wire) {
    let mut upload = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: x\r\n\
         Content-Length: {HUGE}\r\n\r\n"
    )
    .into_bytes();
    upload.resize(upload.len() + HUGE, b'x');
    let client = Wire::connect(server.address).await.send_aside(upload);
    let mut wire = backend.accept().await;
    wire.head().await;
    (client, wire)
}

#[tokio::test]
async fn a_backend_that_answers_an_upload_early_and_reads_no_more_is_heard() {
    let (backend, server) = proxy().await;
    let (mut client, mut wire) = uploading(&backend, &server).await;

    wire.send(TOO_LARGE).await;

    let answer = client.response().await;
    assert_eq!(answer.status(), 413);
    assert_eq!(answer.body, b"too large");
    // The rest of the upload is nobody's.
    wire.rest().await;
    client.rest().await;
}

#[tokio::test]
async fn a_backend_that_answers_an_upload_early_and_closes_is_heard() {
    let (backend, server) = proxy().await;
    let (mut client, mut wire) = uploading(&backend, &server).await;

    wire.send(TOO_LARGE).await;
    drop(wire);

    let answer = client.response().await;
    assert_eq!(answer.status(), 413);
    assert_eq!(answer.body, b"too large");
}

#[tokio::test]
async fn an_early_answer_to_an_upload_is_heard_over_http2() {
    let (backend, server) = proxy().await;
    let client = Http2::connect(server.address).await;
    let request = client.post(vec![b'x'; 20 << 20]);
    let (response, ()) = tokio::join!(client.send(request), async {
        let mut wire = backend.accept().await;
        wire.head().await;
        wire.send(TOO_LARGE).await;
        wire.rest().await;
    });
    let response = response.unwrap();
    assert_eq!(response.status(), 413);
    assert_eq!(http2::collect(response).await.unwrap().0, "too large");
}

#[tokio::test]
async fn a_response_may_be_streamed_while_the_request_is() {
    let (backend, server) = proxy().await;
    let mut client = Wire::connect(server.address).await;
    client
        .send(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: x\r\n\
             Transfer-Encoding: chunked\r\n\r\n",
        )
        .await;
    let mut wire = backend.accept().await;
    wire.head().await;
    wire.send(STREAM).await;
    assert_eq!(client.head().await, STREAM);
    for number in 0..5 {
        let up = format!("4\r\nup {number}\r\n");
        client.send(&up).await;
        assert_eq!(wire.exactly(up.len()).await, up.as_bytes());
        let down = chunk(&format!("down {number}"));
        wire.send(&down).await;
        assert_eq!(client.exactly(down.len()).await, down.as_bytes());
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(wire.exactly(5).await, b"0\r\n\r\n");
    wire.send("0\r\n\r\n").await;
    assert_eq!(client.exactly(5).await, b"0\r\n\r\n");
}

// ---- Slow clients ----

#[tokio::test]
async fn a_slow_client_stops_the_backend_and_gets_all_in_the_end() {
    let (backend, server) = proxy().await;
    let body = noise(HUGE);
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let stream = soon("connecting", socket.connect(server.address)).await;
    let mut client = Wire::new(stream.unwrap());
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    let sending = SockRef::from(&wire.stream);
    sending.set_send_buffer_size(64 * 1024).unwrap();
    let head = format!("{ANSWER}{HUGE}\r\n\r\n");
    wire.send(&head).await;

    let written = write_until_stopped(&mut wire.stream, &body).await;

    // What is left are the buffers of three sockets, whatever the system makes them.
    assert!(written < HUGE / 2, "{written} bytes are buffered");
    let (received, ()) = tokio::join!(
        async {
            assert_eq!(client.head().await, head);
            client.exactly(HUGE).await
        },
        wire.send(&body[written..])
    );
    assert!(received == body);
}

#[tokio::test]
async fn a_slow_client_over_http2_stops_the_backend_and_gets_all_in_the_end() {
    let (backend, server) = proxy().await;
    let body = noise(HUGE);
    let (_client, asked, mut wire) = asking_over_http2(&backend, &server).await;
    let sending = SockRef::from(&wire.stream);
    sending.set_send_buffer_size(64 * 1024).unwrap();
    wire.send(format!("{ANSWER}{HUGE}\r\n\r\n")).await;
    let answer = asked.await.unwrap().unwrap();

    let written = write_until_stopped(&mut wire.stream, &body).await;

    assert!(written < HUGE / 2, "{written} bytes are buffered");
    let (received, ()) = tokio::join!(http2::collect(answer), wire.send(&body[written..]));
    assert!(received.unwrap().0 == body);
}

#[tokio::test]
async fn a_slow_client_does_not_hold_up_others() {
    let (backend, server) = proxy().await;
    let (_slow, mut wire) = asking(&backend, &server).await;
    wire.send(format!("{ANSWER}{HUGE}\r\n\r\n")).await;
    write_until_stopped(&mut wire.stream, &vec![b'x'; HUGE]).await;

    let answer = answer(&backend, &server, response("200 OK", "quick")).await;

    assert_eq!(answer.body, b"quick");
}

// ---- Clients that go away ----

#[tokio::test]
async fn a_client_that_disconnects_before_the_head_ends_the_backends_request() {
    let (backend, server) = proxy().await;
    let (client, mut wire) = asking(&backend, &server).await;
    drop(client);
    wire.closed().await;

    let (client, mut wire) = asking(&backend, &server).await;
    client.reset();
    wire.closed().await;
}

#[tokio::test]
async fn a_client_that_disconnects_while_the_stream_is_idle_ends_the_backends_request() {
    let (backend, server) = proxy().await;
    for by_reset in [false, true] {
        let (mut client, mut wire) = asking(&backend, &server).await;
        wire.send(format!("{STREAM}{}", chunk("data: 1\n\n"))).await;
        client.until("data: 1\n\n\r\n").await;
        match by_reset {
            true => client.reset(),
            false => drop(client),
        }
        wire.closed().await;
    }
}

/// Streams on until that fails.
async fn stream_until_closed(wire: &mut Wire) {
    let event = chunk("data: more\n\n");
    let stream = async { while wire.stream.write_all(event.as_bytes()).await.is_ok() {} };
    soon("the end of the backend's connection", stream).await;
}

#[tokio::test]
async fn a_client_that_disconnects_in_mid_stream_ends_the_backends_request() {
    let (backend, server) = proxy().await;
    let (mut client, mut wire) = asking(&backend, &server).await;
    wire.send(STREAM).await;
    client.head().await;
    let leaving = async {
        client.until("data: more").await;
        drop(client);
    };
    tokio::join!(stream_until_closed(&mut wire), leaving);
}

#[tokio::test]
async fn a_client_that_shuts_its_sending_side_down_counts_as_disconnected() {
    let (backend, server) = proxy().await;
    let (mut client, mut wire) = asking(&backend, &server).await;
    client.stream.shutdown().await.unwrap();
    wire.closed().await;
    client.closed().await;
}

#[tokio::test]
async fn a_client_that_disconnects_during_its_upload_ends_the_backends_request() {
    let (backend, server) = proxy().await;
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let mut client = Wire::connect(server.address).await;
        client
            .send(format!(
                "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: x\r\n\
                 {framing}\r\n\r\n5\r\nhello\r\n"
            ))
            .await;
        let mut wire = backend.accept().await;
        wire.until("hello").await;
        drop(client);
        let rest = wire.rest().await;
        assert!(!rest.ends_with(b"0\r\n\r\n"), "no clean end is made up");
    }
}

#[tokio::test]
async fn a_stream_reset_over_http2_before_the_head_ends_the_backends_request() {
    let (backend, server) = proxy().await;
    let (_client, asked, mut wire) = asking_over_http2(&backend, &server).await;
    asked.abort();
    wire.closed().await;
}

#[tokio::test]
async fn a_stream_reset_over_http2_while_it_is_idle_ends_the_backends_request_alone() {
    let (backend, server) = proxy().await;
    let (client, asked, mut wire) = asking_over_http2(&backend, &server).await;
    wire.send(format!("{STREAM}{}", chunk("data: 1\n\n"))).await;
    let mut answer = asked.await.unwrap().unwrap();
    http2::next_frame(&mut answer).await.unwrap().unwrap();
    let other = ask_over_http2(&client);
    let mut other_wire = backend.accept().await;
    other_wire.request().await;

    drop(answer);

    wire.closed().await;
    other_wire.send(response("200 OK", "alive")).await;
    let other = other.await.unwrap().unwrap();
    assert_eq!(http2::collect(other).await.unwrap().0, "alive");
}

#[tokio::test]
async fn a_stream_reset_over_http2_in_mid_stream_ends_the_backends_request() {
    let (backend, server) = proxy().await;
    let (_client, asked, mut wire) = asking_over_http2(&backend, &server).await;
    wire.send(STREAM).await;
    let mut answer = asked.await.unwrap().unwrap();
    let leaving = async {
        http2::next_frame(&mut answer).await.unwrap().unwrap();
        drop(answer);
    };
    tokio::join!(stream_until_closed(&mut wire), leaving);
}

#[tokio::test]
async fn an_http2_connection_that_breaks_ends_all_of_its_requests() {
    let (backend, server) = proxy().await;
    let (client, asked, mut wire) = asking_over_http2(&backend, &server).await;
    let other = ask_over_http2(&client);
    let mut other_wire = backend.accept().await;
    other_wire.request().await;
    other_wire.send(STREAM).await;
    let _other = other.await.unwrap().unwrap();

    client.break_off();

    wire.closed().await;
    other_wire.closed().await;
    assert!(asked.await.unwrap().is_err());
}

// ---- Connections ----

/// Several requests, each as soon as the last is answered, on one connection of a client.
async fn ask_in_turn(record: &Record, server: &Server, times: usize) -> Vec<Message> {
    let mut client = Wire::connect(server.address).await;
    let mut answers = Vec::new();
    for _ in 0..times {
        client.send(post("{}")).await;
        answers.push(client.response().await);
    }
    assert_eq!(record.take().len(), times);
    answers
}

async fn proxy_to(response: impl Into<Vec<u8>>) -> (Record, Server) {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    (backend.record_all(response), server)
}

#[tokio::test]
async fn connections_to_the_backend_are_used_again() {
    for bytes in [
        String::from_utf8(answer_of(b"{}")).unwrap(),
        format!("{STREAM}2\r\n{{}}\r\n0\r\n\r\n"),
        format!("{STREAM}0\r\nx-sum: 1\r\n\r\n"),
        "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n".to_owned(),
        "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\n{}".to_owned(),
        "HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n{}".to_owned(),
    ] {
        let (record, server) = proxy_to(bytes.clone()).await;
        ask_in_turn(&record, &server, 5).await;
        // By another client, too.
        ask_in_turn(&record, &server, 2).await;
        assert_eq!(record.connections(), 1, "{bytes}");
    }
}

#[tokio::test]
async fn connections_to_the_backend_that_cannot_be_used_again_are_not() {
    for bytes in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nConnection: X-A, Close\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}GARBAGE",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n\r\n",
    ] {
        let (record, server) = proxy_to(bytes).await;
        for answer in ask_in_turn(&record, &server, 4).await {
            assert_eq!(answer.content(), b"{}");
        }
        assert_eq!(record.connections(), 4, "{bytes}");
    }
}

#[tokio::test]
async fn a_body_where_none_may_be_is_not_taken_for_the_next_response() {
    for (method, bytes) in [
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 5\r\n\r\nhello",
        ),
        ("GET", "HTTP/1.1 204 No Content\r\nDate: d\r\n\r\nhello"),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nDate: d\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
    ] {
        let (record, server) = proxy_to(bytes).await;
        let mut client = Wire::connect(server.address).await;
        let request = post("").replacen("POST", method, 1);
        let (expected, _) = bytes.split_once("\r\n\r\n").unwrap();
        for _ in 0..3 {
            client.send(&request).await;
            let head = client.head().await.to_lowercase();
            assert_eq!(head, format!("{expected}\r\n\r\n").to_lowercase());
        }
        assert!(client.is_silent().await);
        assert_eq!(record.connections(), 3, "{bytes}");
    }
}

#[tokio::test]
async fn a_connection_on_which_something_comes_uncalled_for_is_not_used_again() {
    let (backend, server) = proxy().await;
    let (mut client, mut wire) = asking(&backend, &server).await;
    wire.send(response("200 OK", "{}")).await;
    client.response().await;
    wire.send(response("200 OK", "somebody else's")).await;
    // Time for it to arrive: there is no sign of it.
    tokio::time::sleep(Duration::from_millis(500)).await;

    client.send(post("{}")).await;

    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send(response("200 OK", "its own")).await;
    assert_eq!(client.response().await.body, b"its own");
}

#[tokio::test]
async fn a_client_that_closes_after_its_response_does_not_cost_the_backends_connection() {
    let (record, server) = proxy_to(answer_of(b"{}")).await;
    for _ in 0..3 {
        let mut client = Wire::connect(server.address).await;
        client.send(post_with("Connection: close\r\n", "{}")).await;
        let answer = client.response().await;
        assert_eq!(answer.field("connection").as_deref(), Some("close"));
        assert_eq!(answer.body, b"{}");
        client.closed().await;
    }
    assert_eq!(record.connections(), 1);
}

/// A backend whose client left right behind `data: [DONE]`, as OpenAI's Python SDK does.
async fn left_behind_done(backend: &Backend, server: &Server) -> Wire {
    left_behind(backend, server, &["data: [DONE]\n\n"]).await
}

/// The same behind pieces that come one by one.
async fn left_behind(backend: &Backend, server: &Server, pieces: &[&str]) -> Wire {
    let (mut client, mut wire) = asking(backend, server).await;
    wire.send(STREAM).await;
    for piece in pieces {
        wire.send(chunk(piece)).await;
        client.until(&format!("{piece}\r\n")).await;
    }
    client.stream.shutdown().await.unwrap();
    client.closed().await;
    wire
}

#[tokio::test]
async fn a_client_that_disconnects_behind_done_does_not_cost_the_backends_connection() {
    let (backend, server) = proxy().await;
    let mut wire = left_behind_done(&backend, &server).await;
    wire.send("0\r\n\r\n").await;
    is_kept(&server, wire).await;
}

#[tokio::test]
async fn done_may_come_in_pieces() {
    let pieces: [&[&str]; 3] = [
        &["data: [DONE]\n", "\n"],
        &["data: {}\n\ndata: [DO", "NE]\r\n\r\n"],
        &["da", "ta:", " [DONE", "]\n\n"],
    ];
    for pieces in pieces {
        let (backend, server) = proxy().await;
        let mut wire = left_behind(&backend, &server, pieces).await;
        wire.send("0\r\n\r\n").await;
        is_kept(&server, wire).await;
    }
}

/// The next request comes on this connection.
async fn is_kept(server: &Server, mut wire: Wire) {
    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    wire.request().await;
    wire.send(response("200 OK", "{}")).await;
    assert_eq!(client.response().await.body, b"{}");
}

#[tokio::test]
async fn a_stream_that_goes_on_behind_done_is_read_for_1_s_and_16_kib_only() {
    let (backend, server) = proxy().await;
    let mut wire = left_behind_done(&backend, &server).await;
    stream_until_closed(&mut wire).await;

    let mut wire = left_behind_done(&backend, &server).await;
    wire.closed().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (backend, server) = proxy().await;
    let mut client = Wire::connect(server.address).await;
    let mut requests = Vec::new();
    for number in 0..5 {
        let body = format!("{{\"n\":{number}}}");
        write!(requests, "{}", post(&body)).unwrap();
    }
    client.send(requests).await;
    let mut wire = backend.accept().await;
    for _ in 0..5 {
        let request = wire.request().await;
        let body = String::from_utf8(request.body).unwrap();
        wire.send(response("200 OK", &body)).await;
    }
    for number in 0..5 {
        let answer = client.response().await;
        assert_eq!(answer.body, format!("{{\"n\":{number}}}").as_bytes());
    }
}

#[tokio::test]
async fn parallel_streams_over_http2_have_separate_connections() {
    const STREAMS: usize = 30;
    let (backend, server) = proxy().await;
    let client = Http2::connect(server.address).await;
    let mut responses = Vec::new();
    let mut wires = Vec::new();
    for _ in 0..STREAMS {
        let number = responses.len();
        let client = client.clone();
        responses.push(tokio::spawn(async move {
            let request = client.post(Bytes::from(number.to_string()));
            client.send(request).await
        }));
    }
    for _ in 0..STREAMS {
        let mut wire = backend.accept().await;
        let request = wire.request().await;
        let number = String::from_utf8(request.body).unwrap();
        wire.send(format!("{STREAM}{}", chunk(&format!("{number} begins"))))
            .await;
        wires.push((number, wire));
    }
    // All have begun before the first ends, and the last is the first to end.
    for (number, mut wire) in wires.into_iter().rev() {
        let end = chunk(&format!(", {number} ends"));
        wire.send(format!("{end}0\r\n\r\n")).await;
    }
    for (number, response) in responses.into_iter().enumerate() {
        let response = response.await.unwrap().unwrap();
        let (body, _) = http2::collect(response).await.unwrap();
        assert_eq!(body, format!("{number} begins, {number} ends"));
    }
}
