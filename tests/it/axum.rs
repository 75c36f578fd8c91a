//! The proxy in an axum app: the app's own routes are what they were without it, byte for byte, and
//! ours are proxied wherever the layer stands on the outermost router.

use std::{
    convert::Infallible,
    net::SocketAddr,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{
        State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    response::{
        Response,
        sse::{Event, Sse},
    },
    routing::{any, get, post},
};
use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::Channel;
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tower::Layer;
use tower_http::{
    compression::{CompressionLayer, predicate::SizeAbove},
    cors::CorsLayer,
    trace::TraceLayer,
};
use tower_openai_proxy::{Config, OpenAiProxyLayer};

use crate::support::{
    Backend, Server, TempFile, Wire, chunked, config_for, config_of, entry, example,
    http2::{self, Http2},
    nobody, noise, post as post_ours, post_with, response, soon,
};

/// An app with a route of each kind, and a fallback.
fn own_app() -> Router {
    let countdown = async || {
        let seconds = ["3", "2", "1", "lift-off"].map(|text| Event::default().data(text));
        let paced = tokio_stream::iter(seconds).throttle(Duration::from_millis(100));
        Sse::new(paced.map(Ok::<_, Infallible>))
    };
    Router::new()
        .route("/", get(async || "An app of its own.\n"))
        .route("/greetings", post(greet))
        .route("/countdown", get(countdown))
        .route("/echo", any(echo))
        .fallback(async |uri: Uri| {
            (
                StatusCode::NOT_FOUND,
                format!("Nothing at {}.\n", uri.path()),
            )
        })
}

#[derive(Deserialize)]
struct Person {
    name: String,
}

async fn greet(Json(person): Json<Person>) -> String {
    format!("Hello, {}!", person.name)
}

async fn echo(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async |mut socket: WebSocket| {
        while let Some(Ok(message)) = socket.recv().await {
            if matches!(message, Message::Text(_) | Message::Binary(_))
                && socket.send(message).await.is_err()
            {
                break;
            }
        }
    })
}

/// Serves this app in this test.
async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

fn proxy_to(backend: &Backend) -> OpenAiProxyLayer {
    let config: Config = config_for(backend).parse().expect("a configuration");
    OpenAiProxyLayer::from_config(config)
}

/// A proxy whose backend isn't needed.
async fn proxy() -> OpenAiProxyLayer {
    let config: Config = config_of(&[entry("LLM1", nobody().await, "")], "")
        .parse()
        .expect("a configuration");
    OpenAiProxyLayer::from_config(config)
}

/// The app as it is, and with the proxy.
async fn without_and_with() -> [SocketAddr; 2] {
    let with = own_app().layer(proxy().await);
    [serve(own_app()).await, serve(with).await]
}

/// All that comes for these bytes until the connection is closed, but for the time of day.
async fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut client = Wire::connect(address).await;
    client.send(request).await;
    let answer = String::from_utf8(client.rest().await).expect("UTF-8");
    without_date(&answer)
}

fn without_date(answer: &str) -> String {
    let lines = answer.split_inclusive("\r\n");
    let lines: Vec<_> = lines.filter(|line| !line.starts_with("date: ")).collect();
    assert!(lines.len() < answer.split_inclusive("\r\n").count());
    lines.concat()
}

