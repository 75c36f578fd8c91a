//! What becomes of a request on its way to the backend.

use std::io::Write as _;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};

use crate::support::{
    Backend, Message, Server, Wire, chunked, config_for, config_of, entry, find,
    http2::{self, Http2},
    nobody, noise, post, post_with, response, write_until_stopped,
};

/// An answer after which the backend's connection isn't used again.
const LAST: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// What `post` and `post_with` send before further fields.
const AUTHORIZED: &str = "authorization: Bearer sk-test\r\n";

const SIXTY_MEGABYTES: usize = 60 << 20;

async fn proxy() -> (Backend, Server) {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    (backend, server)
}

/// One whose backend has further fields in the configuration.
async fn proxy_with(fields: &str, settings: &str) -> (Backend, Server) {
    let backend = Backend::start().await;
    let entries = [entry("LLM1", backend.address, fields)];
    let environment = [("OWN_KEY", "sk-own")];
    let server = Server::start_with(&config_of(&entries, settings), &[], &environment);
    (backend, server)
}

const MODEL: &str = r#""model":"ours""#;
const KEY: &str = r#""api_key_env":"OWN_KEY""#;

/// One with a second backend, at which nobody listens.
async fn proxy_with_two() -> (Backend, Server) {
    let backend = Backend::start().await;
    let entries = [
        entry("LLM1", backend.address, ""),
        entry("LLM2", nobody().await, ""),
    ];
    let server = Server::start(&config_of(&entries, ""));
    (backend, server)
}

/// Answers the next request of a new connection, and gives it.
async fn answered(backend: &Backend) -> Message {
    let mut wire = backend.accept().await;
    let request = wire.request().await;
    wire.send(LAST).await;
    request
}

/// Sends a request, and gives what arrived of it.
async fn arrives(backend: &Backend, client: &mut Wire, request: impl AsRef<[u8]>) -> Message {
    let ((), arrived) = tokio::join!(client.send(request), answered(backend));
    assert_eq!(client.response().await.status(), 200);
    arrived
}

/// Sends a request that the proxy answers by itself, and gives status and code of the error.
async fn refused(server: &Server, request: impl AsRef<[u8]>) -> (u16, String) {
    let mut client = Wire::connect(server.address).await;
    client.send(request).await;
    let response = client.response().await;
    (response.status(), response.error_code())
}

/// A head as the proxy writes it.
fn head(start: &str, backend: &Backend, fields: &str) -> String {
    format!(
        "{start} HTTP/1.1\r\nhost: {}\r\n{fields}\r\n",
        backend.address
    )
}

/// A request without a body.
fn bare(start: &str) -> String {
    format!("{start} HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer sk-test\r\n\r\n")
}

// ---- Paths ----

#[tokio::test]
async fn the_endpoint_is_served_with_and_without_v1_and_what_lies_below_it() {
    let (backend, server) = proxy().await;
    let mut client = Wire::connect(server.address).await;
    for (target, expected) in [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/chat/completions/", "/v1/chat/completions/"),
        ("/v1/chat/completions/", "/v1/chat/completions/"),
        (
            "/v1/chat/completions/chatcmpl-1/messages",
            "/v1/chat/completions/chatcmpl-1/messages",
        ),
        (
            "/chat/completions/a..b/...//c%2Fd%41;e",
            "/v1/chat/completions/a..b/...//c%2Fd%41;e",
        ),
        ("/chat/completions?", "/v1/chat/completions"),
        (
            "/v1/chat/completions?q=a%2Fb&q=&flag&x=1+2&j={[1]}|&p=/../.",
            "/v1/chat/completions?q=a%2Fb&q=&flag&x=1+2&j={[1]}|&p=/../.",
        ),
        (
            "/v1/chat/completions/x?after=1&limit=2",
            "/v1/chat/completions/x?after=1&limit=2",
        ),
    ] {
        let request = arrives(&backend, &mut client, bare(&format!("GET {target}"))).await;
        assert_eq!(
            request.start_line(),
            format!("GET {expected} HTTP/1.1"),
            "{target}"
        );
    }
}

#[tokio::test]
async fn the_base_urls_path_and_query_are_kept_and_merged_with_the_requests() {
    for (base, query, expected) in [
        ("", "", "/chat/completions"),
        ("/", "", "/chat/completions"),
        ("/v1/", "?a=1", "/v1/chat/completions?a=1"),
        ("/openai/v1//", "", "/openai/v1/chat/completions"),
        (
            "/openai/deployments/gpt%204o?api-version=2024-10-21",
            "",
            "/openai/deployments/gpt%204o/chat/completions?api-version=2024-10-21",
        ),
        (
            "/d/?api-version=1&x",
            "?a=1&a=2",
            "/d/chat/completions?api-version=1&x&a=1&a=2",
        ),
        ("?k=v", "?", "/chat/completions?k=v"),
    ] {
        let backend = Backend::start().await;
        let server = Server::start(&format!(
            r#"{{"primary_backends":[{{"name":"LLM1","url":"http://{}{base}"}}]}}"#,
            backend.address
        ));
        let mut client = Wire::connect(server.address).await;
        let request = bare(&format!("GET /v1/chat/completions{query}"));
        let request = arrives(&backend, &mut client, request).await;
        assert_eq!(
            request.start_line(),
            format!("GET {expected} HTTP/1.1"),
            "{base}"
        );
    }
}

#[tokio::test]
async fn what_is_no_endpoint_is_answered_404_without_contacting_a_backend() {
    let (backend, server) = proxy().await;
    for (start, path) in [
        ("GET /", "/"),
        ("GET /?/v1/chat/completions", "/"),
        ("OPTIONS *", "*"),
        ("GET /v1", "/v1"),
        ("POST /v1", "/v1"),
        ("GET /v1/", "/v1/"),
        ("POST /v1/?a=b", "/v1/"),
        ("POST /health", "/health"),
        ("OPTIONS /health", "/health"),
    ] {
        let mut client = Wire::connect(server.address).await;
        client.send(bare(start)).await;
        let answer = client.response().await;
        assert_eq!(answer.status(), 404, "{start}");
        assert_eq!(answer.error_code(), "destination_not_found", "{start}");
        let message = answer.json()["error"]["message"].to_string();
        assert!(message.contains(&format!("`{path}`")), "{message}");
    }
    assert!(!backend.is_contacted().await);
}

