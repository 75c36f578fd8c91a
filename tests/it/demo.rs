//! `--demo`: the embedded stand-in for the API. What OpenAI's own SDKs make of it is tested in
//! `clients`.

use serde_json::{Value, json};

use crate::support::{Message, Server, Wire, find, nobody, post, post_with};

/// A question to this model, with further fields.
fn question(model: &str, more: Value) -> String {
    let mut request = json!({
        "model": model,
        "messages": [{ "role": "user", "content": "What is a proxy?" }],
    });
    let more = more.as_object().expect("an object").clone();
    request.as_object_mut().expect("an object").extend(more);
    request.to_string()
}

async fn ask(server: &Server, request: impl AsRef<[u8]>) -> Message {
    let mut client = Wire::connect(server.address).await;
    client.send(request).await;
    client.response().await
}

/// The data of the events of a stream.
fn events(answer: &Message) -> Vec<String> {
    let text = String::from_utf8(answer.content()).expect("UTF-8");
    let events = text.split_terminator("\n\n");
    let data = |event: &str| event.strip_prefix("data: ").expect("data").to_owned();
    events.map(data).collect()
}

/// The chunks of a stream that ends as it should.
fn chunks(answer: &Message) -> Vec<Value> {
    let content_type = answer.field("content-type").expect("a type");
    assert!(content_type.starts_with("text/event-stream"));
    let mut events = events(answer);
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let chunk = |event: &String| serde_json::from_str(event).expect("JSON");
    events.iter().map(chunk).collect()
}

#[tokio::test]
async fn it_answers() {
    let server = Server::demo(&[]);
    let answer = ask(&server, post(&question("gpt-demo", json!({})))).await;
    assert_eq!(answer.start_line(), "HTTP/1.1 200 OK");
    for name in [
        "x-request-id",
        "openai-version",
        "x-ratelimit-remaining-requests",
    ] {
        assert!(answer.field(name).is_some(), "{name}");
    }
    let json = answer.json();
    assert_eq!(json["object"], "chat.completion");
    assert_eq!(json["model"], "gpt-demo");
    let choice = &json["choices"][0];
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(choice["message"]["role"], "assistant");
    let content = choice["message"]["content"].as_str().expect("text");
    assert!(content.contains("What is a proxy?"), "{content}");
    assert!(json["usage"]["total_tokens"].as_u64() > Some(4));
}

#[tokio::test]
async fn it_streams() {
    let server = Server::demo(&[]);
    let options = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let answer = ask(&server, post(&question("gpt-demo", options))).await;
    assert_eq!(answer.status(), 200);
    let mut chunks = chunks(&answer);
    let usage = chunks.pop().expect("a chunk");
    assert_eq!(usage["choices"], json!([]));
    assert!(usage["usage"]["total_tokens"].as_u64() > Some(4));
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["model"], "gpt-demo");
        assert!(chunk["usage"].is_null());
    }
    let choices: Vec<_> = chunks.iter().map(|chunk| &chunk["choices"][0]).collect();
    assert_eq!(choices[0]["delta"]["role"], "assistant");
    let words = choices
        .iter()
        .filter_map(|choice| choice["delta"]["content"].as_str());
    assert!(words.clone().count() > 20);
    let content: String = words.collect();
    assert!(content.contains("What is a proxy?"), "{content}");
    assert_eq!(choices[choices.len() - 1]["finish_reason"], "stop");
}

#[tokio::test]
async fn it_streams_word_by_word() {
    let server = Server::demo(&[]);
    let mut client = Wire::connect(server.address).await;
    client
        .send(post(&question("demo-silent", json!({ "stream": true }))))
        .await;
    client.until("\"role\":\"assistant\"").await;
    // What came is here although nothing more will.
    client.until("\"content\":\"Hello \"").await;
    client.until("\n\n\r\n").await;
    assert!(client.is_silent().await);
}

