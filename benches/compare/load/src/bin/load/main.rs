//! Loads one proxy: each connection sends its next request when the last one is answered. Prints
//! what it measured as one JSON object.

mod client;
mod http2;
mod pace;
mod process;
mod response;
mod stats;
mod workload;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use client::{Client, Target};
use compare_load::monotonic_ns;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pace::Pace;
use process::ProcessTree;
use serde_json::json;
use stats::Stats;
use tokio::time::{Instant, sleep};
use workload::{Clients, Mode, Request, Workload};

#[derive(Parser)]
struct Args {
    #[arg(long)]
    mode: Mode,
    #[arg(long, default_value = "127.0.0.1:9100")]
    target: SocketAddr,
    /// What clients speak
    #[arg(long, default_value = "plain")]
    clients: Clients,
    /// Whom they trust with TLS: a certificate in PEM form
    #[arg(long)]
    authority: Option<PathBuf>,
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
    /// Requests a second; default: each client's next when the last is answered
    #[arg(long)]
    rate: Option<f64>,
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

type Shared = Rc<RefCell<Stats>>;

/// Above these the delays would be those of the load client and the backend, which share a core.
const MAX_RATE: f64 = 15_000.0;
const MAX_STREAMS: usize = 500;

/// Of HTTP/2.
const STREAMS_A_CONNECTION: usize = 100;

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
    let mut workload = Workload::new(args);
    let stats: Shared = Rc::new(RefCell::new(Stats::new()));
    let resumes = args.mode == Mode::Resume;
    let authority = args.authority.as_deref();
    let target = Target::new(args.target, args.clients, authority, resumes, stats.clone());
    let clients = Factory {
        clients: args.clients,
        target: Rc::new(target),
        request: Rc::new(Request::new(args, &workload)),
    };
    let pace: Rc<Pace> = Rc::default();
    let proxy = args.proxy_pid.map(ProcessTree::of);
    let memory_before = proxy.as_ref().map(ProcessTree::memory);

    if args.mode == Mode::IdleStreams {
        open_streams(&clients, &workload, &stats).await;
    } else {
        start_clients(&clients, &workload, &stats, &pace);
    }
    let mut rate = args.rate;
    let cpu = |tree: &Option<ProcessTree>| tree.as_ref().map_or(0, ProcessTree::cpu_ns);
    if matches!(args.mode, Mode::HalfJson | Mode::HalfSse) {
        // What the proxy can do is what it does, divided by how busy it is.
        sleep(workload.warmup / 2).await;
        let (started, cpu_before) = (monotonic_ns(), cpu(&proxy));
        stats.borrow_mut().recording = true;
        sleep(workload.warmup / 2).await;
        let seconds = (monotonic_ns() - started) as f64 / 1e9;
        let busy = (cpu(&proxy) - cpu_before) as f64 / 1e9 / seconds;
        let requests = stats.borrow().requests as f64;
        stats.borrow_mut().start_again();
        if args.mode == Mode::HalfJson {
            rate = Some((requests / seconds * 0.5 / busy).min(MAX_RATE));
        } else {
            let started = workload.connections;
            let streams = (started as f64 * 0.5 / busy) as usize;
            let more = streams.clamp(started, MAX_STREAMS) - started;
            workload.connections = more;
            start_clients(&clients, &workload, &stats, &pace);
            workload.connections += started;
        }
    }
    if let Some(rate) = rate {
        pace.set(rate).await;
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
    report["rate"] = json!(rate);
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

/// Makes clients that share what they send, and with HTTP/2 connections as well.
struct Factory {
    clients: Clients,
    target: Rc<Target>,
    request: Rc<Request>,
}

impl Factory {
    fn make(&self, count: usize) -> impl Iterator<Item = Client> + '_ {
        let mut shared = Rc::new(http2::Connection::new(self.target.clone()));
        (0..count).map(move |number| {
            let (target, request) = (self.target.clone(), self.request.clone());
            if self.clients != Clients::H2 {
                return Client::http1(target, request);
            }
            if number % STREAMS_A_CONNECTION == 0 {
                shared = Rc::new(http2::Connection::new(target.clone()));
            }
            Client::http2(shared.clone(), target, request)
        })
    }
}

/// Each client sends its next request when the last one is answered, or at the pace that is set.
/// Streaming clients start spread over the first stream's length, so that streams do not march in
/// step.
fn start_clients(clients: &Factory, workload: &Workload, stats: &Shared, pace: &Rc<Pace>) {
    let spread = workload
        .stream
        .map_or(Duration::ZERO, |plan| plan.delay * plan.chunks);
    for (number, mut client) in clients.make(workload.connections).enumerate() {
        let start = spread * number as u32 / workload.connections as u32;
        let (stats, pace) = (stats.clone(), pace.clone());
        tokio::task::spawn_local(async move {
            sleep(start).await;
            loop {
                let due = pace.next().await;
                if let Err(error) = client.exchange(due, None).await {
                    stats.borrow_mut().error(error);
                    sleep(Duration::from_millis(10)).await;
                }
            }
        });
    }
}

/// Opens all streams, at most 100 at a time, and waits until each has sent its first event
/// (or 20 seconds have passed).
async fn open_streams(clients: &Factory, workload: &Workload, stats: &Shared) {
    stats.borrow_mut().recording = true; // times to first event belong to the opening
    let opening = Arc::new(tokio::sync::Semaphore::new(100));
    let deadline = Instant::now() + Duration::from_secs(20);
    for mut client in clients.make(workload.connections) {
        let Ok(Ok(permit)) =
            tokio::time::timeout_at(deadline, opening.clone().acquire_owned()).await
        else {
            break;
        };
        let stats = stats.clone();
        tokio::task::spawn_local(async move {
            let outcome = client.exchange(None, Some(permit)).await;
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
