//! The proxy in a tonic server: its gRPC services are what they were without it, and ours are
//! proxied beside them, over HTTP/2 and HTTP/1.1.

use std::{net::SocketAddr, process::Command, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use tonic::{
    service::Routes,
    transport::{self, server::TcpIncoming},
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::{BoxError, ServiceBuilder};
use tower_openai_proxy::{Config, Error, OpenAiProxyLayer};

use crate::support::{
    self, Backend, Server, TempFile, Wire, config_for, config_of, entry, example,
    http2::{self, Http2},
    nobody, post, response, soon,
};

/// Serves in this test; `$server` is a tonic server with its layers.
macro_rules! serve {
    ($server:expr, $routes:expr) => {{
        let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        let address = incoming.local_addr().expect("bound");
        let served = $server.add_routes($routes).serve_with_incoming(incoming);
        tokio::spawn(served);
        address
    }};
}

fn server() -> transport::Server {
    transport::Server::builder().accept_http1(true)
}

fn proxy_to(backend: &Backend) -> OpenAiProxyLayer {
    let config: Config = config_for(backend).parse().expect("a configuration");
    OpenAiProxyLayer::from_config(config)
}

/// A service with calls and streams of its own: gRPC's health protocol.
fn health() -> (HealthReporter, Routes) {
    let (reporter, service) = tonic_health::server::health_reporter();
    (reporter, Routes::new(service))
}

/// The service as it is, and with the proxy; both report what one reporter says.
async fn without_and_with() -> (HealthReporter, [SocketAddr; 2]) {
    let config = config_of(&[entry("LLM1", nobody().await, "")], "");
    let proxy = OpenAiProxyLayer::from_config(config.parse().expect("a configuration"));
    let (reporter, routes) = health();
    let without = serve!(server(), routes.clone());
    let with = serve!(server().layer(proxy), routes);
    (reporter, [without, with])
}

/// A call of the health service, for the service of this name.
fn call(address: SocketAddr, method: &str, service: &str) -> Request<http2::Body> {
    let mut message = vec![
        0,
        0,
        0,
        0,
        2 + service.len() as u8,
        0x0a,
        service.len() as u8,
    ];
    message.extend_from_slice(service.as_bytes());
    Request::post(format!("http://{address}/grpc.health.v1.Health/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(http2::full(message))
        .unwrap()
}

/// A message of the health service with this status.
fn status(status: u8) -> [u8; 7] {
    [0, 0, 0, 0, 2, 0x08, status]
}

const SERVING: u8 = 1;
const NOT_SERVING: u8 = 2;

fn without_date(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut fields = http2::fields(headers);
    fields.retain(|(name, _)| name != "date");
    fields
}

type Answer = (u16, Vec<(String, String)>, Bytes, Option<HeaderMap>);

/// Everything but the date.
async fn exchange(address: SocketAddr, request: Request<http2::Body>) -> Answer {
    let response = Http2::connect(address).await.send(request).await;
    let response = response.expect("a response");
    let status = response.status().as_u16();
    let fields = without_date(response.headers());
    let (body, trailers) = http2::collect(response).await.expect("a whole body");
    (status, fields, body, trailers)
}

async fn data(response: &mut Response<Incoming>) -> Bytes {
    let frame = http2::next_frame(response).await.expect("a chunk").unwrap();
    frame.into_data().expect("no trailers yet")
}

#[tokio::test]
async fn unary_calls_and_their_errors_are_the_same() {
    let (reporter, [without, with]) = without_and_with().await;
    reporter
        .set_service_status("down", ServingStatus::NotServing)
        .await;
    for (method, service, expected) in [
        ("Check", "", Ok(SERVING)),
        ("Check", "down", Ok(NOT_SERVING)),
        ("Check", "nobody", Err("5")), // not found
        ("Watch", "nobody", Err("5")),
        ("Explode", "", Err("12")), // unimplemented
    ] {
        let answer = exchange(without, call(without, method, service)).await;

        assert_eq!(answer.0, 200, "{method} {service}");
        match expected {
            Ok(expected) => {
                assert_eq!(answer.2, &status(expected)[..]);
                assert_eq!(answer.3.as_ref().unwrap()["grpc-status"], "0");
            }
            Err(code) => {
                let field = ("grpc-status".to_owned(), code.to_owned());
                assert!(
                    answer.1.contains(&field),
                    "{method} {service}: {:?}",
                    answer.1
                );
            }
        }
        assert_eq!(exchange(with, call(with, method, service)).await, answer);
    }
}

#[tokio::test]
async fn what_is_no_call_is_answered_the_same() {
    let (_reporter, [without, with]) = without_and_with().await;
    for (path, content_type) in [
        ("/no.Service/Method", "application/grpc"),
        ("/", "text/plain"),
        ("/grpc.health.v1.Health/Check", "text/plain"),
        ("/v1/models", "application/json"),
        ("/health", "application/json"),
    ] {
        let request = |address| {
            Request::post(format!("http://{address}{path}"))
                .header("content-type", content_type)
                .body(http2::full("?"))
                .unwrap()
        };
        let answer = exchange(without, request(without)).await;
        assert_eq!(exchange(with, request(with)).await, answer, "{path}");

        let mut answers = Vec::new();
        for address in [without, with] {
            let mut client = Wire::connect(address).await;
            client
                .send(format!(
                    "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {content_type}\r\n\
                     Connection: close\r\nContent-Length: 1\r\n\r\n?"
                ))
                .await;
            let answer = String::from_utf8(client.rest().await).unwrap();
            let lines = answer.lines().filter(|line| !line.starts_with("date: "));
            answers.push(lines.collect::<Vec<_>>().join("\n"));
        }
        assert!(answers[0].starts_with("HTTP/1.1 "));
        assert_eq!(answers[1], answers[0], "{path}");
    }
}

#[tokio::test]
async fn a_server_stream_flows_message_by_message() {
    let (reporter, addresses) = without_and_with().await;
    reporter
        .set_service_status("s", ServingStatus::Serving)
        .await;
    let mut streams = Vec::new();
    for address in addresses {
        let client = Http2::connect(address).await;
        let stream = client.send(call(address, "Watch", "s")).await;
        streams.push(stream.expect("a response"));
    }
    let fields = without_date(streams[0].headers());
    assert_eq!(without_date(streams[1].headers()), fields);
    for stream in &mut streams {
        assert_eq!(data(stream).await, &status(SERVING)[..]);
    }

    // Each is there before the next is made.
    for (reported, expected) in [
        (ServingStatus::NotServing, NOT_SERVING),
        (ServingStatus::Serving, SERVING),
        (ServingStatus::NotServing, NOT_SERVING),
    ] {
        reporter.set_service_status("s", reported).await;
        for stream in &mut streams {
            assert_eq!(data(stream).await, &status(expected)[..]);
        }
    }

    // The service goes, and with it the streams: by trailers.
    let mut reporter = reporter;
    reporter.clear_service_status("s").await;
    for stream in &mut streams {
        let frame = http2::next_frame(stream).await.expect("trailers").unwrap();
        assert_eq!(frame.into_trailers().unwrap()["grpc-status"], "0");
        assert!(http2::next_frame(stream).await.is_none());
    }
}

#[tokio::test]
async fn a_deadline_of_the_client_is_kept_the_same() {
    let (_reporter, [without, with]) = without_and_with().await;
    for address in [without, with] {
        let mut request = call(address, "Check", "");
        request
            .headers_mut()
            .insert("grpc-timeout", "20S".parse().unwrap());
        assert_eq!(exchange(address, request).await.2, &status(SERVING)[..]);
    }
}

#[tokio::test]
async fn ours_is_proxied_over_http1_and_http2_beside_a_call() {
    let backend = Backend::start().await;
    let (reporter, routes) = health();
    let address = serve!(server().layer(proxy_to(&backend)), routes);
    let client = Http2::connect(address).await;
    let mut watched = client
        .send(call(address, "Watch", ""))
        .await
        .expect("a response");
    assert_eq!(data(&mut watched).await, &status(SERVING)[..]);

    // On the connection of the call.
    let answer = tokio::spawn({
        let client = client.clone();
        async move { client.send(client.post(r#"{"stream":true}"#)).await }
    });
    let mut wire = backend.accept().await;
    let request = wire.request().await;
    assert_eq!(request.start_line(), "POST /v1/chat/completions HTTP/1.1");
    assert_eq!(request.body, br#"{"stream":true}"#);
    wire.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        .await;
    wire.send("Transfer-Encoding: chunked\r\n\r\n").await;
    let mut answer = answer.await.unwrap().expect("a response");
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert!(!answer.headers().contains_key("grpc-status"));
    for piece in ["data: 1\n", "data: 2\n"] {
        wire.send(format!("8\r\n{piece}\r\n")).await;
        assert_eq!(data(&mut answer).await, piece);
    }
    wire.send("0\r\n\r\n").await;
    assert!(http2::next_frame(&mut answer).await.is_none());

    reporter
        .set_service_status("", ServingStatus::NotServing)
        .await;
    assert_eq!(data(&mut watched).await, &status(NOT_SERVING)[..]);

    // By the client most have, and the answer with its status and reason.
    let mut client = Wire::connect(address).await;
    client.send(post("{}")).await;
    wire.request().await;
    wire.send(response(
        "429 Slow Down\r\nRetry-After: 7",
        r#"{"error":{}}"#,
    ))
    .await;
    let answer = client.response().await;
    assert_eq!(answer.start_line(), "HTTP/1.1 429 Slow Down");
    assert_eq!(answer.field("retry-after").as_deref(), Some("7"));
    assert_eq!(answer.body, br#"{"error":{}}"#);
}

#[tokio::test]
async fn an_error_of_the_proxys_own_is_no_grpc_status() {
    let config = config_of(&[entry("LLM1", nobody().await, "")], "");
    let proxy = OpenAiProxyLayer::from_config(config.parse().unwrap());
    let address = serve!(server().layer(proxy), Routes::default());

    let mut client = Wire::connect(address).await;
    client.send(post("{}")).await;
    let answer = client.response().await;
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.error_code(), "connection_refused");

    let client = Http2::connect(address).await;
    let answer = client.send(client.post("{}")).await.expect("a response");
    assert_eq!(answer.status(), 502);
    assert!(!answer.headers().contains_key("grpc-status"));
}

#[tokio::test]
async fn a_client_that_disconnects_ends_the_backends_request() {
    let backend = Backend::start().await;
    let address = serve!(server().layer(proxy_to(&backend)), Routes::default());
    let client = Http2::connect(address).await;

    // Before the head.
    let answer = tokio::spawn({
        let client = client.clone();
        async move { client.send(client.post("{}")).await }
    });
    let mut wire = backend.accept().await;
    wire.request().await;
    answer.abort();
    wire.closed().await;

    // Within the body.
    let answer = tokio::spawn({
        let client = client.clone();
        async move { client.send(client.post("{}")).await }
    });
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun")
        .await;
    let mut answer = answer.await.unwrap().expect("a response");
    assert_eq!(data(&mut answer).await, "begun");
    drop(answer);
    wire.closed().await;
}

#[tokio::test]
async fn a_backend_that_breaks_off_is_no_clean_end() {
    let backend = Backend::start().await;
    let address = serve!(server().layer(proxy_to(&backend)), Routes::default());
    let client = Http2::connect(address).await;
    let answer = tokio::spawn(async move { client.send(client.post("{}")).await });
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n")
        .await;
    drop(wire);
    let mut answer = answer.await.unwrap().expect("a response");
    assert_eq!(data(&mut answer).await, "begun");
    assert!(
        http2::next_frame(&mut answer)
            .await
            .expect("no end")
            .is_err()
    );
}

#[tokio::test]
async fn the_servers_own_timeout_answers_as_grpc_and_ours_as_openai() {
    let backend = Backend::start().await;
    let settings =
        |timeout: &str| support::config_with(&backend, &format!(r#""timeout":{timeout}"#));
    let proxy = |timeout| OpenAiProxyLayer::from_config(settings(timeout).parse().unwrap());
    let tonics = server().timeout(Duration::from_millis(300));
    let tonics = serve!(tonics.layer(proxy("60")), Routes::default());
    let ours = serve!(server().layer(proxy("0.3")), Routes::default());

    let mut client = Wire::connect(tonics).await;
    client.send(post("{}")).await;
    let _tonics = backend.accept().await;
    let answer = client.response().await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.field("grpc-status").as_deref(), Some("1"));

    let mut client = Wire::connect(ours).await;
    client.send(post("{}")).await;
    let _ours = backend.accept().await;
    let answer = client.response().await;
    assert_eq!(answer.status(), 504);
    assert_eq!(answer.error_code(), "http_response_timeout");
}

#[tokio::test]
async fn a_limit_above_answers_in_openais_form() {
    let backend = Backend::start().await;
    let limit = ServiceBuilder::new()
        .map_result(|result: Result<Response<_>, BoxError>| {
            Ok::<_, BoxError>(match result {
                Ok(response) => response.map(Either::Left),
                Err(_) => {
                    let response = Error::overloaded().to_response();
                    response.map(|body| Either::Right(Full::new(body)))
                }
            })
        })
        .load_shed()
        .concurrency_limit(1)
        .layer(proxy_to(&backend))
        .into_inner();
    let address = serve!(server().layer(limit), Routes::default());
    let mut first = Wire::connect(address).await;
    first.send(post("{}")).await;
    let mut wire = backend.accept().await;
    wire.request().await;

    let mut second = Wire::connect(address).await;
    second.send(post("{}")).await;
    let answer = second.response().await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.error_code(), "destination_unavailable");

    wire.send(response("200 OK", "{}")).await;
    assert_eq!(first.response().await.status(), 200);
}

#[tokio::test]
async fn the_example_runs_as_its_first_lines_say() {
    let app = Server::spawn(Command::new(example("tonic")).arg("127.0.0.1:0"));
    let client = Http2::connect(app.address).await;
    let known = async {
        loop {
            let response = client.send(call(app.address, "Check", "LLM1")).await;
            let (body, _) = http2::collect(response.expect("a response")).await.unwrap();
            if !body.is_empty() {
                return body;
            }
        }
    };
    assert_eq!(soon("LLM1 is reported", known).await, &status(SERVING)[..]);

    // The built-in default is OpenAI: it must not be asked by a test.
    let mut client = Wire::connect(app.address).await;
    client
        .send("POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}")
        .await;
    assert_eq!(client.response().await.error_code(), "http_request_denied");
}

#[tokio::test]
async fn the_example_reports_which_backends_work() {
    let config = config_of(&[entry("LLM7", nobody().await, "")], r#""cooldown":60"#);
    let config = TempFile::new("config.json", &config);
    let mut command = Command::new(example("tonic"));
    let app = Server::spawn(command.arg("127.0.0.1:0").arg(&config.path));
    let client = Http2::connect(app.address).await;
    let known = async {
        loop {
            let response = client.send(call(app.address, "Watch", "LLM7")).await;
            let mut response = response.expect("a response");
            if !response.headers().contains_key("grpc-status") {
                assert_eq!(data(&mut response).await, &status(SERVING)[..]);
                return response;
            }
        }
    };
    let mut watched = soon("LLM7 is reported", known).await;

    let answer = client.send(client.post("{}")).await.expect("a response");

    assert_eq!(answer.status(), 502);
    assert_eq!(data(&mut watched).await, &status(NOT_SERVING)[..]);
}
