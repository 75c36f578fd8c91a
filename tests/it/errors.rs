//! What a client sees when something goes wrong, and that the server goes on.

use http::Request;

use crate::support::{
    self, Backend, Message, Server, Wire, config_for, config_of, config_with, entry, find,
    http2::{self, Http2},
    nobody, post, post_with, response,
};

const KEY: &str = "sk-test";
const HEAD: &str =
    "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer sk-test\r\n";

/// Checks a row of the table of errors. The forms of the JSON and of `Proxy-Status`, and that
/// `type` goes with the status, are `error_code`'s to check.
fn check(answer: &Message, status: u16, code: &str, what: &str) {
    assert_eq!(answer.status(), status, "{what}");
    assert_eq!(answer.error_code(), code, "{what}");
    let proxy_status = answer.field("proxy-status");
    let expected = format!("tower-openai-proxy; error={code}");
    assert_eq!(proxy_status.as_deref(), Some(&*expected), "{what}");
    let challenge = answer.field("www-authenticate");
    let expected = (status == 401).then_some("Bearer");
    assert_eq!(challenge.as_deref(), expected, "{what}");
    check_message(&answer.json(), status, what);
}

/// Messages name the backend, and nothing that only the operator should know.
fn check_message(json: &serde_json::Value, status: u16, what: &str) {
    let message = json["error"]["message"].as_str().expect("a message");
    assert!(message.ends_with('.'), "{what}: {message}");
    assert_eq!(
        message.contains("`LLM1`"),
        status >= 500,
        "{what}: {message}"
    );
    let text = json.to_string();
    if status >= 500 {
        // Such as those of an address or a port.
        let digits = message.replace("LLM1", "");
        assert!(!digits.contains(char::is_numeric), "{what}: {message}");
    }
    for secret in ["127.0.0.1", "://", ".invalid", "os error", KEY] {
        assert!(!text.contains(secret), "{what}: {text}");
    }
}

/// One exchange on a separate connection.
async fn ask(server: &Server, request: impl AsRef<[u8]>) -> Message {
    let mut client = Wire::connect(server.address).await;
    client.send(request).await;
    client.response().await
}

/// The next request that the backend gets is answered, and the client has the answer.
async fn still_works(client: &mut Wire, backend: &Backend, what: &str) {
    client.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfine")
        .await;
    assert_eq!(client.response().await.body, b"fine", "{what}");
}

