//! A stand-in for the OpenAI API that costs next to nothing.
//!
//! It answers a plain request at once: about 1 KB of JSON with the request's model, and with the
//! number of the request's bytes as `prompt_tokens`. It answers `"stream": true` with events, each
//! written by itself and stamped with the time it was made; how many, and how far apart, is what
//! the system message asks for (`StreamPlan`).

use std::cell::Cell;
use std::convert::Infallible;
use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use compare_load::{StreamPlan, monotonic_ns, stamp};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::ServerSessionMemoryCache;
use tokio_rustls::rustls::{HandshakeKind, ServerConfig};

#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "127.0.0.1:9100")]
    listen: SocketAddr,
    /// The same with TLS, by the certificate and key in these files
    #[arg(long, requires_all = ["certificate", "key"])]
    listen_tls: Option<SocketAddr>,
    #[arg(long)]
    certificate: Option<PathBuf>,
    #[arg(long)]
    key: Option<PathBuf>,
}

/// What came so far; `GET /counts` tells it.
#[derive(Default)]
struct Counts {
    connections: Cell<u64>,
    handshakes: Cell<u64>,
    resumed: Cell<u64>,
    requests: Cell<u64>,
}

fn add(count: &Cell<u64>) {
    count.set(count.get() + 1);
}

/// What is looked at of a request; the rest is only counted.
const HEAD_BYTES: usize = 16 * 1024;

const DEFAULT_PLAN: StreamPlan = StreamPlan {
    chunks: 50,
    delay: Duration::ZERO,
    end_delay: Duration::ZERO,
};

fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let counts: Rc<Counts> = Rc::default();
    tokio::task::LocalSet::new().block_on(&runtime, async move {
        if let Some(address) = args.listen_tls {
            let tls = tls(&args);
            tokio::task::spawn_local(accept(listen(address)?, Some(tls), counts.clone()));
        }
        accept(listen(args.listen)?, None, counts).await;
        Ok(())
    })
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}

/// Resumes sessions as long as anybody could want.
fn tls(args: &Args) -> TlsAcceptor {
    let read = |path: &Option<PathBuf>| fs::read(path.as_ref().expect("required")).expect("a file");
    let chain = CertificateDer::pem_slice_iter(&read(&args.certificate)).collect::<Result<_, _>>();
    let key = PrivateKeyDer::from_pem_slice(&read(&args.key)).expect("a key");
    let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS");
    let mut tls = tls
        .with_no_client_auth()
        .with_single_cert(chain.expect("certificates"), key)
        .expect("a certificate and its key");
    tls.session_storage = ServerSessionMemoryCache::new(100_000);
    Arc::new(tls).into()
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, counts: Rc<Counts>) {
    loop {
        let Ok((connection, _)) = listener.accept().await else {
            continue;
        };
        let _ = connection.set_nodelay(true);
        add(&counts.connections);
        let (tls, counts) = (tls.clone(), counts.clone());
        tokio::task::spawn_local(async move {
            let Some(tls) = tls else {
                return serve(connection, counts).await;
            };
            let Ok(stream) = tls.accept(connection).await else {
                return;
            };
            add(&counts.handshakes);
            if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
                add(&counts.resumed);
            }
            serve(stream, counts).await;
        });
    }
}

async fn serve(io: impl AsyncRead + AsyncWrite + Unpin, counts: Rc<Counts>) {
    let answer = service_fn(|request| answer(request, &counts));
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(io), answer)
        .await;
}

type Answer = Response<Either<Full<Bytes>, Chunks>>;

async fn answer(request: Request<Incoming>, counts: &Counts) -> Result<Answer, hyper::Error> {
    if request.uri().path() == "/counts" {
        let counts = serde_json::json!({
            "connections": counts.connections.get(),
            "handshakes": counts.handshakes.get(),
            "resumed": counts.resumed.get(),
            "requests": counts.requests.get(),
        });
        return Ok(Response::new(Either::Left(counts.to_string().into())));
    }
    add(&counts.requests);
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
        let mut response = Response::builder();
        if memchr::memmem::find(&head, StreamPlan::CLOSE.as_bytes()).is_some() {
            response = response.header(CONNECTION, "close");
        }
        response
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
    end_at: Option<Pin<Box<Sleep>>>,
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
            end_at: None,
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
            let delay = self.plan.end_delay;
            if delay.is_zero() {
                return Poll::Ready(None);
            }
            let timer = self
                .end_at
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(delay)));
            return timer.as_mut().poll(cx).map(|()| None);
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
