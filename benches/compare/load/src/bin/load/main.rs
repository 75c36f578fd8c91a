//! Loads one proxy: each connection sends its next request when the last one is answered. Prints
//! what it measured as one JSON object.

mod process;
mod response;
mod stats;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use compare_load::{StreamPlan, monotonic_ns};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use process::ProcessTree;
use response::{Connection, read_response};
use serde_json::json;
use stats::Stats;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Mode {
    /// Small request, small answer, 32 connections
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
}

#[derive(Parser)]
struct Args {
    #[arg(long)]
    mode: Mode,
    #[arg(long, default_value = "127.0.0.1:9100")]
    target: SocketAddr,
    #[arg(long, default_value = "/v1/chat/completions")]
    path: String,
    /// Extra request header, `name: value`; may be repeated
    #[arg(long)]
    header: Vec<String>,
    /// Process whose CPU time and memory, with its children's, are measured
    #[arg(long)]
    proxy_pid: Option<i32>,
    /// Fake backend, to tell how busy the generating side is
    #[arg(long)]
    upstream_pid: Option<i32>,
    /// Connections, or streams
    #[arg(long)]
    connections: Option<usize>,
    #[arg(long)]
    chunks: Option<u32>,
    #[arg(long)]
    delay_us: Option<u64>,
    #[arg(long)]
    body_bytes: Option<usize>,
    /// Seconds before measuring
    #[arg(long)]
    warmup: Option<f64>,
    /// Seconds measured
    #[arg(long, default_value_t = 3.0)]
    duration: f64,
}

/// What a mode does once the command line has had its say.
struct Workload {
    connections: usize,
    stream: Option<StreamPlan>,
    body_bytes: usize,
    warmup: Duration,
    duration: Duration,
}

impl Workload {
    fn new(args: &Args) -> Self {
        let (connections, chunks, delay_us, body_bytes, warmup) = match args.mode {
            Mode::Json | Mode::Override => (32, 0, 0, 0, 0.4),
            Mode::Json1 => (1, 0, 0, 0, 0.2),
            Mode::Big | Mode::BigOverride => (4, 0, 0, 1_000_000, 0.4),
            Mode::Sse => (200, 25, 20_000, 0, 0.7),
            Mode::FastSse => (4, 500, 0, 0, 0.4),
            Mode::IdleStreams => (5_000, 1_000, 3_000_000, 0, 0.5),
        };
        Self {
            connections: args.connections.unwrap_or(connections),
            stream: (chunks > 0).then(|| StreamPlan {
                chunks: args.chunks.unwrap_or(chunks),
                delay: Duration::from_micros(args.delay_us.unwrap_or(delay_us)),
            }),
            body_bytes: args.body_bytes.unwrap_or(body_bytes),
            warmup: Duration::from_secs_f64(args.warmup.unwrap_or(warmup)),
            duration: Duration::from_secs_f64(args.duration),
        }
    }

    fn request(&self, args: &Args) -> Vec<u8> {
        let body = self.request_body();
        let extra: String = args
            .header
            .iter()
            .map(|line| format!("{line}\r\n"))
            .collect();
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: compare\r\n\
             Accept: application/json\r\nContent-Type: application/json\r\n\
             Authorization: Bearer sk-bench-0123456789abcdef0123456789abcdef\r\n\
             {extra}Content-Length: {}\r\n\r\n",
            args.path,
            args.target,
            body.len()
        );
        [head.as_bytes(), body.as_bytes()].concat()
    }

    fn request_body(&self) -> String {
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
        let plan = self.stream.map_or(String::new(), |plan| plan.as_text());
        format!(
            "{{\"model\":\"gpt-4o-mini\",\"stream\":{},\"temperature\":0.7,\
             \"max_tokens\":256,\"messages\":[{{\"role\":\"system\",\"content\":\
             \"You are a helpful assistant. {plan}\"}},{{\"role\":\"user\",\
             \"content\":{content}}}]}}",
            self.stream.is_some()
        )
    }
}

type Shared = Rc<RefCell<Stats>>;

fn main() {
    let args = Args::parse();
    raise_open_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    let report = tokio::task::LocalSet::new().block_on(&runtime, measure(&args));
    println!("{report}");
    std::process::exit(0); // open streams are dropped here, not drained
}

