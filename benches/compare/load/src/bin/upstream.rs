//! A stand-in for the OpenAI API that costs next to nothing.
//!
//! It answers a plain request at once: about 1 KB of JSON with the request's model, and with the
//! number of the request's bytes as `prompt_tokens`. It answers `"stream": true` with events, each
//! written by itself and stamped with the time it was made; how many, and how far apart, is what
//! the system message asks for (`StreamPlan`).

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use compare_load::{StreamPlan, monotonic_ns, stamp};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, Sleep};

#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "127.0.0.1:9100")]
    listen: SocketAddr,
}

/// What is looked at of a request; the rest is only counted.
const HEAD_BYTES: usize = 16 * 1024;

const DEFAULT_PLAN: StreamPlan = StreamPlan {
    chunks: 50,
    delay: Duration::ZERO,
};

fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(args.listen)?;
        let listener = socket.listen(4096)?;
        loop {
            let Ok((connection, _)) = listener.accept().await else {
                continue;
            };
            connection.set_nodelay(true)?;
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(connection), service_fn(answer)),
            );
        }
    })
}

type Answer = Response<Either<Full<Bytes>, Chunks>>;

async fn answer(request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    let mut body = request.into_body();
    let mut head = Vec::new();
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        let Some(data) = frame?.into_data().ok() else {
            continue;
        };
        total += data.len();
        head.extend_from_slice(&data[..data.len().min(HEAD_BYTES - head.len())]);
    }
    let model = string_field(&head, b"\"model\"").unwrap_or("gpt-4o-mini");
    Ok(if is_true(&head, b"\"stream\"") {
        let plan = StreamPlan::find(&head).unwrap_or(DEFAULT_PLAN);
        Response::builder()
            .header(CONTENT_TYPE, "text/event-stream; charset=utf-8")
            .header("cache-control", "no-cache")
            .header("x-request-id", REQUEST_ID)
            .body(Either::Right(Chunks::new(model, plan)))
    } else {
        Response::builder()
            .header(CONTENT_TYPE, "application/json")
            .header("x-request-id", REQUEST_ID)
            .header("openai-processing-ms", "1")
            .body(Either::Left(Full::new(completion(model, total).into())))
    }
    .expect("valid response"))
}

/// The text after `"name"`, blanks and a colon. Enough for the requests of this benchmark.
fn value_of<'a>(json: &'a [u8], quoted_name: &[u8]) -> Option<&'a [u8]> {
    let after = memchr::memmem::find(json, quoted_name)? + quoted_name.len();
    json[after..]
        .trim_ascii_start()
        .strip_prefix(b":")
        .map(<[u8]>::trim_ascii_start)
}

fn string_field<'a>(json: &'a [u8], quoted_name: &[u8]) -> Option<&'a str> {
    let value = value_of(json, quoted_name)?.strip_prefix(b"\"")?;
    std::str::from_utf8(&value[..memchr::memchr(b'"', value)?]).ok()
}

fn is_true(json: &[u8], quoted_name: &[u8]) -> bool {
    value_of(json, quoted_name).is_some_and(|value| value.starts_with(b"true"))
}

const REQUEST_ID: &str = "req_7f1c9a5e3b2d4c6f8a0b1c2d3e4f5a6b";
const ID: &str = "chatcmpl-BkZ9mQ2vX7rT4nW8yL3pJ6sD1fG5h";
const ANSWER: &str = "A reverse proxy sits between clients and one or more backends. It accepts \
    each request, chooses a backend, passes the request on, and returns the answer as if it had \
    made it itself. That lets you balance load, retry elsewhere when a backend fails, keep \
    connections warm, and put authentication and limits in one place, without the clients \
    knowing how many backends there are or where they run.";

fn completion(model: &str, request_bytes: usize) -> String {
    format!(
        "{{\n  \"id\": \"{ID}\",\n  \"object\": \"chat.completion\",\n  \
         \"created\": 1750000000,\n  \"model\": \"{model}\",\n  \"choices\": [\n    {{\n      \
         \"index\": 0,\n      \"message\": {{\n        \"role\": \"assistant\",\n        \
         \"content\": \"{ANSWER}\",\n        \"refusal\": null,\n        \"annotations\": []\n      \
         }},\n      \"logprobs\": null,\n      \"finish_reason\": \"stop\"\n    }}\n  ],\n  \
         \"usage\": {{\n    \"prompt_tokens\": {request_bytes},\n    \"completion_tokens\": 74,\n    \
         \"total_tokens\": {},\n    \"prompt_tokens_details\": {{\n      \"cached_tokens\": 0,\n      \
         \"audio_tokens\": 0\n    }}\n  }},\n  \"service_tier\": \"default\",\n  \
         \"system_fingerprint\": \"fp_44added55e\"\n}}\n",
        request_bytes + 74
    )
}

/// The body of a streamed answer: a role chunk at once, `plan.chunks` stamped chunks, a finish
/// chunk and `[DONE]`.
struct Chunks {
    before_delta: String,
    plan: StreamPlan,
    sent: u32,
    next_at: Option<Pin<Box<Sleep>>>,
    flush_first: bool,
}

impl Chunks {
    fn new(model: &str, plan: StreamPlan) -> Self {
        Self {
            before_delta: format!(
                "data: {{\"id\":\"{ID}\",\"object\":\"chat.completion.chunk\",\
                 \"created\":1750000000,\"model\":\"{model}\",\"service_tier\":\"default\",\
                 \"system_fingerprint\":\"fp_44added55e\",\"choices\":[{{\"index\":0,\"delta\":"
            ),
            plan,
            sent: 0,
            next_at: None,
            flush_first: false,
        }
    }

    fn chunk(&self, delta: &str, finish_reason: &str) -> String {
        format!(
            "{}{delta},\"logprobs\":null,\"finish_reason\":{finish_reason}}}]}}\n\n",
            self.before_delta
        )
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // hyper writes out what it has whenever the body is pending: one write for each chunk.
        if std::mem::take(&mut self.flush_first) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let last = self.plan.chunks + 1;
        if self.sent > last {
            return Poll::Ready(None);
        }
        if !self.plan.delay.is_zero() && (1..last).contains(&self.sent) {
            let delay = self.plan.delay;
            let timer = self
                .next_at
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(delay)));
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let next = (timer.deadline() + delay).max(Instant::now());
            timer.as_mut().reset(next);
        }
        let text = match self.sent {
            0 => self.chunk(
                "{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null}",
                "null",
            ),
            sent if sent == last => self.chunk("{}", "\"stop\"") + "data: [DONE]\n\n",
            _ => {
                let content = stamp::text(monotonic_ns());
                self.chunk(&format!("{{\"content\":\"{content} word\"}}"), "null")
            }
        };
        self.sent += 1;
        self.flush_first = self.plan.delay.is_zero();
        Poll::Ready(Some(Ok(Frame::data(text.into()))))
    }
}