#[tokio::test]
async fn dot_segments_in_every_spelling_are_answered_400_without_contacting_a_backend() {
    let (backend, server) = proxy().await;
    for path in [
        "/v1/chat/completions/..",
        "/v1/chat/completions/.",
        "/v1/chat/completions/./x",
        "/chat/completions/../../models",
        "/chat/completions/%2e%2e/models",
        "/chat/completions/%2E%2e/models",
        "/chat/completions/.%2e/models",
        "/chat/completions/%2E",
        "/chat/completions/x%2f..%2Fmodels",
        "/chat/completions/x%5C..%5cmodels",
        "/chat/completions/..%2fmodels",
        "/chat/completions/..;a=b/models",
        "/v1/../chat/completions",
        "/v1/./chat/completions",
        "/%2e%2e/v1/chat/completions",
        "/models/../v1/chat/completions/x",
        "/chat/completions/..?q",
        "/v1/../models",
        "/a/..%2Fb",
        "/a/.%5Cb",
        "/..",
    ] {
        let refusal = refused(&server, bare(&format!("GET {path}"))).await;
        assert_eq!(refusal, (400, "http_request_error".into()), "{path}");
    }
    assert!(!backend.is_contacted().await);
}

#[tokio::test]
async fn a_target_in_absolute_form_does_not_choose_the_destination() {
    let (backend, server) = proxy().await;
    let other = Backend::start().await;
    let mut client = Wire::connect(server.address).await;
    let start = format!("GET http://{}/v1/chat/completions/x?y=z", other.address);

    let request = arrives(&backend, &mut client, bare(&start)).await;

    let expected = head(
        "GET /v1/chat/completions/x?y=z",
        &backend,
        "authorization: Bearer sk-test\r\n",
    );
    assert_eq!(request.head, expected);
    let root = bare(&format!("GET http://{}/", other.address));
    let refusal = refused(&server, root).await;
    assert_eq!(refusal, (404, "destination_not_found".into()));
    assert!(!other.is_contacted().await);
}

#[tokio::test]
async fn connect_opens_no_tunnel() {
    let (backend, server) = proxy().await;
    let other = Backend::start().await;

    for target in [&*other.address.to_string(), "/v1/chat/completions"] {
        let refusal = refused(&server, bare(&format!("CONNECT {target}"))).await;
        assert_eq!(refusal, (404, "destination_not_found".into()));
    }

    let client = Http2::connect(server.address).await;
    let connect = Request::connect(other.address.to_string()).body(http2::full(""));
    let response = client.send(connect.unwrap()).await.unwrap();
    assert_eq!(response.status(), 404);

    assert!(!other.is_contacted().await && !backend.is_contacted().await);
}

// ---- Methods ----

#[tokio::test]
async fn every_method_is_forwarded() {
    let (backend, server) = proxy().await;
    let mut client = Wire::connect(server.address).await;
    for method in [
        "GET", "HEAD", "DELETE", "PATCH", "PUT", "OPTIONS", "TRACE", "PURGE", "get", "M-SEARCH",
    ] {
        let start = format!("{method} /v1/chat/completions/x");
        let request = arrives(&backend, &mut client, bare(&start)).await;
        assert_eq!(request.start_line(), format!("{start} HTTP/1.1"));
    }
}

// ---- Header fields ----

#[tokio::test]
async fn nothing_is_added_to_a_request() {
    let (backend, server) = proxy().await;
    let mut client = Wire::connect(server.address).await;

    let get = arrives(&backend, &mut client, bare("GET /v1/chat/completions")).await;
    assert_eq!(
        get.head,
        head("GET /v1/chat/completions", &backend, AUTHORIZED)
    );

    let posted = arrives(&backend, &mut client, post("{}")).await;
    let fields = format!("{AUTHORIZED}content-length: 2\r\n");
    assert_eq!(
        posted.head,
        head("POST /v1/chat/completions", &backend, &fields)
    );
}

#[tokio::test]
async fn fields_arrive_as_they_were_sent_in_their_order() {
    let (backend, server) = proxy().await;
    let mut client = Wire::connect(server.address).await;
    let mut request = b"POST /v1/chat/completions HTTP/1.1\r\n".to_vec();
    let mut expected = head("POST /v1/chat/completions", &backend, "").into_bytes();
    expected.truncate(expected.len() - 2);
    let repeated: &[u8] = b"X-Repeated: 1\r\nx-repeated: 2\r\nX-REPEATED: 1\r\n";
    let long = [b"X-Long: ", &*b"y".repeat(30_000), b"\r\n"].concat();
    let fields: &[&[u8]] = &[
        b"Zebra: first\r\n",
        b"Host: proxy.test\r\n",
        b"Accept-Encoding: gzip, br;q=0.5, *;q=0\r\n",
        b"User-Agent: OpenAI/Python 1.2.3\r\n",
        b"OpenAI-Organization: org-1\r\n",
        b"Authorization: Bearer sk-test\r\n",
        b"api-key: also\r\n",
        b"X-Empty:\r\n",
        b"X-Space:   \t padded \t  \r\n",
        b"X-Tab: a\tb  c\r\n",
        b"X-Quoted: \"a\\\"b\", ; =,\r\n",
        b"X-Obs-Text: \xe9\x80\xff \xc3\xa9\r\n",
        repeated,
        &long,
        b"Content-Type: application/json; charset=\"UTF-8\"\r\n",
        b"Via: 1.1 before\r\n",
        b"X-Forwarded-For: 192.0.2.1\r\n",
        b"Cookie: a=b; c=d\r\n",
        b"Cookie: e=f\r\n",
        b"Date: not a date\r\n",
        b"Cache-Control: no-cache\r\n",
        b"Content-Length: 2\r\n",
        b"Range: bytes=0-1\r\n",
        b"If-Match: \"x\"\r\n",
        b"!#$%&'*+-.^_`|~09: every kind of character\r\n",
        b"A: last\r\n",
    ];
    for field in fields {
        request.extend_from_slice(field);
        match *field {
            b"Host: proxy.test\r\n" => {}
            b"X-Empty:\r\n" => expected.extend_from_slice(b"x-empty: \r\n"),
            b"X-Space:   \t padded \t  \r\n" => expected.extend_from_slice(b"x-space: padded\r\n"),
            field => {
                for line in field.split_inclusive(|&byte| byte == b'\n') {
                    let colon = find(line, b":").unwrap();
                    expected.extend_from_slice(&line[..colon].to_ascii_lowercase());
                    expected.extend_from_slice(&line[colon..]);
                }
            }
        }
    }
    request.extend_from_slice(b"\r\n{}");
    expected.extend_from_slice(b"\r\n");
    client.send(request).await;

    let mut wire = backend.accept().await;
    let arrived = wire.try_head_bytes().await.unwrap();

    assert!(
        arrived == expected,
        "{}\ninstead of\n{}",
        arrived.escape_ascii(),
        expected.escape_ascii()
    );
}