/// A server for one backend `LLM1` at this URL.
fn server_for(url: &str) -> Server {
    let backend = format!(r#"{{"name":"LLM1","url":"{url}"}}"#);
    Server::start(&config_of(&[backend], ""))
}

// No connection.

#[tokio::test]
async fn a_refused_connection() {
    let config = config_of(&[entry("LLM1", nobody().await, "")], "");
    let server = Server::start(&config);
    let mut client = Wire::connect(server.address).await;
    for _ in 0..3 {
        client.send(post("{}")).await;
        check(
            &client.response().await,
            502,
            "connection_refused",
            "refused",
        );
    }
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved() {
    // The second is refused without asking anyone: its label is too long.
    for name in ["nowhere", &"x".repeat(64)] {
        let server = server_for(&format!("http://{name}.invalid/v1"));
        check(&ask(&server, post("{}")).await, 502, "dns_error", name);
    }
}

#[cfg(feature = "native-tls")]
#[tokio::test]
async fn a_backend_that_does_not_speak_tls() {
    let backend = Backend::start().await;
    let server = server_for(&format!("https://{}/v1", backend.address));
    for (answer, then_resets) in [
        (
            "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
            false,
        ),
        ("\x15\x03\x03\x00\x02\x02\x28", false), // the alert `handshake_failure`
        ("\x15\x03\x03", false),
        ("", false),
        ("", true),
    ] {
        let mut client = Wire::connect(server.address).await;
        client.send(post("{}")).await;
        let mut wire = backend.accept().await;
        // What it says first, so that nothing unread turns the end into a reset.
        let record = wire.exactly(5).await;
        wire.exactly(usize::from(u16::from_be_bytes([record[3], record[4]])))
            .await;
        wire.send(answer).await;
        match then_resets {
            true => wire.reset(),
            false => drop(wire),
        }
        let what = format!("{answer:?}, reset: {then_resets}");
        check(&client.response().await, 502, "tls_protocol_error", &what);
    }
}

#[cfg(feature = "native-tls")]
#[tokio::test]
async fn a_refused_connection_is_no_matter_of_tls() {
    let server = server_for(&format!("https://{}/v1", nobody().await));
    check(
        &ask(&server, post("{}")).await,
        502,
        "connection_refused",
        "refused",
    );
}

#[tokio::test]
async fn an_answer_to_head_has_no_body() {
    let config = config_of(&[entry("LLM1", nobody().await, "")], "");
    let server = Server::start(&config);
    let mut client = Wire::connect(server.address).await;
    for _ in 0..2 {
        let request = post("").replace("POST", "HEAD");
        client
            .send(request.replace("Content-Length: 0\r\n", ""))
            .await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        assert!(head.contains("error=connection_refused\r\n"), "{head}");
        assert!(client.is_silent().await);
    }
}

// No response.

#[tokio::test]
async fn a_connection_that_ends_before_a_response() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    let mut client = Wire::connect(server.address).await;
    for (bytes, then_resets) in [
        ("", false),
        ("", true),
        ("H", false),
        ("HTTP/1.1 200 OK\r\nContent-Le", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r", false),
        ("HTTP/1.1 100 Continue\r\n\r\n", false),
    ] {
        client.send(post("{}")).await;
        let mut wire = backend.accept().await;
        wire.request().await;
        wire.send(bytes).await;
        match then_resets {
            true => wire.reset(),
            false => drop(wire),
        }
        let what = format!("{bytes:?}, reset: {then_resets}");
        check(
            &client.response().await,
            502,
            "connection_terminated",
            &what,
        );
        still_works(&mut client, &backend, &what).await;
    }
}

/// Answers that are not HTTP/1.1 as it must be (RFC 9112).
fn not_http() -> Vec<(&'static str, Vec<u8>)> {
    let many_fields = |count| format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(count));
    let mut answers: Vec<(_, Vec<u8>)> = vec![
        ("HTTP/2 SETTINGS", b"\0\0\0\x04\0\0\0\0\0".into()),
        ("a TLS alert", b"\x15\x03\x01\0\x02\x02\x16".into()),
        ("bytes", (0..=255).collect()),
        ("too many fields", many_fields(1000).into()),
        ("empty lines for ever", b"\r\n".repeat(40_000)),
        (
            "interim responses for ever",
            b"HTTP/1.1 100 Continue\r\n\r\n".repeat(40),
        ),
    ];
    for text in [
        "hello\r\n\r\n",
        "<html></html>",
        "{\"object\":\"chat.completion\"}",
        "SSH-2.0-OpenSSH_9.6\r\n",
        "220 mail.test ESMTP\r\n",
        "-ERR unknown command\r\n",
        "ICY 200 OK\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
        "HTTP/3.1 200 OK\r\n\r\n",
        "HTTP/1.1 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 Low\r\n\r\n",
        "HTTP/1.1 -20 OK\r\n\r\n",
        "HTTP/1.1200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nname with blank: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nblank : x\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: no name\r\n\r\n",
        "HTTP/1.1 200 OK\r\na: b\r\n folded\r\n\r\n",
        "HTTP/1.1 200 OK\r\nnul: a\0b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    ] {
        answers.push((text, text.into()));
    }
    answers
}

#[tokio::test]
async fn an_answer_that_is_not_http() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    let mut client = Wire::connect(server.address).await;
    let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
    let not_http = not_http().into_iter();
    let not_http = not_http.map(|(what, answer)| (what, answer, "http_protocol_error"));
    let switch = ("a switch", switch.into(), "http_upgrade_failed");
    for (what, answer, code) in not_http.chain([switch]) {
        client.send(post("{}")).await;
        let mut wire = backend.accept().await;
        wire.request().await;
        wire.send(&answer).await;
        // The backend keeps its side open: the proxy has seen enough.
        check(&client.response().await, 502, code, what);
        wire.closed().await;
        still_works(&mut client, &backend, what).await;
    }
}

