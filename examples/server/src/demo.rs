//! `--demo`: an embedded mock of the OpenAI API, good enough to develop against.
//!
//! It answers `POST /v1/chat/completions` as the API does: whole or streamed, with tool calls,
//! structured output, usage, rate-limit headers, and errors in the API's own form. There is no
//! model behind it: the text is always the same but for a piece of the user's last message.
//!
//! Any model name gets an answer, and some get trouble. The header `x-demo: 429` asks for the same
//! as the model `demo-429`, and wins.
//!
//! | model         | what happens                                                               |
//! | ------------- | -------------------------------------------------------------------------- |
//! | `demo-401`    | 401 `invalid_api_key`                                                      |
//! | `demo-404`    | 404 `model_not_found`                                                      |
//! | `demo-429`    | 429 `rate_limit_exceeded`, with `retry-after` and what is left of the limits |
//! | `demo-500`    | 500 `server_error`                                                         |
//! | `demo-break`  | the connection is cut in the middle of the body, streamed or not           |
//! | `demo-silent` | no response at all; a stream stalls after its first word                   |

use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use http_body_util::BodyExt;
use hyper::{
    Method, Request, Response,
    body::{Body, Bytes, Frame, Incoming},
    header::{self, HeaderValue},
    http::request::Parts,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Interval, MissedTickBehavior, interval, sleep},
};

const PATH: &str = "/v1/chat/completions";

/// Between two words of a stream.
const PACE: Duration = Duration::from_millis(20);

/// Starts the mock on a free loopback port of the current runtime and returns its address.
/// Serves until the runtime ends.
pub(crate) async fn start() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(connection(stream))),
                // Out of file descriptors, most likely: it passes.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    });
    Ok(address)
}

async fn connection(stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    // An error here is a client that disconnected, or a response that was meant to be cut.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await;
}

async fn answer(request: Request<Incoming>) -> Result<Response<Script>, hyper::Error> {
    let started = Instant::now();
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let mut response = match route(&head, &body).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    let processing = started.elapsed().as_millis().to_string();
    for (name, value) in [
        ("x-request-id", &*unique("req_")),
        ("openai-organization", "org-demo"),
        ("openai-processing-ms", &*processing),
        ("openai-version", "2020-10-01"),
        ("x-ratelimit-limit-requests", "10000"),
        ("x-ratelimit-limit-tokens", "2000000"),
        ("x-ratelimit-remaining-requests", "9999"),
        ("x-ratelimit-remaining-tokens", "1999900"),
        ("x-ratelimit-reset-requests", "6ms"),
        ("x-ratelimit-reset-tokens", "3ms"),
    ] {
        let value = HeaderValue::from_str(value).expect("printable");
        // What is there already is an error's own.
        response.headers_mut().entry(name).or_insert(value);
    }
    Ok(response)
}

async fn route(head: &Parts, body: &[u8]) -> Result<Response<Script>, ApiError> {
    let (method, path) = (&head.method, head.uri.path());
    if !head.headers.contains_key(header::AUTHORIZATION) && !head.headers.contains_key("api-key") {
        return Err(ApiError::new(401, None, NO_CREDENTIALS));
    }
    if path != PATH {
        let message = format!(
            "Unknown request URL: {method} {path}. Please check the URL for typos, or see the docs \
             at https://platform.openai.com/docs/api-reference/."
        );
        return Err(ApiError::new(404, Some("unknown_url"), message));
    }
    match *method {
        Method::POST => chat(head, body).await,
        Method::GET | Method::HEAD => {
            // The completions that were stored: none are.
            let none = json!({ "object": "list", "data": [], "has_more": false });
            Ok(json_response(200, &none))
        }
        _ => {
            let message = format!(
                "Not allowed to {method} on {PATH}. (HINT: Perhaps you meant to use a different \
                 HTTP method?)"
            );
            Err(ApiError::new(405, Some("method_not_supported"), message))
        }
    }
}

