//! Bytes come through as they were sent, both ways.

mod support;

use support::{Backend, Server, Wire, config_for, post, response};

#[tokio::test]
async fn an_answer_comes_through_byte_for_byte() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    let mut client = Wire::connect(server.address).await;
    let body = r#"{ "model":"gpt-4o" , "messages": [] , "temperature":1.0}"#;
    client.send(post(body)).await;

    let mut wire = backend.accept().await;
    let request = wire.request().await;
    assert_eq!(request.start_line(), "POST /v1/chat/completions HTTP/1.1");
    assert_eq!(request.body, body.as_bytes());
    wire.send(response("200 OK", "{\"a\": 1 }\n")).await;

    let answer = client.response().await;
    assert_eq!(answer.start_line(), "HTTP/1.1 200 OK");
    assert_eq!(answer.body, b"{\"a\": 1 }\n");
}