#[tokio::test]
async fn a_head_that_does_not_end() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    for start in [
        "HTTP/1.1 200 OK\r\nx: ",
        "HTTP/1.1 200 ",
        "HTTP/1.1 100 Continue\r\nx: ",
    ] {
        let mut client = Wire::connect(server.address).await;
        client.send(post("{}")).await;
        let mut wire = backend.accept().await;
        wire.request().await;
        wire.send(start).await;
        let endless = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            while wire.stream.write_all(&[b'x'; 4096]).await.is_ok() {}
        });
        check(&client.response().await, 502, "http_protocol_error", start);
        support::soon("the backend notices", endless).await.unwrap();
        still_works(&mut client, &backend, start).await;
    }
}

// Truncated within the body.

/// A head and a part of a body, and how many bytes of content are in it.
const PARTS: [(&str, &str); 12] = [
    ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", ""),
    ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "12345678"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", ""),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "3"),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "3\r\nab",
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "3\r\nabc",
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "3\r\nabc\r\n",
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "3\r\nabc\r\n0",
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "3\r\nabc\r\n0\r\n",
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "3\r\nabc\r\n0\r\nx: y\r\n",
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "3\r\nabc\r\n0\r\n\r",
    ),
    (
        "HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r",
    ),
];

/// The data in a part of a body.
fn content(head: &str, part: &str) -> &'static str {
    match part {
        "12345678" => "12345678",
        _ if head.contains("Length") => "",
        _ if part.contains("abc") => "abc",
        _ if part.contains("ab") => "ab",
        _ => "",
    }
}

/// Reads a response to its cut. Gives what of its content came before.
async fn cut(client: &mut Wire, what: &str) -> String {
    let head = client.head().await.to_lowercase();
    let rest = client.rest().await;
    if let Some((_, length)) = head.split_once("content-length: ") {
        let length: usize = length.lines().next().unwrap().parse().unwrap();
        assert!(rest.len() < length, "{what}: whole");
        return String::from_utf8(rest).unwrap();
    }
    assert!(
        head.contains("transfer-encoding: chunked"),
        "{what}: {head}"
    );
    // No last chunk: the data of whole chunks, and nothing behind it.
    let mut rest = &rest[..];
    let mut content = String::new();
    while !rest.is_empty() {
        let line = find(rest, b"\r\n").unwrap_or_else(|| panic!("{what}: half a chunk"));
        let size = std::str::from_utf8(&rest[..line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        assert!(size > 0, "{what}: a clean end");
        content.push_str(std::str::from_utf8(&rest[line + 2..line + 2 + size]).unwrap());
        rest = &rest[line + 2 + size + 2..];
    }
    content
}

#[tokio::test]
async fn a_truncated_response_never_has_a_clean_end() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    for (head, part) in PARTS {
        for at_once in [true, false] {
            let what = format!("{head}{part}, at once: {at_once}");
            let mut client = Wire::connect(server.address).await;
            client.send(post("{}")).await;
            let mut wire = backend.accept().await;
            wire.request().await;
            wire.send(format!("{head}{part}")).await;
            if !at_once {
                // The head is with the client before the end comes.
                let mut byte = [0];
                support::soon("a head", client.stream.peek(&mut byte))
                    .await
                    .unwrap();
            }
            drop(wire);
            assert_eq!(cut(&mut client, &what).await, content(head, part), "{what}");
        }
    }
    let mut client = Wire::connect(server.address).await;
    still_works(&mut client, &backend, "after all").await;
}

#[tokio::test]
async fn a_response_that_is_reset_is_never_given_a_clean_end() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    for (head, part) in [
        PARTS[1],
        PARTS[6],
        // Only a proper close ends this one.
        ("HTTP/1.1 200 OK\r\n\r\n", "half"),
    ] {
        let mut client = Wire::connect(server.address).await;
        client.send(post("{}")).await;
        let mut wire = backend.accept().await;
        wire.request().await;
        wire.send(format!("{head}{part}")).await;
        // A reset takes back what hasn't been read yet.
        let mut byte = [0];
        support::soon("a head", client.stream.peek(&mut byte))
            .await
            .unwrap();
        wire.reset();
        cut(&mut client, &format!("{head}{part}")).await;
    }
}