#[tokio::test]
async fn as_many_fields_as_the_server_takes_arrive() {
    let (backend, server) = proxy().await;
    let mut client = Wire::connect(server.address).await;
    let fields: String = (0..95).map(|n| format!("x-{n}: {n}\r\n")).collect();

    let request = arrives(&backend, &mut client, post_with(&fields, "{}")).await;

    let fields = format!("{AUTHORIZED}{fields}content-length: 2\r\n");
    assert_eq!(
        request.head,
        head("POST /v1/chat/completions", &backend, &fields)
    );
}

#[tokio::test]
async fn hop_by_hop_fields_and_those_named_in_connection_stay_behind() {
    let (backend, server) = proxy().await;
    let mut client = Wire::connect(server.address).await;
    let fields = "Connection: keep-alive, X-Named, te\r\nX-Named: 1\r\nX-Kept: 2\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authenticate: Basic\r\n\
         Proxy-Authorization: Basic c2s=\r\nUpgrade: h2c, websocket\r\nTrailer: x-sum\r\n\
         TE: gzip\r\nconnection: x-AGAIN ,,\r\nx-again: 3\r\nX-Again: 4\r\nX-Named-Not: 5\r\n";

    let request = arrives(&backend, &mut client, post_with(fields, "{}")).await;

    let fields = format!("{AUTHORIZED}x-kept: 2\r\nx-named-not: 5\r\ncontent-length: 2\r\n");
    assert_eq!(
        request.head,
        head("POST /v1/chat/completions", &backend, &fields)
    );
}

#[tokio::test]
async fn connection_cannot_name_away_the_framing_or_the_host() {
    let (backend, server) = proxy().await;
    let mut client = Wire::connect(server.address).await;
    let fields = "Connection: content-length, host, transfer-encoding\r\n";

    let request = arrives(&backend, &mut client, post_with(fields, "{}")).await;

    let fields = format!("{AUTHORIZED}content-length: 2\r\n");
    assert_eq!(
        request.head,
        head("POST /v1/chat/completions", &backend, &fields)
    );
    assert_eq!(request.body, b"{}");
}

#[tokio::test]
async fn only_trailers_of_te_is_forwarded() {
    let (backend, server) = proxy().await;
    let mut client = Wire::connect(server.address).await;
    for (te, expected) in [
        ("TE: trailers\r\n", "te: trailers\r\n"),
        ("TE: gzip;q=0.5, Trailers\r\n", "te: trailers\r\n"),
        ("TE: gzip\r\nTE: trailers\r\n", "te: trailers\r\n"),
        ("Connection: TE\r\nTE: trailers\r\n", "te: trailers\r\n"),
        ("TE: gzip, deflate\r\n", ""),
        ("TE:\r\n", ""),
    ] {
        let request = arrives(&backend, &mut client, post_with(te, "{}")).await;
        let fields = format!("{AUTHORIZED}{expected}content-length: 2\r\n");
        assert_eq!(
            request.head,
            head("POST /v1/chat/completions", &backend, &fields)
        );
    }
}

#[tokio::test]
async fn a_request_with_two_framings_arrives_with_one() {
    let (backend, server) = proxy().await;
    for (fields, body, expected) in [
        (
            "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
            "2\r\n{}\r\n0\r\n\r\n",
            "transfer-encoding: chunked\r\n",
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
            "2\r\n{}\r\n0\r\n\r\n",
            "transfer-encoding: chunked\r\n",
        ),
        (
            "Content-Length: 2\r\nContent-Length: 2\r\n",
            "{}",
            "content-length: 2\r\n",
        ),
    ] {
        let mut client = Wire::connect(server.address).await;
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n{AUTHORIZED}{fields}\r\n{body}"
        );
        let request = arrives(&backend, &mut client, request).await;
        let expected = format!("{AUTHORIZED}{expected}");
        assert_eq!(
            request.head,
            head("POST /v1/chat/completions", &backend, &expected)
        );
        assert_eq!(request.content(), b"{}");
    }
}

#[tokio::test]
async fn a_request_in_a_coding_besides_chunked_is_answered_400_without_contacting_a_backend() {
    let (backend, server) = proxy().await;
    for coding in [
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
    ] {
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n{AUTHORIZED}{coding}\r\n\
             2\r\nxy\r\n0\r\n\r\n"
        );
        let refusal = refused(&server, request).await;
        assert_eq!(refusal, (400, "http_request_error".into()), "{coding}");
    }
    assert!(!backend.is_contacted().await);
}

#[tokio::test]
async fn the_name_of_the_chosen_backend_is_not_forwarded() {
    let (backend, server) = proxy().await;
    let mut client = Wire::connect(server.address).await;
    let fields = "X-Before: 1\r\nX-Proxy-Backend: LLM1\r\nX-After: 2\r\n";

    let request = arrives(&backend, &mut client, post_with(fields, "{}")).await;

    let fields = format!("{AUTHORIZED}x-before: 1\r\nx-after: 2\r\ncontent-length: 2\r\n");
    assert_eq!(
        request.head,
        head("POST /v1/chat/completions", &backend, &fields)
    );
}

// ---- HTTP/2 ----

#[tokio::test]
async fn a_request_over_http2_arrives_as_one_of_http_1_1() {
    let (backend, server) = proxy().await;
    let client = Http2::connect(server.address).await;
    let uri = format!("http://{}/chat/completions?x=1", server.address);
    let request = Request::post(uri)
        .header("x-first", "1")
        .header("cookie", "a=b")
        .header("cookie", "c=\"d\"")
        .header("authorization", "Bearer sk-test")
        .header("cookie", "e")
        .header("x-repeated", "2")
        .header("x-repeated", "1")
        .header("te", "trailers")
        .header("x-empty", "")
        .header("x-obs-text", HeaderValue::from_bytes(b"\xe9").unwrap())
        .body(http2::full("{\"a\": 1}"));

    let (response, ()) = tokio::join!(client.send(request.unwrap()), async {
        let mut wire = backend.accept().await;
        let arrived = wire.try_head_bytes().await.unwrap();
        let fields = "x-first: 1\r\ncookie: a=b; c=\"d\"; e\r\nauthorization: Bearer sk-test\r\n\
             x-repeated: 2\r\nx-repeated: 1\r\nte: trailers\r\nx-empty: \r\nx-obs-text: ?\r\n\
             content-length: 8\r\n";
        let mut expected = head("POST /v1/chat/completions?x=1", &backend, fields).into_bytes();
        let odd = find(&expected, b"?\r\n").unwrap();
        expected[odd] = 0xe9;
        assert_eq!(
            String::from_utf8_lossy(&arrived),
            String::from_utf8_lossy(&expected)
        );
        assert!(arrived == expected);
        assert_eq!(wire.exactly(8).await, b"{\"a\": 1}");
        wire.send(LAST).await;
    });

    assert_eq!(response.unwrap().status(), 200);
}