async fn measure(args: &Args) -> serde_json::Value {
    let workload = Workload::new(args);
    let request: Rc<[u8]> = workload.request(args).into();
    let stats: Shared = Rc::new(RefCell::new(Stats::new()));
    let proxy = args.proxy_pid.map(ProcessTree::of);
    let memory_before = proxy.as_ref().map(ProcessTree::memory);

    if args.mode == Mode::IdleStreams {
        open_streams(args.target, &workload, &request, &stats).await;
    } else {
        start_clients(args.target, &workload, &request, &stats);
    }
    sleep(workload.warmup).await;

    // Children may have been started meanwhile.
    let proxy = args.proxy_pid.map(ProcessTree::of);
    let generators = ProcessTree::from_pids(
        args.upstream_pid
            .into_iter()
            .chain([std::process::id() as i32])
            .collect(),
    );
    let cpu = |tree: &Option<ProcessTree>| tree.as_ref().map_or(0, ProcessTree::cpu_ns);
    let (proxy_cpu, generator_cpu) = (cpu(&proxy), generators.cpu_ns());
    stats.borrow_mut().recording = true;
    let started = monotonic_ns();
    sleep(workload.duration).await;
    let seconds = (monotonic_ns() - started) as f64 / 1e9;
    let proxy_cpu_us = (cpu(&proxy) - proxy_cpu) as f64 / 1e3;
    let generator_cpu_us = (generators.cpu_ns() - generator_cpu) as f64 / 1e3;

    let mut stats = stats.borrow_mut();
    stats.recording = false;
    let mut report = stats.report(seconds);
    report["mode"] = json!(
        args.mode
            .to_possible_value()
            .expect("not skipped")
            .get_name()
    );
    report["connections"] = json!(workload.connections);
    report["generator_busy"] = json!(generator_cpu_us / 1e6 / seconds);
    if let (Some(proxy), Some(before)) = (proxy, memory_before) {
        let per = |count: u64| (count > 0).then(|| proxy_cpu_us / count as f64);
        let memory = proxy.memory();
        let streams = stats.open_streams;
        report["proxy"] = json!({
            "busy": proxy_cpu_us / 1e6 / seconds,
            "cpu_us_per_request": per(stats.requests),
            "cpu_us_per_chunk": per(stats.chunks),
            "rss_kb_before": before.rss_kb,
            "rss_kb": memory.rss_kb,
            "rss_kb_peak": memory.peak_kb,
            "rss_kb_per_stream": (args.mode == Mode::IdleStreams && streams > 0)
                .then(|| (memory.rss_kb as f64 - before.rss_kb as f64) / streams as f64),
        });
    }
    report
}

/// Each client sends its next request when the last one is answered. Streaming clients start
/// spread over the first stream's length, so that streams do not march in step.
fn start_clients(target: SocketAddr, workload: &Workload, request: &Rc<[u8]>, stats: &Shared) {
    let spread = workload
        .stream
        .map_or(Duration::ZERO, |plan| plan.delay * plan.chunks);
    for client in 0..workload.connections {
        let start = spread * client as u32 / workload.connections as u32;
        let (request, stats) = (request.clone(), stats.clone());
        tokio::task::spawn_local(async move {
            sleep(start).await;
            loop {
                if let Err(error) = run_client(target, &request, &stats).await {
                    stats.borrow_mut().error(error);
                    sleep(Duration::from_millis(10)).await;
                }
            }
        });
    }
}

/// Requests on one connection until the connection ends.
async fn run_client(target: SocketAddr, request: &[u8], stats: &Shared) -> Result<(), String> {
    let mut connection = connect(target).await?;
    while exchange(&mut connection, request, stats).await? {}
    Ok(())
}

async fn connect(target: SocketAddr) -> Result<Connection, String> {
    let socket = TcpStream::connect(target)
        .await
        .map_err(|e| format!("connect: {e}"))?;
    socket
        .set_nodelay(true)
        .map_err(|e| format!("connect: {e}"))?;
    Ok(Connection::new(socket))
}

/// One request and its answer; says whether the connection can be used again.
async fn exchange(
    connection: &mut Connection,
    request: &[u8],
    stats: &Shared,
) -> Result<bool, String> {
    let sent = monotonic_ns();
    connection
        .socket
        .write_all(request)
        .await
        .map_err(|e| format!("send: {e}"))?;
    let reusable = read_response(connection, sent, stats).await?;
    stats.borrow_mut().request_done(monotonic_ns() - sent);
    Ok(reusable)
}

/// Opens all streams, at most 100 at a time, and waits until each has sent its first event
/// (or 20 seconds have passed).
async fn open_streams(target: SocketAddr, workload: &Workload, request: &Rc<[u8]>, stats: &Shared) {
    stats.borrow_mut().recording = true; // times to first event belong to the opening
    let opening = Arc::new(tokio::sync::Semaphore::new(100));
    let deadline = Instant::now() + Duration::from_secs(20);
    for _ in 0..workload.connections {
        let Ok(Ok(permit)) =
            tokio::time::timeout_at(deadline, opening.clone().acquire_owned()).await
        else {
            break;
        };
        let (request, stats) = (request.clone(), stats.clone());
        tokio::task::spawn_local(async move {
            let outcome = async {
                let mut connection = connect(target).await?;
                connection.opening = Some(permit);
                exchange(&mut connection, &request, &stats).await
            };
            let outcome: Result<bool, String> = outcome.await;
            let message = outcome
                .err()
                .unwrap_or_else(|| "stream ended early".to_owned());
            stats.borrow_mut().error(message);
        });
    }
    let _ = tokio::time::timeout_at(deadline, opening.acquire_many(100)).await;
    stats.borrow_mut().start_again();
}

/// As many open files as the system lets us have.
fn raise_open_file_limit() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
}
