//! What each mode sends, how much of it, and what its clients do with the answer.

use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use compare_load::StreamPlan;
use hyper::http;

use crate::Args;

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Mode {
    /// Small request, small answer, 32 connections; or 400 streams of HTTP/2
    Json,
    /// The same on one connection: latency without queueing
    Json1,
    /// As json, meant for a proxy that rewrites the model
    Override,
    /// Requests of 1 MB (an inline image), 4 connections
    Big,
    /// As big, meant for a proxy that rewrites the model
    BigOverride,
    /// 200 streams of 25 chunks, 20 ms apart
    Sse,
    /// 4 streams as fast as they go
    FastSse,
    /// Opens many slow streams, then holds them
    IdleStreams,
    /// As json, on a new connection for each request
    Connect,
    /// The same; with TLS, each resumes the session of an earlier one
    Resume,
    /// As json, and the backend closes its connection behind each answer
    Reconnect,
    /// Streams on a new connection each, which is closed right behind `data: [DONE]`
    Impatient,
    /// As json, at half the rate that the proxy's core can do
    HalfJson,
    /// As sse, with half the streams that the proxy's core can do
    HalfSse,
}

/// What clients speak.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Clients {
    Plain,
    Tls,
    /// HTTP/2 over TLS, 100 streams on each connection
    H2,
}

/// What a mode does once the command line has had its say.
pub struct Workload {
    pub connections: usize,
    pub stream: Option<StreamPlan>,
    pub warmup: Duration,
    pub duration: Duration,
    body_bytes: usize,
    closes: bool,
}

impl Workload {
    pub fn new(args: &Args) -> Self {
        let is_h2 = args.clients == Clients::H2;
        let (connections, chunks, delay_us, body_bytes, warmup) = match args.mode {
            Mode::Json | Mode::Override if is_h2 => (400, 0, 0, 0, 0.4),
            Mode::Json | Mode::Override => (32, 0, 0, 0, 0.4),
            Mode::Json1 => (1, 0, 0, 0, 0.2),
            Mode::Big | Mode::BigOverride => (4, 0, 0, 1_000_000, 0.4),
            Mode::Sse => (200, 25, 20_000, 0, 0.7),
            Mode::FastSse => (4, 500, 0, 0, 0.4),
            Mode::IdleStreams => (5_000, 1_000, 3_000_000, 0, 0.5),
            Mode::Connect | Mode::Resume | Mode::Reconnect => (8, 0, 0, 0, 0.4),
            Mode::Impatient => (16, 5, 2_000, 0, 0.4),
            Mode::HalfJson => (32, 0, 0, 0, 0.6),
            Mode::HalfSse => (100, 25, 20_000, 0, 1.0),
        };
        Self {
            connections: args.connections.unwrap_or(connections),
            stream: (chunks > 0).then(|| StreamPlan {
                chunks: args.chunks.unwrap_or(chunks),
                delay: Duration::from_micros(args.delay_us.unwrap_or(delay_us)),
                // So that its clients are gone by then.
                end_delay: Duration::from_millis(5 * u64::from(args.mode == Mode::Impatient)),
            }),
            body_bytes: args.body_bytes.unwrap_or(body_bytes),
            closes: args.mode == Mode::Reconnect,
            warmup: Duration::from_secs_f64(args.warmup.unwrap_or(warmup)),
            duration: Duration::from_secs_f64(args.duration),
        }
    }

    fn body(&self) -> String {
        let question = "What is a reverse proxy, and why would I put one before an LLM?";
        let content = if self.body_bytes == 0 {
            format!("\"{question}\"")
        } else {
            let image = "iVBORw0KGgo".repeat(self.body_bytes / 11 + 1);
            format!(
                "[{{\"type\":\"text\",\"text\":\"{question}\"}},{{\"type\":\"image_url\",\
                 \"image_url\":{{\"url\":\"data:image/png;base64,{}\"}}}}]",
                &image[..self.body_bytes / 4 * 4]
            )
        };
        let mut plan = self.stream.map_or(String::new(), |plan| plan.as_text());
        if self.closes {
            plan += StreamPlan::CLOSE;
        }
        format!(
            "{{\"model\":\"gpt-4o-mini\",\"stream\":{},\"temperature\":0.7,\
             \"max_tokens\":256,\"messages\":[{{\"role\":\"system\",\"content\":\
             \"You are a helpful assistant. {plan}\"}},{{\"role\":\"user\",\
             \"content\":{content}}}]}}",
            self.stream.is_some()
        )
    }
}

/// One request, as both versions of HTTP need it, and what its client does.
pub struct Request {
    pub http1: Vec<u8>,
    pub http2: http::Request<()>,
    pub body: Bytes,
    /// Whether its connection is used for the next one as well.
    pub keeps: bool,
    /// Whether the answer is left behind `data: [DONE]`.
    pub leaves: bool,
}

impl Request {
    pub fn new(args: &Args, workload: &Workload) -> Self {
        let body = workload.body();
        let fields = [
            ("user-agent", "compare"),
            ("accept", "application/json"),
            ("content-type", "application/json"),
            (
                "authorization",
                "Bearer sk-bench-0123456789abcdef0123456789abcdef",
            ),
        ];
        let extra = args.header.iter().filter_map(|line| line.split_once(": "));
        let length = body.len().to_string();
        let mut http1 = format!("POST {} HTTP/1.1\r\nhost: {}\r\n", args.path, args.target);
        let uri = format!("https://{}{}", args.target, args.path);
        let mut http2 = http::Request::post(uri);
        for (name, value) in fields
            .into_iter()
            .chain(extra)
            .chain([("content-length", &*length)])
        {
            http1 += &format!("{name}: {value}\r\n");
            http2 = http2.header(name, value);
        }
        http1 += &format!("\r\n{body}");
        Self {
            http1: http1.into_bytes(),
            http2: http2.body(()).expect("valid request"),
            body: body.into(),
            keeps: !matches!(args.mode, Mode::Connect | Mode::Resume | Mode::Impatient),
            leaves: args.mode == Mode::Impatient,
        }
    }
}