#[tokio::test]
async fn a_body_over_http2_without_a_length_arrives_chunked_as_it_comes() {
    let (backend, server) = proxy().await;
    let client = Http2::connect(server.address).await;
    let (mut pieces, body) = http2::channel();
    let request = client.request("POST").body(body).unwrap();
    let response = tokio::spawn(async move { client.send(request).await });

    let mut wire = backend.accept().await;
    let fields = format!("{AUTHORIZED}transfer-encoding: chunked\r\n");
    assert_eq!(
        wire.head().await,
        head("POST /v1/chat/completions", &backend, &fields)
    );
    for piece in ["{\"a\"", ":", "1}"] {
        pieces.send_data(Bytes::from(piece)).await.unwrap();
        wire.until(&format!("{}\r\n", piece)).await;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("9"));
    pieces.send_trailers(trailers).await.unwrap();
    assert_eq!(
        wire.until("\r\n\r\n").await,
        "0\r\nx-sum: 9\r\n\r\n",
        "trailers pass, too"
    );
    wire.send(LAST).await;

    let response = response.await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_request_over_http2_without_a_body_arrives_without_one() {
    let (backend, server) = proxy().await;
    let client = Http2::connect(server.address).await;
    for (method, fields) in [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "content-length: 0\r\n"),
    ] {
        let request = client.request(method).body(http2::full("")).unwrap();
        let (response, request) = tokio::join!(client.send(request), answered(&backend));
        assert_eq!(response.unwrap().status(), 200);
        let start = format!("{method} /v1/chat/completions");
        let fields = format!("{AUTHORIZED}{fields}");
        assert_eq!(request.head, head(&start, &backend, &fields));
    }
}

#[tokio::test]
async fn a_body_of_several_megabytes_over_http2_arrives_byte_for_byte() {
    let (backend, server) = proxy().await;
    let client = Http2::connect(server.address).await;
    let body = noise(5_000_000);
    let request = client.post(body.clone());

    let (response, request) = tokio::join!(client.send(request), answered(&backend));

    assert_eq!(response.unwrap().status(), 200);
    assert_eq!(request.field("content-length").unwrap(), "5000000");
    assert!(request.body == body);
}

// ---- Bodies ----

#[tokio::test]
async fn a_body_arrives_byte_for_byte() {
    let (backend, server) = proxy().await;
    let mut client = Wire::connect(server.address).await;
    let lengths = [1, 2, 255, 16_383, 16_384, 16_385, 65_537, 300_001];
    for length in lengths {
        let body = noise(length);
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n{AUTHORIZED}\
             Content-Type: application/octet-stream\r\n"
        );

        let mut request = format!("{head}Content-Length: {length}\r\n\r\n").into_bytes();
        request.extend_from_slice(&body);
        let request = arrives(&backend, &mut client, request).await;
        assert_eq!(request.field("content-length").unwrap(), length.to_string());
        assert!(request.body == body, "{length} bytes");

        let mut request = format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
        request.extend_from_slice(&chunked(&body, &[1, 7, 1000, 20_000, 3]));
        let request = arrives(&backend, &mut client, request).await;
        assert_eq!(request.field("transfer-encoding").unwrap(), "chunked");
        assert!(request.content() == body, "{length} bytes, chunked");
    }
}

#[tokio::test]
async fn a_body_of_60_megabytes_with_a_length_arrives_byte_for_byte() {
    let (backend, server) = proxy().await;
    let body = noise(SIXTY_MEGABYTES);
    let mut client = Wire::connect(server.address).await;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n{AUTHORIZED}\
         Content-Length: {SIXTY_MEGABYTES}\r\n\r\n"
    );
    let upload = async {
        client.send(head).await;
        client.send(&body).await;
    };

    let ((), request) = tokio::join!(upload, answered(&backend));

    assert!(request.body == body);
    assert_eq!(client.response().await.status(), 200);
}

#[tokio::test]
async fn a_chunked_body_of_60_megabytes_arrives_byte_for_byte() {
    let (backend, server) = proxy().await;
    let body = noise(SIXTY_MEGABYTES);
    let mut client = Wire::connect(server.address).await;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n{AUTHORIZED}\
         Transfer-Encoding: chunked\r\n\r\n"
    );
    let upload = async {
        client.send(head).await;
        client
            .send(chunked(&body, &[65_536, 1, 1_000_000, 4095]))
            .await;
    };

    let ((), request) = tokio::join!(upload, answered(&backend));

    assert!(request.content() == body);
    assert_eq!(client.response().await.status(), 200);
}

#[tokio::test]
async fn an_empty_body_arrives_as_one() {
    let (backend, server) = proxy().await;
    let mut client = Wire::connect(server.address).await;
    for (method, framing, expected, body) in [
        ("POST", "Content-Length: 0\r\n", "content-length: 0\r\n", ""),
        // RFC 9110, section 8.6: expected of a method that defines a meaning for content.
        ("POST", "", "content-length: 0\r\n", ""),
        (
            "POST",
            "Transfer-Encoding: chunked\r\n",
            "transfer-encoding: chunked\r\n",
            "0\r\n\r\n",
        ),
        ("GET", "", "", ""),
        ("GET", "Content-Length: 0\r\n", "content-length: 0\r\n", ""),
        ("DELETE", "", "", ""),
        (
            "DELETE",
            "Transfer-Encoding: chunked\r\n",
            "transfer-encoding: chunked\r\n",
            "0\r\n\r\n",
        ),
    ] {
        let request = format!(
            "{method} /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n{AUTHORIZED}{framing}\r\n{body}"
        );
        let request = arrives(&backend, &mut client, request).await;
        let start = format!("{method} /v1/chat/completions");
        let fields = format!("{AUTHORIZED}{expected}");
        assert_eq!(request.head, head(&start, &backend, &fields));
        assert_eq!(request.body, body.as_bytes());
    }
}

#[tokio::test]
async fn a_get_may_have_a_body() {
    let (backend, server) = proxy().await;
    let mut client = Wire::connect(server.address).await;
    let request = post("{\"q\":1}").replacen("POST", "GET", 1);

    let request = arrives(&backend, &mut client, request).await;

    assert_eq!(request.start_line(), "GET /v1/chat/completions HTTP/1.1");
    assert_eq!(request.body, b"{\"q\":1}");
}

