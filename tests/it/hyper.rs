//! The hyper example.

use std::process::Command;

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::support::{
    Backend, Server, TempFile, Wire, config_for, example,
    http2::{self, Http2},
    post, response, soon,
};

fn start(backend: &Backend) -> Server {
    let config = TempFile::new("config.json", &config_for(backend));
    let mut command = Command::new(example("hyper"));
    Server::spawn(command.arg("127.0.0.1:0").arg(&config.path))
}

#[tokio::test]
async fn it_proxies_over_http1_and_http2() {
    let backend = Backend::start().await;
    let server = start(&backend);
    backend.answer_all(response("200 Proxied", "{}"));

    let mut client = Wire::connect(server.address).await;
    client.send(post("{}")).await;
    let answer = client.response().await;
    assert_eq!(answer.start_line(), "HTTP/1.1 200 Proxied");
    assert_eq!(answer.body, b"{}");

    let client = Http2::connect(server.address).await;
    let answer = client.send(client.post("{}")).await.expect("a response");
    assert_eq!(answer.status(), 200);
    let (body, _) = http2::collect(answer).await.expect("a whole body");
    assert_eq!(body, Bytes::from("{}"));
}

#[tokio::test]
async fn it_answers_404_to_everything_else() {
    let backend = Backend::start().await;
    let server = start(&backend);
    let mut client = Wire::connect(server.address).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = client.response().await;
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.error_code(), "destination_not_found");
    assert!(!backend.is_contacted().await);
}

#[cfg(unix)]
#[tokio::test]
async fn it_drains_on_ctrl_c() {
    let backend = Backend::start().await;
    let mut server = start(&backend);
    let mut idle = Wire::connect(server.address).await;
    let mut client = Wire::connect(server.address).await;
    client.send(post(r#"{"stream":true}"#)).await;
    let mut wire = backend.accept().await;
    wire.request().await;
    wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        .await;
    client.until("one\r\n").await;

    server.signal("INT");

    idle.closed().await;
    let refused = async { while TcpStream::connect(server.address).await.is_ok() {} };
    soon("new connections are refused", refused).await;
    wire.send("3\r\ntwo\r\n0\r\n\r\n").await;
    assert_eq!(client.rest().await, b"3\r\ntwo\r\n0\r\n\r\n");
    assert_eq!(soon("the exit", server.ended()).await, Some(0));
}