#[tokio::test]
async fn malformed_chunks_truncate_the_response() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    for (part, expected) in [
        ("x\r\n", ""),
        ("\r\n", ""),
        ("-1\r\n", ""),
        ("+1\r\na\r\n", ""),
        ("0x1\r\na\r\n", ""),
        ("11111111111111111\r\n", ""),
        ("3\nabc\n", ""),
        ("3\r\nabcd\r\n", "abc"),
        ("3\r\nabc\r\nz\r\n", "abc"),
        ("3\r\nabc\r\n0\r\nno colon\r\n\r\n", "abc"),
    ] {
        let mut client = Wire::connect(server.address).await;
        client.send(post("{}")).await;
        let mut wire = backend.accept().await;
        wire.request().await;
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        wire.send(format!("{head}{part}")).await;
        assert_eq!(cut(&mut client, part).await, expected, "{part:?}");
        wire.closed().await;
    }
}

#[tokio::test]
async fn a_response_that_is_told_to_end_with_the_connection_ends_well() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    let mut client = Wire::connect(server.address).await;
    for version in ["1.1", "1.0"] {
        client.send(post("{}")).await;
        let mut wire = backend.accept().await;
        wire.request().await;
        wire.send(format!("HTTP/{version} 200 OK\r\n\r\nto the end"))
            .await;
        drop(wire);
        assert_eq!(client.response().await.content(), b"to the end");
        still_works(&mut client, &backend, version).await;
    }
}

#[tokio::test]
async fn an_http_1_0_client_sees_that_a_response_was_truncated() {
    use tokio::io::AsyncReadExt;

    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    for (end, is_clean) in [("0\r\n\r\n", true), ("0\r\n", false), ("", false)] {
        let mut client = Wire::connect(server.address).await;
        client
            .send(post("{}").replace("HTTP/1.1", "HTTP/1.0"))
            .await;
        let mut wire = backend.accept().await;
        wire.request().await;
        let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
        wire.send(format!("{head}3\r\nabc\r\n")).await;
        client.until("abc").await;
        wire.send(end).await;
        drop(wire);
        // The end of such a response is that of its connection: only a reset is another one.
        let read = support::soon("the end", client.stream.read(&mut [0])).await;
        assert_eq!(read.is_ok(), is_clean, "{end:?}: {read:?}");
    }
}

#[tokio::test]
async fn over_http2_a_broken_response_resets_its_stream_alone() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    let client = Http2::connect(server.address).await;
    for (head, part) in PARTS {
        let what = format!("{head}{part}");
        let (other, mut other_wire) = tokio::join!(client.send(client.post("{}")), async {
            let mut wire = backend.accept().await;
            wire.request().await;
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfi")
                .await;
            wire
        });
        let (broken, ()) = tokio::join!(client.send(client.post("{}")), async {
            let mut wire = backend.accept().await;
            wire.request().await;
            wire.send(format!("{head}{part}")).await;
        });
        let error = http2::collect(broken.unwrap()).await.unwrap_err();
        assert!(!error.is_canceled(), "{what}: {error:?}");

        other_wire.send("ne").await;
        let (body, _) = http2::collect(other.unwrap()).await.unwrap();
        assert_eq!(body, "fine", "{what}");
    }
}

#[tokio::test]
async fn over_http2_what_came_before_the_break_arrives() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    let client = Http2::connect(server.address).await;
    let (response, ()) = tokio::join!(client.send(client.post("{}")), async {
        let mut wire = backend.accept().await;
        wire.request().await;
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
            .await;
    });
    let mut response = response.unwrap();
    assert_eq!(response.status(), 200);
    let frame = http2::next_frame(&mut response).await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "half");
    assert!(http2::next_frame(&mut response).await.unwrap().is_err());
}

// The request's own faults.