#[tokio::test]
async fn trailers_of_a_request_pass() {
    let (backend, server) = proxy().await;
    let mut client = Wire::connect(server.address).await;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n{AUTHORIZED}\
         Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\n{{}}\r\n0\r\nX-Sum: 1\r\nx-sum: 2\r\nX-Other: 3\r\n\r\n"
    );

    let request = arrives(&backend, &mut client, request).await;

    let fields = format!("{AUTHORIZED}trailer: X-Sum\r\ntransfer-encoding: chunked\r\n");
    assert_eq!(
        request.head,
        head("POST /v1/chat/completions", &backend, &fields)
    );
    let body = String::from_utf8(request.body).unwrap();
    assert_eq!(
        body,
        "2\r\n{}\r\n0\r\nx-sum: 1\r\nx-sum: 2\r\nx-other: 3\r\n\r\n"
    );
}

#[tokio::test]
async fn trailers_that_connection_names_go_no_further() {
    let backend = Backend::start().await;
    let entries = ["LLM1", "LLM2"].map(|name| entry(name, backend.address, ""));
    // With several backends, the body may be needed by the next one.
    for (entries, content_type) in [
        (&entries[..1], "application/json"),
        (&entries, "application/json"),
        (&entries, "audio/mpeg"),
    ] {
        let server = Server::start(&config_of(entries, ""));
        let mut client = Wire::connect(server.address).await;
        let request = format!(
            "POST /v1/audio HTTP/1.1\r\nHost: proxy.test\r\n{AUTHORIZED}Connection: X-Hop\r\n\
             Content-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n\
             2\r\n{{}}\r\n0\r\nX-Hop: 1\r\nX-Sum: 2\r\n\r\n"
        );
        let request = arrives(&backend, &mut client, request).await;
        let body = String::from_utf8(request.body).unwrap();
        assert!(!body.contains("x-hop"), "{body}");
        if content_type != "application/json" || entries.len() == 1 {
            assert!(body.contains("x-sum: 2\r\n"), "{body}");
        }
    }
}

#[tokio::test]
async fn each_chunk_of_an_upload_arrives_before_the_next_is_sent() {
    let (backend, server) = proxy().await;
    for framing in ["Transfer-Encoding: chunked", "Content-Length: 30"] {
        let mut client = Wire::connect(server.address).await;
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n{AUTHORIZED}{framing}\r\n\r\n"
        );
        client.send(head).await;
        // The head does not wait for the body, either.
        let mut wire = backend.accept().await;
        wire.head().await;
        for number in 0..10 {
            let piece = format!("<{number}>");
            match framing {
                "Content-Length: 30" => client.send(piece.as_bytes()).await,
                _ => client.send(format!("3\r\n{piece}\r\n")).await,
            }
            wire.until(&piece).await;
        }
        if framing != "Content-Length: 30" {
            client.send("0\r\n\r\n").await;
            wire.until("0\r\n\r\n").await;
        }
        wire.send(LAST).await;
        assert_eq!(client.response().await.status(), 200);
    }
}

#[tokio::test]
async fn a_backend_that_reads_slowly_stops_the_client_and_gets_all_in_the_end() {
    let (backend, server) = proxy().await;
    let body = noise(SIXTY_MEGABYTES);
    let mut client = Wire::connect(server.address).await;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n{AUTHORIZED}\
         Content-Length: {SIXTY_MEGABYTES}\r\n\r\n"
    );
    client.send(head).await;
    let mut wire = backend.accept().await;

    let written = write_until_stopped(&mut client.stream, &body).await;

    // What is left are the buffers of four sockets, whatever the system makes them.
    assert!(
        written < SIXTY_MEGABYTES / 2,
        "{written} bytes are buffered"
    );
    let ((), request) = tokio::join!(client.send(&body[written..]), wire.request());
    assert!(request.body == body);
}

#[tokio::test]
async fn with_several_backends_the_body_is_buffered_and_arrives_byte_for_byte() {
    let (backend, server) = proxy_with_two().await;
    let mut client = Wire::connect(server.address).await;
    let body = noise(1_000_000);
    let mut request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n{AUTHORIZED}\
         Transfer-Encoding: chunked\r\nX-After: 1\r\n\r\n"
    )
    .into_bytes();
    request.extend_from_slice(&chunked(&body, &[100_000, 1, 17]));
    let last = request.split_off(request.len() - 5);
    client.send(request).await;
    assert!(!backend.is_contacted().await);

    let request = arrives(&backend, &mut client, last).await;

    let fields = format!("{AUTHORIZED}content-length: 1000000\r\nx-after: 1\r\n");
    assert_eq!(
        request.head,
        head("POST /v1/chat/completions", &backend, &fields)
    );
    assert!(request.body == body);

    let mut request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\nContent-Length: 1000000\r\n\
         {AUTHORIZED}\r\n"
    )
    .into_bytes();
    request.extend_from_slice(&body);
    let request = arrives(&backend, &mut client, request).await;
    let fields = format!("content-length: 1000000\r\n{AUTHORIZED}");
    assert_eq!(
        request.head,
        head("POST /v1/chat/completions", &backend, &fields)
    );
    assert!(request.body == body);
}

#[tokio::test]
async fn with_several_backends_a_request_without_a_body_has_none() {
    let (backend, server) = proxy_with_two().await;
    let mut client = Wire::connect(server.address).await;
    for start in ["GET /v1/chat/completions", "DELETE /v1/chat/completions/x"] {
        let request = arrives(&backend, &mut client, bare(start)).await;
        assert_eq!(request.head, head(start, &backend, AUTHORIZED));
    }
}

// ---- The model ----

