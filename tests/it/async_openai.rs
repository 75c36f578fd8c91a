//! `async-openai` through the axum example: answers, streams and errors as from the API itself.

use std::process::Command;

use async_openai::{
    Client,
    config::OpenAIConfig,
    error::OpenAIError,
    types::chat::{
        ChatCompletionRequestUserMessage, CreateChatCompletionRequest,
        CreateChatCompletionRequestArgs, CreateChatCompletionStreamResponse, FinishReason,
    },
};
use tokio_stream::StreamExt;

use crate::support::{
    Backend, Server, TempFile, config_for, config_of, entry, example, nobody, soon,
};

/// The axum example with these backends, and a client of it.
fn app(config: &str) -> (Server, Client<OpenAIConfig>) {
    let config = TempFile::new("config.json", config);
    let mut command = Command::new(example("axum"));
    let app = Server::spawn(command.arg("127.0.0.1:0").arg(&config.path));
    let client = client(&app, OpenAIConfig::new());
    (app, client)
}

fn client(app: &Server, config: OpenAIConfig) -> Client<OpenAIConfig> {
    let config = config
        .with_api_base(format!("http://{}/v1", app.address))
        .with_api_key("sk-test");
    // Whatever proxy the environment names isn't meant for the loopback address.
    let http = reqwest::Client::builder().no_proxy().build();
    Client::build(http.expect("an HTTP client"), config)
}

/// The mock of the API that comes with the server example.
fn demo() -> (Server, String) {
    let demo = Server::demo(&[]);
    let config = config_of(&[entry("LLM1", demo.address, "")], "");
    (demo, config)
}

fn request(model: &str) -> CreateChatCompletionRequest {
    let message = ChatCompletionRequestUserMessage::from("Hello there");
    CreateChatCompletionRequestArgs::default()
        .model(model)
        .messages([message.into()])
        .build()
        .expect("a request")
}

fn text(chunk: &CreateChatCompletionStreamResponse) -> &str {
    let choice = chunk.choices.first();
    choice
        .and_then(|choice| choice.delta.content.as_deref())
        .unwrap_or_default()
}

#[tokio::test]
async fn an_answer_and_a_stream_say_the_same() {
    let (_demo, config) = demo();
    let (_app, client) = app(&config);

    let answer = client
        .chat()
        .create(request("gpt-4o"))
        .await
        .expect("an answer");
    assert_eq!(answer.model, "gpt-4o");
    let choice = &answer.choices[0];
    assert_eq!(choice.finish_reason, Some(FinishReason::Stop));
    let whole = choice.message.content.as_deref().expect("a text");

    let mut stream = client
        .chat()
        .create_stream(request("gpt-4o"))
        .await
        .expect("a stream");
    let (mut streamed, mut chunks, mut finish) = (String::new(), 0, None);
    while let Some(chunk) = soon("a chunk", stream.next()).await {
        let chunk = chunk.expect("a whole stream");
        streamed.push_str(text(&chunk));
        chunks += 1;
        finish = finish.or(chunk
            .choices
            .first()
            .and_then(|choice| choice.finish_reason));
    }
    assert_eq!(streamed, whole);
    assert!(chunks > 3);
    assert_eq!(finish, Some(FinishReason::Stop));
}

#[tokio::test]
async fn the_apis_errors_are_its_own() {
    let (_demo, config) = demo();
    let (_app, client) = app(&config);
    for (model, status, code) in [
        ("demo-401", 401, "invalid_api_key"),
        ("demo-404", 404, "model_not_found"),
    ] {
        let error = client.chat().create(request(model)).await.unwrap_err();
        let OpenAIError::ApiError(error) = error else {
            panic!("{model}: {error:?}");
        };
        assert_eq!(error.status_code, status);
        assert_eq!(error.api_error.code.as_deref(), Some(code));
    }
}

#[tokio::test]
async fn errors_of_the_proxys_own_are_of_the_apis_kind() {
    let (app, anyone) = app(&config_of(&[entry("LLM1", nobody().await, "")], ""));

    // Of a server's error it keeps the body as text, once it has tried again in vain.
    let error = anyone.chat().create(request("gpt-4o")).await.unwrap_err();
    let OpenAIError::ApiError(error) = error else {
        panic!("{error:?}");
    };
    assert_eq!(error.status_code, 502);
    let body: serde_json::Value = serde_json::from_str(&error.api_error.message).expect("JSON");
    assert_eq!(body["error"]["code"], "connection_refused");

    let named = OpenAIConfig::new().with_header("x-proxy-backend", "LLM9");
    let client = client(&app, named.expect("a header"));
    let error = client.chat().create(request("gpt-4o")).await.unwrap_err();
    let OpenAIError::ApiError(error) = error else {
        panic!("{error:?}");
    };
    assert_eq!(error.status_code, 404);
    let error = error.api_error;
    assert_eq!(error.code.as_deref(), Some("destination_not_found"));
    assert_eq!(error.r#type.as_deref(), Some("invalid_request_error"));
    assert!(
        error.message.contains("`X-Proxy-Backend`"),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_an_error() {
    let (_demo, config) = demo();
    let (_app, client) = app(&config);

    let stream = client
        .chat()
        .create_stream(request("demo-break"))
        .await
        .expect("a stream");
    let chunks: Vec<_> = soon("its end", stream.collect()).await;

    let (last, begun) = chunks.split_last().expect("it had begun");
    assert!(begun.iter().all(Result::is_ok) && !begun.is_empty());
    assert!(matches!(last, Err(OpenAIError::StreamError(_))), "{last:?}");
}

#[tokio::test]
async fn a_stream_that_is_dropped_ends_the_backends_request() {
    let backend = Backend::start().await;
    let (_app, client) = app(&config_for(&backend));
    let answer = tokio::spawn(async move { client.chat().create_stream(request("m")).await });
    let mut wire = backend.accept().await;
    assert_eq!(wire.request().await.json()["stream"], true);
    wire.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        .await;
    wire.send("Content-Length: 1000\r\n\r\n: silence\n\n").await;

    drop(answer.await.unwrap().expect("a stream"));

    wire.closed().await;
}