async fn chat(head: &Parts, body: &[u8]) -> Result<Response<Script>, ApiError> {
    let Ok(request) = serde_json::from_slice::<Value>(body) else {
        return Err(ApiError::new(400, None, NOT_JSON));
    };
    let Some(model) = request["model"].as_str().filter(|it| !it.is_empty()) else {
        let message = "you must provide a model parameter";
        return Err(ApiError::new(400, None, message));
    };
    let Some(messages) = request["messages"].as_array().filter(|it| !it.is_empty()) else {
        let message = "Missing required parameter: 'messages'.";
        let error = ApiError::new(400, Some("missing_required_parameter"), message);
        return Err(error.param("messages"));
    };
    let streamed = request["stream"] == true;

    let asked_for = match head.headers.get("x-demo") {
        Some(value) => value.to_str().unwrap_or_default(),
        None => model.strip_prefix("demo-").unwrap_or_default(),
    };
    if let Some(error) = error_asked_for(asked_for, model) {
        return Err(error);
    }
    let end = match asked_for {
        "break" => End::Broken,
        "silent" if streamed => End::Silent,
        "silent" => std::future::pending().await,
        _ => End::Complete,
    };

    let completion = Completion::new(&request, model, messages);
    if streamed {
        let include_usage = request["stream_options"]["include_usage"] == true;
        return Ok(event_stream(completion.events(include_usage), end));
    }
    let mut response = json_response(200, &completion.whole());
    if let End::Broken = end {
        response.body_mut().break_in_half();
    }
    Ok(response)
}

/// A chat completion, from which the whole answer and the streamed one are made.
struct Completion<'a> {
    id: String,
    created: u64,
    model: &'a str,
    choices: u64,
    reply: Reply,
    prompt_tokens: u64,
}

impl<'a> Completion<'a> {
    fn new(request: &Value, model: &'a str, messages: &[Value]) -> Self {
        let words = |message| text_of(message).split_whitespace().count() as u64;
        Self {
            id: unique("chatcmpl-"),
            created: since_1970().as_secs(),
            model,
            choices: request["n"].as_u64().unwrap_or(1).clamp(1, 128),
            reply: Reply::to(request, messages),
            prompt_tokens: messages.iter().map(words).sum(),
        }
    }

    fn whole(&self) -> Value {
        let choice = |index| {
            json!({
                "index": index,
                "message": self.reply.message(),
                "logprobs": null,
                "finish_reason": self.reply.finish_reason,
            })
        };
        let mut whole = self.envelope("chat.completion");
        whole["choices"] = (0..self.choices).map(choice).collect();
        whole["usage"] = self.usage();
        whole
    }

    /// The events of a stream. Several choices advance side by side.
    fn events(&self, include_usage: bool) -> VecDeque<Bytes> {
        let event = |choices: Value, usage: Value| {
            let mut chunk = self.envelope("chat.completion.chunk");
            chunk["choices"] = choices;
            if include_usage {
                chunk["usage"] = usage;
            }
            format!("data: {chunk}\n\n")
        };
        let step = |delta: Value, finish_reason: Option<&str>| {
            let choice = |index| {
                json!([{
                    "index": index,
                    "delta": delta,
                    "logprobs": null,
                    "finish_reason": finish_reason,
                }])
            };
            let events = (0..self.choices).map(|index| event(choice(index), Value::Null));
            events.collect::<String>()
        };

        let reply = &self.reply;
        let mut events = vec![step(reply.first_delta(), None)];
        events.extend(reply.pieces.iter().map(|it| step(reply.delta(it), None)));
        events.push(step(json!({}), Some(reply.finish_reason)));
        if include_usage {
            events.push(event(json!([]), self.usage()));
        }
        events.push("data: [DONE]\n\n".to_owned());
        events.into_iter().map(Bytes::from).collect()
    }

    fn envelope(&self, object: &str) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "service_tier": "default",
            "system_fingerprint": "fp_demo",
        })
    }

    /// A token is a word here.
    fn usage(&self) -> Value {
        let completion_tokens = self.choices * self.reply.pieces.len() as u64;
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
            "prompt_tokens_details": { "cached_tokens": 0 },
            "completion_tokens_details": { "reasoning_tokens": 0 },
        })
    }
}