#[tokio::test]
async fn the_model_is_replaced_and_the_length_is_right() {
    let (backend, server) = proxy_with(MODEL, "").await;
    let mut client = Wire::connect(server.address).await;
    for (body, expected) in [
        (r#"{"model":"theirs"}"#, r#"{"model":"ours"}"#),
        (
            "{ \"a\" :1.0,\n\t\"model\" : \"x\" , \"b\":{\"model\":\"x\"},\"u\":\"\\u00e9\"}\n",
            "{ \"a\" :1.0,\n\t\"model\" : \"ours\" , \"b\":{\"model\":\"x\"},\"u\":\"\\u00e9\"}\n",
        ),
        (
            r#"{"model":"a","model":{"x":[1]},"mod\u0065l":null}"#,
            r#"{"model":"ours","model":"ours","mod\u0065l":"ours"}"#,
        ),
        (r#"{}"#, r#"{"model":"ours"}"#),
        // Unpaired surrogates, as JavaScript and Python write an emoji cut in two.
        (
            r#"{"model":"\ud83d","u":"\ud83d","\ud83d":"\ude00"}"#,
            r#"{"model":"ours","u":"\ud83d","\ud83d":"\ude00"}"#,
        ),
    ] {
        let expected_fields = |framing: &str| {
            let fields = format!("{AUTHORIZED}x-a: 1\r\n{framing}");
            head("POST /v1/chat/completions", &backend, &fields)
        };
        let framing = format!("content-length: {}\r\n", expected.len());

        let request = post_with("X-A: 1\r\n", body);
        let request = arrives(&backend, &mut client, request).await;
        assert_eq!(request.head, expected_fields(&framing), "{body}");
        assert_eq!(request.body, expected.as_bytes());

        let mut request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n{AUTHORIZED}X-A: 1\r\n\
             Trailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        .into_bytes();
        request.extend_from_slice(&chunked(body.as_bytes(), &[1, 3, 2]));
        request.truncate(request.len() - 2);
        request.extend_from_slice(b"X-Sum: 1\r\n\r\n");
        let request = arrives(&backend, &mut client, request).await;
        assert_eq!(request.head, expected_fields(&framing), "{body}");
        assert_eq!(request.body, expected.as_bytes());
    }
}

#[tokio::test]
async fn the_model_is_replaced_in_a_body_of_megabytes() {
    let (backend, server) = proxy_with(MODEL, "").await;
    let mut client = Wire::connect(server.address).await;
    let filling = "x".repeat(3_000_000);
    let body = format!(r#"{{"content":"{filling}","model":"theirs","n":1}}"#);

    let request = arrives(&backend, &mut client, post(&body)).await;

    let expected = format!(r#"{{"content":"{filling}","model":"ours","n":1}}"#);
    assert_eq!(
        request.field("content-length").unwrap(),
        expected.len().to_string()
    );
    assert!(request.body == expected.as_bytes());
}

#[tokio::test]
async fn a_body_whose_model_cannot_be_replaced_is_answered_400_without_contacting_a_backend() {
    let (backend, server) = proxy_with(MODEL, "").await;
    for body in ["", " ", "[]", "null", "\"{}\"", "{", "{}{}", "{\"a\":1,}"] {
        let refusal = refused(&server, post(body)).await;
        assert_eq!(refusal, (400, "http_request_error".into()), "{body:?}");
    }
    let without_length = bare("POST /v1/chat/completions");
    let refusal = refused(&server, without_length).await;
    assert_eq!(refusal, (400, "http_request_error".into()));
    assert!(!backend.is_contacted().await);
}

#[tokio::test]
async fn the_message_says_where_a_body_is_no_json_object_and_why() {
    let (_backend, server) = proxy_with(MODEL, "").await;
    for (body, fault) in [
        ("\u{feff}{}", "a byte order mark at byte 0"),
        (r#"{"sk-1":NaN}"#, "`NaN` is not JSON at byte 8"),
        (r#"["sk-1"]"#, "expected `{` at byte 0"),
    ] {
        let mut client = Wire::connect(server.address).await;
        client.send(post(body)).await;
        let json = client.response().await.json();
        let message = json["error"]["message"].as_str().expect("a message");
        assert!(message.ends_with(&format!(": {fault}.")), "{message}");
        assert!(!message.contains("sk-1"), "{message}");
    }
}

#[tokio::test]
async fn a_body_that_turns_out_to_be_no_json_object_is_answered_400_before_its_end() {
    let (backend, server) = proxy_with(MODEL, "").await;
    let whole = post(&format!("{{\"a\":1,}}{}", " ".repeat(1_000_000)));
    let (begun, _) = whole.split_at(whole.find('}').unwrap() + 1);
    let refusal = refused(&server, begun).await;
    assert_eq!(refusal, (400, "http_request_error".into()));
    assert!(!backend.is_contacted().await);
}

#[tokio::test]
async fn the_model_is_replaced_in_a_body_that_comes_byte_by_byte() {
    let (backend, server) = proxy_with(MODEL, "").await;
    let text = "é\\u00e9模\\n".repeat(50);
    let body = format!(r#"{{"a":"{text}","m\u006fdel":-1.5e3,"b":[true,null]}}"#);
    let expected = body.replace("-1.5e3", "\"ours\"");
    let mut client = Wire::connect(server.address).await;
    let sending = async {
        for byte in post(&body).into_bytes() {
            client.send([byte]).await;
            tokio::task::yield_now().await;
        }
    };
    let ((), request) = tokio::join!(sending, answered(&backend));
    assert_eq!(
        request.field("content-length").unwrap(),
        expected.len().to_string()
    );
    assert_eq!(String::from_utf8(request.body).unwrap(), expected);
}

#[tokio::test]
async fn an_encoded_body_whose_model_must_be_replaced_is_answered_415() {
    let (backend, server) = proxy_with(MODEL, "").await;
    for encoding in [
        "Content-Encoding: gzip\r\n",
        "Content-Encoding: identity\r\nContent-Encoding: br\r\n",
        "Content-Encoding: identity, zstd\r\n",
    ] {
        let refusal = refused(&server, post_with(encoding, "{}")).await;
        assert_eq!(refusal, (415, "http_request_error".into()), "{encoding}");
    }
    assert!(!backend.is_contacted().await);

    let mut client = Wire::connect(server.address).await;
    let identity = post_with("Content-Encoding: Identity\r\n", "{}");
    let request = arrives(&backend, &mut client, identity).await;
    assert_eq!(request.field("content-encoding").unwrap(), "Identity");
    assert_eq!(request.body, br#"{"model":"ours"}"#);
}

#[tokio::test]
async fn an_encoded_body_passes_where_the_model_stays() {
    let (backend, server) = proxy().await;
    let mut client = Wire::connect(server.address).await;
    let request = post_with("Content-Encoding: gzip\r\n", "not JSON");

    let request = arrives(&backend, &mut client, request).await;

    assert_eq!(request.field("content-encoding").unwrap(), "gzip");
    assert_eq!(request.body, b"not JSON");
}

#[tokio::test]
async fn where_the_model_is_replaced_requests_without_a_body_pass() {
    let (backend, server) = proxy_with(MODEL, "").await;
    let mut client = Wire::connect(server.address).await;
    for start in [
        "GET /v1/chat/completions",
        "DELETE /v1/chat/completions/x",
        "HEAD /v1/chat/completions/x",
    ] {
        let request = arrives(&backend, &mut client, bare(start)).await;
        assert_eq!(request.head, head(start, &backend, AUTHORIZED));
    }
}

#[tokio::test]
async fn the_model_is_replaced_over_http2() {
    let (backend, server) = proxy_with(MODEL, "").await;
    let client = Http2::connect(server.address).await;
    let expected = |start: &str| {
        let fields = format!("{AUTHORIZED}content-length: 22\r\n");
        head(start, &backend, &fields)
    };

    let request = client.post(r#"{"n":1,"model":"theirs"}"#);
    let (response, request) = tokio::join!(client.send(request), answered(&backend));
    assert_eq!(response.unwrap().status(), 200);
    assert_eq!(request.head, expected("POST /v1/chat/completions"));
    assert_eq!(request.body, br#"{"n":1,"model":"ours"}"#);

    let (mut pieces, body) = http2::channel();
    let request = client.request("PATCH").body(body).unwrap();
    let upload = async {
        for piece in [r#"{"n":1,"mod"#, r#"el":"theirs"#, r#""}"#] {
            pieces.send_data(Bytes::from(piece)).await.unwrap();
        }
        drop(pieces);
        answered(&backend).await
    };
    let (response, request) = tokio::join!(client.send(request), upload);
    assert_eq!(response.unwrap().status(), 200);
    assert_eq!(request.head, expected("PATCH /v1/chat/completions"));
    assert_eq!(request.body, br#"{"n":1,"model":"ours"}"#);

    let request = client.request("POST").body(http2::full("")).unwrap();
    let response = client.send(request).await.unwrap();
    assert_eq!(response.status(), 400);
    let request = client.request("GET").body(http2::full("")).unwrap();
    let (response, request) = tokio::join!(client.send(request), answered(&backend));
    assert_eq!(response.unwrap().status(), 200);
    assert_eq!(request.start_line(), "GET /v1/chat/completions HTTP/1.1");
}

// ---- Expectations and limits ----

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_it_before_it_sends_its_body() {
    let (backend, server) = proxy().await;
    let mut client = Wire::connect(server.address).await;
    let request = post_with("Expect: 100-continue\r\n", "{\"a\":1}");
    let (start, body) = request.split_at(request.len() - 7);
    client.send(start).await;

    let mut wire = backend.accept().await;
    let fields = format!("{AUTHORIZED}expect: 100-continue\r\ncontent-length: 7\r\n");
    assert_eq!(
        wire.head().await,
        head("POST /v1/chat/completions", &backend, &fields)
    );
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send(body).await;
    assert_eq!(wire.exactly(7).await, body.as_bytes());
    wire.send(format!("HTTP/1.1 100 Continue\r\n\r\n{LAST}"))
        .await;

    assert_eq!(client.response().await.status(), 200);
}

#[tokio::test]
async fn what_is_refused_by_its_head_gets_no_100_continue() {
    let (backend, server) = proxy_with("", r#""max_body_bytes":100"#).await;
    let expecting = |fields: &str| {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n{fields}\
             Expect: 100-continue\r\n\r\n"
        )
    };
    for (request, refusal) in [
        (
            expecting("Content-Length: 10\r\n"),
            (401, "http_request_denied"),
        ),
        (
            expecting(&format!("{AUTHORIZED}Content-Length: 101\r\n")),
            (413, "http_request_error"),
        ),
    ] {
        let (status, code) = refused(&server, request).await;
        assert_eq!((status, code.as_str()), refusal);
    }
    assert!(!backend.is_contacted().await);
}

#[tokio::test]
async fn a_body_announced_too_large_is_answered_413_without_contacting_a_backend() {
    let (backend, server) = proxy_with("", r#""max_body_bytes":1000"#).await;
    let too_large = "x".repeat(1001);

    let refusal = refused(&server, post(&too_large)).await;
    assert_eq!(refusal, (413, "http_request_error".into()));
    let client = Http2::connect(server.address).await;
    let response = client.send(client.post(too_large)).await.unwrap();
    assert_eq!(response.status(), 413);
    assert!(!backend.is_contacted().await);

    let mut client = Wire::connect(server.address).await;
    let request = arrives(&backend, &mut client, post(&"x".repeat(1000))).await;
    assert_eq!(request.body, [b'x'; 1000]);
}

#[tokio::test]
async fn a_chunked_body_that_becomes_too_large_is_answered_413_and_ends_the_backends_request() {
    let (backend, server) = proxy_with("", r#""max_body_bytes":10"#).await;
    let mut client = Wire::connect(server.address).await;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n{AUTHORIZED}\
         Transfer-Encoding: chunked\r\n\r\n"
    );
    client.send(format!("{head}a\r\n0123456789\r\n")).await;
    let mut wire = backend.accept().await;
    wire.until("a\r\n0123456789\r\n").await;

    client.send("1\r\nx\r\n").await;
    let response = client.response().await;

    assert_eq!(response.status(), 413);
    assert_eq!(response.error_code(), "http_request_error");
    wire.closed().await;

    let mut client = Wire::connect(server.address).await;
    let fits = format!("{head}a\r\n0123456789\r\n0\r\n\r\n");
    let request = arrives(&backend, &mut client, fits).await;
    assert_eq!(request.content(), b"0123456789");
}

#[tokio::test]
async fn a_body_over_http2_that_becomes_too_large_is_answered_413() {
    let (backend, server) = proxy_with("", r#""max_body_bytes":10"#).await;
    let client = Http2::connect(server.address).await;
    let (mut pieces, body) = http2::channel();
    let request = client.request("POST").body(body).unwrap();
    let response = tokio::spawn(async move { client.send(request).await });
    pieces.send_data(Bytes::from("0123456789")).await.unwrap();
    let mut wire = backend.accept().await;
    wire.until("0123456789").await;

    pieces.send_data(Bytes::from("x")).await.unwrap();

    assert_eq!(response.await.unwrap().unwrap().status(), 413);
    wire.rest().await;
}

#[tokio::test]
async fn a_buffered_body_that_becomes_too_large_gets_413_without_contacting_a_backend() {
    let (backend, server) = proxy_with(MODEL, r#""max_body_bytes":10"#).await;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n{AUTHORIZED}\
         Transfer-Encoding: chunked\r\n\r\n6\r\n{{\"a\":1\r\n6\r\n      \r\n"
    );

    let refusal = refused(&server, request).await;

    assert_eq!(refusal, (413, "http_request_error".into()));
    assert!(!backend.is_contacted().await);
}

#[tokio::test]
async fn a_client_that_goes_on_sending_what_was_refused_gets_the_answer() {
    let (backend, server) = proxy_with("", r#""max_body_bytes":1000"#).await;
    let body = "x".repeat(8_000_000);
    for (request, status) in [
        (post(&body), 413),
        (
            post(&body).replacen("Authorization", "X-Authorization", 1),
            401,
        ),
        (post(&body).replacen("chat/completions", "", 1), 404),
    ] {
        let mut client = Wire::connect(server.address).await;
        // All of it, before the answer is looked at.
        client.send(request).await;
        assert_eq!(client.response().await.status(), status);
        client.closed().await;
    }
    assert!(!backend.is_contacted().await);
}

#[tokio::test]
async fn after_a_refusal_the_connection_takes_the_next_request() {
    let (backend, server) = proxy_with(MODEL, "").await;
    let mut client = Wire::connect(server.address).await;
    for request in [
        post("{}").replacen("Authorization", "X-Authorization", 1),
        post("[]"),
        post("{}").replacen("chat/completions", "", 1),
    ] {
        client.send(request).await;
        client.response().await.error_code();
        let request = arrives(&backend, &mut client, post("{}")).await;
        assert_eq!(request.body, br#"{"model":"ours"}"#);
    }
}

// ---- Credentials ----

#[tokio::test]
async fn a_request_without_credentials_is_answered_401_without_contacting_a_backend() {
    let (backend, server) = proxy().await;
    for fields in [
        "",
        "Authorization:\r\n",
        "api-key: \r\n",
        "Proxy-Authorization: Bearer sk\r\n",
        "X-Api-Key: sk\r\n",
    ] {
        let mut client = Wire::connect(server.address).await;
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n{fields}\
             Content-Length: 2\r\n\r\n{{}}"
        );
        client.send(request).await;
        let response = client.response().await;
        assert_eq!(response.status(), 401, "{fields}");
        assert_eq!(response.error_code(), "http_request_denied");
        assert_eq!(response.field("www-authenticate").unwrap(), "Bearer");
    }
    let client = Http2::connect(server.address).await;
    let mut request = client.post("{}");
    request.headers_mut().remove("authorization");
    assert_eq!(client.send(request).await.unwrap().status(), 401);
    assert!(!backend.is_contacted().await);
}

#[tokio::test]
async fn credentials_of_either_kind_pass_as_they_are() {
    let (backend, server) = proxy().await;
    let mut client = Wire::connect(server.address).await;
    for fields in [
        "authorization: Bearer sk-test\r\n",
        "authorization: Basic anything at all\r\n",
        "authorization: x\r\nauthorization: y\r\n",
        "api-key: key\r\n",
        "api-key: key\r\nauthorization: Bearer other\r\n",
    ] {
        let request =
            format!("GET /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n{fields}\r\n");
        let request = arrives(&backend, &mut client, request).await;
        assert_eq!(
            request.head,
            head("GET /v1/chat/completions", &backend, fields)
        );
    }
}

#[tokio::test]
async fn where_credentials_are_not_required_a_request_passes_without() {
    let (backend, server) = proxy_with("", r#""require_auth":false"#).await;
    let mut client = Wire::connect(server.address).await;

    let request = "GET /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n\r\n";
    let request = arrives(&backend, &mut client, request).await;

    assert_eq!(request.head, head("GET /v1/chat/completions", &backend, ""));
}

#[tokio::test]
async fn a_backends_own_key_replaces_the_clients_credentials() {
    let (backend, server) = proxy_with(&format!(r#"{KEY},"paths":["*"]"#), "").await;
    let mut client = Wire::connect(server.address).await;
    for credentials in [
        "Authorization: Bearer sk-client\r\n",
        "api-key: sk-client\r\n",
        "API-Key: sk-client\r\nAuthorization: Basic sk-client\r\nauthorization: sk-client\r\n",
        "api-key: sk-client\r\nx-api-key: sk-client\r\nCookie: session=sk-client\r\n",
        "api-key: sk-client\r\nOpenAI-Organization: org\r\nOpenAI-Project: project\r\n",
    ] {
        let request = format!(
            "GET /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n\
             X-A: 1\r\n{credentials}X-B: 2\r\n\r\n"
        );
        let request = arrives(&backend, &mut client, request).await;
        let fields = "authorization: Bearer sk-own\r\nx-a: 1\r\nx-b: 2\r\n";
        assert_eq!(
            request.head,
            head("GET /v1/chat/completions", &backend, fields)
        );
    }
    let anonymous = "GET /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n\r\n";
    let refusal = refused(&server, anonymous).await;
    assert_eq!(refusal, (401, "http_request_denied".into()));
}

#[tokio::test]
async fn a_backends_own_key_serves_anonymous_clients_where_these_are_let_in() {
    let (backend, server) = proxy_with(
        &format!(r#"{KEY},"paths":["*"]"#),
        r#""require_auth":false"#,
    )
    .await;
    let mut client = Wire::connect(server.address).await;
    let request = "GET /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n\r\n";

    let request = arrives(&backend, &mut client, request).await;

    let fields = "authorization: Bearer sk-own\r\n";
    assert_eq!(
        request.head,
        head("GET /v1/chat/completions", &backend, fields)
    );
}

#[tokio::test]
async fn credentials_in_trailers_reach_no_backend() {
    let (backend, server) = proxy_with(KEY, "").await;
    let mut client = Wire::connect(server.address).await;
    let mut request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n{AUTHORIZED}\
         Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n"
    )
    .into_bytes();
    write!(
        request,
        "Authorization: Bearer sk-client\r\napi-key: sk-client\r\nX-Proxy-Backend: LLM1\r\n\
         Host: other.test\r\nContent-Length: 5\r\nX-Sum: 1\r\n\r\n"
    )
    .unwrap();

    let request = arrives(&backend, &mut client, request).await;

    let body = String::from_utf8(request.body).unwrap();
    assert_eq!(body, "2\r\n{}\r\n0\r\nx-sum: 1\r\n\r\n");
}

#[tokio::test]
async fn requests_on_one_connection_do_not_leak_into_each_other() {
    let (backend, server) = proxy().await;
    let mut client = Wire::connect(server.address).await;
    client.send(post_with("X-One: 1\r\n", "{\"one\":1}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send(response("200 OK", "1")).await;
    client.response().await;

    client.send(bare("GET /v1/chat/completions/two")).await;

    let request = wire.request().await;
    assert_eq!(
        request.head,
        head("GET /v1/chat/completions/two", &backend, AUTHORIZED)
    );
}