#[tokio::test]
async fn it_calls_a_tool() {
    let server = Server::demo(&[]);
    let parameters = json!({
        "type": "object",
        "properties": { "city": { "type": "string" }, "days": { "type": "integer" } },
    });
    let function = json!({ "name": "get_weather", "parameters": parameters });
    let tools = json!([{ "type": "function", "function": function }]);
    let check = |arguments: &str| {
        let arguments: Value = serde_json::from_str(arguments).expect("JSON");
        assert!(
            arguments["city"].is_string() && arguments["days"].is_i64(),
            "{arguments}"
        );
    };

    let answer = ask(
        &server,
        post(&question("gpt-demo", json!({ "tools": tools }))),
    )
    .await;
    let choice = &answer.json()["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"]["name"], "get_weather");
    check(call["function"]["arguments"].as_str().expect("text"));

    let request = question("gpt-demo", json!({ "tools": tools, "stream": true }));
    let chunks = chunks(&ask(&server, post(&request)).await);
    let calls = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0]);
    let arguments = calls.filter_map(|call| call["function"]["arguments"].as_str());
    check(&arguments.collect::<String>());
    assert_eq!(
        chunks[chunks.len() - 1]["choices"][0]["finish_reason"],
        "tool_calls"
    );
}

#[tokio::test]
async fn errors_of_the_api_come_for_the_asking() {
    let server = Server::demo(&[]);
    for (status, code, field) in [
        (401, json!("invalid_api_key"), "www-authenticate"),
        (404, json!("model_not_found"), "x-request-id"),
        (429, json!("rate_limit_exceeded"), "retry-after"),
        (500, json!(null), "x-request-id"),
    ] {
        let header = format!("X-Demo: {status}\r\n");
        for request in [
            post(&question(&format!("demo-{status}"), json!({}))),
            post(&question(
                &format!("demo-{status}"),
                json!({ "stream": true }),
            )),
            post_with(&header, &question("gpt-demo", json!({}))),
        ] {
            let answer = ask(&server, request).await;
            assert_eq!(answer.status(), status);
            assert!(answer.field(field).is_some(), "{}", answer.head);
            assert_eq!(answer.field("proxy-status"), None, "it is the API's");
            let error = &answer.json()["error"];
            assert_eq!(error["code"], code);
            assert!(error["message"].is_string() && error["type"].is_string());
        }
    }
}

#[tokio::test]
async fn a_break_is_a_break() {
    let server = Server::demo(&[]);
    for stream in [true, false] {
        let mut client = Wire::connect(server.address).await;
        let request = question("demo-break", json!({ "stream": stream }));
        client.send(post(&request)).await;
        client.until("\r\n\r\n").await;
        let rest = client.rest().await;
        assert!(!rest.is_empty() && find(&rest, b"0\r\n\r\n").is_none());
        assert!(find(&rest, b"[DONE]").is_none());
    }
    server.logged("end=\"backend broke off\"").await;
}

#[tokio::test]
async fn it_stands_in_for_every_backend_that_has_a_url() {
    let config = format!(
        r#"{{"primary_backends":[
            {{"name":"ONE","url":"http://{0}/v1"}},
            {{"name":"TWO","url":"http://{0}/else","model":"two"}},
            {{"name":"NONE","url":""}}
        ]}}"#,
        nobody().await
    );
    let server = Server::start_with(&config, &["--demo"], &[]);
    for (backend, model) in [("ONE", "gpt-demo"), ("TWO", "two")] {
        let header = format!("X-Proxy-Backend: {backend}\r\n");
        let request = post_with(&header, &question("gpt-demo", json!({})));
        assert_eq!(ask(&server, request).await.json()["model"], model);
    }
    let request = post_with("X-Proxy-Backend: NONE\r\n", "{}");
    assert_eq!(
        ask(&server, request).await.error_code(),
        "destination_not_found"
    );
}