/// What the assistant says, or the arguments of the tool it calls, in the pieces of a stream.
struct Reply {
    pieces: Vec<String>,
    /// The id of the call and the name of the function.
    call: Option<(String, String)>,
    finish_reason: &'static str,
}

impl Reply {
    fn to(request: &Value, messages: &[Value]) -> Self {
        let last = &messages[messages.len() - 1];
        let after_tool = last["role"] == "tool";
        if !after_tool && let Some(function) = function_to_call(request) {
            let name = function["name"].as_str().unwrap_or_default();
            return Self {
                pieces: pieces(&sample_json(&function["parameters"])),
                call: Some((unique("call_"), name.to_owned())),
                finish_reason: "tool_calls",
            };
        }

        let format = &request["response_format"];
        let mut pieces = pieces(&match format["type"].as_str() {
            Some("json_schema") => sample_json(&format["json_schema"]["schema"]),
            Some("json_object") => json!({ "demo": true }).to_string(),
            _ if after_tool => format!(
                "The tool answered: {} That is all I can tell, for this is the demo: a real model \
                 would now put it into words.",
                excerpt(&text_of(last)),
            ),
            _ => format!(
                "Hello from the demo! You said: {} There is no model behind this answer, but it \
                 came through the proxy just as a real one does, word by word if you asked for a \
                 stream. Put the URL and the key of a real API into the configuration, leave out \
                 --demo, and nothing else changes.",
                excerpt(&last_of_the_user(messages)),
            ),
        });
        let limits = [&request["max_completion_tokens"], &request["max_tokens"]];
        let limit = limits.into_iter().find_map(Value::as_u64);
        let limit = limit.map_or(usize::MAX, |limit| limit as usize);
        let cut_short = pieces.len() > limit;
        pieces.truncate(limit);
        Self {
            pieces,
            call: None,
            finish_reason: if cut_short { "length" } else { "stop" },
        }
    }

    fn message(&self) -> Value {
        let text = self.pieces.concat();
        let mut message = json!({
            "role": "assistant",
            "content": null,
            "refusal": null,
            "annotations": [],
        });
        match &self.call {
            None => message["content"] = text.into(),
            Some((id, name)) => message["tool_calls"] = json!([tool_call(id, name, &text)]),
        }
        message
    }

    fn first_delta(&self) -> Value {
        match &self.call {
            None => json!({ "role": "assistant", "content": "", "refusal": null }),
            Some((id, name)) => {
                let mut call = tool_call(id, name, "");
                call["index"] = 0.into();
                json!({
                    "role": "assistant",
                    "content": null,
                    "tool_calls": [call],
                    "refusal": null,
                })
            }
        }
    }

    fn delta(&self, piece: &str) -> Value {
        match &self.call {
            None => json!({ "content": piece }),
            Some(_) => {
                json!({ "tool_calls": [{ "index": 0, "function": { "arguments": piece } }] })
            }
        }
    }
}

fn tool_call(id: &str, name: &str, arguments: &str) -> Value {
    json!({
        "id": id,
        "type": "function",
        "function": { "name": name, "arguments": arguments },
    })
}

/// The function that `tool_choice` names, else the first one; none if there is none to call.
fn function_to_call(request: &Value) -> Option<&Value> {
    let choice = &request["tool_choice"];
    let chosen = &choice["function"]["name"];
    let fits = |function: &Value| match function["name"].as_str() {
        Some(name) => choice != "none" && (chosen.is_null() || chosen == name),
        None => false,
    };
    let mut functions = request["tools"]
        .as_array()?
        .iter()
        .map(|it| &it["function"]);
    functions.find(|it| fits(it))
}

/// A JSON text that satisfies a schema, roughly.
fn sample_json(schema: &Value) -> String {
    let mut sample = Sample {
        root: schema,
        budget: Sample::MOST,
    };
    sample.of(schema, "value", 0).to_string()
}

