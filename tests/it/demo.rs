//! `--demo`: the embedded mock of the API. How OpenAI's SDKs read it is tested in `clients`.

use std::{net::TcpStream, time::Duration};

use serde_json::{Value, json};
use tungstenite::{Message as Frame, WebSocket};

#[cfg(target_os = "linux")]
use crate::support::usage;
use crate::{
    support::{Message, Server, Wire, find, nobody, post, post_with},
    websocket::realtime,
};

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

/// A request for `path`, with credentials.
fn request(method: &str, path: &str, content_type: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer sk-test\r\n\
         Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn post_json(path: &str, body: &Value) -> String {
    request("POST", path, "application/json", &body.to_string())
}

/// A form with these fields, and a file with this content.
fn post_form(path: &str, fields: &[(&str, &str)], file: &str) -> String {
    let disposition = "--line\r\nContent-Disposition: form-data";
    let mut form = String::new();
    for (name, value) in fields {
        form += &format!("{disposition}; name=\"{name}\"\r\n\r\n{value}\r\n");
    }
    form += &format!("{disposition}; name=\"file\"; filename=\"a file.bin\"\r\n\r\n");
    form = form + file + "\r\n--line--\r\n";
    request("POST", path, "multipart/form-data; boundary=line", &form)
}

/// Fails unless `value` has at least what `shape` has. Empty strings, zeros and false stand for any
/// string, number and boolean; the item of an array, for all its items.
fn assert_shape(value: &Value, shape: &Value, place: &str) {
    let fits = match (shape, value) {
        (Value::Object(shape), Value::Object(_)) => {
            for (name, shape) in shape {
                assert_shape(&value[name], shape, &format!("{place}.{name}"));
            }
            true
        }
        (Value::Array(shape), Value::Array(items)) => {
            for item in items {
                assert_shape(item, &shape[0], &format!("{place}[]"));
            }
            items.is_empty() == shape.is_empty()
        }
        (Value::String(shape), Value::String(text)) => shape.is_empty() || shape == text,
        (Value::Number(shape), Value::Number(number)) => {
            shape.as_u64() == Some(0) || shape == number
        }
        (Value::Bool(_), Value::Bool(_)) | (Value::Null, Value::Null) => true,
        _ => false,
    };
    assert!(fits, "{place}: {value} instead of {shape}");
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
async fn every_endpoint_answers_in_the_api_s_shape() {
    let server = Server::demo(&[]);
    let get = |path: &str| request("GET", path, "", "");
    let model = json!({ "id": "", "object": "model", "created": 0, "owned_by": "" });
    let usage = json!({
        "prompt_tokens": 2,
        "completion_tokens": 0,
        "total_tokens": 0,
    });
    let message = json!({
        "id": "", "type": "message", "role": "assistant", "status": "completed",
        "content": [{ "type": "output_text", "text": "", "annotations": [], "logprobs": [] }],
    });
    for (request, shape) in [
        (
            get("/v1/models"),
            json!({ "object": "list", "data": [model] }),
        ),
        (
            get("/models/maker%2Fany-model"),
            json!({ "id": "maker/any-model", "object": "model", "created": 0, "owned_by": "" }),
        ),
        (
            post_json(
                "/v1/completions",
                &json!({ "model": "gpt-demo", "prompt": "Hello, proxy!", "n": 2 }),
            ),
            json!({
                "id": "", "object": "text_completion", "created": 0, "model": "gpt-demo",
                "choices": [{ "index": 0, "text": "", "logprobs": null, "finish_reason": "stop" }],
                "usage": usage,
            }),
        ),
        (
            post_json(
                "/v1/responses",
                &json!({ "model": "gpt-demo", "input": "Hello, proxy!" }),
            ),
            json!({
                "id": "", "object": "response", "created_at": 0, "status": "completed",
                "error": null, "incomplete_details": null, "instructions": null, "metadata": {},
                "model": "gpt-demo", "output": [message], "parallel_tool_calls": true,
                "temperature": 0, "tool_choice": "auto", "top_p": 0,
                "usage": {
                    "input_tokens": 2, "input_tokens_details": { "cached_tokens": 0 },
                    "output_tokens": 0, "output_tokens_details": { "reasoning_tokens": 0 },
                    "total_tokens": 0,
                },
            }),
        ),
        (
            post_json(
                "/v1/embeddings",
                &json!({ "model": "gpt-demo", "input": ["one", "two"] }),
            ),
            json!({
                "object": "list", "model": "gpt-demo",
                "data": [{ "object": "embedding", "index": 0, "embedding": [0] }],
                "usage": { "prompt_tokens": 2, "total_tokens": 2 },
            }),
        ),
        (
            post_json("/v1/images/generations", &json!({ "prompt": "A proxy" })),
            json!({
                "created": 0, "data": [{ "b64_json": "" }],
                "usage": {
                    "input_tokens": 2, "output_tokens": 1, "total_tokens": 3,
                    "input_tokens_details": { "image_tokens": 0, "text_tokens": 2 },
                },
            }),
        ),
        (
            post_form(
                "/v1/audio/transcriptions",
                &[("model", "gpt-demo")],
                "12345",
            ),
            json!({
                "text": "The demo can't hear, but 5 bytes of a file.bin came through the proxy.",
                "usage": { "type": "duration", "seconds": 0 },
            }),
        ),
        (
            post_form("/v1/files", &[("purpose", "user_data")], "12345"),
            json!({
                "id": "", "object": "file", "bytes": 5, "created_at": 0, "expires_at": null,
                "filename": "a file.bin", "purpose": "user_data", "status": "processed",
            }),
        ),
    ] {
        let line = request.lines().next().unwrap();
        let answer = ask(&server, &request).await;
        assert_eq!(answer.start_line(), "HTTP/1.1 200 OK", "{line}");
        assert_shape(&answer.json(), &shape, line);
    }
}

#[tokio::test]
async fn bad_requests_are_errors_in_the_api_s_shape() {
    let server = Server::demo(&[]);
    for (request, status, code, param) in [
        (
            request("POST", "/v1/nothing", "", ""),
            404,
            json!("unknown_url"),
            json!(null),
        ),
        (
            request("DELETE", "/v1/files", "", ""),
            405,
            json!("method_not_supported"),
            json!(null),
        ),
        (
            post_json("/v1/responses", &json!([])),
            400,
            json!(null),
            json!(null),
        ),
        (
            post_json("/v1/responses", &json!({ "model": "gpt-demo" })),
            400,
            json!("missing_required_parameter"),
            json!("input"),
        ),
        (
            post_json(
                "/v1/embeddings",
                &json!({ "model": "gpt-demo", "input": [] }),
            ),
            400,
            json!("missing_required_parameter"),
            json!("input"),
        ),
        (
            post_form("/v1/files", &[], ""),
            400,
            json!("missing_required_parameter"),
            json!("purpose"),
        ),
        (
            request("POST", "/v1/files", "text/plain", ""),
            400,
            json!(null),
            json!(null),
        ),
    ] {
        let line = request.lines().next().unwrap();
        let answer = ask(&server, &request).await;
        assert_eq!(answer.status(), status, "{line}");
        assert_eq!(answer.field("proxy-status"), None, "it is the API's");
        let shape = json!({ "message": "", "type": "invalid_request_error" });
        let error = &answer.json()["error"];
        assert_shape(error, &shape, line);
        assert_eq!((&error["code"], &error["param"]), (&code, &param), "{line}");
    }
}

#[tokio::test]
async fn work_for_one_request_is_limited() {
    let server = Server::demo(&[]);
    let embeddings = |inputs: usize, dimensions: usize| {
        let input = vec!["word"; inputs];
        let request = json!({ "model": "gpt-demo", "input": input, "dimensions": dimensions });
        post_json("/v1/embeddings", &request)
    };
    for (request, status) in [
        (embeddings(2048, 128), 200),
        (embeddings(2049, 1), 400),
        (embeddings(2048, 129), 400),
        (embeddings(1, 3073), 400),
        (embeddings(1, 0), 400),
        (
            post(&question(
                "gpt-demo",
                json!({ "user": "a".repeat(16 << 20) }),
            )),
            413,
        ),
    ] {
        assert_eq!(ask(&server, &request).await.status(), status);
    }

    // Each choice, or each of its words, would repeat these.
    let long = "a".repeat(100_000);
    let answer = ask(&server, post(&question(&long, json!({})))).await;
    assert_eq!(answer.status(), 400);
    let function = json!({ "name": long, "parameters": {} });
    let constant = json!({ "type": "json_schema", "json_schema": { "schema": { "const": long } } });
    let property = json!({ "name": "f", "parameters": { "properties": { &long: {} } } });
    for more in [
        json!({ "tools": [{ "type": "function", "function": function }] }),
        json!({ "response_format": constant }),
        json!({ "tools": [{ "type": "function", "function": property }] }),
    ] {
        let answer = ask(&server, post(&question("gpt-demo", more))).await;
        assert_eq!(answer.status(), 200);
        assert!(answer.body.len() < 10_000, "{}", answer.body.len());
    }

    let request = json!({ "prompt": "A proxy", "n": 1_000_000 });
    let answer = ask(&server, post_json("/v1/images/generations", &request)).await;
    assert_eq!(answer.json()["data"].as_array().map(Vec::len), Some(10));
}

#[tokio::test]
async fn embeddings_depend_on_the_input_only() {
    let server = Server::demo(&[]);
    let embed = async |input: Value, format: &str| {
        let request = json!({ "model": "gpt-demo", "input": input, "encoding_format": format });
        let answer = ask(&server, post_json("/v1/embeddings", &request)).await;
        answer.json()["data"].clone()
    };
    let both = embed(json!(["one", "two"]), "float").await;
    assert_eq!(
        both[0]["embedding"],
        embed(json!("one"), "float").await[0]["embedding"]
    );
    assert_ne!(both[0]["embedding"], both[1]["embedding"]);
    let tokens = embed(json!([1, 2, 3]), "float").await;
    assert_eq!(tokens.as_array().map(Vec::len), Some(1));
    let base64 = embed(json!("one"), "base64").await;
    // 8 numbers of 4 bytes.
    assert_eq!(base64[0]["embedding"].as_str().map(str::len), Some(44));
}

#[tokio::test]
async fn responses_are_streamed_as_named_events() {
    let server = Server::demo(&[]);
    let ask_for = async |more: Value| {
        let mut request = json!({ "model": "gpt-demo", "stream": true, "input": "Hello, proxy!" });
        let more = more.as_object().expect("an object").clone();
        request.as_object_mut().expect("an object").extend(more);
        let answer = ask(&server, post_json("/v1/responses", &request)).await;
        named_events(&answer)
    };
    let tool = json!({ "type": "function", "name": "wave", "parameters": {} });
    for (more, delta, names) in [
        (
            json!({}),
            "response.output_text.delta",
            vec![
                "response.created",
                "response.in_progress",
                "response.output_item.added",
                "response.content_part.added",
                "response.output_text.delta",
                "response.output_text.done",
                "response.content_part.done",
                "response.output_item.done",
                "response.completed",
            ],
        ),
        (
            json!({ "tools": [tool] }),
            "response.function_call_arguments.delta",
            vec![
                "response.created",
                "response.in_progress",
                "response.output_item.added",
                "response.function_call_arguments.delta",
                "response.function_call_arguments.done",
                "response.output_item.done",
                "response.completed",
            ],
        ),
    ] {
        let events = ask_for(more).await;
        let mut sent: Vec<_> = events.iter().map(|(name, _)| name.as_str()).collect();
        sent.dedup();
        assert_eq!(sent, names);
        for (at, (name, data)) in events.iter().enumerate() {
            assert_eq!(
                (&data["type"], &data["sequence_number"]),
                (&json!(name), &json!(at))
            );
        }

        let deltas = events.iter().filter(|(name, _)| name == delta);
        let text: String = deltas
            .filter_map(|(_, data)| data["delta"].as_str())
            .collect();
        let response = &events[events.len() - 1].1["response"];
        assert_eq!(response["status"], "completed");
        assert!(response["usage"]["total_tokens"].as_u64() > Some(2));
        let item = &response["output"][0];
        let whole = [&item["content"][0]["text"], &item["arguments"]];
        assert_eq!(whole.into_iter().find_map(Value::as_str), Some(&*text));
    }

    let events = ask_for(json!({ "max_output_tokens": 2 })).await;
    let (name, data) = &events[events.len() - 1];
    assert_eq!(name, "response.incomplete");
    assert_eq!(data["response"]["status"], "incomplete");
    assert_eq!(
        data["response"]["incomplete_details"]["reason"],
        "max_output_tokens"
    );
}

/// The events of a stream, by name.
fn named_events(answer: &Message) -> Vec<(String, Value)> {
    let text = String::from_utf8(answer.content()).expect("UTF-8");
    let events = text.split_terminator("\n\n").map(|event| {
        let (name, data) = event.split_once('\n').expect("two lines");
        let name = name.strip_prefix("event: ").expect("a name");
        let data = data.strip_prefix("data: ").expect("data");
        (name.to_owned(), serde_json::from_str(data).expect("JSON"))
    });
    events.collect()
}

#[tokio::test]
async fn completions_are_streamed() {
    let server = Server::demo(&[]);
    let request = json!({
        "model": "gpt-demo", "prompt": "Hello, proxy!",
        "stream": true, "stream_options": { "include_usage": true },
    });
    let mut chunks = chunks(&ask(&server, post_json("/v1/completions", &request)).await);
    let usage = chunks.pop().expect("a chunk");
    assert_eq!(usage["choices"], json!([]));
    assert!(usage["usage"]["total_tokens"].as_u64() > Some(2));
    let texts = chunks.iter().map(|chunk| {
        assert_eq!(chunk["object"], "text_completion");
        chunk["choices"][0]["text"].as_str().expect("text")
    });
    assert!(texts.collect::<String>().contains("Hello, proxy!"));
    assert_eq!(
        chunks[chunks.len() - 1]["choices"][0]["finish_reason"],
        "stop"
    );
}

/// Neither the proxy nor the mock, which are one process.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn nobody_buffers_an_upload() {
    let server = Server::demo(&[]);
    // Makes the connections that the upload uses.
    ask(
        &server,
        post_form("/v1/files", &[("purpose", "user_data")], ""),
    )
    .await;
    let before = usage::Usage::of(&server).memory;
    let length = 64 << 20;
    let file = "a".repeat(length);
    let answer = ask(
        &server,
        post_form("/v1/files", &[("purpose", "user_data")], &file),
    )
    .await;
    assert_eq!(answer.json()["bytes"], length);
    let grown = usage::peak_memory(&server) - before;
    assert!(grown < 30 << 10, "by {grown} KiB");
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
            post_json(
                "/v1/responses",
                &json!({ "model": format!("demo-{status}"), "input": "Hello" }),
            ),
            post_form(
                "/v1/audio/transcriptions",
                &[("model", &format!("demo-{status}"))],
                "",
            ),
            request("GET", &format!("/v1/models/demo-{status}"), "", ""),
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

// `/realtime`.

/// Opens a WebSocket through the proxy.
fn open_realtime(server: &Server, model: &str) -> WebSocket<TcpStream> {
    let (socket, response) = realtime(server.address, model);
    assert!(response.headers().contains_key("x-request-id"));
    socket
}

fn send(socket: &mut WebSocket<TcpStream>, event: &Value) {
    socket.send(Frame::text(event.to_string())).expect("open");
}

/// The next event, which must be of this type.
fn next(socket: &mut WebSocket<TcpStream>, expected: &str) -> Value {
    let frame = socket.read().expect("an event");
    let event: Value = serde_json::from_str(frame.to_text().expect("text")).expect("JSON");
    assert_eq!(event["type"], expected, "{event}");
    assert!(event["event_id"].is_string(), "{event}");
    event
}

/// Runs what blocks beside the server.
async fn blocking(run: impl FnOnce() + Send + 'static) {
    let run = tokio::task::spawn_blocking(run);
    crate::support::soon("the end", run)
        .await
        .expect("no panic");
}

#[tokio::test]
async fn realtime_answers_in_text() {
    let server = Server::demo(&[]);
    blocking(move || {
        let mut socket = open_realtime(&server, "gpt-realtime");
        let created = next(&mut socket, "session.created");
        let shape = json!({
            "session": {
                "type": "realtime",
                "object": "realtime.session",
                "id": "",
                "model": "gpt-realtime",
                "output_modalities": ["text"],
            },
        });
        assert_shape(&created, &shape, "event");

        let settings = json!({ "instructions": "Be brief.", "model": "other", "more": 1 });
        let update = json!({ "type": "session.update", "session": settings });
        send(&mut socket, &update);
        let session = &next(&mut socket, "session.updated")["session"];
        assert_eq!(session["instructions"], "Be brief.");
        assert_eq!(session["model"], "gpt-realtime");
        assert_eq!(session["more"], Value::Null);

        let item = json!({
            "type": "message",
            "role": "user",
            "content": [{ "type": "input_text", "text": "What is a tunnel?" }],
        });
        let create = json!({ "type": "conversation.item.create", "item": item });
        send(&mut socket, &create);
        let added = next(&mut socket, "conversation.item.added");
        assert_eq!(added["item"]["content"], item["content"]);
        assert_eq!(added["previous_item_id"], Value::Null);
        let done = next(&mut socket, "conversation.item.done");
        assert_eq!(done["item"], added["item"]);

        send(&mut socket, &json!({ "type": "response.create" }));
        let created = next(&mut socket, "response.created");
        assert_eq!(created["response"]["status"], "in_progress");
        let item = next(&mut socket, "response.output_item.added")["item"].clone();
        let added = next(&mut socket, "conversation.item.added");
        assert_eq!(added["item"], item);
        assert_eq!(added["previous_item_id"], done["item"]["id"]);
        next(&mut socket, "response.content_part.added");
        let mut said = String::new();
        let text = loop {
            let frame = socket.read().expect("an event");
            let event: Value = serde_json::from_str(frame.to_text().expect("text")).expect("JSON");
            assert_eq!(event["response_id"], created["response"]["id"]);
            assert_eq!(event["item_id"], item["id"]);
            match event["type"].as_str() {
                Some("response.output_text.delta") => {
                    said += event["delta"].as_str().expect("text");
                }
                Some("response.output_text.done") => break event["text"].clone(),
                _ => panic!("{event}"),
            }
        };
        assert!(said.contains("“What is a tunnel?”"), "{said}");
        assert_eq!(text, *said);
        next(&mut socket, "response.content_part.done");
        next(&mut socket, "conversation.item.done");
        next(&mut socket, "response.output_item.done");
        let done = next(&mut socket, "response.done");
        let shape = json!({
            "response": {
                "id": created["response"]["id"],
                "object": "realtime.response",
                "status": "completed",
                "output": [{
                    "id": item["id"],
                    "type": "message",
                    "role": "assistant",
                    "status": "completed",
                    "content": [{ "type": "output_text", "text": said }],
                }],
                "usage": { "input_tokens": 4, "output_tokens": 0, "total_tokens": 0 },
            },
        });
        assert_shape(&done, &shape, "event");
        socket.close(None).expect("open");
        while !matches!(socket.read(), Err(tungstenite::Error::ConnectionClosed)) {}
    })
    .await;
}

#[tokio::test]
async fn realtime_responses_can_be_limited_and_cancelled() {
    let server = Server::demo(&[]);
    blocking(move || {
        let mut socket = open_realtime(&server, "gpt-realtime");
        let mut until = |event: Value, expected: &str| {
            send(&mut socket, &event);
            loop {
                let frame = socket.read().expect("an event");
                let text = frame.to_text().expect("text");
                let event: Value = serde_json::from_str(text).expect("JSON");
                if event["type"] == expected {
                    break event;
                }
            }
        };
        let limited = json!({
            "type": "response.create",
            "response": { "max_output_tokens": 2, "input": [] },
        });
        let response = &until(limited, "response.done")["response"];
        assert_eq!(response["status"], "incomplete");
        assert_eq!(response["output"][0]["content"][0]["text"], "Hello from ");
        assert_eq!(response["status_details"]["reason"], "max_output_tokens");

        let create = json!({ "type": "response.create", "event_id": "e1" });
        until(create.clone(), "response.output_text.delta");
        let error = &until(create, "error")["error"];
        assert_eq!(error["code"], "conversation_already_has_active_response");
        assert_eq!(error["event_id"], "e1");
        let cancel = json!({ "type": "response.cancel" });
        let response = &until(cancel.clone(), "response.done")["response"];
        assert_eq!(response["status"], "cancelled");
        let error = &until(cancel, "error")["error"];
        assert_eq!(error["code"], "response_cancel_not_active");
        // What it can't read or doesn't know.
        for event in [
            json!({ "type": "conversation.item.create" }),
            json!({ "type": "conversation.item.create", "item": "x" }),
            json!({ "type": "no.such.event" }),
            json!([1]),
        ] {
            until(event, "error");
        }
        socket.send(Frame::text("{")).expect("open");
        assert_eq!(next(&mut socket, "error")["error"]["code"], "invalid_json");
    })
    .await;
}

#[tokio::test]
async fn realtime_gives_trouble_on_request() {
    let server = Server::demo(&[]);
    let handshake = |target: &str| crate::websocket::handshake(target, "");
    for (target, status, code) in [
        ("/v1/realtime?model=demo-401", 401, "invalid_api_key"),
        ("/v1/realtime?model=demo%2D429", 429, "rate_limit_exceeded"),
        ("/v1/realtime", 400, "missing_required_parameter"),
        ("/v1/responses", 426, "websocket_unsupported"),
    ] {
        let answer = ask(&server, handshake(target)).await;
        assert_eq!(answer.status(), status, "{target}");
        assert_eq!(answer.json()["error"]["code"], code);
    }
    blocking(move || {
        let delta = |socket: &mut WebSocket<TcpStream>| {
            loop {
                let frame = socket.read()?;
                if frame.to_text()?.contains("response.output_text.delta") {
                    return Ok::<_, tungstenite::Error>(());
                }
            }
        };
        let mut broken = open_realtime(&server, "demo-break");
        send(&mut broken, &json!({ "type": "response.create" }));
        for _ in 0..4 {
            delta(&mut broken).expect("a word");
        }
        // No close frame.
        let end = delta(&mut broken).expect_err("the end");
        assert!(
            !matches!(end, tungstenite::Error::ConnectionClosed),
            "{end}"
        );

        let mut silent = open_realtime(&server, "demo-silent");
        send(&mut silent, &json!({ "type": "response.create" }));
        delta(&mut silent).expect("a word");
        let a_moment = Some(Duration::from_millis(200));
        silent
            .get_ref()
            .set_read_timeout(a_moment)
            .expect("a socket");
        let end = delta(&mut silent).expect_err("silence");
        assert!(matches!(end, tungstenite::Error::Io(_)), "{end}");
    })
    .await;
}