fn json_request(length: usize, fields: &str, body: &str) -> String {
    format!(
        "POST /greetings HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n{fields}\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn the_apps_own_answers_and_errors_are_the_same_bytes() {
    let [without, with] = without_and_with().await;
    let bare =
        |line: &str| format!("{line} HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n");
    let json = "Content-Type: application/json\r\n";
    let ada = r#"{"name":"Ada"}"#;
    // One byte over the limit, so that nothing is left unread.
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(2 * 1024 * 1024 + 1 - 11));
    let pieces = String::from_utf8(chunked(ada.as_bytes(), &[3])).unwrap();
    for (request, status) in [
        (bare("GET /"), 200),
        (bare("HEAD /"), 200),
        (bare("GET /?a=b&c"), 200),
        (bare("POST /"), 405),
        (bare("OPTIONS /"), 405),
        (bare("GET /nowhere?x=1"), 404),
        (bare("GET /v1/models"), 404),
        (bare("GET /chat/completion"), 404),
        (bare("GET //chat/completions"), 404),
        (bare("GET /health"), 404),
        (bare("GET /echo"), 400), // not an upgrade
        (bare("BREW /greetings"), 405),
        (json_request(ada.len(), json, ada), 200),
        (json_request(ada.len(), "", ada), 415),
        (json_request(8, json, r#"{"name":"#), 400),
        (json_request(2, json, "{}"), 422),
        (json_request(large.len(), json, &large), 413),
        (
            format!(
                "POST /greetings HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n{json}\
                 Transfer-Encoding: chunked\r\n\r\n{pieces}"
            ),
            200,
        ),
        ("GET / HTTP/1.0\r\n\r\n".to_owned(), 200),
        ("NOT HTTP\r\n\r\n".to_owned(), 400),
    ] {
        let expected = exchange(without, request.as_bytes()).await;
        let start: String = request.chars().take(100).collect();
        assert!(
            expected.split(' ').nth(1) == Some(&status.to_string()),
            "{start}\n{expected}"
        );
        assert_eq!(
            exchange(with, request.as_bytes()).await,
            expected,
            "{start}"
        );
    }
}

#[tokio::test]
async fn the_apps_own_connections_are_kept_and_pipelined() {
    let [without, with] = without_and_with().await;
    let requests = "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n\
                    GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

    let expected = exchange(without, requests.as_bytes()).await;

    assert_eq!(expected.matches("HTTP/1.1 ").count(), 3);
    assert_eq!(exchange(with, requests.as_bytes()).await, expected);
}

#[tokio::test]
async fn the_apps_own_server_sent_events_are_the_same_bytes() {
    let [without, with] = without_and_with().await;
    let request = b"GET /countdown HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";

    let (expected, answer) = tokio::join!(exchange(without, request), exchange(with, request));

    assert!(expected.contains("content-type: text/event-stream"));
    assert_eq!(expected.matches("data: ").count(), 4);
    assert_eq!(answer, expected);
}

/// Everything but the date.
async fn exchange_http2(
    client: &Http2,
    request: Request<http2::Body>,
) -> (u16, Vec<(String, String)>, Bytes) {
    let response = client.send(request).await.expect("a response");
    let status = response.status().as_u16();
    let mut fields = http2::fields(response.headers());
    fields.retain(|(name, _)| name != "date");
    let (body, trailers) = http2::collect(response).await.expect("a whole body");
    assert!(trailers.is_none());
    (status, fields, body)
}

#[tokio::test]
async fn the_apps_own_answers_are_the_same_over_http2() {
    let [without, with] = without_and_with().await;
    let clients = [Http2::connect(without).await, Http2::connect(with).await];
    for (method, path, body, status) in [
        ("GET", "/", "", 200),
        ("HEAD", "/", "", 200),
        ("POST", "/", "", 405),
        ("POST", "/greetings", r#"{"name":"Ada"}"#, 200),
        ("POST", "/greetings", "{}", 422),
        ("GET", "/countdown", "", 200),
        ("GET", "/nowhere", "", 404),
    ] {
        let [expected, answer] =
            [(&clients[0], without), (&clients[1], with)].map(async |(client, address)| {
                let request = Request::builder()
                    .method(method)
                    .uri(format!("http://{address}{path}"))
                    .header("content-type", "application/json")
                    .body(http2::full(body));
                exchange_http2(client, request.unwrap()).await
            });
        let (expected, answer) = tokio::join!(expected, answer);
        assert_eq!(expected.0, status, "{method} {path}");
        assert_eq!(answer, expected, "{method} {path}");
    }
}

#[tokio::test]
async fn the_apps_own_websocket_is_the_same_bytes() {
    let mut seen = Vec::new();
    for address in without_and_with().await {
        let mut client = Wire::connect(address).await;
        client
            .send(
                "GET /echo HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            )
            .await;
        let head = without_date(&client.head().await);
        assert!(
            head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
            "{head}"
        );
        assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));

        // Frames of RFC 6455, masked with zeros: a text, which comes back, ping, close.
        let mut frames = Vec::new();
        client.send(b"\x81\x82\0\0\0\0Hi").await;
        frames.push(client.exactly(4).await);
        client.send(b"\x82\xfe\x01\x00\0\0\0\0").await; // 256 bytes
        client.send(noise(256)).await;
        frames.push(client.exactly(4 + 256).await);
        client.send(b"\x89\x80\0\0\0\0").await;
        frames.push(client.exactly(2).await);
        client.send(b"\x88\x82\0\0\0\0\x03\xe8").await;
        frames.push(client.rest().await);
        assert_eq!(frames[0], b"\x81\x02Hi");
        assert_eq!(frames[3], b"\x88\x02\x03\xe8");
        seen.push((head, frames));
    }
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn the_apps_own_websocket_works_over_http2() {
    for address in without_and_with().await {
        let client = Http2::connect(address).await;
        // What the server allows is known once it has answered (RFC 8441).
        client
            .send(get_http2(address, "/"))
            .await
            .expect("a response");
        let request = Request::connect(format!("http://{address}/echo"))
            .extension(Protocol::from_static("websocket"))
            .header("sec-websocket-version", "13");

        let response = client.send(request.body(http2::full("")).unwrap()).await;
        let response = response.expect("a response");
        assert_eq!(response.status(), 200);
        let stream = hyper::upgrade::on(response).await.expect("a WebSocket");
        let mut client = Wire::over(TokioIo::new(stream));
        client.send(b"\x81\x82\0\0\0\0Hi").await;
        assert_eq!(client.exactly(4).await, b"\x81\x02Hi");
    }
}

fn get_http2(address: SocketAddr, path: &str) -> Request<http2::Body> {
    let request = Request::get(format!("http://{address}{path}"));
    request.body(http2::full("")).unwrap()
}

#[tokio::test]
async fn the_apps_own_streams_flow_chunk_by_chunk_and_end_with_the_client() {
    let (mut sender, body) = Channel::<Bytes>::new(1);
    let body = Arc::new(Mutex::new(Some(body)));
    let pieces = async |State(body): State<Arc<Mutex<Option<Channel<Bytes>>>>>| {
        Body::new(body.lock().unwrap().take().expect("asked for once"))
    };
    let app = Router::new()
        .route("/pieces", get(pieces))
        .with_state(body)
        .layer(proxy().await);
    let mut client = Wire::connect(serve(app).await).await;
    client.send("GET /pieces HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.head().await;

    for piece in ["one", "two", "three"] {
        assert!(client.is_silent().await);
        sender.send_data(piece.into()).await.unwrap();
        assert_eq!(
            client.until(piece).await,
            format!("{}\r\n{piece}", piece.len())
        );
        assert_eq!(client.exactly(2).await, b"\r\n");
    }
    drop(client);

    let left = async { while sender.send_data("more".into()).await.is_ok() {} };
    soon("the app's body is dropped", left).await;
}

#[tokio::test]
async fn the_apps_own_request_bodies_flow_chunk_by_chunk() {
    let app = Router::new().route("/mirror", post(async |body: Body| body));
    let mut client = Wire::connect(serve(app.layer(proxy().await)).await).await;
    client
        .send("POST /mirror HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.head().await;

    for piece in ["3\r\none\r\n", "5\r\nthree\r\n", "0\r\n\r\n"] {
        client.send(piece).await;
        assert_eq!(client.until(piece).await, piece);
    }
}

#[tokio::test]
async fn the_example_runs_as_its_first_lines_say() {
    let app = Server::spawn(Command::new(example("axum")).arg("127.0.0.1:0"));
    let answer = exchange(
        app.address,
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    assert!(answer.await.ends_with("\r\n\r\nAn app of its own.\n"));
    // The built-in default is OpenAI: it must not be asked by a test.
    let mut client = Wire::connect(app.address).await;
    client
        .send("POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}")
        .await;
    let answer = client.response().await;
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.error_code(), "http_request_denied");
}

#[tokio::test]
async fn the_example_takes_an_address_and_a_configuration() {
    let backend = Backend::start().await;
    let config = TempFile::new("config.json", &config_for(&backend));
    let mut command = Command::new(example("axum"));
    let app = Server::spawn(command.arg("127.0.0.1:0").arg(&config.path));
    let mut client = Wire::connect(app.address).await;

    let body = noise(100_000);
    let mut answer = b"HTTP/1.1 200 Fine\r\nX-One: 1\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\
        Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
        .to_vec();
    answer.extend_from_slice(&body);
    client.send(post_ours(r#"{ "model" : "m" }"#)).await;
    let mut wire = backend.accept().await;
    let request = wire.request().await;
    assert_eq!(request.body, br#"{ "model" : "m" }"#);
    wire.send(answer).await;

    let answer = client.response().await;
    assert_eq!(answer.start_line(), "HTTP/1.1 200 Fine");
    let mut fields = answer.fields();
    fields.retain(|(name, _)| name != "date");
    let expected = [
        ("x-one", "1"),
        ("set-cookie", "a"),
        ("set-cookie", "b"),
        ("content-type", "application/json"),
        ("content-length", "100000"),
    ];
    assert_eq!(
        fields,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    assert_eq!(answer.body, body);
}

#[tokio::test]
async fn the_apps_limit_on_bodies_is_not_ours() {
    let backend = Backend::start().await;
    let address = serve(own_app().layer(proxy_to(&backend))).await;
    let body = "x".repeat(3 * 1024 * 1024); // axum's is 2 MiB
    let mut client = Wire::connect(address).await;
    let request = post_ours(&body);
    let (mut wire, ()) = tokio::join!(backend.accept(), client.send(&request));
    assert!(wire.request().await.body == body.as_bytes());
    wire.send(response("200 OK", "whole")).await;
    assert_eq!(client.response().await.body, b"whole");
}

#[tokio::test]
async fn ours_is_streamed_chunk_by_chunk_over_http1() {
    let backend = Backend::start().await;
    let address = serve(own_app().layer(proxy_to(&backend))).await;
    let mut client = Wire::connect(address).await;
    client.send(post_ours(r#"{"stream":true}"#)).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        .await;
    wire.send("Transfer-Encoding: chunked\r\n\r\n").await;

    let head = client.head().await;
    assert!(head.contains("content-type: text/event-stream\r\n"));
    for piece in ["8\r\ndata: 1\n\r\n", "1\r\n\n\r\n", "0\r\n\r\n"] {
        assert!(client.is_silent().await);
        wire.send(piece).await;
        assert_eq!(client.until(piece).await, piece);
    }

    // The connection can be used again, for the app's own.
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.response().await.body, b"An app of its own.\n");
}

#[tokio::test]
async fn ours_is_streamed_chunk_by_chunk_over_http2() {
    let backend = Backend::start().await;
    let address = serve(own_app().layer(proxy_to(&backend))).await;
    let client = Http2::connect(address).await;
    let answer = tokio::spawn({
        let client = client.clone();
        async move { client.send(client.post(r#"{"stream":true}"#)).await }
    });
    let mut wire = backend.accept().await;
    let request = wire.request().await;
    assert_eq!(request.start_line(), "POST /v1/chat/completions HTTP/1.1");
    assert_eq!(request.body, br#"{"stream":true}"#);
    wire.send("HTTP/1.1 200 OK\r\nX-Id: 7\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;

    let mut answer = answer.await.unwrap().expect("a response");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["x-id"], "7");
    for piece in ["one", "three"] {
        wire.send(format!("{}\r\n{piece}\r\n", piece.len())).await;
        let frame = http2::next_frame(&mut answer)
            .await
            .expect("a chunk")
            .unwrap();
        assert_eq!(frame.into_data().unwrap(), piece);
    }

    // The app's own on the same connection, while the stream is on.
    let own = client
        .send(get_http2(address, "/nowhere"))
        .await
        .expect("a response");
    assert_eq!(own.status(), 404);
    wire.send("0\r\n\r\n").await;
    assert!(http2::next_frame(&mut answer).await.is_none());
}

#[tokio::test]
async fn a_client_that_disconnects_ends_the_backends_request() {
    let backend = Backend::start().await;
    let address = serve(own_app().layer(proxy_to(&backend))).await;

    // Before the head, and within the body.
    for head in ["", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun"] {
        let mut client = Wire::connect(address).await;
        client.send(post_ours("{}")).await;
        let mut wire = backend.accept().await;
        wire.request().await;
        wire.send(head).await;
        if !head.is_empty() {
            client.until("begun").await;
        }
        drop(client);
        wire.closed().await;
    }

    // One stream of an HTTP/2 connection that stays.
    let client = Http2::connect(address).await;
    let answer = tokio::spawn({
        let client = client.clone();
        async move { client.send(client.post("{}")).await }
    });
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun")
        .await;
    drop(answer.await.unwrap().expect("a response"));
    wire.closed().await;
    assert!(client.send(get_http2(address, "/")).await.is_ok());
}

#[tokio::test]
async fn a_backend_that_breaks_off_is_no_clean_end() {
    let backend = Backend::start().await;
    let address = serve(own_app().layer(proxy_to(&backend))).await;
    let begun = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n";

    let mut client = Wire::connect(address).await;
    client.send(post_ours("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send(begun).await;
    drop(wire);
    client.head().await;
    assert_eq!(client.rest().await, b"5\r\nbegun\r\n");

    let client = Http2::connect(address).await;
    let answer = tokio::spawn(async move { client.send(client.post("{}")).await });
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send(begun).await;
    drop(wire);
    let answer = answer.await.unwrap().expect("a response");
    assert!(http2::collect(answer).await.is_err());
}

#[tokio::test]
async fn ours_is_proxied_in_front_of_every_kind_of_router() {
    async fn own() -> &'static str {
        "own"
    }
    let nested = Router::new().route("/inner", get(own));
    let with_state = Router::new()
        .route(
            "/",
            get(async |State(own): State<Arc<str>>| own.to_string()),
        )
        .with_state(Arc::<str>::from("own"));
    for (kind, app) in [
        ("empty", Router::new()),
        ("no route at the path", Router::new().route("/", get(own))),
        ("nested", Router::new().nest("/outer", nested)),
        (
            "nested there",
            Router::new().nest("/v1/chat", Router::new().route("/", get(own))),
        ),
        ("a fallback", Router::new().fallback(own)),
        (
            "a fallback service",
            Router::new().fallback_service(Router::new()),
        ),
        ("state", with_state),
        (
            "its own route there",
            Router::new().route("/v1/chat/completions", post(own)),
        ),
        (
            "its own GET route there",
            Router::new().route("/v1/chat/completions", get(own)),
        ),
        ("a wildcard", Router::new().route("/{*rest}", get(own))),
        (
            "merged before",
            Router::new()
                .route("/a", get(own))
                .merge(Router::new().fallback(own)),
        ),
        (
            "a layer inside",
            Router::new()
                .fallback(own)
                .layer(TraceLayer::new_for_http()),
        ),
    ] {
        let backend = Backend::start().await;
        let address = serve(app.layer(proxy_to(&backend))).await;
        backend.answer_all(response("200 Proxied", "the backend's"));

        let mut client = Wire::connect(address).await;
        client.send(post_ours("{}")).await;
        let answer = client.response().await;
        assert_eq!(answer.start_line(), "HTTP/1.1 200 Proxied", "{kind}");
        assert_eq!(answer.body, b"the backend's", "{kind}");

        let client = Http2::connect(address).await;
        let answer = client.send(client.post("{}")).await.expect("a response");
        let (body, _) = http2::collect(answer).await.expect("a body");
        assert_eq!(body, "the backend's", "{kind}");
    }
}

#[tokio::test]
async fn a_layer_that_stands_further_in_does_not_see_every_request() {
    async fn own() -> &'static str {
        "own"
    }
    let layered = || async { Router::new().route("/", get(own)).layer(proxy().await) };
    for (kind, app, status) in [
        (
            "route_layer stands behind the routing",
            Router::new()
                .route("/", get(own))
                .route_layer(proxy().await),
            404,
        ),
        (
            "a nested router sees its own paths only",
            Router::new().nest("/app", layered().await),
            404,
        ),
        (
            "what is added later isn't covered",
            layered().await.route("/v1/chat/completions", post(own)),
            200,
        ),
        (
            "the other router's fallback wins",
            layered().await.merge(Router::new()),
            404,
        ),
        (
            "a fallback that is set later",
            layered().await.fallback(own),
            200,
        ),
    ] {
        let mut client = Wire::connect(serve(app).await).await;
        client
            .send("POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            .await;
        // Ours would be 401, for want of credentials.
        assert_eq!(client.response().await.status(), status, "{kind}");
    }
}

#[tokio::test]
async fn nothing_is_added_to_an_answer_but_where_the_app_has_a_route_at_the_path() {
    async fn own() -> &'static str {
        "own"
    }
    let everywhere = Router::new().route("/{*rest}", get(own));
    for (kind, app, is_wrapped_whole, added) in [
        ("no route", Router::new(), false, ["", ""]),
        // axum takes what stands in the place of such a handler for the app's own.
        (
            "a fallback",
            Router::new().fallback(own),
            false,
            ["content-length: 0\r\n", ""],
        ),
        (
            "a route",
            everywhere.clone(),
            false,
            ["content-length: 0\r\n", "allow: GET,HEAD\r\n"],
        ),
        ("a route, the app wrapped whole", everywhere, true, ["", ""]),
    ] {
        let backend = Backend::start().await;
        let proxy = proxy_to(&backend);
        let address = match is_wrapped_whole {
            true => serve(Router::new().fallback_service(proxy.layer(app))).await,
            false => serve(app.layer(proxy)).await,
        };
        backend.answer_all("HTTP/1.1 200 Fine\r\nX-One: 1\r\nContent-Type: a/b\r\n\r\n");
        for (method, added) in ["HEAD", "DELETE"].into_iter().zip(added) {
            let mut client = Wire::connect(address).await;
            let fields = "Host: a\r\nAuthorization: Bearer sk-test\r\n";
            client
                .send(format!(
                    "{method} /v1/chat/completions HTTP/1.1\r\n{fields}\r\n"
                ))
                .await;
            let head = without_date(&client.head().await);
            let framing = match method {
                "HEAD" => "",
                _ => "transfer-encoding: chunked\r\n",
            };
            assert_eq!(
                head,
                format!(
                    "HTTP/1.1 200 Fine\r\nx-one: 1\r\ncontent-type: a/b\r\n{added}{framing}\r\n"
                ),
                "{kind}"
            );
        }
    }
}

#[tokio::test]
async fn a_cors_layer_outside_answers_preflights_and_marks_our_answers() {
    let backend = Backend::start().await;
    let app = own_app().layer(proxy_to(&backend));
    let address = serve(app.layer(CorsLayer::permissive())).await;
    let mut client = Wire::connect(address).await;
    client
        .send(
            "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: a\r\nOrigin: http://page.test\r\n\
             Access-Control-Request-Method: POST\r\n\
             Access-Control-Request-Headers: authorization\r\n\r\n",
        )
        .await;
    let answer = client.response().await;
    assert_eq!(answer.status(), 200);
    assert_eq!(
        answer.field("access-control-allow-origin").as_deref(),
        Some("*")
    );
    assert_eq!(
        answer.field("access-control-allow-headers").as_deref(),
        Some("*")
    );
    assert!(!backend.is_contacted().await);
    // Which the proxy by itself refuses: it has no credentials.
    let bare = serve(own_app().layer(proxy_to(&backend))).await;
    let preflight = "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = exchange(bare, preflight.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");

    // The backend's own such field doesn't make two of it.
    backend.answer_all(response(
        "200 OK\r\nAccess-Control-Allow-Origin: https://else.test\r\nX-One: 1",
        "{}",
    ));
    client
        .send(post_with("Origin: http://page.test\r\n", "{}"))
        .await;
    let answer = client.response().await;
    assert_eq!(
        answer.field("access-control-allow-origin").as_deref(),
        Some("*")
    );
    assert_eq!(answer.field("x-one").as_deref(), Some("1"));
    assert_eq!(answer.body, b"{}");

    // An error of the proxy's own has it as well.
    client
        .send("POST /chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        .await;
    let answer = client.response().await;
    assert_eq!(answer.status(), 401);
    assert_eq!(
        answer.field("access-control-allow-origin").as_deref(),
        Some("*")
    );
}

#[tokio::test]
async fn a_trace_layer_outside_changes_nothing() {
    let backend = Backend::start().await;
    let app = own_app().layer(proxy_to(&backend));
    let address = serve(app.layer(TraceLayer::new_for_http())).await;
    let mut client = Wire::connect(address).await;
    client.send(post_ours("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send("HTTP/1.1 200 Fine\r\nX-One: 1\r\nContent-Length: 6\r\n\r\none")
        .await;
    assert!(
        client
            .until("\r\n\r\none")
            .await
            .starts_with("HTTP/1.1 200 Fine\r\nx-one: 1\r\n")
    );
    wire.send("two").await;
    client.until("two").await;
}

#[tokio::test]
async fn compression_outside_leaves_event_streams_alone_and_compresses_answers() {
    let backend = Backend::start().await;
    let app = own_app().layer(proxy_to(&backend));
    let mut client = Wire::connect(serve(app.layer(CompressionLayer::new())).await).await;
    let ours = post_with("Accept-Encoding: gzip\r\n", "{}");

    client.send(&ours).await;
    let mut wire = backend.accept().await;
    let request = wire.request().await;
    assert_eq!(request.field("accept-encoding").as_deref(), Some("gzip"));
    wire.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        .await;
    wire.send("Transfer-Encoding: chunked\r\n\r\n").await;
    let head = client.head().await;
    assert!(!head.contains("content-encoding"), "{head}");
    for piece in ["8\r\ndata: 1\n\r\n", "8\r\ndata: 2\n\r\n", "0\r\n\r\n"] {
        wire.send(piece).await;
        assert_eq!(client.until(piece).await, piece);
    }

    client.send(&ours).await;
    wire.request().await;
    let json = "Content-Type: application/json";
    wire.send(response(&format!("200 OK\r\n{json}"), &"{}".repeat(100)))
        .await;
    let answer = client.response().await;
    assert_eq!(answer.field("content-encoding").as_deref(), Some("gzip"));
    assert_eq!(answer.content()[..2], [0x1f, 0x8b]);

    // What the backend has encoded isn't encoded again.
    client.send(&ours).await;
    wire.request().await;
    let encoded = format!("200 OK\r\n{json}\r\nContent-Encoding: br");
    wire.send(response(&encoded, &"x".repeat(100))).await;
    let answer = client.response().await;
    assert_eq!(answer.field("content-encoding").as_deref(), Some("br"));
    assert_eq!(answer.body, "x".repeat(100).as_bytes());
}

#[tokio::test]
async fn a_compressed_stream_still_flows_and_still_breaks() {
    let backend = Backend::start().await;
    let app = own_app().layer(proxy_to(&backend));
    let everything = CompressionLayer::new().compress_when(SizeAbove::new(0));
    let mut client = Wire::connect(serve(app.layer(everything)).await).await;
    client
        .send(post_with("Accept-Encoding: gzip\r\n", "{}"))
        .await;
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        .await;
    wire.send("Transfer-Encoding: chunked\r\n\r\n").await;
    assert!(client.head().await.contains("content-encoding: gzip\r\n"));
    for _ in 0..3 {
        wire.send("8\r\ndata: 1\n\r\n").await;
        let mut piece = Vec::new();
        // What ends a block that was flushed (RFC 1951).
        while !piece.ends_with(b"\0\0\xff\xff\r\n") {
            piece.append(&mut client.exactly(1).await);
        }
    }
    drop(wire);
    assert!(!client.rest().await.ends_with(b"0\r\n\r\n"));
}