/// A value made from a schema. That of a recursive schema could have any size.
struct Sample<'a> {
    root: &'a Value,
    /// How many bytes of JSON it may still grow by.
    budget: usize,
}

impl<'a> Sample<'a> {
    const MOST: usize = 64 * 1024;
    const DEEPEST: usize = 6;

    /// `name` is that of the property the value is for.
    fn of(&mut self, schema: &'a Value, name: &str, depth: usize) -> Value {
        if depth > Self::DEEPEST {
            return Value::Null;
        }
        let depth = depth + 1;
        if let Some(reference) = schema["$ref"].as_str() {
            let definition = self.root.pointer(reference.trim_start_matches('#'));
            return self.of(definition.unwrap_or(&Value::Null), name, depth);
        }
        let given = [&schema["const"], &schema["default"], &schema["enum"][0]];
        if let Some(value) = given.into_iter().find(|it| !it.is_null()) {
            self.spend(value.to_string().len());
            return value.clone();
        }
        let first_of = [
            &schema["anyOf"][0],
            &schema["oneOf"][0],
            &schema["allOf"][0],
        ];
        if let Some(schema) = first_of.into_iter().find(|it| !it.is_null()) {
            return self.of(schema, name, depth);
        }
        let kinds = [&schema["type"], &schema["type"][0]];
        match kinds.into_iter().find_map(Value::as_str) {
            Some("string") => format!("demo {}", name.replace('_', " ")).into(),
            Some("integer") => schema["minimum"].as_i64().unwrap_or(1).into(),
            Some("number") => schema["minimum"].as_f64().unwrap_or(1.5).into(),
            Some("boolean") => true.into(),
            Some("array") => json!([self.of(&schema["items"], name, depth)]),
            Some("null") => Value::Null,
            _ => {
                let mut object = Map::new();
                for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
                    if self.budget == 0 {
                        break;
                    }
                    // The name, a value that may repeat it, and the signs around them.
                    self.spend(2 * name.len() + 10);
                    object.insert(name.clone(), self.of(schema, name, depth));
                }
                object.into()
            }
        }
    }

    fn spend(&mut self, bytes: usize) {
        self.budget = self.budget.saturating_sub(bytes);
    }
}

fn last_of_the_user(messages: &[Value]) -> String {
    let mut last_first = messages.iter().rev();
    let message = last_first.find(|it| it["role"] == "user");
    message.map(text_of).unwrap_or_default()
}

/// The text in a message, which may come in parts.
fn text_of(message: &Value) -> String {
    let content = &message["content"];
    let parts = content.as_array().into_iter().flatten();
    let texts = parts.map(|part| &part["text"]).chain([content]);
    texts
        .filter_map(Value::as_str)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The beginning of a text, in quotation marks.
fn excerpt(text: &str) -> String {
    const LONGEST: usize = 100;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("“{}…”.", &text[..end]),
        None => format!("“{text}”."),
    }
}

/// A piece is a word, or what JSON has between its signs.
fn pieces(text: &str) -> Vec<String> {
    let pieces = text.split_inclusive([' ', ',', ':']);
    pieces.map(str::to_owned).collect()
}

/// An error as the API words it.
struct ApiError {
    status: u16,
    code: Option<&'static str>,
    param: Option<&'static str>,
    message: String,
}

