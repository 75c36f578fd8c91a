//! What the log says of an exchange, and that nothing of it changes on the way.

use crate::support::{Backend, Server, Wire, config_for, config_of, entry, nobody, post_with};

/// The request fields that identify it.
const IDS: &str = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
    tracestate: a=1,b=2\r\nX-Request-ID: req-1\r\n";

#[tokio::test]
async fn the_line_says_what_an_answer_used() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    let body = r#"{"id":"1","model":"gpt-4o-2024-08-06","usage":{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":3}}}"#;
    let record = backend.record_all(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\napim-request-id: apim-1\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    ));

    let mut client = Wire::connect(server.address).await;
    client.send(post_with(IDS, r#"{"model":"gpt-4o"}"#)).await;
    assert_eq!(client.response().await.body, body.as_bytes());

    let log = server.logged("end=complete").await;
    let line = log.lines().find(|line| line.contains("end=complete"));
    let line = line.expect("a line");
    let expected = " end=complete model=gpt-4o response_model=gpt-4o-2024-08-06 input=19 cached=4 \
        output=10 reasoning=3 request_id=req-1 backend_request_id=apim-1 \
        trace_id=0af7651916cd43dd8448eb211c80319c";
    assert!(line.ends_with(expected), "{line}");
    // They reach the backend as they came.
    let [request] = &record.take()[..] else {
        panic!("one request");
    };
    for field in ["b7ad6b7169203331-01", "a=1,b=2"] {
        assert!(request.head.contains(field), "{}", request.head);
    }
}

#[tokio::test]
async fn the_line_says_how_fast_a_stream_began() {
    let backend = Backend::start().await;
    let server = Server::start(&config_for(&backend));
    let mut client = Wire::connect(server.address).await;
    client.send(post_with("", r#"{"stream":true}"#)).await;
    let mut backend = backend.accept().await;
    backend.request().await;
    backend
        .send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        .await;
    backend.send("data: {\"content\":\"Hi\"}\n\n").await;
    client.until("Hi").await;
    // In two pieces, of which the client gets the first one at once.
    backend.send("data: {\"usage\":{\"prompt_").await;
    client.until("prompt_").await;
    backend.send("tokens\":7}}\n\ndata: [DONE]\n\n").await;
    client.until("[DONE]").await;
    drop(client);
    let log = server.logged("end=complete").await;
    let line = log.lines().find(|line| line.contains("end=complete"));
    let line = line.expect("a line");
    assert!(line.contains(" end=complete input=7 first_ms="), "{line}");
}

#[tokio::test]
async fn the_line_leaves_out_what_could_be_taken_for_something_else() {
    let backend = Backend::start().await;
    let backends = [
        entry("LLM1", nobody().await, ""),
        entry("LLM2", backend.address, ""),
    ];
    let server = Server::start(&config_of(&backends, ""));
    let body = r#"{"model":"end=complete status=200"}"#;
    backend.answer_all(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: \"quoted\"\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    ));

    let mut client = Wire::connect(server.address).await;
    let ids = "X-Request-ID: a b\r\nX-Client-Request-ID: req-2\r\ntraceparent: 00-1-2-3\r\n";
    let request = post_with(ids, r#"{"model":"two words"}"#);
    client
        .send(request.replace("/chat/completions", "/embeddings"))
        .await;
    assert_eq!(client.response().await.body, body.as_bytes());

    let log = server.logged("end=complete").await;
    let line = log.lines().find(|line| line.contains("end=complete"));
    let line = line.expect("a line");
    assert!(
        line.ends_with(" end=complete endpoint=/embeddings attempts=2"),
        "{line}"
    );
}