/// A configuration in which a model is replaced, with small limits.
fn strict(backend: &Backend) -> String {
    config_of(
        &[entry("LLM1", backend.address, r#""model":"m""#)],
        r#""max_body_bytes":50,"idle_timeout":0.3"#,
    )
}

#[tokio::test]
async fn a_request_at_fault_is_told_so_and_the_connection_goes_on() {
    let backend = Backend::start().await;
    let server = Server::start(&strict(&backend));
    let mut client = Wire::connect(server.address).await;
    let at = |target: &str| post("{}").replace("/v1/chat/completions", target);
    let mut rows = vec![
        (post("").replace("Bearer", ""), 400, "http_request_error"),
        (
            post("{}").replace("Authorization: Bearer sk-test\r\n", ""),
            401,
            "http_request_denied",
        ),
        (
            post("{}").replace("Bearer sk-test", ""),
            401,
            "http_request_denied",
        ),
        (
            post_with("X-Proxy-Backend: LLM2\r\n", "{}"),
            404,
            "destination_not_found",
        ),
        (
            post_with("Content-Encoding: gzip\r\n", "{}"),
            415,
            "http_request_error",
        ),
        (
            post_with(
                "Content-Encoding: identity\r\nContent-Encoding: br\r\n",
                "{}",
            ),
            415,
            "http_request_error",
        ),
        (post(&"x".repeat(51)), 413, "http_request_error"),
    ];
    for path in ["/", "/v1", "/v1/", "/health", "/?/v1/chat/completions"] {
        rows.push((at(path), 404, "destination_not_found"));
    }
    for path in [
        "/v1/chat/completions/..",
        "/v1/chat/completions/./x",
        "/v1/chat/completions/%2e%2E/models",
        "/v1/../chat/completions",
    ] {
        rows.push((at(path), 400, "http_request_error"));
    }
    for body in [
        "",
        "null",
        "[]",
        "\"{}\"",
        "{",
        "{}{}",
        "{\"a\":}",
        "\u{feff}{}",
        "{\"model\":1,}",
    ] {
        rows.push((post(body), 400, "http_request_error"));
    }
    for (request, status, code) in rows {
        client.send(&request).await;
        check(&client.response().await, status, code, &request);
    }
    assert!(!backend.is_contacted().await);
    still_works(&mut client, &backend, "after all").await;
}

#[tokio::test]
async fn without_require_auth_no_credentials_are_asked_for() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""require_auth":false"#));
    let backend = backend.record_all(response("200 OK", "fine"));
    let request = post("{}").replace("Authorization: Bearer sk-test\r\n", "");
    assert_eq!(ask(&server, request).await.body, b"fine");
    assert_eq!(backend.take()[0].field("authorization"), None);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""max_body_bytes":10"#));
    let mut client = Wire::connect(server.address).await;
    // Nothing of it is sent.
    client
        .send(format!("{HEAD}Content-Length: 11\r\n\r\n"))
        .await;
    check(
        &client.response().await,
        413,
        "http_request_error",
        "announced",
    );
    client.closed().await;
    assert!(!backend.is_contacted().await);
}

#[tokio::test]
async fn a_body_may_be_as_large_as_the_limit() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""max_body_bytes":10"#));
    backend.answer_all(response("200 OK", "fine"));
    let chunked =
        format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n6\r\n012345\r\n0\r\n\r\n");
    for request in [post("0123456789"), chunked] {
        assert_eq!(ask(&server, &request).await.body, b"fine", "{request}");
    }
}

#[tokio::test]
async fn a_body_that_grows_over_the_limit_never_reaches_a_backend_whole() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""max_body_bytes":10"#));
    let mut client = Wire::connect(server.address).await;
    client
        .send(format!(
            "{HEAD}Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n"
        ))
        .await;
    let mut wire = backend.accept().await;
    wire.until("abcde\r\n").await;
    client.send("6\r\nfghijk\r\n0\r\n\r\n").await;
    check(
        &client.response().await,
        413,
        "http_request_error",
        "chunked",
    );
    wire.closed().await;

    let mut client = Wire::connect(server.address).await;
    still_works(&mut client, &backend, "afterwards").await;
}

#[tokio::test]
async fn a_large_upload_is_refused_while_it_is_still_sent() {
    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""max_body_bytes":1000"#));
    let mut client = Wire::connect(server.address).await;
    // More than the sockets hold, so that the client would lose the answer to a plain close.
    let body = "x".repeat(8 << 20);
    let request = post(&body);
    let (mut read, mut write) = client.stream.split();
    let written = async {
        use tokio::io::AsyncWriteExt;
        write.write_all(request.as_bytes()).await
    };
    let answer = async {
        use tokio::io::AsyncReadExt;
        let mut answer = Vec::new();
        let end = read.read_to_end(&mut answer).await;
        assert!(end.is_ok(), "no proper end: {end:?}");
        String::from_utf8(answer).unwrap()
    };
    let exchange = async { tokio::join!(answer, written) };
    let (answer, written) = support::soon("an answer", exchange).await;
    assert!(written.is_ok(), "the rest was not taken: {written:?}");
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("http_request_error"), "{answer}");
    assert!(!backend.is_contacted().await);
}