impl ApiError {
    fn new(status: u16, code: Option<&'static str>, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            status,
            code,
            param: None,
            message,
        }
    }

    fn param(mut self, param: &'static str) -> Self {
        self.param = Some(param);
        self
    }

    fn into_response(self) -> Response<Script> {
        let kind = match self.status {
            429 => "requests",
            500 => "server_error",
            _ => "invalid_request_error",
        };
        let headers: &[_] = match self.status {
            401 => &[("www-authenticate", "Basic realm=\"OpenAI API\"")],
            405 => &[("allow", "GET, HEAD, POST")],
            429 => &[
                ("retry-after", "1"),
                ("retry-after-ms", "1000"),
                ("x-ratelimit-limit-requests", "60"),
                ("x-ratelimit-remaining-requests", "0"),
                ("x-ratelimit-reset-requests", "1s"),
            ],
            _ => &[],
        };
        let error = json!({
            "message": self.message,
            "type": kind,
            "param": self.param,
            "code": self.code,
        });
        let mut response = json_response(self.status, &json!({ "error": error }));
        for &(name, value) in headers {
            let value = HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// The errors that can be had for the asking.
fn error_asked_for(what: &str, model: &str) -> Option<ApiError> {
    let (status, code, message) = match what {
        "401" => (401, Some("invalid_api_key"), INVALID_API_KEY.to_owned()),
        "404" => {
            let message =
                format!("The model `{model}` does not exist or you do not have access to it.");
            (404, Some("model_not_found"), message)
        }
        "429" => {
            let message = format!(
                "Rate limit reached for {model} in organization org-demo on requests per min \
                 (RPM): Limit 60, Used 60, Requested 1. Please try again in 1s. Visit \
                 https://platform.openai.com/account/rate-limits to learn more."
            );
            (429, Some("rate_limit_exceeded"), message)
        }
        "500" => (500, None, SERVER_ERROR.to_owned()),
        _ => return None,
    };
    Some(ApiError::new(status, code, message))
}

const INVALID_API_KEY: &str = "Incorrect API key provided: ********. You can find your API key at \
    https://platform.openai.com/account/api-keys.";

const NO_CREDENTIALS: &str = "You didn't provide an API key. You need to provide your API key in \
    an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY), or as the \
    password field (with blank username) if you're accessing the API from your browser and are \
    prompted for a username and password. You can obtain an API key from \
    https://platform.openai.com/account/api-keys.";

const SERVER_ERROR: &str =
    "The server had an error while processing your request. Sorry about that!";

const NOT_JSON: &str = "We could not parse the JSON body of your request. (HINT: This likely means \
    you aren't using your HTTP library correctly. The OpenAI API expects a JSON payload, but what \
    was sent was not valid JSON. If you have trouble figuring out how to fix this, please contact \
    us through our help center at help.openai.com.)";

fn json_response(status: u16, value: &Value) -> Response<Script> {
    let json = Bytes::from(format!("{value:#}\n"));
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, json.len())
        .body(Script::new([json].into(), End::Complete))
        .expect("valid")
}

fn event_stream(mut events: VecDeque<Bytes>, end: End) -> Response<Script> {
    match end {
        End::Complete => {}
        // After a few words, and never as late as the last of them.
        End::Broken => events.truncate(events.len().saturating_sub(3).min(5)),
        End::Silent => events.truncate(2),
    }
    Response::builder()
        .header(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")
        .header(header::CACHE_CONTROL, "no-cache")
        .body(Script::new(events, end))
        .expect("valid")
}

/// A body that is written out beforehand and sent piece by piece, at an even pace. It works only
/// while it is read: a client that disconnects ends it.
struct Script {
    pieces: VecDeque<Bytes>,
    pace: Interval,
    end: End,
}

/// What comes after the last piece.
enum End {
    Complete,
    /// The connection is cut.
    Broken,
    /// Nothing ever.
    Silent,
}

impl Script {
    fn new(pieces: VecDeque<Bytes>, end: End) -> Self {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { pieces, pace, end }
    }

    fn break_in_half(&mut self) {
        for piece in &mut self.pieces {
            piece.truncate(piece.len() / 2);
        }
        self.end = End::Broken;
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        ready!(self.pace.poll_tick(cx));
        match (self.pieces.pop_front(), &self.end) {
            (Some(piece), _) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            (None, End::Complete) => Poll::Ready(None),
            (None, End::Broken) => Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into()))),
            (None, End::Silent) => Poll::Pending,
        }
    }
}

fn since_1970() -> Duration {
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn unique(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}{:016x}{next:08x}", since_1970().as_nanos() as u64)
}