#[tokio::test]
async fn an_idle_body_times_out() {
    let backend = Backend::start().await;
    let held = Server::start(&strict(&backend));
    let streamed = Server::start(&config_with(&backend, r#""idle_timeout":0.3"#));
    for framing in [
        "Content-Length: 9\r\n\r\n{",
        "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    ] {
        let request = format!("{HEAD}{framing}");
        check(
            &ask(&held, &request).await,
            408,
            "http_request_error",
            &request,
        );
        assert!(!backend.is_contacted().await);

        let mut client = Wire::connect(streamed.address).await;
        client.send(&request).await;
        let mut wire = backend.accept().await;
        wire.until("{").await;
        check(
            &client.response().await,
            408,
            "http_request_error",
            &request,
        );
        let rest = wire.rest().await;
        assert!(
            find(&rest, b"0\r\n\r\n").is_none(),
            "the request was never whole"
        );
    }
}

#[tokio::test]
async fn a_body_with_malformed_chunks_is_refused() {
    let backend = Backend::start().await;
    let held = Server::start(&strict(&backend));
    let streamed = Server::start(&config_for(&backend));
    for chunks in ["x\r\n", "1\r\n{x\r\n", "1\r\n{\r\nx\r\n"] {
        let request = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{chunks}");
        check(
            &ask(&held, &request).await,
            400,
            "http_request_error",
            &request,
        );
        assert!(!backend.is_contacted().await);

        let mut client = Wire::connect(streamed.address).await;
        client.send(&request).await;
        let mut wire = backend.accept().await;
        check(
            &client.response().await,
            400,
            "http_request_error",
            &request,
        );
        let seen = wire.rest().await;
        assert!(
            find(&seen, b"0\r\n\r\n").is_none(),
            "the request was never whole"
        );
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_ends_the_backends_request() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    for (framing, then_resets) in [
        ("Content-Length: 9\r\n\r\nabc", false),
        ("Content-Length: 9\r\n\r\nabc", true),
        ("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", false),
        ("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", true),
        ("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", false),
    ] {
        let mut client = Wire::connect(server.address).await;
        client.send(format!("{HEAD}{framing}")).await;
        let mut wire = backend.accept().await;
        wire.until("abc").await;
        match then_resets {
            true => client.reset(),
            false => drop(client),
        }
        let rest = wire.rest().await;
        assert!(rest.is_empty() || rest == b"\r\n", "{framing:?}: {rest:?}");
    }
    let mut client = Wire::connect(server.address).await;
    still_works(&mut client, &backend, "after all").await;
}

#[tokio::test]
async fn a_body_that_breaks_off_never_reaches_a_backend_that_gets_it_whole() {
    let backend = Backend::start().await;
    let server = Server::start(&strict(&backend));
    for framing in [
        "Content-Length: 9\r\n\r\n{}",
        "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    ] {
        let mut client = Wire::connect(server.address).await;
        client.send(format!("{HEAD}{framing}")).await;
        drop(client);
        assert!(!backend.is_contacted().await, "{framing:?}");
    }
}

// Over HTTP/2.

/// Checks a row of the table of errors.
async fn check_http2(client: &Http2, request: Request<http2::Body>, status: u16, code: &str) {
    let what = format!("{:?}", request.headers());
    let response = client.send(request).await.unwrap();
    assert_eq!(response.status(), status, "{what}");
    let field = |name: &str| {
        response
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap())
    };
    let expected = format!("tower-openai-proxy; error={code}");
    assert_eq!(field("proxy-status"), Some(&*expected), "{what}");
    assert_eq!(field("content-type"), Some("application/json"), "{what}");
    assert_eq!(
        field("www-authenticate"),
        (status == 401).then_some("Bearer")
    );
    assert_eq!(field("connection"), None);
    let (body, _) = http2::collect(response).await.unwrap();
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(json["error"]["code"], code, "{what}");
    let kind = if status < 500 {
        "invalid_request_error"
    } else {
        "proxy_error"
    };
    assert_eq!(json["error"]["type"], kind, "{what}");
    check_message(&json, status, &what);
}

#[tokio::test]
async fn over_http2_the_backends_failures() {
    let refused = Server::start(&config_of(&[entry("LLM1", nobody().await, "")], ""));
    let client = Http2::connect(refused.address).await;
    check_http2(&client, client.post("{}"), 502, "connection_refused").await;
    check_http2(&client, client.post("{}"), 502, "connection_refused").await;

    let backend = Backend::start().await;
    let server = Server::start(&config_with(&backend, r#""timeout":0.3"#));
    let client = Http2::connect(server.address).await;
    for (answer, then_closes, status, code) in [
        ("", true, 502, "connection_terminated"),
        ("HTTP/1.1 200 O", true, 502, "connection_terminated"),
        ("SSH-2.0-OpenSSH_9.6\r\n", false, 502, "http_protocol_error"),
        ("", false, 504, "http_response_timeout"),
    ] {
        tokio::join!(
            check_http2(&client, client.post("{}"), status, code),
            async {
                let mut wire = backend.accept().await;
                wire.request().await;
                wire.send(answer).await;
                if !then_closes {
                    wire.closed().await;
                }
            }
        );
    }
    let (answer, ()) = tokio::join!(client.send(client.post("{}")), async {
        let mut wire = backend.accept().await;
        wire.request().await;
        wire.send(response("200 OK", "fine")).await;
    });
    assert_eq!(http2::collect(answer.unwrap()).await.unwrap().0, "fine");
}

#[tokio::test]
async fn over_http2_the_requests_own_faults() {
    let backend = Backend::start().await;
    let server = Server::start(&strict(&backend));
    let client = Http2::connect(server.address).await;
    let bad = "http_request_error";
    check_http2(&client, client.post("[]"), 400, bad).await;
    check_http2(&client, client.post(""), 400, bad).await;
    check_http2(&client, client.post("x".repeat(51)), 413, bad).await;

    let mut request = client.post("{}");
    request.headers_mut().remove("authorization");
    check_http2(&client, request, 401, "http_request_denied").await;

    let mut request = client.post("{}");
    let name = http::HeaderValue::from_static("LLM2");
    request.headers_mut().insert("x-proxy-backend", name);
    check_http2(&client, request, 404, "destination_not_found").await;

    let mut request = client.post("{}");
    let coding = http::HeaderValue::from_static("gzip");
    request.headers_mut().insert("content-encoding", coding);
    check_http2(&client, request, 415, bad).await;

    for (path, status, code) in [
        ("/v1/", 404, "destination_not_found"),
        ("/v1/chat/completions/%2e%2e", 400, bad),
    ] {
        let mut request = client.post("{}");
        let uri = request.uri().to_string();
        let uri = uri.replace("/v1/chat/completions", path);
        *request.uri_mut() = uri.parse().unwrap();
        check_http2(&client, request, status, code).await;
    }

    // A body that never ends, and one that grows over the limit.
    let (mut body, pieces) = http2::channel();
    body.send_data("{".into()).await.unwrap();
    let request = client.request("POST").body(pieces).unwrap();
    check_http2(&client, request, 408, bad).await;
    drop(body);
    let (mut body, pieces) = http2::channel();
    body.send_data("x".repeat(51).into()).await.unwrap();
    let request = client.request("POST").body(pieces).unwrap();
    check_http2(&client, request, 413, bad).await;
    drop(body);

    assert!(!backend.is_contacted().await);
}

#[tokio::test]
async fn over_http2_a_body_that_breaks_off_ends_the_backends_request() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    let client = Http2::connect(server.address).await;
    let (mut body, pieces) = http2::channel();
    body.send_data("abc".into()).await.unwrap();
    let request = client.request("POST").body(pieces).unwrap();
    let sending = tokio::spawn({
        let client = client.clone();
        async move { client.send(request).await.map(drop) }
    });
    let mut wire = backend.accept().await;
    wire.until("abc\r\n").await;
    sending.abort();
    wire.closed().await;

    let (answer, ()) = tokio::join!(client.send(client.post("{}")), async {
        let mut wire = backend.accept().await;
        wire.request().await;
        wire.send(response("200 OK", "fine")).await;
    });
    assert_eq!(http2::collect(answer.unwrap()).await.unwrap().0, "fine");
}
